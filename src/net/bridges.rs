//! Bridges: creating one, keeping its hardware address, and whether rules see its frames.
//!
//! A bridge follows its ports until an address is set: it has the lowest of theirs (`br_stp_recalculate_bridge_id` in
//! `net/bridge/br_stp_if.c`). No request makes it follow them again.

use crate::error::Result;
use crate::net::bridge_ports::explain_refusal;
use crate::net::links::{IFINFOMSG, message, push_mtu};
use crate::net::{Handle, Mac, sysctls};
use crate::netlink::message::{CREATE, EXCL};
use crate::netlink::route::*;
use crate::netlink::{Attributes, Message};

/// A bridge to be created.
#[derive(Debug)]
pub struct NewBridge<'a> {
    /// Its name.
    pub name: &'a str,
    /// Hardware address.
    pub mac: &'a Mac,
    /// Maximum transmission unit in bytes; 0 leaves the kernel's default.
    pub mtu: u32,
    /// Packets pass only where their VLAN does.
    pub filters_vlans: bool,
}

impl NewBridge<'_> {
    fn message(&self) -> Message {
        let mut request = message(RTM_NEWLINK, CREATE | EXCL, 0, IFF_UP, IFF_UP);
        request.string(IFLA_IFNAME, self.name).attribute(IFLA_ADDRESS, self.mac.bytes());
        push_mtu(&mut request, self.mtu);
        request.container(IFLA_LINKINFO, |info| {
            info.string(IFLA_INFO_KIND, "bridge");
            if self.filters_vlans {
                info.container(IFLA_INFO_DATA, |data| {
                    data.u8(IFLA_BR_VLAN_FILTERING, 1);
                });
            }
        });
        request
    }
}

impl Handle {
    /// Creates a bridge that is up. Its hardware address is set, so that it does not follow its ports'.
    pub fn create_bridge(&mut self, bridge: &NewBridge<'_>) -> Result<()> {
        let created = self.connection.request(bridge.message());
        created.map_err(|error| if bridge.filters_vlans { explain_refusal(error) } else { error })
    }

    /// Sets the hardware address of a bridge without ports to the one that it has from its creation. Another one comes
    /// first, because only a change makes the address part of the bridge's id, where [`has_own_address`] finds it.
    pub fn keep_first_mac(&mut self, index: u32, mac: &Mac) -> Result<()> {
        let other = Mac::random()?;
        let messages = [&other, mac].map(|mac| {
            let mut request = message(RTM_SETLINK, 0, index, 0, 0);
            request.attribute(IFLA_ADDRESS, mac.bytes());
            request
        });
        self.connection.pipeline(messages.into()).map_err(|(_, error)| error)
    }

    /// True if rules of iptables, or of ip6tables, see the frames that a bridge passes on
    /// (br_netfilter). The setting of the network namespace is enough, or that of the bridge
    /// (`br_nf_pre_routing` in `net/bridge/br_netfilter_hooks.c`). Without the module, which makes
    /// the sysctl, a bridge has the setting to no effect.
    pub fn rules_see_frames(&mut self, bridge: u32, is_ipv4: bool) -> Result<bool> {
        let (program, own) =
            if is_ipv4 { ("iptables", IFLA_BR_NF_CALL_IPTABLES) } else { ("ip6tables", IFLA_BR_NF_CALL_IP6TABLES) };
        match sysctls::read(&format!("net/bridge/bridge-nf-call-{program}")).as_deref() {
            Err(_) => Ok(false),
            Ok("0") => Ok(self.bridge_setting(bridge, own)? == Some(1)),
            Ok(_) => Ok(true),
        }
    }

    /// A setting (`IFLA_BR_…`) of a bridge.
    fn bridge_setting(&mut self, index: u32, kind: u16) -> Result<Option<u8>> {
        let request = message(RTM_GETLINK, 0, index, 0, 0);
        let found = self.connection.get(&request, |body| Ok(setting(Attributes::after(body, IFINFOMSG)?, kind)))?;
        Ok(found.flatten())
    }
}

fn setting(link: Attributes<'_>, kind: u16) -> Option<u8> {
    link.find(IFLA_LINKINFO)?.nested().ok()?.find(IFLA_INFO_DATA)?.nested().ok()?.find(kind)?.u8()
}

/// True if the id of a bridge holds a hardware address: that of its lowest port, or the one that was set. The id of a
/// bridge that had neither ends in zeros, also if the address was set to what it was. Kernels before 4.4 don't tell the id.
pub(super) fn has_own_address(data: Attributes<'_>) -> bool {
    const PRIORITY: usize = 2;
    let address = data.find(IFLA_BR_BRIDGE_ID).and_then(|id| id.payload.get(PRIORITY..));
    address.is_none_or(|address| address.iter().any(|byte| *byte != 0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bridge_is_one_request() {
        let mac = Mac::from_bytes(&[2, 0, 0, 0, 0, 1]);
        let mut bridge = NewBridge { name: "cni0", mac: &mac, mtu: 1400, filters_vlans: true };
        #[rustfmt::skip]
        let golden = [
            0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0,         // ifinfomsg: any family, IFF_UP of IFF_UP
            9, 0, 3, 0, b'c', b'n', b'i', b'0', 0, 0, 0, 0,         // IFLA_IFNAME
            10, 0, 1, 0, 2, 0, 0, 0, 0, 1, 0, 0,                    // IFLA_ADDRESS
            8, 0, 4, 0, 0x78, 5, 0, 0,                              // IFLA_MTU 1400
            28, 0, 18, 0,                                           // IFLA_LINKINFO
            11, 0, 1, 0, b'b', b'r', b'i', b'd', b'g', b'e', 0, 0,  //   IFLA_INFO_KIND
            12, 0, 2, 0,                                            //   IFLA_INFO_DATA
            5, 0, 7, 0, 1, 0, 0, 0,                                 //     IFLA_BR_VLAN_FILTERING
        ];
        assert_eq!(bridge.message().body(), golden);
        bridge.filters_vlans = false;
        assert_eq!(bridge.message().body().len(), golden.len() - 12);
    }

    #[test]
    fn a_bridges_id_tells_whether_it_has_an_address_of_its_own() {
        let id = |address: [u8; 6]| [&[12, 0, 11, 0, 0x80, 0], &address[..]].concat();
        for (data, has) in [(id([0; 6]), false), (id([2, 0, 0, 0, 0, 1]), true), (Vec::new(), true)] {
            assert_eq!(has_own_address(Attributes::parse(&data).unwrap()), has, "{data:?}");
        }
    }
}
