//! Records which addresses each interface of a container has in a network. In iptables these
//! interfaces share a chain, and its rules name no interface. There is a file for each such chain:
//! see [`Records`].

use std::net::IpAddr;

use crate::cni::{Request, Undo};
use crate::error::{Context, Result};
use crate::firewall::records::Records;

use super::DIRECTORY;
use super::iptables::{Whose, chain_name};

/// The interfaces of a container in a network, as far as ADD has recorded them.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Interfaces {
    pub(super) network: String,
    pub(super) container: String,
    /// Names with addresses.
    list: Vec<(String, Vec<IpAddr>)>,
}

impl Interfaces {
    /// Reads the record of a container.
    pub(super) fn of(records: &Records, network: &str, container: &str) -> Self {
        let known = Interfaces::read(records, &chain_name(network, container));
        // The hash joins network and container, so another pair may have the same one.
        known.filter(|known| known.network == network && known.container == container).unwrap_or_else(|| Interfaces {
            network: network.to_string(),
            container: container.to_string(),
            list: Vec::new(),
        })
    }

    /// Reads the records of all containers in a network.
    pub(super) fn all_of(records: &Records, network: &str) -> Result<Vec<Self>> {
        let names = records.names()?;
        let all = names.iter().filter_map(|name| Interfaces::read(records, name));
        Ok(all.filter(|known| known.network == network).collect())
    }

    /// Splits the addresses into those of the chosen interfaces and those of all others.
    pub(super) fn whose(&self, is_mine: impl Fn(&str) -> bool) -> Whose {
        let mut whose = Whose::default();
        for (name, addresses) in &self.list {
            if is_mine(name) { &mut whose.mine } else { &mut whose.others }.extend(addresses);
        }
        whose
    }

    /// Sets the addresses of an interface, and takes them from others. Without addresses the
    /// interface is forgotten.
    pub(super) fn set(&mut self, ifname: &str, addresses: &[IpAddr]) {
        self.list.iter_mut().for_each(|(_, others)| others.retain(|address| !addresses.contains(address)));
        match self.list.iter_mut().find(|(name, _)| name == ifname) {
            Some((_, own)) => *own = addresses.to_vec(),
            None => self.list.push((ifname.to_string(), addresses.to_vec())),
        }
        self.list.retain(|(_, addresses)| !addresses.is_empty());
    }

    /// Forgets the interfaces that are not valid. True if there were any.
    pub(super) fn forget_all_but(&mut self, is_valid: impl Fn(&str, &str) -> bool) -> bool {
        let before = self.list.len();
        self.list.retain(|(name, _)| is_valid(&self.container, name));
        self.list.len() < before
    }

    /// Writes the record, or removes one without interfaces.
    pub(super) fn save(&self, records: &Records) -> Result<()> {
        let name = chain_name(&self.network, &self.container);
        match self.list.is_empty() {
            true => records.remove(&name),
            false => records.write(&name, &self.text()),
        }
        .with_context(|| format!("failed to record the interfaces of {}", self.container))
    }

    /// Network, container, and a line for each interface.
    fn text(&self) -> String {
        let mut text = format!("{}\n{}\n", self.network, self.container);
        for (name, addresses) in &self.list {
            text += name;
            addresses.iter().for_each(|address| text += &format!(" {address}"));
            text.push('\n');
        }
        text
    }

    fn read(records: &Records, name: &str) -> Option<Self> {
        Interfaces::parse(&records.read(name).filter(|_| name.starts_with("CNI-DN-"))?)
    }

    fn parse(text: &str) -> Option<Self> {
        let mut lines = text.lines();
        let (network, container) = (lines.next()?.to_string(), lines.next()?.to_string());
        let list = lines.filter_map(|line| {
            let mut words = line.split(' ');
            let name = words.next()?.to_string();
            Some((name, words.filter_map(|word| word.parse().ok()).collect()))
        });
        Some(Interfaces { network, container, list: list.collect() })
    }
}

/// Records the addresses of the attachment before its rules exist. The addresses of an earlier ADD
/// stay in the record until [`settle`], because they tell which rules are that ADD's.
pub(super) fn claim(records: &Records, request: &Request<'_>, addresses: &[IpAddr], undo: &mut Undo) -> Result<Whose> {
    let (network, container, ifname) =
        (request.config.name.clone(), request.container_id.clone(), request.ifname.clone());
    let mut known = Interfaces::of(records, &network, &container);
    let before = known.whose(|name| name == ifname).mine;
    let mut all = before.clone();
    all.extend(addresses.iter().filter(|address| !before.contains(address)));
    if all != before {
        known.set(&ifname, &all);
        known.save(records)?;
    }
    undo.push(move || {
        let records = Records::open(DIRECTORY);
        let mut known = Interfaces::of(&records, &network, &container);
        known.set(&ifname, &before);
        known.save(&records)
    });
    Ok(known.whose(|name| name == request.ifname))
}

/// Removes the addresses of an earlier ADD from the record.
pub(super) fn settle(records: &Records, request: &Request<'_>, addresses: &[IpAddr]) -> Result<()> {
    let mut known = Interfaces::of(records, &request.config.name, &request.container_id);
    if known.whose(|name| name == request.ifname).mine == addresses {
        return Ok(());
    }
    known.set(&request.ifname, addresses);
    known.save(records)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn addresses(list: &[&str]) -> Vec<IpAddr> {
        list.iter().map(|text| text.parse().unwrap()).collect()
    }

    #[test]
    fn a_record_is_read_as_it_was_written_and_an_address_has_one_interface() {
        let mut known = Interfaces { network: "net".into(), container: "c1".into(), list: Vec::new() };
        known.set("eth0", &addresses(&["10.0.0.2", "fd00::2"]));
        known.set("eth1", &addresses(&["10.0.0.3"]));
        assert_eq!(Interfaces::parse(&known.text()).as_ref(), Some(&known));
        let whose = known.whose(|name| name == "eth1");
        assert_eq!(whose, Whose { mine: addresses(&["10.0.0.3"]), others: addresses(&["10.0.0.2", "fd00::2"]) });
        known.set("eth1", &addresses(&["10.0.0.2"]));
        assert_eq!(known.whose(|name| name == "eth0").mine, addresses(&["fd00::2"]));
        known.set("eth1", &[]);
        assert!(!known.forget_all_but(|container, name| (container, name) == ("c1", "eth0")));
        assert!(known.forget_all_but(|_, name| name == "eth1"));
        assert_eq!(Interfaces::parse("net"), None);
    }
}
