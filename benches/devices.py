"""Rows about the plugins that give a container an interface of its own: each with host-local, beside the bare kernel work."""

import json
import subprocess

from measure import WORK, ip, new_netns, protocol, rounds, wall, within

LOWER = "lower0"
# What each kind is called for. The lower device is a veth end, which every kernel has.
SETTINGS = {
    "ptp": {},
    "macvlan": {"master": LOWER},
    "ipvlan": {"master": LOWER},
    "vlan": {"master": LOWER, "vlanId": 100},
    "dummy": {},
    "tap": {},
}


class Bare:
    """The same kernel requests from a C program."""

    name = "bare"

    def __init__(self, program, kind, number):
        self.program, self.kind, self.net = program, kind, f"10.{200 + number}.0"
        self.netns = new_netns(f"{kind}-bare")

    def call(self, verb):
        if verb == "DEL":
            return [self.program, "del", self.netns, "eth0"], {}, ""
        words = [LOWER, "eth0", f"{self.net}.2/24", f"{self.net}.1"]
        return [self.program, "add", self.kind, self.netns, *words], {}, ""


class Plugin:
    """An interface plugin with host-local, which gives an address and a default route."""

    def __init__(self, name, plugins, kind, number, **more):
        self.name, self.plugins, self.kind = name, plugins, kind
        self.network = f"{kind}-{name}-{'-'.join(more) or 'plain'}"
        self.netns = new_netns(self.network)
        subnet = f"10.{200 + number}.{1 + len(more) * 2 + (name == 'cni-box')}.0/24"
        self.config = json.dumps({
            "cniVersion": "1.0.0", "name": self.network, "type": kind, **SETTINGS[kind], **more,
            "ipam": {"type": "host-local", "subnet": subnet, "dataDir": str(WORK / "networks"),
                     "routes": [{"dst": "0.0.0.0/0"}]},
        })

    def call(self, verb):
        return [self.plugins / self.kind], protocol(verb, self.plugins, self.network, self.netns), self.config


def kernel_has(settings, link=()):
    """Whether this kernel can make a device of this `ip link add … type`."""
    made = subprocess.run(["ip", "link", "add", "probe0", *link, "type", *settings], capture_output=True)
    if made.returncode == 0:
        ip("link", "del", "probe0")
    return made.returncode == 0


def kernel_has_kind(kind):
    settings = {"ptp": ["veth"], "vlan": ["vlan", "id", "4"]}.get(kind, [kind])
    link = ["link", LOWER] if kind in ("macvlan", "ipvlan", "vlan") else []
    return kind == "tap" or kernel_has(settings, link)


def rows(table, spawner, args, plugins):
    """`plugins`: {kind: {name: directory}}"""
    ip("link", "add", LOWER, "up", "type", "veth", "peer", "name", "lower1")
    ip("link", "set", "lower1", "up")
    for number, (kind, directories) in enumerate(plugins.items()):
        if kernel_has_kind(kind):
            kind_rows(table, spawner, args, kind, number, directories)
        else:
            print(f"NOTE: this kernel has no {kind} devices; `make bench-vm` measures them on Debian's.\n")


def kind_rows(table, spawner, args, kind, number, directories):
    bare = Bare(args.directory / "bare", kind, number)
    plain = {name: Plugin(name, path, kind, number) for name, path in directories.items()}
    masked = {name: Plugin(name, path, kind, number, ipMasq=True) for name, path in directories.items() if kind == "ptp"}
    costs = rounds(spawner, [bare, *plain.values(), *masked.values()], args.rounds)
    for verb, limit in (("ADD", 1.4), ("DEL", 1.15)):
        low = wall(costs[bare][verb])
        got = {name: wall(costs[runner][verb]) for name, runner in plain.items()}
        ours, theirs = got.get("cni-box"), got.get("reference")
        table.add(f"{kind} + host-local, {verb}", " µs", low, ours, theirs, f"<= {limit} x bare", within(ours, limit, low))
    if masked:
        got = {name: wall(costs[runner]["ADD"]) for name, runner in masked.items()}
        ours, theirs = got.get("cni-box"), got.get("reference")
        table.add(f"{kind} with ipMasq, ADD", " µs", None, ours, theirs, "reference >= 12 x", within(ours, 1 / 12, theirs))
