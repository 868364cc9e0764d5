//! flannel: what it makes of flanneld's file. Debian has no flannel plugin; what is expected was taken from the original's
//! own tests, or is what the delegate does when it is called directly.

use serde_json::{Value, json};

use crate::lab::{Call, Lab, merged, wait_for, without_random_names};

pub const SUBNET_FILE: &str = "/run/flannel/subnet.env";
pub const KEPT: &str = "/var/lib/cni/flannel/c1";

/// What flanneld writes for a host: network, first address of the subnet, MTU of the containers.
pub const DUAL: &str = "FLANNEL_NETWORK=10.42.0.0/16\nFLANNEL_SUBNET=10.42.1.1/24\nFLANNEL_IPV6_NETWORK=2001:cafe:42::/56\n\
                        FLANNEL_IPV6_SUBNET=2001:cafe:42:1::1/64\nFLANNEL_MTU=1450\nFLANNEL_IPMASQ=true\n";

/// The same for a host with one family, `v4` or `v6`.
pub fn only(family: &str) -> String {
    let other = |line: &&str| match family {
        "v4" => line.contains("IPV6"),
        _ => line.contains("=10."),
    };
    DUAL.lines().filter(|line| !other(line)).map(|line| format!("{line}\n")).collect()
}

/// A host with flanneld's file.
pub fn lab(file: &str) -> Lab {
    let lab = Lab::new();
    lab.write(SUBNET_FILE, file);
    lab.netns("ns1");
    lab
}

/// The configuration of kube-flannel.yml in version 1.0.0.
pub fn config(changes: &Value) -> Value {
    let base = json!({"cniVersion": "1.0.0", "name": "cbr0", "type": "flannel",
        "delegate": {"hairpinMode": true, "isDefaultGateway": true}});
    merged(base, changes)
}

pub fn call<'a>(lab: &'a Lab, verb: &str, changes: &Value) -> Call<'a> {
    lab.plugin("flannel").verb(verb).config(&config(changes))
}

/// The delegate's configuration for DUAL, as the original writes it (rancher's build was seen to).
pub const DUAL_DELEGATE: &str = concat!(
    r#"{"cniVersion":"1.0.0","hairpinMode":true,"ipMasq":false,"ipam":{"ranges":[[{"subnet":"10.42.1.0/24"}],"#,
    r#"[{"subnet":"2001:cafe:42:1::/64"}]],"routes":[{"dst":"10.42.0.0/16"},{"dst":"2001:cafe:42::/56"}],"#,
    r#""type":"host-local"},"isDefaultGateway":true,"isGateway":true,"mtu":1450,"name":"cbr0","type":"bridge"}"#
);

#[test]
fn the_attachment_is_what_the_delegate_makes_of_its_configuration() {
    for file in [only("v4"), only("v6"), DUAL.to_string()] {
        let (through, direct) = (lab(&file), lab(&file));
        let made = call(&through, "ADD", &json!({})).run().success().stdout;
        let kept = through.read(KEPT);
        if file == DUAL {
            assert_eq!(kept, DUAL_DELEGATE);
        }
        let expected = direct.reference("bridge").stdin(&kept).run().success().stdout;
        let plain = |text: &str| {
            let mut result: Value = serde_json::from_str(&without_random_names(text)).unwrap();
            // Debian's 1.1.1 prints an empty one.
            result.as_object_mut().unwrap().remove("dns");
            result
        };
        assert_eq!(plain(&made), plain(&expected), "{file}");
        for family in ["-4", "-6"] {
            assert_eq!(through.routes("ns1", family), direct.routes("ns1", family), "{file}");
        }
        assert_eq!(through.addresses("", "cni0"), direct.addresses("", "cni0"));
        assert_eq!(through.link_in("ns1", "eth0")["mtu"], 1450);
        assert_eq!(through.sh("stat -c %a /var/lib/cni/flannel /var/lib/cni/flannel/c1").stdout, "700\n600\n");
        call(&through, "DEL", &json!({})).run().silent();
        assert_eq!(through.list("/var/lib/cni/flannel"), [""; 0]);
        assert_eq!((through.reserved("cbr0"), through.veths()), (vec![], vec![]));
        call(&through, "DEL", &json!({})).run().silent();
    }
}

#[test]
fn every_key_reaches_the_delegate() {
    let lab = lab(&only("v4").replace("IPMASQ=true", "IPMASQ=false"));
    lab.executable(
        "/opt/cni/bin/recorder",
        "#!/bin/sh\ncat > /run/lab/$CNI_COMMAND\necho '{\"cniVersion\":\"1.0.0\"}'\n",
    );
    let changes = json!({
        "delegate": {"type": "recorder", "mtu": 900, "own": [1, {"b": 1, "a": "<"}]},
        "ipam": {"type": "mine", "more": true, "ranges": "gone", "routes": [{"dst": "10.96.0.0/12", "gw": "10.42.1.9"}]},
        "runtimeConfig": {"portMappings": []}, "subnetFile": "/run/other.env", "dataDir": "/run/lab/kept",
        "prevResult": {"cniVersion": "1.0.0"}, "dns": {"domain": "d"}, "args": {"cni": {}},
    });
    lab.sh("mv /run/flannel/subnet.env /run/other.env").success();
    call(&lab, "ADD", &changes).run().success();
    let expected = concat!(
        r#"{"cniVersion":"1.0.0","hairpinMode":true,"ipMasq":true,"ipam":{"more":true,"ranges":[[{"subnet":"10.42.1.0/24"}]],"#,
        r#""routes":[{"dst":"10.96.0.0/12","gw":"10.42.1.9"},{"dst":"10.42.0.0/16"}],"type":"mine"},"#,
        r#""isDefaultGateway":true,"mtu":900,"name":"cbr0","own":[1,{"a":"\u003c","b":1}],"#,
        r#""runtimeConfig":{"portMappings":[]},"type":"recorder"}"#
    );
    assert_eq!((lab.read("/run/lab/ADD"), lab.read("/run/lab/kept/c1")), (expected.to_string(), expected.to_string()));
    // DEL gets what was kept, whatever is configured now; the result is what it can use besides.
    call(&lab, "DEL", &merged(changes, &json!({"delegate": {"type": "bridge"}, "prevResult": null}))).run().silent();
    assert_eq!(lab.read("/run/lab/DEL"), expected);
}

#[test]
fn other_delegates_come_and_go() {
    for delegate in [json!({"type": "ptp"}), json!({"type": "macvlan", "master": "up0"})] {
        let lab = lab(DUAL);
        lab.ok("ip link add up0 type veth peer name up1");
        let changes = json!({"delegate": merged(json!({"hairpinMode": null, "isDefaultGateway": null}), &delegate)});
        let before = lab.snapshot();
        let result = call(&lab, "ADD", &changes).run().result();
        assert_eq!(lab.addresses("ns1", "eth0").len(), 2, "{result}");
        assert_eq!(lab.link_in("ns1", "eth0")["mtu"], 1450);
        assert!(lab.routes("ns1", "-4").iter().any(|route| route.starts_with("10.42.0.0/16")), "{delegate}");
        let check = || call(&lab, "CHECK", &merged(changes.clone(), &json!({"prevResult": result}))).run();
        check().silent();
        lab.ok("ip -n ns1 route del 10.42.0.0/16");
        check().fails_with(999, &["10.42.0.0/16"]);
        call(&lab, "DEL", &changes).run().silent();
        before.assert_same(&lab.snapshot());
    }
}

#[test]
fn better_del_hands_on_the_result() {
    let lab = lab(DUAL);
    lab.executable(
        "/opt/cni/bin/recorder",
        "#!/bin/sh\ncat > /run/lab/$CNI_COMMAND\necho '{\"cniVersion\":\"1.0.0\"}'\n",
    );
    let recorder = json!({"delegate": {"type": "recorder"}});
    call(&lab, "ADD", &recorder).run().success();
    let result = json!({"cniVersion": "1.0.0", "ips": [{"address": "10.42.1.2/24"}]});
    call(&lab, "DEL", &json!({"prevResult": result})).run().silent();
    let given: Value = serde_json::from_str(&lab.read("/run/lab/DEL")).unwrap();
    assert_eq!(given["prevResult"], result);
}

#[test]
fn a_bad_subnet_file_is_an_error_before_anything_is_done() {
    let lab = lab("");
    let all = "FLANNEL_NETWORK, FLANNEL_IPV6_NETWORK, FLANNEL_SUBNET, FLANNEL_IPV6_SUBNET, FLANNEL_MTU, FLANNEL_IPMASQ";
    let cases = [
        ("true", "open FILE: no such file or directory".to_string()),
        ("rm -r /run/flannel", "open FILE: no such file or directory".to_string()),
        ("echo foo=bar > FILE", format!("FILE is missing {all}")),
        ("printf 'FLANNEL_NETWORK=10.42.0.0/16\\nFLANNEL_SUB' > FILE", format!("FILE is missing {}", &all[39..])),
        ("printf 'FLANNEL_NETWORK\\nFLANNEL_MTU' > FILE", format!("FILE is missing {all}")),
        ("echo FLANNEL_MTU=-1 > FILE", "FLANNEL_MTU: strconv.ParseUint: parsing \"-1\": invalid syntax".to_string()),
        ("echo FLANNEL_SUBNET=10.42.1.1/33 > FILE", "FLANNEL_SUBNET: invalid CIDR address: 10.42.1.1/33".to_string()),
        ("head -c 70000 /dev/zero > FILE", "FILE has more than 65536 bytes".to_string()),
        ("ln -s /dev/zero FILE", "FILE is not a regular file".to_string()),
        ("mkfifo FILE", "FILE is not a regular file".to_string()),
        ("mkdir FILE", "FILE is not a regular file".to_string()),
        ("ln -s subnet.env FILE", "open FILE: too many levels of symbolic links".to_string()),
        ("head -c 5000 /dev/urandom > FILE", format!("FILE is missing {all}")),
    ];
    for (prepare, cause) in cases {
        let script = format!("rm -rf {SUBNET_FILE}; mkdir -p /run/flannel; {}", prepare.replace("FILE", SUBNET_FILE));
        lab.sh(&script).success();
        let before = lab.snapshot();
        let outcome = call(&lab, "ADD", &json!({})).run();
        let cause = cause.replace("FILE", SUBNET_FILE);
        let msg =
            format!("failed to load flannel 'subnet.env' file: {cause}. Check the flannel pod log for this node.");
        assert_eq!(outcome.error(), (999, msg, String::new()), "{prepare}");
        before.assert_same(&lab.snapshot());
        call(&lab, "DEL", &json!({})).run().silent();
        let status = call(&lab, "STATUS", &json!({"cniVersion": "1.1.0"})).run().error();
        assert!(status.0 == 50 && status.1.contains(&cause), "{status:?}");
    }
}

#[test]
fn a_bad_configuration_is_an_error_before_anything_is_done() {
    let lab = lab(DUAL);
    let before = lab.snapshot();
    let netconf = "failed to load flannel netconf file: failed to load netconf: json: cannot unmarshal";
    let cases = [
        (json!({"delegate": 1}), 999, netconf),
        (json!({"ipam": []}), 999, netconf),
        (json!({"runtimeConfig": "x"}), 999, netconf),
        (json!({"subnetFile": 1}), 999, netconf),
        (json!({"dataDir": 1}), 999, "failed to load netconf: json: cannot unmarshal"),
        (json!({"delegate": {"type": 1}}), 999, "'delegate' dictionary, if present, must have (string) 'type' field"),
        (
            json!({"delegate": {"name": "x"}}),
            999,
            "'delegate' dictionary must not have 'name' field, it'll be set by flannel",
        ),
        (
            json!({"delegate": {"ipam": {}}}),
            999,
            "'delegate' dictionary must not have 'ipam' field, it'll be set by flannel",
        ),
        (
            json!({"ipam": {"routes": [{"dst": "x"}]}}),
            999,
            "failed to assemble Delegate IPAM: failed to read IPAM routes: ",
        ),
        (json!({"delegate": {"type": "nope"}}), 999, "failed to delegate add: failed to find plugin \"nope\" in path"),
        (json!({"delegate": {"type": "../x"}}), 999, "failed to delegate add: invalid plugin name: ../x"),
        (json!({"waitForSubnetFile": 61}), 7, "waitForSubnetFile is more than 60 seconds"),
    ];
    for (changes, code, start) in cases {
        let failure = call(&lab, "ADD", &changes).run().error();
        assert!(failure.0 == code && failure.1.starts_with(start), "{changes}: {failure:?}");
        before.assert_same(&lab.snapshot());
    }
}

#[test]
fn better_flannel_is_not_its_own_delegate() {
    let lab = lab(DUAL);
    let changes = json!({"delegate": {"type": "flannel"}});
    let refused = (7, "flannel cannot be its own delegate".to_string(), String::new());
    assert_eq!(call(&lab, "ADD", &changes).run().error(), refused);
    call(&lab, "DEL", &changes).run().silent();
    lab.write(KEPT, r#"{"name":"cbr0","type":"flannel"}"#);
    call(&lab, "DEL", &changes).run().silent();
    assert!(!lab.exists(KEPT));
}

#[test]
fn better_add_waits_for_the_subnet_file_if_it_is_told_to() {
    let lab = lab("FLANNEL_NETWORK=10.42.0.0/16\n");
    lab.sh("rm -r /run/flannel").success();
    let waiting = call(&lab, "ADD", &json!({"waitForSubnetFile": 60})).spawn();
    let watches = || lab.sh(&format!("ls -l /proc/{}/fd", waiting.pid())).stdout.contains("inotify");
    wait_for("a watch", watches);
    lab.sh("mkdir /run/flannel").success();
    lab.write(SUBNET_FILE, "FLANNEL_NETWORK=10.42.0.0/16\n");
    wait_for("a watch again", watches);
    assert!(!lab.exists(KEPT));
    lab.write("/run/flannel/.new", DUAL);
    lab.sh("mv /run/flannel/.new /run/flannel/subnet.env").success();
    assert!(waiting.wait().success());
    assert_eq!(lab.read(KEPT), DUAL_DELEGATE);
    call(&lab, "DEL", &json!({})).run().silent();
    lab.sh("rm /run/flannel/subnet.env").success();
    let failure = call(&lab, "ADD", &json!({"waitForSubnetFile": 1})).run().error();
    assert!(failure.1.contains("subnet.env: no such file or directory"), "{failure:?}");
}
