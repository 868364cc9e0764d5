//! What people type today, word for word (`walkthroughs.md`). The workload is `ip netns exec` instead of a container;
//! `brctl`, which Debian no longer installs, is `bridge link`.

use serde_json::{Value, json};

use crate::lab::{Call, Lab, wait_for, without_random_names};

pub const REDISNET: &str = r#"{
    "cniVersion": "0.4.0",
    "name": "redisnet",
    "type": "bridge",
    "bridge": "cni0",
    "isDefaultGateway": true,
    "forceAddress": false,
    "ipMasq": true,
    "hairpinMode": true,
    "ipam": {
        "type": "host-local",
        "subnet": "10.88.0.0/16"
    }
}
"#;

/// A shell in which the walk-through's `export CNI_PATH=/opt/cni/bin` was typed and the plugins are on PATH.
fn typed(lab: &Lab, commands: &str) -> crate::lab::Outcome {
    let path = "/usr/sbin:/usr/bin:/sbin:/bin:/opt/cni/bin";
    Call::new(lab, "sh").args_list(&["-ec", commands]).env("CNI_PATH", "/opt/cni/bin").env("PATH", path).run()
}

#[test]
fn w1_a_redis_container_by_hand() {
    let lab = Lab::new();
    lab.write("/etc/cni/net.d/redisnet.conf", REDISNET);
    let before = lab.snapshot();
    typed(&lab, "ip netns add redisnet").success();
    let result = typed(&lab, "cnitool add redisnet /var/run/netns/redisnet").result();
    assert_eq!(result["cniVersion"], "0.4.0");
    assert_eq!(
        result["ips"],
        json!([{"version": "4", "interface": 2, "address": "10.88.0.2/16", "gateway": "10.88.0.1"}])
    );
    typed(&lab, "cnitool check redisnet /var/run/netns/redisnet").silent();
    let addresses = typed(&lab, "ip -n redisnet addr").success().stdout;
    assert!(addresses.contains("inet 10.88.0.2/16") && addresses.contains("eth0"), "{addresses}");
    assert!(addresses.contains("state UP"), "{addresses}");
    typed(&lab, "ping -c 1 -W 2 10.88.0.2").success();
    typed(&lab, "ip netns exec redisnet ping -c 1 -W 2 10.88.0.1").success();
    typed(&lab, "cnitool del redisnet /var/run/netns/redisnet").silent();
    typed(&lab, "ip netns del redisnet").success();
    typed(&lab, "ip link del cni0").success();
    before.assert_same(&lab.snapshot());
}

#[test]
fn w1_removing_the_state_by_hand_breaks_nothing_afterwards() {
    let lab = Lab::new();
    lab.write("/etc/cni/net.d/redisnet.conf", REDISNET);
    typed(&lab, "ip netns add redisnet; cnitool add redisnet /var/run/netns/redisnet").success();
    typed(&lab, "rm -rf /var/lib/cni/networks/* /var/lib/cni/results/*").success();
    typed(&lab, "cnitool del redisnet /var/run/netns/redisnet").silent();
    assert_eq!((lab.veths().len(), lab.rules().len()), (0, 0));
    typed(&lab, "rm -rf /var/lib/cni/networks/* /var/lib/cni/results/*").success();
    typed(&lab, "cnitool del redisnet /var/run/netns/redisnet").silent();
    let result = typed(&lab, "cnitool add redisnet /var/run/netns/redisnet").result();
    assert_eq!(result["ips"][0]["address"], "10.88.0.2/16");
    typed(&lab, "cnitool check redisnet /var/run/netns/redisnet").silent();
    typed(&lab, "ip netns del redisnet; rm -rf /var/lib/cni/networks/* /var/lib/cni/results/*").success();
    typed(&lab, "ip netns add redisnet; cnitool add redisnet /var/run/netns/redisnet").success();
    typed(&lab, "cnitool del redisnet /var/run/netns/redisnet").silent();
    assert_eq!((lab.rules().len(), lab.reserved("redisnet").len()), (0, 0));
    // The kernel takes its time over the first namespace, with its end of the first pair.
    wait_for("no pair is left", || lab.veths().is_empty());
}

#[test]
fn w1_cnitool_tells_how_it_is_used_and_plugins_their_versions() {
    let lab = Lab::new();
    let outcome = typed(&lab, "cnitool 2>&1 || true").success();
    for verb in ["add", "check", "del"] {
        let line = outcome.stdout.lines().any(|line| line.trim_start().contains(verb));
        assert!(line, "no line for {verb}: {outcome:#?}");
    }
    let about = typed(&lab, "/opt/cni/bin/bridge --version").silent().stderr;
    assert!(about.contains("CNI protocol versions supported: 0.1.0, 0.2.0, 0.3.0, 0.3.1, 0.4.0, 1.0.0"), "{about}");
}

/// W2's file is W1's with other names and version 1.0.0.
fn mynet() -> String {
    let text = REDISNET.replace("redisnet", "mynet").replace("cni0", "mynet0").replace("0.4.0", "1.0.0");
    text.replace("10.88", "10.10")
}

#[test]
fn w2_step_by_step_with_inspection() {
    let lab = Lab::new();
    lab.write("/etc/cni/net.d/mynet.conf", mynet());
    typed(&lab, "ip netns add testing").success();
    let outcome = typed(&lab, "CNI_PATH=/opt/cni/bin cnitool add mynet /var/run/netns/testing").success();
    let result = outcome.json();
    assert_eq!(result["cniVersion"], "1.0.0");
    let names: Vec<_> =
        result["interfaces"].as_array().unwrap().iter().map(|one| one["name"].as_str().unwrap()).collect();
    assert_eq!(without_random_names(&names.join(" ")), "mynet0 VETH eth0");
    assert_eq!(result["interfaces"][2]["sandbox"], "/var/run/netns/testing");
    assert_eq!(result["ips"], json!([{"interface": 2, "address": "10.10.0.2/16", "gateway": "10.10.0.1"}]));
    assert_eq!(result["routes"], json!([{"dst": "0.0.0.0/0", "gw": "10.10.0.1"}]));

    assert!(typed(&lab, "ip addr show dev mynet0").success().stdout.contains("inet 10.10.0.1/16"));
    assert!(typed(&lab, "bridge link").success().stdout.contains("master mynet0"));
    let veth = typed(&lab, &format!("ip link show dev {}", names[1])).success().stdout;
    assert!(veth.contains("master mynet0") && veth.contains("link-netns testing"), "{veth}");
    let inside = typed(&lab, "ip -n testing addr show dev eth0").success().stdout;
    assert!(inside.contains("inet 10.10.0.2/16"), "{inside}");
    typed(&lab, "ip netns exec testing ping -c 1 10.10.0.1").success();
    typed(&lab, "ping -c 1 10.10.0.2").success();
    let routes = typed(&lab, "ip netns exec testing ip r").success().stdout;
    assert!(routes.contains("default via 10.10.0.1 dev eth0"), "{routes}");
    let connected = routes.lines().find(|line| line.starts_with("10.10.0.0/16 dev eth0")).unwrap();
    assert!(connected.contains("scope link src 10.10.0.2"), "{routes}");
    typed(&lab, "CNI_PATH=/opt/cni/bin cnitool del mynet /var/run/netns/testing").silent();
    assert_eq!(lab.link_in("testing", "eth0"), Value::Null);
}

/// The user's own plugin of W3: it logs what it was given and prints a result.
const MY_LOGGER: &str = r#"#!/bin/sh
{
    env | grep ^CNI_ | sort
    cat
    echo
} >&2
echo '{"cniVersion": "1.0.0", "interfaces": [], "dns": {}}'
"#;

#[test]
fn w3_writing_ones_own_plugin() {
    let lab = Lab::new();
    lab.executable("/run/lab/bin/my-logger", MY_LOGGER);
    lab.write(
        "/run/lab/conf/10-my-logger.conf",
        r#"{"cniVersion": "1.0.0", "name": "my-logger", "type": "my-logger"}"#,
    );
    lab.ok("ip netns add testing");
    let script = "cd /run/lab; NETCONFPATH=./conf CNI_PATH=./bin cnitool add my-logger /var/run/netns/testing";
    let outcome = typed(&lab, script).success();
    assert_eq!(outcome.json()["cniVersion"], "1.0.0");
    let lines: Vec<_> = outcome.stderr.lines().collect();
    let seen = [
        "CNI_COMMAND=ADD",
        "CNI_CONTAINERID=cnitool-77383ca0a0715733ca6f",
        "CNI_IFNAME=eth0",
        "CNI_NETNS=/var/run/netns/testing",
        "CNI_PATH=./bin",
    ];
    for line in seen {
        assert!(lines.contains(&line), "{line} is not on stderr: {outcome:#?}");
    }
    assert!(outcome.stderr.contains(r#"{"cniVersion":"1.0.0","name":"my-logger","type":"my-logger"}"#), "{outcome:#?}");
    typed(&lab, &script.replace(" add ", " del ")).silent();
}

const LAB_BR0: &str = r#"{
    "name": "lab-br0",
    "type": "bridge",
    "bridge": "lab-br0",
    "isGateway": true,
    "ipMasq": true,
    "ipam": {
        "type": "host-local",
        "subnet": "10.15.10.0/24"
    },
    "routes": [ { "dst": "0.0.0.0/0" } ],
    "rangeStart": "10.15.10.100",
    "rangeEnd": "10.15.10.200",
    "gateway": "10.15.10.99"
}
"#;

#[test]
fn w3_calling_a_plugin_directly_with_misplaced_keys() {
    let lab = Lab::new();
    lab.write("/opt/cni/conf/lab-br0.conf", LAB_BR0);
    lab.ok("ip netns add lab-ns");
    let call = "cd /opt/cni/bin; CNI_COMMAND=ADD CNI_CONTAINERID=lab-ns CNI_NETNS=/var/run/netns/lab-ns CNI_IFNAME=eth0 \
                CNI_PATH=`pwd` ./bridge < ../conf/lab-br0.conf";
    let call = if crate::lab::reference_mode() { call.replace("../conf", "/opt/cni/conf") } else { call.to_string() };
    let outcome = typed(&lab, &call).success();
    assert_eq!(
        outcome.json(),
        json!({"cniVersion": "0.1.0", "ip4": {"ip": "10.15.10.2/24", "gateway": "10.15.10.1"}, "dns": {}})
    );
    assert_eq!(lab.addresses("lab-ns", "eth0"), ["10.15.10.2/24"]);
    assert_eq!(lab.addresses("", "lab-br0"), ["10.15.10.1/24"]);
    typed(&lab, &call.replace("=ADD", "=DEL")).silent();
    assert_eq!(lab.reserved("lab-br0"), [""; 0]);
}

const OLD_MYNET: &str = r#"{
    "cniVersion": "0.2.0",
    "name": "mynet",
    "type": "bridge",
    "bridge": "cni0",
    "isGateway": true,
    "ipMasq": true,
    "ipam": {
        "type": "host-local",
        "subnet": "10.22.0.0/16",
        "routes": [
            { "dst": "0.0.0.0/0" }
        ]
    }
}
"#;

const OLD_RESULT: &str = r#"{
    "cniVersion": "0.2.0",
    "ip4": {
        "ip": "10.22.0.2/16",
        "gateway": "10.22.0.1",
        "routes": [
            {
                "dst": "0.0.0.0/0"
            }
        ]
    },
    "dns": {}
}"#;

#[test]
fn w4_an_old_configuration_called_directly() {
    let lab = Lab::new();
    lab.write("/run/lab/mybridge.conf", OLD_MYNET);
    lab.ok("ip netns add ns1");
    let call = "cd /opt/cni/bin; CNI_COMMAND=ADD CNI_CONTAINERID=ns1 CNI_NETNS=/var/run/netns/ns1 CNI_IFNAME=eth3 \
                CNI_PATH=`pwd` ./bridge < /run/lab/mybridge.conf";
    let outcome = typed(&lab, call).success();
    assert_eq!(outcome.stdout, OLD_RESULT);
    assert_eq!(lab.addresses("ns1", "eth3"), ["10.22.0.2/16"]);
    assert_eq!(lab.routes("ns1", "-4")[0], "default via 10.22.0.1 dev eth3");
    typed(&lab, &call.replace("=ADD", "=DEL")).silent();
    assert_eq!((lab.veths().len(), lab.rules().len(), lab.reserved("mynet").len()), (0, 0, 0));
}

#[test]
fn w4_a_namespace_named_by_its_process() {
    let lab = Lab::new();
    let workload = Call::new(&lab, "unshare").args_list(&["-n", "sleep", "600"]).spawn();
    let pid = workload.pid();
    let namespace = |pid: u32| std::fs::read_link(format!("/proc/{pid}/ns/net")).ok();
    wait_for("the workload's own namespace", || namespace(pid) != namespace(lab.pid()));
    let netns = format!("/proc/{pid}/ns/net");
    let config: Value = serde_json::from_str(OLD_MYNET).unwrap();
    let call = lab.plugin("bridge").container("ns1").netns(&netns).ifname("eth3").config(&config);
    call.run().result();
    let inside = typed(&lab, &format!("nsenter -t {pid} -n ip addr")).success().stdout;
    assert!(inside.contains("inet 10.22.0.2/16") && inside.contains("eth3"), "{inside}");
    typed(&lab, "ping -c 1 -W 2 10.22.0.2").success();
    call.verb("DEL").run().silent();
    assert_eq!((lab.veths().len(), lab.rules().len(), lab.reserved("mynet").len()), (0, 0, 0));
}

#[test]
fn w4_better_nothing_is_left_when_the_process_dies_first() {
    let lab = Lab::new();
    let workload = Call::new(&lab, "unshare").args_list(&["-n", "sleep", "600"]).spawn();
    let netns = format!("/proc/{}/ns/net", workload.pid());
    let namespace = |pid: u32| std::fs::read_link(format!("/proc/{pid}/ns/net")).ok();
    wait_for("the workload's own namespace", || namespace(workload.pid()) != namespace(lab.pid()));
    let config: Value = serde_json::from_str(OLD_MYNET).unwrap();
    let call = lab.plugin("bridge").container("ns1").netns(&netns).ifname("eth3").config(&config);
    call.run().result();
    workload.kill();
    call.verb("DEL").run().silent();
    assert_eq!((lab.rules().len(), lab.reserved("mynet").len()), (0, 0));
    wait_for("the kernel to take the link down with its namespace", || lab.veths().is_empty());
}

#[test]
fn w4_the_same_with_cnitool_and_a_network_list() {
    let lab = Lab::new();
    lab.write("/etc/cni/net.d/10-mynet.conf", OLD_MYNET);
    let list = json!({"cniVersion": "0.2.0", "name": "mylist", "plugins": [serde_json::from_str::<Value>(OLD_MYNET).unwrap()]});
    lab.write("/etc/cni/net.d/20-mylist.conflist", list.to_string());
    typed(&lab, "ip netns add ns1; ip netns add ns2").success();
    let first = typed(&lab, "cnitool add mynet /var/run/netns/ns1").success();
    assert_eq!(first.stdout, OLD_RESULT);
    let second = typed(&lab, "cnitool add mylist /var/run/netns/ns2").result();
    assert_eq!(second["ip4"]["ip"], "10.22.0.2/16", "another network name, another store");
    typed(&lab, "cnitool del mylist /var/run/netns/ns2; cnitool del mynet /var/run/netns/ns1").silent();
    assert_eq!((lab.veths().len(), lab.rules().len()), (0, 0));
    assert_eq!(lab.list("/var/lib/cni/results"), [""; 0]);
}
