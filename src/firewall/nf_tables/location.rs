//! Tables of nf_tables: where they are, and in which manner their rules are written.

use crate::firewall::flavour::Flavour;
use crate::firewall::place::{BaseChain, ChainKind, Hook, NativeFamily, NativeTable, Place, Table};
use crate::firewall::rule::Family;
use crate::netlink::nftables::{NFPROTO_BRIDGE, NFPROTO_INET, NFPROTO_IPV4, NFPROTO_IPV6};

/// A table of nf_tables.
#[derive(Debug, Clone, Copy)]
pub(in crate::firewall) struct Location {
    /// `NFPROTO_…`
    pub(super) protocols: u8,
    /// Its name.
    pub(super) name: &'static str,
    /// How rules are written in it.
    pub(super) manner: Manner,
}

/// How rules are written.
#[derive(Debug, Clone, Copy)]
pub(super) enum Manner {
    /// As iptables-nft writes them, who has to understand them: with extensions of x_tables, a comment among them.
    Iptables(Table),
    /// As nft writes them: with expressions of nf_tables, comments beside the rules.
    Native(&'static NativeTable),
}

const FILTER: [BaseChain; 3] = [
    base("INPUT", ChainKind::Filter, Hook::Input, 0),
    base("FORWARD", ChainKind::Filter, Hook::Forward, 0),
    base("OUTPUT", ChainKind::Filter, Hook::Output, 0),
];
const NAT: [BaseChain; 4] = [
    base("PREROUTING", ChainKind::Nat, Hook::Prerouting, -100),
    base("INPUT", ChainKind::Nat, Hook::Input, 100),
    base("OUTPUT", ChainKind::Nat, Hook::Output, -100),
    base("POSTROUTING", ChainKind::Nat, Hook::Postrouting, 100),
];
const RAW: [BaseChain; 2] = [
    base("PREROUTING", ChainKind::Filter, Hook::Prerouting, -300),
    base("OUTPUT", ChainKind::Filter, Hook::Output, -300),
];

const fn base(name: &'static str, kind: ChainKind, hook: Hook, priority: i32) -> BaseChain {
    BaseChain { name, kind, hook, priority }
}

impl Location {
    /// The table of nf_tables that a place is; `None` for a table of x_tables.
    pub(in crate::firewall) fn of(place: Place) -> Option<Self> {
        match place {
            Place::Iptables { flavour: Flavour::Legacy, .. } => None,
            Place::Iptables { flavour: Flavour::Nft, family, table } => {
                let protocols = match family {
                    Family::V4 => NFPROTO_IPV4,
                    Family::V6 => NFPROTO_IPV6,
                };
                Some(Location { protocols, name: table.name(), manner: Manner::Iptables(table) })
            }
            Place::Native(table) => {
                let protocols = match table.family {
                    NativeFamily::Inet => NFPROTO_INET,
                    NativeFamily::Ip => NFPROTO_IPV4,
                    NativeFamily::Ip6 => NFPROTO_IPV6,
                    NativeFamily::Bridge => NFPROTO_BRIDGE,
                };
                Some(Location { protocols, name: table.name, manner: Manner::Native(table) })
            }
        }
    }

    /// The family of addresses in its packets, where there is only one.
    pub(super) fn family(&self) -> Option<Family> {
        match self.protocols {
            NFPROTO_IPV4 => Some(Family::V4),
            NFPROTO_IPV6 => Some(Family::V6),
            _ => None,
        }
    }

    /// The base chain of this name, if it is one.
    pub(super) fn base_chain(&self, name: &str) -> Option<&'static BaseChain> {
        let chains: &[BaseChain] = match self.manner {
            Manner::Iptables(Table::Filter) => &FILTER,
            Manner::Iptables(Table::Nat) => &NAT,
            Manner::Iptables(Table::Raw) => &RAW,
            Manner::Iptables(Table::Mangle) => &[],
            Manner::Native(table) => table.base_chains,
        };
        chains.iter().find(|chain| chain.name == name)
    }

    /// For error texts: `iptables table "nat"`, `table inet "x"`.
    pub(super) fn described(&self) -> String {
        match (self.manner, self.family()) {
            (Manner::Iptables(_), Some(family)) => format!("{} table {:?}", family.program(), self.name),
            (_, Some(Family::V4)) => format!("table ip {:?}", self.name),
            (_, Some(Family::V6)) => format!("table ip6 {:?}", self.name),
            (_, None) if self.protocols == NFPROTO_INET => format!("table inet {:?}", self.name),
            (_, None) => format!("table bridge {:?}", self.name),
        }
    }
}
