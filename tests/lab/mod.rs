//! A private "host" for every test: its own network and mount namespace, with `/run`, `/var/lib` and `/opt` empty and
//! `/etc` an overlay, so that nothing a test does is seen by the machine or by another test.
//!
//! The namespaces are held by one anchor process that waits on a pipe from us: when the test ends, however it ends, the
//! anchor goes and the kernel takes everything down with it.

mod call;
mod configs;
pub mod dhcp;
pub mod frames;
pub mod fuse;
pub mod router;
mod state;

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Write};
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Once;
use std::time::{Duration, Instant};

use nix::sys::resource::{Resource, getrlimit, setrlimit};

pub use call::{Call, Outcome};
pub use configs::{Configurations, bridge_config, chosen, host_local_config, merged, static_config};
pub use state::{Snapshot, number_random_names, without_random_names};

/// Where the plugins under test are in every lab, as on a host.
pub const PLUGINS: &str = "/opt/cni/bin";
/// Where the reference plugins are in every lab.
pub const REFERENCE: &str = "/opt/cni/reference";
/// Where Debian's reference plugins are: version 1.1.1.
const DEBIANS: &str = "/usr/lib/cni";
/// All programs see this and nothing of the caller's environment.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// A program that hangs is ended by the kernel after this many seconds.
const TIME_LIMIT: u32 = 300;

/// Makes the private host, says so, and waits for its end.
const ANCHOR: &str = r#"
mount -t tmpfs -o mode=755 tmpfs /run
mkdir -p /run/netns /run/lock /run/lab/upper /run/lab/work
mount -t tmpfs -o mode=755 tmpfs /var/lib
mount -t tmpfs -o mode=755 tmpfs /opt
mount -t overlay overlay -o lowerdir=/etc,upperdir=/run/lab/upper,workdir=/run/lab/work,userxattr /etc
mkdir -p /etc/cni/net.d /opt/cni/bin
ip link set lo up
echo ready
exec cat
"#;

/// One private host. Dropping it ends the anchor, by its own process id.
pub struct Lab {
    anchor: Child,
    net: File,
    mnt: File,
}

/// Tests run side by side, and some of them hold pipes to hundreds of programs.
fn allow_many_files() {
    let (_, most) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    setrlimit(Resource::RLIMIT_NOFILE, most, most).unwrap();
}

impl Lab {
    /// A host with the plugins under test in [`PLUGINS`].
    pub fn new() -> Lab {
        if reference_mode() { Lab::with_plugins_of(&reference_dir()) } else { Lab::with_ours() }
    }

    /// A host with our plugins in [`PLUGINS`].
    pub fn with_ours() -> Lab {
        let lab = Lab::bare();
        lab.run(&[&binary(), "--install", PLUGINS]).success();
        lab
    }

    /// A host with the plugins of another folder in [`PLUGINS`].
    pub fn with_plugins_of(folder: &str) -> Lab {
        let lab = Lab::bare();
        fs::remove_dir(lab.path(PLUGINS)).unwrap();
        std::os::unix::fs::symlink(folder, lab.path(PLUGINS)).unwrap();
        lab
    }

    /// A host with nothing in [`PLUGINS`].
    pub fn bare() -> Lab {
        static ROOM: Once = Once::new();
        ROOM.call_once(allow_many_files);
        let mut anchor = Command::new("unshare")
            .args(["-n", "-m", "--propagation", "private", "sh", "-ec", ANCHOR])
            .env("PATH", PATH)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("unshare (Debian: util-linux) starts");
        let mut line = String::new();
        BufReader::new(anchor.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
        assert_eq!(line, "ready\n", "no private host: run as root, or the test binary under `unshare -Urnm`");
        let namespace = |kind: &str| File::open(format!("/proc/{}/ns/{kind}", anchor.id())).unwrap();
        Lab { net: namespace("net"), mnt: namespace("mnt"), anchor }
    }

    /// Process id of the anchor: `/proc/PID/ns/net` is the host's own namespace.
    pub fn pid(&self) -> u32 {
        self.anchor.id()
    }

    /// The host's file `path`, as the test process can open it.
    pub fn path(&self, path: &str) -> PathBuf {
        let inside = path.strip_prefix("/var").filter(|rest| rest.starts_with("/run/")).unwrap_or(path);
        PathBuf::from(format!("/proc/{}/root{inside}", self.pid()))
    }

    /// Content of a file of the host.
    pub fn read(&self, path: &str) -> String {
        String::from_utf8_lossy(&fs::read(self.path(path)).unwrap_or_else(|e| panic!("{path}: {e}"))).into_owned()
    }

    /// Writes a file of the host, with the folders above it.
    pub fn write(&self, path: &str, content: impl AsRef<[u8]>) {
        let file = self.path(path);
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        fs::write(file, content).unwrap_or_else(|e| panic!("{path}: {e}"));
    }

    /// Writes an executable. A child does it: a descriptor of ours could be inherited by a parallel test's child and
    /// make the kernel refuse to execute the file.
    pub fn executable(&self, path: &str, content: &str) {
        let script = format!("mkdir -p $(dirname {path}) && cat > {path} && chmod 755 {path}");
        Call::new(self, "sh").args_list(&["-c", &script]).stdin(content).run().success();
    }

    /// Whether the host has this file.
    pub fn exists(&self, path: &str) -> bool {
        fs::symlink_metadata(self.path(path)).is_ok()
    }

    /// Sorted names in a folder; empty when there is none.
    pub fn list(&self, folder: &str) -> Vec<String> {
        let Ok(entries) = fs::read_dir(self.path(folder)) else { return Vec::new() };
        let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    /// Runs a program on the host.
    pub fn run(&self, command: &[&str]) -> Outcome {
        Call::new(self, command[0]).args_list(&command[1..]).run()
    }

    /// Runs words as typed, without a shell; panics unless the program succeeds; returns what it printed.
    pub fn ok(&self, words: &str) -> String {
        let words: Vec<_> = words.split_whitespace().collect();
        self.run(&words).success().stdout
    }

    /// Runs a script with `sh -e`.
    pub fn sh(&self, script: &str) -> Outcome {
        self.run(&["sh", "-ec", script])
    }

    /// A process in a container's namespace that does nothing: it keeps the namespace, whatever becomes of its name.
    pub fn hold(&self, netns: &str) -> Background {
        let held = Call::new(self, "ip").args_list(&["netns", "exec", netns, "sleep", "1000"]).spawn();
        wait_for("sleep", || self.read(&format!("/proc/{}/comm", held.pid())).trim() == "sleep");
        held
    }

    /// Adds a container namespace and returns the path people type.
    pub fn netns(&self, name: &str) -> String {
        self.ok(&format!("ip netns add {name}"));
        format!("/var/run/netns/{name}")
    }

    /// A call of a plugin under test.
    pub fn plugin(&self, name: &str) -> Call<'_> {
        Call::plugin(self, PLUGINS, name)
    }

    /// A call of a reference plugin.
    pub fn reference(&self, name: &str) -> Call<'_> {
        if !self.exists(REFERENCE) {
            std::os::unix::fs::symlink(reference_dir(), self.path(REFERENCE)).unwrap();
        }
        Call::plugin(self, REFERENCE, name)
    }

    /// `cnitool` with `/opt/cni/bin` as people export it.
    pub fn cnitool(&self, arguments: &[&str]) -> Call<'_> {
        Call::new(self, &format!("{PLUGINS}/cnitool")).args_list(arguments).env("CNI_PATH", PLUGINS)
    }

    /// A command that will run inside the host; `folder` is its working directory there.
    pub fn command(&self, program: &str, folder: &str) -> Command {
        let mut command = Command::new(program);
        command.env_clear().env("PATH", PATH);
        let namespaces = [self.net.as_raw_fd(), self.mnt.as_raw_fd()];
        let folder = std::ffi::CString::new(folder).unwrap();
        enter_before_exec(&mut command, namespaces, folder);
        command
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        self.anchor.kill().ok();
        self.anchor.wait().ok();
    }
}

/// Enters the host's namespaces between fork and exec, where the child has one thread and nothing to lose.
fn enter_before_exec(command: &mut Command, namespaces: [RawFd; 2], folder: std::ffi::CString) {
    let enter = move || {
        for namespace in namespaces {
            // SAFETY: setns takes a descriptor that the Lab keeps open; it is async-signal-safe.
            if unsafe { libc::setns(namespace, 0) } != 0 {
                return Err(std::io::Error::last_os_error());
            }
        }
        // SAFETY: the string ends in NUL and outlives the call; alarm and chdir are async-signal-safe.
        if unsafe { libc::chdir(folder.as_ptr()) } != 0 {
            return Err(std::io::Error::last_os_error());
        }
        // SAFETY: no memory involved. The alarm survives exec and ends a program that hangs.
        unsafe { libc::alarm(TIME_LIMIT) };
        Ok(())
    };
    // SAFETY: the closure makes only the four system calls above and allocates nothing.
    unsafe { command.pre_exec(enter) };
}

/// A program left running on the host until the guard is dropped.
pub struct Background {
    child: Child,
}

impl Background {
    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Waits for its end.
    pub fn wait(mut self) -> ExitStatus {
        self.child.wait().unwrap()
    }

    /// Ends it now.
    pub fn kill(mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

impl Drop for Background {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

/// Waits for a condition; panics, naming it, when it does not come true within ten seconds. `CNI_TEST_PATIENCE` is another
/// number of seconds, for machines that are slow.
pub fn wait_for(what: &str, mut condition: impl FnMut() -> bool) {
    let patience = std::env::var("CNI_TEST_PATIENCE").map_or(10, |seconds| seconds.parse().unwrap());
    let deadline = Instant::now() + Duration::from_secs(patience);
    while !condition() {
        assert!(Instant::now() < deadline, "waited {patience} s for: {what}");
        std::thread::yield_now();
    }
}

/// The binary under test: what users get (`CNI_BOX_BIN`), or the one cargo built beside the tests.
pub fn binary() -> String {
    let named = std::env::var("CNI_BOX_BIN").unwrap_or_else(|_| env!("CARGO_BIN_EXE_cni-box").to_string());
    fs::canonicalize(&named).unwrap_or_else(|e| panic!("CNI_BOX_BIN {named}: {e}")).to_str().unwrap().to_string()
}

/// `CNI_TEST_PLUGINS=reference` puts the reference plugins in the place of ours, which tests the tests.
pub fn reference_mode() -> bool {
    std::env::var("CNI_TEST_PLUGINS").is_ok_and(|value| value == "reference")
}

/// Folder of the reference plugins. Its absence fails the test: nothing is skipped.
pub fn reference_dir() -> String {
    let folder = std::env::var("CNI_REFERENCE_DIR").unwrap_or_else(|_| DEBIANS.to_string());
    let found = Path::new(&folder).join("bridge").is_file();
    assert!(found, "no reference plugins in {folder}: apt-get install containernetworking-plugins");
    folder
}

/// Folder of the reference plugins of today, 1.9.1: `CNI_REFERENCE_NEW`, or where `make test` puts Debian sid's.
pub fn new_reference_dir() -> String {
    let fetched = concat!(env!("CARGO_MANIFEST_DIR"), "/target/reference-new/usr/lib/cni");
    let folder = std::env::var("CNI_REFERENCE_NEW").unwrap_or_else(|_| fetched.to_string());
    let found = Path::new(&folder).join("dummy").is_file();
    assert!(
        found,
        "no reference plugins 1.9.1 in {folder}: scripts/debian-fetch.sh sid containernetworking-plugins FOLDER"
    );
    folder
}

/// The release of these plugins, without Debian's part of the version; none if they are not from
/// Debian.
pub fn new_reference_release() -> Option<String> {
    let version = fs::read_to_string(Path::new(&new_reference_dir()).join("../../../VERSION")).ok()?;
    let version = version.trim().rsplit(':').next().unwrap();
    Some(version.split(['+', '-', '~']).next().unwrap().to_string())
}

/// The release of the reference that our plugins name in line 1 of their about text: `1.9.1`.
pub fn release() -> String {
    let about = Command::new(binary()).arg("static").env_clear().stdin(Stdio::null()).output().unwrap();
    let about = String::from_utf8(about.stderr).unwrap();
    let release = about.lines().next().and_then(|line| line.strip_prefix("CNI static plugin v"));
    release.unwrap_or_else(|| panic!("no release of the reference in {about:?}")).to_string()
}

/// Folder of the previous release's cni-box: `CNI_BOX_PREVIOUS`, or where `make test` builds it.
/// Fails the test if there is none.
pub fn previous_dir() -> String {
    let built = concat!(env!("CARGO_MANIFEST_DIR"), "/target/previous");
    let folder = std::env::var("CNI_BOX_PREVIOUS").unwrap_or_else(|_| built.to_string());
    let found = Path::new(&folder).join("cni-box").is_file();
    assert!(
        found,
        "no cni-box of the previous release in {folder}: scripts/previous-release.sh builds it from this repository's history"
    );
    folder
}

/// Whether these are what COMPAT.md was written for. Debian's sid will have others one day, and then it is nobody's mistake
/// that they differ from what was seen.
pub fn new_reference_is_known() -> bool {
    new_reference_release().is_none_or(|theirs| theirs == release())
}

/// Whether the reference is another, newer one than Debian's.
pub fn reference_is_newer() -> bool {
    reference_dir() != DEBIANS
}

/// Writes to a child that may not care to read.
fn feed(child: &mut Child, bytes: &[u8]) {
    if let Some(mut stdin) = child.stdin.take() {
        stdin.write_all(bytes).ok();
    }
}
