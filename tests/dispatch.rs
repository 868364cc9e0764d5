//! One file, many names: links, copies, the first argument, installing and removing.

use std::os::unix::fs::{MetadataExt, PermissionsExt};

use serde_json::json;

use crate::lab::{Call, Lab, binary, bridge_config};

/// The names that the finished part of the house answers to.
const NAMES: [&str; 5] = ["bridge", "cnitool", "host-local", "loopback", "static"];

fn names(lab: &Lab) -> Vec<String> {
    lab.run(&[&binary(), "--list"]).success().stdout.lines().map(str::to_string).collect()
}

fn version_reply(lab: &Lab, words: &[&str]) -> String {
    let call = Call::new(lab, words[0]).args_list(&words[1..]).env("CNI_COMMAND", "VERSION");
    call.run().success().stdout
}

#[test]
fn the_list_is_sorted_and_names_every_applet() {
    let lab = Lab::bare();
    let list = names(&lab);
    let mut sorted = list.clone();
    sorted.sort();
    assert_eq!(list, sorted);
    for name in NAMES {
        assert!(list.iter().any(|known| known == name), "{name} is not in {list:?}");
    }
}

#[test]
fn symlink_hard_link_copy_and_first_argument_are_the_same() {
    let lab = Lab::bare();
    let box_ = binary();
    lab.sh(&format!(
        "mkdir /run/lab/b; cp {box_} /run/lab/b/cni-box; cd /run/lab/b; mkdir soft hard copy
        ln -s ../cni-box soft/static; ln cni-box hard/static; cp cni-box copy/static; ln -s soft/static twice"
    ))
    .success();
    let expected = version_reply(&lab, &[&box_, "static"]);
    assert!(expected.starts_with("{\"cniVersion\":\"1.1.0\""), "{expected}");
    for folder in ["soft", "hard", "copy"] {
        assert_eq!(version_reply(&lab, &[&format!("/run/lab/b/{folder}/static")]), expected, "{folder}");
    }
}

#[test]
fn unknown_names_are_errors_on_stderr() {
    let lab = Lab::bare();
    lab.sh(&format!("ln -s {} /run/lab/nonsense", binary())).success();
    for command in [vec![binary(), "nonsense".to_string()], vec!["/run/lab/nonsense".to_string()]] {
        let words: Vec<_> = command.iter().map(String::as_str).collect();
        let outcome = lab.run(&words);
        assert_eq!((outcome.code, outcome.stdout.as_str()), (Some(1), ""), "{outcome:#?}");
        assert!(outcome.stderr.contains("nonsense"), "{outcome:#?}");
    }
    let outcome = lab.run(&[&binary(), "--no-such-option"]);
    assert_eq!((outcome.code, outcome.stdout.as_str()), (Some(1), ""), "{outcome:#?}");
}

#[test]
fn version_and_help_are_answered_on_stdout() {
    let lab = Lab::bare();
    let version = lab.run(&[&binary(), "--version"]).success().stdout;
    assert!(version.contains(env!("CARGO_PKG_VERSION")), "{version}");
    let help = lab.run(&[&binary(), "--help"]).success().stdout;
    for word in ["--list", "--install", "--uninstall", "--version", "cnitool"] {
        assert!(help.contains(word), "{word} is not in: {help}");
    }
    for word in ["-h", "help"] {
        assert_eq!(lab.run(&[&binary(), word]).success().stdout, help, "{word}");
    }
    assert_eq!(lab.run(&[&binary(), "-V"]).success().stdout, version);
    for word in ["--version", "-V"] {
        let told = lab.run(&[&binary(), "cnitool", word]).success();
        assert_eq!((told.stdout, told.stderr), (version.replace("cni-box", "cnitool (cni-box)"), String::new()));
    }
    for word in ["-h", "--help", "help"] {
        let told = lab.run(&[&binary(), "cnitool", word]).success();
        assert!(told.stdout.contains("cnitool add") && told.stderr.is_empty(), "{told:#?}");
    }
    let under_plugin = lab.run(&[&binary(), "bridge", "--version"]).silent();
    assert!(under_plugin.stderr.starts_with("CNI bridge plugin "), "{under_plugin:#?}");
}

#[test]
fn installing_makes_every_name_in_three_ways() {
    for option in ["", "--symlink", "--hardlink", "--copy"] {
        let lab = Lab::bare();
        lab.sh(&format!("mkdir /run/lab/b /run/lab/bin; cp {} /run/lab/b/cni-box", binary())).success();
        let words = ["/run/lab/b/cni-box", "--install", option, "/run/lab/bin"];
        let words: Vec<_> = words.into_iter().filter(|word| !word.is_empty()).collect();
        lab.run(&words).success();
        lab.run(&words).success();
        assert_eq!(lab.list("/run/lab/bin"), names(&lab), "{option}: nothing but the names");
        let source = std::fs::metadata(lab.path("/run/lab/b/cni-box")).unwrap();
        let made = std::fs::symlink_metadata(lab.path("/run/lab/bin/bridge")).unwrap();
        match option {
            "--hardlink" => assert_eq!(made.ino(), source.ino()),
            "--copy" => assert!(made.is_file() && made.ino() != source.ino() && made.len() == source.len()),
            _ => assert!(made.is_symlink()),
        }
        assert!(version_reply(&lab, &["/run/lab/bin/bridge"]).contains("1.1.0"));
        lab.run(&["/run/lab/b/cni-box", "--uninstall", "/run/lab/bin"]).success();
        assert_eq!(lab.list("/run/lab/bin"), [""; 0], "{option}");
        lab.run(&["/run/lab/b/cni-box", "--uninstall", "/run/lab/bin"]).success();
    }
}

#[test]
fn a_link_is_found_again_from_every_working_directory() {
    let lab = Lab::bare();
    lab.sh(&format!("mkdir /run/lab/b /run/lab/bin; cp {} /run/lab/b/cni-box", binary())).success();
    let install = Call::new(&lab, "./cni-box").args_list(&["--install", "../bin"]).folder("/run/lab/b");
    install.run().success();
    assert!(version_reply(&lab, &["/run/lab/bin/static"]).contains("1.1.0"));
}

#[test]
fn links_beside_the_program_stay_right_wherever_the_folder_is_mounted() {
    let lab = Lab::bare();
    lab.sh(&format!("mkdir /run/lab/b; cp {} /run/lab/b/cni-box", binary())).success();
    lab.run(&["/run/lab/b/cni-box", "--install", "/run/lab/b"]).success();
    assert_eq!(std::fs::read_link(lab.path("/run/lab/b/bridge")).unwrap().to_str(), Some("cni-box"));
    lab.sh("mv /run/lab/b /run/lab/c").success();
    assert!(version_reply(&lab, &["/run/lab/c/bridge"]).contains("1.1.0"));
    lab.run(&["/run/lab/c/cni-box", "--uninstall", "/run/lab/c"]).success();
    assert_eq!(lab.list("/run/lab/c"), ["cni-box"]);
}

#[test]
fn installing_goes_on_past_a_name_that_cannot_be_replaced() {
    let lab = Lab::bare();
    lab.sh("mkdir -p /run/lab/bin/bridge").success();
    let outcome = lab.run(&[&binary(), "--install", "/run/lab/bin"]);
    assert_eq!(outcome.code, Some(1));
    assert!(outcome.stderr.contains("failed to install /run/lab/bin/bridge: is a directory"), "{outcome:?}");
    assert!(version_reply(&lab, &["/run/lab/bin/static"]).contains("1.1.0"));
}

#[test]
fn installing_keeps_the_owner_and_the_mode_of_the_folder_and_replaces_what_was_there() {
    let lab = Lab::bare();
    lab.sh("mkdir -m 2750 /run/lab/bin; echo old > /run/lab/bin/bridge; echo foreign > /run/lab/bin/calico").success();
    let before = std::fs::metadata(lab.path("/run/lab/bin")).unwrap();
    lab.run(&[&binary(), "--install", "/run/lab/bin"]).success();
    let after = std::fs::metadata(lab.path("/run/lab/bin")).unwrap();
    assert_eq!((after.mode(), after.uid(), after.gid()), (before.mode(), before.uid(), before.gid()));
    assert_eq!(after.permissions().mode() & 0o7777, 0o2750);
    assert!(version_reply(&lab, &["/run/lab/bin/bridge"]).contains("1.1.0"));
    assert_eq!(lab.read("/run/lab/bin/calico"), "foreign\n");
}

#[test]
fn uninstalling_leaves_what_is_not_ours() {
    let lab = Lab::bare();
    lab.sh("mkdir /run/lab/bin").success();
    lab.run(&[&binary(), "--install", "/run/lab/bin"]).success();
    lab.sh("cd /run/lab/bin; rm bridge static loopback; echo foreign > bridge; ln -s /bin/true static
        ln -s /nowhere loopback; echo calico > calico; mkdir folder")
        .success();
    lab.run(&[&binary(), "--uninstall", "/run/lab/bin"]).success();
    assert_eq!(lab.list("/run/lab/bin"), ["bridge", "calico", "folder", "loopback", "static"]);
    assert_eq!(lab.read("/run/lab/bin/bridge"), "foreign\n");
}

#[test]
fn installing_where_there_is_no_folder_or_no_right_is_an_error() {
    let lab = Lab::bare();
    lab.sh("echo x > /run/lab/file; mkdir /run/lab/ro; mount -t tmpfs -o ro tmpfs /run/lab/ro").success();
    for folder in ["/run/lab/file", "/run/lab/ro"] {
        let outcome = lab.run(&[&binary(), "--install", folder]);
        assert_eq!(outcome.code, Some(1), "{outcome:#?}");
        assert!(outcome.stderr.contains(folder), "{outcome:#?}");
    }
    assert_eq!(lab.run(&[&binary(), "--install"]).code, Some(1));
}

#[test]
fn a_name_that_is_a_folder_is_not_replaced() {
    let lab = Lab::bare();
    lab.sh("mkdir -p /run/lab/bin/bridge/content").success();
    let outcome = lab.run(&[&binary(), "--install", "/run/lab/bin"]);
    assert_eq!(outcome.code, Some(1), "{outcome:#?}");
    assert!(lab.exists("/run/lab/bin/bridge/content"));
}

#[test]
fn one_bare_file_is_enough() {
    let lab = Lab::bare();
    lab.netns("ns1");
    let config = json!({"cniVersion": "1.0.0", "name": "net", "plugins": [bridge_config(&json!({"isGateway": true}))]});
    lab.write("/etc/cni/net.d/net.conflist", config.to_string());
    for verb in ["add", "check", "del"] {
        let words = ["cnitool", verb, "net", "/var/run/netns/ns1"];
        Call::new(&lab, &binary()).args_list(&words).run().success();
    }
    assert_eq!((lab.reserved("net").len(), lab.veths().len()), (0, 0));
}
