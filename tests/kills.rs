//! An ADD that is killed before, or refused, any of its changes, and what is left of it. Other plugins' tests are beside
//! their other tests; they use [`Trial`].

use std::collections::HashMap;

use serde_json::{Value, json};

use crate::accidents::{assert_untouched, full};
use crate::lab::{Call, Lab, Outcome, bridge_config, merged};

/// System calls that change something outside the process.
const CHANGING: [&str; 18] = [
    "sendmsg",
    "sendto",
    "sendmmsg",
    "write",
    "pwrite64",
    "writev",
    "linkat",
    "link",
    "mkdir",
    "mkdirat",
    "unlink",
    "unlinkat",
    "rename",
    "renameat",
    "renameat2",
    "ftruncate",
    "setsockopt",
    "exit_group",
];

/// Every call of an ADD that changes something, as name and ordinal among the calls of that name: to die before each of
/// them is to die in every state that others can see.
pub fn changing_calls(lab: &Lab, call: &Call<'_>) -> Vec<(String, usize)> {
    call.clone().traced(&["-o", "/run/lab/trace"], "").run().success();
    let mut counts: HashMap<String, usize> = HashMap::new();
    let mut points = Vec::new();
    for line in lab.read("/run/lab/trace").lines() {
        let (name, rest) = line.split_once(' ').unwrap().1.trim_start().split_once('(').unwrap_or_default();
        let ordinal = counts.entry(name.to_string()).and_modify(|count| *count += 1).or_insert(1);
        // musl calls open where glibc calls openat.
        let creates = name.starts_with("open") && (rest.contains("O_CREAT") || rest.contains("O_TMPFILE"));
        if creates || CHANGING.contains(&name) {
            points.push((name.to_string(), *ordinal));
        }
    }
    assert!(points.len() > 10, "only {points:?}");
    points
}

/// How many of the traced calls may be missing the next time: an ADD looks once whether its port is up, and only if it is
/// not does it open a socket for events and look again.
const WAITING: usize = 10;

/// Kills the call before one of its system calls. False when it came to its end without that call.
pub fn kill_at(call: &Call<'_>, (name, ordinal): &(String, usize)) -> bool {
    let inject = format!("inject={name}:signal=KILL:when={ordinal}");
    call.clone().traced(&["-o", "/dev/null", "-e", &inject], name).run().code != Some(0)
}

/// Makes one of the call's system calls fail, with an error that says nothing of whether another way would do (see `refusals`
/// for those that do). False when the call succeeded nevertheless.
pub fn refuse_at(call: &Call<'_>, (name, ordinal): &(String, usize)) -> bool {
    let inject = format!("inject={name}:error=EIO:when={ordinal}");
    call.clone().traced(&["-o", "/dev/null", "-e", &inject], name).run().code != Some(0)
}

/// Runs the call and gives the ordinal, among its system calls of this name, of the first whose line
/// in the trace has these words.
pub fn ordinal_of(lab: &Lab, call: &Call<'_>, name: &str, words: &str) -> usize {
    let trace = format!("trace={name}");
    call.clone().under(&["strace", "-f", "-qq", "-o", "/run/lab/trace", "-e", &trace]).run().success();
    let trace = lab.read("/run/lab/trace");
    trace.lines().position(|line| line.contains(words)).unwrap_or_else(|| panic!("no {words}: {trace}")) + 1
}

/// Runs the call with the system call of this name and ordinal refused. The trace shows that it was
/// one with these words.
pub fn run_refused(lab: &Lab, call: &Call<'_>, name: &str, words: &str, (ordinal, errno): (usize, &str)) -> Outcome {
    let (trace, inject) = (format!("trace={name}"), format!("inject={name}:error={errno}:when={ordinal}"));
    let strace = ["strace", "-f", "-qq", "-o", "/run/lab/trace", "-e", &trace, "-e", &inject];
    let outcome = call.clone().under(&strace).run();
    let trace = lab.read("/run/lab/trace");
    let refused = trace.lines().find(|line| line.ends_with("(INJECTED)"));
    assert!(refused.is_some_and(|line| line.contains(words)), "not refused: {trace}");
    outcome
}

pub fn assert_nearly_all(killed: usize, points: usize) {
    assert!(killed + WAITING >= points && killed * 2 > points, "only {killed} of {points} were killed");
}

/// What happens to an ADD.
#[derive(Clone, Copy)]
pub enum Accident {
    /// It is killed before each of its changes: DEL leaves nothing.
    Killed,
    /// It is refused each of its changes, one at a time: what fails has left nothing already. Not everything is needed.
    Refused,
}

/// All changes.
pub fn every(_: &str) -> bool {
    true
}

/// Those of links, addresses and routes, for the guest, where programs start slowly: files are the same everywhere.
pub fn of_the_kernel(name: &str) -> bool {
    name.starts_with("send") || name == "ioctl"
}

/// An ADD that accidents happen to, on a host where one has come and gone already.
pub struct Trial<'a> {
    pub lab: &'a Lab,
    pub add: Call<'a>,
    /// The DEL of a runtime that has no result.
    pub delete: Call<'a>,
    /// So many of the ADD's ioctls count among its changes.
    pub ioctls: usize,
    /// Which of the changes, by the names of their system calls: [`every`] one, or [`of_the_kernel`].
    pub which: fn(&str) -> bool,
    /// Panics if anything of the ADD is left.
    pub untouched: &'a dyn Fn(),
}

impl Trial<'_> {
    fn points(&self) -> Vec<(String, usize)> {
        let mut points = changing_calls(self.lab, &self.add);
        points.extend((1..=self.ioctls).map(|ordinal| ("ioctl".to_string(), ordinal)));
        points.retain(|(name, _)| (self.which)(name));
        self.delete.run().silent();
        points
    }

    /// Goes through all accidents of a kind.
    pub fn suffers(&self, accident: Accident) {
        match accident {
            Accident::Killed => self.is_killed(),
            Accident::Refused => self.is_refused(),
        }
    }

    fn is_killed(&self) {
        let points = self.points();
        let mut killed = 0;
        for point in &points {
            eprintln!("killed before {point:?}");
            killed += usize::from(kill_at(&self.add, point));
            self.delete.run().silent();
            (self.untouched)();
        }
        assert_nearly_all(killed, points.len());
    }

    fn is_refused(&self) {
        let points = self.points();
        let mut failed = 0;
        for point in points.iter().filter(|(name, _)| name != "exit_group") {
            eprintln!("refused {point:?}");
            match refuse_at(&self.add, point) {
                true => failed += 1,
                false => drop(self.delete.run().silent()),
            }
            (self.untouched)();
        }
        // Of the changes of the kernel's network each one is needed. (The kind of a namespace can be found without ioctl.)
        let asked = points.iter().filter(|(name, _)| name.starts_with("send")).count();
        assert!(failed > 5 || failed >= asked && asked > 0, "only {failed} of {points:?} failed");
    }
}

/// Accidents to an ADD for `ns1`, before any of its changes (so many ioctls are among them). One that came and went before
/// has left all there is to be left.
pub fn suffers(lab: &Lab, add: Call<'_>, ioctls: usize, accident: Accident) {
    let delete = add.clone().verb("DEL");
    add.run().result();
    delete.run().silent();
    let before = lab.snapshot();
    let untouched = || assert_untouched(lab, &before);
    Trial { lab, add, delete, ioctls, which: every, untouched: &untouched }.suffers(accident);
}

/// Accidents on a host of this flavour with `ns1`, whose bridge is there.
fn on_a_bridge(flavour: &str, changes: &Value, accident: Accident) {
    let lab = Lab::new();
    lab.install_iptables(flavour);
    lab.netns("ns1");
    let add = lab.plugin("bridge").config(&merged(bridge_config(&full()), changes));
    suffers(&lab, add, 0, accident);
}

#[test]
fn better_del_cleans_up_after_an_add_killed_before_any_of_its_changes() {
    on_a_bridge("nft", &json!({}), Accident::Killed);
}

#[test]
fn better_del_cleans_up_after_an_add_killed_before_any_of_its_changes_with_legacy_tables() {
    on_a_bridge("legacy", &json!({}), Accident::Killed);
}

#[test]
fn better_del_cleans_up_after_a_killed_add_with_rules_in_tables_of_our_own() {
    on_a_bridge("nft", &json!({"ipMasqBackend": "nftables", "macspoofchk": true}), Accident::Killed);
}

#[test]
fn better_an_add_that_is_refused_any_of_its_changes_leaves_everything_as_it_was() {
    on_a_bridge("nft", &json!({}), Accident::Refused);
    on_a_bridge("legacy", &json!({}), Accident::Refused);
    on_a_bridge("nft", &json!({"ipMasqBackend": "nftables", "macspoofchk": true}), Accident::Refused);
}

#[test]
fn better_the_very_first_add_may_be_killed_before_any_of_its_changes() {
    let config = bridge_config(&full());
    let fresh = || {
        let lab = Lab::new();
        lab.netns("ns1");
        lab
    };
    let lab = fresh();
    let points = changing_calls(&lab, &lab.plugin("bridge").config(&config));
    let mut killed = 0;
    for point in points.iter().step_by(2) {
        let lab = fresh();
        let bridge = lab.plugin("bridge").config(&config);
        killed += usize::from(kill_at(&bridge, point));
        bridge.clone().verb("DEL").run().silent();
        eprintln!("killed before {point:?}");
        assert_eq!((lab.veths().len(), lab.rules().len(), lab.reserved("net").len()), (0, 0, 0));
        let result = bridge.run().result();
        let checked = merged(config.clone(), &json!({"prevResult": result}));
        bridge.clone().verb("CHECK").config(&checked).run().silent();
    }
    assert_nearly_all(killed, points.len().div_ceil(2));
}

#[test]
fn better_a_killed_del_is_finished_by_the_next() {
    let lab = Lab::new();
    lab.netns("ns1");
    let bridge = lab.plugin("bridge").config(&bridge_config(&full()));
    bridge.run().result();
    let delete = bridge.clone().verb("DEL");
    let points = changing_calls(&lab, &delete);
    let before = lab.snapshot();
    for point in &points {
        bridge.run().result();
        assert!(kill_at(&delete, point), "not killed at {point:?}");
        delete.run().silent();
        eprintln!("killed before {point:?}");
        assert_untouched(&lab, &before);
    }
}

#[test]
fn better_del_cleans_up_after_an_add_of_firewall_killed_before_any_of_its_changes() {
    for (flavour, backend) in [("nft", "iptables"), ("legacy", "iptables"), ("nft", "nftables")] {
        let lab = crate::firewall::lab(flavour);
        let config =
            crate::firewall::config(crate::firewall::DUAL, &json!({"backend": backend, "ingressPolicy": "isolated"}));
        let add = lab.plugin("firewall").config(&config);
        // A runtime whose ADD was killed has no result to hand out.
        let delete = add.clone().verb("DEL").config(&merged(config.clone(), &json!({"prevResult": null})));
        add.run().result();
        delete.run().silent();
        let before = lab.snapshot();
        let untouched = || {
            before.assert_same(&lab.snapshot());
            assert_eq!(lab.list("/run/cni-box/firewall"), [""; 0], "{flavour} {backend}");
        };
        Trial { lab: &lab, add, delete, ioctls: 0, which: every, untouched: &untouched }.suffers(Accident::Killed);
    }
}
