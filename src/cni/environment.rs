//! The environment variables a plugin is called with, and the rules for names (`pkg/skel`, `pkg/utils` of the reference
//! library).

use crate::error::{Error, Result, code};

/// What a plugin is asked to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verb {
    /// Attach a container.
    Add,
    /// Verify an attachment.
    Check,
    /// Remove an attachment.
    Del,
    /// Remove what belongs to attachments that are no longer valid.
    Gc,
    /// Tell whether ADD could be served.
    Status,
    /// Tell the supported versions.
    Version,
}

impl Verb {
    /// The value of CNI_COMMAND.
    pub fn name(self) -> &'static str {
        match self {
            Verb::Add => "ADD",
            Verb::Check => "CHECK",
            Verb::Del => "DEL",
            Verb::Gc => "GC",
            Verb::Status => "STATUS",
            Verb::Version => "VERSION",
        }
    }

    /// The verb that CNI_COMMAND names; letter case counts.
    pub fn parse(name: &str) -> Option<Verb> {
        [Verb::Add, Verb::Check, Verb::Del, Verb::Gc, Verb::Status, Verb::Version]
            .into_iter()
            .find(|verb| verb.name() == name)
    }
}

/// The `CNI_` variables. Missing ones are empty.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Environment {
    /// CNI_COMMAND.
    pub command: String,
    /// CNI_CONTAINERID.
    pub container_id: String,
    /// CNI_NETNS.
    pub netns: String,
    /// CNI_IFNAME.
    pub ifname: String,
    /// CNI_ARGS.
    pub args: String,
    /// CNI_PATH.
    pub path: String,
}

impl Environment {
    /// Takes the variables from `lookup`.
    pub fn read(lookup: impl Fn(&str) -> String) -> Self {
        Environment {
            command: lookup("CNI_COMMAND"),
            container_id: lookup("CNI_CONTAINERID"),
            netns: lookup("CNI_NETNS"),
            ifname: lookup("CNI_IFNAME"),
            args: lookup("CNI_ARGS"),
            path: lookup("CNI_PATH"),
        }
    }

    /// Checks the variables that the verb requires, in the reference's order: a malformed one ends the check at once, the
    /// missing ones are named together.
    pub fn validate(&self) -> Result<()> {
        let verb = Verb::parse(&self.command);
        let attachment = matches!(verb, Some(Verb::Add | Verb::Check | Verb::Del));
        let netns = matches!(verb, Some(Verb::Add | Verb::Check));
        let path = verb.is_some_and(|verb| verb != Verb::Version);
        let mut missing = Vec::new();
        let mut require = |required: bool, name, value: &str| {
            if required && value.is_empty() {
                missing.push(name);
            }
            required && !value.is_empty()
        };
        require(true, "CNI_COMMAND", &self.command);
        if require(attachment, "CNI_CONTAINERID", &self.container_id) {
            validate_container_id(&self.container_id)?;
        }
        require(netns, "CNI_NETNS", &self.netns);
        if require(attachment, "CNI_IFNAME", &self.ifname) {
            validate_ifname(&self.ifname)?;
        }
        require(path, "CNI_PATH", &self.path);
        if missing.is_empty() {
            return Ok(());
        }
        Err(invalid(format!("required env variables [{}] missing", missing.join(","))))
    }
}

/// True when this value of CNI_NETNS_OVERRIDE allows the plugin's own namespace.
pub fn overrides_netns(value: &str) -> bool {
    value == "1" || value.eq_ignore_ascii_case("true")
}

/// A container id: a letter or digit, then letters, digits, `_`, `.`, `-`.
pub fn validate_container_id(id: &str) -> Result<()> {
    if id.is_empty() {
        return Err(Error::new(code::UNKNOWN_CONTAINER, "missing containerID"));
    }
    if is_name(id) { Ok(()) } else { Err(invalid("invalid characters in containerID").with_details(id)) }
}

/// A network name; the same characters as a container id.
pub fn validate_network_name(name: &str) -> Result<()> {
    if name.is_empty() {
        return Err(Error::new(code::INVALID_CONFIG, "missing network name"));
    }
    if is_name(name) {
        return Ok(());
    }
    Err(Error::new(code::INVALID_CONFIG, "invalid characters found in network name").with_details(name))
}

/// An interface name: at most 15 bytes, no `/`, `:` or white space, neither `.` nor `..`.
pub fn validate_ifname(name: &str) -> Result<()> {
    const LONGEST: usize = 15;
    if name.is_empty() {
        return Err(invalid("interface name is empty"));
    }
    if name.len() > LONGEST {
        let details = "interface name should be less than 16 characters";
        return Err(invalid("interface name is too long").with_details(details));
    }
    if name == "." || name == ".." {
        return Err(invalid("interface name is . or .."));
    }
    if name.chars().any(|letter| letter == '/' || letter == ':' || letter.is_whitespace()) {
        return Err(invalid("interface name contains / or : or whitespace characters"));
    }
    Ok(())
}

fn is_name(text: &str) -> bool {
    let mut bytes = text.bytes();
    bytes.next().is_some_and(|first| first.is_ascii_alphanumeric())
        && bytes.all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.' | b'-'))
}

fn invalid(msg: impl Into<String>) -> Error {
    Error::new(code::INVALID_ENVIRONMENT, msg)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn environment(pairs: &[(&str, &str)]) -> Environment {
        Environment::read(|name| pairs.iter().find(|(key, _)| *key == name).map_or("", |(_, value)| value).to_string())
    }

    #[test]
    fn missing_variables_are_named_together_and_in_order() {
        let error = environment(&[("CNI_COMMAND", "ADD"), ("CNI_IFNAME", "eth0")]).validate().unwrap_err();
        assert_eq!(
            (error.code, error.msg.as_str()),
            (4, "required env variables [CNI_CONTAINERID,CNI_NETNS,CNI_PATH] missing")
        );
        assert!(environment(&[("CNI_COMMAND", "VERSION")]).validate().is_ok());
        assert!(environment(&[("CNI_COMMAND", "GC"), ("CNI_PATH", "/x")]).validate().is_ok());
    }

    #[test]
    fn a_malformed_value_ends_the_check_at_once() {
        let error = environment(&[("CNI_COMMAND", "DEL"), ("CNI_IFNAME", "a b")]).validate().unwrap_err();
        assert_eq!(error.msg, "interface name contains / or : or whitespace characters");
    }

    #[test]
    fn names() {
        for good in ["a", "0", "a_b.c-d"] {
            assert!(validate_network_name(good).is_ok(), "{good}");
        }
        for bad in ["-a", "a/b", "a b", "é", ".."] {
            assert_eq!(validate_network_name(bad).unwrap_err().details, bad);
            assert_eq!(validate_container_id(bad).unwrap_err().code, 4);
        }
        assert_eq!(validate_container_id("").unwrap_err().code, 3);
        assert!(validate_ifname("123456789012345").is_ok());
        assert_eq!(validate_ifname("1234567890123456").unwrap_err().msg, "interface name is too long");
        assert!(validate_ifname("..").is_err());
    }
}
