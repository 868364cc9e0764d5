//! VRFs: devices whose ports have a routing table of their own.

use crate::error::{Context, Error, Result};
use crate::net::Handle;
use crate::net::links::message;
use crate::netlink::message::{CREATE, EXCL};
use crate::netlink::route::*;
use crate::netlink::{Attribute, Attributes, Message};

/// Tables that every namespace has: default, main, local.
const RESERVED: std::ops::RangeInclusive<u32> = 253..=255;
/// Where the table's low byte is in `struct rtmsg` and `struct fib_rule_hdr`, and the length of both.
const TABLE: usize = 4;
const HEADER: usize = 12;

impl Handle {
    /// Creates a VRF that is up.
    pub fn create_vrf(&mut self, name: &str, table: u32) -> Result<()> {
        self.connection.request(vrf_message(name, table))
    }

    /// The lowest table that no VRF, route or rule uses.
    pub fn free_table(&mut self) -> Result<u32> {
        let links = self.all_links()?;
        let mut used: Vec<u32> =
            links.iter().filter(|link| link.kind == "vrf").filter_map(|link| link.setting).collect();
        for (kind, attribute) in [(RTM_GETROUTE, RTA_TABLE), (RTM_GETRULE, FRA_TABLE)] {
            for family in [AF_INET, AF_INET6] {
                let mut request = Message::new(kind, 0);
                request.raw(&[family, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
                let tables = self.connection.dump(&request, Vec::new, |tables, reply| {
                    let table = table_of(reply.body, attribute)?;
                    // There are many routes and few tables.
                    if !tables.contains(&table) {
                        tables.push(table);
                    }
                    Ok(())
                });
                used.extend(tables.context("failed to list routing tables")?);
            }
        }
        let free = (1..u32::MAX).find(|table| !used.contains(table) && !RESERVED.contains(table));
        free.ok_or_else(|| Error::internal("findFreeRoutingTableID: Failed to find an available routing id"))
    }
}

fn table_of(body: &[u8], attribute: u16) -> Result<u32> {
    let wide = Attributes::after(body, HEADER)?.find(attribute).and_then(Attribute::u32);
    Ok(wide.unwrap_or_else(|| body.get(TABLE).copied().map_or(0, u32::from)))
}

fn vrf_message(name: &str, table: u32) -> Message {
    let mut request = message(RTM_NEWLINK, CREATE | EXCL, 0, IFF_UP, IFF_UP);
    request.string(IFLA_IFNAME, name).container(IFLA_LINKINFO, |info| {
        info.string(IFLA_INFO_KIND, "vrf").container(IFLA_INFO_DATA, |data| {
            data.u32(FIRST_OF_INFO_DATA, table);
        });
    });
    request
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_vrf_is_one_request() {
        #[rustfmt::skip]
        let golden = [
            0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0,     // ifinfomsg: IFF_UP of IFF_UP
            9, 0, 3, 0, b'b', b'l', b'u', b'e', 0, 0, 0, 0,     // IFLA_IFNAME
            24, 0, 18, 0,                                       // IFLA_LINKINFO
            8, 0, 1, 0, b'v', b'r', b'f', 0,                    //   IFLA_INFO_KIND
            12, 0, 2, 0, 8, 0, 1, 0, 10, 0, 0, 0,               //   IFLA_INFO_DATA: IFLA_VRF_TABLE
        ];
        assert_eq!(vrf_message("blue", 10).body(), golden);
    }

    #[test]
    fn a_table_beyond_a_byte_is_in_an_attribute() {
        let rule = [2, 0, 0, 0, 252, 0, 0, 1, 0, 0, 0, 0];
        assert_eq!(table_of(&rule, FRA_TABLE).unwrap(), 252);
        let wide = [rule.as_slice(), &[8, 0, 15, 0, 0x2c, 1, 0, 0]].concat();
        assert_eq!(table_of(&wide, FRA_TABLE).unwrap(), 300);
    }
}
