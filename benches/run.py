"""Bare kernel work, cni-box and the reference plugins side by side, in one run; prints a table.

Called by scripts/bench.sh inside namespaces of its own. Nothing is asserted about time: a call that fails is the only failure.
The three take turns, in an order that rotates, so that whatever else the machine does hits them alike.

    run.py DIRECTORY [--rounds N] [--only ROWS]      DIRECTORY holds the compiled `bare` and `spawn`
"""

import argparse
import ipaddress
import json
import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path

import devices
import dhcp
import firewall
import many
import meta
from measure import (PLUGINS, WORK, Failed, Spawner, Table, answers, cpu, ip, new_netns, protocol, rounds, trace, wall,
                     within)

PARTS = ("bridge", "store", "devices", "dhcp", "firewall", "meta", "many", "size")
RESERVED = (0, 1000, 20000, 60000)

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
        words = [self.bridge, "eth0", f"{self.net}.0.2/16", f"{self.net}.0.1"]
        return [self.program, "add", "bridge", self.netns, *words], {}, ""


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
        self.netns = new_netns(f"store-{name}-{reserved}")
        data = WORK / f"reserved-{name}-{reserved}"
        self.config = json.dumps({
            "cniVersion": "1.0.0", "name": "bench", "type": "bridge",
            "ipam": {"type": "host-local", "subnet": "10.0.0.0/16", "dataDir": str(data)},
        })
        reserve(data / "bench", reserved)

    def call(self, verb):
        self.calls += verb == "ADD"
        env = protocol(verb, self.plugins, f"bench{self.calls}", self.netns)
        return [self.plugins / "host-local"], env, self.config


def reserve(store, count):
    """What the plugins leave in the store after `count` ADDs."""
    store.mkdir(parents=True)
    first = ipaddress.IPv4Address("10.0.0.2")
    for n in range(count):
        (store / str(first + n)).write_text(f"earlier{n}\r\neth0")
    if count:
        (store / "last_reserved_ip.0").write_text(str(first + count - 1))


# --- the table ---------------------------------------------------------------------------------------------------------


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
    for verb in ("ADD", "DEL"):
        times = {key: wall(costs[runner][verb]) for key, runner in runners.items()}
        for n in RESERVED:
            ours, theirs = times.get(("cni-box", n)), times.get(("reference", n))
            wanted, met = ("reference >= 100 x", within(ours, 1 / 100, theirs)) if n == RESERVED[-1] else ("", None)
            table.add(f"host-local {verb}, {n:,} reserved", " µs", None, ours, theirs, wanted, met)
        table.add("the same, beside none reserved", " µs", None, ours, None, "<= 1.2 x of none",
                  within(ours, 1.2, times.get(("cni-box", 0))))


def size_row(table, binary, reference):
    theirs = sum(f.stat().st_size for f in reference.iterdir() if f.is_file())
    ours = binary.stat().st_size
    table.add(f"on disk (reference: {len(list(reference.iterdir()))} files)", " kB", None, ours / 1000, theirs / 1000,
              "<= 1,200 kB", within(ours, 1_200_000))


def arguments():
    parser = argparse.ArgumentParser()
    parser.add_argument("directory", type=Path)
    parser.add_argument("--rounds", type=int, default=25)
    parser.add_argument("--only", choices=PARTS, action="append", help="these rows alone; may be said again")
    return parser.parse_args()


def whom(applet, binary, reference):
    """{name: plugin directory} of those that have this applet."""
    link = PLUGINS / applet
    link.symlink_to(binary)
    if answers(link):
        return {"cni-box": PLUGINS, "reference": reference}
    print(f"NOTE: {binary} has no {applet} applet yet: its column stays empty there.\n")
    return {"reference": reference}


def whom_of(applets, binary, reference):
    """{applet: {name: plugin directory}}; Debian's package lacks the newest plugins."""
    found = {applet: whom(applet, binary, reference) for applet in applets}
    return {applet: {name: path for name, path in who.items() if (path / applet).exists()} for applet, who in found.items()}


def version_of(reference):
    """Debian builds its plugins without telling them their version; the package knows."""
    query = ["dpkg-query", "-W", "-f", " (${Package} ${Version})", "containernetworking-plugins"]
    if str(reference) != "/usr/lib/cni" or not shutil.which("dpkg-query"):
        return ""
    asked = subprocess.run(query, capture_output=True, text=True)
    return asked.stdout if asked.returncode == 0 else ""


def main():
    args = arguments()
    if "CNI_BOX_PRIVATE" not in os.environ:
        sys.exit("run me by `make bench`: I set up bridges, and not in the machine's own network")
    binary = Path(os.environ["CNI_BOX_BIN"]).resolve()
    reference = Path(os.environ.get("CNI_REFERENCE_DIR", "/usr/lib/cni"))
    PLUGINS.mkdir(parents=True)

    spawner, table = Spawner(args.directory / "spawn"), Table()
    names = ("bridge", "host-local", "dhcp", "portmap", "firewall", *devices.SETTINGS, *meta.SETTINGS)
    plugins = whom_of(names, binary, reference)
    wanted = args.only or PARTS
    if "bridge" in wanted:
        kernel_rows(table, spawner, args, plugins["bridge"])
    if "store" in wanted:
        store_rows(table, spawner, args, plugins["host-local"])
    if "devices" in wanted:
        devices.rows(table, spawner, args, {kind: plugins[kind] for kind in devices.SETTINGS})
    if "dhcp" in wanted:
        dhcp.rows(table, spawner, args, plugins["dhcp"])
    if "firewall" in wanted:
        firewall.rows(table, spawner, args, plugins)
    if "meta" in wanted:
        meta.rows(table, spawner, args, {kind: plugins[kind] for kind in meta.SETTINGS})
    if "many" in wanted:
        many.rows(table, spawner)
    if "size" in wanted:
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
