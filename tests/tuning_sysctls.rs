//! tuning's sysctls: keys, their order, the allowlist, what is not written.

use serde_json::json;

use crate::tuning::{ALLOWLIST, SAVED, both, config, lab, ours, sysctl};

#[test]
fn newer_a_key_may_be_there_only_once() {
    for sysctls in [r#"{"net.ipv4.a":"1","net.ipv4.a":"2"}"#, r#"{"net.ipv4.a":"1","net.ipv4.\u0061":"2"}"#] {
        let lab = lab();
        let text = config(&json!({})).to_string().replacen('{', &format!("{{\"sysctl\":{sysctls},"), 1);
        for call in both(&lab) {
            for verb in ["ADD", "CHECK"] {
                call.clone().verb(verb).stdin(&text).run().fails(999, "duplicated sysctl keys are not allowed");
            }
            call.clone().verb("DEL").stdin(&text).run().silent();
        }
    }
}

/// The last word is the one that stays: minimum above maximum is refused.
#[test]
fn better_sysctls_are_set_in_the_order_of_the_file() {
    let lab = lab();
    let keys = r#"{"net.ipv4.conf.eth0.arp_filter":"1","net.ipv4.conf.all.arp_filter":"0","net.ipv4.conf.default.arp_filter":"1"}"#;
    let text = config(&json!({})).to_string().replacen('{', &format!("{{\"sysctl\":{keys},"), 1);
    let strace = ["strace", "-f", "-qq", "-o", "/run/lab/trace", "-e", "trace=openat,open,write"];
    lab.plugin("tuning").stdin(text).under(&strace).run().result();
    let trace = lab.read("/run/lab/trace");
    let writes = trace.lines().filter(|line| line.contains("/proc/sys/net") && line.contains("O_WRONLY"));
    let names: Vec<_> = writes.map(|line| line.split('/').nth(6).unwrap().to_string()).collect();
    assert_eq!(names, ["eth0", "all", "default"]);
}

#[test]
fn better_args_may_bring_the_only_sysctls() {
    let lab = lab();
    ours(&lab, "ADD", &json!({"args": {"cni": {"sysctl": {"net.ipv4.ip_default_ttl": "33"}}}})).result();
    assert_eq!(sysctl(&lab, "ipv4/ip_default_ttl"), "33");
}

#[test]
fn newer_the_allowlist_is_kept() {
    let changes = |key: &str| json!({"sysctl": {key: "1"}});
    for (list, key, allowed) in [
        ("^net\\.ipv4\\.conf\\.eth0\\.[a-z_]*$\n", "net.ipv4.conf.eth0.arp_filter", true),
        ("\n  arp_filter  \n", "net.ipv4.conf.eth0.arp_filter", true),
        ("zz\n^net\\.(ipv4|ipv6)\\.conf\\.(all|eth\\d+)\\.\\w{3,20}$", "net.ipv4.conf.eth0.arp_filter", true),
        ("^net\\.ipv4\\.conf\\.eth0", "net/ipv4/conf/eth0/arp_filter", false),
        ("^arp_filter$\n# comment\nx y", "net.ipv4.conf.eth0.arp_filter", false),
        ("", "net.ipv4.conf.eth0.arp_filter", false),
    ] {
        let lab = lab();
        lab.write(ALLOWLIST, list);
        for call in both(&lab) {
            let outcome = call.config(&config(&changes(key))).run();
            let lines: Vec<_> = list.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
            let text =
                format!("Sysctl {key} is not allowed. Only the following sysctls are allowed: [{}]", lines.join(" "));
            match allowed {
                true => drop(outcome.result()),
                false => drop(outcome.fails(999, &text)),
            }
        }
        let of_args = json!({"args": {"cni": changes("net.ipv4.tcp_sack")}, "sysctl": {}});
        ours(&lab, "ADD", &of_args).fails_with(999, &["Sysctl net.ipv4.tcp_sack is not allowed"]);
        ours(&lab, "ADD", &json!({"mtu": 1300})).result();
    }
    let lab = lab();
    lab.write(ALLOWLIST, "a(b");
    for call in both(&lab) {
        let text = "error parsing regexp: missing closing )";
        call.config(&config(&changes("net.ipv4.conf.eth0.arp_filter"))).run().fails_with(999, &[text]);
    }
}

#[test]
fn better_what_is_denied_names_the_file() {
    let lab = lab();
    lab.write(ALLOWLIST, "x");
    let outcome = ours(&lab, "ADD", &json!({"sysctl": {"net.ipv4.ip_default_ttl": "1"}}));
    assert_eq!(outcome.error().2, format!("none of the patterns in {ALLOWLIST} matches it"));
}

#[test]
fn better_a_read_only_proc_sys_with_the_wanted_values_does_no_harm() {
    let lab = lab();
    let all = ["net.ipv4.ip_default_ttl", "net.ipv4.conf.all.arp_filter", "net.ipv4.ip_local_port_range"];
    lab.sh("ip netns exec ns1 sysctl -q 'net.ipv4.ip_local_port_range=2000\t3000'").success();
    lab.sh("mount --bind /proc/sys /proc/sys && mount -o remount,ro,bind /proc/sys").success();
    let changes = json!({"sysctl": {all[0]: "64", all[1]: "0", all[2]: "2000 3000"}});
    ours(&lab, "ADD", &changes).result();
    ours(&lab, "CHECK", &changes).silent();
    let text = "failed to set sysctl: write /proc/sys/net/ipv4/ip_default_ttl: read-only file system";
    ours(&lab, "ADD", &json!({"mtu": 1300, "sysctl": {all[0]: "63"}})).fails(999, text);
    assert_eq!(lab.link_in("ns1", "eth0")["mtu"], 1500);
    assert_eq!(lab.list(SAVED), [".cni-box"]);
}

/// The kernel gives the value of `all` to every interface, also if `all` has it already.
#[test]
fn a_value_for_all_reaches_every_interface() {
    let lab = lab();
    lab.ok("ip netns exec ns1 sysctl -q net.ipv6.conf.eth0.disable_ipv6=1");
    ours(&lab, "ADD", &json!({"sysctl": {"net.ipv6.conf.all.disable_ipv6": "0"}})).result();
    assert_eq!(sysctl(&lab, "ipv6/conf/eth0/disable_ipv6"), "0");
}

#[test]
fn a_setting_that_can_only_be_written_is_written() {
    let lab = lab();
    ours(&lab, "ADD", &json!({"sysctl": {"net.ipv4.route.flush": "1"}})).result();
}

/// The kernel does not show the secret before there is one.
#[test]
fn a_setting_that_cannot_be_read_yet_is_written() {
    let lab = lab();
    let changes = json!({"sysctl": {"net.ipv6.conf.eth0.stable_secret": "2001:0db8:0000:0000:0000:0000:0000:0007"}});
    let text = "failed to verify sysctl: read /proc/sys/net/ipv6/conf/eth0/stable_secret: input/output error";
    ours(&lab, "CHECK", &changes).fails(999, text);
    for _ in 0..2 {
        ours(&lab, "ADD", &changes).result();
    }
    assert_eq!(sysctl(&lab, "ipv6/conf/eth0/stable_secret"), "2001:0db8:0000:0000:0000:0000:0000:0007");
    ours(&lab, "CHECK", &changes).silent();
}

/// What one key does to another counts: whether a value is there already is asked when its turn comes.
#[test]
fn better_the_last_of_several_keys_has_the_last_word() {
    for (keys, name) in [
        (
            r#""net.ipv6.conf.all.disable_ipv6":"0","net.ipv6.conf.IFNAME.disable_ipv6":"1""#,
            "ipv6/conf/eth0/disable_ipv6",
        ),
        (r#""net.ipv4.conf.eth0.arp_filter":"0","net/ipv4/conf/eth0/arp_filter":"1""#, "ipv4/conf/eth0/arp_filter"),
    ] {
        let lab = lab();
        lab.ok(&format!("ip netns exec ns1 sysctl -q net/{name}=1"));
        let text = config(&json!({})).to_string().replacen('{', &format!("{{\"sysctl\":{{{keys}}},"), 1);
        lab.plugin("tuning").stdin(text).run().result();
        assert_eq!(sysctl(&lab, name), "1");
    }
}

/// As sysctl(8) reads keys, which begin with the separator that counts; the reference knows no way but IFNAME.
#[test]
fn better_a_key_may_name_an_interface_with_a_dot() {
    let lab = lab();
    lab.ok("ip -n ns1 link set eth0 name eth0.1");
    for key in ["net.ipv4.conf.eth0/1.arp_filter", "net/ipv4/conf/eth0.1/arp_filter", "net.ipv4.conf.IFNAME.arp_filter"]
    {
        lab.ok("ip netns exec ns1 sysctl -q net/ipv4/conf/eth0.1/arp_filter=0");
        let config = config(&json!({"sysctl": {key: "1"}}));
        lab.plugin("tuning").ifname("eth0.1").config(&config).run().result();
        assert_eq!(sysctl(&lab, "ipv4/conf/eth0.1/arp_filter"), "1", "{key}");
        lab.plugin("tuning").verb("CHECK").ifname("eth0.1").config(&config).run().silent();
    }
    for key in ["net/../kernel/hostname", "net.//.kernel.hostname", "net/ipv4/conf/../../../kernel/hostname"] {
        let before = lab.read("/proc/sys/kernel/hostname");
        let outcome = ours(&lab, "ADD", &json!({"sysctl": {key: "x"}}));
        assert!(outcome.error().1.contains("sysctl"), "{key}");
        assert_eq!(lab.read("/proc/sys/kernel/hostname"), before);
    }
}
