//! `cni-box gc`: for runtimes that never call GC, finds attachments whose namespace or boot has gone without a DEL, says what
//! there is of them, and makes up for the DEL.
//!
//! What cannot be proved to be dead stays: `ipam::evidence` holds what counts as a proof. One attachment after the other is
//! looked at once more just before it goes (`death`), and taken away by `removal`; what there is of
//! it, `parts` tells.
//!
//! The cost is in proportion to the number of attachments: everything is looked at once, and just
//! before an attachment goes only what tells of it and of those that share a name with it, and the
//! files that are new since (`newcomers`).
//!
//! # Why no living attachment can look dead
//!
//! - Nothing is known of a new attachment before host-local reserves its address, and with it records the namespace that the
//!   ADD is for, which is there: it lives by its record. A reservation of the Go plugin without a record proves nothing.
//!   The file of the cache comes last, when all is done, and names a path that leads to the namespace.
//! - An attachment is one of a namespace that is gone, or of an earlier boot: neither can come back. Only an ADD of the same
//!   container and interface, in a new namespace, makes the names live again. It replaces the reservation and then the
//!   cache file, and the second look sees either. What is left is the time between that look and the end of the DEL, a few
//!   milliseconds with our plugins.
//! - An ADD on other terms (another network, interface or address management of the same container)
//!   between the looks makes a file that was not there, or not so: the second look reads each such
//!   file, and keeps every attachment that shares a name with the one it tells of.
//! - With other address management (static, dhcp, a stranger's) such an ADD shows by nothing before the cache file is
//!   replaced. Until then its lease or its rules may go, if the old file proves the death of its predecessor. (The Go
//!   host-local refuses such an ADD while the old reservation is there.)
//! - A runtime that comes into either has not ended its dead container before it starts it again. The specification forbids
//!   calls for one container at the same time.
//! - An address in a dead attachment's result may be another container's by now. Then no plugin is told of the result.
//! - Names of chains and ifbs are those of a network and a container, whichever interface it is for, and run together: `net`
//!   and `1c` are `net1` and `c`. Names of saved settings are those of a container and an interface, whichever network it
//!   is on. So nothing goes as long as another attachment that shares such a name is not dead as well.

mod death;
mod gather;
mod newcomers;
mod parts;
mod removal;

use std::fs;
use std::path::Path;

use crate::cni::Host;
use crate::cni::cache::{self, Cache};
use crate::cni::conflist::NetworkList;
use crate::cni::conflist_files;
use crate::cni::environment::validate_network_name;
use crate::cni::serve::Answer;
use crate::error::{Context, Error, Result};
use crate::ipam::evidence::{self, Found, Key};
use death::Deaths;
use gather::Attachments;
use newcomers::Newcomers;

/// The command's name.
pub(crate) const NAME: &str = "gc";

const CONFIGURATIONS: &str = "/etc/cni/net.d";
const PLUGINS: &str = "/opt/cni/bin";

const HELP: &str = "\
Usage: cni-box gc [--dry-run] [NETWORK]

Removes what is left of attachments (of one network, if it is named) whose network namespace or boot is gone: results,
addresses, rules, devices, saved settings. What cannot be proved to be dead stays.

Options:
  --dry-run   say what would be removed, and change nothing
Environment:
  NETCONFPATH   directory of network configurations (default /etc/cni/net.d)
  CNI_PATH      directories of plugins, separated by ':' (default /opt/cni/bin, or else the plugins of this program)
";

/// What one run works with.
pub(crate) struct Command<'a> {
    host: &'a Host,
    cache: Cache,
    /// The networks that are configured today, and where.
    lists: Vec<NetworkList>,
    directory: String,
    /// CNI_PATH.
    path: String,
    dry_run: bool,
    /// The only network to look at.
    network: Option<String>,
}

/// Runs the command with these arguments.
pub(crate) fn run(arguments: &[String], host: &Host) -> Answer {
    let help = ["--help", "-h", "help"];
    if arguments.iter().any(|word| help.contains(&word.as_str())) {
        return Answer { stdout: HELP.to_string(), success: true, ..Answer::default() };
    }
    let mut answer = Answer::default();
    let done = Command::new(arguments, host).and_then(|command| command.collect(&mut answer));
    match done {
        Ok(success) => answer.success = success,
        Err(error) => complain(&mut answer, &error.to_string()),
    }
    answer
}

fn complain(answer: &mut Answer, text: &str) {
    answer.stderr.push_str(&format!("cni-box {NAME}: {text}\n"));
}

impl<'a> Command<'a> {
    fn new(arguments: &[String], host: &'a Host) -> Result<Self> {
        let (mut dry_run, mut network) = (false, None);
        for word in arguments {
            match word.as_str() {
                "--dry-run" => dry_run = true,
                name if network.is_none() && !name.starts_with('-') => {
                    validate_network_name(name)?;
                    network = Some(name.to_string());
                }
                _ => return Err(Error::internal("this is not understood; see `cni-box gc --help`")),
            }
        }
        let or = |name, default: &str| match host.variable(name) {
            text if text.is_empty() => default.to_string(),
            text => text,
        };
        let directory = or("NETCONFPATH", CONFIGURATIONS);
        if directory != CONFIGURATIONS {
            fs::read_dir(&directory).with_context(|| format!("NETCONFPATH: open {directory}"))?;
        }
        let lists = conflist_files::all(&directory)?;
        let path = or("CNI_PATH", if Path::new(PLUGINS).is_dir() { PLUGINS } else { "" });
        Ok(Command { host, cache: Cache::new(cache::DIRECTORY), lists, directory, path, dry_run, network })
    }

    /// True if nothing failed. Nothing is removed unless everything could be looked at.
    fn collect(&self, answer: &mut Answer) -> Result<bool> {
        let mut newcomers = Newcomers::start();
        let attachments = self.gather(&mut newcomers)?;
        self.prove_known(&attachments)?;
        let mut deaths = self.deaths(&attachments, newcomers, answer);
        let firewall = parts::firewall_addresses()?;
        let (mut removed, mut success) = (0, true);
        for (found, reason) in deaths.wanted() {
            match self.end(found, &reason, &mut deaths, &firewall, answer) {
                Ok(gone) => removed += usize::from(gone),
                Err(error) => {
                    success = false;
                    complain(answer, &format!("{}: {error}", found.key));
                }
            }
        }
        answer.stdout.push_str(&last_line(removed, self.dry_run, success));
        Ok(success)
    }

    /// Fails if nothing is known of the network that was named.
    fn prove_known(&self, attachments: &Attachments) -> Result<()> {
        let Some(network) = &self.network else { return Ok(()) };
        let is_known =
            attachments.as_slice().iter().any(|found| found.key.network == *network) || evidence::has_store(network);
        if is_known { Ok(()) } else { conflist_files::require(&self.directory, network) }
    }

    /// False for an attachment that is not dead any more.
    fn end(
        &self,
        found: &Found,
        reason: &str,
        deaths: &mut Deaths<'_>,
        firewall: &parts::FirewallAddresses,
        answer: &mut Answer,
    ) -> Result<bool> {
        let (network, today) = (&found.key.network, self.lists.iter().find(|list| list.name == found.key.network));
        let remembered = found.cached.as_ref().and_then(|cached| NetworkList::parse(&cached.config).ok());
        // If they are the same, today's: it has the plugins of the network's folder, too.
        let remembered = remembered.as_ref().filter(|list| {
            list.name == *network && !list.plugins.is_empty() && today.is_none_or(|today| today.bytes != list.bytes)
        });
        let list = remembered.or(today);
        let header = if self.dry_run { "would remove " } else { "" };
        let block = parts::describe(found, deaths.attachments(), firewall, list)?;
        let block = format!("{header}{}: {reason}\n{block}", found.key);
        if !self.dry_run {
            // The DELs of others may have taken minutes.
            if let Some(other) = deaths.survivor(self, found)? {
                answer.stderr.push_str(&changed(&found.key, &other));
                return Ok(false);
            }
            deaths.note_tried(found);
            self.remove(found, list, deaths.shares_address(found))?;
        }
        answer.stdout.push_str(&block);
        Ok(true)
    }

    fn wants(&self, network: &str) -> bool {
        self.network.as_ref().is_none_or(|wanted| wanted == network)
    }
}

/// Why an attachment stays that was dead at the first look.
fn changed(key: &Key, other: &Key) -> String {
    match other == key {
        true => format!("kept {key}: something has changed it since the first look\n"),
        false => format!("kept {key}: something has made or changed {other} since the first look\n"),
    }
}

fn last_line(removed: usize, dry_run: bool, success: bool) -> String {
    let plural = if removed == 1 { "" } else { "s" };
    match dry_run {
        _ if removed == 0 && success => "nothing to do\n".to_string(),
        true => format!("{removed} attachment{plural} would be removed\n"),
        false => format!("{removed} attachment{plural} removed\n"),
    }
}
