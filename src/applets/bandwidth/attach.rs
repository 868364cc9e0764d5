//! ADD.

use super::ifb;
use crate::cni::{Request, Undo};
use crate::error::{Context, Errno, Error, Result};
use crate::net::traffic::{Limit, Root, Tbf, taken};
use crate::net::{Handle, Link, SharedLinks};

/// Limits at work on a host's end.
pub(super) struct Shaper<'a> {
    pub(super) host: &'a mut Handle,
    pub(super) link: &'a Link,
    pub(super) undo: &'a mut Undo,
}

impl Shaper<'_> {
    /// Limits what goes out through a link, in place of an earlier limit of ours.
    pub(super) fn limit(&mut self, link: u32, limit: &Limit) -> Result<()> {
        match self.host.add_limit(link, limit) {
            Err(error) if error.is(Errno::EEXIST) => self.replace(link, limit).context("create qdisc"),
            added => {
                added.context("create qdisc")?;
                self.undo.push(move || Handle::current()?.delete_root(link).context("failed to delete a qdisc"));
                Ok(())
            }
        }
    }

    /// A bucket is changed; where it is about networks there is no other way than to begin anew.
    fn replace(&mut self, link: u32, limit: &Limit) -> Result<()> {
        let old = match self.host.root_qdisc(link)? {
            Root::Tbf(old) if limit.subnets.is_empty() => {
                self.host.change_tbf(link, &limit.bucket)?;
                Some(old)
            }
            Root::Default | Root::Foreign => return Err(taken()),
            root => {
                self.host.delete_root(link)?;
                self.host.add_limit(link, limit)?;
                if let Root::Tbf(old) = root { Some(old) } else { None }
            }
        };
        self.undo.push(move || put_back(link, old).context("failed to change a qdisc back"));
        Ok(())
    }

    /// Sends what comes from the container through an ifb, and limits it there.
    pub(super) fn limit_egress(&mut self, request: &Request<'_>, limit: &Limit) -> Result<Link> {
        // GC takes an ifb that nobody sends anything to for an orphan.
        let shared = SharedLinks::ifbs();
        self.undo.push(move || {
            drop(shared);
            Ok(())
        });
        let ifb = self.ifb(request)?;
        self.limit(ifb.index, limit).context("create ifb qdisc")?;
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

/// The bucket that was there before; nobody knows any more of which networks a hierarchy was.
fn put_back(link: u32, old: Option<Tbf>) -> Result<()> {
    let mut host = Handle::current()?;
    host.delete_root(link)?;
    old.map_or(Ok(()), |old| host.add_tbf(link, &old))
}

/// Removes the filters of a link that lead to another.
fn unredirect(link: u32, target: u32) -> Result<()> {
    let mut host = Handle::current()?;
    let filters = host.redirects(link)?;
    let removed = filters.iter().filter(|filter| filter.target == target);
    let removed = removed.map(|filter| host.delete_redirect(link, *filter));
    removed.collect::<Result<Vec<()>>>().map(drop).map_err(|error: Error| error.context("failed to delete a filter"))
}
