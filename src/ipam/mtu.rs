//! The key `mtu`: a number of bytes, 0 for the kernel's default as in the reference, or `"auto"`, which the reference
//! refuses as it does any string.

use serde_json::Value;

use crate::cni::Object;
use crate::error::{Errno, Error, Result};
use crate::net::Handle;

/// The maximum transmission unit that a configuration asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mtu {
    /// In bytes; 0 for the kernel's default.
    Bytes(u32),
    /// That of the host's default route.
    Auto,
}

/// What the key says, in bytes; `None` for `"auto"`.
pub fn wish(top: &Object<'_>) -> Result<Option<i64>> {
    match top.get("mtu") {
        Some(Value::String(text)) if text == "auto" => Ok(None),
        _ => top.integer("mtu").map(Some),
    }
}

/// `ETH_MIN_MTU`, linux/if_ether.h.
const LEAST: u32 = 68;
/// `ETH_MAX_MTU`, linux/if_ether.h.
pub(super) const MOST: u32 = 65535;

impl Mtu {
    /// Decodes the key. A number below `lowest` counts as 0.
    pub fn decode(top: &Object<'_>, lowest: i64) -> Result<Mtu> {
        let Some(bytes) = wish(top)? else { return Ok(Mtu::Auto) };
        let bytes = if bytes < lowest { 0 } else { bytes };
        u32::try_from(bytes).map(Mtu::Bytes).map_err(|_| Error::internal(format!("invalid mtu {bytes}")))
    }

    /// Finds out what `"auto"` is at this moment.
    pub fn resolve(&mut self) -> Result<()> {
        if *self == Mtu::Auto {
            let none = || {
                let error = Error::internal("mtu \"auto\": the host has no default route");
                error.with_details("give the mtu in bytes, or add the network when the host's own is up")
            };
            *self = Mtu::Bytes(Handle::current()?.default_mtu()?.ok_or_else(none)?);
        }
        Ok(())
    }

    /// Fails for a number of bytes that no veth pair and no TAP has (`veth_setup`, linux/drivers/net/veth.c).
    pub fn verify(self) -> Result<()> {
        match self.bytes() {
            bytes if bytes > 0 && !(LEAST..=MOST).contains(&bytes) => {
                let details = format!("mtu {bytes} is not between {LEAST} and {MOST}");
                Err(Error::from(Errno::EINVAL).with_details(details))
            }
            _ => Ok(()),
        }
    }

    /// In bytes; 0 for the kernel's default, and for what is not resolved.
    pub fn bytes(self) -> u32 {
        if let Mtu::Bytes(bytes) = self { bytes } else { 0 }
    }
}
