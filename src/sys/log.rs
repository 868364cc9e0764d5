//! What was done and how long each step took, for whoever asks by `CNI_BOX_LOG`. Off, it costs one look at a variable in
//! memory a step.
//!
//! One JSON object a line, in one write, so that many processes may share a file:
//!
//! | key | |
//! |---|---|
//! | `time` | when the step ended (RFC 3339, UTC, microseconds) |
//! | `pid` | process |
//! | `plugin`, `command`, `network`, `container`, `ifname`, `netns` | the innermost call at work; missing outside of one |
//! | `step` | what was done |
//! | `us` | how long it took, in microseconds; `start` has none |
//! | `error` | why it failed, if it did |

use std::fmt::{Arguments, Display, Write};
use std::fs::{File, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::net::UnixDatagram;
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crate::error::{Context, Error, Result};
use crate::sys::output;

/// The environment variable that asks for it.
pub const VARIABLE: &str = "CNI_BOX_LOG";

/// Where systemd's journal takes datagrams of `FIELD=value` lines (systemd's "native journal protocol").
const JOURNAL: &str = "/run/systemd/journal/socket";

/// Configurations, and so names, are nobody else's business.
const FILE_MODE: u32 = 0o600;

enum Sink {
    StandardError,
    Journal(UnixDatagram),
    File(File),
}

static SINK: OnceLock<Sink> = OnceLock::new();

/// The calls at work, the innermost last, each as members of an object.
static CALLS: Mutex<Vec<String>> = Mutex::new(Vec::new());

/// Turns it on. `target` is `stderr`, `journal` or a file's path; lines are added to the file's end.
pub fn open(target: &str) -> Result<()> {
    let sink = match target {
        "stderr" => Sink::StandardError,
        "journal" => Sink::Journal(journal().with_context(|| format!("failed to connect to {JOURNAL}"))?),
        path => Sink::File(
            OpenOptions::new()
                .append(true)
                .create(true)
                .mode(FILE_MODE)
                // A pipe without a reader, or with a slow one, must not hold up the network either.
                .custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY)
                .open(path)
                .with_context(|| format!("failed to open {path:?}"))?,
        ),
    };
    // The first one stays.
    let _ = SINK.set(sink);
    Ok(())
}

fn journal() -> std::io::Result<UnixDatagram> {
    let socket = UnixDatagram::unbound()?;
    socket.connect(JOURNAL)?;
    // A journal that is busy must not hold up the network.
    socket.set_nonblocking(true)?;
    Ok(socket)
}

/// A step that has begun.
#[must_use]
pub struct Step(Option<(String, Instant)>);

impl Step {
    /// `what` is only put into words when somebody listens.
    pub fn begin(what: Arguments<'_>) -> Self {
        Step(SINK.get().map(|_| (what.to_string(), Instant::now())))
    }

    /// Tells how it ended, and hands that on.
    pub fn end<T, E: Display>(self, outcome: std::result::Result<T, E>) -> std::result::Result<T, E> {
        self.end_with(outcome.as_ref().err().map(|error| error as &dyn Display));
        outcome
    }

    /// Tells that it ended, and why it failed.
    pub fn end_with(self, error: Option<&dyn Display>) {
        if let (Some((what, started)), Some(sink)) = (self.0, SINK.get()) {
            ended(sink, &what, started, error);
        }
    }
}

/// A plugin's call; steps until its end are told as its own.
#[must_use]
pub struct Call(Option<Instant>);

impl Call {
    /// Tells that it starts.
    pub fn begin(plugin: &str, command: &str, container: &str, ifname: &str, netns: &str) -> Self {
        Call(SINK.get().map(|sink| {
            let named = [
                ("plugin", plugin),
                ("command", command),
                ("container", container),
                ("ifname", ifname),
                ("netns", netns),
            ];
            calls().push(named.iter().map(|(name, value)| member(name, value)).collect());
            write(sink, &member("step", "start"));
            Instant::now()
        }))
    }

    /// Tells that it ended, and why it failed.
    pub fn end(self, error: Option<&Error>) {
        if let (Some(started), Some(sink)) = (self.0, SINK.get()) {
            ended(sink, "end", started, error.map(|error| error as _));
            calls().pop();
        }
    }
}

/// What became known of the innermost call.
pub fn add_to_call(name: &str, value: &str) {
    if SINK.get().is_some()
        && let Some(call) = calls().last_mut()
    {
        *call += &member(name, value);
    }
}

fn calls() -> MutexGuard<'static, Vec<String>> {
    CALLS.lock().unwrap_or_else(PoisonError::into_inner)
}

fn ended(sink: &Sink, what: &str, started: Instant, error: Option<&dyn Display>) {
    let error = error.map_or(String::new(), |error| member("error", &error.to_string()));
    write(sink, &format!("{},\"us\":{}{error}", member("step", what), started.elapsed().as_micros()));
}

/// Nobody can be told when a line cannot be written, and nothing that matters depends on it.
fn write(sink: &Sink, members: &str) {
    let call = calls().last().cloned().unwrap_or_default();
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let line = format!("{{\"time\":\"{}\",\"pid\":{}{call}{members}}}\n", utc(now), std::process::id());
    let _ = match sink {
        Sink::StandardError => output::print_error(line.as_bytes()),
        Sink::Journal(socket) => {
            let fields = format!("SYSLOG_IDENTIFIER=cni-box\nPRIORITY=7\nMESSAGE={line}");
            socket.send(fields.as_bytes()).map(drop).map_err(Into::into)
        }
        Sink::File(file) => (&*file).write_all(line.as_bytes()).map_err(Into::into),
    };
}

/// A comma, a name and a string.
fn member(name: &str, value: &str) -> String {
    let mut text = format!(",\"{name}\":\"");
    for letter in value.chars() {
        let _ = match letter {
            '"' | '\\' => write!(text, "\\{letter}"),
            letter if letter < ' ' => write!(text, "\\u{:04x}", u32::from(letter)),
            letter => text.write_char(letter),
        };
    }
    text + "\""
}

/// The date by Howard Hinnant's `civil_from_days`: years that begin in March, in eras of 400.
fn utc(since_epoch: Duration) -> String {
    let seconds = since_epoch.as_secs();
    let days = seconds / 86_400 + 719_468;
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    let (hour, minute, second) = (seconds / 3_600 % 24, seconds / 60 % 60, seconds % 60);
    format!("{year}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{:06}Z", since_epoch.subsec_micros())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_those_of_the_calendar() {
        let text = |seconds, micros| utc(Duration::from_secs(seconds) + Duration::from_micros(micros));
        assert_eq!(text(0, 0), "1970-01-01T00:00:00.000000Z");
        assert_eq!(text(951_782_399, 999_999), "2000-02-28T23:59:59.999999Z");
        assert_eq!(text(951_782_400, 7), "2000-02-29T00:00:00.000007Z");
        assert_eq!(text(1_795_262_405, 0), "2026-11-21T12:00:05.000000Z");
        assert_eq!(text(4_107_542_400, 0), "2100-03-01T00:00:00.000000Z");
    }

    #[test]
    fn strings_are_json() {
        assert_eq!(member("error", "a \"b\"\\\n\u{e9}"), ",\"error\":\"a \\\"b\\\"\\\\\\u000a\u{e9}\"");
    }
}
