//! Rules, chains and tables as nf_tables messages.

use crate::firewall::nf_tables::expressions::expressions;
use crate::firewall::nf_tables::location::{Location, Manner};
use crate::firewall::place::{BaseChain, ChainKind};
use crate::firewall::rule::Rule;
use crate::netlink::Message;
use crate::netlink::message::{CREATE, EXCL};
use crate::netlink::nftables::*;
use crate::netlink::route::AF_UNSPEC;

/// Kind of user data that is ours: the note of a rule. Programs skip kinds that they don't know.
pub(super) const USER_DATA_NOTE: u8 = 0xc1;
/// Longest comment that nft takes, without its NUL (`NFTNL_UDATA_COMMENT_MAXLEN`).
const COMMENT_LENGTH: usize = 128;
/// Kind, length and NUL of an entry of user data.
const USER_DATA_FRAME: usize = 3;

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
    request(NFT_MSG_GETGEN, 0, AF_UNSPEC)
}

/// A request about `protocols` (`NFPROTO_…`) with its `struct nfgenmsg`.
pub(super) fn request(kind: u16, flags: u16, protocols: u8) -> Message {
    let mut message = Message::new(kind, flags);
    message.raw(&[protocols, 0, 0, 0]);
    message
}

/// Makes the table unless it exists.
pub(super) fn new_table(location: &Location) -> Message {
    let mut message = request(NFT_MSG_NEWTABLE, CREATE, location.protocols);
    message.string(NFTA_TABLE_NAME, location.name);
    if let Manner::Native(table) = location.manner {
        object_comment(&mut message, NFTA_TABLE_USERDATA, table.comment);
    }
    message
}

/// Makes a base chain with policy ACCEPT, which is what a chain gets that names none. Should somebody else have just
/// made it, theirs keeps its policy.
pub(super) fn new_base_chain(location: &Location, base: &BaseChain) -> Message {
    let mut message = named_chain(NFT_MSG_NEWCHAIN, location, base.name);
    message.add_flags(CREATE);
    message.nested(NFTA_CHAIN_HOOK, |hook| {
        hook.be32(NFTA_HOOK_HOOKNUM, base.hook as u32).be32(NFTA_HOOK_PRIORITY, base.priority as u32);
    });
    message.string(
        NFTA_CHAIN_TYPE,
        match base.kind {
            ChainKind::Filter => "filter",
            ChainKind::Nat => "nat",
        },
    );
    chain_comment(&mut message, location, base.name);
    message
}

/// Makes a user chain; `EEXIST` when there is one.
pub(super) fn new_chain(location: &Location, name: &str) -> Message {
    let mut message = named_chain(NFT_MSG_NEWCHAIN, location, name);
    message.add_flags(CREATE | EXCL);
    chain_comment(&mut message, location, name);
    message
}

/// Names a chain: to read it, or to delete it.
pub(super) fn named_chain(kind: u16, location: &Location, name: &str) -> Message {
    let mut message = request(kind, 0, location.protocols);
    message.string(NFTA_CHAIN_TABLE, location.name).string(NFTA_CHAIN_NAME, name);
    message
}

/// Names the rules of a chain, or one of them: to read or to delete them.
pub(super) fn named_rules(kind: u16, location: &Location, chain: &str, handle: Option<u64>) -> Message {
    let mut message = request(kind, 0, location.protocols);
    message.string(NFTA_RULE_TABLE, location.name).string(NFTA_RULE_CHAIN, chain);
    if let Some(handle) = handle {
        message.be64(NFTA_RULE_HANDLE, handle);
    }
    message
}

/// Puts a rule at the end of a chain (`APPEND`) or at its start (no further flag).
pub(super) fn new_rule(flags: u16, location: &Location, chain: &str, rule: &Rule) -> Message {
    let mut message = named_rules(NFT_MSG_NEWRULE, location, chain, None);
    message.add_flags(CREATE | flags);
    message.nested(NFTA_RULE_EXPRESSIONS, |list| expressions(list, location, rule));
    match (location.manner, rule.protocol()) {
        (Manner::Native(_), _) => {
            message.attribute(NFTA_RULE_USERDATA, &rule_user_data(rule));
        }
        // Extensions of x_tables (multiport) look at the protocol here.
        (Manner::Iptables(_), Some(protocol)) => {
            message.nested(NFTA_RULE_COMPAT, |compat| {
                compat.be32(NFTA_RULE_COMPAT_PROTO, protocol.number().into()).be32(NFTA_RULE_COMPAT_FLAGS, 0);
            });
        }
        (Manner::Iptables(_), None) => {}
    }
    message
}

fn chain_comment(message: &mut Message, location: &Location, chain: &str) {
    if let Manner::Native(table) = location.manner
        && let Some((_, text)) = table.chain_comments.iter().find(|(name, _)| *name == chain)
    {
        object_comment(message, NFTA_CHAIN_USERDATA, text);
    }
}

fn object_comment(message: &mut Message, attribute: u16, text: &str) {
    if !text.is_empty() {
        message.attribute(attribute, &user_data(NFTNL_UDATA_COMMENT, text, COMMENT_LENGTH));
    }
}

/// Comment and note; what does not fit is cut. A comment alone may be longer than those that nft takes: the reference's
/// spoof check writes such comments, past nft's parser, in JSON.
fn rule_user_data(rule: &Rule) -> Vec<u8> {
    let room = |used: usize| NFT_USERDATA_MAXLEN.saturating_sub(used + USER_DATA_FRAME).min(u8::MAX as usize - 1);
    let room_for_comment = if rule.note.is_some() { COMMENT_LENGTH } else { room(0) };
    let comment = rule.comment.as_deref().map(|text| user_data(NFTNL_UDATA_COMMENT, text, room_for_comment));
    let mut data = comment.unwrap_or_default();
    if let Some(note) = &rule.note {
        let note = user_data(USER_DATA_NOTE, note, room(data.len()));
        data.extend_from_slice(&note);
    }
    data
}

/// One entry of user data: kind, length, text with NUL (libnftnl's `struct nftnl_udata`).
fn user_data(kind: u8, text: &str, room: usize) -> Vec<u8> {
    let text = text.get(..text.floor_char_boundary(room)).unwrap_or_default();
    let mut data = vec![kind, (text.len() + 1) as u8];
    data.extend_from_slice(text.as_bytes());
    data.push(0);
    data
}
