//! What a bridge does at one of its ports: hairpin mode, isolation, VLANs.
//!
//! Requests are of the family AF_BRIDGE (`linux/if_bridge.h`); the kernel passes them on to the port's bridge.

use crate::error::{Context, Errno, Error, Result};
use crate::net::links::{IFINFOMSG, ifinfomsg, master_message};
use crate::net::{Handle, Link, sysctls};
use crate::netlink::route::*;
use crate::netlink::{Attribute, Attributes, Message};
use crate::sys::log::Step;

/// The first kernel that isolates ports (`IFLA_BRPORT_ISOLATED`).
const FIRST_WITH_ISOLATION: (u32, u32) = (4, 18);

/// The highest VLAN id. 0 and 4095 mean no VLAN.
pub const LAST_VLAN: u16 = 4094;

/// How packets of a VLAN pass a port: both false is tagged, in and out.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Tagging {
    /// What comes in without a tag belongs to this VLAN.
    pub pvid: bool,
    /// What goes out has no tag.
    pub untagged: bool,
}

/// Consecutive VLANs that pass a port in the same way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Vlans {
    /// The lowest id.
    pub first: u16,
    /// The highest id; that of a single VLAN is its first.
    pub last: u16,
    /// How they pass.
    pub tagging: Tagging,
}

/// What a new port shall be. By default it is neither, and in the VLAN that the bridge gives to all ports.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct PortSettings<'a> {
    /// It becomes a port of this bridge first.
    pub bridge: Option<&'a Link>,
    /// Packets may go back to where they came from.
    pub hairpin: bool,
    /// No packets pass from this port to other isolated ones.
    pub isolated: bool,
    /// It leaves all VLANs first.
    pub no_default: bool,
    /// It then joins these, in order: the last word on a VLAN counts.
    pub vlans: &'a [Vlans],
}

/// State of a port (`BR_STATE_…` of `linux/if_bridge.h`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PortState(u8);

impl PortState {
    /// Frames pass.
    pub const FORWARDING: PortState = PortState(3);

    /// The name that `bridge link` prints.
    pub fn name(self) -> &'static str {
        match self.0 {
            0 => "disabled",
            1 => "listening",
            2 => "learning",
            3 => "forwarding",
            4 => "blocking",
            _ => "unknown",
        }
    }
}

impl Tagging {
    /// In and out without a tag: the VLAN of hosts that know of none.
    pub const NATIVE: Tagging = Tagging { pvid: true, untagged: true };

    /// Tagged, in and out.
    pub const TAGGED: Tagging = Tagging { pvid: false, untagged: false };

    /// `BRIDGE_VLAN_INFO_…`
    fn flags(self) -> u16 {
        (if self.pvid { BRIDGE_VLAN_INFO_PVID } else { 0 })
            | (if self.untagged { BRIDGE_VLAN_INFO_UNTAGGED } else { 0 })
    }

    fn of(flags: u16) -> Tagging {
        let has = |flag| flags & flag != 0;
        Tagging { pvid: has(BRIDGE_VLAN_INFO_PVID), untagged: has(BRIDGE_VLAN_INFO_UNTAGGED) }
    }
}

impl PortSettings<'_> {
    /// The requests, each with the words for its failure.
    fn messages(&self, index: u32, name: &str) -> Vec<(Message, String)> {
        let mut messages = Vec::new();
        if let Some(bridge) = self.bridge {
            let words = format!("failed to connect {name:?} to bridge {:?}", bridge.name);
            messages.push((master_message(index, bridge.index), words));
        }
        if self.hairpin {
            messages.push((
                flag_message(index, IFLA_BRPORT_MODE, true),
                format!("failed to setup hairpin mode for {name}"),
            ));
        }
        if self.isolated {
            let words = format!("failed to set isolated on for {name}");
            messages.push((flag_message(index, IFLA_BRPORT_ISOLATED, true), words));
        }
        if self.no_default {
            let all = Vlans { first: 1, last: LAST_VLAN, tagging: Tagging::TAGGED };
            let words = format!("failed to remove default vlan on interface {name:?}");
            messages.push((vlan_message(RTM_DELLINK, index, &[all]), words));
        }
        if !self.vlans.is_empty() {
            let words = format!("failed to setup vlan tag on interface {name:?}");
            messages.push((vlan_message(RTM_SETLINK, index, self.vlans), words));
        }
        messages
    }
}

impl Handle {
    /// Sets up a port, all in one send. The name is for errors.
    pub fn set_port(&mut self, index: u32, name: &str, settings: &PortSettings<'_>) -> Result<()> {
        let (messages, words): (Vec<_>, Vec<_>) = settings.messages(index, name).into_iter().unzip();
        self.connection.pipeline(messages).map_err(|(at, mut error)| {
            if !settings.vlans.is_empty() {
                error = explain_refusal(error);
            }
            error.context(words.get(at).map_or("failed to set up a port", String::as_str))
        })
    }

    /// The VLANs of a port.
    pub fn vlans_of(&mut self, index: u32) -> Result<Vec<Vlans>> {
        // The kernel has no question for one port that all its versions answer.
        let mut request = Message::new(RTM_GETLINK, 0);
        request.raw(&ifinfomsg(AF_BRIDGE, 0, 0, 0)).u32(IFLA_EXT_MASK, RTEXT_FILTER_BRVLAN_COMPRESSED);
        let read = self.connection.dump(&request, Vec::new, |vlans, reply| {
            if reply.body.get(4..8) == Some(&index.to_ne_bytes()) {
                vlans.extend(read_vlans(reply.body)?);
            }
            Ok(())
        });
        read.context("failed to list VLANs")
    }

    /// True when a port is isolated.
    pub fn is_isolated(&mut self, index: u32) -> Result<bool> {
        Ok(self.port_setting(index, IFLA_BRPORT_ISOLATED)? == Some(1))
    }

    /// Isolates a port from the other isolated ports of its bridge, or ends that. Linux before 4.18
    /// ignores the request.
    pub fn set_isolated(&mut self, index: u32, on: bool) -> Result<()> {
        let set = self.connection.request(flag_message(index, IFLA_BRPORT_ISOLATED, on));
        set.with_context(|| format!("failed to set isolated {} for link {index}", if on { "on" } else { "off" }))
    }

    /// The state of a port; `None` for a link that is no port of a bridge, and for one that is gone.
    pub fn port_state(&mut self, index: u32) -> Result<Option<PortState>> {
        match self.port_setting(index, IFLA_BRPORT_STATE) {
            Err(error) if error.is(Errno::ENODEV) => Ok(None),
            state => Ok(state?.map(PortState)),
        }
    }

    /// A setting (`IFLA_BRPORT_…`) of a port; `None` for a link that is none.
    fn port_setting(&mut self, index: u32, kind: u16) -> Result<Option<u8>> {
        let mut request = Message::new(RTM_GETLINK, 0);
        request.raw(&ifinfomsg(AF_UNSPEC, index, 0, 0)).u32(IFLA_EXT_MASK, RTEXT_FILTER_SKIP_STATS);
        let found = self.connection.get(&request, |body| Ok(setting(Attributes::after(body, IFINFOMSG)?, kind)))?;
        Ok(found.flatten())
    }
}

/// Tells the log if this kernel cannot isolate ports.
pub fn log_lack_of_isolation() {
    let release = sysctls::read("kernel/osrelease").unwrap_or_default();
    if !can_isolate(&release) {
        let lack = format!("Linux {release} isolates no ports, 4.18 does: \"isolated\" needs br_netfilter here");
        Step::begin(format_args!("look for isolation of bridge ports")).end_with(Some(&lack));
    }
}

/// A release that cannot be read is taken for a new one.
fn can_isolate(release: &str) -> bool {
    let mut numbers = release.split(|letter: char| !letter.is_ascii_digit()).map_while(|number| number.parse().ok());
    let number: (u32, u32) = (numbers.next().unwrap_or(u32::MAX), numbers.next().unwrap_or(0));
    number >= FIRST_WITH_ISOLATION
}

/// Says what the kernel lacks, if that is why it refused VLANs. A cause in the details is another one: no bridges at all.
pub(super) fn explain_refusal(mut error: Error) -> Error {
    if error.is(Errno::EOPNOTSUPP) && error.details.is_empty() {
        error.msg += ": the kernel has no VLAN filtering for bridges (CONFIG_BRIDGE_VLAN_FILTERING)";
    }
    error
}

fn setting(link: Attributes<'_>, kind: u16) -> Option<u8> {
    let info = link.find(IFLA_LINKINFO)?.nested().ok()?;
    let bridge = info.find(IFLA_INFO_SLAVE_KIND).filter(|master| master.text() == "bridge");
    bridge.and(info.find(IFLA_INFO_SLAVE_DATA))?.nested().ok()?.find(kind)?.u8()
}

fn flag_message(index: u32, flag: u16, on: bool) -> Message {
    let mut request = Message::new(RTM_SETLINK, 0);
    request.raw(&ifinfomsg(AF_BRIDGE, index, 0, 0)).nested(IFLA_PROTINFO, |port| {
        port.u8(flag, on.into());
    });
    request
}

/// Joining (`RTM_SETLINK`) or leaving (`RTM_DELLINK`) VLANs; leaving those that the port is not in does no harm.
fn vlan_message(kind: u16, index: u32, vlans: &[Vlans]) -> Message {
    let mut request = Message::new(kind, 0);
    request.raw(&ifinfomsg(AF_BRIDGE, index, 0, 0)).nested(IFLA_AF_SPEC, |list| {
        for Vlans { first, last, tagging } in vlans {
            let (begin, end) =
                if first == last { (0, 0) } else { (BRIDGE_VLAN_INFO_RANGE_BEGIN, BRIDGE_VLAN_INFO_RANGE_END) };
            push_vlan(list, tagging.flags() | begin, *first);
            if first != last {
                push_vlan(list, tagging.flags() | end, *last);
            }
        }
    });
    request
}

/// `struct bridge_vlan_info`.
fn push_vlan(list: &mut Message, flags: u16, id: u16) {
    let (flags, id) = (flags.to_ne_bytes(), id.to_ne_bytes());
    list.attribute(IFLA_BRIDGE_VLAN_INFO, &[flags, id].concat());
}

fn read_vlans(body: &[u8]) -> Result<Vec<Vlans>> {
    let mut vlans = Vec::new();
    let Some(list) = Attributes::after(body, IFINFOMSG)?.find(IFLA_AF_SPEC) else { return Ok(vlans) };
    let mut first = 0;
    for (flags, id) in list.nested()?.filter_map(read_vlan) {
        let ends = flags & BRIDGE_VLAN_INFO_RANGE_END != 0;
        first = if ends { first } else { id };
        if flags & BRIDGE_VLAN_INFO_RANGE_BEGIN == 0 {
            vlans.push(Vlans { first, last: id, tagging: Tagging::of(flags) });
        }
    }
    Ok(vlans)
}

/// Flags and id.
fn read_vlan(attribute: Attribute<'_>) -> Option<(u16, u16)> {
    let word = attribute.u32().filter(|_| attribute.kind == IFLA_BRIDGE_VLAN_INFO)?.to_ne_bytes();
    let [a, b, c, d] = word;
    Some((u16::from_ne_bytes([a, b]), u16::from_ne_bytes([c, d])))
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEADER: [u8; 16] = [7, 0, 0, 0, 9, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];

    fn tagged(first: u16, last: u16) -> Vlans {
        Vlans { first, last, tagging: Tagging::TAGGED }
    }

    #[test]
    fn single_vlans_are_one_attribute_and_ranges_two() {
        let native = Vlans { first: 100, last: 100, tagging: Tagging::NATIVE };
        let mut message = vlan_message(RTM_SETLINK, 9, &[native, tagged(5, 5), tagged(200, 4094)]);
        #[rustfmt::skip]
        let golden = [
            36, 0, 26, 0x80,                  // IFLA_AF_SPEC
            8, 0, 2, 0, 6, 0, 100, 0,         // IFLA_BRIDGE_VLAN_INFO: PVID and UNTAGGED, 100
            8, 0, 2, 0, 0, 0, 5, 0,           // 5
            8, 0, 2, 0, 8, 0, 200, 0,         // RANGE_BEGIN, 200
            8, 0, 2, 0, 16, 0, 0xfe, 0x0f,    // RANGE_END, 4094
        ];
        assert_eq!(message.body(), [&HEADER[..], &golden].concat());
        assert_eq!(message.finish(1)[4..8], [19, 0, 1, 0]);
        let read = read_vlans(message.body()).unwrap();
        assert_eq!(read, [native, tagged(5, 5), tagged(200, 4094)]);
    }

    #[test]
    fn a_port_is_set_up_in_the_order_in_which_nothing_is_open_too_early() {
        let vlans = [tagged(5, 5)];
        let settings = PortSettings { hairpin: true, isolated: true, no_default: true, vlans: &vlans, bridge: None };
        let mut messages = settings.messages(9, "veth0");
        let bodies: Vec<_> = messages.iter().map(|(message, _)| message.body()[16..].to_vec()).collect();
        assert_eq!(bodies[0], [12, 0, 12, 0x80, 5, 0, 4, 0, 1, 0, 0, 0]); // IFLA_PROTINFO, IFLA_BRPORT_MODE
        assert_eq!(bodies[1], [12, 0, 12, 0x80, 5, 0, 33, 0, 1, 0, 0, 0]); // IFLA_BRPORT_ISOLATED
        assert_eq!(bodies[2], [20, 0, 26, 0x80, 8, 0, 2, 0, 8, 0, 1, 0, 8, 0, 2, 0, 16, 0, 0xfe, 0x0f]);
        assert_eq!(bodies[3], [12, 0, 26, 0x80, 8, 0, 2, 0, 0, 0, 5, 0]);
        let kinds: Vec<_> = messages.iter_mut().map(|(message, _)| message.finish(1)[4]).collect();
        assert_eq!(kinds, [19, 19, 17, 19]);
        assert!(PortSettings::default().messages(9, "veth0").is_empty());
    }
    #[test]
    fn kernels_that_isolate_ports() {
        for (release, can) in [
            ("4.17.19-generic", false),
            ("3.10.0-1160.el7", false),
            ("4.18.0", true),
            ("4.18-rc1", true),
            ("5.4", true),
            ("10.1", true),
            ("", true),
        ] {
            assert_eq!(can_isolate(release), can, "{release}");
        }
    }
}
