//! ADD.

use super::conf::Conf;
use super::ifb;
use super::remove::{remove_filters, unredirect};
use crate::cni::{Request, Undo};
use crate::error::{Context, Errno, Result};
use crate::net::traffic::{Limit, Redirect, Root, taken};
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
        let old = self.host.root_qdisc(link)?;
        let is_bucket = matches!(old, Root::Tbf(_)) && limit.subnets.is_empty();
        if matches!(old, Root::Default | Root::Foreign) {
            return Err(taken());
        }
        self.undo.push(move || put_back(link, &old).context("failed to change a qdisc back"));
        if is_bucket {
            return self.host.change_tbf(link, &limit.bucket);
        }
        self.host.delete_root(link)?;
        self.host.add_limit(link, limit)
    }

    /// Takes away what an earlier ADD has limited and this one does not. That there was one shows an ifb of which the result
    /// does not tell: if it does, the ifb is of another `bandwidth` in the same chain, and so is a limit without an ifb.
    pub(super) fn forget(&mut self, request: &Request<'_>, conf: &Conf, is_told: impl Fn(&str) -> bool) -> Result<()> {
        let link = self.link.index;
        let Some(ifb) = ifb::of(self.host, request, link)?.filter(|ifb| !is_told(&ifb.name)) else {
            return self.remove_dead(link);
        };
        let root = self.host.root_qdisc(link)?;
        if conf.ingress.is_none() && matches!(root, Root::Tbf(_) | Root::Htb(_)) {
            self.undo.push(move || put_back(link, &root).context("failed to change a qdisc back"));
            self.host.delete_root(link).context("failed to delete a qdisc")?;
        }
        match conf.egress {
            Some(_) => Ok(()),
            None => self.forget_egress(ifb),
        }
    }

    fn forget_egress(&mut self, ifb: Link) -> Result<()> {
        let (link, index) = (self.link.index, ifb.index);
        let made_qdisc = self.host.redirects(link)?.iter().any(|filter| filter.target == index && filter.made_qdisc);
        let root = self.host.root_qdisc(index)?;
        self.undo.push(move || {
            let mut host = Handle::current()?;
            let new = match ifb::find(&mut host, &ifb.name)? {
                Some(left) => left.index,
                None => host.create_ifb(&ifb.name, ifb.mtu, Some(&ifb.mac))?.index,
            };
            put_back(new, &root)?;
            let made = host.add_ingress(link)? || made_qdisc;
            host.add_redirect(link, new, made).map(drop)
        });
        // The filter goes before its target: what comes from the container would be dropped meanwhile.
        unredirect(self.host, link, Some(index))?;
        self.host.delete_link(index).context("failed to delete an ifb")
    }

    /// Filters that led to devices which are gone would drop everything.
    fn remove_dead(&mut self, link: u32) -> Result<()> {
        for dead in self.host.redirects(link)?.iter().filter(|redirect| redirect.target == 0) {
            self.host.delete_redirect(link, *dead).context("delete filter")?;
        }
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
        let had_ifb = ifb::any(self.host, request)?;
        let ifb = self.ifb(request)?;
        self.limit(ifb.index, limit).context("create ifb qdisc")?;
        self.redirect(&ifb, had_ifb)?;
        Ok(ifb)
    }

    /// Creates the ifb, or finds the one that an earlier ADD has made.
    fn ifb(&mut self, request: &Request<'_>) -> Result<Link> {
        if let Some(link) = ifb::of(self.host, request, self.link.index)? {
            return self.adjust(link);
        }
        for name in ifb::names_for(request) {
            match self.host.create_ifb(&name, self.link.mtu, None) {
                Err(error) if error.is(Errno::EEXIST) => {}
                created => {
                    self.undo.push(move || Handle::current()?.delete_link_named(&name));
                    return created.context("adding link");
                }
            }
            // Somebody's: of the container's other interface, of an ADD that was killed, or of one at the same time.
            let found = ifb::find(self.host, &name)?.ok_or_else(|| taken().context("adding link"))?;
            let other = |(from, target): &(u32, u32)| *target == found.index && *from != self.link.index;
            if !ifb::redirections(self.host)?.iter().any(other) {
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

    /// One filter that leads to the ifb. A qdisc without filters is from an ADD or DEL that was killed, if there was an ifb.
    fn redirect(&mut self, ifb: &Link, had_ifb: bool) -> Result<()> {
        let (link, target) = (self.link.index, ifb.index);
        let is_own = |redirect: &Redirect| redirect.target == 0 && redirect.made_qdisc;
        let had_own = self.host.redirects(link)?.iter().any(is_own);
        self.remove_dead(link)?;
        let is_new = self.host.add_ingress(link).context("create ingress qdisc")?;
        if is_new {
            self.undo.push(move || Handle::current()?.delete_empty_ingress(link).context("failed to delete a qdisc"));
        }
        let made_qdisc = is_new || had_own || had_ifb && self.host.has_empty_ingress(link)?;
        if self.host.add_redirect(link, target, made_qdisc).context("add filter")? {
            self.undo.push(move || remove_filters(&mut Handle::current()?, link, target));
        }
        Ok(())
    }
}

/// What was at the root of a link before.
fn put_back(link: u32, old: &Root) -> Result<()> {
    let mut host = Handle::current()?;
    // A bucket is changed: it may have got a queue of another program meanwhile.
    if let (Root::Tbf(bucket), Root::Tbf(_)) = (old, host.root_qdisc(link)?) {
        return host.change_tbf(link, bucket);
    }
    host.delete_root(link)?;
    match old {
        Root::Tbf(bucket) => host.add_tbf(link, bucket),
        Root::Htb(hierarchy) => host.add_htb(link, hierarchy),
        Root::Default | Root::Foreign => Ok(()),
    }
}
