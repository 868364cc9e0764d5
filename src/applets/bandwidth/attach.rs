//! ADD.

use super::ifb;
use crate::cni::{Request, Undo};
use crate::error::{Context, Errno, Error, Result};
use crate::net::traffic::{Root, Tbf, taken};
use crate::net::{Handle, Link, SharedLinks};

/// Limits at work on a host's end.
pub(super) struct Shaper<'a> {
    pub(super) host: &'a mut Handle,
    pub(super) link: &'a Link,
    pub(super) undo: &'a mut Undo,
}

impl Shaper<'_> {
    /// Limits what goes out through a link, in place of an earlier limit of ours.
    pub(super) fn limit(&mut self, link: u32, tbf: &Tbf) -> Result<()> {
        match self.host.add_tbf(link, tbf) {
            Err(error) if error.is(Errno::EEXIST) => self.change(link, tbf),
            result => {
                result.map(|()| self.undo.push(move || Handle::current()?.delete_root(link).context("failed to delete a qdisc")))
            }
        }
        .context("create qdisc")
    }

    fn change(&mut self, link: u32, tbf: &Tbf) -> Result<()> {
        let Root::Tbf(old) = self.host.root_qdisc(link)? else { return Err(taken()) };
        self.host.change_tbf(link, tbf)?;
        self.undo.push(move || Handle::current()?.change_tbf(link, &old).context("failed to change a qdisc back"));
        Ok(())
    }

    /// Sends what comes from the container through an ifb, and limits it there.
    pub(super) fn limit_egress(&mut self, request: &Request<'_>, tbf: &Tbf) -> Result<Link> {
        // GC takes an ifb that nobody sends anything to for an orphan.
        let shared = SharedLinks::ifbs();
        self.undo.push(move || {
            drop(shared);
            Ok(())
        });
        let ifb = self.ifb(request)?;
        self.limit(ifb.index, tbf).context("create ifb qdisc")?;
        self.redirect(&ifb)?;
        Ok(ifb)
    }

    /// Creates the ifb, or finds the one that an earlier ADD has made.
    fn ifb(&mut self, request: &Request<'_>) -> Result<Link> {
        if let Some(link) = ifb::of(self.host, request, self.link.index)? {
            return self.adjust(link);
        }
        for name in ifb::names_for(request) {
            match self.host.create_ifb(&name, self.link.mtu) {
                Err(error) if error.is(Errno::EEXIST) => {}
                created => {
                    self.undo.push(move || Handle::current()?.delete_link_named(&name));
                    return created.context("adding link");
                }
            }
            // Somebody's: of the container's other interface, or of an ADD that was killed.
            let found = ifb::find(self.host, &name)?.ok_or_else(|| taken().context("adding link"))?;
            if !ifb::redirections(self.host)?.iter().any(|(_, target)| *target == found.index) {
                return self.adjust(found);
            }
        }
        Err(taken().context("adding link"))
    }

    /// Gives an ifb the MTU that it would have if it were new.
    fn adjust(&mut self, ifb: Link) -> Result<Link> {
        if ifb.mtu != self.link.mtu {
            let (index, old) = (ifb.index, ifb.mtu);
            self.host.set_mac_and_mtu(index, None, self.link.mtu).context("adding link")?;
            self.undo.push(move || Handle::current()?.set_mac_and_mtu(index, None, old));
        }
        self.host.set_up(ifb.index, true).context("adding link")?;
        Ok(ifb)
    }

    /// One filter that leads to the ifb; those that led to devices which are gone would drop everything.
    fn redirect(&mut self, ifb: &Link) -> Result<()> {
        let link = self.link.index;
        if self.host.add_ingress(link).context("create ingress qdisc")? {
            self.undo.push(move || Handle::current()?.delete_ingress(link).context("failed to delete a qdisc"));
        }
        let present = self.host.redirects(link)?;
        for dead in present.iter().filter(|redirect| redirect.target == 0) {
            self.host.delete_redirect(link, *dead).context("delete filter")?;
        }
        if present.iter().any(|redirect| redirect.target == ifb.index) {
            return Ok(());
        }
        self.host.add_redirect(link, ifb.index).context("add filter")?;
        let target = ifb.index;
        self.undo.push(move || unredirect(link, target));
        Ok(())
    }
}

/// Removes the filters of a link that lead to another.
fn unredirect(link: u32, target: u32) -> Result<()> {
    let mut host = Handle::current()?;
    let filters = host.redirects(link)?;
    let removed = filters.iter().filter(|filter| filter.target == target);
    let removed = removed.map(|filter| host.delete_redirect(link, *filter));
    removed.collect::<Result<Vec<()>>>().map(drop).map_err(|error: Error| error.context("failed to delete a filter"))
}
