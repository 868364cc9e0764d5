//! A file system on FUSE that refuses what real ones refuse.

use super::{Background, Call, Lab, wait_for};

/// See there.
const SERVER: &str = include_str!("fuse.py");

/// What is refused, as operations of FUSE with the errno. All of them lack `O_TMPFILE`.
pub const KINDS: [&[&str]; 4] = [VFAT, NO_LINK, NO_LOCKS, NO_RENAME_OVER];

/// No hard links (`EPERM`).
pub const VFAT: &[&str] = &["13=1"];
/// A server that does not know links nor flushing (`ENOSYS`, `EINVAL`).
pub const NO_LINK: &[&str] = &["13=38", "20=22"];
/// Neither links nor flock(2): `EOPNOTSUPP`, `ENOLCK`.
pub const NO_LOCKS: &[&str] = &["13=95", "33=37", "32=37"];
/// Neither links nor renaming over a file (`EEXIST`).
pub const NO_RENAME_OVER: &[&str] = &["13=1", "12=17", "45=17"];

/// A mounted file system, empty at first. It ends with the guard.
pub struct FileSystem {
    _server: Background,
}

impl FileSystem {
    /// Mounts one on a folder of the host, which is made.
    pub fn mount(lab: &Lab, folder: &str, refused: &[&str]) -> FileSystem {
        lab.ok(&format!("mkdir -p {folder}"));
        let server = Call::new(lab, "python3").args_list(&[&["-c", SERVER, folder], refused].concat()).spawn();
        wait_for("the file system", || lab.ok(&format!("stat -f -c %T {folder}")).trim() == "fuseblk");
        FileSystem { _server: server }
    }
}
