//! The parameters of one attachment, as a runtime hands them out (`RuntimeConf` of the reference library).

use serde_json::{Map, Value};

use crate::cni::environment::{validate_container_id, validate_ifname, validate_network_name};
use crate::error::{Error, Result};

/// A container's interface on a network, existing or to be.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Attachment {
    /// CNI_CONTAINERID.
    pub container_id: String,
    /// CNI_NETNS: an absolute path.
    pub netns: String,
    /// CNI_IFNAME.
    pub ifname: String,
    /// CNI_ARGS: keys and values in the given order.
    pub args: Vec<(String, String)>,
    /// Values for the capabilities that plugins declare; they reach those as `runtimeConfig`.
    pub capability_args: Map<String, Value>,
}

impl Attachment {
    /// Checks the names that plugins may rely on and that the result cache builds a path from.
    pub fn validate(&self, network: &str) -> Result<()> {
        validate_container_id(&self.container_id)?;
        validate_network_name(network)?;
        validate_ifname(&self.ifname)
    }

    /// The value of CNI_ARGS.
    pub fn args_text(&self) -> String {
        let pairs: Vec<String> = self.args.iter().map(|(key, value)| format!("{key}={value}")).collect();
        pairs.join(";")
    }
}

/// Splits CNI_ARGS as cnitool does: every pair has exactly one `=` with something on both sides, so a final `;` is an
/// error. Plugins (`cni::args`) are less strict about empty values.
pub fn parse_args(text: &str) -> Result<Vec<(String, String)>> {
    if text.is_empty() {
        return Ok(Vec::new());
    }
    text.split(';').map(parse_pair).collect()
}

fn parse_pair(pair: &str) -> Result<(String, String)> {
    match pair.split_once('=') {
        Some((key, value)) if !key.is_empty() && !value.is_empty() && !value.contains('=') => {
            Ok((key.to_string(), value.to_string()))
        }
        _ => Err(Error::internal(format!("invalid CNI_ARGS pair {pair:?}"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn args_are_pairs_without_empty_parts() {
        let args = parse_args("K=V;K2=V2").unwrap();
        assert_eq!(Attachment { args, ..Attachment::default() }.args_text(), "K=V;K2=V2");
        assert_eq!(parse_args("").unwrap(), []);
        for (text, pair) in [("K=V;", ""), ("K", "K"), ("K=", "K="), ("=V", "=V"), ("K=V=W", "K=V=W")] {
            assert_eq!(parse_args(text).unwrap_err().msg, format!("invalid CNI_ARGS pair {pair:?}"));
        }
    }

    #[test]
    fn names_are_checked_in_the_order_of_the_reference() {
        let mut attachment = Attachment::default();
        assert_eq!(attachment.validate("").unwrap_err().msg, "missing containerID");
        attachment.container_id = "c".to_string();
        assert_eq!(attachment.validate("../n").unwrap_err().details, "../n");
        assert_eq!(attachment.validate("n").unwrap_err().msg, "interface name is empty");
        attachment.ifname = "eth0".to_string();
        assert!(attachment.validate("n").is_ok());
    }
}
