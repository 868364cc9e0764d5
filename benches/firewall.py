"""Rows about port mappings and about the chain that podman and nerdctl use."""

import json
import subprocess

import meta
from measure import PLUGINS, WORK, ip, new_netns, protocol, rounds, trace, wall, within

FOREIGN = 5000
# Behind bridge, portmap and firewall: what a pod of Kubernetes with limits gets.
WHOLE = ({"type": "bandwidth", **meta.SETTINGS["bandwidth"]}, {"type": "tuning", **meta.SETTINGS["tuning"]})
MANY = 34


class Portmap:
    """A portmap plugin alone, for a container that a bridge attached before."""

    def __init__(self, name, plugins, number, mappings):
        self.name, self.plugins, self.netns = name, plugins, new_netns(f"portmap{number}")
        self.container = f"portmap{number}"
        first = 10000 + 100 * number
        self.config = json.dumps({
            "cniVersion": "1.0.0", "name": "bench", "type": "portmap", "capabilities": {"portMappings": True},
            "runtimeConfig": {"portMappings": [
                {"hostPort": first + n, "containerPort": 80 + n, "protocol": "tcp"} for n in range(mappings)]},
            "prevResult": {
                "cniVersion": "1.0.0", "interfaces": [{"name": "eth0", "sandbox": self.netns}],
                "ips": [{"address": f"10.99.0.{number + 2}/16", "gateway": "10.99.0.1", "interface": 0}]},
        })

    def call(self, verb):
        return [self.plugins / "portmap"], protocol(verb, self.plugins, self.container, self.netns), self.config


class Chain:
    """bridge, host-local, portmap, firewall and more, called by our cnitool: Debian's reference package has none."""

    def __init__(self, name, plugins, number, more=()):
        self.name, self.plugins, self.netns = name, plugins, new_netns(f"chain{number}")
        self.network, confs = f"chain{number}", WORK / f"chain{number}"
        confs.mkdir()
        (confs / "chain.conflist").write_text(json.dumps({
            "cniVersion": "0.4.0", "name": self.network, "plugins": [
                {"type": "bridge", "bridge": f"brc{number}", "isGateway": True, "ipMasq": True, "hairpinMode": True,
                 "ipam": {"type": "host-local", "dataDir": str(WORK / "networks"), "routes": [{"dst": "0.0.0.0/0"}],
                          "ranges": [[{"subnet": f"10.{140 + number}.0.0/16", "gateway": f"10.{140 + number}.0.1"}]]}},
                {"type": "portmap", "capabilities": {"portMappings": True}},
                {"type": "firewall", "backend": "iptables"}, *more]}))
        self.env = {"NETCONFPATH": confs, "CNI_PATH": plugins, "CAP_ARGS": json.dumps({"portMappings": [
            {"hostPort": 20000 + 10 * number + n, "containerPort": 80 + n, "protocol": "tcp"} for n in range(2)]})}

    def call(self, verb):
        env = {**protocol(verb, self.plugins, "", ""), **self.env}
        return [PLUGINS / "cnitool", verb.lower(), self.network, self.netns], env, ""


def foreign_rules():
    """What kube-proxy leaves on a big node: a long chain, and one jump to it."""
    rules = "".join(f"-A KUBE-SERVICES -d 10.{n >> 8}.{n & 255}.7/32 -p tcp -m tcp --dport 80 -j RETURN\n"
                    for n in range(FOREIGN - 1))
    text = f"*nat\n:KUBE-SERVICES - [0:0]\n-A PREROUTING -j KUBE-SERVICES\n{rules}COMMIT\n"
    subprocess.run(["iptables-restore", "--noflush"], input=text, text=True, check=True)


def rows(table, spawner, args, plugins):
    ip("link", "add", "brportmap", "up", "type", "bridge")
    ip("addr", "add", "10.99.0.1/16", "dev", "brportmap")
    two = {name: Portmap(name, path, n, 2) for n, (name, path) in enumerate(plugins["portmap"].items())}
    everyone = list(two.values())
    many = None
    if "cni-box" in two:
        many = Portmap("cni-box", PLUGINS, len(two), MANY)
        everyone.append(many)
    costs = rounds(spawner, everyone, args.rounds)
    for verb in ("ADD", "DEL"):
        got = {name: wall(costs[runner][verb]) for name, runner in two.items()}
        ours, theirs = got.get("cni-box"), got.get("reference")
        table.add(f"portmap, 2 mappings, {verb}", " µs", None, ours, theirs, "reference >= 40 x",
                  within(ours, 1 / 40, theirs))
    seen = {name: trace(args, runner) for name, runner in two.items()}
    for key in ("processes", "syscalls"):
        got = {name: counts[key] for name, counts in seen.items()}
        table.add(f"portmap, 2 mappings, ADD, {'system calls' if key == 'syscalls' else key}", "", None,
                  got.get("cni-box"), got.get("reference"))
    chain_rows(table, spawner, args, plugins)
    if many:
        few = wall(costs[two["cni-box"]]["ADD"])
        each = (wall(costs[many]["ADD"]) - few) / (MANY - 2)
        table.add("portmap, ADD, each further mapping", " µs", None, each, None, "< 50 µs", within(each, 50))
        foreign_rules()
        crowded = wall(rounds(spawner, [two["cni-box"]], args.rounds)[two["cni-box"]]["ADD"])
        table.add(f"portmap, 2 mappings, ADD, {FOREIGN:,} foreign rules", " µs", None, crowded, None, "<= 2 x of none",
                  within(crowded, 2, few))


def chain_rows(table, spawner, args, plugins):
    both = {name: path for name, path in plugins["portmap"].items() if name in plugins["firewall"]}
    short = {name: Chain(name, path, n) for n, (name, path) in enumerate(both.items())}
    whole = {name: Chain(name, path, n + len(both), WHOLE) for n, (name, path) in enumerate(both.items())}
    (PLUGINS / "cnitool").symlink_to((PLUGINS / "bridge").resolve())
    costs = rounds(spawner, [*short.values(), *whole.values()], args.rounds)
    for runners, what, limits in ((short, "bridge, host-local, portmap, firewall by cnitool", {"ADD": 15}),
                                  (whole, "the same with bandwidth and tuning", {"ADD": 25, "DEL": 5})):
        for verb in ("ADD", "DEL"):
            got = {name: wall(costs[runner][verb]) for name, runner in runners.items()}
            ours, theirs, limit = got.get("cni-box"), got.get("reference"), limits.get(verb)
            wanted, met = (f"reference >= {limit} x", within(ours, 1 / limit, theirs)) if limit else ("", None)
            table.add(f"{what}, {verb}", " µs", None, ours, theirs, wanted, met)
    seen = {name: trace(args, runner) for name, runner in whole.items()}
    ours, theirs = (seen.get(name, {}).get("processes") for name in ("cni-box", "reference"))
    table.add("the same with bandwidth and tuning, ADD: processes", "", None, ours, theirs, "1", within(ours, 1))
