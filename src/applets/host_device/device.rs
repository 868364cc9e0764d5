//! Which device the configuration means, and where sysfs has it.

use std::fs;
use std::path::{Path, PathBuf};

use crate::cni::NetworkConfig;
use crate::error::{Context, Error, Result, code};
use crate::net::{Handle, Link, Mac};

const PCI_DEVICES: &str = "/sys/bus/pci/devices";
const AUXILIARY_DEVICES: &str = "/sys/bus/auxiliary/devices";
/// What every `kernelpath` starts with.
const KERNEL_DEVICES: &str = "/sys/devices/";

/// Drivers that hand a PCI device to a program in user space: it then has no link to be moved.
const USERSPACE_DRIVERS: [&str; 3] = ["vfio-pci", "uio_pci_generic", "igb_uio"];

/// The keys that name a device, in the order in which they count; empty when not given.
#[derive(Debug)]
pub(super) struct Selector<'a> {
    /// Name on the host.
    pub(super) device: &'a str,
    /// Hardware address.
    hwaddr: &'a str,
    /// Folder below [`KERNEL_DEVICES`].
    kernelpath: &'a str,
    /// PCI address.
    pci: &'a str,
    /// Name on the auxiliary bus.
    auxiliary: &'a str,
    /// The runtime's wish, until it is known which kind of device it is.
    device_id: &'a str,
}

impl<'a> Selector<'a> {
    /// Reads the keys.
    pub(super) fn of(config: &'a NetworkConfig) -> Result<Self> {
        let top = config.top();
        Ok(Selector {
            device: top.string("device")?,
            hwaddr: top.string("hwaddr")?,
            kernelpath: top.string("kernelpath")?,
            pci: top.string("pciBusID")?,
            auxiliary: "",
            device_id: config.runtime()?.map_or(Ok(""), |runtime| runtime.string("deviceID"))?,
        })
    }

    /// Puts the runtime's `deviceID` in the place of `pciBusID`. A device that does not exist is an error.
    pub(super) fn resolve_device_id(&mut self) -> Result<()> {
        let id = self.device_id;
        if id.is_empty() {
            return Ok(());
        }
        if Path::new(PCI_DEVICES).join(id).exists() {
            self.pci = id;
        } else if Path::new(AUXILIARY_DEVICES).join(id).exists() {
            (self.pci, self.auxiliary) = ("", id);
        } else {
            return Err(Error::internal(format!("runtime config DeviceID {id} not found or unsupported")));
        }
        Ok(())
    }

    /// The runtime names a device.
    pub(super) fn has_device_id(&self) -> bool {
        !self.device_id.is_empty()
    }

    /// True when no key is given.
    pub(super) fn is_empty(&self) -> bool {
        [self.device, self.hwaddr, self.kernelpath, self.pci, self.auxiliary].iter().all(|key| key.is_empty())
    }

    /// Whether a driver of [`USERSPACE_DRIVERS`] has the PCI device; `None` without one.
    pub(super) fn has_userspace_driver(&self) -> Result<Option<bool>> {
        if self.pci.is_empty() {
            return Ok(None);
        }
        let resolve = |path: PathBuf| {
            fs::canonicalize(&path).with_context(|| format!("error with host device: lstat {}", path.display()))
        };
        let device = resolve(Path::new(PCI_DEVICES).join(self.pci))?;
        let driver = resolve(device.join("driver"))?;
        Ok(Some(USERSPACE_DRIVERS.iter().any(|name| driver.ends_with(name))))
    }

    /// The link on the host.
    pub(super) fn find(&self, host: &mut Handle) -> Result<Link> {
        if !self.device.is_empty() {
            return host.link(self.device).map_err(|error| error.with_details("a container may have it"));
        }
        if !self.hwaddr.is_empty() {
            let wanted = Mac::parse(self.hwaddr);
            let wanted = wanted.with_context(|| format!("failed to parse MAC address {:?}", self.hwaddr))?;
            let found = host.all_links()?.into_iter().find(|link| link.mac == wanted);
            return found.ok_or_else(|| Error::internal("failed to find physical interface"));
        }
        let folder = self.folder()?;
        let names = names_in(&folder).map_err(|error| {
            let cause = format!("open {folder}: {}", Error::from(error));
            Error::internal(format!("failed to read directory {folder}: {cause:?}"))
        })?;
        let none = || Error::internal(format!("failed to find network device in path {folder}"));
        host.link(names.iter().min().ok_or_else(none)?)
    }

    /// The folder of sysfs that lists the device's links.
    fn folder(&self) -> Result<String> {
        let Selector { kernelpath, pci, auxiliary, .. } = self;
        if !kernelpath.is_empty() {
            return match kernelpath.starts_with(KERNEL_DEVICES) {
                true => Ok(format!("{}/net", kernelpath.trim_end_matches('/'))),
                false => Err(Error::internal(format!(
                    "kernel device path {kernelpath:?} must be absolute and begin with {KERNEL_DEVICES}"
                ))),
            };
        }
        if pci.is_empty() {
            return Ok(format!("{AUXILIARY_DEVICES}/{auxiliary}/net"));
        }
        let device = format!("{PCI_DEVICES}/{pci}");
        // The link of a virtio device is that of a device on the PCI device.
        let virtio = names_in(&device).unwrap_or_default().into_iter().filter(|name| name.starts_with("virtio"));
        let mut folders: Vec<_> = virtio.map(|name| format!("{device}/{name}/net")).collect();
        folders.push(format!("{device}/net"));
        let found = folders.into_iter().filter(|folder| Path::new(folder).exists()).min();
        found.ok_or_else(|| Error::internal(format!("no net directory under pci device {pci}")))
    }

    /// STATUS: what sysfs knows is there wherever the link is. A name or a hardware address a container may have; in
    /// `dpdk` mode ADD looks for no link; and with `is_named_later` the runtime's device takes the place of the PCI address.
    pub(super) fn probe(&self, dpdk: bool, is_named_later: bool) -> Result<()> {
        let path = match self {
            Selector { device: "", hwaddr: "", kernelpath: "", pci, .. } if !pci.is_empty() && !is_named_later => {
                format!("{PCI_DEVICES}/{pci}")
            }
            Selector { device: "", hwaddr: "", kernelpath, .. } if !kernelpath.is_empty() && !dpdk => {
                kernelpath.to_string()
            }
            _ => return Ok(()),
        };
        let found = fs::metadata(&path).with_context(|| format!("failed to find host device: {path}"));
        found.map(drop).map_err(|error| error.with_code(code::NOT_AVAILABLE))
    }
}

/// What is in a folder, in no order.
fn names_in(folder: &str) -> std::io::Result<Vec<String>> {
    fs::read_dir(folder)?.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned())).collect()
}
