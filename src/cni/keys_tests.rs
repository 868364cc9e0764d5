use serde_json::{Value, json};

use super::*;

const TABLE: &str = "\
text: string
flag: bool
number: 1..4094
more: 0..
mild: ?0..9|auto
mode: a|b
address: ip
net: cidr
hardware: mac
list[]: ip|cidr
deep.ranges[][]: @range
map.*: string
free.*: any
inner: plugin
";

/// What is said about a document: level, path and text, in order.
fn found(document: Value) -> Vec<String> {
    let keys = Keys::of(&[TABLE, COMMON]);
    let (elsewhere, mut report) = (|key: &str| keys.path_to(key).map(|path| format!("at {path}")), Report::default());
    let plugin =
        |_: &Map<String, Value>, path: &str, report: &mut Report| report.say(Level::Note, path, &["looked into"]);
    let mut look = Look {
        keys: &keys,
        owner: "",
        exact: false,
        foreign: false,
        elsewhere: &elsewhere,
        plugin: &plugin,
        report: &mut report,
    };
    look.members(document.as_object().unwrap(), "", "");
    assert_eq!(report.text.matches(": error: ").count(), report.errors);
    assert_eq!(report.text.matches(": warning: ").count(), report.warnings);
    report.text.lines().map(str::to_string).collect()
}

fn one(document: Value) -> String {
    let found = found(document);
    assert_eq!(found.len(), 1, "{found:?}");
    found[0].clone()
}

#[test]
fn what_is_allowed_is_not_spoken_of() {
    let good = json!({
        "text": "", "flag": false, "number": 4094, "more": u64::MAX, "mild": "auto", "mode": "b",
        "address": "fd00::1", "net": "10.0.0.5/24", "hardware": "02-00-00-00-00-01", "list": ["10.0.0.1", "10.0.0.1/8", null],
        "deep": {"ranges": [[{"subnet": "10.0.0.0/8", "gateway": ""}, null], null]},
        "map": {"a.b": "x"}, "free": {"a": [{"b": 1}]}, "args": {"cni": {"x": 1}, "y": {}}, "dns": {"search": ["x"]},
        "capabilities": {"x": true}, "_comment": 1, "cni.dev/x": {}, "prevResult": {"x": 1}, "type": null,
    });
    assert_eq!(found(good), Vec::<String>::new());
}

#[test]
fn each_type_says_what_it_allows() {
    let cases = [
        (json!({"text": 1}), "text 1 is not allowed here; allowed: a string"),
        (json!({"flag": "bool"}), "flag \"bool\" is not allowed here; allowed: true or false"),
        (json!({"number": 0}), "number 0 is not allowed here; allowed: a whole number from 1 to 4094"),
        (
            json!({"number": "1..4094"}),
            "number \"1..4094\" is not allowed here; allowed: a whole number from 1 to 4094",
        ),
        (json!({"number": 1.5}), "number 1.5 is not allowed here; allowed: a whole number from 1 to 4094"),
        (json!({"number": 1e300}), "number 1e+300 is not allowed here; allowed: a whole number from 1 to 4094"),
        (json!({"more": -1}), "more -1 is not allowed here; allowed: a whole number from 0 on"),
        (json!({"mode": "c"}), "mode \"c\" is not allowed here; allowed: \"a\" or \"b\""),
        (json!({"address": "10.0.0"}), "address \"10.0.0\" is not allowed here; allowed: an address like \"10.1.2.3\""),
        (
            json!({"net": "10.0.0.1"}),
            "net \"10.0.0.1\" is not allowed here; allowed: an address with prefix length like \"10.1.2.0/24\"",
        ),
        (
            json!({"hardware": "x"}),
            "hardware \"x\" is not allowed here; allowed: a hardware address like \"02:00:00:00:00:01\"",
        ),
        (json!({"list": {}}), "list an object is not allowed here; allowed: a list"),
        (json!({"deep": []}), "deep a list is not allowed here; allowed: an object"),
        (json!({"deep": ""}), "deep \"\" is not allowed here; allowed: an object"),
        (json!({"deep": {"ranges": [{}]}}), "deep.ranges[0] an object is not allowed here; allowed: a list"),
        (json!({"deep": {"ranges": [[[]]]}}), "deep.ranges[0][0] a list is not allowed here; allowed: an object"),
        (json!({"map": {"a.b": 1}}), "map.\"a.b\" 1 is not allowed here; allowed: a string"),
        (json!({"inner": 1}), "inner 1 is not allowed here; allowed: an object"),
    ];
    for (document, expected) in cases {
        assert_eq!(one(document), expected.replacen(' ', ": error: ", 1));
    }
    let range = json!({"deep": {"ranges": [[{}, {"rangeStart": "x"}]]}});
    assert!(one(range).starts_with("deep.ranges[0][1].rangeStart: error: \"x\""));
    assert_eq!(found(json!({"list": [1, "10.0.0.1", "y"]})).len(), 2);
    assert_eq!(one(json!({"inner": {}})), "inner: note: looked into");
}

#[test]
fn a_mild_type_only_warns_of_other_values_of_its_kind() {
    let allowed = "is not allowed here; allowed: a whole number from 0 to 9 or \"auto\"";
    assert_eq!(one(json!({"mild": 10})), format!("mild: warning: 10 {allowed}"));
    assert_eq!(one(json!({"mild": "10"})), format!("mild: error: \"10\" {allowed}"));
}

#[test]
fn an_unknown_key_is_told_where_it_belongs_or_what_was_meant() {
    let unknown = "unknown key, which has no effect;";
    assert_eq!(one(json!({"subnet": 1})), format!("subnet: warning: {unknown} it belongs at deep.ranges[0][0].subnet"));
    assert_eq!(one(json!({"dns": {"NET": 1}})), format!("dns.NET: warning: {unknown} it belongs at net"));
    assert_eq!(
        one(json!({"nameservers": []})),
        format!("nameservers: warning: {unknown} it belongs at dns.nameservers")
    );
    assert_eq!(one(json!({"adress": 1})), format!("adress: warning: {unknown} did you mean address"));
    let allowed = "allowed: nameservers, domain, search, options";
    assert_eq!(one(json!({"dns": {"z": 1}})), format!("dns.z: warning: {unknown} {allowed}"));
    assert!(one(json!({"\u{1b}[2J": 1})).starts_with("\"\\u{1b}[2J\": warning: unknown"));
}

#[test]
fn letter_case_does_not_matter_but_is_told() {
    assert_eq!(one(json!({"TEXT": "x"})), "TEXT: note: this key is usually written \"text\"");
    let both = found(json!({"TEXT": "x", "text": "y"}));
    assert_eq!(both.last().unwrap(), "text: warning: \"text\" is there twice, and only one counts");
}

#[test]
fn distances() {
    for (one, other, expected) in
        [("", "ab", 2), ("abc", "ABC", 0), ("abc", "axc", 1), ("abcd", "acd", 1), ("ab", "ba", 2)]
    {
        assert_eq!(distance(one.as_bytes(), other.as_bytes()), expected, "{one} {other}");
    }
    let near = |key| nearest(key, &["vlan", "cniVersion", "cniVersions"]);
    assert_eq!((near("VLANS"), near("vrf"), near("x")), (Some("vlan"), None, None));
    assert_eq!((near("cniversion"), near("CniVersions")), (Some("cniVersion"), Some("cniVersions")));
}
