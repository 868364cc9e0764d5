//! Rules of the kernel read by meaning: any way of saying `-s 10.0.0.0/24` is understood, and what says something else
//! makes the rule a foreign one.

use super::encode::offset;
use crate::error::{Error, Result};
use crate::firewall::extensions::{is_plain, masquerade_info, network, prefix_length};
use crate::firewall::{Family, Match, Rule, Side, StoredRule, Target};
use crate::netlink::nftables::*;
use crate::netlink::{Attribute, Attributes};

/// Length of `struct nfgenmsg`.
const HEADER_LENGTH: usize = 4;

/// The attributes behind a message's `struct nfgenmsg`.
pub(super) fn attributes(body: &[u8]) -> Result<Attributes<'_>> {
    Attributes::after(body, HEADER_LENGTH)
}

/// The rule in an `NFT_MSG_NEWRULE` message.
pub(super) fn rule(body: &[u8], family: Family) -> Result<StoredRule> {
    let attributes = attributes(body)?;
    let id = attributes.find(NFTA_RULE_HANDLE).and_then(Attribute::be64);
    let id = id.ok_or_else(|| Error::internal("rule without a handle from the kernel"))?;
    let mut reader = Reader::new(family);
    if let Some(list) = attributes.find(NFTA_RULE_EXPRESSIONS) {
        list.nested()?.for_each(|element| {
            if reader.expression(element).is_none() {
                reader.foreign = true;
            }
        });
    }
    let foreign = reader.foreign || reader.loaded.is_some();
    Ok(StoredRule { id, rule: reader.rule, foreign })
}

/// Reads expressions one after another. Each method gives `None` for what it doesn't understand.
struct Reader {
    family: Family,
    rule: Rule,
    foreign: bool,
    /// The address in the register, until a comparison consumes it.
    loaded: Option<Loaded>,
}

struct Loaded {
    register: u32,
    side: Side,
    length: usize,
    mask: Option<Vec<u8>>,
}

impl Reader {
    fn new(family: Family) -> Self {
        let rule = Rule { matches: Vec::new(), comment: None, target: None };
        Reader { family, rule, foreign: false, loaded: None }
    }

    fn expression(&mut self, element: Attribute<'_>) -> Option<()> {
        let element = element.nested().ok()?;
        let name = element.find(NFTA_EXPR_NAME)?.text();
        let data = match element.find(NFTA_EXPR_DATA) {
            Some(data) => data.nested().ok()?,
            None => Attributes::parse(&[]).ok()?,
        };
        match name.as_str() {
            "payload" => self.payload(data),
            "bitwise" => self.bitwise(data),
            "cmp" => self.compare(data),
            "counter" => Some(()),
            "match" => self.xt_match(data),
            "immediate" => self.immediate(data),
            "target" => self.xt_target(data),
            "masq" if data.count() == 0 => self.target(Target::Masquerade),
            _ => None,
        }
    }

    fn payload(&mut self, data: Attributes<'_>) -> Option<()> {
        let number = |kind| data.find(kind).and_then(Attribute::be32);
        let at = number(NFTA_PAYLOAD_OFFSET)?;
        let side = [Side::Source, Side::Destination].into_iter().find(|side| offset(self.family, *side) == at)?;
        let length = number(NFTA_PAYLOAD_LEN)? as usize;
        let sound = number(NFTA_PAYLOAD_BASE)? == NFT_PAYLOAD_NETWORK_HEADER
            && (1..=address_length(self.family)).contains(&length)
            && self.loaded.is_none();
        let register = number(NFTA_PAYLOAD_DREG)?;
        self.loaded = Some(Loaded { register, side, length, mask: None }).filter(|_| sound);
        sound.then_some(())
    }

    fn bitwise(&mut self, data: Attributes<'_>) -> Option<()> {
        let mut loaded = self.loaded.take()?;
        let value = |kind| data.find(kind)?.nested().ok()?.find(NFTA_DATA_VALUE).map(|value| value.payload);
        let register = |kind| data.find(kind).and_then(Attribute::be32);
        let (mask, xor) = (value(NFTA_BITWISE_MASK)?, value(NFTA_BITWISE_XOR)?);
        let sound = register(NFTA_BITWISE_SREG) == Some(loaded.register)
            && xor.iter().all(|byte| *byte == 0)
            && mask.len() == loaded.length
            && loaded.mask.is_none();
        loaded.register = register(NFTA_BITWISE_DREG)?;
        loaded.mask = Some(mask.to_vec());
        self.loaded = Some(loaded).filter(|_| sound);
        sound.then_some(())
    }

    fn compare(&mut self, data: Attributes<'_>) -> Option<()> {
        let loaded = self.loaded.take()?;
        let number = |kind| data.find(kind).and_then(Attribute::be32);
        let value = data.find(NFTA_CMP_DATA)?.nested().ok()?.find(NFTA_DATA_VALUE)?.payload;
        if number(NFTA_CMP_SREG)? != loaded.register || value.len() != loaded.length {
            return None;
        }
        let negated = match number(NFTA_CMP_OP)? {
            NFT_CMP_EQ => false,
            NFT_CMP_NEQ => true,
            _ => return None,
        };
        let prefix = match loaded.mask {
            Some(mask) => prefix_length(&mask)?,
            None => (loaded.length * 8) as u8,
        };
        let network = network(self.family, value, prefix)?;
        self.rule.matches.push(Match::Address { side: loaded.side, negated, network });
        Some(())
    }

    fn xt_match(&mut self, data: Attributes<'_>) -> Option<()> {
        let is_comment = data.find(NFTA_MATCH_NAME)?.text() == "comment";
        if !is_comment || self.rule.comment.is_some() {
            return None;
        }
        self.rule.comment = Some(data.find(NFTA_MATCH_INFO)?.text());
        Some(())
    }

    fn xt_target(&mut self, data: Attributes<'_>) -> Option<()> {
        let is_masquerade = data.find(NFTA_TARGET_NAME)?.text() == "MASQUERADE";
        let revision = data.find(NFTA_TARGET_REV)?.be32()?;
        let info = data.find(NFTA_TARGET_INFO)?.payload;
        let plain = revision == 0 && is_plain(info, masquerade_info(self.family));
        if is_masquerade && plain { self.target(Target::Masquerade) } else { None }
    }

    fn immediate(&mut self, data: Attributes<'_>) -> Option<()> {
        let verdict = data.find(NFTA_IMMEDIATE_DATA)?.nested().ok()?.find(NFTA_DATA_VERDICT)?.nested().ok()?;
        let chain = || verdict.find(NFTA_VERDICT_CHAIN).map(Attribute::text);
        match verdict.find(NFTA_VERDICT_CODE)?.be32()? {
            NF_ACCEPT => self.target(Target::Accept),
            NFT_JUMP => self.target(Target::Jump(chain()?)),
            // Refers to the chain as a jump does, but is no rule of ours.
            NFT_GOTO => self.target(Target::Jump(chain()?)).and(None),
            _ => None,
        }
    }

    fn target(&mut self, target: Target) -> Option<()> {
        let first = self.rule.target.is_none();
        self.rule.target.get_or_insert(target);
        first.then_some(())
    }
}

fn address_length(family: Family) -> usize {
    match family {
        Family::V4 => 4,
        Family::V6 => 16,
    }
}
