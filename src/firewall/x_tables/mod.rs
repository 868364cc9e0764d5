//! iptables' tables in x_tables: each is read and replaced as a whole, under the lock that iptables takes too.

mod entry;
mod layout;
mod table;
#[cfg(test)]
mod tests;

use std::path::Path;
use std::time::Duration;

use layout::{
    BEHIND_NAME_AND_COUNT, COUNTERS_LENGTH, HOOKS, INFO_LENGTH, REPLACE_LENGTH, REPLACE_POINTER, TABLE_NAME_LENGTH,
    u32_at,
};
use table::{Info, Rendered, TableData};

use crate::error::{Context, Errno, Error, Result};
use crate::firewall::extensions::put;
use crate::firewall::place::Place;
use crate::firewall::rule::Family;
use crate::firewall::session::{Look, PlanOfOne};
use crate::sys::file;
use crate::sys::ipv6;
use crate::sys::lock::{Lock, Mode};
use crate::sys::rights::{self, Capability};
use crate::sys::xtables::{self, GET_ENTRIES, GET_INFO, TableSocket};

/// The lock of every iptables since 1.4.20.
const LOCK: &str = "/run/xtables.lock";

/// How long others may hold the lock.
const LOCK_PATIENCE: Duration = Duration::from_secs(10);

/// Attempts at a table that keeps changing.
const TRIES: u32 = 100;

/// Asks `plan` what to do with a table and does it, in one step. The kernel makes a missing table.
pub(super) fn edit(place: Place, plan: PlanOfOne<'_>) -> Result<()> {
    let (family, table) = named(place)?;
    let describe = || failed_to("change", family, table);
    let _lock = lock()?;
    let socket = open(family).with_context(describe)?;
    again_while_changing(|| try_edit(&socket, family, table, plan)).with_context(describe)
}

/// Shows `look` a table. The kernel makes a missing one.
pub(super) fn look(place: Place, look: Look<'_>) -> Result<()> {
    let (family, table) = named(place)?;
    let mut seen = || -> Result<()> {
        let socket = open(family)?;
        let (info, blob) = again_while_changing(|| read(&socket, table))?;
        look(&mut TableData::parse(family, &info, entries(&blob))?)
    };
    seen().with_context(|| failed_to("read", family, table))
}

fn named(place: Place) -> Result<(Family, &'static str)> {
    match place {
        Place::Iptables { family, table, .. } => Ok((family, table.name())),
        Place::Native(table) => Err(Error::internal(format!("x_tables cannot hold table {:?}", table.name))),
    }
}

/// Whether a table that the kernel already has holds rules or user chains.
pub(super) fn holds_rules(family: Family, table: &str) -> Result<bool> {
    let search = || -> Result<bool> {
        let Some(socket) = open_if_supported(family)? else { return Ok(false) };
        let info = get_info(&socket, table)?;
        Ok(info.entries > info.valid_hooks.count_ones() + 1)
    };
    search().with_context(|| failed_to("read", family, table))
}

/// Whether a table that the kernel already has holds a chain with such a name.
pub(super) fn has_chain(family: Family, table: &str, is_wanted: impl Fn(&str) -> bool) -> Result<bool> {
    let search = || -> Result<bool> {
        let Some(socket) = open_if_supported(family)? else { return Ok(false) };
        let (info, blob) = again_while_changing(|| read(&socket, table))?;
        Ok(TableData::parse(family, &info, entries(&blob))?.chain_names().any(is_wanted))
    };
    search().with_context(|| failed_to("read", family, table))
}

fn failed_to(verb: &str, family: Family, table: &str) -> String {
    format!("failed to {verb} {} table {table:?} in x_tables", family.program())
}

/// Repeats what failed because the table changed under us: we look without the lock, or others write without it.
fn again_while_changing<T>(mut attempt: impl FnMut() -> Result<T>) -> Result<T> {
    for _ in 1..TRIES {
        match attempt() {
            Err(error) if error.is(Errno::EAGAIN) => {}
            done => return done,
        }
    }
    attempt().map_err(|error| match error.is(Errno::EAGAIN) {
        true => error.context(&format!("others kept changing it ({TRIES} attempts)")),
        false => error,
    })
}

fn lock() -> Result<Lock> {
    let path = Path::new(LOCK);
    let file = file::or_for_reading(file::open_or_create(path, 0o600), path)?;
    Lock::acquire_within(file, Mode::Exclusive, LOCK_PATIENCE).map_err(|error| {
        let hint = if error.is(Errno::ETIMEDOUT) { " (another program holds it)" } else { "" };
        error.context(&format!("failed to lock {LOCK:?}{hint}"))
    })
}

fn open(family: Family) -> Result<TableSocket> {
    let opened = TableSocket::open(match family {
        Family::V4 => xtables::Family::V4,
        Family::V6 => xtables::Family::V6,
    });
    opened.map_err(|error| if error.is(Errno::EAFNOSUPPORT) { ipv6::explain(error) } else { error })
}

/// The same for looking; `None` for IPv6 on a kernel without it. Before 5.15 such a kernel lists
/// tables of ip6_tables all the same.
fn open_if_supported(family: Family) -> Result<Option<TableSocket>> {
    match open(family) {
        Err(error) if error.is(Errno::EAFNOSUPPORT) => Ok(None),
        opened => opened.map(Some),
    }
}

fn try_edit(socket: &TableSocket, family: Family, table: &str, plan: PlanOfOne<'_>) -> Result<()> {
    let (info, blob) = read(socket, table)?;
    let mut data = TableData::parse(family, &info, entries(&blob))?;
    let edits = plan(&mut data)?;
    if edits.is_empty() {
        return Ok(());
    }
    data.apply(&edits)?;
    write(socket, table, &info, &data.render())
}

/// The table's description and its entries. `EAGAIN` when it changed between the two questions.
fn read(socket: &TableSocket, table: &str) -> Result<(Info, Vec<u8>)> {
    let info = get_info(socket, table)?;
    let mut bytes = vec![0; BEHIND_NAME_AND_COUNT + info.size as usize];
    put(&mut bytes, 0, table.as_bytes());
    put(&mut bytes, TABLE_NAME_LENGTH, &info.size.to_ne_bytes());
    socket.get(GET_ENTRIES, &mut bytes).context("failed to read its entries")?;
    Ok((info, bytes))
}

/// The entries in the answer to `IPT_SO_GET_ENTRIES`.
fn entries(answer: &[u8]) -> &[u8] {
    answer.get(BEHIND_NAME_AND_COUNT..).unwrap_or_default()
}

fn get_info(socket: &TableSocket, table: &str) -> Result<Info> {
    let mut bytes = [0; INFO_LENGTH];
    put(&mut bytes, 0, table.as_bytes());
    let got = socket.get(GET_INFO, &mut bytes).context("failed to read its size");
    got.map_err(|error| rights::explain(error, Capability::NetAdmin))?;
    let mut numbers = [0; 3 + 2 * HOOKS];
    for (index, number) in numbers.iter_mut().enumerate() {
        *number = u32_at(&bytes, TABLE_NAME_LENGTH + 4 * index)?;
    }
    let [valid_hooks, a, b, c, d, e, f, g, h, i, j, entries, size] = numbers;
    Ok(Info { valid_hooks, hook_entry: [a, b, c, d, e], underflow: [f, g, h, i, j], entries, size })
}

/// Replaces the table and gives every surviving entry its counters back. `EAGAIN` when somebody else replaced it.
fn write(socket: &TableSocket, table: &str, old: &Info, new: &Rendered) -> Result<()> {
    let mut request = vec![0; REPLACE_LENGTH];
    put(&mut request, 0, table.as_bytes());
    let Info { valid_hooks, hook_entry, underflow, entries, size } = new.info;
    let numbers = [valid_hooks, entries, size].into_iter().chain(hook_entry).chain(underflow).chain([old.entries]);
    for (index, number) in numbers.enumerate() {
        put(&mut request, TABLE_NAME_LENGTH + 4 * index, &number.to_ne_bytes());
    }
    request.extend_from_slice(&new.blob);
    let mut counters = vec![0; old.entries as usize * COUNTERS_LENGTH];
    socket.replace(&mut request, REPLACE_POINTER, &mut counters).context("failed to replace it")?;
    let carried = carried_counters(table, &new.continues, &counters);
    // The rules are in force. Failing now would only make the caller believe that they are not.
    let _ = socket.add_counters(&carried);
    Ok(())
}

/// `struct xt_counters_info`: what each entry of the new table counted in the old one.
fn carried_counters(table: &str, continues: &[Option<u32>], counters: &[u8]) -> Vec<u8> {
    let mut request = vec![0; BEHIND_NAME_AND_COUNT];
    put(&mut request, 0, table.as_bytes());
    put(&mut request, TABLE_NAME_LENGTH, &(continues.len() as u32).to_ne_bytes());
    for old in continues {
        let counted = old.and_then(|old| counters.chunks_exact(COUNTERS_LENGTH).nth(old as usize));
        request.extend_from_slice(counted.unwrap_or(&[0; COUNTERS_LENGTH]));
    }
    request
}
