//! The firewall plugin by its effect: packets through a host that drops what it is not told to forward.

use serde_json::{Value, json};

use crate::lab::{Lab, wait_for};

/// What keeps the rules: the installed flavour and the configured backend.
pub const STORES: [(&str, &str); 3] = [("nft", "iptables"), ("legacy", "iptables"), ("nft", "nftables")];

/// Containers `ns1` and `ns2` on `cni0`, `ns3` on `cni1`, and `outside` with a route to them; IPv4 and IPv6.
pub struct Net {
    pub lab: Lab,
    pub backend: &'static str,
}

pub const NAMES: [(&str, &str, u8); 3] = [("ns1", "cni0", 1), ("ns2", "cni0", 1), ("ns3", "cni1", 2)];

impl Net {
    /// Bridges and containers, without firewall.
    pub fn new(flavour: &str, backend: &'static str) -> Net {
        let lab = Lab::new();
        lab.install_iptables(flavour);
        let net = Net { lab, backend };
        net.lab.netns("outside");
        net.lab
            .sh("ip link add out0 type veth peer name eth0 netns outside
                ip addr add 192.0.2.1/24 dev out0; ip addr add fd00:9::1/64 dev out0 nodad; ip link set out0 up
                ip -n outside addr add 192.0.2.2/24 dev eth0; ip -n outside addr add fd00:9::2/64 dev eth0 nodad
                ip -n outside link set eth0 up
                ip -n outside route add default via 192.0.2.1; ip -n outside route add default via fd00:9::1")
            .success();
        for (name, _, _) in NAMES {
            net.lab.netns(name);
        }
        net
    }

    /// Attaches a container, by bridge and then firewall; gives the firewall's configuration for DEL.
    pub fn attach(&self, name: &str, policy: &str) -> Value {
        let (_, bridge, number) = NAMES.into_iter().find(|(known, _, _)| *known == name).unwrap();
        self.attach_to(name, bridge, number, policy)
    }

    /// The same on a bridge with subnets of this number; the network has the bridge's name.
    pub fn attach_to(&self, name: &str, bridge: &str, number: u8, policy: &str) -> Value {
        let ranges = json!([[{"subnet": format!("10.1.{number}.0/24")}], [{"subnet": format!("fd00:{number}::/64")}]]);
        let config = json!({"cniVersion": "1.0.0", "name": bridge, "type": "bridge", "bridge": bridge,
            "isDefaultGateway": true, "ipam": {"type": "host-local", "ranges": ranges}});
        let netns = format!("/var/run/netns/{name}");
        let call = |plugin| self.lab.plugin(plugin).container(name).netns(&netns);
        let previous = call("bridge").config(&config).run().result();
        let config = json!({"cniVersion": "1.0.0", "name": bridge, "type": "firewall", "backend": self.backend,
            "ingressPolicy": policy, "prevResult": previous});
        call("firewall").config(&config).run().result();
        config
    }

    /// One ping, answered within half a second.
    pub fn reaches(&self, from: &str, address: &str) -> bool {
        let command = ["ip", "netns", "exec", from, "ping", "-n", "-c", "1", "-W", "0.5", address];
        self.lab.run(&command).code == Some(0)
    }

    pub fn comes_to_reach(&self, from: &str, address: &str) {
        wait_for(&format!("{from} reaches {address} ({})", self.backend), || self.reaches(from, address));
    }

    /// Changes a setting of the host's own network.
    pub fn set(&self, name: &str, value: &str) {
        self.lab.sh(&format!("echo {value} > /proc/sys/net/{name}")).success();
    }
}

#[test]
fn containers_get_out_and_only_answers_come_in() {
    for flavour in ["nft", "legacy"] {
        let net = Net::new(flavour, "iptables");
        for tool in ["iptables", "ip6tables"] {
            net.lab.ok(&format!("{tool}-{flavour} -P FORWARD DROP"));
        }
        let config = net.attach("ns1", "open");
        for (there, back) in [("192.0.2.2", "10.1.1.2"), ("fd00:9::2", "fd00:1::2")] {
            net.comes_to_reach("ns1", there);
            assert!(!net.reaches("outside", back), "{flavour} {back}");
        }
        net.lab.ok(&format!("iptables-{flavour} -A CNI-ADMIN -d 192.0.2.2 -j DROP"));
        assert!(!net.reaches("ns1", "192.0.2.2"), "the administrator's chain comes first");
        net.lab.ok(&format!("iptables-{flavour} -F CNI-ADMIN"));
        net.lab.plugin("firewall").verb("DEL").container("ns1").config(&config).run().silent();
        for there in ["192.0.2.2", "fd00:9::2"] {
            assert!(!net.reaches("ns1", there), "{flavour} after DEL");
        }
    }
}

#[test]
fn same_bridge_keeps_bridges_apart() {
    for (flavour, backend) in STORES {
        let net = Net::new(flavour, backend);
        for (name, _, _) in NAMES {
            net.attach(name, "same-bridge");
        }
        for (neighbour, other, outside) in
            [("10.1.1.3", "10.1.2.2", "192.0.2.2"), ("fd00:1::3", "fd00:2::2", "fd00:9::2")]
        {
            net.comes_to_reach("ns1", neighbour);
            net.comes_to_reach("ns1", outside);
            net.comes_to_reach("ns3", outside);
            assert!(!net.reaches("ns1", other), "{flavour} {backend} {other}");
        }
        assert!(!net.reaches("ns3", "10.1.1.2") && !net.reaches("ns3", "fd00:1::2"), "{flavour} {backend}");
        net.comes_to_reach("outside", "10.1.1.2");
    }
}

#[test]
fn without_a_policy_bridges_are_not_kept_apart() {
    let net = Net::new("nft", "nftables");
    for (name, _, _) in NAMES {
        net.attach(name, "open");
    }
    for address in ["10.1.2.2", "fd00:2::2", "10.1.1.3"] {
        net.comes_to_reach("ns1", address);
    }
}

/// What `nftables` cannot do: another table that drops has the last word.
#[test]
fn better_an_accept_of_nftables_does_not_override_a_drop_elsewhere() {
    let net = Net::new("nft", "nftables");
    net.attach("ns1", "open");
    net.comes_to_reach("ns1", "192.0.2.2");
    net.lab.ok("iptables-nft -P FORWARD DROP");
    assert!(!net.reaches("ns1", "192.0.2.2"));
}

/// The administrator's chain works with `nftables` too, where it is the last word.
#[test]
fn better_the_administrators_chain_drops_with_nftables() {
    let net = Net::new("nft", "nftables");
    let config = net.attach("ns1", "open");
    net.comes_to_reach("ns1", "192.0.2.2");
    net.lab.ok("nft add rule ip cni_firewall CNI-ADMIN ip daddr 192.0.2.2 drop");
    assert!(!net.reaches("ns1", "192.0.2.2"));
    let call = net.lab.plugin("firewall").container("ns1").config(&config);
    call.clone().verb("CHECK").run().silent();
    call.verb("DEL").run().silent();
    assert!(net.lab.ok("nft list chain ip cni_firewall CNI-ADMIN").contains("drop"), "it is the administrator's");
}

/// What the tables of our own hold, as nft prints them.
const NATIVE: &str = "table ip cni_firewall {
	chain forward {
		type filter hook forward priority filter; policy accept;
		jump CNI-ISOLATION-STAGE-1 comment \"CNI firewall plugin rules (ingressPolicy: same-bridge|isolated)\"
		jump CNI-FORWARD comment \"CNI firewall plugin rules\"
	}

	chain CNI-FORWARD {
		jump CNI-ADMIN comment \"CNI firewall plugin admin overrides\"
		ip daddr 10.1.1.2 ct state established,related accept
		ip saddr 10.1.1.2 accept
	}

	chain CNI-ADMIN {
	}

	chain CNI-ISOLATION-STAGE-1 {
		iifname \"cni0\" oifname \"cni0\" drop comment \"CNI firewall plugin rules (ingressPolicy: isolated)\"
		iifname \"cni0\" oifname != \"cni0\" jump CNI-ISOLATION-STAGE-2 comment \"CNI firewall plugin rules (ingressPolicy: isolated)\"
		return comment \"CNI firewall plugin rules (ingressPolicy: same-bridge|isolated)\"
	}

	chain CNI-ISOLATION-STAGE-2 {
		oifname \"cni0\" drop comment \"CNI firewall plugin rules (ingressPolicy: same-bridge|isolated)\"
		return comment \"CNI firewall plugin rules (ingressPolicy: same-bridge|isolated)\"
	}
}
";

#[test]
fn better_nftables_reads_like_iptables() {
    let net = Net::new("nft", "nftables");
    net.attach("ns1", "isolated");
    let text = net.lab.ok("nft list table ip cni_firewall");
    // The order of chains is that of their creation, and of no consequence.
    let sorted = |text: &str| {
        let mut chains: Vec<_> =
            text.split("\n\n").map(|chain| chain.trim_end_matches("}\n").trim().to_string()).collect();
        chains.sort();
        chains
    };
    let counterless: String = text.replace(" counter packets 0 bytes 0", "");
    assert_eq!(sorted(&counterless), sorted(NATIVE), "{text}");
    assert!(net.lab.ok("nft list table ip6 cni_firewall").contains("ip6 saddr fd00:1::2 "));
    assert!(!net.lab.rules().iter().any(|line| line.contains("CNI-")), "iptables has nothing");
}
