//! `cnitool list`: the cached attachments, for people. The reference has nothing of the kind.

use std::fs;

use super::Call;
use crate::cni::cache::Cached;
use crate::error::Result;

pub(super) const ABOUT: &str = "List cached attachments (only in cni-box)";

pub(super) const HELP: &str = "
Shows what /var/lib/cni/results holds, of container runtimes too, which share it: network,
container id, interface, namespace and whether it is gone, addresses.
";

const HEADER: [&str; 5] = ["NETWORK", "CONTAINER ID", "IFNAME", "NETNS", "ADDRESSES"];

/// Prints a table of all cached attachments, or of those to one network.
pub(super) fn run(call: &mut Call<'_>) -> Result<()> {
    let network = call.command.word(0);
    let cached = call.cache.list((!network.is_empty()).then_some(network))?;
    let rows: Vec<_> = cached.iter().map(|(network, cached)| row(network, cached)).collect();
    call.stdout = table(&rows);
    Ok(())
}

/// Nothing in a cell is a command to the terminal.
fn row(network: &str, cached: &Cached) -> [String; 5] {
    let attachment = &cached.attachment;
    let netns = match attachment.netns.as_str() {
        "" => "-".to_string(),
        path if fs::exists(path).unwrap_or(true) => path.to_string(),
        path => format!("{path} (gone)"),
    };
    let addresses: Vec<String> = cached.result.ips.iter().map(|ip| ip.address.to_string()).collect();
    let addresses = if addresses.is_empty() { "-".to_string() } else { addresses.join(",") };
    let cells = [network, &attachment.container_id, &attachment.ifname, &netns, &addresses];
    cells.map(|cell| cell.escape_debug().to_string())
}

/// Lines whose columns stand below one another, two spaces apart.
fn table(rows: &[[String; 5]]) -> String {
    let header = HEADER.map(str::to_string);
    let rows = || std::iter::once(&header).chain(rows);
    let mut text = String::new();
    for row in rows() {
        let mut line = String::new();
        for (column, cell) in row.iter().enumerate() {
            let width = rows().filter_map(|row| row.get(column)).map(String::len).max().unwrap_or_default();
            line.push_str(&format!("{cell:<width$}  "));
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}
