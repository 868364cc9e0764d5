//! The file in which flanneld says what it has leased for this host: `KEY=VALUE` on lines in any order; unknown keys and
//! lines say nothing.

use ipnet::IpNet;

use crate::cni::kept::read_foreign;
use crate::cni::result::parse_cidr;
use crate::error::{Context, Error, Result};

/// flanneld's own file has 150 bytes.
const LARGEST: u64 = 64 * 1024;

/// A complete file.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct SubnetEnv {
    /// What containers reach by flannel: IPv4 first.
    pub(super) networks: Vec<IpNet>,
    /// What this host gives to its containers, at most one of each key: that of IPv4 first.
    pub(super) subnets: Vec<IpNet>,
    /// For the containers' interfaces, in bytes.
    pub(super) mtu: u32,
    /// flanneld masquerades what leaves the network, so nobody else has to.
    pub(super) masquerades: bool,
}

/// What lines have said so far; the last one of a key counts.
#[derive(Default)]
struct Found {
    networks: [Vec<IpNet>; 2],
    subnets: [Option<IpNet>; 2],
    mtu: Option<u32>,
    masquerades: Option<bool>,
}

impl SubnetEnv {
    /// Reads a file.
    pub(super) fn read(path: &str) -> Result<Self> {
        let bytes = read_foreign(path, LARGEST)?;
        Found::parse(&String::from_utf8_lossy(&bytes))?.complete(path)
    }
}

impl Found {
    fn parse(text: &str) -> Result<Self> {
        let mut found = Found::default();
        for line in text.split('\n') {
            let line = line.strip_suffix('\r').unwrap_or(line);
            if let Some((key, value)) = line.split_once('=') {
                found.set(key, value).context(key)?;
            }
        }
        Ok(found)
    }

    fn set(&mut self, key: &str, value: &str) -> Result<()> {
        let [networks, networks6] = &mut self.networks;
        let [subnet, subnet6] = &mut self.subnets;
        match key {
            "FLANNEL_NETWORK" => *networks = parse_networks(value)?,
            "FLANNEL_IPV6_NETWORK" => *networks6 = parse_networks(value)?,
            "FLANNEL_SUBNET" => *subnet = Some(parse_network(value)?),
            "FLANNEL_IPV6_SUBNET" => *subnet6 = Some(parse_network(value)?),
            "FLANNEL_MTU" => self.mtu = Some(parse_mtu(value)?),
            "FLANNEL_IPMASQ" => self.masquerades = Some(value == "true"),
            _ => {}
        }
        Ok(())
    }

    fn complete(self, path: &str) -> Result<SubnetEnv> {
        let networks = self.networks.concat();
        let subnets: Vec<IpNet> = self.subnets.into_iter().flatten().collect();
        match (self.mtu, self.masquerades) {
            (Some(mtu), Some(masquerades)) if !networks.is_empty() && !subnets.is_empty() => {
                Ok(SubnetEnv { networks, subnets, mtu, masquerades })
            }
            (mtu, masquerades) => {
                let groups = [
                    (networks.is_empty(), "FLANNEL_NETWORK, FLANNEL_IPV6_NETWORK"),
                    (subnets.is_empty(), "FLANNEL_SUBNET, FLANNEL_IPV6_SUBNET"),
                    (mtu.is_none(), "FLANNEL_MTU"),
                    (masquerades.is_none(), "FLANNEL_IPMASQ"),
                ];
                let missing: Vec<&str> = groups.iter().filter(|(gone, _)| *gone).map(|(_, keys)| *keys).collect();
                Err(Error::internal(format!("{path} is missing {}", missing.join(", "))))
            }
        }
    }
}

/// A list with commas, without duplicates.
fn parse_networks(text: &str) -> Result<Vec<IpNet>> {
    let mut networks = Vec::new();
    for one in text.split(',') {
        let network = parse_network(one)?;
        if !networks.contains(&network) {
            networks.push(network);
        }
    }
    Ok(networks)
}

fn parse_network(text: &str) -> Result<IpNet> {
    parse_cidr(text).map(|network| network.trunc())
}

fn parse_mtu(text: &str) -> Result<u32> {
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let cause = if digits { "value out of range" } else { "invalid syntax" };
    let number = text.parse().ok().filter(|_| digits);
    number.ok_or_else(|| Error::internal(format!("strconv.ParseUint: parsing {text:?}: {cause}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> std::result::Result<SubnetEnv, String> {
        Found::parse(text).and_then(|found| found.complete("F")).map_err(|error| error.to_string())
    }

    fn nets(texts: &[&str]) -> Vec<IpNet> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    /// The texts of the original's own tests, and one written by flanneld.
    #[test]
    fn files_of_every_family() {
        let tail = "FLANNEL_MTU=1472\nFLANNEL_IPMASQ=true\n";
        let v4 = "FLANNEL_NETWORK=10.1.0.0/16\nFLANNEL_SUBNET=10.1.17.1/24\n";
        let v6 = "FLANNEL_IPV6_NETWORK=fc00::/48\nFLANNEL_IPV6_SUBNET=fc00::1/64\n";
        let cases = [
            (format!("\n{v4}{tail}"), nets(&["10.1.0.0/16"]), nets(&["10.1.17.0/24"])),
            (format!("\n{v6}{tail}"), nets(&["fc00::/48"]), nets(&["fc00::/64"])),
            (format!("{v6}{tail}{v4}"), nets(&["10.1.0.0/16", "fc00::/48"]), nets(&["10.1.17.0/24", "fc00::/64"])),
            (
                format!("FLANNEL_NETWORK=10.1.0.9/16,192.168.0.0/16,10.1.0.0/16\nFLANNEL_SUBNET=10.1.17.1/24\n{tail}"),
                nets(&["10.1.0.0/16", "192.168.0.0/16"]),
                nets(&["10.1.17.0/24"]),
            ),
        ];
        for (text, networks, subnets) in cases {
            let expected = SubnetEnv { networks, subnets, mtu: 1472, masquerades: true };
            assert_eq!(parse(&text), Ok(expected), "{text}");
            assert!(parse(&text.replace('\n', "\r\n")).is_ok());
        }
    }

    #[test]
    fn only_the_exact_word_masquerades_and_the_last_line_counts() {
        let text = "FLANNEL_NETWORK=10.1.0.0/16\nFLANNEL_SUBNET=10.1.17.1/24\nFLANNEL_MTU=1\nFLANNEL_IPMASQ=";
        for (value, expected) in [("true", true), ("True", false), ("\"true\"", false), ("", false), ("1", false)] {
            assert_eq!(parse(&format!("{text}{value}")).unwrap().masquerades, expected, "{value}");
        }
        let env =
            parse(&format!("{text}true\nFLANNEL_IPMASQ=false\nFLANNEL_MTU=9\nFLANNEL_NETWORK=10.2.0.0/16")).unwrap();
        assert_eq!((env.masquerades, env.mtu, env.networks), (false, 9, nets(&["10.2.0.0/16"])));
    }

    #[test]
    fn what_is_missing_is_named_in_the_references_order() {
        let all =
            "FLANNEL_NETWORK, FLANNEL_IPV6_NETWORK, FLANNEL_SUBNET, FLANNEL_IPV6_SUBNET, FLANNEL_MTU, FLANNEL_IPMASQ";
        for text in ["", "foo=bar", "FLANNEL_MTU", "FLANNEL_NETWORK\nFLANNEL_SUBNET\n", "\u{0}\u{0}", " FLANNEL_MTU=1"]
        {
            assert_eq!(parse(text).unwrap_err(), format!("F is missing {all}"), "{text:?}");
        }
        let half = "FLANNEL_NETWORK=10.1.0.0/16\nFLANNEL_SUBNET=10.1.17.1/24\nFLANNEL_M";
        assert_eq!(parse(half).unwrap_err(), "F is missing FLANNEL_MTU, FLANNEL_IPMASQ");
    }

    #[test]
    fn wrong_values_are_named_with_their_key() {
        let cases = [
            ("FLANNEL_NETWORK=", "FLANNEL_NETWORK: invalid CIDR address: "),
            ("FLANNEL_NETWORK=10.1.0.0/16,", "FLANNEL_NETWORK: invalid CIDR address: "),
            ("FLANNEL_SUBNET=10.1.17.1", "FLANNEL_SUBNET: invalid CIDR address: 10.1.17.1"),
            ("FLANNEL_IPV6_SUBNET=fc00::/129", "FLANNEL_IPV6_SUBNET: invalid CIDR address: fc00::/129"),
            ("FLANNEL_IPV6_NETWORK=\"fc00::/8\"", "FLANNEL_IPV6_NETWORK: invalid CIDR address: \"fc00::/8\""),
            ("FLANNEL_MTU=+1", "FLANNEL_MTU: strconv.ParseUint: parsing \"+1\": invalid syntax"),
            ("FLANNEL_MTU=", "FLANNEL_MTU: strconv.ParseUint: parsing \"\": invalid syntax"),
            ("FLANNEL_MTU=4294967296", "FLANNEL_MTU: strconv.ParseUint: parsing \"4294967296\": value out of range"),
        ];
        for (text, expected) in cases {
            assert_eq!(parse(text).unwrap_err(), expected);
        }
    }
}
