//! The device that a container's device lies on: the keys `master`, `linkInContainer` and `mtu` of macvlan, ipvlan and vlan.

use crate::cni::NetworkConfig;
use crate::error::{Context, Error, Result, code};
use crate::ipam::mtu;
use crate::net::{Handle, Link, Netns};

/// What a configuration says of it.
#[derive(Debug, Clone)]
pub struct Master {
    /// Its name; empty for the interface of the default route.
    pub name: String,
    /// It is in the container, not on the host.
    pub in_container: bool,
    /// Maximum transmission unit of the container's device in bytes; 0 for that of the master.
    pub mtu: i64,
}

impl Master {
    /// Decodes the three keys.
    pub fn decode(config: &NetworkConfig) -> Result<Master> {
        let top = config.top();
        let name = top.string("master")?.to_string();
        // The master's is the default already.
        let mtu = mtu::wish(&top)?.unwrap_or(0);
        Ok(Master { name, in_container: top.boolean("linkInContainer")?, mtu })
    }

    /// Fails for an MTU that no device on a master has, and for a name that no device has.
    pub fn validate(&self) -> Result<()> {
        // `ALTIFNAMSIZ`, linux/if.h, without the final zero byte.
        const LONGEST: usize = 127;
        let (mtu, most) = (self.mtu, mtu::MOST);
        if mtu > i64::from(most) {
            return Err(Error::internal(format!("invalid MTU {mtu}, must be [0, {most}]")));
        }
        if self.name.len() > LONGEST {
            let msg = format!("failed to lookup master {:?}: a device's name has at most {LONGEST} bytes", self.name);
            return Err(Error::internal(msg));
        }
        Ok(())
    }

    /// A handle on the namespace it is in, and the device itself.
    pub fn find(&self, container: &Netns) -> Result<(Handle, Link)> {
        let mut handle = if self.in_container { Handle::inside(container)? } else { Handle::current()? };
        let link = self.find_by(&mut handle)?;
        Ok((handle, link))
    }

    fn find_by(&self, handle: &mut Handle) -> Result<Link> {
        if !self.name.is_empty() {
            return handle.link(&self.name).with_context(|| format!("failed to lookup master {:?}", self.name));
        }
        let none = || Error::internal("no default route interface found");
        let index = handle.default_link()?.ok_or_else(none)?;
        handle.find_link_at(index)?.ok_or_else(none)
    }

    /// The wanted MTU, which may not exceed the master's.
    pub fn checked_mtu(&self, link: &Link) -> Result<u32> {
        let mtu = u32::try_from(self.mtu).ok().filter(|mtu| *mtu <= link.mtu);
        mtu.ok_or_else(|| Error::internal(format!("invalid MTU {}, must be [0, master MTU({})]", self.mtu, link.mtu)))
    }

    /// CHECK: the container's device still lies on it, with the setting and MTU that are configured. A master that is not
    /// named is what was found at the time of ADD, whatever has become of the default route.
    pub fn verify(&self, container: &Netns, device: &Link) -> Result<()> {
        let name = &device.name;
        if !self.name.is_empty() {
            let (_, master) = self.find(container)?;
            if !self.carries(&master, device) {
                return Err(Error::internal(format!("Interface {name} does not lie on master {:?}", self.name)));
            }
        }
        if self.mtu > 0 && i64::from(device.mtu) != self.mtu {
            let (wanted, found) = (self.mtu, device.mtu);
            return Err(Error::internal(format!("Interface {name} MTU doesn't match: {wanted}, found {found}")));
        }
        Ok(())
    }

    fn carries(&self, master: &Link, device: &Link) -> bool {
        let directly = device.lower == Some(master.index) && device.lower_is_elsewhere != self.in_container;
        // The kernel puts a macvlan on a macvlan, and an ipvlan on an ipvlan, beside it, on what that one lies on.
        let stacks = device.kind == "vlan" || device.kind != master.kind;
        directly || (!stacks && device.lower.is_some() && device.lower == master.lower)
    }

    /// STATUS: fails if ADD would fail for want of a master on the host, and gives the master. `limits_mtu` where the device's
    /// MTU may not exceed its. `None`: the container will have the master at the time of ADD.
    pub fn probe(&self, limits_mtu: bool) -> Result<Option<Link>> {
        if self.in_container {
            return Ok(None);
        }
        let unusable = |error: Error| Error::new(code::NOT_AVAILABLE, error.to_string());
        let link = self.find_by(&mut Handle::current()?).map_err(unusable)?;
        if link.is_loopback() {
            return Err(Error::new(code::NOT_AVAILABLE, format!("master {:?} is a loopback device", link.name)));
        }
        if limits_mtu {
            self.checked_mtu(&link).map_err(unusable)?;
        }
        Ok(Some(link))
    }
}
