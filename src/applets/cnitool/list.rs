//! `cnitool list`: the cached attachments, for people. The reference has nothing of the kind.

use super::Call;
use crate::cni::attachment::Attachment;
use crate::cni::cache::Cached;
use crate::cni::conflist_files;
use crate::error::Result;
use crate::ipam::evidence::{self, Found, Surveys, Verdict};
use crate::ipam::interface_search::Search;
use crate::net::Netns;

pub(super) const ABOUT: &str = "List cached attachments (only in cni-box)";

pub(super) const HELP: &str = "
Shows what /var/lib/cni/results holds, of container runtimes too, which share it: network,
container id, interface, namespace, addresses. A namespace is \"gone\"
if the attachment is dead for certain, and \"not at its path\" if it may be somewhere else.
";

const HEADER: [&str; 5] = ["NETWORK", "CONTAINER ID", "IFNAME", "NETNS", "ADDRESSES"];

/// Prints a table of all cached attachments, or of those to one network.
pub(super) fn run(call: &mut Call<'_>) -> Result<()> {
    let network = call.command.word(0);
    let cached = call.cache.list((!network.is_empty()).then_some(network))?;
    if !network.is_empty() && cached.is_empty() && !evidence::has_store(network) {
        conflist_files::require(&call.configuration_directory(), network)?;
    }
    let (mut search, mut surveys) = (Search::default(), Surveys::default());
    let rows = cached.into_iter().map(|(network, cached)| row(network, cached, &mut search, &mut surveys));
    let rows: Result<Vec<_>> = rows.collect();
    call.stdout = table(&rows?);
    Ok(())
}

/// Nothing in a cell is a command to the terminal.
fn row(network: String, cached: Cached, search: &mut Search, surveys: &mut Surveys) -> Result<[String; 5]> {
    let Attachment { container_id, ifname, .. } = cached.attachment.clone();
    let addresses: Vec<String> = cached.result.ips.iter().map(|ip| ip.address.to_string()).collect();
    let addresses = if addresses.is_empty() { "-".to_string() } else { addresses.join(",") };
    let netns = namespace(&network, cached, search, surveys)?;
    Ok([network, container_id, ifname, netns, addresses].map(|cell| cell.escape_debug().to_string()))
}

/// The path of the namespace, and what `cni-box gc` would say of the attachment. A runtime may keep the namespace where only
/// its own processes see it.
fn namespace(network: &str, cached: Cached, search: &mut Search, surveys: &mut Surveys) -> Result<String> {
    let path = cached.attachment.netns.clone();
    if path.is_empty() {
        return Ok("-".to_string());
    }
    Ok(match evidence::verdict(&Found::of_cached(network, cached, surveys)?, search) {
        Verdict::Gone(_) => format!("{path} (gone)"),
        _ if Netns::open_if_left(&path).is_ok_and(|netns| netns.is_none()) => format!("{path} (not at its path)"),
        _ => path,
    })
}

/// Lines whose columns stand below one another, two spaces apart.
fn table(rows: &[[String; 5]]) -> String {
    let header = HEADER.map(str::to_string);
    let rows = || std::iter::once(&header).chain(rows);
    let mut widths = [0; HEADER.len()];
    for row in rows() {
        widths.iter_mut().zip(row).for_each(|(width, cell)| *width = cell.len().max(*width));
    }
    let mut text = String::new();
    for row in rows() {
        let mut line = String::new();
        for (cell, width) in row.iter().zip(widths) {
            line.push_str(&format!("{cell:<width$}  "));
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}
