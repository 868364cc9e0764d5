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
#[derive(Debug, Default)]
pub(super) struct Selector {
    /// Name on the host.
    pub(super) device: String,
    /// Hardware address.
    hwaddr: String,
    /// Folder below [`KERNEL_DEVICES`].
    kernelpath: String,
    /// PCI address.
    pci: String,
    /// Name on the auxiliary bus.
    auxiliary: String,
    /// The runtime's wish, until it is known which kind of device it is.
    device_id: String,
}

impl Selector {
    /// Reads the keys.
    pub(super) fn of(config: &NetworkConfig) -> Result<Selector> {
        let top = config.top();
        let text = |key: &str| Ok::<_, Error>(top.string(key)?.to_string());
        Ok(Selector {
            device: text("device")?,
            hwaddr: text("hwaddr")?,
            kernelpath: text("kernelpath")?,
            pci: text("pciBusID")?,
            auxiliary: String::new(),
            device_id: config.runtime()?.map_or(Ok(""), |runtime| runtime.string("deviceID"))?.to_string(),
        })
    }

    /// Puts the runtime's `deviceID` in the place of `pciBusID`. A device that does not exist is an error.
    pub(super) fn resolve_device_id(&mut self) -> Result<()> {
        let id = std::mem::take(&mut self.device_id);
        if id.is_empty() {
            return Ok(());
        }
        if Path::new(PCI_DEVICES).join(&id).exists() {
            self.pci = id;
        } else if Path::new(AUXILIARY_DEVICES).join(&id).exists() {
            self.pci.clear();
            self.auxiliary = id;
        } else {
            return Err(Error::internal(format!("runtime config DeviceID {id} not found or unsupported")));
        }
        Ok(())
    }

    /// True when no key is given.
    pub(super) fn is_empty(&self) -> bool {
        [&self.device, &self.hwaddr, &self.kernelpath, &self.pci, &self.auxiliary].iter().all(|key| key.is_empty())
    }

    /// Whether a driver of [`USERSPACE_DRIVERS`] has the PCI device; `None` without one.
    pub(super) fn has_userspace_driver(&self) -> Result<Option<bool>> {
        if self.pci.is_empty() {
            return Ok(None);
        }
        let device = Path::new(PCI_DEVICES).join(&self.pci);
        let link = device.join("driver");
        let missing = if device.exists() { &link } else { &device };
        let driver = fs::canonicalize(&link);
        let driver = driver.with_context(|| format!("error with host device: lstat {}", missing.display()))?;
        Ok(Some(USERSPACE_DRIVERS.iter().any(|name| driver.ends_with(name))))
    }

    /// The link on the host.
    pub(super) fn find(&self, host: &mut Handle) -> Result<Link> {
        if !self.device.is_empty() {
            let hint = "a container may have it";
            return host.link(&self.device).map_err(|error| error.with_details(hint));
        }
        if !self.hwaddr.is_empty() {
            let wanted = self.mac()?;
            let found = host.all_links()?.into_iter().find(|link| link.mac == wanted);
            return found.ok_or_else(|| Error::internal("failed to find physical interface"));
        }
        let folder = self.folder()?;
        let Some(name) = first_entry(&folder)? else {
            let folder = folder.display();
            return Err(Error::internal(format!("failed to find network device in path {folder}")));
        };
        host.link(&name)
    }

    /// The hardware address asked for.
    fn mac(&self) -> Result<Mac> {
        Mac::parse(&self.hwaddr).with_context(|| format!("failed to parse MAC address {:?}", self.hwaddr))
    }

    /// The folder of sysfs that lists the device's links.
    fn folder(&self) -> Result<PathBuf> {
        if !self.kernelpath.is_empty() {
            let path = &self.kernelpath;
            let wrong = || {
                let msg = format!("kernel device path {path:?} must be absolute and begin with {KERNEL_DEVICES}");
                Error::internal(msg)
            };
            return Some(Path::new(path).join("net")).filter(|_| path.starts_with(KERNEL_DEVICES)).ok_or_else(wrong);
        }
        if self.pci.is_empty() {
            return Ok(Path::new(AUXILIARY_DEVICES).join(&self.auxiliary).join("net"));
        }
        let device = Path::new(PCI_DEVICES).join(&self.pci);
        let own = Some(device.join("net")).filter(|folder| folder.exists());
        let missing = || Error::internal(format!("no net directory under pci device {}", self.pci));
        own.or_else(|| virtio_folder(&device)).ok_or_else(missing)
    }

    /// STATUS: what can be seen of the device wherever its link is, and that is not its name or address: a container may
    /// have it.
    pub(super) fn probe(&self) -> Result<()> {
        if !self.device.is_empty() {
            return Ok(());
        }
        if !self.hwaddr.is_empty() {
            return self.mac().map(drop).map_err(unavailable);
        }
        let path = match (self.kernelpath.as_str(), self.pci.as_str()) {
            ("", "") => return Ok(()),
            ("", pci) => Path::new(PCI_DEVICES).join(pci),
            (path, _) => self.folder().map(|_| PathBuf::from(path)).map_err(unavailable)?,
        };
        fs::metadata(&path).map(drop).with_context(|| format!("no device {:?}", path.display())).map_err(unavailable)
    }
}

fn unavailable(error: Error) -> Error {
    Error::new(code::NOT_AVAILABLE, format!("failed to find host device: {}", error.msg))
}

/// `net` of the first virtio device that the PCI device carries.
fn virtio_folder(device: &Path) -> Option<PathBuf> {
    let mut names = names_in(device).ok()?;
    names.retain(|name| name.starts_with("virtio"));
    names.iter().map(|name| device.join(name).join("net")).find(|folder| folder.exists())
}

/// The name in a folder that sorts first.
fn first_entry(folder: &Path) -> Result<Option<String>> {
    let names = names_in(folder).map_err(|error| {
        let (folder, cause) = (folder.display(), Error::from(error));
        Error::internal(format!("failed to read directory {folder}: {:?}", format!("open {folder}: {cause}")))
    })?;
    Ok(names.into_iter().next())
}

fn names_in(folder: &Path) -> std::io::Result<Vec<String>> {
    let name = |entry: fs::DirEntry| entry.file_name().to_string_lossy().into_owned();
    let mut names = fs::read_dir(folder)?.map(|entry| entry.map(name)).collect::<std::io::Result<Vec<_>>>()?;
    names.sort();
    Ok(names)
}
