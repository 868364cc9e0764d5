//! A filter that sends what comes in through a link out through another one, beside filters of other programs. `clsact`, which
//! eBPF and tc agents use, takes the filter as well as `ingress`.

use super::{OURS, TCMSG, is_gone, priority, selector, tcmsg, word, words};
use crate::error::{Context, Errno, Error, Result};
use crate::net::Handle;
use crate::netlink::message::{ACK, CREATE, ECHO, EXCL};
use crate::netlink::traffic::*;
use crate::netlink::{Attribute, Attributes, Message};

/// Handle of a qdisc for what comes in: `ffff:`.
const INGRESS: u32 = 0xffff_0000;
/// Handle of the filter in its table: the one that the kernel would choose for the first. So that there are never two.
const FILTER: u32 = 0x800;
/// Class of the filter, which has no meaning on this side: `1:1`, as the reference has it, if the qdisc was made for the filter,
/// `1:2` if another program has made the qdisc.
const CLASSES: [u32; 2] = [OURS | 1, OURS | 2];
/// Lists that are made again when another program was faster.
const TRIES: u32 = 8;

/// A filter that sends everything that comes in through another link.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Redirect {
    handle: u32,
    /// Priority and protocol.
    info: u32,
    /// Index of the other link; 0 when it is gone.
    pub target: u32,
    /// The qdisc was made for the filter.
    pub made_qdisc: bool,
}

/// One entry of a list of filters.
#[derive(Debug)]
struct Entry {
    /// No link's index for a block of filters that several links share (`TCM_IFINDEX_MAGIC_BLOCK`).
    link: u32,
    /// As the filters were made last.
    parent: u32,
    chain: u32,
    info: u32,
    /// A hash table of u32, which is there as long as its filters.
    is_table: bool,
    redirect: Option<Redirect>,
}

impl Entry {
    fn leads_to(&self, target: u32) -> bool {
        self.redirect.is_some_and(|redirect| redirect.target == target)
    }
}

impl Handle {
    /// Gives a link an ingress qdisc. False when the link has one, or `clsact`.
    pub fn add_ingress(&mut self, link: u32) -> Result<bool> {
        match self.connection.request(ingress_message(link)) {
            Err(error) if error.is(Errno::EEXIST) && self.ingress_kind(link)?.is_some() => Ok(false),
            result => result.map(|()| true),
        }
    }

    /// True for a link with an ingress qdisc that has no filters or chains.
    pub fn has_empty_ingress(&mut self, link: u32) -> Result<bool> {
        Ok(self.ingress_kind(link)?.as_deref() == Some("ingress")
            && self.entries(link)?.iter().all(|entry| entry.is_table)
            && !self.has_chains(link))
    }

    /// Removes the ingress qdisc of a link if it has no filters or chains; one that is gone already counts as removed.
    pub fn delete_empty_ingress(&mut self, link: u32) -> Result<()> {
        match self.has_empty_ingress(link)? {
            true => self.delete_qdisc(tcmsg(RTM_DELQDISC, 0, link, INGRESS, TC_H_INGRESS, 0)),
            false => Ok(()),
        }
    }

    /// Sends what comes in through a link out through another one, after the filters of other programs that have taken the first
    /// priorities. False when there is such a filter already.
    pub fn add_redirect(&mut self, link: u32, target: u32, made_qdisc: bool) -> Result<bool> {
        let mut tries = TRIES;
        loop {
            let entries = self.entries(link)?;
            if entries.iter().any(|entry| entry.link == link && entry.leads_to(target)) {
                return Ok(false);
            }
            // Tables of u32 with the same priority are shared by all chains.
            let is_taken = |number: &u32| entries.iter().any(|entry| entry.info >> 16 == *number);
            let free = (1..=u32::from(u16::MAX)).find(|number| !is_taken(number)).unwrap_or(1);
            // The kernel shows the parent that was named last for all filters, and `clsact` takes this one only.
            let parent = match entries.first() {
                Some(entry) => entry.parent,
                None if made_qdisc || self.ingress_kind(link)?.as_deref() == Some("ingress") => INGRESS,
                None => TC_H_MIN_INGRESS,
            };
            tries -= 1;
            match self.connection.request(redirect_message(link, target, (parent, free), made_qdisc)) {
                // Another program has this priority by now.
                Err(error) if tries > 0 && is_taken_error(&error) => {}
                added => return added.map(|()| true),
            }
        }
    }

    /// Removes a filter, and its table unless other filters are in that: beside other tables of u32 the kernel leaves it.
    pub fn delete_redirect(&mut self, link: u32, redirect: Redirect) -> Result<()> {
        self.connection.request(delete_message(link, redirect.handle, redirect.info))?;
        let entries = self.entries(link)?;
        let mut same = entries.iter().filter(|entry| entry.chain == 0 && entry.info == redirect.info).peekable();
        if same.peek().is_none() || same.any(|entry| !entry.is_table) {
            return Ok(());
        }
        match self.connection.request(delete_message(link, 0, redirect.info)) {
            Err(error) if is_gone(&error) => Ok(()),
            deleted => deleted,
        }
    }

    /// The filters of a link that look like [`Handle::add_redirect`]'s. None if it has no ingress qdisc, or is gone.
    pub fn redirects(&mut self, link: u32) -> Result<Vec<Redirect>> {
        Ok(self.entries(link)?.into_iter().filter_map(|entry| entry.redirect.filter(|_| entry.link == link)).collect())
    }

    /// Indices of the links that have a qdisc for what comes in.
    pub fn links_with_ingress(&mut self) -> Result<Vec<u32>> {
        let listed = self.connection.dump(&tcmsg(RTM_GETQDISC, 0, 0, 0, 0, 0), Vec::new, |links, reply| {
            links.extend((word(reply.body, 12) == TC_H_INGRESS).then_some(word(reply.body, 4)));
            Ok(())
        });
        listed.context("failed to list qdiscs")
    }

    fn entries(&mut self, link: u32) -> Result<Vec<Entry>> {
        self.filters(link, TC_H_MIN_INGRESS, read_entry)
    }

    /// Chains beside the first, or a template of the first one, are of another program. Kernels before 4.19 have none to list.
    fn has_chains(&mut self, link: u32) -> bool {
        let chain = |body: &[u8]| {
            let attributes = Attributes::after(body, TCMSG)?;
            let number = attributes.find(TCA_CHAIN).and_then(Attribute::u32).unwrap_or(0);
            Ok((number != 0 || attributes.find(TCA_KIND).is_some()).then_some(()))
        };
        self.list(RTM_GETCHAIN, link, TC_H_MIN_INGRESS, chain).is_ok_and(|chains| !chains.is_empty())
    }

    /// Kind of the link's qdisc for what comes in: `ingress` or `clsact`.
    fn ingress_kind(&mut self, link: u32) -> Result<Option<String>> {
        let request = tcmsg(RTM_GETQDISC, ACK | ECHO, link, 0, TC_H_INGRESS, 0);
        let kind = |body: &[u8]| Ok(Attributes::after(body, TCMSG)?.find(TCA_KIND).map(Attribute::text));
        let found = match self.connection.get(&request, kind) {
            Err(error) if is_gone(&error) => None,
            found => found.context("failed to look up a qdisc")?.flatten(),
        };
        Ok(found.filter(|kind| ["ingress", "clsact"].contains(&kind.as_str())))
    }
}

/// The answers of the kernel where a priority has a filter with this handle, or filters of another kind or protocol.
fn is_taken_error(error: &Error) -> bool {
    [Errno::ENOSPC, Errno::EEXIST, Errno::EINVAL].iter().any(|errno| error.is(*errno))
}

fn ingress_message(link: u32) -> Message {
    let mut request = tcmsg(RTM_NEWQDISC, CREATE | EXCL, link, INGRESS, TC_H_INGRESS, 0);
    request.string(TCA_KIND, "ingress").attribute(TCA_OPTIONS, &[]);
    request
}

/// As the reference's library makes it, but for the handle and what depends on other programs: one key that matches everything, and a second action
/// that is never reached.
fn redirect_message(link: u32, target: u32, (parent, number): (u32, u32), made_qdisc: bool) -> Message {
    let [own, other] = CLASSES;
    let info = priority(number, ETH_P_ALL);
    let mut request = tcmsg(RTM_NEWTFILTER, CREATE | EXCL, link, FILTER, parent, info);
    request.string(TCA_KIND, "u32").container(TCA_OPTIONS, |options| {
        let class = if made_qdisc { own } else { other };
        options.attribute(TCA_U32_SEL, &selector(&[[0; 3]])).u32(TCA_U32_CLASSID, class);
        options.container(TCA_U32_ACT, |actions| {
            for (order, verdict) in [(1, TC_ACT_STOLEN), (2, TC_ACT_OK)] {
                actions.container(order, |action| {
                    action.string(TCA_ACT_KIND, "mirred").container(TCA_ACT_OPTIONS, |options| {
                        let parameters = [0, 0, verdict, 0, 0, TCA_EGRESS_REDIR, target];
                        options.attribute(TCA_MIRRED_PARMS, &words(&parameters));
                    });
                });
            }
        });
    });
    request
}

/// Without a handle all filters of the priority go.
fn delete_message(link: u32, handle: u32, info: u32) -> Message {
    let mut request = tcmsg(RTM_DELTFILTER, 0, link, handle, TC_H_MIN_INGRESS, info);
    request.string(TCA_KIND, "u32");
    request
}

fn read_entry(body: &[u8]) -> Result<Option<Entry>> {
    const NODE: u32 = 0xfff;
    let [link, handle, parent, info] = [4, 8, 12, 16].map(|at| word(body, at));
    let attributes = Attributes::after(body, TCMSG)?;
    let is_u32 = attributes.find(TCA_KIND).map(Attribute::text).as_deref() == Some("u32");
    let chain = attributes.find(TCA_CHAIN).and_then(Attribute::u32).unwrap_or(0);
    let options = attributes.find(TCA_OPTIONS).filter(|_| is_u32 && chain == 0 && info & 0xffff == EVERY_PROTOCOL);
    let redirect = options.and_then(redirect_target);
    let redirect = redirect.map(|(target, made_qdisc)| Redirect { handle, info, target, made_qdisc });
    Ok(Some(Entry { link, parent, chain, info, is_table: is_u32 && handle & NODE == 0, redirect }))
}

/// Protocol of the filters in `struct tcmsg`.
const EVERY_PROTOCOL: u32 = priority(0, ETH_P_ALL);

/// Where the first action sends everything, and whether the qdisc was made for that.
fn redirect_target(options: Attribute<'_>) -> Option<(u32, bool)> {
    let options = options.nested().ok()?;
    let matches_all = options.find(TCA_U32_SEL)?.payload.get(16..24)? == [0; 8];
    let class = options.find(TCA_U32_CLASSID)?.u32()?;
    let action = options.find(TCA_U32_ACT)?.nested().ok()?.find(1)?.nested().ok()?;
    let is_mirred = action.find(TCA_ACT_KIND)?.text() == "mirred";
    let parameters = action.find(TCA_ACT_OPTIONS)?.nested().ok()?.find(TCA_MIRRED_PARMS)?.payload;
    let redirects = word(parameters, 20) == TCA_EGRESS_REDIR;
    let [own, _] = CLASSES;
    (matches_all && is_mirred && redirects && CLASSES.contains(&class)).then(|| (word(parameters, 24), class == own))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_ingress_qdisc() {
        #[rustfmt::skip]
        let golden = [
            0, 0, 0, 0, 7, 0, 0, 0, 0, 0, 255, 255, 0xf1, 255, 255, 255, 0, 0, 0, 0, // tcmsg: link 7, ffff:, ffff:fff1
            12, 0, 1, 0, b'i', b'n', b'g', b'r', b'e', b's', b's', 0,                // TCA_KIND
            4, 0, 2, 0,                                                              // TCA_OPTIONS
        ];
        assert_eq!(ingress_message(7).body(), golden);
    }

    #[test]
    fn a_redirection() {
        #[rustfmt::skip]
        let golden = [
            0, 0, 0, 0, 7, 0, 0, 0, 0, 8, 0, 0, 0, 0, 255, 255, 0, 3, 1, 0, // tcmsg: link 7, ::800, ffff:, priority 1, every protocol
            8, 0, 1, 0, b'u', b'3', b'2', 0,                                // TCA_KIND
            156, 0, 2, 0,                                                   // TCA_OPTIONS
            36, 0, 5, 0, 1, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,    //   TCA_U32_SEL: terminal, 1 key
            0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,                 //     that matches everything
            8, 0, 1, 0, 1, 0, 1, 0,                                         //   TCA_U32_CLASSID 1:1
            108, 0, 7, 0,                                                   //   TCA_U32_ACT
            52, 0, 1, 0,                                                    //     1
            11, 0, 1, 0, b'm', b'i', b'r', b'r', b'e', b'd', 0, 0,          //       TCA_ACT_KIND
            36, 0, 2, 0, 32, 0, 2, 0,                                       //       TCA_ACT_OPTIONS, TCA_MIRRED_PARMS
            0, 0, 0, 0, 0, 0, 0, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,     //         stolen
            1, 0, 0, 0, 9, 0, 0, 0,                                         //         out through link 9
            52, 0, 2, 0,                                                    //     2
            11, 0, 1, 0, b'm', b'i', b'r', b'r', b'e', b'd', 0, 0,
            36, 0, 2, 0, 32, 0, 2, 0,
            0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,     //         passed
            1, 0, 0, 0, 9, 0, 0, 0,
        ];
        let mut golden = golden.to_vec();
        assert_eq!(redirect_message(7, 9, (INGRESS, 1), true).body(), golden);
        let read = |bytes: &[u8]| read_entry(bytes).unwrap().unwrap().redirect;
        let redirect = Redirect { handle: FILTER, info: priority(1, ETH_P_ALL), target: 9, made_qdisc: true };
        assert_eq!(read(&golden), Some(redirect));
        let beside = redirect_message(7, 9, (TC_H_MIN_INGRESS, 3), false);
        let info = priority(3, ETH_P_ALL);
        assert_eq!(read(beside.body()), Some(Redirect { info, made_qdisc: false, ..redirect }));
        golden[16] = 1;
        assert_eq!(read(&golden), None, "another protocol");
    }
}
