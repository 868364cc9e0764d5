//! `cnitool gc`: ends the cached attachments of a network, and says which and which not.

use std::cell::RefCell;

use super::{Call, any_remembered_list};
use crate::cni::attachment::Attachment;
use crate::cni::chain::{Chain, Fate};
use crate::error::Result;

pub(super) const HELP: &str = "      --dry-run         Only say what would be ended (only in cni-box)
      --valid ID/IF     Attachment to keep, by container id and interface name as list shows
                        them; once for each (only in cni-box)

Ends every cached attachment of the network, those of container runtimes too (they share
/var/lib/cni/results), except the valid ones. From CNI 1.1.0 on the plugins then remove
what is left of others: with --valid all that belongs to no valid attachment.
Standard error says what was ended, what is kept, and why.
";

/// Ends attachments, or says which would be. Plugins are not asked on a dry run.
pub(super) fn run(call: &mut Call<'_>) -> Result<()> {
    let (command, notes) = (call.command, RefCell::new(String::new()));
    let valid = (!command.valid.is_empty()).then_some(command.valid.as_slice());
    let network = command.word(0);
    let say = |fate, attachment: &Attachment| notes.borrow_mut().push_str(&line(network, fate, attachment));
    let done = call.on_chain(Some(any_remembered_list), &|chain| {
        unknown(chain, &command.valid).for_each(|line| notes.borrow_mut().push_str(&line));
        match command.dry_run {
            true => would_end(chain, &command.valid, &say),
            false => chain.gc(valid, &say).map(|()| String::new()),
        }
    });
    call.notes = notes.take();
    call.stdout = done?;
    Ok(())
}

fn would_end(chain: &Chain<'_>, valid: &[(String, String)], say: &dyn Fn(Fate, &Attachment)) -> Result<String> {
    let (mut text, mut count) = (String::new(), 0);
    for (fate, attachment) in chain.fates(valid)? {
        if fate == Fate::Stale {
            count += 1;
            text.push_str(&format!("would end {}\n", named(&chain.list.name, &attachment)));
        } else {
            say(fate, &attachment);
        }
    }
    let plural = if count == 1 { "" } else { "s" };
    Ok(text + &format!("{count} attachment{plural} would be ended\n"))
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

/// A line for each valid attachment that is not in the cache: mostly a typing error, which ends
/// the one that is meant.
fn unknown<'v>(chain: &Chain<'_>, valid: &'v [(String, String)]) -> impl Iterator<Item = String> + 'v {
    let (cache, network) = (chain.cache.clone(), chain.list.name.clone());
    valid.iter().filter_map(move |(id, ifname)| {
        let (container_id, ifname) = (id.clone(), ifname.clone());
        let attachment = Attachment { container_id, ifname, ..Attachment::default() };
        let is_missing = matches!(cache.read(&network, &attachment), Ok(None));
        is_missing.then(|| format!("warning: --valid: {} is not in the cache\n", named(&network, &attachment)))
    })
}
