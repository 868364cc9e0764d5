"""Rows about the plugins that are called after the one that makes the interface: each alone, for an interface that `ip` made."""

import json
import subprocess

from devices import kernel_has
from measure import WORK, new_netns, protocol, rounds, wall, within

HALF = 25_000_000
SETTINGS = {
    "tuning": {"mac": "02:11:22:33:44:55", "mtu": 1400, "promisc": True, "dataDir": str(WORK / "tuning"),
               "sysctl": {"net.ipv4.conf.IFNAME.arp_filter": "1", "net.core.somaxconn": "500"}},
    "sbr": {},
    "bandwidth": {"ingressRate": HALF, "ingressBurst": HALF, "egressRate": HALF, "egressBurst": HALF},
    "vrf": {"vrfname": "blue"},
}


class Chained:
    """A plugin that gets the result of a bridge. Its interface is new before each ADD: DEL need not put everything back."""

    def __init__(self, name, plugins, kind, number):
        self.name, self.plugins, self.kind = name, plugins, kind
        self.container, self.host = f"{kind}{number}", f"m{kind}{number}"
        self.netns, self.net = new_netns(f"meta-{self.container}"), f"10.98.{number}"
        self.config = json.dumps({
            "cniVersion": "1.0.0", "name": "bench", "type": kind, **SETTINGS[kind],
            "prevResult": {
                "cniVersion": "1.0.0",
                "interfaces": [{"name": self.host}, {"name": "eth0", "sandbox": self.netns}],
                "ips": [{"address": f"{self.net}.2/24", "gateway": f"{self.net}.1", "interface": 1}],
                "routes": [{"dst": "0.0.0.0/0"}]},
        })

    def renew_interface(self):
        subprocess.run(["ip", "link", "del", self.host], stderr=subprocess.DEVNULL)
        inside = f"meta-{self.container}"
        commands = [f"link add {self.host} up type veth peer name eth0 netns {inside}"]
        subprocess.run(["ip", "-batch", "-"], input="\n".join(commands), text=True, check=True)
        commands = ["link set eth0 up", f"addr add {self.net}.2/24 dev eth0", f"route add default via {self.net}.1"]
        subprocess.run(["ip", "-n", inside, "-batch", "-"], input="\n".join(commands), text=True, check=True)

    def call(self, verb):
        if verb == "ADD":
            self.renew_interface()
        return [self.plugins / self.kind], protocol(verb, self.plugins, self.container, self.netns), self.config


def rows(table, spawner, args, plugins):
    """`plugins`: {kind: {name: directory}}"""
    for kind, directories in plugins.items():
        if kind == "vrf" and not kernel_has(["vrf", "table", "4"]):
            print("NOTE: this kernel has no vrf devices; `make bench-vm` measures them on Debian's.\n")
            continue
        runners = {name: Chained(name, path, kind, n) for n, (name, path) in enumerate(directories.items())}
        costs = rounds(spawner, list(runners.values()), args.rounds)
        for verb in ("ADD", "DEL"):
            got = {name: wall(costs[runner][verb]) for name, runner in runners.items()}
            ours, theirs = got.get("cni-box"), got.get("reference")
            table.add(f"{kind}, {verb}", " µs", None, ours, theirs, "reference >= 6 x", within(ours, 1 / 6, theirs))
