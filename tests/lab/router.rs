//! Router advertisements (RFC 4861, section 4.2), sent by a container or by a router beside the
//! host.

use std::fs::{self, File};
use std::mem::size_of_val;
use std::net::{Ipv6Addr, SocketAddrV6};
use std::os::fd::AsRawFd;

use nix::ifaddrs::getifaddrs;
use nix::sched::{CloneFlags, setns};
use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, SockaddrIn6, bind, sendto, socket};

use super::{Lab, wait_for};

/// How addresses of the advertised prefix begin.
pub const PREFIX: &str = "2001:db8:77:";

/// Runs something in a namespace of the lab; `netns` empty is the host.
fn inside<T: Send>(lab: &Lab, netns: &str, run: impl FnOnce() -> T + Send) -> T {
    let path = if netns.is_empty() { format!("/proc/{}/ns/net", lab.pid()) } else { format!("/run/netns/{netns}") };
    let space = File::open(if netns.is_empty() { path.into() } else { lab.path(&path) }).unwrap();
    let enter = || {
        setns(&space, CloneFlags::CLONE_NEWNET).unwrap();
        run()
    };
    std::thread::scope(|scope| scope.spawn(enter).join().unwrap())
}

/// Makes a router beside the host: the namespace `netns`, whose link `r0` is the other end of
/// `link`. Its address can be used at once.
pub fn beside(lab: &Lab, netns: &str, link: &str) {
    lab.netns(netns);
    lab.sh(&format!(
        "ip netns exec {netns} sh -c 'echo 1 > /proc/sys/net/ipv6/conf/all/forwarding
            echo 0 > /proc/sys/net/ipv6/conf/default/accept_dad'
        ip link add {link} type veth peer name r0 netns {netns}
        ip link set {link} up
        ip -n {netns} link set r0 up"
    ))
    .success();
}

/// Advertises a default route and [`PREFIX`] from a link (namespace and name) until another link
/// has heard that twice. What the first advertisement leads to has happened by then.
pub fn advertise(lab: &Lab, from: (&str, &str), to: (&str, &str)) {
    let before = heard(lab, to);
    wait_for(&format!("{to:?} to hear the router {from:?}"), || {
        inside(lab, from.0, || send(from.1));
        heard(lab, to) >= before + 2
    });
}

/// How many router advertisements a link has received.
fn heard(lab: &Lab, (netns, link): (&str, &str)) -> u32 {
    let counters = inside(lab, netns, || fs::read_to_string(format!("/proc/thread-self/net/dev_snmp6/{link}")));
    let counters = counters.unwrap_or_default();
    let line = counters.lines().find_map(|line| line.strip_prefix("Icmp6InRouterAdvertisements"));
    line.map_or(0, |number| number.trim().parse().unwrap())
}

/// Sends one to all nodes on the link. While the link has no link-local address that can be used,
/// nothing is sent: hosts take an advertisement from no other.
fn send(link: &str) {
    let raw = socket(AddressFamily::Inet6, SockType::Raw, SockFlag::SOCK_CLOEXEC, SockProtocol::IcmpV6).unwrap();
    let hops: libc::c_int = 255;
    // SAFETY: the option's value is an int that lives through the call.
    let set = unsafe {
        let (value, length) = ((&raw const hops).cast(), size_of_val(&hops) as libc::socklen_t);
        libc::setsockopt(raw.as_raw_fd(), libc::IPPROTO_IPV6, libc::IPV6_MULTICAST_HOPS, value, length)
    };
    assert_eq!(set, 0);
    let Some(own) = link_local(link) else { return };
    if bind(raw.as_raw_fd(), &own).is_ok() {
        let all_nodes = SocketAddrV6::new("ff02::1".parse().unwrap(), 0, 0, own.scope_id());
        let _ = sendto(raw.as_raw_fd(), &advertisement(), &SockaddrIn6::from(all_nodes), MsgFlags::empty());
    }
}

fn link_local(link: &str) -> Option<SockaddrIn6> {
    let addresses = getifaddrs().unwrap().filter(|one| one.interface_name == link);
    let six = addresses.filter_map(|one| one.address?.as_sockaddr_in6().copied());
    six.into_iter().find(|address| address.ip().is_unicast_link_local())
}

/// Hop limit 64, a router for 1800 seconds, and one prefix that is on the link and for addresses.
fn advertisement() -> Vec<u8> {
    let prefix: Ipv6Addr = format!("{PREFIX}:").parse().unwrap();
    let header = [134, 0, 0, 0, 64, 0, 7, 8, 0, 0, 0, 0, 0, 0, 0, 0];
    let option = [3, 4, 64, 0xc0, 0, 0, 14, 16, 0, 0, 14, 16, 0, 0, 0, 0];
    [&header[..], &option, &prefix.octets()].concat()
}
