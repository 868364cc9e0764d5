"""Bare kernel work, cni-box and the reference plugins side by side, in one run; prints a table.

Called by scripts/bench.sh inside namespaces of its own. Nothing is asserted about time: a call that fails is the only failure.
The three take turns, in an order that rotates, so that whatever else the machine does hits them alike.

    run.py DIRECTORY [--rounds N]       DIRECTORY holds the compiled `bare` and `spawn`
"""

import argparse
import ipaddress
import json
import os
import platform
import re
import statistics
import subprocess
import sys
import time
from pathlib import Path

WORK = Path("/run/bench")
PLUGINS = WORK / "bin"
RESERVED = (0, 1000, 20000)


class Failed(Exception):
    """A call that should have worked did not."""


class Spawner:
    """Starts commands through the small C program, which does the measuring."""

    def __init__(self, *program):
        self.process = subprocess.Popen(program, stdin=subprocess.PIPE, stdout=subprocess.PIPE)

    def run(self, argv, env, stdin):
        given, answer = WORK / "stdin", WORK / "stdout"
        given.write_text(stdin)
        fields = [given, answer, *(f"{k}={v}" for k, v in env.items()), "", *argv, ""]
        self.process.stdin.write(b"".join(os.fsencode(f) + b"\0" for f in fields))
        self.process.stdin.flush()
        cost = json.loads(self.process.stdout.readline())
        if cost["status"] != 0:
            settings = [f"{k}={v}" for k, v in env.items() if k.startswith("CNI_")]
            raise Failed(f"{' '.join(map(str, [*settings, *argv]))}: exit status {cost['status']}\n{answer.read_text()}")
        return cost


# --- who is measured ---------------------------------------------------------------------------------------------------


class Bare:
    """The same kernel requests from a C program."""

    name = "bare"

    def __init__(self, program, number):
        self.program, self.bridge, self.net = program, f"br{number}", f"10.{100 + number}"
        self.netns = new_netns(f"bench{number}")
        ip("link", "add", self.bridge, "up", "type", "bridge")
        ip("addr", "add", f"{self.net}.0.1/16", "brd", "+", "dev", self.bridge)

    def call(self, verb):
        if verb == "DEL":
            return [self.program, "del", self.netns, "eth0"], {}, ""
        words = [self.bridge, "vethbare", "eth0", f"{self.net}.0.2/16", f"{self.net}.0.1"]
        return [self.program, "add", self.netns, *words], {}, ""


class Bridge:
    """A bridge plugin with host-local, in its own network and bridge."""

    def __init__(self, name, plugins, number, masquerade):
        self.name, self.plugins, self.netns = name, plugins, new_netns(f"bench{number}")
        self.config = json.dumps({
            "cniVersion": "1.0.0", "name": f"bench{number}", "type": "bridge", "bridge": f"br{number}",
            "isDefaultGateway": True, "ipMasq": masquerade,
            "ipam": {"type": "host-local", "subnet": f"10.{100 + number}.0.0/16", "dataDir": str(WORK / "networks")},
        })

    def call(self, verb):
        return [self.plugins / "bridge"], protocol(verb, self.plugins, "bench", self.netns), self.config


class HostLocal:
    """host-local alone, with a number of addresses taken beforehand."""

    def __init__(self, name, plugins, reserved):
        self.name, self.plugins, self.calls = name, plugins, 0
        data = WORK / f"reserved-{name}-{reserved}"
        self.config = json.dumps({
            "cniVersion": "1.0.0", "name": "bench", "type": "bridge",
            "ipam": {"type": "host-local", "subnet": "10.0.0.0/16", "dataDir": str(data)},
        })
        reserve(data / "bench", reserved)

    def call(self, verb):
        self.calls += verb == "ADD"
        env = protocol(verb, self.plugins, f"bench{self.calls}", "/run/bench/no-netns")
        return [self.plugins / "host-local"], env, self.config


def protocol(verb, plugins, container, netns):
    return {"CNI_COMMAND": verb, "CNI_CONTAINERID": container, "CNI_NETNS": netns, "CNI_IFNAME": "eth0",
            "CNI_PATH": plugins, "PATH": os.environ["PATH"]}


def reserve(store, count):
    """What the plugins leave in the store after `count` ADDs."""
    store.mkdir(parents=True)
    first = ipaddress.IPv4Address("10.0.0.2")
    for n in range(count):
        (store / str(first + n)).write_text(f"earlier{n}\r\neth0")
    if count:
        (store / "last_reserved_ip.0").write_text(str(first + count - 1))


def ip(*words):
    subprocess.run(["ip", *words], check=True)


def new_netns(name):
    ip("netns", "add", name)
    return f"/run/netns/{name}"


def answers(plugin):
    """Whether that applet is there: ours may be a binary under construction."""
    env = {"CNI_COMMAND": "VERSION", "PATH": os.environ["PATH"]}
    try:
        done = subprocess.run([plugin], env=env, input='{"cniVersion":"1.0.0"}', capture_output=True, text=True)
        return "supportedVersions" in json.loads(done.stdout)
    except (OSError, ValueError):
        return False


# --- measuring ---------------------------------------------------------------------------------------------------------


def rounds(spawner, runners, count, warm_up=3):
    """Every runner's ADD and DEL in each round. Returns {runner: {verb: [cost]}}."""
    costs = {runner: {"ADD": [], "DEL": []} for runner in runners}
    for n in range(-warm_up, count):
        turn = n % len(runners)
        for runner in runners[turn:] + runners[:turn]:
            for verb in ("ADD", "DEL"):
                # The kernel goes on tidying up after a link is gone; that is not the next one's cost.
                time.sleep(0.01)
                cost = spawner.run(*runner.call(verb))
                if n >= 0:
                    costs[runner][verb].append(cost)
    return costs


def middle(costs, of):
    return statistics.median(of(c) for c in costs)


def wall(costs):
    return middle(costs, lambda c: c["wall_ns"] / 1000)


def cpu(costs):
    return middle(costs, lambda c: c["user_us"] + c["sys_us"])


def trace(args, runner):
    """Counts what one ADD starts, asks and takes: {"processes", "syscalls", "peak"}."""
    weigher = Spawner(args.directory / "spawn", "peak")
    peak = weigher.run(*runner.call("ADD"))["peak_kb"]
    weigher.run(*runner.call("DEL"))
    argv, env, stdin = runner.call("ADD")
    log = WORK / "strace"
    subprocess.run(["strace", "-f", "-qq", "-o", log, *argv], env=env, input=stdin, text=True, check=True,
                   stdout=subprocess.DEVNULL)
    argv, env, stdin = runner.call("DEL")
    subprocess.run(argv, env=env, input=stdin, text=True, check=True, stdout=subprocess.DEVNULL)
    lines = [line.split(None, 1)[1] for line in log.read_text().splitlines()]
    calls = [line for line in lines if re.match(r"[a-z_0-9]+\(", line)]
    # A new thread is no new process. An interrupted line carries the flags too, its second half does not.
    forks = [c for c in calls if re.match(r"(clone3?|v?fork)\(", c) and "CLONE_THREAD" not in c]
    return {"processes": 1 + len(forks), "syscalls": len(calls), "peak": peak}


# --- the table ---------------------------------------------------------------------------------------------------------


class Table:
    head = ("one call", "bare kernel", "cni-box", "reference", "cni-box / bare", "reference / cni-box", "wanted", "met")

    def __init__(self):
        self.rows = []

    def add(self, what, unit, bare=None, ours=None, theirs=None, wanted="", met=None):
        shown = [f"{v:,.0f}{unit}" if v is not None else "-" for v in (bare, ours, theirs)]
        self.rows.append((what, *shown, ratio(ours, bare), ratio(theirs, ours), wanted,
                          "" if met is None else "yes" if met else "NO"))

    def show(self):
        width = [max(len(row[i]) for row in [self.head, *self.rows]) for i in range(len(self.head))]
        left = (0, len(self.head) - 2)
        for row in [self.head, None, *self.rows]:
            cells = ("-" * w for w in width) if row is None else (
                text.ljust(w) if i in left else text.rjust(w) for i, (text, w) in enumerate(zip(row, width)))
            print("| " + " | ".join(cells) + " |")


def ratio(a, b):
    return f"{a / b:.2f} x" if a is not None and b else "-"


def within(a, limit, b=1):
    """None where there is nothing to compare."""
    return None if a is None or b is None else a <= limit * b


def kernel_rows(table, spawner, args, plugins):
    plain = {name: Bridge(name, path, 20 + n, False) for n, (name, path) in enumerate(plugins.items())}
    masked = {name: Bridge(name, path, 30 + n, True) for n, (name, path) in enumerate(plugins.items())}
    bare = Bare(args.directory / "bare", 10)
    costs = rounds(spawner, [bare, *plain.values(), *masked.values()], args.rounds)

    def of(runners, verb, measure):
        return {name: measure(costs[runner][verb]) for name, runner in runners.items()}

    for runners, text in ((plain, "bridge + host-local"), (masked, "the same with ipMasq")):
        floor = bare if runners is plain else None
        for verb in ("ADD", "DEL"):
            for measure, unit, what in ((wall, " µs", ""), (cpu, " µs", ", CPU")):
                got = of(runners, verb, measure)
                low = measure(costs[floor][verb]) if floor else None
                ours, theirs = got.get("cni-box"), got.get("reference")
                wanted, met = "", None
                if (verb, what) == ("ADD", ""):
                    wanted, met = ("<= 1.4 x bare", within(ours, 1.4, low)) if floor else (
                        "reference >= 12 x", within(ours, 1 / 12, theirs))
                table.add(f"{text}, {verb}{what}", unit, low, ours, theirs, wanted, met)

    for runners, text in ((plain, "bridge + host-local ADD"), (masked, "the same with ipMasq, ADD")):
        floor = runners is plain
        seen = {name: trace(args, runner) for name, runner in runners.items()}
        low = trace(args, bare) if floor else {}
        ours, theirs = seen.get("cni-box", {}), seen.get("reference", {})
        for key, what, unit, wanted, limit in (("peak", "peak memory", " kB", "< 1,500 kB", 1499),
                                               ("processes", "processes", "", "1", 1),
                                               ("syscalls", "system calls", "", "", None)):
            met = within(ours.get(key), limit) if limit else None
            table.add(f"{text}, {what}", unit, low.get(key), ours.get(key), theirs.get(key), wanted, met)


def store_rows(table, spawner, args, plugins):
    runners = {(name, n): HostLocal(name, path, n) for n in RESERVED for name, path in plugins.items()}
    costs = rounds(spawner, list(runners.values()), args.rounds)
    times = {key: wall(costs[runner]["ADD"]) for key, runner in runners.items()}
    for n in RESERVED:
        ours, theirs = times.get(("cni-box", n)), times.get(("reference", n))
        wanted, met = ("<= 1.5 x of 0", within(ours, 1.5, times.get(("cni-box", 0)))) if n == RESERVED[-1] else ("", None)
        table.add(f"host-local ADD, {n:,} reserved", " µs", None, ours, theirs, wanted, met)


def size_row(table, binary, reference):
    theirs = sum(f.stat().st_size for f in reference.iterdir() if f.is_file())
    ours = binary.stat().st_size
    table.add(f"on disk (reference: {len(list(reference.iterdir()))} files)", " kB", None, ours / 1000, theirs / 1000,
              "<= 600 kB", within(ours, 600_000))


def arguments():
    parser = argparse.ArgumentParser()
    parser.add_argument("directory", type=Path)
    parser.add_argument("--rounds", type=int, default=25)
    return parser.parse_args()


def whom(applet, binary, reference):
    """{name: plugin directory} of those that have this applet."""
    link = PLUGINS / applet
    link.symlink_to(binary)
    if answers(link):
        return {"cni-box": PLUGINS, "reference": reference}
    print(f"NOTE: {binary} has no {applet} applet yet: its column stays empty there.\n")
    return {"reference": reference}


def version_of(reference):
    """Debian builds its plugins without telling them their version; the package knows."""
    query = ["dpkg-query", "-W", "-f", " (${Package} ${Version})", "containernetworking-plugins"]
    asked = str(reference) == "/usr/lib/cni" and subprocess.run(query, capture_output=True, text=True)
    return asked.stdout if asked and asked.returncode == 0 else ""


def main():
    args = arguments()
    if "CNI_BOX_PRIVATE" not in os.environ:
        sys.exit("run me by `make bench`: I set up bridges, and not in the machine's own network")
    binary = Path(os.environ["CNI_BOX_BIN"]).resolve()
    reference = Path(os.environ.get("CNI_REFERENCE_DIR", "/usr/lib/cni"))
    PLUGINS.mkdir(parents=True)

    spawner, table = Spawner(args.directory / "spawn"), Table()
    bridge, store = whom("bridge", binary, reference), whom("host-local", binary, reference)
    # Our bridge needs our host-local beside it.
    kernel_rows(table, spawner, args, bridge if len(store) == 2 else {"reference": reference})
    store_rows(table, spawner, args, store)
    size_row(table, binary, reference)
    if os.getloadavg()[0] > 1.5:
        print("NOTE: other work is going on here: take the times of this run with care.\n")
    print(f"Linux {platform.release()}, {os.cpu_count()} CPUs, load {os.getloadavg()[0]:.2f}; medians of {args.rounds} "
          f"calls; reference: {reference}{version_of(reference)}\n")
    table.show()


if __name__ == "__main__":
    try:
        main()
    except (Failed, subprocess.CalledProcessError) as failure:
        sys.exit(f"error: {failure}")
