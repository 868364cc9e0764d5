//! Taking addresses back from attachments that are over: one that is asked for, all when a range is exhausted, and what GC
//! says. When an attachment is over, `record` decides.

use std::fs;
use std::net::IpAddr;

use super::{Attachment, Found, Store};
use crate::cni::environment::{validate_container_id, validate_ifname};
use crate::error::{Failures, Result};
use crate::ipam::record::{Asking, Judge, Record, Suspect};
use crate::ipam::table::{Slot, hash};
use crate::sys::file;

/// A reservation that can be taken back.
pub(super) struct Doomed {
    pub(super) address: IpAddr,
    content: Vec<u8>,
}

impl Store {
    /// Frees an address if whose it is is over; `attachment` wants it, and may have had it before.
    pub fn reclaim_one(&mut self, address: IpAddr, attachment: &Attachment) -> Result<bool> {
        let Some(Found { content, file }) = self.read(address) else { return Ok(false) };
        let words = self.index.words(&content, address);
        let record = words.and_then(|words| Record::read(words, &content, address, file));
        let own = content == attachment.content();
        let asking = if own { Asking::Itself(attachment.sandbox) } else { Asking::Other };
        let doomed = Doomed { address, content };
        if !names_attachment(&doomed.content) || !record.is_some_and(|record| self.is_over(&record, asking, &doomed)) {
            return Ok(false);
        }
        self.remove(address, &doomed.content)?;
        Ok(true)
    }

    /// Frees all addresses whose attachments are over, except those of `attachment`; past failures. True when there is
    /// one at least.
    pub fn reclaim(&mut self, attachment: &Attachment) -> Result<bool> {
        let mut doomed = self.doomed()?;
        doomed.retain(|one| one.content != attachment.content());
        let some = !doomed.is_empty();
        self.remove_all(doomed)?;
        Ok(some)
    }

    /// The addresses that [`Store::reclaim`] would free.
    pub fn reclaimable(&mut self) -> Result<Vec<IpAddr>> {
        Ok(self.doomed()?.into_iter().map(|one| one.address).collect())
    }

    /// Frees the addresses of all attachments but these; `None`: of those that are over. What names no attachment stays.
    /// Traces of crashes go, too.
    pub fn collect(&mut self, valid: Option<&[Attachment]>) -> Result<()> {
        let doomed = match valid {
            Some(valid) => self.all_but(valid)?,
            None => self.doomed()?,
        };
        let mut failures = Failures::default();
        failures.note(self.remove_all(doomed));
        for address in self.addresses()? {
            if fs::symlink_metadata(self.file_of(address)).is_ok_and(|found| self.is_free_file(&found)) {
                failures.note(self.remove(address, &[]));
            }
        }
        failures.finish()
    }

    fn all_but(&mut self, valid: &[Attachment]) -> Result<Vec<Doomed>> {
        let valid: Vec<u64> = valid.iter().map(|one| hash(one.content())).collect();
        let mut doomed = Vec::new();
        self.scan_each(&mut |address, content| {
            if names_attachment(content) && !valid.contains(&hash(content)) {
                doomed.push(Doomed { address, content: content.to_vec() });
            }
        })?;
        Ok(doomed)
    }

    /// The index knows the records; only what these say is over is opened, to see whether it is still that file. Without a
    /// lock there is no index, so there are no records.
    fn doomed(&mut self) -> Result<Vec<Doomed>> {
        if !self.index.is_trusted() {
            self.scan_each(&mut |_, _| {})?;
        }
        let mut slots = self.index.all();
        let mut judge = self.judge();
        slots.retain(|slot| judge.may_be_over(&Record::decode(slot.words), Asking::Other));
        let mut doomed: Vec<(Record, Doomed)> = slots.into_iter().filter_map(|slot| self.read_doomed(slot)).collect();
        doomed.retain(|(record, one)| judge.interface_is_gone(record, Asking::Other, self.suspect(one)));
        for _ in 1..LOOKS {
            let mut judge = self.judge();
            doomed.retain(|(record, one)| judge.is_over(record, Asking::Other, self.suspect(one)));
        }
        Ok(doomed.into_iter().map(|(_, one)| one).collect())
    }

    fn read_doomed(&self, slot: Slot) -> Option<(Record, Doomed)> {
        let Found { content, file } = self.read(slot.address)?;
        let record = Record::read(slot.words, &content, slot.address, file)?;
        let same = hash(&content) == slot.hash && names_attachment(&content);
        same.then_some((record, Doomed { address: slot.address, content }))
    }

    /// Frees an address if the attachment that has it is over, whoever asks.
    pub fn reclaim_of_others(&mut self, address: IpAddr) -> Result<bool> {
        self.reclaim_one(address, &Attachment::new("", ""))
    }

    fn is_over(&self, record: &Record, asking: Asking, doomed: &Doomed) -> bool {
        (0..LOOKS).all(|_| self.judge().is_over(record, asking, self.suspect(doomed)))
    }

    fn suspect<'a>(&'a self, doomed: &'a Doomed) -> Suspect<'a> {
        Suspect::new(self.network(), &doomed.content, doomed.address)
    }

    fn judge(&self) -> Judge {
        Judge::new(self.host, file::is_local(&self.directory))
    }

    fn remove_all(&mut self, doomed: Vec<Doomed>) -> Result<()> {
        let mut failures = Failures::default();
        for Doomed { address, content } in doomed {
            // Without a lock another attachment may have got the address meanwhile.
            if self.lock.is_some() || self.read(address).is_some_and(|found| found.content == content) {
                failures.note(self.remove(address, &content));
            }
        }
        failures.finish()
    }
}

/// How often it must be seen that a namespace is gone.
pub(super) const LOOKS: usize = 2;

/// True for `<id> CR LF <ifname>`, which nobody but a plugin writes.
fn names_attachment(content: &[u8]) -> bool {
    let names = std::str::from_utf8(content).ok().and_then(|text| text.split_once("\r\n"));
    names.is_some_and(|(id, ifname)| validate_container_id(id).is_ok() && validate_ifname(ifname).is_ok())
}
