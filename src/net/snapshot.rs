//! What a link has that it loses when the kernel takes it down and up again, as happens when it enters or leaves a VRF: routes
//! and global IPv6 addresses. They are kept as the kernel tells them and replayed with all they have.

use crate::error::{Context, Errno, Result};
use crate::net::Handle;
use crate::net::addresses::Address;
use crate::net::next_hops::hops_of;
use crate::netlink::message::{APPEND, CREATE, EXCL};
use crate::netlink::route::*;
use crate::netlink::{Attribute, Attributes, Message};

/// Length of `struct rtmsg` in bytes.
const RTMSG: usize = 12;
/// Length of `struct ifaddrmsg` in bytes.
const IFADDRMSG: usize = 8;
/// `RTM_F_CLONED`, in the second byte of the flags.
const CLONED: u8 = 2;
/// `RTPROT_KERNEL`: routes that come with addresses.
const BY_KERNEL: u8 = 2;

/// Routes and addresses of a link, as messages.
#[derive(Debug, Default, Clone)]
pub struct Snapshot {
    link: u32,
    routes: Vec<Vec<u8>>,
    addresses: Vec<(Address, Vec<u8>)>,
}

impl Handle {
    /// The global IPv6 addresses of a link, and its routes in a table but those that come with addresses.
    pub fn snapshot(&mut self, link: u32, table: u32) -> Result<Snapshot> {
        let mut snapshot = Snapshot { link, ..Snapshot::default() };
        for family in [AF_INET, AF_INET6] {
            let mut request = Message::new(RTM_GETROUTE, 0);
            request.raw(&[family, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
            snapshot.routes.extend(self.bodies(&request, &|body| is_route_of(body, link, table))?);
        }
        // A gateway must be reachable by then.
        snapshot.routes.sort_by_key(|route| !is_on_link(route));
        let mut request = Message::new(RTM_GETADDR, 0);
        request.raw(&[AF_INET6, 0, 0, 0]).raw(&link.to_ne_bytes());
        let is_global = |body: &[u8]| body.get(3) == Some(&0) && body.get(4..8) == Some(&link.to_ne_bytes());
        for body in self.bodies(&request, &|body| Ok(is_global(body)))? {
            let address = super::addresses::parse(&body, link)?;
            snapshot.addresses.extend(address.filter(|address| !address.is_duplicate()).map(|address| (address, body)));
        }
        Ok(snapshot)
    }

    /// Gives the link back what it has lost, with its routes in this table. Addresses were found to be nobody else's before,
    /// so that is not tried again: routes that name them could not be added meanwhile.
    pub fn restore(&mut self, snapshot: &Snapshot, table: u32) -> Result<()> {
        let present = self.addresses(snapshot.link)?;
        for (address, body) in &snapshot.addresses {
            if present.iter().any(|now| now.net == address.net && !now.is_tentative()) {
                continue;
            }
            let words = || format!("could not restore address {}", address.net);
            self.delete_address(snapshot.link, address.net).with_context(words)?;
            self.connection.request(address_again(body, address.flags)?).with_context(words)?;
        }
        for body in &snapshot.routes {
            match self.connection.request(route_again(body, table, snapshot.link)?) {
                Err(error) if error.is(Errno::EEXIST) => {}
                result => result.with_context(|| format!("could not add route '{}'", describe(body)))?,
            }
        }
        Ok(())
    }

    fn bodies(&mut self, request: &Message, wanted: &dyn Fn(&[u8]) -> Result<bool>) -> Result<Vec<Vec<u8>>> {
        self.connection.dump(request, Vec::new, |bodies, reply| {
            bodies.extend(wanted(reply.body)?.then(|| reply.body.to_vec()));
            Ok(())
        })
    }
}

fn is_route_of(body: &[u8], link: u32, table: u32) -> Result<bool> {
    let &[_, _, _, _, low, protocol, _, kind, _, flags, ..] = body.first_chunk::<RTMSG>().unwrap_or(&[0; RTMSG]);
    let attributes = Attributes::after(body, RTMSG)?;
    let place = attributes.find(RTA_TABLE).and_then(Attribute::u32).unwrap_or(u32::from(low));
    if place != table || protocol == BY_KERNEL || kind != RTN_UNICAST || flags & CLONED != 0 {
        return Ok(false);
    }
    let hops = attributes.find(RTA_MULTIPATH).map(|hops| hops_of(hops.payload, link));
    Ok(attributes.find(RTA_OIF).and_then(Attribute::u32) == Some(link) || hops.is_some_and(|hops| !hops.is_empty()))
}

fn is_on_link(body: &[u8]) -> bool {
    let indirect = [RTA_GATEWAY, RTA_VIA, RTA_MULTIPATH];
    Attributes::after(body, RTMSG).is_ok_and(|mut all| !all.any(|attribute| indirect.contains(&attribute.kind)))
}

/// The request that adds a route again, in another table.
fn route_again(body: &[u8], table: u32, link: u32) -> Result<Message> {
    let mut header = *body.first_chunk::<RTMSG>().unwrap_or(&[0; RTMSG]);
    let [_, _, _, _, place, _, _, _, flags @ ..] = &mut header;
    *place = u8::try_from(table).unwrap_or(0);
    *flags = (u32::from_ne_bytes(*flags) & RTNH_F_ONLINK).to_ne_bytes();
    let mut request = Message::new(RTM_NEWROUTE, CREATE | APPEND);
    request.raw(&header).u32(RTA_TABLE, table);
    for attribute in Attributes::after(body, RTMSG)? {
        match attribute.kind {
            // The table is another one; the next hop's object goes with the link; the rest is not for requests.
            RTA_TABLE | RTA_NH_ID | RTA_CACHEINFO => {}
            RTA_MULTIPATH => drop(request.attribute(RTA_MULTIPATH, &hops_of(attribute.payload, link)).length()),
            kind => drop(request.attribute(kind, attribute.payload).length()),
        }
    }
    Ok(request)
}

/// The request that adds an IPv6 address again.
fn address_again(body: &[u8], flags: u32) -> Result<Message> {
    let mut request = Message::new(RTM_NEWADDR, CREATE | EXCL);
    request.raw(body.get(..IFADDRMSG).unwrap_or_default());
    for attribute in Attributes::after(body, IFADDRMSG)?.filter(|attribute| attribute.kind != IFA_FLAGS) {
        request.attribute(attribute.kind, attribute.payload);
    }
    request.u32(IFA_FLAGS, flags | IFA_F_NODAD);
    Ok(request)
}

fn describe(body: &[u8]) -> String {
    let route = super::routes::Route::parse(body).ok().flatten();
    route.map_or(String::new(), |route| {
        let gateway = route.gateway.map_or(String::new(), |gateway| format!(" via {gateway}"));
        format!("{}{gateway}", route.dst)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[rustfmt::skip]
    const MULTIPATH: [u8; 64] = [
        2, 8, 0, 0, 254, 3, 0, 1, 16, 0, 0, 0,              // rtmsg: IPv4, /8, main, boot, universe, unicast, linkdown
        8, 0, 15, 0, 254, 0, 0, 0,                          // RTA_TABLE
        8, 0, 1, 0, 10, 0, 0, 0,                            // RTA_DST
        36, 0, 9, 0,                                        // RTA_MULTIPATH
        16, 0, 17, 1, 3, 0, 0, 0, 8, 0, 5, 0, 10, 88, 0, 1, //   linkdown and dead, weight 2, link 3: RTA_GATEWAY
        16, 0, 4, 0, 4, 0, 0, 0, 8, 0, 5, 0, 10, 99, 0, 1,  //   onlink, link 4
    ];

    #[test]
    fn of_several_next_hops_those_through_the_link_move() {
        let of = |link, table| is_route_of(&MULTIPATH, link, table).unwrap();
        assert!(of(3, 254) && of(4, 254) && !of(5, 254) && !of(3, 1));
        #[rustfmt::skip]
        let golden = [
            2, 8, 0, 0, 0, 3, 0, 1, 0, 0, 0, 0,                 // rtmsg: the table does not fit
            8, 0, 15, 0, 0x2c, 1, 0, 0,                         // RTA_TABLE 300
            8, 0, 1, 0, 10, 0, 0, 0,                            // RTA_DST
            20, 0, 9, 0,                                        // RTA_MULTIPATH
            16, 0, 0, 1, 3, 0, 0, 0, 8, 0, 5, 0, 10, 88, 0, 1,  //   link 3 alone, without its state
        ];
        assert_eq!(route_again(&MULTIPATH, 300, 3).unwrap().body(), golden);
        assert_eq!(hops_of(&MULTIPATH[32..], 4)[..4], [16, 0, 4, 0], "a wish stays");
        assert_eq!(hops_of(&MULTIPATH[32..45], 3), [0; 0], "cut");
        assert_eq!(describe(&MULTIPATH), "10.0.0.0/8");
    }

    #[test]
    fn an_address_keeps_what_it_has() {
        let mut address = vec![10, 64, 0x80, 0, 3, 0, 0, 0, 20, 0, 1, 0];
        address.extend([0xfd; 16]);
        let lifetime = [20, 0, 6, 0, 9, 0, 0, 0, 9, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        let flags = [8, 0, 8, 0, 0x80, 2, 0, 0];
        let body = [address.as_slice(), &flags, &lifetime].concat();
        let again = address_again(&body, 0x280).unwrap();
        assert_eq!(again.body(), [address.as_slice(), &lifetime, &[8, 0, 8, 0, 0x82, 2, 0, 0]].concat());
    }
}
