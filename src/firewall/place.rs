//! Where rules are kept, and what a plan sees of it and does to it.

use std::net::IpAddr;

use crate::error::Result;
use crate::firewall::flavour::Flavour;
use crate::firewall::rule::{Family, Rule};

/// Where a plan's rules are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// A table of iptables, in one of its flavours.
    Iptables {
        /// Which kernel facility holds it.
        flavour: Flavour,
        /// IPv4's or IPv6's.
        family: Family,
        /// Its name.
        table: Table,
    },
    /// A table of nf_tables that is no table of iptables.
    Native(&'static NativeTable),
}

/// A table of iptables.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Table {
    /// Whether packets pass.
    Filter,
    /// Address translation.
    Nat,
    /// What comes before connection tracking.
    Raw,
    /// What comes between connection tracking and address translation; we use only that of
    /// x_tables.
    Mangle,
}

/// Kinds of packets that a table of nf_tables is about (`NFPROTO_…`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NativeFamily {
    /// IPv4 and IPv6: `inet`
    Inet,
    /// IPv4: `ip`
    Ip,
    /// IPv6: `ip6`
    Ip6,
    /// Frames that a bridge forwards: `bridge`
    Bridge,
}

/// A table of nf_tables as CNI plugins write it. It is made, with the base chains in use, when the first rule is added.
#[derive(Debug, PartialEq, Eq)]
pub struct NativeTable {
    /// What packets it is about.
    pub family: NativeFamily,
    /// Its name.
    pub name: &'static str,
    /// Its comment; empty for none.
    pub comment: &'static str,
    /// Comments of its chains.
    pub chain_comments: &'static [(&'static str, &'static str)],
    /// Its chains that packets reach by themselves. All other chains are user chains.
    pub base_chains: &'static [BaseChain],
}

/// A chain that packets reach by themselves: a built-in chain of iptables is one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BaseChain {
    /// Its name.
    pub name: &'static str,
    /// What it is for.
    pub kind: ChainKind,
    /// Where packets reach it.
    pub hook: Hook,
    /// Its place among the chains of its hook; lower comes first.
    pub priority: i32,
}

/// What a base chain is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ChainKind {
    /// Whether packets pass.
    Filter,
    /// Address translation.
    Nat,
}

/// Where packets reach a base chain (`enum nf_inet_hooks`; the numbers of bridges are the same).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hook {
    /// Coming in, before it is known where they go.
    Prerouting = 0,
    /// Going to the host.
    Input = 1,
    /// Going on to others.
    Forward = 2,
    /// Coming from the host.
    Output = 3,
    /// Going out.
    Postrouting = 4,
}

/// A rule as found in the kernel.
#[derive(Debug, Clone)]
pub struct StoredRule {
    /// The backend's name for it, valid until the next change of the table.
    pub id: u64,
    /// What we understand of it.
    pub rule: Rule,
    /// It has parts that we don't understand, so it equals none of ours.
    pub foreign: bool,
}

/// A chain as found in the kernel.
#[derive(Debug, Clone)]
pub struct StoredChain {
    /// Its rules, first to last.
    pub rules: Vec<StoredRule>,
    /// Rules anywhere in the table that jump or go to this chain.
    pub references: usize,
}

/// A table as it was at one moment.
pub trait View {
    /// The chain of this name; `None` when it or its table is missing. Costs time for each rule in it.
    fn chain(&mut self, name: &str) -> Result<Option<StoredChain>>;

    /// The same for who looks for rules about these addresses and for rules that are about none: it may lack rules whose
    /// first condition is another address. Costs far less where there are many of those.
    fn chain_about(&mut self, name: &str, addresses: &[IpAddr]) -> Result<Option<StoredChain>> {
        let _ = addresses;
        self.chain(name)
    }

    /// The number of rules in the chain and of rules that lead to it, together; `None` when it or its table is missing.
    /// Costs the same however many there are.
    fn uses(&mut self, name: &str) -> Result<Option<usize>>;
}

/// One change of a table. The changes of one plan happen together or not at all, in this order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Edit {
    /// Makes a chain that does not exist.
    CreateChain(String),
    /// Puts a rule at the end of a chain. A missing base chain, and the table, is created.
    Append {
        /// Its name.
        chain: String,
        /// What is added.
        rule: Rule,
    },
    /// Puts a rule at the start of a chain. Otherwise as `Append`.
    Prepend {
        /// Its name.
        chain: String,
        /// What is added.
        rule: Rule,
    },
    /// Deletes one rule.
    Delete {
        /// Its name.
        chain: String,
        /// As found by [`View::chain`].
        id: u64,
    },
    /// Deletes all rules of a chain.
    Flush(String),
    /// Deletes a user chain and the rules in it.
    DeleteChain(String),
}

impl Table {
    /// The kernel's name for it.
    pub fn name(self) -> &'static str {
        match self {
            Table::Filter => "filter",
            Table::Nat => "nat",
            Table::Raw => "raw",
            Table::Mangle => "mangle",
        }
    }
}

impl Edit {
    /// Makes a chain.
    pub fn create(chain: &str) -> Self {
        Edit::CreateChain(chain.to_string())
    }

    /// Puts a rule at the end of a chain.
    pub fn append(chain: &str, rule: Rule) -> Self {
        Edit::Append { chain: chain.to_string(), rule }
    }

    /// Puts a rule at the start of a chain.
    pub fn prepend(chain: &str, rule: Rule) -> Self {
        Edit::Prepend { chain: chain.to_string(), rule }
    }

    /// Deletes one rule of a chain.
    pub fn delete(chain: &str, id: u64) -> Self {
        Edit::Delete { chain: chain.to_string(), id }
    }
}

impl StoredChain {
    /// True when an identical rule is in the chain.
    pub fn holds(&self, rule: &Rule) -> bool {
        self.rules.iter().any(|stored| stored.is(rule))
    }

    /// Deletes the rules for which `chosen` is true; `name` is the chain's.
    pub fn deletions(&self, name: &str, chosen: impl Fn(&StoredRule) -> bool) -> Vec<Edit> {
        self.rules.iter().filter(|stored| chosen(stored)).map(|stored| Edit::delete(name, stored.id)).collect()
    }
}

impl StoredRule {
    /// True when it is this rule, whole.
    pub fn is(&self, rule: &Rule) -> bool {
        !self.foreign && self.rule.means(rule)
    }
}
