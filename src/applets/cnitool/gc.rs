//! `cnitool gc`: ends the cached attachments of a network, and says which and which not, and which
//! addresses `host-local` frees beside them.

use std::cell::RefCell;
use std::path::PathBuf;

use super::{Call, any_remembered_list};
use crate::cni::attachment::Attachment;
use crate::cni::chain::{Chain, Fate};
use crate::error::{Error, Result};
use crate::ipam::evidence;
use crate::ipam::store::DEFAULT_DATA_DIR;
use crate::ipam::store::survey::{Reservation, survey};

pub(super) const HELP: &str = "      --dry-run         Only say what would be ended (only in cni-box)
      --valid ID/IF     Attachment to keep, by container id and interface name as list shows
                        them; once for each (only in cni-box). Nothing is ended if one of them
                        is neither in the cache nor has an address of host-local

Ends every cached attachment of the network, those of container runtimes too (they share
/var/lib/cni/results), except the valid ones. From CNI 1.1.0 on the plugins then remove
what is left of others: with --valid all that belongs to no valid attachment.
Standard error says what was ended, what is kept and why, and which addresses of
host-local are free now.
";

/// Ends attachments, or says which would be. Plugins are not asked on a dry run.
pub(super) fn run(call: &mut Call<'_>) -> Result<()> {
    let (command, notes) = (call.command, RefCell::new(String::new()));
    let valid = (!command.valid.is_empty()).then_some(command.valid.as_slice());
    let network = command.word(0);
    let say = |fate, attachment: &Attachment| notes.borrow_mut().push_str(&line(network, fate, attachment));
    let done = call.on_chain(Some(any_remembered_list), &|chain| {
        let reservations = uncached(chain);
        refuse_unknown(chain, &command.valid, &reservations)?;
        if command.dry_run {
            return would_end(chain, valid, &reservations, &say);
        }
        let collected = chain.gc(valid, &say);
        let is_free = |held: &&Held| !held.1.is_held(&held.0, network);
        reservations
            .iter()
            .filter(is_free)
            .for_each(|held| notes.borrow_mut().push_str(&address("freed", network, held)));
        collected.map(|()| String::new())
    });
    call.notes = notes.take();
    call.stdout = done?;
    Ok(())
}

/// A reservation of `host-local` with its `dataDir`.
type Held = (PathBuf, Reservation);

/// The reservations of attachments that are not in the cache: only plugins end these. Those of a
/// store that cannot be read are left out, as the plugin's GC fails and tells.
fn uncached(chain: &Chain<'_>) -> Vec<Held> {
    let network = &chain.list.name;
    let mut stores = Vec::new();
    if evidence::has_store(network) {
        stores.push((PathBuf::from(DEFAULT_DATA_DIR), network.clone()));
    }
    evidence::add_stores(&mut stores, chain.list);
    let held = stores.into_iter().flat_map(|(data_dir, network)| {
        let reservations = survey(&data_dir, &network).unwrap_or_default();
        reservations.into_iter().map(move |reservation| (data_dir.clone(), reservation))
    });
    // Reservations of old releases name no interface. Plugins leave them.
    let held = held.filter(|(_, one)| !one.ifname.is_empty());
    held.filter(|(_, one)| is_uncached(chain, &one.container, &one.ifname)).collect()
}

fn is_uncached(chain: &Chain<'_>, id: &str, ifname: &str) -> bool {
    let (container_id, ifname) = (id.to_string(), ifname.to_string());
    let attachment = Attachment { container_id, ifname, ..Attachment::default() };
    matches!(chain.cache.read(&chain.list.name, &attachment), Ok(None))
}

/// Fails for a valid attachment that is not known: mostly a typing error, which would end the one
/// that is meant.
fn refuse_unknown(chain: &Chain<'_>, valid: &[(String, String)], reservations: &[Held]) -> Result<()> {
    let is_reserved = |pair: &(String, String)| reservations.iter().any(|(_, one)| is_of(one, pair));
    let mut unknown = valid.iter().filter(|pair| is_uncached(chain, &pair.0, &pair.1) && !is_reserved(pair));
    unknown.next().map_or(Ok(()), |(id, ifname)| {
        let network = &chain.list.name;
        let text = format!("--valid: {network} {id} {ifname} is not in the cache and has no address of host-local");
        Err(Error::internal(text).with_details("nothing was ended"))
    })
}

fn is_of(reservation: &Reservation, (id, ifname): &(String, String)) -> bool {
    (&reservation.container, &reservation.ifname) == (id, ifname)
}

fn would_end(
    chain: &Chain<'_>,
    valid: Option<&[(String, String)]>,
    reservations: &[Held],
    say: &dyn Fn(Fate, &Attachment),
) -> Result<String> {
    let (mut text, mut count) = (String::new(), 0);
    for (fate, attachment) in chain.fates(valid.unwrap_or_default())? {
        if fate == Fate::Stale {
            count += 1;
            text.push_str(&format!("would end {}\n", named(&chain.list.name, &attachment)));
        } else {
            say(fate, &attachment);
        }
    }
    if chain.asks_plugins_to_collect() {
        text.push_str(&would_remove(&chain.list.name, valid, reservations));
    }
    let plural = if count == 1 { "" } else { "s" };
    Ok(text + &format!("{count} attachment{plural} would be ended\n"))
}

/// What plugins would do after that: without valid attachments only what is certain.
fn would_remove(network: &str, valid: Option<&[(String, String)]>, reservations: &[Held]) -> String {
    let goes = |held: &&Held| match valid {
        Some(valid) => !valid.iter().any(|pair| is_of(&held.1, pair)),
        None => held.1.life.is_over(),
    };
    let addresses: String = reservations.iter().filter(goes).map(|held| address("would free", network, held)).collect();
    let others = if valid.is_some() { "belongs to no valid attachment" } else { "is left of others" };
    format!("{addresses}plugins would also remove what {others}\n")
}

fn address(done: &str, network: &str, (_, reservation): &Held) -> String {
    let Reservation { address, container, ifname, .. } = reservation;
    format!("{done} {address} of {network} {container} {ifname}\n")
}

fn line(network: &str, fate: Fate, attachment: &Attachment) -> String {
    let attachment = named(network, attachment);
    match fate {
        Fate::Stale => format!("ended {attachment}\n"),
        Fate::Valid => format!("kept {attachment}: named by --valid\n"),
        Fate::Disabled => format!("kept {attachment}: the network has disableGC\n"),
    }
}

fn named(network: &str, Attachment { container_id, ifname, .. }: &Attachment) -> String {
    format!("{network} {container_id} {ifname}")
}
