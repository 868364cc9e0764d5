"""What every part of the bench uses: starting and timing calls, and the table."""

import json
import os
import re
import statistics
import subprocess
import time
from pathlib import Path

WORK = Path("/run/bench")
PLUGINS = WORK / "bin"


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


def protocol(verb, plugins, container, netns):
    return {"CNI_COMMAND": verb, "CNI_CONTAINERID": container, "CNI_NETNS": netns, "CNI_IFNAME": "eth0",
            "CNI_PATH": plugins, "PATH": os.environ["PATH"]}


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


def rounds(spawner, runners, count, warm_up=3):
    """Every runner's ADD and DEL in each round. Returns {runner: {verb: [cost]}}."""
    costs = {runner: {"ADD": [], "DEL": []} for runner in runners}
    for n in range(-warm_up, count):
        turn = n % len(runners)
        for runner in runners[turn:] + runners[:turn]:
            for verb in ("ADD", "DEL"):
                # The kernel goes on tidying up after links and rules are gone; that is not the next one's cost.
                time.sleep(0.04)
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
