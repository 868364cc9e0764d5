//! What the table test has seen, and whether COMPAT.md says so.

use std::fmt::Write as _;

use super::rows::{Place, Row, rows_of};
use crate::lab::{Outcome, new_reference_is_known, without_random_names};

/// The differences of one plugin.
pub struct Report {
    rows: Vec<Row>,
    /// Rows about a call that was made, and those that told a difference.
    met: Vec<bool>,
    used: Vec<bool>,
    unexplained: String,
}

impl Report {
    pub fn new(plugin: &str) -> Report {
        let rows = rows_of(plugin);
        let none = vec![false; rows.len()];
        Report { rows, met: none.clone(), used: none, unexplained: String::new() }
    }

    /// Compares the reference's answer and ours.
    pub fn compare(&mut self, place: Place<'_>, outcomes: &[Outcome; 2]) {
        let [theirs, ours] = outcomes.each_ref().map(|outcome| Answer::of(outcome, place));
        let mut told = theirs == ours;
        for (at, row) in self.rows.iter().enumerate().filter(|(_, row)| row.is_about(place)) {
            let tells = theirs != ours && row.tells(&theirs.text, &ours.text);
            self.met[at] = true;
            self.used[at] |= tells;
            told |= tells;
        }
        if !told {
            let Place { plugin, version, verb, case } = place;
            let (theirs, ours) = (&theirs.text, &ours.text);
            writeln!(self.unexplained, "| {plugin} | {version} | {verb} | {case} | `{theirs}` | `{ours}` | WHY |")
                .unwrap();
        }
    }

    pub fn judge(&self) {
        if !new_reference_is_known() {
            eprintln!("Debian's sid has another reference now; what is new:\n{}", self.unexplained);
            return;
        }
        assert!(self.unexplained.is_empty(), "differences that no row of COMPAT.md tells:\n{}", self.unexplained);
        let flags = self.met.iter().zip(&self.used);
        let stale: Vec<_> = self.rows.iter().zip(flags).filter(|(_, (met, used))| **met && !**used).collect();
        assert!(stale.is_empty(), "rows of COMPAT.md that tell no difference: {stale:#?}");
    }
}

/// What counts in an outcome.
#[derive(PartialEq, Eq)]
struct Answer {
    code: Option<i32>,
    stdout: String,
    stderr: String,
    /// All of it in one line, as COMPAT.md quotes it.
    text: String,
}

impl Answer {
    fn of(outcome: &Outcome, place: Place<'_>) -> Answer {
        let stdout = without_random_names(&outcome.stdout);
        let stderr = if place.verb == super::NONE { about(&outcome.stderr) } else { noise(&outcome.stderr) };
        let mut text = in_words(outcome.code, &stdout);
        if !stderr.is_empty() {
            write!(text, ", says {}", stderr.trim()).unwrap();
        }
        Answer { code: outcome.code, text: text.replace('\n', " "), stdout, stderr }
    }
}

/// `success RESULT`, `code 7: MESSAGE; DETAILS`, or `exit 2`, which is a crash in Go.
fn in_words(code: Option<i32>, stdout: &str) -> String {
    let squeezed = stdout.split_whitespace().collect::<Vec<_>>().join(" ");
    match (code, serde_json::from_str::<serde_json::Value>(stdout)) {
        (Some(0), _) => format!("success {squeezed}").trim().to_string(),
        (Some(1), Ok(error)) => {
            let text = |key: &str| error[key].as_str().unwrap_or_default().to_string();
            let (msg, details) = (text("msg"), text("details"));
            let details = if details.is_empty() { details } else { format!("; {details}") };
            format!("code {}: {msg}{details}", error["code"])
        }
        (Some(code), _) => format!("exit {code} {squeezed}").trim().to_string(),
        (None, _) => "killed".to_string(),
    }
}

/// Line 1 of the about text without the version, and line 2. `tests/about.rs` looks at the rest.
fn about(stderr: &str) -> String {
    let mut lines = stderr.lines();
    let name = lines.next().unwrap_or_default().split(" plugin ").next().unwrap_or_default();
    format!("{name}\n{}\n", lines.next().unwrap_or_default())
}

/// That something is said, not what.
fn noise(stderr: &str) -> String {
    if stderr.is_empty() { String::new() } else { "something".to_string() }
}
