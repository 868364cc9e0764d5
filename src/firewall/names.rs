//! Names that tie kernel objects to an attachment, as the reference plugins make them (`pkg/utils/utils.go`).

use std::fmt::Write;

use crate::digest::sha512_hex;

/// Longest text of a `comment` match (`XT_MAX_COMMENT_LEN` with its NUL).
const COMMENT_LENGTH: usize = 255;

/// `prefix` and the lower-case hexadecimal SHA-512 of `network` directly followed by `container`, cut to `length` bytes
/// in all.
pub fn hashed(prefix: &str, network: &str, container: &str, length: usize) -> String {
    let mut name = prefix.to_string() + &sha512_hex(&[network, container]);
    name.truncate(length);
    name
}

/// `name: "NETWORK" id: "CONTAINER"`, both quoted as Go's `%q` does. A text too long for the kernel ends in `...`.
pub(super) fn comment(network: &str, container: &str) -> String {
    let mut text = comment_start(network) + &quoted(container);
    if text.len() > COMMENT_LENGTH {
        text.truncate(text.floor_char_boundary(COMMENT_LENGTH - 3));
        text.push_str("...");
    }
    text
}

/// What the comments of all containers in a network start with.
pub(super) fn comment_start(network: &str) -> String {
    format!("name: {} id: ", quoted(network))
}

/// Go's `strconv.Quote`.
fn quoted(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    out.push('"');
    text.chars().for_each(|letter| push_quoted(&mut out, letter));
    out.push('"');
    out
}

fn push_quoted(out: &mut String, letter: char) {
    let short = match letter {
        '"' => '"',
        '\\' => '\\',
        '\x07' => 'a',
        '\x08' => 'b',
        '\x0c' => 'f',
        '\n' => 'n',
        '\r' => 'r',
        '\t' => 't',
        '\x0b' => 'v',
        _ if !letter.is_control() => return out.push(letter),
        _ => {
            let _ = match u32::from(letter) {
                code @ ..0x80 => write!(out, "\\x{code:02x}"),
                code => write!(out, "\\u{code:04x}"),
            };
            return;
        }
    };
    out.extend(['\\', short]);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_of_the_reference() {
        assert_eq!(hashed("CNI-", "mynet", "cid1", 28), "CNI-a631aa8e1549a3b129110fd2");
        assert_eq!(hashed("CNI-", "test", "1234", 28), "CNI-2bbe0c48b91a7d1b8a6753a8");
        assert_eq!(hashed("CNI-PREFIX-", "test", "1234", 28), "CNI-PREFIX-2bbe0c48b91a7d1b8");
        let long = hashed("CNI-", "testalongnamethatdoesnotmakesense", "1234", 28);
        assert_eq!(long, "CNI-374f33fe84ab0ed84dcdebe3");
        assert_eq!(hashed("CNI-DN-", "mynet", "abc123", 28), "CNI-DN-70a29d9dc18bc4d652ea5");
        assert_eq!(hashed("bwp", "mynet", "abc123", 15), "bwp70a29d9dc18b");
    }

    #[test]
    fn comments_are_quoted_as_go_does() {
        assert_eq!(comment("mynet", "cid1"), r#"name: "mynet" id: "cid1""#);
        assert_eq!(quoted("a\"\\\n\x01\u{85}ü"), r#""a\"\\\n\x01\u0085ü""#);
    }

    #[test]
    fn a_long_comment_still_fits() {
        let text = comment("mynet", &"ü".repeat(200));
        assert!(text.len() <= COMMENT_LENGTH && text.ends_with("..."), "{text}");
    }
}
