//! Rules of others beside port mappings.

use serde_json::{Value, json};

use crate::lab::{Call, Lab};
use crate::masquerade::{FLAVOURS, lab};
use crate::portmap::{assert_lines, call, config, mappings};

/// As kube-proxy, docker and an administrator leave them, with counters.
const FOREIGN: &str = r#"*raw
:PREROUTING ACCEPT [1:100]
:OUTPUT ACCEPT [2:200]
:cali-PREROUTING - [0:0]
[1:60] -A PREROUTING -m comment --comment "cali:6gwbT8clXdHdC1b1" -j cali-PREROUTING
COMMIT
*nat
:PREROUTING ACCEPT [1:100]
:INPUT ACCEPT [2:200]
:OUTPUT ACCEPT [3:300]
:POSTROUTING ACCEPT [4:400]
:DOCKER - [0:0]
:KUBE-MARK-MASQ - [0:0]
:KUBE-NODEPORTS - [0:0]
:KUBE-POSTROUTING - [0:0]
:KUBE-SEP-ABCDEFGHIJKLMNOP - [0:0]
:KUBE-SERVICES - [0:0]
:KUBE-SVC-ABCDEFGHIJKLMNOP - [0:0]
[5:500] -A PREROUTING -m comment --comment "kubernetes service portals" -j KUBE-SERVICES
[6:600] -A PREROUTING -m addrtype --dst-type LOCAL -j DOCKER
[7:700] -A OUTPUT -m comment --comment "kubernetes service portals" -j KUBE-SERVICES
[8:800] -A OUTPUT ! -d 127.0.0.0/8 -m addrtype --dst-type LOCAL -j DOCKER
[9:900] -A POSTROUTING -m comment --comment "kubernetes postrouting rules" -j KUBE-POSTROUTING
[10:1000] -A POSTROUTING -s 172.17.0.0/16 ! -o docker0 -j MASQUERADE
[11:1100] -A DOCKER -i docker0 -j RETURN
[12:1200] -A DOCKER ! -i docker0 -p tcp -m tcp --dport 8080 -j DNAT --to-destination 172.17.0.2:80
[13:1300] -A KUBE-MARK-MASQ -j MARK --set-xmark 0x4000/0x4000
[14:1400] -A KUBE-POSTROUTING -m mark ! --mark 0x4000/0x4000 -j RETURN
[15:1500] -A KUBE-POSTROUTING -j MARK --set-xmark 0x4000/0x0
[16:1600] -A KUBE-POSTROUTING -m comment --comment "kubernetes service traffic requiring SNAT" -j MASQUERADE --random-fully
[17:1700] -A KUBE-SEP-ABCDEFGHIJKLMNOP -s 10.244.0.5/32 -m comment --comment "default/web" -j KUBE-MARK-MASQ
[18:1800] -A KUBE-SEP-ABCDEFGHIJKLMNOP -p tcp -m comment --comment "default/web" -m tcp -j DNAT --to-destination 10.244.0.5:80
[19:1900] -A KUBE-SERVICES -d 10.96.0.10/32 -p tcp -m comment --comment "default/web cluster IP" -m tcp --dport 80 -j KUBE-SVC-ABCDEFGHIJKLMNOP
[20:2000] -A KUBE-SERVICES -m comment --comment "kubernetes service nodeports; NOTE: this must be the last rule in this chain" -m addrtype --dst-type LOCAL -j KUBE-NODEPORTS
[21:2100] -A KUBE-SVC-ABCDEFGHIJKLMNOP -m comment --comment "default/web" -m statistic --mode random --probability 0.50000000000 -j KUBE-SEP-ABCDEFGHIJKLMNOP
COMMIT
"#;

fn restore(lab: &Lab, flavour: &str, rules: &str) {
    Call::new(lab, &format!("iptables-{flavour}-restore")).args_list(&["-c"]).stdin(rules).run().success();
}

/// Rules and chains that are none of portmap's, with the rules' counters: the host's own packets pass the policies.
fn foreign(lab: &Lab, flavour: &str) -> Vec<String> {
    foreign_in(lab, flavour, "")
}

fn foreign_in(lab: &Lab, flavour: &str, option: &str) -> Vec<String> {
    let text = lab.ok(&format!("iptables-{flavour}-save -c {option}"));
    let ours = |line: &str| line.contains("CNI-") || line.contains("CNI portmap");
    let lines = text.lines().filter(|line| !line.starts_with('#') && !ours(line));
    let bare =
        |line: &str| if line.starts_with(':') { line.split('[').next().unwrap().to_string() } else { line.to_string() };
    lines.map(bare).collect()
}

#[test]
fn newer_rules_of_others_stay_as_they_are() {
    for flavour in FLAVOURS {
        for backend in ["iptables", "nftables"] {
            let lab = lab(flavour);
            restore(&lab, flavour, FOREIGN);
            let before = foreign(&lab, flavour);
            let config = config(&json!({"backend": backend}));
            for verb in ["ADD", "ADD", "CHECK", "DEL", "DEL"] {
                call(&lab, &config).verb(verb).run().success();
                assert_lines(&format!("{flavour} {backend} {verb}"), &foreign(&lab, flavour), &before);
            }
        }
    }
}

#[test]
fn the_mappings_come_behind_the_rules_of_services_and_masquerading_first() {
    // CVE-2019-9946: port mappings that hid the services of kube-proxy.
    for flavour in FLAVOURS {
        let lab = lab(flavour);
        restore(&lab, flavour, FOREIGN);
        call(&lab, &config(&json!({}))).run().result();
        let text = lab.ok(&format!("iptables-{flavour}-save -t nat"));
        let of = |chain: &str| -> Vec<&str> {
            text.lines().filter(|line| line.starts_with(&format!("-A {chain} "))).collect()
        };
        for hook in ["PREROUTING", "OUTPUT"] {
            assert!(of(hook).len() == 3 && of(hook)[2].ends_with("-j CNI-HOSTPORT-DNAT"), "{flavour} {text}");
        }
        assert!(of("POSTROUTING")[0].ends_with("-j CNI-HOSTPORT-MASQ"), "{flavour} {text}");
    }
}

#[test]
fn five_thousand_rules_of_others_stay_as_they_are() {
    for flavour in FLAVOURS {
        let lab = lab(flavour);
        let mut text = "*nat\n:MANY - [0:0]\n-A PREROUTING -j MANY\n".to_string();
        for rule in 0..5000 {
            let (high, low) = (rule / 250, rule % 250);
            text += &format!(
                "-A MANY -d 10.7.{high}.{low}/32 -p tcp -m tcp --dport 80 -j DNAT --to-destination 10.8.{high}.{low}:80\n"
            );
        }
        text += "COMMIT\n";
        restore(&lab, flavour, &text);
        let before = foreign_in(&lab, flavour, "-t nat");
        assert!(before.len() > 5000);
        for verb in ["ADD", "DEL"] {
            call(&lab, &config(&json!({}))).verb(verb).run().success();
            assert_lines(&format!("{flavour} {verb}"), &foreign_in(&lab, flavour, "-t nat"), &before);
        }
    }
}

#[test]
fn better_as_many_mappings_as_anybody_wants() {
    let many: Vec<Value> =
        (1..=1000).map(|port| json!({"hostPort": 10_000 + port, "containerPort": port, "protocol": "tcp"})).collect();
    for (flavour, backend) in [("nft", "iptables"), ("legacy", "iptables"), ("nft", "nftables")] {
        let lab = lab(flavour);
        let config = config(&crate::lab::merged(mappings(&json!(many)), &json!({"backend": backend})));
        for verb in ["ADD", "ADD", "CHECK"] {
            call(&lab, &config).verb(verb).run().success();
        }
        let native = lab.ok("nft list ruleset").lines().filter(|line| line.contains("comment \"abc123\"")).count();
        let iptables = lab.rules().iter().filter(|line| line.contains("-j DNAT")).count();
        let translations = if backend == "nftables" { native } else { iptables };
        assert!(translations >= 2000, "{flavour} {backend}: {translations}");
        call(&lab, &config).verb("DEL").run().silent();
    }
}

#[test]
fn better_the_rule_that_guards_127_0_0_0_is_made_once_and_in_front() {
    for flavour in FLAVOURS {
        let lab = lab(flavour);
        restore(&lab, flavour, FOREIGN);
        crate::portmap_life::bridge(&lab);
        for container in ["abc123", "c2"] {
            call(&lab, &config(&json!({}))).container(container).run().result();
        }
        let text = lab.ok(&format!("iptables-{flavour}-save -t raw"));
        let rules: Vec<_> = text.lines().filter(|line| line.starts_with("-A ")).collect();
        let comment = r#"-m comment --comment "CNI portmap: 127.0.0.0/8 is local""#;
        let jump = format!("-A PREROUTING -d 127.0.0.0/8 ! -i lo {comment} -j CNI-HOSTPORT-LOCALNET");
        let drop = format!("-A CNI-HOSTPORT-LOCALNET -i br0 {comment} -j DROP");
        assert_eq!(rules.len(), 3, "{flavour} {text}");
        assert_eq!((rules[0], rules.contains(&drop.as_str())), (jump.as_str(), true), "{flavour} {text}");
    }
}

#[test]
fn better_a_route_localnet_that_is_set_is_not_written() {
    let lab = lab("nft");
    crate::portmap_life::bridge(&lab);
    lab.ok("sysctl -qw net.ipv4.conf.br0.route_localnet=1");
    // Nobody may write here.
    let script = ["unshare", "-m", "sh", "-ec", "mount -o bind,ro /proc/sys /proc/sys && exec \"$@\"", "sh"];
    call(&lab, &config(&json!({}))).env("PATH", "/usr/bin:/bin").under(&script).run().result();
    lab.ok("sysctl -qw net.ipv4.conf.br0.route_localnet=0");
    let call = call(&lab, &config(&json!({}))).env("PATH", "/usr/bin:/bin").under(&script);
    call.run().fails_with(999, &["unable to enable route_localnet: "]);
}

#[test]
fn better_parallel_adds_and_dels_beside_another_program_lose_nothing() {
    for flavour in FLAVOURS {
        let lab = lab(flavour);
        let script = format!(
            "n=0; while [ ! -e /run/lab/stop ]; do iptables-{flavour} -w -t nat -A OUTPUT -d 10.99.0.1 -j ACCEPT
             n=$((n+1)); done; echo $n > /run/lab/count"
        );
        let others = Call::new(&lab, "sh").args_list(&["-ec", &script]).env("PATH", "/usr/sbin:/usr/bin").spawn();
        std::thread::scope(|scope| {
            for number in 0..100 {
                let lab = &lab;
                scope.spawn(move || {
                    let container = format!("c{number}");
                    let call = |verb| call(lab, &config(&json!({}))).container(&container).verb(verb);
                    call("ADD").run().result();
                    call("CHECK").run().silent();
                    if number % 2 == 0 {
                        call("DEL").run().silent();
                    }
                });
            }
        });
        lab.write("/run/lab/stop", "");
        assert!(others.wait().success(), "{flavour}: the other program");
        let rules = lab.rules();
        let count = |text: &str| rules.iter().filter(|line| line.contains(text)).count();
        assert_eq!(count("-d 10.99.0.1/32 -j ACCEPT"), lab.read("/run/lab/count").trim().parse::<usize>().unwrap());
        assert_eq!(count(":CNI-DN-"), 100, "{flavour}: fifty containers in each family");
        assert_eq!(count("--dst-type LOCAL -j CNI-HOSTPORT-DNAT"), 4, "{flavour}");
        assert_eq!(count("-A POSTROUTING"), 2, "{flavour}");
        assert_eq!(count("--set-xmark 0x2000/0x2000"), 2, "{flavour}");
    }
}
