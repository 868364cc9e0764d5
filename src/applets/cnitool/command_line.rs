//! The command line of cnitool: options, words, usage and the texts for mistakes (`cnitool/cmd` of the reference
//! library, which uses cobra, and the usage lines of its v1.3.0).

use argh::FromArgs;

use super::{DEFAULT_DIRECTORY, VERBS, Verb};
use crate::cni::environment::{validate_container_id, validate_ifname};
use crate::cni::serve::Answer;

const OPTIONS: &str = "  -i, --ifname string   Interface name (defaults to env var CNI_IFNAME or 'eth0')\n";

/// A complete command.
pub(super) struct Command {
    pub(super) verb: &'static Verb,
    /// What follows the verb; what is more than the verb knows of is ignored.
    pub(super) words: Vec<String>,
    /// Empty when the environment decides.
    pub(super) ifname: String,
    /// Attachments that GC leaves alone: container ids with interface names.
    pub(super) valid: Vec<(String, String)>,
    /// GC only says what it would do.
    pub(super) dry_run: bool,
}

/// Options and words as they stand on the command line.
#[derive(FromArgs)]
#[argh(help_triggers("--help"))]
struct CommandLine {
    /// interface name; the last one counts
    #[argh(option, short = 'i')]
    ifname: Vec<String>,
    /// attachment that gc leaves alone
    #[argh(option)]
    valid: Vec<String>,
    /// gc only says what it would do; the last one counts
    #[argh(option)]
    dry_run: Vec<String>,
    /// verb, network, namespace; what follows is ignored
    #[argh(positional)]
    words: Vec<String>,
}

impl Command {
    /// Reads the command line. Help and mistakes are answers.
    pub(super) fn parse(arguments: &[String]) -> std::result::Result<Command, Answer> {
        let arguments = separate_values(arguments);
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        let options = arguments.split(|argument| *argument == "--").next().unwrap_or_default();
        if arguments.is_empty() || options.iter().any(|option| ["-h", "--help"].contains(option)) {
            return Err(help(options.iter().find_map(|word| verb(word))));
        }
        if let ["--version" | "-V"] = options {
            let stdout = format!("cnitool (cni-box) {}\n", env!("CARGO_PKG_VERSION"));
            return Err(Answer { stdout, success: true, ..Answer::default() });
        }
        let line = CommandLine::from_args(&["cnitool"], &arguments)
            .map_err(|exit| mistake(arguments.iter().find_map(|word| verb(word)), &option_mistake(&exit.output)))?;
        let mut words = line.words.into_iter().map(|word| if word == DASH { "-".to_string() } else { word });
        let name = words.next().unwrap_or_default();
        if name.is_empty() || name == "help" {
            return Err(words.next().map_or_else(|| help(None), |topic| help_about(&topic)));
        }
        let verb = verb(&name).ok_or_else(|| unknown(&name))?;
        let words: Vec<String> = words.collect();
        let (least, received) = (verb.least_words(), words.len());
        if received < least {
            return Err(mistake(Some(verb), &format!("requires at least {least} arg(s), only received {received}")));
        }
        let dry_run = dry_run(verb, &line.dry_run).map_err(|text| mistake(Some(verb), &text))?;
        let valid = valid(verb, &line.valid).map_err(|text| mistake(Some(verb), &text))?;
        let ifname = line.ifname.into_iter().next_back().unwrap_or_default();
        Ok(Command { verb, words, ifname, valid, dry_run })
    }

    /// The word at this place after the verb; empty when it is left out.
    pub(super) fn word(&self, index: usize) -> &str {
        self.words.get(index).map_or("", String::as_str)
    }
}

impl Verb {
    fn least_words(&self) -> usize {
        self.words.split(' ').filter(|word| !word.starts_with('[')).count()
    }
}

/// The valid attachments, or what is wrong with them.
fn valid(verb: &Verb, texts: &[String]) -> std::result::Result<Vec<(String, String)>, String> {
    if verb.name != "gc" && !texts.is_empty() {
        return Err("unknown flag: --valid".to_string());
    }
    let pair = |text: &String| {
        let (id, ifname) = text.split_once('/').unwrap_or((text, ""));
        let names = validate_container_id(id).and_then(|()| validate_ifname(ifname));
        names.map_err(|error| format!("invalid --valid {text:?}, which is CONTAINERID/IFNAME: {error}"))?;
        Ok((id.to_string(), ifname.to_string()))
    };
    texts.iter().map(pair).collect()
}

/// What the last `--dry-run` says, in the reference's words for booleans (`strconv.ParseBool`).
fn dry_run(verb: &Verb, texts: &[String]) -> std::result::Result<bool, String> {
    if verb.name != "gc" && !texts.is_empty() {
        return Err("unknown flag: --dry-run".to_string());
    }
    let read = |text: &String| match text.as_str() {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Ok(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Ok(false),
        _ => Err(format!("invalid argument {text:?} for \"--dry-run\" flag: it is neither true nor false")),
    };
    let all: std::result::Result<Vec<bool>, String> = texts.iter().map(read).collect();
    Ok(all?.last().is_some_and(|last| *last))
}

fn verb(name: &str) -> Option<&'static Verb> {
    VERBS.iter().find(|verb| verb.name == name)
}

/// Stands for the word `-`, which `argh` takes for an option. No argument of a program has such a byte.
const DASH: &str = "\0";

/// The option that has a value only behind `=`.
const DRY_RUN: &str = "--dry-run";

/// Options may carry their value with them (`--ifname=NAME`, `-iNAME`, `-i=NAME`); `argh` wants it apart.
fn separate_values(arguments: &[String]) -> Vec<String> {
    let mut separate = Vec::new();
    let mut rest = arguments.iter();
    for argument in rest.by_ref() {
        let short = argument.strip_prefix("-i").filter(|value| !value.is_empty());
        let short = short.map(|value| ("-i", value.strip_prefix('=').unwrap_or(value)));
        let long = argument.split_once('=').filter(|(option, _)| ["--ifname", "--valid", DRY_RUN].contains(option));
        let bare = (argument == DRY_RUN).then_some((DRY_RUN, "true"));
        match long.or(short).or(bare) {
            Some((option, value)) => separate.extend([option.to_string(), value.to_string()]),
            None if argument == "-" => separate.push(DASH.to_string()),
            None => separate.push(argument.clone()),
        }
        if argument == "--" {
            break;
        }
    }
    separate.extend(rest.cloned());
    separate
}

/// The reference's words for what `argh` has to say.
fn option_mistake(text: &str) -> String {
    let text = text.trim_end();
    if let Some(option) = text.strip_prefix("Unrecognized argument: ") {
        let option = option.split('=').next().unwrap_or_default();
        return match option.strip_prefix("--") {
            Some(_) => format!("unknown flag: {option}"),
            None => format!("unknown shorthand flag: '{}' in {option}", option.chars().nth(1).unwrap_or('-')),
        };
    }
    match text.strip_prefix("No value provided for option ") {
        Some(option) => format!("flag needs an argument: {}", option.trim_matches(['\'', '.'])),
        None => text.to_string(),
    }
}

fn help_about(topic: &str) -> Answer {
    let verb = verb(topic);
    if verb.is_some() || topic == "help" { help(verb) } else { unknown(topic) }
}

fn help(verb: Option<&Verb>) -> Answer {
    let stdout = match verb {
        Some(verb) => format!("{}\n\n{}", verb.about, usage(Some(verb))),
        None => usage(None),
    };
    Answer { stdout, success: true, ..Answer::default() }
}

/// A mistake on the command line: usage, then the error as the last line.
fn mistake(verb: Option<&Verb>, error: &str) -> Answer {
    Answer { stderr: format!("{}\n{error}\n", usage(verb)), ..Answer::default() }
}

fn unknown(name: &str) -> Answer {
    let hint = if name == "completion" { "There is no completion in cni-box.\n" } else { "" };
    let text = format!("{hint}Run 'cnitool --help' for usage.\nunknown command {name:?} for \"cnitool\"\n");
    Answer { stderr: text, ..Answer::default() }
}

fn usage(verb: Option<&Verb>) -> String {
    if let Some(Verb { name, words, help, .. }) = verb {
        return format!(
            "Usage:\n  cnitool {name} {words} [flags]\n\n\
             Flags:\n  -h, --help            help for {name}\n{OPTIONS}{help}"
        );
    }
    let line = |verb: &Verb| format!("  cnitool {:<8} {:<24} {}\n", verb.name, verb.words, verb.about);
    let lines: String = VERBS.iter().map(line).collect();
    format!(
        "cnitool: Add, check, remove, gc or status network interfaces from a network namespace\n{lines}\n\
         Flags:\n  -h, --help            help for cnitool\n\
         \x20 -V, --version         version of cni-box\n{OPTIONS}\n\
         Environment:\n\
         \x20 NETCONFPATH   directory of network configurations (default {DEFAULT_DIRECTORY})\n\
         \x20 CNI_PATH      directories of plugins, separated by ':' (default: the plugins of this executable)\n\
         \x20 CNI_ARGS      arguments for the plugins, KEY=VALUE;KEY=VALUE\n\
         \x20 CAP_ARGS      capability arguments, a JSON object\n\
         \x20 CNI_IFNAME    interface name, if no option says it\n\n\
         Use \"cnitool [command] --help\" for more information about a command.\n"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> std::result::Result<Command, Answer> {
        let words: Vec<String> = line.split(' ').filter(|word| !word.is_empty()).map(str::to_string).collect();
        Command::parse(&words)
    }

    #[test]
    fn options_stand_anywhere_and_in_any_form() {
        for line in [
            "add n /x -i e",
            "-i e add n /x",
            "add --ifname e n /x",
            "add n --ifname=e /x",
            "add n /x -ie",
            "add n /x -i=e",
            "add n /x extra -i a -i e",
            "-i e -- add n /x",
        ] {
            let command = parse(line).unwrap_or_else(|answer| panic!("{line}: {answer:?}"));
            let words = (command.verb.name, command.word(0), command.word(1), command.ifname.as_str());
            assert_eq!(words, ("add", "n", "/x", "e"), "{line}");
        }
        assert_eq!(parse("del n -- -i").map(|command| command.word(1).to_string()).unwrap_or_default(), "-i");
    }

    #[test]
    fn valid_attachments_may_be_many_and_the_namespace_is_left_out() {
        let command = parse("gc n --valid c-1/eth0 --valid=c2/e/1").map(|_| ()).unwrap_err();
        assert!(command.stderr.ends_with("interface name contains / or : or whitespace characters\n"));
        let command = parse("gc n --valid c-1/eth0 --valid=c2/net1").unwrap_or_else(|answer| panic!("{answer:?}"));
        let pair = |id: &str, name: &str| (id.to_string(), name.to_string());
        assert_eq!(command.valid, [pair("c-1", "eth0"), pair("c2", "net1")]);
        assert_eq!((command.word(0), command.word(1)), ("n", ""));
        for (line, expected) in [
            ("gc n --dry-run", true),
            ("gc --dry-run n", true),
            ("gc n --dry-run=true", true),
            ("gc n --dry-run=1", true),
            ("gc n --dry-run=false", false),
            ("gc n --dry-run=false --dry-run", true),
            ("gc n --dry-run --dry-run=F", false),
            ("gc n", false),
        ] {
            assert!(parse(line).is_ok_and(|command| command.dry_run == expected && command.word(0) == "n"), "{line}");
        }
        assert!(parse("list").is_ok_and(|command| command.words.is_empty()));
    }

    #[test]
    fn help_goes_to_standard_output() {
        for line in ["", "-h", "--help", "help", "help help", "-i e"] {
            let answer = parse(line).map(|_| ()).unwrap_err();
            assert!(answer.success && answer.stderr.is_empty(), "{line}");
            for verb in ["add     ", "check   ", "del     "] {
                assert!(answer.stdout.contains(&format!("\n  cnitool {verb} <network-name> <netns> ")), "{line}");
            }
        }
        for line in ["add -h", "help add", "add n /x --help"] {
            let answer = parse(line).map(|_| ()).unwrap_err();
            assert!(answer.success, "{line}");
            assert!(answer.stdout.starts_with("Add network interface to a network namespace\n\nUsage:\n"), "{line}");
        }
    }

    #[test]
    fn the_version_goes_to_standard_output() {
        for line in ["--version", "-V"] {
            let answer = parse(line).map(|_| ()).unwrap_err();
            let stdout = format!("cnitool (cni-box) {}\n", env!("CARGO_PKG_VERSION"));
            assert_eq!(answer, Answer { stdout, success: true, ..Answer::default() });
        }
    }

    #[test]
    fn a_mistake_ends_with_the_references_text() {
        for (line, text, usage) in [
            ("add", "requires at least 2 arg(s), only received 0", "Usage:\n  cnitool add <network-name>"),
            ("check n", "requires at least 2 arg(s), only received 1", "Usage:\n  cnitool check <network-name>"),
            ("add n /x --x=1", "unknown flag: --x", "Usage:\n  cnitool add"),
            ("--versions", "unknown flag: --versions", "cnitool: Add, check, remove"),
            ("add n /x --version", "unknown flag: --version", "Usage:\n  cnitool add"),
            ("del n /x --dry-run", "unknown flag: --dry-run", "Usage:\n  cnitool del"),
            ("del n /x --dry-run=false", "unknown flag: --dry-run", "Usage:\n  cnitool del"),
            (
                "gc n --dry-run=maybe",
                "invalid argument \"maybe\" for \"--dry-run\" flag: it is neither true nor false",
                "Usage:\n  cnitool gc",
            ),
            ("help foo", "unknown command \"foo\" for \"cnitool\"", "Run 'cnitool --help' for usage.\n"),
            ("add -x n /x", "unknown shorthand flag: 'x' in -x", "Usage:\n  cnitool add"),
            ("add n /x -i", "flag needs an argument: -i", "Usage:\n  cnitool add"),
            ("foo n /x", "unknown command \"foo\" for \"cnitool\"", "Run 'cnitool --help' for usage.\n"),
            (
                "completion bash",
                "unknown command \"completion\" for \"cnitool\"",
                "There is no completion in cni-box.\nRun",
            ),
            (
                "gc",
                "requires at least 1 arg(s), only received 0",
                "Usage:\n  cnitool gc <network-name> [<netns>] [flags]\n",
            ),
            (
                "status",
                "requires at least 1 arg(s), only received 0",
                "Usage:\n  cnitool status <network-name> [<netns>]",
            ),
            ("del n /x --valid=c/e", "unknown flag: --valid", "Usage:\n  cnitool del"),
            ("gc n --valid c", "invalid --valid \"c\", which is CONTAINERID/IFNAME: interface name is empty", "Usage"),
        ] {
            let answer = parse(line).map(|_| ()).unwrap_err();
            assert!(!answer.success && answer.stdout.is_empty(), "{line}");
            assert!(answer.stderr.ends_with(&format!("\n{text}\n")), "{line}: {}", answer.stderr);
            assert!(answer.stderr.starts_with(usage), "{line}: {}", answer.stderr);
        }
    }
}
