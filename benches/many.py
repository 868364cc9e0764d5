"""Rows about calls that are asked for much: ten times as much takes about ten times as long. cni-box alone: the reference
starts a program for each rule, and has no such tools."""

import json
import statistics

from firewall import Portmap
from measure import PLUGINS, WORK, protocol, within

ROUNDS = 3
FEW, MANY = 1_000, 10_000
# Ten times as much, and a tenth for the noise.
LIMIT = 11
VERBS = ("ADD", "CHECK", "DEL")
CNITOOL = PLUGINS / "cnitool"


class Mapped(Portmap):
    """portmap by nftables or iptables, for a container with a number of mappings."""

    def __init__(self, backend, number, mappings):
        super().__init__("cni-box", PLUGINS, number, mappings)
        config = json.loads(self.config)
        self.config = json.dumps({**config, "backend": backend})


def milliseconds(costs):
    return statistics.median(cost["wall_ns"] for cost in costs) / 1e6


def portmap_rows(table, spawner):
    for number, backend in enumerate(("iptables", "nftables")):
        times = {}
        for count in (FEW, MANY):
            runner, costs = Mapped(backend, 40 + 2 * number + (count == MANY), count), {verb: [] for verb in VERBS}
            for _ in range(ROUNDS):
                for verb in VERBS:
                    costs[verb].append(spawner.run(*runner.call(verb)))
            times[count] = {verb: milliseconds(of_verb) for verb, of_verb in costs.items()}
        for verb in VERBS:
            few, many = times[FEW][verb], times[MANY][verb]
            table.add(f"portmap, {backend}, {verb} of {MANY:,} mappings", " ms", None, many, None,
                      f"<= {LIMIT} x of {FEW:,} ({few:.0f} ms)", within(many, LIMIT, few))


def validated(spawner, count):
    plugins = [{"type": "bridge", "ipam": {"type": "host-local", "subnet": "10.0.0.0/24"}}]
    plugins += [{"type": "tuning", "sysctl": {f"net.core.x{n}": "1"}} for n in range(count - 1)]
    path = WORK / f"validate{count}.conflist"
    path.write_text(json.dumps({"cniVersion": "1.0.0", "name": "many", "plugins": plugins}))
    call = [CNITOOL, "validate", path], protocol("", PLUGINS, "", ""), ""
    return milliseconds([spawner.run(*call) for _ in range(ROUNDS)])


def validate_rows(table, spawner):
    few, many = (validated(spawner, count) for count in (700, 7_000))
    table.add("cnitool validate of 7,000 plugins", " ms", None, many, None, f"<= {LIMIT} x of 700", within(many, LIMIT, few))


def rows(table, spawner):
    if not CNITOOL.exists():
        CNITOOL.symlink_to((PLUGINS / "portmap").resolve())
    portmap_rows(table, spawner)
    validate_rows(table, spawner)
