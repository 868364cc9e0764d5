//! resolv.conf(5) as host-local's `resolvConf` reads it (`dns.go` of the reference).

use std::fs;
use std::path::Path;

use crate::cni::result::Dns;
use crate::error::{Context, Error, Result};
use crate::sys::file;

/// Bytes; more than any such file has.
const LARGEST: u64 = 1 << 20;

/// Reads a file. The errors are the reference's, which however waits for ever where a FIFO or a
/// device is there.
pub fn read(path: &str) -> Result<Dns> {
    let found = fs::metadata(path).with_context(|| format!("open {path}"))?;
    let bytes = match found.is_dir() || path == "/dev/null" {
        true => fs::read(path).with_context(|| format!("read {path}"))?,
        false => file::read_bounded(Path::new(path), LARGEST)?,
    };
    parse(&String::from_utf8_lossy(&bytes))
}

/// `nameserver` takes one value, `domain` the last one given, `search` and `options` collect all values of all lines.
/// Whole-line comments start with `#` or `;`.
fn parse(text: &str) -> Result<Dns> {
    let mut dns = Dns::default();
    for line in text.split('\n') {
        if line.len() >= LONGEST_LINE {
            return Err(Error::internal("bufio.Scanner: token too long"));
        }
        let mut fields = line.split_whitespace().map(str::to_string);
        match (fields.next().as_deref(), fields.next()) {
            (Some("nameserver"), Some(server)) => dns.nameservers.push(server),
            (Some("domain"), Some(domain)) => dns.domain = domain,
            (Some("search"), Some(first)) => dns.search.extend([first].into_iter().chain(fields)),
            (Some("options"), Some(first)) => dns.options.extend([first].into_iter().chain(fields)),
            _ => {}
        }
    }
    Ok(dns)
}

/// What does not fit into the reference's buffer together with its newline.
const LONGEST_LINE: usize = 64 * 1024;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_four_keywords() {
        let text = "# c\n;nameserver 9\n nameserver 1.1.1.1 junk\r\nnameserver\nnameserver 2.2.2.2 # not a comment\n\
                    domain a\ndomain b c\nsearch x y\nsearch z\noptions ndots:5 # kept\nsortlist q\nnameserver";
        let dns = parse(text).unwrap();
        assert_eq!(dns.nameservers, ["1.1.1.1", "2.2.2.2"]);
        assert_eq!(dns.domain, "b");
        assert_eq!(dns.search, ["x", "y", "z"]);
        assert_eq!(dns.options, ["ndots:5", "#", "kept"]);
    }

    #[test]
    fn errors_are_the_references() {
        assert_eq!(read("/nope").unwrap_err().msg, "open /nope: no such file or directory");
        assert_eq!(read("/").unwrap_err().msg, "read /: is a directory");
        let line = |length| "x".repeat(length) + "\n";
        assert!(parse(&line(65535)).is_ok());
        assert_eq!(parse(&line(65536)).unwrap_err().msg, "bufio.Scanner: token too long");
    }
}
