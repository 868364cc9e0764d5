//! The names of plugins: their own, and those under which images ship them beside other programs.

/// What images put in front of a plugin's name, in its file name and in the `type` of their configurations:
///
/// - `buildkit-cni-`: BuildKit's image (moby/buildkit `Dockerfile`, `util/network/cniprovider/bridge.go`) and
///   nerdctl's full archive.
/// - `cnv-`: OpenShift Virtualization, for `bridge` and `tuning` (kubevirt/cluster-network-addons-operator
///   `data/linux-bridge`).
const PREFIXES: [&str; 2] = ["buildkit-cni-", "cnv-"];

/// The plugin's own name in a file name or a `type`. Plugins are looked up and compared by this name; the file in
/// CNI_PATH has the name as written.
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
