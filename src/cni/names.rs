//! Recognises plugins under the names that images give them.

/// Prefixes that images put in front of a plugin's file name and of the `type` in their
/// configurations:
///
/// - `buildkit-cni-`: BuildKit's image (moby/buildkit `Dockerfile`,
///   `util/network/cniprovider/bridge.go`) and nerdctl's full archive.
/// - `cnv-`: OpenShift Virtualization, for `bridge` and `tuning`
///   (kubevirt/cluster-network-addons-operator `data/linux-bridge`).
const PREFIXES: [&str; 2] = ["buildkit-cni-", "cnv-"];

/// Strips a known prefix from a file name or a `type`. Every lookup and comparison of plugins uses
/// the result; only the file in CNI_PATH is looked for under the name as written.
pub fn own_name(written: &str) -> &str {
    PREFIXES.iter().find_map(|prefix| written.strip_prefix(prefix)).unwrap_or(written)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_known_prefix_is_no_part_of_a_plugins_name() {
        for (written, own) in [
            ("bridge", "bridge"),
            ("buildkit-cni-bridge", "bridge"),
            ("buildkit-cni-host-local", "host-local"),
            ("cnv-tuning", "tuning"),
            ("buildkit-cni-", ""),
            ("buildkit-cni-buildkit-cni-bridge", "buildkit-cni-bridge"),
            ("other-bridge", "other-bridge"),
            ("", ""),
        ] {
            assert_eq!(own_name(written), own, "{written}");
        }
    }
}
