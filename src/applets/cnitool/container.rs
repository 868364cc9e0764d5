//! Which container a namespace's path stands for.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use crate::cni::Host;
use crate::digest::sha512_hex;
use crate::error::{Context, Result};

/// Where iproute2 names namespaces.
const NAMED: &str = "/run/netns";

/// The namespace's path stands for the container: the first ten bytes of its SHA-512 are the id.
pub(super) fn id(netns: &str) -> String {
    const DIGITS: usize = 20;
    let digits: String = sha512_hex(&[netns]).chars().take(DIGITS).collect();
    format!("cnitool-{digits}")
}

/// Makes a path absolute and removes `.`, `..` and double slashes without looking at links, as Go's `filepath.Abs` does:
/// the container id is made from the outcome.
pub(super) fn absolute(path: &str, host: &Host) -> Result<String> {
    let whole = match path.strip_prefix('/') {
        Some(_) => path.to_string(),
        None => format!("{}/{path}", working_directory(host)?),
    };
    let mut parts = Vec::new();
    for part in whole.split('/') {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()),
            other => parts.push(other),
        }
    }
    Ok(format!("/{}", parts.join("/")))
}

/// A warning about the namespace's path as it stands on the command line: a bare name that is in no
/// working directory but among those of iproute2 (`ip netns`).
pub(super) fn doubt(word: &str) -> Option<String> {
    let named = Path::new(NAMED).join(word);
    let is_meant = !word.is_empty() && !word.contains('/') && !Path::new(word).exists() && named.exists();
    is_meant.then(|| format!("there is no {word:?} in the working directory; did you mean {}?", named.display()))
}

/// `$PWD` where it is right, because it keeps the links by which the user came; the kernel's answer otherwise.
fn working_directory(host: &Host) -> Result<String> {
    let identity = |path: &str| fs::metadata(path).map(|found| (found.dev(), found.ino())).ok();
    let named = host.variable("PWD");
    if named.starts_with('/') && identity(&named).is_some() && identity(&named) == identity(".") {
        return Ok(named);
    }
    let directory = std::env::current_dir().context("failed to get the working directory")?;
    Ok(directory.to_string_lossy().into_owned())
}

#[cfg(test)]
mod tests {
    use std::ffi::OsString;

    use super::*;

    #[test]
    fn the_namespace_is_cleaned_but_links_stay() {
        let host = |directory: &str| Host {
            environment: vec![(OsString::from("PWD"), OsString::from(directory))],
            plugins: |_| None,
        };
        for (path, clean) in
            [("/a//b/./c/", "/a/b/c"), ("/a/../../b", "/b"), ("/proc/self/ns/net", "/proc/self/ns/net"), ("/", "/")]
        {
            assert_eq!(absolute(path, &host("")).unwrap(), clean);
        }
        let own = std::env::current_dir().unwrap();
        assert_eq!(absolute("x", &host("/nonexistent")).unwrap(), own.join("x").to_str().unwrap());
        assert_eq!(absolute("x", &host("/proc/self/cwd")).unwrap(), "/proc/self/cwd/x");
    }
}
