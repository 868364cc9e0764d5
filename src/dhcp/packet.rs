//! Options.

/// DHCP options.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Options(Vec<u8>);

/// A DHCP message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Packet {
    /// Options.
    pub options: Options,
}
