//! Which applet a call means, and the program's own options. The only place that prints and that reads the process's
//! arguments and environment.

use std::process::ExitCode;

use argh::FromArgs;

use crate::applets::{self, APPLETS, Applet, Kind};
use crate::cni::Host;
use crate::cni::serve::{self, Answer};
use crate::collect;
use crate::error::{Error, Result};
use crate::install::{self, Link};
use crate::net::tap;
use crate::sys::{log, output};

/// The program's own name; files that start with it (`cni-box-x86_64`) are it too.
const OWN_NAME: &str = "cni-box";

/// All CNI reference plugins and cnitool in one binary. Call it by an applet's name (a link in the plugin directory), or
/// as `cni-box APPLET …`. `cni-box gc` removes what containers have left that are gone: see `cni-box gc --help`.
#[derive(FromArgs)]
struct CommandLine {
    /// print the applets' names
    #[argh(switch)]
    list: bool,
    /// print the version
    #[argh(switch)]
    version: bool,
    /// create or replace every applet's name in DIRECTORY
    #[argh(switch)]
    install: bool,
    /// remove from DIRECTORY every applet's name that leads to this program
    #[argh(switch)]
    uninstall: bool,
    /// with --install: make symbolic links (the default)
    #[argh(switch)]
    symlink: bool,
    /// with --install: make hard links
    #[argh(switch)]
    hardlink: bool,
    /// with --install: make copies
    #[argh(switch)]
    copy: bool,
    /// the plugin directory, usually /opt/cni/bin
    #[argh(positional, arg_name = "directory")]
    directory: Option<String>,
}

/// Runs the applet that the program's name or first argument says.
pub fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args_os().map(|text| text.to_string_lossy().into_owned()).collect();
    let host = Host { environment: std::env::vars_os().collect(), plugins: applets::find_plugin };
    // Ourselves, from inside an applet; nobody else says this.
    if let [called, option, told @ ..] = arguments.as_slice()
        && (called.as_str(), option.as_str()) == (OWN_NAME, tap::CHILD)
    {
        return tap::create_as_told(told).into();
    }
    let log = host.variable(log::VARIABLE);
    if !log.is_empty()
        && let Err(error) = log::open(&log)
    {
        // It is asked for to find out what is wrong: to stop here would be one thing more.
        let _ = print(&failed(&format!("warning: {}: {error}", log::VARIABLE)));
    }
    run(&arguments, &host).into()
}

/// Gives the exit status.
fn run(arguments: &[String], host: &Host) -> u8 {
    let (called, rest) =
        arguments.split_first().map_or((OWN_NAME, &[][..]), |(called, rest)| (base_name(called), rest));
    if let Some(applet) = applets::find(called) {
        return run_applet(applet, rest, host);
    }
    let answer = match rest.split_first() {
        _ if !called.starts_with(OWN_NAME) => unknown(called),
        Some((name, rest)) if name == collect::NAME => collect::run(rest, host),
        Some((name, [])) if name == "help" => run_options(&[]),
        Some((name, rest)) if !name.starts_with('-') => match applets::find(base_name(name)) {
            Some(applet) => return run_applet(applet, rest, host),
            None => unknown(name),
        },
        _ => run_options(rest),
    };
    finish(&answer, status(answer.success))
}

fn run_applet(applet: &Applet, arguments: &[String], host: &Host) -> u8 {
    match applet.kind {
        Kind::Daemon(_, daemon) if arguments.first().is_some_and(|word| word == "daemon") => {
            let (answer, status) = daemon(arguments.get(1..).unwrap_or_default(), host);
            finish(&answer, status)
        }
        Kind::Plugin(plugin) | Kind::Daemon(plugin, _) => status(serve::serve(plugin, host, serve::read_stdin, print)),
        Kind::Tool(tool) => {
            let answer = tool(arguments, host);
            finish(&answer, status(answer.success))
        }
    }
}

fn status(success: bool) -> u8 {
    u8::from(!success)
}

/// Prints an answer; a status of success needs that too.
fn finish(answer: &Answer, wanted: u8) -> u8 {
    let printed = print(answer).map_err(|error| print(&failed(&format!("failed to write the answer: {error}"))));
    wanted.max(status(printed.is_ok()))
}

fn base_name(path: &str) -> &str {
    path.rsplit('/').next().unwrap_or(path)
}

fn unknown(name: &str) -> Answer {
    failed(&format!("unknown applet {name:?}; \"{OWN_NAME} --list\" names all of them"))
}

fn failed(text: &str) -> Answer {
    Answer { stderr: format!("{OWN_NAME}: {text}\n"), ..Answer::default() }
}

fn printed(stdout: String) -> Answer {
    Answer { stdout, success: true, ..Answer::default() }
}

fn run_options(arguments: &[String]) -> Answer {
    let texts: Vec<&str> = match arguments {
        [] => vec!["--help"],
        [only] if only == "-h" => vec!["--help"],
        [only] if only == "-V" => vec!["--version"],
        all => all.iter().map(String::as_str).collect(),
    };
    let options = match CommandLine::from_args(&[OWN_NAME], &texts) {
        Ok(options) => options,
        Err(exit) if exit.status.is_ok() => return printed(exit.output),
        Err(exit) => return failed(exit.output.trim_end()),
    };
    match carry_out(&options) {
        Ok(stdout) => printed(stdout),
        Err(error) => failed(&error.to_string()),
    }
}

fn carry_out(options: &CommandLine) -> Result<String> {
    let link = match (options.symlink, options.hardlink, options.copy) {
        (_, false, false) => Link::Symbolic,
        (false, true, false) => Link::Hard,
        (false, false, true) => Link::Copy,
        _ => return Err(Error::internal("--symlink, --hardlink and --copy exclude one another")),
    };
    match (options.list, options.version, options.install, options.uninstall, &options.directory) {
        (true, false, false, false, None) => Ok(names().fold(String::new(), |list, name| list + name + "\n")),
        (false, true, false, false, None) => Ok(format!("{OWN_NAME} {}\n", env!("CARGO_PKG_VERSION"))),
        (false, false, true, false, Some(directory)) => install::install(directory, link, names()),
        (false, false, false, true, Some(directory)) => install::uninstall(directory, names()),
        (false, false, true, _, None) | (false, false, _, true, None) => {
            Err(Error::internal("which directory? Usually it is /opt/cni/bin"))
        }
        _ => Err(Error::internal("these options do not go together; see --help")),
    }
}

fn names() -> impl Iterator<Item = &'static str> {
    APPLETS.iter().map(|applet| applet.name)
}

/// Writes both streams whole. Only the answer itself is missed where it cannot be written.
fn print(answer: &Answer) -> Result<()> {
    let _ = output::print_error(answer.stderr.as_bytes());
    output::print(answer.stdout.as_bytes())
}
