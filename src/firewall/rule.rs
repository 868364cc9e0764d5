//! Rules as data: what a packet must be like, and what happens to it.

use std::net::{IpAddr, SocketAddr};

use ipnet::IpNet;

/// Which of the two rule sets of the kernel: IPv4's or IPv6's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Family {
    /// What `iptables` shows.
    V4,
    /// What `ip6tables` shows.
    V6,
}

/// A rule: every match must apply, then the target is taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    /// Conditions. Backends that store some of them elsewhere than in a list (x_tables: addresses, interfaces, protocol)
    /// read them back in another order, so rules are compared by [`Rule::means`].
    pub matches: Vec<Match>,
    /// Text for people, and for whoever wants to find the rule again. iptables has 255 bytes for it, nf_tables' own rules
    /// have 253, of which nft, when it reads its own listing, takes 128.
    pub comment: Option<String>,
    /// What programs other than us skip: a second, private text beside the comment. Only nf_tables' own rules can carry it.
    pub note: Option<String>,
    /// What happens to the packet. `None` only in rules read from the kernel that do something we don't model.
    pub target: Option<Target>,
}

/// A condition of a rule.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Match {
    /// The packet's address is inside (or, negated, outside) a network: `-s`, `-d`.
    Address {
        /// Which of the packet's two addresses.
        side: Side,
        /// True for `!`.
        negated: bool,
        /// The network; host bits are ignored.
        network: IpNet,
    },
    /// The packet came in or goes out by an interface: `-i`, `-o`.
    Interface {
        /// Which of the two.
        direction: Direction,
        /// True for `!`.
        negated: bool,
        /// Its whole name.
        name: String,
    },
    /// `-p`
    Protocol(Protocol),
    /// `--dport`. Goes with [`Match::Protocol`].
    DestinationPort(u16),
    /// `-m multiport --dports`: one of at most 15. Goes with [`Match::Protocol`].
    DestinationPorts(Vec<u16>),
    /// `-m addrtype --dst-type LOCAL`: the host's own address.
    LocalDestination,
    /// `-m mark --mark VALUE/MASK`
    Mark {
        /// True for `!`.
        negated: bool,
        /// The bits in `mask` that are set.
        value: u32,
        /// The bits that are compared.
        mask: u32,
    },
    /// `-m conntrack --ctstate`: one of a set of states (`NF_CT_STATE_BIT`).
    ConnectionState(u16),
    /// `ct status dnat`: the connection's destination has been translated. Only in tables of our own.
    DestinationTranslated,
    /// `ether saddr`: the sender's hardware address. Only in tables of our own.
    HardwareSource([u8; 6]),
}

#[cfg(test)]
thread_local! {
    /// How often rules were compared, for tests of what that costs.
    pub(crate) static COMPARISONS: std::cell::Cell<usize> = const { std::cell::Cell::new(0) };
}

/// Bits of [`Match::ConnectionState`] for `RELATED,ESTABLISHED`.
pub const RELATED_OR_ESTABLISHED: u16 = 0b110;

/// Which address of a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Side {
    /// `-s`
    Source,
    /// `-d`
    Destination,
}

/// Which interface of a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Direction {
    /// `-i`
    In,
    /// `-o`
    Out,
}

/// A protocol with ports.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Protocol {
    /// 132
    Sctp,
    /// 6
    Tcp,
    /// 17
    Udp,
}

/// What a rule does.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Target {
    /// The packet passes.
    Accept,
    /// The packet is gone.
    Drop,
    /// Goes on behind the jump that led here.
    Return,
    /// Goes on in a user chain. The packet comes back when that chain has no verdict.
    Jump(String),
    /// Goes on in a user chain and does not come back.
    Goto(String),
    /// The source address becomes that of the outgoing interface.
    Masquerade,
    /// The destination becomes this address and port.
    DestinationNat(SocketAddr),
    /// The bits in the mask become those of the value: `MARK --set-xmark VALUE/MASK`.
    SetMark {
        /// The new bits.
        value: u32,
        /// The bits that change.
        mask: u32,
    },
}

impl Family {
    /// Both families, in the order in which they are worked on.
    pub const BOTH: [Family; 2] = [Family::V4, Family::V6];

    /// The family of a network's addresses.
    pub fn of(network: &IpNet) -> Self {
        Family::of_address(network.addr())
    }

    /// The family of an address.
    pub fn of_address(address: IpAddr) -> Self {
        if address.is_ipv4() { Family::V4 } else { Family::V6 }
    }

    /// The program whose rules these are, for error texts.
    pub fn program(self) -> &'static str {
        match self {
            Family::V4 => "iptables",
            Family::V6 => "ip6tables",
        }
    }
}

impl Protocol {
    /// Every protocol we know.
    pub const ALL: [Protocol; 3] = [Protocol::Sctp, Protocol::Tcp, Protocol::Udp];

    /// As configurations, iptables and nft spell it.
    pub fn name(self) -> &'static str {
        match self {
            Protocol::Sctp => "sctp",
            Protocol::Tcp => "tcp",
            Protocol::Udp => "udp",
        }
    }

    /// The number in the IP header.
    pub fn number(self) -> u8 {
        match self {
            Protocol::Sctp => 132,
            Protocol::Tcp => 6,
            Protocol::Udp => 17,
        }
    }

    /// The protocol of this number, if we know it.
    pub fn of_number(number: u8) -> Option<Self> {
        Protocol::ALL.into_iter().find(|protocol| protocol.number() == number)
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

    /// `-i NAME`
    pub fn comes_in_by(name: &str) -> Self {
        Match::Interface { direction: Direction::In, negated: false, name: name.to_string() }
    }

    /// `-o NAME`
    pub fn goes_out_by(name: &str) -> Self {
        Match::Interface { direction: Direction::Out, negated: false, name: name.to_string() }
    }

    /// `! -o NAME`
    pub fn goes_not_out_by(name: &str) -> Self {
        Match::Interface { direction: Direction::Out, negated: true, name: name.to_string() }
    }
}

impl Rule {
    /// A rule without a comment.
    pub fn new(matches: Vec<Match>, target: Target) -> Self {
        Rule { matches, comment: None, note: None, target: Some(target) }
    }

    /// The same with a comment.
    pub fn commented(mut self, text: &str) -> Self {
        self.comment = Some(text.to_string());
        self
    }

    /// The same with a note.
    pub fn noted(mut self, text: &str) -> Self {
        self.note = Some(text.to_string());
        self
    }

    /// True when both say the same, in whatever order.
    pub fn means(&self, other: &Rule) -> bool {
        #[cfg(test)]
        COMPARISONS.with(|count| count.set(count.get() + 1));
        self.target == other.target
            && self.comment == other.comment
            && self.note == other.note
            && self.matches.len() == other.matches.len()
            && self.matches.iter().all(|condition| other.matches.contains(condition))
    }

    /// True when the rule jumps to this chain.
    pub fn jumps_to(&self, chain: &str) -> bool {
        matches!(&self.target, Some(Target::Jump(target)) if target == chain)
    }

    /// The source network that the rule demands, if it does.
    pub fn source(&self) -> Option<IpNet> {
        self.network(Side::Source)
    }

    /// The destination network that the rule demands, if it does.
    pub fn destination(&self) -> Option<IpNet> {
        self.network(Side::Destination)
    }

    fn network(&self, wanted: Side) -> Option<IpNet> {
        self.matches.iter().find_map(|condition| match condition {
            Match::Address { side, negated: false, network } if *side == wanted => Some(*network),
            _ => None,
        })
    }

    /// The one destination port that the rule demands, if it does.
    pub fn destination_port(&self) -> Option<u16> {
        self.matches.iter().find_map(|condition| match condition {
            Match::DestinationPort(port) => Some(*port),
            _ => None,
        })
    }

    /// The protocol that the rule demands, if it does.
    pub fn protocol(&self) -> Option<Protocol> {
        self.matches.iter().find_map(|condition| match condition {
            Match::Protocol(protocol) => Some(*protocol),
            _ => None,
        })
    }
}
