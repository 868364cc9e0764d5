//! Real DHCP servers on the lab's host, serving a bridge.

use serde_json::json;

use super::{Background, Call, Lab, wait_for};

/// Where dnsmasq keeps its leases.
pub const DNSMASQ_LEASES: &str = "/run/dnsmasq.leases";
/// Where kea keeps its own.
pub const KEA_LEASES: &str = "/run/kea.csv";

/// A bridge with 10.1.2.1/24 for a server to listen on.
pub fn server_bridge(lab: &Lab) {
    for words in ["add br0 type bridge", "set br0 address 02:00:00:00:00:fe", "set br0 up"] {
        lab.ok(&format!("ip link {words}"));
    }
    lab.ok("ip address add 10.1.2.1/24 dev br0");
}

/// dnsmasq on `br0` with 10.1.2.50 to 10.1.2.99 for two minutes each (it knows nothing shorter), and these options besides.
/// A later `--dhcp-range` is one more range.
pub fn dnsmasq(lab: &Lab, options: &[&str]) -> Background {
    dnsmasq_with_range(lab, "10.1.2.50,10.1.2.99,255.255.255.0,2m", options)
}

/// dnsmasq with another range.
pub fn dnsmasq_with_range(lab: &Lab, range: &str, options: &[&str]) -> Background {
    let (range, leases) = (format!("--dhcp-range={range}"), format!("--dhcp-leasefile={DNSMASQ_LEASES}"));
    let own = ["--no-daemon", "--conf-file=/dev/null", "--port=0", "--interface=br0", "--bind-interfaces", "--no-ping"];
    let own = own.iter().copied().chain(["--user=root", "--log-dhcp", "--log-facility=/run/dnsmasq.log"]);
    let words: Vec<_> = own.chain([range.as_str(), leases.as_str()]).chain(options.iter().copied()).collect();
    let server = Call::new(lab, "dnsmasq").args_list(&words).spawn();
    listens(lab);
    server
}

/// kea on `br0` with the same range and leases of so many seconds, through raw sockets (it cannot do without them where
/// there is no relay).
pub fn kea(lab: &Lab, seconds: u32) -> Background {
    let config = json!({"Dhcp4": {
        "interfaces-config": {"interfaces": ["br0"], "dhcp-socket-type": "raw"},
        "lease-database": {"type": "memfile", "persist": true, "name": KEA_LEASES, "lfc-interval": 0},
        "valid-lifetime": seconds,
        "authoritative": true,
        "subnet4": [{"subnet": "10.1.2.0/24", "pools": [{"pool": "10.1.2.50 - 10.1.2.99"}],
            "option-data": [{"name": "routers", "data": "10.1.2.1"}]}]}});
    lab.write("/run/kea.json", config.to_string());
    lab.ok("mkdir -p /run/kea /run/lock/kea /var/lib/kea");
    let server =
        Call::new(lab, "kea-dhcp4").args_list(&["-c", "/run/kea.json"]).env("KEA_LOCKFILE_DIR", "none").spawn();
    listens(lab);
    server
}

fn listens(lab: &Lab) {
    wait_for("a DHCP server listens", || !lab.ok("ss -Hlun sport = :67").is_empty());
}
