//! dhcp: addresses from a DHCP server of the network. The plugin asks a daemon (`dhcp daemon`, this same program), which
//! acquires the lease over the container's interface and keeps it as long as the container lives.
//!
//! Keys inside `ipam`:
//!
//! | key | type | default |
//! |---|---|---|
//! | `daemonSocketPath` | path of the daemon's socket | `/run/cni/dhcp.sock` |
//! | `provide` | list of options to send: `option`, and `value` or `fromArg` (a key of CNI_ARGS) | none |
//! | `request` | list of options to ask for: `option`; `skipDefault` leaves out 3 and 1 | none |
//! | `priority` | metric of all routes | 0: the kernel's |
//! | `dnsFromServer` | the result's `dns` is filled from options 6, 15 and 119; not in the reference | false |
//! | `mtuFromServer` | routes get the MTU of option 26; not in the reference | false |
//!
//! Option names and what becomes of a lease: [`crate::dhcp::settings`], [`crate::dhcp::result`]. The daemon and its
//! command line: [`crate::dhcp::daemon`], `command_line.rs`. DHCPv6: docs/dhcpv6.md.

mod command_line;

use std::time::Duration;

pub use command_line::run;

use crate::cni::{CniResult, Object, Plugin, Request, Undo};
use crate::dhcp::dial::{self, DEFAULT_SOCKET, Failure};
use crate::dhcp::rpc::{ALLOCATE, CHECK, COLLECT, CmdArgs, RELEASE};
use crate::dhcp::settings::Settings;
use crate::error::{Context, Error, Result, code};

/// Its keys, see [`crate::cni::keys`].
const KEYS: &str = "\
ipam.daemonSocketPath: string
ipam.provide[].option: string
ipam.provide[].value: string
ipam.provide[].fromArg: string
ipam.request[].option: string
ipam.request[].skipDefault: bool
ipam.priority: 0..
ipam.dnsFromServer: bool
ipam.mtuFromServer: bool
ipam.ipv6: bool
";

/// The applet.
pub static DHCP: Dhcp = Dhcp;

/// See the module's description.
#[derive(Debug)]
pub struct Dhcp;

/// The daemon gives up after `-resendtimeout`, 208 s when nothing else is said.
const ALLOCATE_LIMIT: Duration = Duration::from_secs(300);
/// Nothing else waits for a server.
const LIMIT: Duration = Duration::from_secs(60);

/// The daemon, and what a call tells it.
struct Daemon {
    socket: String,
    args: CmdArgs,
}

impl Daemon {
    /// For verbs that need a valid configuration.
    fn of(request: &Request<'_>) -> Result<Daemon> {
        let ipam = request.config.top().object("ipam").context(UNREADABLE)?;
        let missing = || Error::new(code::INVALID_CONFIG, "IPAM config missing 'ipam' key");
        if ipam.ok_or_else(missing)?.boolean("ipv6")? {
            let error =
                Error::new(code::UNSUPPORTED_FIELD, "dhcp: ipv6 is not supported: there is no DHCPv6 client yet");
            return Err(error.with_details("use router advertisements, host-local or static for IPv6"));
        }
        Daemon::of_any(request)
    }

    /// For verbs that clean up.
    fn of_any(request: &Request<'_>) -> Result<Daemon> {
        let ipam = request.config.top().object("ipam").context(UNREADABLE)?;
        let socket = ipam.map_or(Ok(""), |ipam| ipam.string("daemonSocketPath")).context(UNREADABLE)?;
        let args = CmdArgs {
            container_id: request.container_id.clone(),
            netns: absolute(&request.netns)?,
            ifname: request.ifname.clone(),
            args: request.args.clone(),
            path: request.path.clone(),
            stdin: request.config.raw().to_vec(),
        };
        let socket = if socket.is_empty() { DEFAULT_SOCKET } else { socket };
        Ok(Daemon { socket: socket.to_string(), args })
    }

    fn call(&self, method: &str, limit: Duration) -> std::result::Result<CniResult, Failure> {
        dial::call(&self.socket, method, &self.args, limit)
    }

    fn allocate(&self) -> Result<CniResult> {
        self.call(ALLOCATE, ALLOCATE_LIMIT).map_err(|failure| failure.into_error(ALLOCATE, &self.socket))
    }

    /// Asks for something to be given back. A daemon that is not there keeps nothing; a later one will see that the
    /// interface is gone.
    fn give_back(&self, method: &str) -> Result<()> {
        match self.call(method, LIMIT) {
            Ok(_) => Ok(()),
            Err(Failure::Unreachable(error)) => {
                dial::note(&format!("no lease was given back: the daemon is not reachable: {error}"));
                Ok(())
            }
            Err(failure) if method == COLLECT && failure.is_unknown_method() => {
                dial::note("the daemon cannot collect garbage: it is not cni-box's");
                Ok(())
            }
            Err(failure) => Err(failure.into_error(method, &self.socket)),
        }
    }
}

const UNREADABLE: &str = "error obtaining socketPath: error parsing socket path conf";

/// The daemon has another working directory.
fn absolute(path: &str) -> Result<String> {
    if path.is_empty() || path.starts_with('/') {
        return Ok(path.to_string());
    }
    let folder = std::env::current_dir().with_context(|| format!("failed to make {path:?} an absolute path"))?;
    Ok(folder.join(path).to_string_lossy().into_owned())
}

impl Plugin for Dhcp {
    fn name(&self) -> &'static str {
        "dhcp"
    }

    fn keys(&self) -> &'static str {
        KEYS
    }

    fn validate(&self, request: &Request<'_>) -> Result<()> {
        Daemon::of(request)?;
        let ipam = request.config.top().object("ipam")?.unwrap_or_else(Object::null);
        // As the daemon decodes it, and in the words for an answer of the daemon.
        let decoded = Settings::decode(&ipam, &request.args, &[], [0; 6], false).map(drop);
        decoded.with_context(|| format!("error calling {ALLOCATE}"))
    }

    fn is_ipam(&self) -> bool {
        true
    }

    fn add(&self, request: &Request<'_>, undo: &mut Undo) -> Result<CniResult> {
        let daemon = Daemon::of(request)?;
        let result = daemon.allocate()?;
        undo.push(move || daemon.give_back(RELEASE));
        Ok(result)
    }

    /// The daemon must hold the lease, and it must be for the addresses of `prevResult`. The Go daemon cannot be asked
    /// without acquiring a lease that is not there.
    fn check(&self, request: &Request<'_>) -> Result<()> {
        let daemon = Daemon::of(request)?;
        let held = match daemon.call(CHECK, LIMIT) {
            Err(failure) if failure.is_unknown_method() => daemon.allocate()?,
            held => held.map_err(|failure| failure.into_error(CHECK, &daemon.socket))?,
        };
        let previous = request.config.prev_result()?.unwrap_or_default();
        let leased = |ip| held.ips.iter().any(|held| held.address.addr() == ip);
        let mut v4 = previous.ips.iter().map(|ip| ip.address.addr()).filter(|ip| ip.is_ipv4()).peekable();
        // Other plugins of the chain may have added addresses of their own.
        if v4.peek().is_none() || v4.any(leased) {
            return Ok(());
        }
        let leased: Vec<String> = held.ips.iter().map(|ip| ip.address.addr().to_string()).collect();
        Err(Error::internal(format!("dhcp: the lease is for {}, which prevResult does not have", leased.join(", "))))
    }

    fn del(&self, request: &Request<'_>) -> Result<()> {
        Daemon::of_any(request)?.give_back(RELEASE)
    }

    fn gc(&self, request: &Request<'_>) -> Result<()> {
        match request.config.valid_attachments()? {
            Some(_) => Daemon::of_any(request)?.give_back(COLLECT),
            None => Ok(()),
        }
    }

    fn status(&self, request: &Request<'_>) -> Result<()> {
        let daemon = Daemon::of(request)?;
        dial::probe(&daemon.socket, LIMIT).map_err(|error| {
            let text = format!("the DHCP daemon is not reachable: {}", error.msg);
            Error::new(code::NOT_AVAILABLE, text).with_details(dial::advice(&error, &daemon.socket))
        })
    }
}
