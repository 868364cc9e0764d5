//! How an ADD masquerades: what the configuration and the administrator say about it.

use ipnet::IpNet;

use super::{Added, Backend, Masquerade, probe};
use crate::error::{Error, Result, code};
use crate::firewall::Session;
use crate::firewall::flavour::{Flavour, Preference};

/// What bears on the choice of a place for the rules.
#[derive(Debug, Clone)]
pub struct Manner {
    backend: Option<Backend>,
    flavour: Option<Flavour>,
    path: String,
}

impl Manner {
    /// `backend` is the key `ipMasqBackend` if there is one, `flavour` the variable CNI_BOX_IPTABLES, `path` is PATH.
    pub fn parse(backend: Option<&str>, flavour: &str, path: String) -> Result<Self> {
        let flavour = Flavour::forced(flavour)?;
        Ok(Manner { backend: backend.map(Backend::parse).transpose()?, flavour, path })
    }

    /// See [`Masquerade::add`].
    pub fn add(&self, session: &mut Session, whose: &Masquerade<'_>, addresses: &[IpNet]) -> Result<Added> {
        whose.add(session, addresses, self.backend, &self.preference())
    }

    /// STATUS: fails if the kernel would not take the rules.
    pub fn probe(&self, session: &mut Session) -> Result<()> {
        let probed = probe(session, self.backend, &self.preference());
        probed.map_err(|error| Error::new(code::NOT_AVAILABLE, error.to_string()))
    }

    fn preference(&self) -> Preference<'_> {
        Preference { forced: self.flavour, path: &self.path }
    }
}
