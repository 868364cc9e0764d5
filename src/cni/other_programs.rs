//! Lists the keys and words that other programs write into configurations for themselves. Plugins
//! ignore them.

/// A plugin (empty: the list itself) and a key at the top of its configuration, matched exactly.
const KEYS: [(&str, &str); 4] = [
    // containerd/nerdctl pkg/netutil/netutil.go: the id and the labels of the network.
    ("", "nerdctlID"),
    ("", "nerdctlLabels"),
    // Azure/azure-container-networking cni/azure-windows-swift.conflist.
    ("", "adapterName"),
    // kubenet, and kubernetes/minikube pkg/minikube/cni/bridge.go. No release of bridge has read
    // it.
    ("bridge", "addIf"),
];

/// Words that a plugin replaces before it calls its address management plugin.
const PLACEHOLDERS: [&str; 2] = [
    // projectcalico/calico cni-plugin/pkg/k8s: the subnets of the node.
    "usePodCidr",
    "usePodCidrIPv6",
];

/// True for a key that another program writes for itself at the top of this plugin's configuration,
/// or of a list if `plugin` is empty.
pub fn have_key(plugin: &str, key: &str) -> bool {
    KEYS.contains(&(plugin, key))
}

/// True for a word that another program's plugin replaces.
pub fn replace(value: &str) -> bool {
    PLACEHOLDERS.contains(&value)
}
