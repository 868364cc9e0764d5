//! Rules, chains and tables as nf_tables messages, with the expressions that iptables-nft 1.8.9 writes.

use ipnet::IpNet;

use crate::firewall::extensions::{comment_info, masquerade_info, octets};
use crate::firewall::{Family, Match, Rule, Side, Table, Target};
use crate::netlink::Message;
use crate::netlink::message::{CREATE, EXCL};
use crate::netlink::nftables::*;
use crate::netlink::route::{AF_INET, AF_INET6, AF_UNSPEC};

/// Start and end of a transaction. With a generation, the kernel refuses it (`ERESTART`) when anything has changed since.
pub(super) fn batch(generation: Option<u32>) -> (Message, Message) {
    let [high, low] = NFNL_SUBSYS_NFTABLES.to_be_bytes();
    let header = [AF_UNSPEC, 0, high, low];
    let (mut begin, mut end) = (Message::new(NFNL_MSG_BATCH_BEGIN, 0), Message::new(NFNL_MSG_BATCH_END, 0));
    begin.raw(&header);
    end.raw(&header);
    if let Some(generation) = generation {
        begin.be32(NFNL_BATCH_GENID, generation);
    }
    (begin, end)
}

/// Asks for the generation of the whole rule set.
pub(super) fn generation() -> Message {
    let mut message = Message::new(NFT_MSG_GETGEN, 0);
    message.raw(&[AF_UNSPEC, 0, 0, 0]);
    message
}

/// A request with its `struct nfgenmsg`.
pub(super) fn request(kind: u16, flags: u16, family: Family) -> Message {
    let mut message = Message::new(kind, flags);
    message.raw(&[address_family(family), 0, 0, 0]);
    message
}

fn address_family(family: Family) -> u8 {
    match family {
        Family::V4 => AF_INET,
        Family::V6 => AF_INET6,
    }
}

/// Makes the table unless it exists.
pub(super) fn new_table(family: Family, table: Table) -> Message {
    let mut message = request(NFT_MSG_NEWTABLE, CREATE, family);
    message.string(NFTA_TABLE_NAME, table.name());
    message
}

/// Makes a built-in chain with policy ACCEPT, which is what a chain gets that names none. Should somebody else have just
/// made it, theirs keeps its policy.
pub(super) fn new_base_chain(family: Family, table: Table, base: &BaseChain) -> Message {
    let mut message = request(NFT_MSG_NEWCHAIN, CREATE, family);
    message.string(NFTA_CHAIN_TABLE, table.name()).string(NFTA_CHAIN_NAME, base.name);
    message.nested(NFTA_CHAIN_HOOK, |hook| {
        hook.be32(NFTA_HOOK_HOOKNUM, base.hook).be32(NFTA_HOOK_PRIORITY, base.priority as u32);
    });
    message.string(NFTA_CHAIN_TYPE, base.kind);
    message
}

/// Makes a user chain; `EEXIST` when there is one.
pub(super) fn new_chain(family: Family, table: Table, name: &str) -> Message {
    let mut message = request(NFT_MSG_NEWCHAIN, CREATE | EXCL, family);
    message.string(NFTA_CHAIN_TABLE, table.name()).string(NFTA_CHAIN_NAME, name);
    message
}

/// Names a chain: to read it, or to delete it.
pub(super) fn named_chain(kind: u16, family: Family, table: Table, name: &str) -> Message {
    let mut message = request(kind, 0, family);
    message.string(NFTA_CHAIN_TABLE, table.name()).string(NFTA_CHAIN_NAME, name);
    message
}

/// Names the rules of a chain, or one of them: to read or to delete them.
pub(super) fn named_rules(kind: u16, family: Family, table: Table, chain: &str, handle: Option<u64>) -> Message {
    let mut message = request(kind, 0, family);
    message.string(NFTA_RULE_TABLE, table.name()).string(NFTA_RULE_CHAIN, chain);
    if let Some(handle) = handle {
        message.be64(NFTA_RULE_HANDLE, handle);
    }
    message
}

/// Puts a rule at the end of a chain (`APPEND`) or at its start (no further flag).
pub(super) fn new_rule(flags: u16, family: Family, table: Table, chain: &str, rule: &Rule) -> Message {
    let mut message = request(NFT_MSG_NEWRULE, CREATE | flags, family);
    message.string(NFTA_RULE_TABLE, table.name()).string(NFTA_RULE_CHAIN, chain);
    message.nested(NFTA_RULE_EXPRESSIONS, |list| expressions(list, family, rule));
    message
}

/// A built-in chain of iptables: a base chain of nf_tables.
#[derive(Debug)]
pub(super) struct BaseChain {
    name: &'static str,
    kind: &'static str,
    hook: u32,
    priority: i32,
}

/// The built-in chain of this name, if it is one.
pub(super) fn base_chain(table: Table, name: &str) -> Option<&'static BaseChain> {
    const NAT: [BaseChain; 4] = [
        BaseChain { name: "PREROUTING", kind: "nat", hook: 0, priority: -100 },
        BaseChain { name: "INPUT", kind: "nat", hook: 1, priority: 100 },
        BaseChain { name: "OUTPUT", kind: "nat", hook: 3, priority: -100 },
        BaseChain { name: "POSTROUTING", kind: "nat", hook: 4, priority: 100 },
    ];
    let chains = match table {
        Table::Nat => &NAT,
    };
    chains.iter().find(|base| base.name == name)
}

fn expressions(list: &mut Message, family: Family, rule: &Rule) {
    for condition in &rule.matches {
        let Match::Address { side, negated, network } = condition;
        address(list, *side, *negated, network);
    }
    if let Some(text) = &rule.comment {
        expression(list, "match", |data| {
            data.string(NFTA_MATCH_NAME, "comment").be32(NFTA_MATCH_REV, 0);
            data.attribute(NFTA_MATCH_INFO, &comment_info(text));
        });
    }
    expression(list, "counter", |data| {
        data.be64(NFTA_COUNTER_BYTES, 0).be64(NFTA_COUNTER_PACKETS, 0);
    });
    match &rule.target {
        Some(Target::Accept) => verdict(list, NF_ACCEPT, None),
        Some(Target::Jump(chain)) => verdict(list, NFT_JUMP, Some(chain)),
        Some(Target::Masquerade) => masquerade(list, family),
        None => {}
    }
}

fn expression(list: &mut Message, name: &str, fill: impl FnOnce(&mut Message)) {
    list.nested(NFTA_LIST_ELEM, |element| {
        element.string(NFTA_EXPR_NAME, name).nested(NFTA_EXPR_DATA, fill);
    });
}

/// Loads the address, or only the bytes that a prefix of whole bytes covers, masks other prefixes, and compares.
fn address(list: &mut Message, side: Side, negated: bool, network: &IpNet) {
    let (bytes, mask) = octets(network);
    let prefix = usize::from(network.prefix_len());
    let whole_bytes = prefix.is_multiple_of(8);
    let length = if whole_bytes { prefix / 8 } else { bytes.len() };
    if length == 0 {
        return; // Every address matches.
    }
    let value = bytes.get(..length).unwrap_or_default();
    expression(list, "payload", |data| {
        data.be32(NFTA_PAYLOAD_DREG, NFT_REG_1).be32(NFTA_PAYLOAD_BASE, NFT_PAYLOAD_NETWORK_HEADER);
        data.be32(NFTA_PAYLOAD_OFFSET, offset(Family::of(network), side)).be32(NFTA_PAYLOAD_LEN, length as u32);
    });
    if !whole_bytes {
        expression(list, "bitwise", |data| masked(data, &mask));
    }
    expression(list, "cmp", |data| {
        let operation = if negated { NFT_CMP_NEQ } else { NFT_CMP_EQ };
        data.be32(NFTA_CMP_SREG, NFT_REG_1).be32(NFTA_CMP_OP, operation);
        data.nested(NFTA_CMP_DATA, |wrapped| _ = wrapped.attribute(NFTA_DATA_VALUE, value));
    });
}

fn masked(data: &mut Message, mask: &[u8]) {
    data.be32(NFTA_BITWISE_SREG, NFT_REG_1).be32(NFTA_BITWISE_DREG, NFT_REG_1);
    data.be32(NFTA_BITWISE_LEN, mask.len() as u32);
    data.nested(NFTA_BITWISE_MASK, |wrapped| _ = wrapped.attribute(NFTA_DATA_VALUE, mask));
    let nothing = vec![0; mask.len()];
    data.nested(NFTA_BITWISE_XOR, |wrapped| _ = wrapped.attribute(NFTA_DATA_VALUE, &nothing));
}

/// Where the address is in the packet's network header.
pub(super) fn offset(family: Family, side: Side) -> u32 {
    match (family, side) {
        (Family::V4, Side::Source) => 12,
        (Family::V4, Side::Destination) => 16,
        (Family::V6, Side::Source) => 8,
        (Family::V6, Side::Destination) => 24,
    }
}

fn verdict(list: &mut Message, code: u32, chain: Option<&str>) {
    expression(list, "immediate", |data| {
        data.be32(NFTA_IMMEDIATE_DREG, NFT_REG_VERDICT).nested(NFTA_IMMEDIATE_DATA, |wrapped| {
            wrapped.nested(NFTA_DATA_VERDICT, |verdict| {
                verdict.be32(NFTA_VERDICT_CODE, code);
                if let Some(chain) = chain {
                    verdict.string(NFTA_VERDICT_CHAIN, chain);
                }
            });
        });
    });
}

fn masquerade(list: &mut Message, family: Family) {
    expression(list, "target", |data| {
        data.string(NFTA_TARGET_NAME, "MASQUERADE").be32(NFTA_TARGET_REV, 0);
        data.attribute(NFTA_TARGET_INFO, masquerade_info(family));
    });
}
