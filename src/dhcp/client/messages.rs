//! What a client sends at each stage (RFC 2131, table 5).

use std::net::Ipv4Addr;

use super::{Client, Datagram, Stage};
use crate::dhcp::packet::{self, Packet, code, kind};

const BROADCAST_MAC: [u8; 6] = [0xff; 6];

impl Client {
    /// The message of the current stage.
    pub(super) fn message(&self) -> Datagram {
        let lease = self.lease.as_ref();
        let kind = if self.stage == Stage::Selecting { kind::DISCOVER } else { kind::REQUEST };
        let mut packet = Packet::to_server(kind, self.xid, self.settings.hardware);
        packet.options = self.settings.options.clone();
        packet.options.set(code::MESSAGE_TYPE, &[kind]);
        let (mut source, mut destination, mut mac) = (Ipv4Addr::UNSPECIFIED, Ipv4Addr::BROADCAST, BROADCAST_MAC);
        let mut requested = lease.map(|lease| lease.address);
        if let Stage::Requesting(server, address) = self.stage {
            requested = Some(address);
            packet.options.set(code::SERVER_ID, &server.octets());
        }
        if let (Some(lease), Stage::Renewing | Stage::Rebinding) = (lease, self.stage) {
            (packet.client, source, requested) = (lease.address, lease.address, None);
            packet.options.remove(code::REQUESTED_ADDRESS);
            packet.options.remove(code::SERVER_ID);
        } else if self.settings.broadcast {
            packet.flags = packet::BROADCAST;
        }
        if let (Some(lease), Stage::Renewing) = (lease, self.stage) {
            destination = lease.server;
            // Its network card may have been replaced: the second try is for whoever has the address.
            mac = lease.server_mac.filter(|_| self.sends < 2).unwrap_or(BROADCAST_MAC);
        }
        if let Some(address) = requested {
            packet.options.set(code::REQUESTED_ADDRESS, &address.octets());
        }
        Datagram { source, destination, mac, payload: packet.encode() }
    }

    /// Gives an address back.
    pub(super) fn release_message(&mut self, server: Ipv4Addr, address: Ipv4Addr, mac: Option<[u8; 6]>) -> Datagram {
        let mut packet = Packet::to_server(kind::RELEASE, self.random() as u32, self.settings.hardware);
        packet.client = address;
        packet.options.set(code::SERVER_ID, &server.octets());
        if let Some(id) = self.settings.options.get(code::CLIENT_ID) {
            packet.options.set(code::CLIENT_ID, id);
        }
        let payload = packet.encode();
        Datagram { source: address, destination: server, mac: mac.unwrap_or(BROADCAST_MAC), payload }
    }
}
