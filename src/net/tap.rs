//! TAP devices in a container, which some program (a virtual machine) will hold later.

use crate::error::{Context, Errno, Result};
use crate::net::Netns;
use crate::sys::{process, tun};

/// The kernel's name for the kind.
pub const KIND: &str = "tun";

/// The program's first argument when it is to do nothing but create a TAP device: see [`NewTap::create_as`].
pub const CHILD: &str = "--create-tap";

/// In place of an owner or group.
const NOBODY: &str = "-";

/// A TAP device to be created.
#[derive(Debug)]
pub struct NewTap<'a> {
    /// Its name.
    pub name: &'a str,
    /// Several queues.
    pub multi_queue: bool,
    /// Packet information in front of each packet.
    pub packet_info: bool,
    /// A virtio header in front of each packet.
    pub vnet_header: bool,
    /// User id of who may hold it; anybody with the capability if there is none.
    pub owner: Option<u32>,
    /// Group id of who may hold it.
    pub group: Option<u32>,
}

impl NewTap<'_> {
    /// Creates it; `EEXIST` when the name is taken.
    pub fn create(&self, netns: &Netns) -> Result<()> {
        netns.run(|| tun::create(self.name, self.flags(), self.owner, self.group))?
    }

    /// The same under an SELinux context. The kernel labels a device as the process that creates it, whatever
    /// `attr/sockcreate` says, and only an exec changes a process's context: so this program is run once more.
    pub fn create_as(&self, netns: &Netns, context: &str) -> Result<()> {
        let number = |id: Option<u32>| id.map_or(NOBODY.to_string(), |id| id.to_string());
        let (flags, owner, group) = (self.flags().to_string(), number(self.owner), number(self.group));
        let arguments = [CHILD, self.name, &flags, &owner, &group];
        match netns.run(|| process::run_self_as(context, &arguments))?? {
            Some(0) => Ok(()),
            code => Err(code.map_or(Errno::EINTR, Errno::from_raw).into()),
        }
    }

    fn flags(&self) -> u16 {
        let wanted = [
            (self.multi_queue, tun::MULTI_QUEUE),
            (!self.packet_info, tun::NO_PACKET_INFO),
            (self.vnet_header, tun::VNET_HEADER),
        ];
        wanted.iter().filter(|(is_wanted, _)| *is_wanted).fold(0, |flags, (_, flag)| flags | flag)
    }
}

/// What the program does for [`NewTap::create_as`]: its exit code is the kernel's error number.
pub fn create_as_told(arguments: &[String]) -> u8 {
    let [name, flags, owner, group] = arguments else { return Errno::EINVAL as u8 };
    let number = |text: &str| text.parse().ok();
    let created =
        flags.parse().map_or(Err(Errno::EINVAL.into()), |flags| tun::create(name, flags, number(owner), number(group)));
    created.map_or_else(|error| error.errno.unwrap_or(Errno::EINVAL) as u8, |()| 0)
}

/// Fails when the kernel has no TAP devices.
pub fn probe() -> Result<()> {
    tun::open().map(drop).context("tap devices cannot be created")
}
