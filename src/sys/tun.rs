//! TAP devices through /dev/net/tun (`linux/if_tun.h`): created, and left behind without anybody who holds them.

use std::ffi::CStr;
use std::fs::File;
use std::os::fd::AsRawFd;

use crate::error::{Context, Errno, Result};

/// The door to the driver. A device belongs to the network namespace that this was opened in.
const DOOR: &str = "/dev/net/tun";

/// No packet information in front of each packet.
pub const NO_PACKET_INFO: u16 = libc::IFF_NO_PI as u16;
/// A `struct virtio_net_hdr` in front of each packet.
pub const VNET_HEADER: u16 = libc::IFF_VNET_HDR as u16;
/// Several programs, or threads, may hold the device at once, each a queue.
pub const MULTI_QUEUE: u16 = libc::IFF_MULTI_QUEUE as u16;

/// Opens the door: fails when there is no driver.
pub fn open() -> Result<File> {
    File::options().read(true).write(true).open(DOOR).with_context(|| format!("failed to open {DOOR}"))
}

/// Creates a TAP device in the current network namespace; `EEXIST` when the name is taken. Until the last step the device
/// is gone with our descriptor, so whatever happens in between leaves nothing.
pub fn create(name: &str, flags: u16, owner: Option<u32>, group: Option<u32>) -> Result<()> {
    let tun = open()?;
    attach(&tun, name, flags)?;
    if let Some(owner) = owner {
        set(&tun, libc::TUNSETOWNER, owner)?;
    }
    if let Some(group) = group {
        set(&tun, libc::TUNSETGROUP, group)?;
    }
    set(&tun, libc::TUNSETPERSIST, 1)
}

fn attach(tun: &File, name: &str, flags: u16) -> Result<()> {
    // SAFETY: `ifreq` is plain data, for which zeros are valid.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    // The last byte stays zero.
    let (last, room) = request.ifr_name.split_last_mut().ok_or(Errno::EINVAL)?;
    if name.len() > room.len() || *last != 0 {
        return Err(Errno::ENAMETOOLONG.into());
    }
    for (place, byte) in room.iter_mut().zip(name.bytes()) {
        *place = byte as libc::c_char;
    }
    // Exclusive, or a device that exists would be taken for ours.
    request.ifr_ifru.ifru_flags = (flags | libc::IFF_TAP as u16 | libc::IFF_TUN_EXCL as u16) as libc::c_short;
    // SAFETY: TUNSETIFF reads and writes an `ifreq`, which lives until the call returns.
    let done = unsafe { libc::ioctl(tun.as_raw_fd(), libc::TUNSETIFF as _, &mut request) };
    match Errno::result(done) {
        Err(Errno::EBUSY) => return Err(Errno::EEXIST.into()),
        done => done?,
    };
    // SAFETY: the kernel returns a name that ends in NUL, and the last byte was NUL before.
    let given = unsafe { CStr::from_ptr(request.ifr_name.as_ptr()) };
    // The kernel expands a `%d`.
    if given.to_bytes() == name.as_bytes() { Ok(()) } else { Err(Errno::EINVAL.into()) }
}

fn set(tun: &File, what: libc::Ioctl, value: u32) -> Result<()> {
    // SAFETY: these requests take a number.
    let done = unsafe { libc::ioctl(tun.as_raw_fd(), what as _, libc::c_ulong::from(value)) };
    Errno::result(done).map(drop).map_err(Into::into)
}
