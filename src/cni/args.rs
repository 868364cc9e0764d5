//! CNI_ARGS as plugins read it (`pkg/types/args.go`, `LoadArgs`): `KEY=VALUE;KEY=VALUE`.

use crate::error::{Error, Result};

/// The values of the keys a plugin knows.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Args<'a>(Vec<(&'a str, &'a str)>);

impl<'a> Args<'a> {
    /// Splits `text`. Keys are case-sensitive; one that is not in `known` is an error unless `IgnoreUnknown` is true.
    pub fn parse(text: &'a str, known: &[&str]) -> Result<Self> {
        let mut pairs = Vec::new();
        let mut unknown = Vec::new();
        let mut ignore_unknown = false;
        for pair in text.split(';').filter(|_| !text.is_empty()) {
            match split(pair)? {
                ("IgnoreUnknown", value) => ignore_unknown = parse_boolean(pair, value)?,
                (key, value) if known.contains(&key) => pairs.push((key, value)),
                _ => unknown.push(format!("{pair:?}")),
            }
        }
        if unknown.is_empty() || ignore_unknown {
            return Ok(Args(pairs));
        }
        Err(Error::internal(format!("ARGS: unknown args [{}]", unknown.join(" "))))
    }

    /// The last value given for a key.
    pub fn get(&self, key: &str) -> Option<&'a str> {
        self.0.iter().rev().find(|(name, _)| *name == key).map(|(_, value)| *value)
    }
}

/// The error for a value that a plugin cannot read.
pub fn bad_value(key: &str, value: &str, cause: &Error) -> Error {
    Error::internal(format!("ARGS: error parsing value of pair {:?}: {cause}", format!("{key}={value}")))
}

fn split(pair: &str) -> Result<(&str, &str)> {
    let split = pair.split_once('=').filter(|(_, value)| !value.contains('='));
    split.ok_or_else(|| Error::internal(format!("ARGS: invalid pair {pair:?}")))
}

fn parse_boolean(pair: &str, value: &str) -> Result<bool> {
    match value.to_ascii_lowercase().as_str() {
        "1" | "true" => Ok(true),
        "0" | "false" => Ok(false),
        _ => Err(Error::internal(format!(
            "ARGS: error parsing value of pair {pair:?}: boolean unmarshal error: invalid input {value}"
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_known_keys_and_the_last_wins() {
        let args = Args::parse("IP=1;MAC=;IP=2", &["IP", "MAC"]).unwrap();
        assert_eq!((args.get("IP"), args.get("MAC"), args.get("X")), (Some("2"), Some(""), None));
        assert_eq!(Args::parse("", &[]).unwrap(), Args::default());
    }

    #[test]
    fn refuses_what_the_reference_refuses() {
        let text = |args| Args::parse(args, &["IP"]).unwrap_err().msg.clone();
        assert_eq!(text("IP=1;"), "ARGS: invalid pair \"\"");
        assert_eq!(text("IP=1=2"), "ARGS: invalid pair \"IP=1=2\"");
        assert_eq!(text("ip=1;A=B"), "ARGS: unknown args [\"ip=1\" \"A=B\"]");
        assert_eq!(
            text("IgnoreUnknown=yes"),
            "ARGS: error parsing value of pair \"IgnoreUnknown=yes\": boolean unmarshal error: invalid input yes"
        );
        assert!(Args::parse("A=B;IgnoreUnknown=TRUE", &[]).is_ok());
    }
}
