//! firewalld, asked over D-Bus to trust addresses of containers: an address is a *source* of a zone. Such sources live until
//! firewalld is reloaded or stopped.

mod address;
mod bus;
mod message;
#[cfg(test)]
mod tests;

use std::net::IpAddr;

use crate::error::{Errno, Error, Result};
use bus::{Answer, BUS, Bus, Refusal};
use message::{Call, Value};

/// firewalld's name on the bus and its object.
const FIREWALLD: (&str, &str) = ("org.fedoraproject.FirewallD1", "/org/fedoraproject/FirewallD1");
/// The interface with the methods for zones.
const ZONE: &str = "org.fedoraproject.FirewallD1.zone";

/// firewalld's answer when the zone has the source already. In another zone it is `ZONE_CONFLICT`.
const ALREADY_SET: &str = "ZONE_ALREADY_SET";
/// firewalld's answers when there is no such source to remove from this zone.
const NOT_THERE: [&str; 3] = ["UNKNOWN_SOURCE", "ZONE_CONFLICT", "INVALID_ZONE"];
/// The bus's answers when nobody has firewalld's name, nor can be started to have it.
const NOBODY: [&str; 2] = ["org.freedesktop.DBus.Error.NameHasNoOwner", "org.freedesktop.DBus.Error.ServiceUnknown"];
/// The answers to somebody who may not.
const DENIED: [&str; 2] =
    ["org.fedoraproject.FirewallD1.NotAuthorizedException", "org.freedesktop.DBus.Error.AccessDenied"];

/// A connection to the system bus.
#[derive(Debug)]
pub struct Firewalld(Bus);

impl Firewalld {
    /// Connects to the bus at this address: a value of `DBUS_SYSTEM_BUS_ADDRESS`, or empty for the usual place. Everything
    /// asked on the connection may take ten seconds together.
    pub fn connect(address: &str) -> Result<Self> {
        Bus::connect(address).map(Firewalld)
    }

    /// The same; `None` when nobody listens there.
    pub fn connect_if_present(address: &str) -> Result<Option<Self>> {
        match Firewalld::connect(address) {
            Err(error) if matches!(error.errno, Some(Errno::ENOENT | Errno::ENOTDIR | Errno::ECONNREFUSED)) => Ok(None),
            connected => connected.map(Some),
        }
    }

    /// True when firewalld has its name on the bus.
    pub fn is_running(&mut self) -> Result<bool> {
        let (destination, path) = BUS;
        let call = Call { destination, path, interface: BUS.0, member: "GetNameOwner", arguments: &[FIREWALLD.0] };
        match self.0.call(&call)? {
            Ok(_) => Ok(true),
            Err(refusal) if NOBODY.contains(&refusal.name.as_str()) => Ok(false),
            Err(refusal) => Err(Error::internal(refusal.to_string()).context("failed to look for firewalld")),
        }
    }

    /// Puts an address into a zone. False when it is there already; in another zone is an error.
    pub fn add_source(&mut self, zone: &str, address: IpAddr) -> Result<bool> {
        match self.ask("addSource", zone, address)? {
            Ok(_) => Ok(true),
            Err(refusal) if refusal.code() == ALREADY_SET => Ok(false),
            Err(refusal) => {
                let what = format!("failed to add the address {} to {zone} zone", source(address));
                Err(failed("addSource", &refusal).context(&what))
            }
        }
    }

    /// Takes an address out of a zone. One that is not there counts as taken out.
    pub fn remove_source(&mut self, zone: &str, address: IpAddr) -> Result<()> {
        match self.ask("removeSource", zone, address)? {
            Ok(_) => Ok(()),
            Err(refusal) if refusal.is_nobody() || NOT_THERE.contains(&refusal.code()) => Ok(()),
            Err(refusal) => {
                let what = format!("failed to remove the address {} from {zone} zone", source(address));
                Err(failed("removeSource", &refusal).context(&what))
            }
        }
    }

    /// True when the address is in the zone.
    pub fn query_source(&mut self, zone: &str, address: IpAddr) -> Result<bool> {
        let what = || format!("failed to find the address {} in {zone} zone", source(address));
        match self.ask("querySource", zone, address)? {
            Ok(Some(Value::Boolean(found))) => Ok(found),
            Ok(_) => Err(Error::internal(format!("{}: {ZONE}.querySource answered with no truth value", what()))),
            Err(refusal) => Err(failed("querySource", &refusal).context(&what())),
        }
    }

    fn ask(&mut self, member: &str, zone: &str, address: IpAddr) -> Result<Answer> {
        let (destination, path) = FIREWALLD;
        let arguments = [zone, &source(address)];
        self.0.call(&Call { destination, path, interface: ZONE, member, arguments: &arguments })
    }
}

impl Refusal {
    /// firewalld's own error code, which it only gives as the start of the text: `ZONE_CONFLICT: …`.
    fn code(&self) -> &str {
        self.text.split(':').next().unwrap_or_default()
    }

    fn is_nobody(&self) -> bool {
        NOBODY.contains(&self.name.as_str())
    }
}

/// `EACCES` when we may not ask for that.
fn failed(member: &str, refusal: &Refusal) -> Error {
    let error = Error::internal(format!("{ZONE}.{member}: {refusal}"));
    if DENIED.contains(&refusal.name.as_str()) {
        let error = error.with_errno(Errno::EACCES);
        return error.with_details("firewalld obeys the host's root only; without those rights choose another backend");
    }
    error
}

/// The address as firewalld takes it: a network of one.
fn source(address: IpAddr) -> String {
    format!("{address}/{}", if address.is_ipv4() { 32 } else { 128 })
}
