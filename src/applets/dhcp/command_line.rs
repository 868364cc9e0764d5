//! `dhcp daemon`: the flags of the reference, in the spelling of Go's flag package: `-x VALUE`, `-x=VALUE`, `--x…`, and
//! `-x` or `-x=true` for truth values. What follows the flags is ignored.

use crate::cni::Host;
use crate::cni::serve::Answer;
use crate::dhcp::client::Timing;
use crate::dhcp::daemon::{self, Options};
use crate::dhcp::dial::DEFAULT_SOCKET;

const USAGE: &str = "Usage of daemon:
  -broadcast
    	ask servers to broadcast their answers
  -hostprefix string
    	prefix of the host's root, for the socket, the leases on disk and network namespaces
  -pidfile string
    	absolute path of a file to write the process id to
  -resendmax duration
    	waits and pauses are doubled until they are this long (default 1m2s)
  -resendtimeout duration
    	when to give up an attempt to get a lease (default 3m28s)
  -socketpath string
    	where to listen (default \"/run/cni/dhcp.sock\")
  -timeout duration
    	how long to wait for an answer, doubled for each repetition (default 4s)
";

/// Why there is nothing to run.
#[derive(Debug, PartialEq, Eq)]
enum Stop {
    Help,
    Wrong(String),
}

/// Runs the daemon that `arguments` (those behind `daemon`) describe, to its end. Gives what is left to print, and the
/// exit status.
pub fn run(arguments: &[String], host: &Host) -> (Answer, u8) {
    let said = |stderr: String| Answer { stderr, ..Answer::default() };
    let mut options = match parse(arguments) {
        Ok(options) => options,
        Err(Stop::Help) => return (said(USAGE.to_string()), 0),
        Err(Stop::Wrong(text)) => return (said(format!("{text}\n{USAGE}")), 2),
    };
    options.passed = (host.variable("LISTEN_PID"), host.variable("LISTEN_FDS"));
    match daemon::run(options) {
        Ok(()) => (Answer::default(), 0),
        Err(error) => (said(format!("{error}\n")), 1),
    }
}

fn parse(arguments: &[String]) -> Result<Options, Stop> {
    let mut options = Options { socket: DEFAULT_SOCKET.to_string(), timing: Timing::default(), ..Options::default() };
    let mut words = arguments.iter();
    while let Some(word) = words.next() {
        let Some(flag) = word.strip_prefix('-').filter(|flag| !flag.is_empty()) else { break };
        let flag = flag.strip_prefix('-').unwrap_or(flag);
        if flag.is_empty() {
            break;
        }
        if flag.starts_with(['-', '=']) {
            return Err(Stop::Wrong(format!("bad flag syntax: {word}")));
        }
        let (name, value) = flag.split_once('=').map_or((flag, None), |(name, value)| (name, Some(value)));
        let value = match (name, value) {
            ("h" | "help", _) => return Err(Stop::Help),
            ("broadcast", None) => "true",
            (_, Some(value)) => value,
            // Before the missing value, as unknown flags are told first.
            (name, None) if !is_known(name) => "",
            (name, None) => match words.next() {
                Some(value) => value,
                None => return Err(Stop::Wrong(format!("flag needs an argument: -{name}"))),
            },
        };
        set(&mut options, name, value)?;
    }
    if options.socket.is_empty() {
        options.socket = DEFAULT_SOCKET.to_string();
    }
    Ok(options)
}

fn is_known(name: &str) -> bool {
    USAGE.lines().any(|line| line.trim_start().strip_prefix('-').and_then(|flag| flag.split(' ').next()) == Some(name))
}

fn set(options: &mut Options, name: &str, value: &str) -> Result<(), Stop> {
    match name {
        "pidfile" => options.pid_file = value.to_string(),
        "hostprefix" => options.host_prefix = value.to_string(),
        "socketpath" => options.socket = value.to_string(),
        "broadcast" => {
            let invalid = || Stop::Wrong(format!("invalid boolean value {value:?} for -broadcast: parse error"));
            options.broadcast = boolean(value).ok_or_else(invalid)?;
        }
        "timeout" | "resendmax" | "resendtimeout" => {
            let invalid = || Stop::Wrong(format!("invalid value {value:?} for flag -{name}: parse error"));
            let milliseconds = duration(value).ok_or_else(invalid)?;
            match name {
                "timeout" => options.timing.timeout = milliseconds,
                "resendmax" => options.timing.resend_max = milliseconds,
                _ => options.timing.resend_timeout = milliseconds,
            }
        }
        _ => return Err(Stop::Wrong(format!("flag provided but not defined: -{name}"))),
    }
    Ok(())
}

/// Go's `strconv.ParseBool`.
fn boolean(text: &str) -> Option<bool> {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Some(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Some(false),
        _ => None,
    }
}

/// Go's `time.ParseDuration`, in milliseconds and at least one: numbers with units, as in `1m2.5s`.
/// No time in the past, and none that 63 bits of nanoseconds cannot hold.
fn duration(text: &str) -> Option<u32> {
    let mut rest = text.strip_prefix('+').unwrap_or(text);
    let mut nanoseconds = 0u64;
    if rest == "0" {
        return Some(1);
    }
    while !rest.is_empty() {
        let end = rest.find(|letter: char| !letter.is_ascii_digit() && letter != '.')?;
        let (number, tail) = rest.split_at_checked(end)?;
        let end = tail.find(|letter: char| letter.is_ascii_digit() || letter == '.').unwrap_or(tail.len());
        let (unit, tail) = tail.split_at_checked(end)?;
        nanoseconds = nanoseconds.saturating_add(scaled(number, unit)?);
        rest = tail;
    }
    let milliseconds = (nanoseconds / 1_000_000).max(1);
    let is_duration = !text.is_empty() && i64::try_from(nanoseconds).is_ok();
    is_duration.then(|| u32::try_from(milliseconds).unwrap_or(u32::MAX))
}

/// A number with a fraction in nanoseconds.
fn scaled(number: &str, unit: &str) -> Option<u64> {
    let mut unit: u64 = match unit {
        "ns" => 1,
        "us" | "µs" | "μs" => 1_000,
        "ms" => 1_000_000,
        "s" => 1_000_000_000,
        "m" => 60_000_000_000,
        "h" => 3_600_000_000_000,
        _ => return None,
    };
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if whole.len() + fraction.len() == 0 || fraction.contains('.') {
        return None;
    }
    let whole: u64 = if whole.is_empty() { 0 } else { whole.parse().ok()? };
    let mut total = whole.saturating_mul(unit);
    for digit in fraction.bytes() {
        unit /= 10;
        total = total.saturating_add(u64::from(digit - b'0') * unit);
    }
    Some(total)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(words: &str) -> Result<Options, Stop> {
        parse(&words.split_whitespace().map(str::to_string).collect::<Vec<_>>())
    }

    #[test]
    fn every_flag_in_every_spelling() {
        let words = "-pidfile /p --hostprefix=/host -socketpath /s -broadcast -timeout 500ms -resendmax=1m --resendtimeout 1h0.5s x -y";
        let options = parsed(words).unwrap();
        assert_eq!(
            (options.pid_file.as_str(), options.host_prefix.as_str(), options.socket.as_str()),
            ("/p", "/host", "/s")
        );
        assert!(options.broadcast);
        assert_eq!(options.timing, Timing { timeout: 500, resend_max: 60_000, resend_timeout: 3_600_500 });
        let options = parsed("-broadcast=false -socketpath= -- -x").unwrap();
        assert_eq!(
            (options.broadcast, options.socket.as_str(), options.timing),
            (false, DEFAULT_SOCKET, Timing::default())
        );
    }

    #[test]
    fn what_is_wrong_is_told_in_gos_words() {
        let wrong = |words| match parsed(words) {
            Err(Stop::Wrong(text)) => text,
            other => panic!("{words}: {other:?}"),
        };
        assert_eq!(wrong("-nope"), "flag provided but not defined: -nope");
        assert_eq!(wrong("-nope=1"), "flag provided but not defined: -nope");
        assert_eq!(wrong("-timeout"), "flag needs an argument: -timeout");
        assert_eq!(wrong("-timeout 5"), "invalid value \"5\" for flag -timeout: parse error");
        assert_eq!(wrong("-timeout -5s"), "invalid value \"-5s\" for flag -timeout: parse error");
        assert_eq!(wrong("-broadcast=x"), "invalid boolean value \"x\" for -broadcast: parse error");
        assert_eq!(wrong("---x"), "bad flag syntax: ---x");
        assert_eq!(parsed("-h").unwrap_err(), Stop::Help);
        assert_eq!(parsed("--help").unwrap_err(), Stop::Help);
    }

    #[test]
    fn durations_are_gos() {
        for (text, milliseconds) in
            [("10s", 10_000), ("3m28s", 208_000), ("1.5h", 5_400_000), ("1us", 1), ("0", 1), ("2562047h", u32::MAX)]
        {
            assert_eq!(duration(text), Some(milliseconds), "{text}");
        }
        for bad in ["", "s", ".s", "1", "1x", "1.2.3s", "é", "1s2", "2562048h", "9999999h"] {
            assert_eq!(duration(bad), None, "{bad}");
        }
    }
}
