//! What a configuration wants said to the server: `provide`, `request`, CNI_ARGS, and the client id.

use crate::cni::config::Object;
use crate::dhcp::packet::Options;
use crate::error::Result;

/// What is the same in every packet of one client. The daemon makes one for each attachment and gives it to
/// [`crate::dhcp::client::Client`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// `chaddr`.
    pub hardware: [u8; 6],
    /// Ask servers to broadcast their answers (`-broadcast`).
    pub broadcast: bool,
    /// Options of every DISCOVER and REQUEST: 55, 57, 61 and what the configuration provides.
    pub options: Options,
}

impl Settings {
    /// Decodes `provide` and `request` of the `ipam` object. `id` is from [`client_id`].
    pub fn decode(
        _ipam: &Object<'_>,
        _cni_args: &str,
        _id: &[u8],
        _hardware: [u8; 6],
        _broadcast: bool,
    ) -> Result<Settings> {
        todo!()
    }
}

/// The reference's key of its lease table, and (after a zero byte) the client id on the wire: at most 254 bytes of
/// `CONTAINER/NETWORK/INTERFACE`. Bytes, because the cut may fall into a letter.
pub fn client_id(_container: &str, _network: &str, _ifname: &str) -> Vec<u8> {
    todo!()
}
