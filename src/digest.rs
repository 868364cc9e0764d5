//! SHA-512, which the reference derives names from: chains, devices, container ids of cnitool.

use std::fmt::Write;

/// Bytes of a SHA-512 hash.
const LENGTH: usize = 64;

/// The lower-case hexadecimal SHA-512 (128 digits) of the parts put together.
pub fn sha512_hex(parts: &[&str]) -> String {
    let mut hash = hmac_sha512::Hash::new();
    for part in parts {
        hash.update(part);
    }
    let mut text = String::with_capacity(2 * LENGTH);
    for byte in hash.finalize() {
        let _ = write!(text, "{byte:02x}"); // Writing to a String cannot fail.
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_put_together_without_separator() {
        // The reference's own vector for the network "test" and the container "1234".
        assert!(sha512_hex(&["test", "1234"]).starts_with("2bbe0c48b91a7d1b8a6753a8"));
        assert_eq!(sha512_hex(&["te", "st1234"]), sha512_hex(&["test1234"]));
    }
}
