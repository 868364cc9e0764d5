//! `conditionsV4` and `conditionsV6`: further conditions of a mapping, as words of iptables or of nft. We understand the
//! words that make sense where a connection comes in; any other is refused by name rather than left out.

use std::net::IpAddr;

use ipnet::{IpNet, Ipv4Net};

use crate::error::{Error, Result, code};
use crate::firewall::rule::{Direction, Side};
use crate::firewall::{Family, Match};

use super::conf::Backend;

/// What can be said to iptables, for error texts.
const IPTABLES_WORDS: &str = "[!] -s NETWORK, [!] -d NETWORK, [!] -i NAME, [!] -o NAME, -m mark [!] --mark VALUE[/MASK], \
    -m addrtype --dst-type LOCAL, -m conntrack --ctstate STATES";

/// What can be said to nft, for error texts.
const NFT_WORDS: &str = "ip|ip6 saddr|daddr [!=] NETWORK, iifname|oifname [!=] NAME, meta mark [!=] VALUE, \
    fib daddr type local, ct state STATES";

/// Names of `NF_CT_STATE_BIT`s.
const STATES: [(&str, u16); 5] = [("INVALID", 1), ("ESTABLISHED", 2), ("RELATED", 4), ("NEW", 8), ("UNTRACKED", 64)];

/// The backend whose words these are; `None` when there are none. The reference tells by the first letter too.
pub(super) fn backend_of(words: &[String]) -> Option<Backend> {
    match words.first()?.as_str() {
        "" => None,
        first if first.starts_with(['-', '!']) => Some(Backend::Iptables),
        _ => Some(Backend::Nftables),
    }
}

/// Understands the words in `key` of the configuration, which are about packets of `family`.
pub(super) fn parse(key: &str, family: Family, words: &[String]) -> Result<Vec<Match>> {
    let Some(backend) = backend_of(words) else { return Ok(Vec::new()) };
    let split = words.iter().flat_map(|word| word.split_whitespace()).collect();
    // Each element is one argument to iptables, but nft sees them joined by spaces.
    let words: Vec<&str> = match backend {
        Backend::Iptables => words.iter().map(String::as_str).collect(),
        Backend::Nftables => split,
    };
    let mut parser = Parser { key, family, words: words.into_iter(), matches: Vec::new() };
    match backend {
        Backend::Iptables => parser.iptables()?,
        Backend::Nftables => parser.nft()?,
    }
    Ok(parser.matches)
}

struct Parser<'a> {
    key: &'a str,
    family: Family,
    words: std::vec::IntoIter<&'a str>,
    matches: Vec<Match>,
}

impl<'a> Parser<'a> {
    fn iptables(&mut self) -> Result<()> {
        while let Some(word) = self.words.next() {
            let (word, negated) = if word == "!" { (self.value("!")?, true) } else { (word, false) };
            self.option(word, negated)?;
            self.refuse_repetition(word)?;
        }
        Ok(())
    }

    /// A rule of iptables has room for one address and one interface on each side; a second one would displace the first.
    fn refuse_repetition(&self, option: &str) -> Result<()> {
        let Some((last, earlier)) = self.matches.split_last() else { return Ok(()) };
        let is_displaced = |condition: &Match| match (condition, last) {
            (Match::Address { side: one, .. }, Match::Address { side: other, .. }) => one == other,
            (Match::Interface { direction: one, .. }, Match::Interface { direction: other, .. }) => one == other,
            _ => false,
        };
        match earlier.iter().any(is_displaced) {
            true => Err(self.invalid(format!("multiple {option} flags not allowed"))),
            false => Ok(()),
        }
    }

    fn option(&mut self, word: &'a str, negated: bool) -> Result<()> {
        let refused = || Err(self.refusal(word, IPTABLES_WORDS));
        match (word, negated) {
            ("-s" | "--source" | "--src", _) => self.address(word, Side::Source, negated),
            ("-d" | "--destination" | "--dst", _) => self.address(word, Side::Destination, negated),
            ("-i" | "--in-interface", _) => self.interface(word, Direction::In, negated),
            ("-o" | "--out-interface", _) => self.interface(word, Direction::Out, negated),
            ("--mark", _) => self.mark(word, negated),
            ("--ctstate", false) => self.states(word),
            ("--dst-type", false) => self.expect(word, "LOCAL").map(|()| self.matches.push(Match::LocalDestination)),
            ("-m" | "--match", false) => match self.value(word)? {
                "mark" | "addrtype" | "conntrack" => Ok(()),
                other => Err(self.refusal(&format!("{word} {other}"), IPTABLES_WORDS)),
            },
            _ => refused(),
        }
    }

    fn nft(&mut self) -> Result<()> {
        while let Some(word) = self.words.next() {
            let word = if word == "meta" { self.value(word)? } else { word };
            match word {
                "ip" | "ip6" => self.nft_address(word)?,
                "iifname" => self.nft_interface(word, Direction::In)?,
                "oifname" => self.nft_interface(word, Direction::Out)?,
                "mark" => {
                    let negated = self.operator();
                    self.mark(word, negated)?;
                }
                "fib" => {
                    ["daddr", "type", "local"].into_iter().try_for_each(|next| self.expect(word, next))?;
                    self.matches.push(Match::LocalDestination);
                }
                "ct" => {
                    self.expect(word, "state")?;
                    self.states(word)?;
                }
                other => return Err(self.refusal(other, NFT_WORDS)),
            }
        }
        Ok(())
    }

    fn nft_address(&mut self, word: &str) -> Result<()> {
        let right = (word == "ip") == (self.family == Family::V4);
        let side = match self.value(word)? {
            "saddr" if right => Side::Source,
            "daddr" if right => Side::Destination,
            other => return Err(self.refusal(&format!("{word} {other}"), NFT_WORDS)),
        };
        let negated = self.operator();
        self.address(word, side, negated)
    }

    fn nft_interface(&mut self, word: &str, direction: Direction) -> Result<()> {
        let negated = self.operator();
        self.interface(word, direction, negated)
    }

    /// True for `!=`. Without an operator nft takes `==`.
    fn operator(&mut self) -> bool {
        let negated = match self.words.as_slice().first() {
            Some(&("!=" | "ne")) => true,
            Some(&("==" | "eq")) => false,
            _ => return false,
        };
        self.words.next();
        negated
    }

    fn address(&mut self, option: &str, side: Side, negated: bool) -> Result<()> {
        let text = self.value(option)?;
        let network = network(text).filter(|network| Family::of(network) == self.family);
        let network = network.ok_or_else(|| self.bad_value(option, text, "network of this family"))?.trunc();
        // What every packet fulfils is no condition, and iptables-nft cannot say what none does.
        if negated && network.prefix_len() == 0 {
            return Err(self.bad_value(option, text, "part of all addresses behind a negation"));
        }
        if network.prefix_len() > 0 {
            self.matches.push(Match::Address { side, negated, network });
        }
        Ok(())
    }

    fn interface(&mut self, option: &str, direction: Direction, negated: bool) -> Result<()> {
        const LONGEST: usize = 15;
        let text = self.value(option)?;
        let name = text.trim_matches('"');
        if name.is_empty() || name.len() > LONGEST || name.contains(['+', '*', '/', '{']) {
            return Err(self.bad_value(option, text, "whole name of an interface"));
        }
        self.matches.push(Match::Interface { direction, negated, name: name.to_string() });
        Ok(())
    }

    fn mark(&mut self, option: &str, negated: bool) -> Result<()> {
        let text = self.value(option)?;
        let (value, mask) = text.split_once('/').map_or((text, None), |(value, mask)| (value, Some(mask)));
        let numbers = number(value).zip(mask.map_or(Some(u32::MAX), number));
        let (value, mask) = numbers.ok_or_else(|| self.bad_value(option, text, "mark"))?;
        self.matches.push(Match::Mark { negated, value, mask });
        Ok(())
    }

    fn states(&mut self, option: &str) -> Result<()> {
        let text = self.value(option)?;
        let bit = |name: &str| STATES.iter().find(|(known, _)| known.eq_ignore_ascii_case(name)).map(|(_, bit)| *bit);
        let bits = text.split(',').map(bit).try_fold(0, |all, bit| Some(all | bit?));
        self.matches.push(Match::ConnectionState(bits.ok_or_else(|| self.bad_value(option, text, "list of states"))?));
        Ok(())
    }

    /// The word behind `option`.
    fn value(&mut self, option: &str) -> Result<&'a str> {
        self.words.next().ok_or_else(|| self.invalid(format!("{option:?} lacks its value")))
    }

    fn expect(&mut self, option: &str, wanted: &str) -> Result<()> {
        match self.value(option)? {
            found if found.eq_ignore_ascii_case(wanted) => Ok(()),
            found => Err(self.bad_value(option, found, wanted)),
        }
    }

    fn bad_value(&self, option: &str, value: &str, wanted: &str) -> Error {
        self.invalid(format!("{value:?} of {option:?} is not what is supported there: {wanted}"))
    }

    fn refusal(&self, word: &str, supported: &str) -> Error {
        self.invalid(format!("unsupported condition {word:?}; supported are {supported}"))
    }

    fn invalid(&self, text: String) -> Error {
        Error::new(code::INVALID_CONFIG, format!("invalid {}: {text}", self.key))
    }
}

/// `address`, `address/length`, or for IPv4 `address/mask`.
fn network(text: &str) -> Option<IpNet> {
    if let Ok(address) = text.parse::<IpAddr>() {
        return Some(address.into());
    }
    let masked = || {
        let (address, mask) = text.split_once('/')?;
        Some(Ipv4Net::with_netmask(address.parse().ok()?, mask.parse().ok()?).ok()?.into())
    };
    text.parse().ok().or_else(masked)
}

/// A number as C writes it: decimal, or hexadecimal after `0x`.
fn number(text: &str) -> Option<u32> {
    match text.strip_prefix("0x") {
        Some(digits) => u32::from_str_radix(digits, 16).ok(),
        None => text.parse().ok(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(family: Family, text: &str) -> std::result::Result<Vec<Match>, String> {
        let words: Vec<String> = text.split(' ').map(str::to_string).collect();
        parse("conditionsV4", family, &words).map_err(|error| {
            assert_eq!(error.code, code::INVALID_CONFIG);
            error.msg.clone()
        })
    }

    fn network(text: &str) -> IpNet {
        text.parse().unwrap()
    }

    #[test]
    fn words_of_iptables() {
        let text = "! -s 10.0.0.7/8 -d 192.0.2.1 -i eth0 -m mark ! --mark 0x10/0xf0 -m addrtype --dst-type LOCAL \
            -m conntrack --ctstate NEW,RELATED -o eth1";
        let expected = vec![
            Match::Address { side: Side::Source, negated: true, network: network("10.0.0.0/8") },
            Match::destination(network("192.0.2.1/32")),
            Match::comes_in_by("eth0"),
            Match::Mark { negated: true, value: 0x10, mask: 0xf0 },
            Match::LocalDestination,
            Match::ConnectionState(12),
            Match::goes_out_by("eth1"),
        ];
        assert_eq!(parsed(Family::V4, text), Ok(expected));
        let mask = vec![Match::destination(network("10.1.0.0/16"))];
        assert_eq!(parsed(Family::V4, "-s 0.0.0.0/0 --dst 10.1.0.0/255.255.0.0"), Ok(mask));
    }

    #[test]
    fn words_of_nft_in_one_element_or_many() {
        let expected = vec![
            Match::Address { side: Side::Source, negated: true, network: network("fd00::/8") },
            Match::Interface { direction: Direction::Out, negated: false, name: "eth0".to_string() },
            Match::Mark { negated: false, value: 7, mask: u32::MAX },
        ];
        let text = "ip6 saddr != fd00::/8 oifname \"eth0\" meta mark 7";
        assert_eq!(parsed(Family::V6, text), Ok(expected.clone()));
        assert_eq!(parse("conditionsV6", Family::V6, &[text.to_string()]), Ok(expected));
    }

    #[test]
    fn anything_else_is_refused_by_name() {
        let refused = |family, text: &str, part: &str| {
            let error = parsed(family, text).unwrap_err();
            assert!(error.starts_with("invalid conditionsV4: ") && error.contains(part), "{text}: {error}");
        };
        refused(Family::V4, "--sport 5", "unsupported condition \"--sport\"; supported are [!] -s NETWORK");
        refused(Family::V4, "-p tcp", "unsupported condition \"-p\"");
        refused(Family::V4, "-m limit", "unsupported condition \"-m limit\"");
        refused(Family::V4, "! --ctstate NEW", "\"--ctstate\"");
        refused(Family::V4, "-s", "\"-s\" lacks its value");
        refused(Family::V4, "-s fd00::1", "\"fd00::1\" of \"-s\"");
        refused(Family::V4, "-i eth+", "\"eth+\" of \"-i\"");
        refused(Family::V4, "-s 10.0.0.0/8 ! --src 10.1.0.0/16", "multiple --src flags not allowed");
        refused(Family::V4, "-i eth0 -s 10.0.0.1 -i eth1", "multiple -i flags not allowed");
        refused(Family::V4, "! -s 0.0.0.0/0", "\"0.0.0.0/0\" of \"-s\"");
        refused(Family::V4, "ip6 saddr ::1", "unsupported condition \"ip6 saddr\"");
        refused(Family::V4, "tcp sport 5", "unsupported condition \"tcp\"; supported are ip|ip6");
    }

    #[test]
    fn no_words_are_no_conditions() {
        assert_eq!(parse("x", Family::V4, &[]), Ok(Vec::new()));
        assert_eq!(parse("x", Family::V4, &[String::new()]), Ok(Vec::new()));
    }
}
