//! Whether a network namespace is still in use on this host.
//!
//! Since Linux 6.18 a namespace can be opened by its number (`open_by_handle_at` on nsfs), which settles it for whoever may
//! open all of them. Otherwise it is looked for where proc(5) shows it: mounted somewhere, entered by a thread, or held open
//! by a process.

use std::fs::{self, File};
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;

use crate::error::{Errno, Result};
use crate::sys::netns::{Handle, Netns, OWN, cookie_of_current};
use crate::sys::rights::{self, Capability};

/// What is known of a namespace.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Presence {
    /// It is in use, or may be.
    Here,
    /// The kernel does not have it any more, or (since Linux 6.19) only for sockets that others hold open.
    Gone,
    /// No process in sight uses it, and all of them could be looked at.
    NotFound,
    /// It was not found, but not everything could be looked at.
    Unknown,
}

/// A search that goes as far as is needed, and remembers what it has seen.
#[derive(Debug, Default)]
pub struct Census {
    places: Vec<Place>,
    /// Names (the last part of their paths) of the files that network namespaces are mounted on.
    mounted_on: Vec<String>,
    /// Mount namespaces and root directories whose mounts have been read.
    mounts_of: Vec<(PathBuf, PathBuf)>,
    looked_at_mounts: bool,
    looked_at_processes: bool,
    /// Something may not be looked at.
    incomplete: bool,
    /// What namespaces can be opened by, if they can; `None`: not tried.
    door: Option<Option<File>>,
}

/// Where a namespace can be opened.
#[derive(Debug)]
struct Place {
    inode: u32,
    path: String,
    /// `None`: not asked yet; 0: the kernel has no cookies.
    cookie: Option<u64>,
}

/// A place does not lead to the namespace any more that was seen there.
#[derive(Debug, PartialEq, Eq)]
struct PlaceLeft;

impl Census {
    /// Looks for the namespace with this inode and cookie (see [`Netns::cookie`]; 0 matches every cookie).
    pub fn presence(&mut self, inode: u32, cookie: u64) -> Presence {
        let door = self.door.get_or_insert_with(door);
        match door.as_ref().filter(|_| cookie != 0).and_then(|door| opens(door, inode, cookie).ok()) {
            Some(true) => Presence::Here,
            Some(false) => Presence::Gone,
            None => self.look_for(inode, cookie),
        }
    }

    /// Whether a path that somebody has written down in this boot or an earlier one leads to a namespace still, for whoever
    /// sees it: another mount namespace than ours may have a namespace there. [`Presence::Unknown`] unless all processes of
    /// the machine can be looked at.
    pub fn presence_at(&mut self, path: &str) -> Presence {
        match Netns::open_if_left(path) {
            Ok(None) if !path.is_empty() && may_open_all() => self.look_for_mount(last_part(path)),
            Ok(Some(_)) => Presence::Here,
            _ => Presence::Unknown,
        }
    }

    /// The name alone decides: by which links its owner's path leads there nobody knows, and runtimes give no name twice.
    fn look_for_mount(&mut self, name: &str) -> Presence {
        self.look_at_everything();
        // These are written otherwise in the list of mounts.
        let is_plain = !name.contains([' ', '\t', '\n', '\\']);
        match self.mounted_on.iter().any(|known| known == name) {
            true => Presence::Here,
            false if self.incomplete || !is_plain => Presence::Unknown,
            false => Presence::Gone,
        }
    }

    /// Where the namespaces can be opened that are in use in any way, and whether everything could be looked at.
    pub fn places(&mut self) -> (Vec<String>, bool) {
        self.look_at_everything();
        let paths = self.places.iter().map(|place| place.path.clone());
        (paths.collect(), !self.incomplete)
    }

    fn look_at_everything(&mut self) {
        if !self.looked_at_processes {
            self.looked_at_processes = true;
            self.read_processes();
        }
    }

    /// Searches again when the process that showed the namespace has ended meanwhile: another process may hold it now.
    fn look_for(&mut self, inode: u32, cookie: u64) -> Presence {
        const SEARCHES: u32 = 4;
        for _ in 0..SEARCHES {
            match self.search(inode, cookie) {
                Ok(presence) => return presence,
                Err(PlaceLeft) => *self = Census { door: self.door.take(), ..Census::default() },
            }
        }
        Presence::Unknown
    }

    fn search(&mut self, inode: u32, cookie: u64) -> std::result::Result<Presence, PlaceLeft> {
        if !self.looked_at_mounts {
            self.looked_at_mounts = true;
            self.read_mounts("/proc/self");
        }
        if !self.places.iter().any(|place| place.inode == inode) {
            self.look_at_everything();
        }
        Ok(match self.cookie_of(inode)? {
            // Two that are there at the same time have different inodes.
            Some(theirs) if theirs != 0 && cookie != 0 && theirs != cookie => Presence::Gone,
            Some(_) => Presence::Here,
            None if self.incomplete => Presence::Unknown,
            None => Presence::NotFound,
        })
    }

    /// The cookie of a namespace that was found; 0 on a kernel without cookies.
    fn cookie_of(&mut self, inode: u32) -> std::result::Result<Option<u64>, PlaceLeft> {
        let Some(place) = self.places.iter_mut().find(|place| place.inode == inode) else { return Ok(None) };
        let cookie = match place.cookie {
            Some(known) => known,
            None => cookie_at(&place.path, inode)?,
        };
        place.cookie = Some(cookie);
        Ok(Some(cookie))
    }

    fn read_processes(&mut self) {
        let processes = self.numbered("/proc");
        // Who may not look at processes may not even see them (`hidepid`). The first one is always there.
        self.incomplete |= !processes.iter().any(|process| process == "/proc/1");
        for process in processes {
            for task in self.numbered(&format!("{process}/task")) {
                self.look_at(format!("{task}/ns/net"));
                self.read_mounts_once(&task);
            }
            for descriptor in self.numbered(&format!("{process}/fd")) {
                self.look_at_descriptor(descriptor);
            }
        }
    }

    /// Threads of one mount namespace see the same, unless their root directories differ.
    fn read_mounts_once(&mut self, task: &str) {
        let links = [self.link(&format!("{task}/ns/mnt")), self.link(&format!("{task}/root"))];
        let [Some(namespace), Some(root)] = links else { return };
        let seen = (namespace, root);
        if !self.mounts_of.contains(&seen) {
            self.mounts_of.push(seen);
            self.read_mounts(task);
        }
    }

    fn add(&mut self, inode: u32, path: String) {
        if !self.places.iter().any(|place| place.inode == inode) {
            self.places.push(Place { inode, path, cookie: None });
        }
    }

    /// Notes the network namespaces that are mounted where a process sees them.
    fn read_mounts(&mut self, process: &str) {
        let mounts = format!("{process}/mountinfo");
        let Some(bytes) = self.note(&mounts, fs::read(&mounts)) else { return };
        for line in String::from_utf8_lossy(&bytes).lines() {
            // Number, parent, device, root, mount point.
            let mut fields = line.split(' ').skip(3);
            if let (Some(inode), Some(point)) = (fields.next().and_then(network), fields.next()) {
                self.add(inode, format!("{process}/root{point}"));
                self.mounted_on.push(last_part(point).to_string());
            }
        }
    }

    /// Notes the network namespace that a link of proc(5) leads to, if it does.
    fn look_at(&mut self, path: String) {
        if let Some(inode) = self.link(&path).and_then(|link| network(&link.to_string_lossy())) {
            self.add(inode, path);
        }
    }

    /// Inode numbers of namespaces begin in the highest sixteenth of 32 bits, with a few below for the first of each kind.
    ///
    /// The link of a descriptor that was opened where a namespace is mounted names that path. Most others can be told by
    /// their links; the rest is not asked of file systems, which may never answer, where the kernel knows (Linux 5.14).
    fn look_at_descriptor(&mut self, path: String) {
        const FIRST: u64 = 0xefff_ff00;
        let Some(link) = self.link(&path) else { return };
        if ["socket:[", "pipe:[", "anon_inode:", "/dev/"].iter().any(|kind| link.to_string_lossy().starts_with(kind)) {
            return;
        }
        let info = path.replacen("/fd/", "/fdinfo/", 1);
        let Some(text) = self.note(&info, fs::read_to_string(&info)) else { return };
        let known = text.lines().find_map(|line| line.strip_prefix("ino:")?.trim().parse().ok());
        let inode: Option<u64> = known.or_else(|| Some(self.note(&path, fs::metadata(&path))?.ino()));
        if let Some(inode) = inode.filter(|inode| *inode >= FIRST).and_then(|inode| u32::try_from(inode).ok()) {
            self.add(inode, path);
        }
    }

    fn link(&mut self, path: &str) -> Option<PathBuf> {
        self.note(path, fs::read_link(path))
    }

    /// Paths of the entries of a directory that are numbers.
    fn numbered(&mut self, directory: &str) -> Vec<String> {
        let Some(entries) = self.note(directory, fs::read_dir(directory)) else { return Vec::new() };
        let names = entries.filter_map(|entry| self.note(directory, entry)?.file_name().into_string().ok());
        let numbers = names.filter(|name| name.bytes().all(|byte| byte.is_ascii_digit()));
        numbers.map(|name| format!("{directory}/{name}")).collect()
    }

    /// What has gone while we look has no namespace; all other failures to look at `path` leave a gap.
    fn note<T>(&mut self, path: &str, result: io::Result<T>) -> Option<T> {
        if let Err(error) = &result {
            self.incomplete |= !is_gone(error) && !has_ended(path);
        }
        result.ok()
    }
}

/// Something on nsfs, for who may open all namespaces by number, on a kernel that can do it.
fn door() -> Option<File> {
    if !may_open_all() {
        // To others the kernel denies what they may not open.
        return None;
    }
    let own = File::open(OWN).ok()?;
    let inode = u32::try_from(own.metadata().ok()?.ino()).ok()?;
    opens(&own, inode, cookie_of_current().ok()?).ok()?.then_some(own)
}

/// True with CAP_SYS_ADMIN in the first user namespace, and in the first PID namespace: kernels from 2026 on
/// (`may_see_all_namespaces`) show others only their own, and call all the rest stale, as if it were gone.
fn may_open_all() -> bool {
    const FIRST: [(&str, &str); 2] =
        [("/proc/self/ns/user", "user:[4026531837]"), ("/proc/self/ns/pid", "pid:[4026531836]")];
    let is_first = |(path, first): &(&str, &str)| fs::read_link(path).is_ok_and(|link| link.as_os_str() == *first);
    FIRST.iter().all(is_first) && rights::holds(Capability::SysAdmin) == Some(true)
}

/// Whether the kernel opens the network namespace with this cookie, which is its number.
fn opens(door: &File, inode: u32, cookie: u64) -> Result<bool> {
    let handle = Handle::new(inode, cookie);
    let flags = libc::O_RDONLY | libc::O_CLOEXEC;
    // SAFETY: the handle has as many bytes as it says, and lives through the call.
    let opened = unsafe { libc::syscall(libc::SYS_open_by_handle_at, door.as_raw_fd(), &raw const handle, flags) };
    match Errno::result(opened) {
        Ok(descriptor) => {
            // SAFETY: nobody else has this new descriptor.
            drop(unsafe { OwnedFd::from_raw_fd(descriptor as _) });
            Ok(true)
        }
        Err(Errno::ESTALE) => Ok(false),
        Err(errno) => Err(errno.into()),
    }
}

/// The PID namespace whose processes /proc shows, by its inode; 0 when that may not be looked at.
pub fn pid_namespace_in_sight() -> u32 {
    let link = fs::read_link("/proc/1/ns/pid").unwrap_or_default();
    inode_in(&link.to_string_lossy(), "pid").unwrap_or(0)
}

/// The cookie of the namespace at a place; 0 if it may not be opened or has none.
fn cookie_at(place: &str, inode: u32) -> std::result::Result<u64, PlaceLeft> {
    match open_place(place) {
        Ok(Some(netns)) if netns.identity().is_ok_and(|identity| identity.inode() == u64::from(inode)) => {
            Ok(netns.cookie().unwrap_or(0))
        }
        Ok(_) => Err(PlaceLeft),
        Err(_) => Ok(0),
    }
}

/// Opens the namespace at one of [`Census::places`]; `None` when its process has ended or the mount is gone.
pub fn open_place(place: &str) -> Result<Option<Netns>> {
    match Netns::open_if_left(place) {
        Err(_) if has_ended(place) => Ok(None),
        opened => opened,
    }
}

/// True when nothing is at this path of proc(5) any more. Reading a link of a process that ends at this moment fails with
/// `EACCES` (`proc_ns_readlink`), as for a process that may not be looked at; a look at the path itself tells the two apart.
fn has_ended(path: &str) -> bool {
    fs::symlink_metadata(path).is_err_and(|error| is_gone(&error))
}

fn is_gone(error: &io::Error) -> bool {
    const GONE: [Errno; 3] = [Errno::ENOENT, Errno::ESRCH, Errno::EINVAL];
    error.raw_os_error().is_some_and(|errno| GONE.contains(&Errno::from_raw(errno)))
}

fn last_part(path: &str) -> &str {
    path.trim_end_matches('/').rsplit('/').next().unwrap_or_default()
}

fn network(link: &str) -> Option<u32> {
    inode_in(link, "net")
}

/// Reads `KIND:[INODE]`.
fn inode_in(link: &str, kind: &str) -> Option<u32> {
    link.strip_prefix(kind)?.strip_prefix(":[")?.strip_suffix(']')?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::OpenOptionsExt;
    use std::process::Command;

    #[test]
    fn the_namespace_of_this_process_is_here_and_another_one_with_its_number_is_not() {
        let own = Netns::open("/proc/self/ns/net").unwrap();
        let (inode, cookie) = (own.identity().unwrap().inode() as u32, own.cookie().unwrap());
        for ask in [Census::presence, Census::look_for] {
            let mut census = Census::default();
            assert_eq!(ask(&mut census, inode, cookie), Presence::Here);
            assert_eq!(ask(&mut census, inode, 0), Presence::Here);
            assert_eq!(ask(&mut census, inode, cookie + (1 << 40)), Presence::Gone);
            assert!(matches!(ask(&mut census, 7, 0), Presence::NotFound | Presence::Unknown));
        }
    }

    #[test]
    fn a_place_that_was_left_is_told_from_one_that_may_not_be_opened() {
        let mut child = Command::new("sleep").arg("1000").spawn().unwrap();
        let place = format!("/proc/{}/ns/net", child.id());
        let inode = fs::metadata(&place).unwrap().ino() as u32;
        assert_eq!(cookie_at(&place, inode), Ok(Netns::open(OWN).unwrap().cookie().unwrap()));
        assert_eq!(cookie_at(&place, inode - 1), Err(PlaceLeft), "another namespace is there");
        assert_eq!(cookie_at("/proc/self/exe", inode), Err(PlaceLeft), "no namespace is there");
        // The link as a search holds it that has looked it up before the process ended.
        let link = File::options().read(true).custom_flags(libc::O_PATH | libc::O_NOFOLLOW).open(&place).unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
        let mut census = Census::default();
        let read = nix::fcntl::readlinkat(&link, "").map(PathBuf::from).map_err(io::Error::from);
        assert_eq!(read.as_ref().unwrap_err().raw_os_error(), Some(libc::EACCES));
        assert_eq!((census.note(&place, read), census.incomplete), (None, false));
        assert_eq!(cookie_at(&place, inode), Err(PlaceLeft));
        let refused = io::Error::from_raw_os_error(libc::EACCES);
        assert_eq!((census.note::<()>("/proc/self/ns/net", Err(refused)), census.incomplete), (None, true));
    }

    /// The process at the place has ended, and another one has its namespace, or none.
    #[test]
    fn a_search_begins_again_when_a_place_was_left() {
        let own = Netns::open(OWN).unwrap();
        let (inode, cookie) = (own.identity().unwrap().inode() as u32, own.cookie().unwrap());
        let with_left_place = |inode| {
            let left = Place { inode, path: "/proc/0/ns/net".to_string(), cookie: None };
            Census { places: vec![left], looked_at_mounts: true, looked_at_processes: true, ..Census::default() }
        };
        assert_eq!(with_left_place(inode).look_for(inode, cookie), Presence::Here);
        assert_eq!(with_left_place(inode).look_for(inode, cookie + (1 << 40)), Presence::Gone);
        assert_eq!(with_left_place(7).look_for(7, 1), Census::default().look_for(7, 1));
        assert_ne!(with_left_place(7).look_for(7, 1), Presence::Here);
    }

    #[test]
    fn a_descriptor_is_seen() {
        let own = Netns::open("/proc/self/ns/net").unwrap();
        let inode = own.identity().unwrap().inode() as u32;
        let mut census = Census::default();
        census.look_at_descriptor("/proc/self/fd/0".to_string());
        assert!(census.places.is_empty());
        for descriptor in census.numbered("/proc/self/fd") {
            census.look_at_descriptor(descriptor);
        }
        assert!(census.places.iter().any(|place| place.inode == inode));
    }

    #[test]
    fn links_of_other_kinds_are_no_network_namespaces() {
        for (link, inode) in
            [("net:[4026531840]", Some(4_026_531_840)), ("mnt:[1]", None), ("net:[x]", None), ("", None)]
        {
            assert_eq!(network(link), inode);
        }
    }
}
