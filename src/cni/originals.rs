//! Names the Go releases that the plugins replace. Tools read a version on line 1 of the about
//! text: nerdctl wants `firewall` 1.7.1 for isolated networks, Nomad records the version of every
//! plugin.

/// Release of containernetworking/plugins. Raise it only when `tests/table` passes against that
/// release: `about::newer_the_release_is_the_one_that_the_table_test_asks` compares the two.
const PLUGINS: &str = "v1.9.1";

/// Release of flannel-io/cni-plugin, as its build shortens the tag v1.9.1-flannel1.
const FLANNEL: &str = "v1.9.1";
/// The commit of that tag, as its build shortens it.
const FLANNEL_COMMIT: &str = "4c87e5d4";

/// Line 1 of a plugin of containernetworking/plugins (`pkg/utils/buildversion`).
pub fn of_plugin(name: &str) -> String {
    format!("CNI {name} plugin {PLUGINS}")
}

/// Line 1 of flannel-io/cni-plugin (`flannel.go`, `main`).
pub fn of_flannel() -> String {
    format!("CNI Plugin flannel version {FLANNEL} (linux/{}) commit {FLANNEL_COMMIT}", go_architecture())
}

/// The machine's architecture in Go's word for it.
fn go_architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "x86" => "386",
        "aarch64" => "arm64",
        "loongarch64" => "loong64",
        "powerpc64" if cfg!(target_endian = "little") => "ppc64le",
        "powerpc64" => "ppc64",
        "mips64" if cfg!(target_endian = "little") => "mips64le",
        other => other,
    }
}
