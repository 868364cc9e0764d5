//! Firewall rules as data, and the backends that render them.
//!
//! A caller says which chains and rules a table shall have or lose; a backend turns that into what the kernel stores,
//! in one atomic step for each address family. Existing rules are understood by meaning, not by bytes, because programs
//! of different ages write the same rule differently; what we don't understand stays as it is.
//!
//! - `iptables_nft`: nf_tables over nfnetlink, with the expressions that the program `iptables-nft` writes and reads.
//! - `iptables_legacy`: the x_tables blob over socket options, under iptables' lock.
//! - [`flavour`]: which of the two a host uses.
//! - [`masquerade`]: source NAT of containers (the reference's `ipMasq`).
//!
//! Both backends offer the same door, `edit`: a plan looks at a table through `View` and answers with `Edit`s. It
//! may be asked again when the table has changed meanwhile, so it must not keep anything from one time to the next.

mod extensions;
pub mod firewalld;
pub mod flavour;
#[cfg(test)]
mod golden;
mod iptables_legacy;
mod iptables_nft;
pub mod masquerade;
mod names;

use ipnet::IpNet;

use crate::error::{Errno, Error, Result};

/// The connection of one command to nf_tables, opened when first needed, in the namespace that is current then.
///
/// Keep it until the command's other work is done: after something was deleted, the kernel makes whoever closes such a
/// socket wait for the end of an RCU grace period (about 12 ms). Other deletions, of a link for instance, wait for one
/// too, and then it is the same.
#[derive(Debug, Default)]
pub struct Session {
    /// `Some(None)`: the kernel has no nf_tables.
    nftables: Option<Option<iptables_nft::Nftables>>,
}

/// Which of the two rule sets of the kernel: IPv4's or IPv6's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Family {
    /// What `iptables` shows.
    V4,
    /// What `ip6tables` shows.
    V6,
}

/// A table of iptables.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Table {
    /// Address translation.
    Nat,
}

/// The chain that forwarded and outgoing packets pass last.
pub const POSTROUTING: &str = "POSTROUTING";

/// A rule: every match must apply, then the target is taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    /// Conditions, in the order in which iptables stores them: source before destination.
    pub matches: Vec<Match>,
    /// Text of the `comment` match.
    pub comment: Option<String>,
    /// What happens to the packet. `None` only in rules read from the kernel that do something we don't model.
    pub target: Option<Target>,
}

/// A condition of a rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Match {
    /// The packet's address is inside (or, negated, outside) a network.
    Address {
        /// Which of the packet's two addresses.
        side: Side,
        /// True for `!`.
        negated: bool,
        /// The network; host bits are ignored.
        network: IpNet,
    },
}

/// Which address of a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// `-s`
    Source,
    /// `-d`
    Destination,
}

/// What a rule does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// The packet passes.
    Accept,
    /// Goes on in a user chain. The packet comes back when that chain has no verdict.
    Jump(String),
    /// The source address becomes that of the outgoing interface.
    Masquerade,
}

/// A rule as found in the kernel.
#[derive(Debug, Clone)]
struct StoredRule {
    /// The backend's name for it, valid until the next change of the table.
    id: u64,
    /// What we understand of it.
    rule: Rule,
    /// It has parts that we don't understand, so it equals none of ours.
    foreign: bool,
}

/// A chain as found in the kernel.
#[derive(Debug, Clone)]
struct StoredChain {
    rules: Vec<StoredRule>,
    /// Rules anywhere in the table that jump or go to this chain.
    references: usize,
}

/// A table as it was at one moment.
trait View {
    /// The chain of this name; `None` when it or its table is missing.
    fn chain(&mut self, name: &str) -> Result<Option<StoredChain>>;
}

/// One change of a table. The changes of one plan happen together or not at all.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Edit {
    /// Makes a user chain that does not exist.
    CreateChain(String),
    /// Puts a rule at the end of a chain. A missing built-in chain, and its table, is created.
    Append { chain: String, rule: Rule },
    /// Puts a rule at the start of a chain. Otherwise as `Append`.
    Prepend { chain: String, rule: Rule },
    /// Deletes one rule.
    Delete { chain: String, id: u64 },
    /// Deletes a user chain and the rules in it.
    DeleteChain(String),
}

impl Session {
    /// nf_tables, if the kernel has it.
    fn nftables(&mut self) -> Result<Option<&mut iptables_nft::Nftables>> {
        if self.nftables.is_none() {
            self.nftables = Some(iptables_nft::Nftables::open_if_supported()?);
        }
        Ok(self.nftables.as_mut().and_then(Option::as_mut))
    }

    /// nf_tables, for a caller that cannot do without.
    fn require_nftables(&mut self) -> Result<&mut iptables_nft::Nftables> {
        self.nftables()?.ok_or_else(|| Error::from(Errno::EOPNOTSUPP).context("the kernel has no nf_tables"))
    }
}

impl Family {
    /// Both families, in the order in which they are worked on.
    pub const BOTH: [Family; 2] = [Family::V4, Family::V6];

    /// The family of a network's addresses.
    pub fn of(network: &IpNet) -> Self {
        match network {
            IpNet::V4(_) => Family::V4,
            IpNet::V6(_) => Family::V6,
        }
    }

    /// The program whose rules these are, for error texts.
    fn program(self) -> &'static str {
        match self {
            Family::V4 => "iptables",
            Family::V6 => "ip6tables",
        }
    }
}

impl Table {
    /// The kernel's name for it.
    fn name(self) -> &'static str {
        match self {
            Table::Nat => "nat",
        }
    }
}

impl Match {
    /// `-s NETWORK`
    pub fn source(network: IpNet) -> Self {
        Match::Address { side: Side::Source, negated: false, network: network.trunc() }
    }

    /// `-d NETWORK`
    pub fn destination(network: IpNet) -> Self {
        Match::Address { side: Side::Destination, negated: false, network: network.trunc() }
    }

    /// `! -d NETWORK`
    pub fn not_destination(network: IpNet) -> Self {
        Match::Address { side: Side::Destination, negated: true, network: network.trunc() }
    }
}

impl Rule {
    /// True when the rule jumps to this chain.
    fn jumps_to(&self, chain: &str) -> bool {
        matches!(&self.target, Some(Target::Jump(target)) if target == chain)
    }

    /// The source network that the rule demands, if it does.
    fn source(&self) -> Option<IpNet> {
        self.matches.iter().find_map(|condition| match condition {
            Match::Address { side: Side::Source, negated: false, network } => Some(*network),
            Match::Address { .. } => None,
        })
    }
}

impl StoredChain {
    /// True when an identical rule is in the chain.
    fn holds(&self, rule: &Rule) -> bool {
        self.rules.iter().any(|stored| !stored.foreign && stored.rule == *rule)
    }
}
