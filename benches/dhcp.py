"""Rows about dhcp: bridge with addresses from a real server (dnsmasq) behind it, and what the daemon takes."""

import contextlib
import json
import subprocess
import time
from pathlib import Path

from measure import WORK, Failed, ip, new_netns, protocol, rounds, wall, within

LEASES = 200
# What an ADD may take beyond one with host-local, the server's answers included.
ALLOWANCE = 5000


class Network:
    """A bridge with a DHCP server behind it, and a daemon for the plugins of one directory."""

    def __init__(self, name, plugins, number, running):
        self.name, self.plugins, self.bridge = name, plugins, f"brdhcp{number}"
        self.socket, self.net, server = WORK / f"dhcp-{number}.sock", f"10.{230 + number}", f"dhcp{number}"
        new_netns(server)
        ip("link", "add", self.bridge, "up", "type", "bridge")
        ip("link", "add", f"dhcps{number}", "up", "master", self.bridge, "type", "veth", "peer", "name", "eth0", "netns", server)
        ip("-n", server, "addr", "add", f"{self.net}.0.1/16", "dev", "eth0")
        ip("-n", server, "link", "set", "eth0", "up")
        self.start(running, ["ip", "netns", "exec", server, "dnsmasq", "--no-daemon", "--conf-file=/dev/null", "--port=0",
                             "--interface=eth0", "--bind-interfaces", "--no-ping", f"--dhcp-leasefile={WORK}/leases{number}",
                             f"--dhcp-range={self.net}.1.0,{self.net}.250.0,255.255.0.0,1h"])
        self.daemon = self.start(running, [plugins / "dhcp", "daemon", "-socketpath", self.socket])
        wait_for(self.socket.exists)
        # The reference waits ten seconds for the answer to a packet that the bridge's port did not let through.
        wait_for(lambda: is_forwarding(f"dhcps{number}"))

    @staticmethod
    def start(running, argv):
        process = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        running.callback(stop, process)
        return process

    def resident(self):
        """Of the daemon, in kB."""
        lines = Path(f"/proc/{self.daemon.pid}/status").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS:"))


class Container:
    """A bridge plugin with some address management."""

    def __init__(self, network, name, ipam):
        self.name, self.plugins, self.container = name, network.plugins, name
        self.netns = new_netns(name)
        self.config = json.dumps({"cniVersion": "1.0.0", "name": name, "type": "bridge", "bridge": network.bridge,
                                  "ipam": ipam})

    def call(self, verb):
        return [self.plugins / "bridge"], protocol(verb, self.plugins, self.container, self.netns), self.config


def stop(process):
    process.terminate()
    process.wait()


def wait_for(condition, limit=10):
    end = time.monotonic() + limit
    while not condition():
        if time.monotonic() > end:
            raise Failed("dhcp: the server or the daemon does not come up")
        time.sleep(0.02)


def is_forwarding(port):
    return Path(f"/sys/class/net/{port}/brport/state").read_text().strip() == "3"


def rows(table, spawner, args, plugins):
    with contextlib.ExitStack() as running:
        networks = {name: Network(name, path, n, running) for n, (name, path) in enumerate(plugins.items())}
        idle = {name: network.resident() for name, network in networks.items()}
        by_dhcp = {name: Container(network, f"dhcp-{name}", {"type": "dhcp", "daemonSocketPath": str(network.socket)})
                   for name, network in networks.items()}
        by_store = {name: Container(network, f"stored-{name}",
                                    {"type": "host-local", "subnet": "10.229.0.0/16", "dataDir": str(WORK / "networks")})
                    for name, network in networks.items()}
        costs = rounds(spawner, [*by_dhcp.values(), *by_store.values()], args.rounds)
        add_rows(table, costs, by_dhcp, by_store)
        table.add("dhcp daemon, resident without leases", " kB", None, idle.get("cni-box"), idle.get("reference"),
                  "<= 2,000 kB", within(idle.get("cni-box"), 2000))
        if "cni-box" in networks:
            lease_row(table, spawner, networks["cni-box"])


def add_rows(table, costs, by_dhcp, by_store):
    got = {name: wall(costs[runner]["ADD"]) for name, runner in by_dhcp.items()}
    stored = wall(costs[by_store["cni-box"]]["ADD"]) if "cni-box" in by_store else None
    limit = None if stored is None else stored + ALLOWANCE
    table.add("bridge + dhcp, ADD", " µs", None, got.get("cni-box"), got.get("reference"), "<= host-local + 5 ms",
              within(got.get("cni-box"), limit) if limit else None)
    table.add("the same with host-local, ADD", " µs", None, stored, None)


def lease_row(table, spawner, network):
    ipam = {"type": "dhcp", "daemonSocketPath": str(network.socket)}
    before = network.resident()
    for n in range(LEASES):
        spawner.run(*Container(network, f"lease{n}", ipam).call("ADD"))
    each = (network.resident() - before) * 1024 / LEASES
    table.add(f"dhcp daemon, each of {LEASES} leases", " B", None, each, None, "<= 1,024 B", within(each, 1024))
