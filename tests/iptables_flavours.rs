//! Which iptables the rules go through, and that no other program is asked.

use serde_json::json;

use crate::kills::{ordinal_of, run_refused};
use crate::lab::{Call, Lab, bridge_config, merged, wait_for};
use crate::masquerade::{FLAVOURS, call, config, dual_stack, flavours_in_use, lab};
use crate::{firewall, portmap};

#[test]
fn better_the_environment_chooses_the_flavour() {
    for (installed, wanted) in [("nft", "legacy"), ("legacy", "nft")] {
        let lab = lab(installed);
        call(&lab, &config(&json!({}))).env("CNI_BOX_IPTABLES", wanted).run().result();
        assert_eq!(flavours_in_use(&lab), [wanted]);
    }
}

#[test]
fn better_rules_go_where_the_kernel_already_holds_rules() {
    for (installed, present) in [("nft", "legacy"), ("legacy", "nft")] {
        let lab = lab(installed);
        lab.ok(&format!("iptables-{present} -t nat -A POSTROUTING -s 172.17.0.0/16 -j MASQUERADE"));
        call(&lab, &config(&json!({}))).run().result();
        assert_eq!(flavours_in_use(&lab), [present], "installed: {installed}");
    }
}

#[test]
fn better_without_any_iptables_the_choice_is_nft() {
    let lab = lab("nft");
    lab.sh("rm /etc/alternatives/iptables /etc/alternatives/ip6tables").success();
    call(&lab, &config(&json!({}))).env("PATH", "/nowhere").run().result();
    assert_eq!(flavours_in_use(&lab), ["nft"]);
}

#[test]
fn better_del_finds_the_rules_in_either_flavour() {
    for (made, installed) in [("nft", "legacy"), ("legacy", "nft")] {
        let lab = lab(made);
        let call = call(&lab, &config(&json!({})));
        call.clone().env("CNI_BOX_IPTABLES", made).run().result();
        lab.install_iptables(installed);
        call.verb("DEL").run().silent();
        assert_eq!(lab.rules(), [""; 0], "made by {made}");
    }
}

/// Before 5.15 a kernel without IPv6 lists tables of ip6_tables, and refuses the socket that reads
/// them.
#[test]
fn better_tables_of_ip6tables_are_passed_over_without_ipv6() {
    let masquerade = config(&json!({"cniVersion": "1.1.0", "ipMasqBackend": "iptables"}));
    let ports = json!({"prevResult": {"ips": [{"interface": 1, "address": "10.0.0.2/24"}]}});
    let ports = portmap::config(&merged(json!({"backend": "iptables"}), &ports));
    let filter = firewall::config(firewall::V4, &json!({}));
    let host = |table: &str| {
        let lab = lab("nft");
        lab.ok(&format!("ip6tables-legacy -t {table} -N FOREIGN"));
        lab
    };
    for (verbs, table, config) in
        [(["STATUS", "DEL"], "nat", masquerade), (["ADD", "DEL"], "nat", ports), (["ADD", "DEL"], "filter", filter)]
    {
        for verb in verbs {
            let (first, second) = (host(table), host(table));
            let [traced, refused] =
                [&first, &second].map(|lab| lab.plugin(config["type"].as_str().unwrap()).verb(verb).config(&config));
            let ordinal = ordinal_of(&first, &traced, "socket", "AF_INET6");
            run_refused(&second, &refused, "socket", "AF_INET6", (ordinal, "EAFNOSUPPORT")).success();
        }
    }
}

#[test]
fn better_no_other_program_is_started() {
    for flavour in FLAVOURS {
        let lab = lab(flavour);
        for verb in ["ADD", "DEL"] {
            let strace = ["strace", "-f", "-qq", "-o", "/run/lab/trace", "-e", "trace=execve,fork,vfork,clone,clone3"];
            let call = call(&lab, &dual_stack()).verb(verb).under(&strace);
            call.env("PATH", "/usr/bin").env("CNI_BOX_IPTABLES", flavour).run().success();
            let trace = lab.read("/run/lab/trace");
            assert_eq!(trace.lines().count(), 1, "{verb}: {trace}");
        }
    }
}

#[test]
fn the_legacy_tables_are_changed_under_the_lock_of_iptables() {
    let lab = lab("legacy");
    lab.ok("iptables-legacy -t nat -N OTHERS");
    let holder = Call::new(&lab, "flock").args_list(&["/run/xtables.lock", "sleep", "1"]).spawn();
    wait_for("the lock", || lab.run(&["flock", "-n", "/run/xtables.lock", "true"]).code == Some(1));
    call(&lab, &config(&json!({}))).env("CNI_BOX_IPTABLES", "legacy").run().result();
    assert_eq!(lab.run(&["flock", "-n", "/run/xtables.lock", "true"]).code, Some(0), "it did not wait");
    holder.wait();
}

/// An ADD and its DEL in a namespace made together with its user namespace: the number of CNI rules of both flavours after
/// each.
const ROOTLESS: &str = r#"
    mount -t tmpfs none /run; mkdir -p /run/bin /run/lib; mount -t tmpfs none /var/lib; ip link set lo up
    BINARY --install /run/bin >/dev/null
    export CNI_CONTAINERID=c1 CNI_IFNAME=eth0 CNI_PATH=/run/bin
    unshare -n sleep 1000 & container=$!
    while [ "$(readlink /proc/$container/ns/net)" = "$(readlink /proc/self/ns/net)" ]; do :; done
    export CNI_NETNS=/proc/$container/ns/net
    count() { iptables-save 2>/dev/null | grep -c CNI-; iptables-legacy-save 2>/dev/null | grep -c CNI-; }
    CNI_COMMAND=ADD /run/bin/bridge </tmp/config >/dev/null && count
    CNI_COMMAND=DEL /run/bin/bridge </tmp/config && count
    kill $container
"#;

#[test]
fn better_a_rootless_namespace_masquerades_in_either_flavour_and_cleans_up() {
    for (flavour, counts) in [("nft", "4\n0\n0\n0\n"), ("legacy", "0\n4\n0\n0\n"), ("", "4\n0\n0\n0\n")] {
        let lab = Lab::new();
        let config = bridge_config(&json!({"isDefaultGateway": true, "ipMasq": true})).to_string();
        let script = ROOTLESS.replace("BINARY", &crate::lab::binary()).replace("/tmp/config", "/opt/cni/config");
        lab.write("/opt/cni/config", config);
        lab.write("/opt/cni/script", script);
        let command = format!("CNI_BOX_IPTABLES={flavour} unshare -Urnm --propagation private bash /opt/cni/script");
        assert_eq!(lab.sh(&command).stdout, counts, "{flavour:?}");
    }
}
