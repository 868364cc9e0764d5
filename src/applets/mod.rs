//! The applets, one file (or folder) each, and the table of them. An applet speaks to `cni`, `ipam`, `net` and `firewall`,
//! never to the layers below and never to another applet: it calls other plugins as any plugin does, by name.

pub mod bandwidth;
pub mod bridge;
pub mod cnitool;
pub mod dhcp;
pub mod dummy;
pub mod firewall;
pub mod flannel;
pub mod host_device;
pub mod host_local;
pub mod ipvlan;
pub mod loopback;
pub mod macvlan;
pub mod portmap;
pub mod ptp;
pub mod sbr;
pub mod static_ipam;
pub mod tap;
pub mod tuning;
pub mod vlan;
pub mod vrf;

use crate::cni::serve::Answer;
use crate::cni::{Host, Plugin};

/// A name that the binary answers to.
pub struct Applet {
    /// The name, as in CNI_PATH and on the command line.
    pub name: &'static str,
    /// What it is.
    pub kind: Kind,
}

/// The two kinds of applet.
pub enum Kind {
    /// Called by runtimes, through environment and standard input.
    Plugin(&'static dyn Plugin),
    /// Called by people, with arguments (without the program's name).
    Tool(fn(&[String], &Host) -> Answer),
    /// A plugin that also runs as a daemon: with `daemon` as its first argument; the function gets the others and says
    /// what is left to print, and the exit status.
    Daemon(&'static dyn Plugin, fn(&[String], &Host) -> (Answer, u8)),
}

/// All applets, sorted by name.
pub const APPLETS: &[Applet] = &[
    plugin("bandwidth", &bandwidth::BANDWIDTH),
    plugin("bridge", &bridge::BRIDGE),
    Applet { name: "cnitool", kind: Kind::Tool(cnitool::run) },
    Applet { name: "dhcp", kind: Kind::Daemon(&dhcp::DHCP, dhcp::run) },
    plugin("dummy", &dummy::DUMMY),
    plugin("firewall", &firewall::FIREWALL),
    plugin("flannel", &flannel::FLANNEL),
    plugin("host-device", &host_device::HOST_DEVICE),
    plugin("host-local", &host_local::HOST_LOCAL),
    plugin("ipvlan", &ipvlan::IPVLAN),
    plugin("loopback", &loopback::LOOPBACK),
    plugin("macvlan", &macvlan::MACVLAN),
    plugin("portmap", &portmap::PORTMAP),
    plugin("ptp", &ptp::PTP),
    plugin("sbr", &sbr::SBR),
    plugin("static", &static_ipam::STATIC),
    plugin("tap", &tap::TAP),
    plugin("tuning", &tuning::TUNING),
    plugin("vlan", &vlan::VLAN),
    plugin("vrf", &vrf::VRF),
];

const fn plugin(name: &'static str, plugin: &'static dyn Plugin) -> Applet {
    Applet { name, kind: Kind::Plugin(plugin) }
}

/// The files in this folder, from build.rs.
const FILES: &[&str] = include!(concat!(env!("OUT_DIR"), "/applet_files.rs"));

/// File and table must agree, or the program does not compile.
const _: () = {
    assert!(FILES.len() == APPLETS.len(), "src/applets and the APPLETS table differ in number");
    let mut row = 0;
    while row < FILES.len() {
        #[allow(clippy::indexing_slicing)] // Evaluated by the compiler; `row` is in range of both.
        let same = same_text(FILES[row], APPLETS[row].name);
        assert!(same, "src/applets and the sorted APPLETS table differ");
        row += 1;
    }
};

const fn same_text(a: &str, b: &str) -> bool {
    let (a, b) = (a.as_bytes(), b.as_bytes());
    let mut at = 0;
    if a.len() != b.len() {
        return false;
    }
    while at < a.len() {
        #[allow(clippy::indexing_slicing)] // Evaluated by the compiler; `at` is in range of both.
        if a[at] != b[at] {
            return false;
        }
        at += 1;
    }
    true
}

/// The applet with this name.
pub fn find(name: &str) -> Option<&'static Applet> {
    APPLETS.iter().find(|applet| applet.name == name)
}

/// The plugin with this name.
pub fn find_plugin(name: &str) -> Option<&'static dyn Plugin> {
    match find(name)?.kind {
        Kind::Plugin(plugin) | Kind::Daemon(plugin, _) => Some(plugin),
        Kind::Tool(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plugins_call_themselves_what_the_table_calls_them() {
        assert!(APPLETS.is_sorted_by_key(|applet| applet.name));
        for applet in APPLETS {
            if let Some(plugin) = find_plugin(applet.name) {
                assert_eq!(plugin.name(), applet.name);
            }
        }
    }
}
