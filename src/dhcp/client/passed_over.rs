//! Answers that the client does not believe. An error that speaks of silence alone would send the
//! search for the cause to cables and firewalls.

use std::net::Ipv4Addr;

use super::{Client, Event, Output};
use crate::dhcp::packet::{Packet, code, kind};

/// How many of them are told until the next success: the network may be full of them.
const MOST_TOLD: u8 = 8;

/// Why a packet is not the answer that is awaited.
pub(super) type Reason = String;

impl Client {
    /// A packet for us has come that cannot be read, for this reason.
    pub fn unreadable(&mut self, reason: &str) -> Output {
        if !self.listening() {
            return Output::default();
        }
        self.tell(format!("an answer was passed over: {reason}"), true)
    }

    /// Passes over a packet that is for us. Late answers to earlier messages say less than others.
    pub(super) fn pass_over(&mut self, packet: &Packet, reason: &str) -> Output {
        let (said, offered) = (name_of(packet), packet.yours);
        let of = if offered.is_unspecified() { String::new() } else { format!(" of {offered}") };
        let server: Option<Ipv4Addr> = packet.options.address(code::SERVER_ID);
        let from = server.map_or(String::new(), |server| format!(" from {server}"));
        self.tell(format!("{said}{of}{from} passed over: {reason}"), packet.xid == self.xid)
    }

    fn tell(&mut self, text: String, matters: bool) -> Output {
        let event = (text != self.passed_over && self.told < MOST_TOLD).then(|| Event::PassedOver(text.clone()));
        self.told += u8::from(event.is_some());
        if matters || self.passed_over.is_empty() {
            self.passed_over = text;
        }
        Output { send: None, event }
    }

    /// Puts the answer that was passed over last behind the cause of a failure.
    pub(super) fn with_passed_over(&self, cause: String) -> String {
        if self.passed_over.is_empty() { cause } else { format!("{cause}; {}", self.passed_over) }
    }

    /// Forgets what was passed over.
    pub(super) fn succeed(&mut self) {
        self.passed_over.clear();
        (self.told, self.failures) = (0, 0);
    }
}

fn name_of(packet: &Packet) -> &'static str {
    match packet.kind() {
        Some(kind::OFFER) => "offer",
        Some(kind::ACK) => "ACK",
        Some(kind::NAK) => "NAK",
        _ => "answer",
    }
}
