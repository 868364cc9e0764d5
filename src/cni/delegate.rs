//! Running another plugin: found in CNI_PATH by its type, called in process when what is found is this executable, executed
//! otherwise (`pkg/invoke` of the reference library).

use std::ffi::OsString;
use std::fs::{self, Metadata};
use std::io::ErrorKind;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use serde_json::{Map, Value};

use crate::cni::environment::Verb;
use crate::cni::json;
use crate::cni::plugin::{Plugin, Request};
use crate::cni::result::CniResult;
use crate::cni::serve;
use crate::cni::undo::Undo;
use crate::error::{Context, Errno, Error, Result, code};
use crate::sys::log;
use crate::sys::process::{self, Finished};

/// A plugin that another one, or a runtime, calls.
pub enum Delegate {
    /// Part of this executable.
    BuiltIn(&'static dyn Plugin),
    /// A program at this path.
    Program(String),
}

impl Delegate {
    /// Finds the plugin for a configuration's `type` in the request's CNI_PATH. An empty path means the built-in ones.
    pub fn find(name: &str, request: &Request<'_>) -> Result<Delegate> {
        if name.is_empty() {
            return Err(Error::internal("no plugin name provided"));
        }
        verify_name(name)?;
        let built_in = (request.host.plugins)(name);
        let directories: Vec<&str> = request.path.split(':').collect();
        if request.path.is_empty() {
            return built_in.map(Delegate::BuiltIn).ok_or_else(|| not_found(name, "built-in"));
        }
        let found = directories.iter().map(|directory| join(directory, name)).find_map(regular);
        let (path, metadata) = found.ok_or_else(|| not_found_in(name, &directories))?;
        match built_in {
            Some(plugin) if is_own_executable(&metadata) => Ok(Delegate::BuiltIn(plugin)),
            _ => Ok(Delegate::Program(path)),
        }
    }

    /// Finds the plugin for an `ipam.type`. Of the built-in ones only those that manage addresses will do: a bridge that
    /// names itself would call itself for ever.
    pub fn find_ipam(name: &str, request: &Request<'_>) -> Result<Delegate> {
        match Delegate::find(name, request)? {
            Delegate::BuiltIn(plugin) if !plugin.is_ipam() => {
                let msg = format!("ipam type {name:?} is no address management plugin");
                Err(Error::new(code::INVALID_CONFIG, msg))
            }
            found => Ok(found),
        }
    }

    /// True unless the plugin is known to manage with the configuration and files: `dhcp` sends packets over the
    /// interface during ADD, and a program may.
    pub fn may_use_interface(&self) -> bool {
        !matches!(self, Delegate::BuiltIn(plugin) if plugin.name() != "dhcp")
    }

    /// Asks for an ADD. How to take it back is written to `undo`.
    pub fn add(&self, request: &Request<'_>, undo: &mut Undo) -> Result<CniResult> {
        self.add_in_version("", request, undo).map(|(result, _)| result)
    }

    /// The same with the version of the result: the one a program printed, otherwise the configuration's. A failure that is
    /// not one of the plugin's own begins with these words (with nothing, if empty).
    pub fn add_in_version(&self, words: &str, request: &Request<'_>, undo: &mut Undo) -> Result<(CniResult, String)> {
        let say = |error: Error| if words.is_empty() { error } else { error.context(words) };
        match self {
            Delegate::BuiltIn(plugin) => {
                let logged = logged(*plugin, request);
                let added = serve::gate(*plugin, request).and_then(|()| plugin.add(request, undo));
                logged.end(added.as_ref().err());
                Ok((added?, request.config.version().to_string()))
            }
            Delegate::Program(path) => {
                let finished = execute(path, &environment(request, Verb::Add), request.config.raw()).map_err(say)??;
                let (path, variables) = (path.clone(), environment(request, Verb::Del));
                let raw = request.config.raw().to_vec();
                undo.push_deletion(move || execute(&path, &variables, &raw)?.map(drop));
                match finished.interrupted {
                    true => Err(interrupted(Error::new(code::UNKNOWN, "netplugin has succeeded"))),
                    false => parse_result(&finished.stdout, request.config.version()).map_err(say),
                }
            }
        }
    }

    /// Asks for what the request's verb says; for every verb but ADD.
    pub fn call(&self, request: &Request<'_>) -> Result<()> {
        match self {
            Delegate::BuiltIn(plugin) => {
                let logged = logged(*plugin, request);
                let called = serve::gate(*plugin, request);
                let called = called.and_then(|()| serve::call(*plugin, request, &mut Undo::default()));
                logged.end(called.as_ref().err());
                called.map(drop)
            }
            Delegate::Program(path) => {
                execute(path, &environment(request, request.verb), request.config.raw())?.map(drop)
            }
        }
    }
}

/// Fails for a `type` that is a path.
pub fn verify_name(name: &str) -> Result<()> {
    match name.contains('/') {
        true => Err(Error::internal(format!("invalid plugin name: {name}"))),
        false => Ok(()),
    }
}

fn logged(plugin: &dyn Plugin, request: &Request<'_>) -> log::Call {
    let Request { container_id, ifname, netns, .. } = request;
    let call = log::Call::begin(plugin.name(), request.verb.name(), container_id, ifname, netns);
    log::add_to_call("network", &request.config.name);
    call
}

fn join(directory: &str, name: &str) -> String {
    match directory {
        "" => name.to_string(),
        _ => format!("{}/{name}", directory.trim_end_matches('/')),
    }
}

fn not_found(name: &str, path: &str) -> Error {
    Error::internal(format!("failed to find plugin {name:?} in path [{path}]"))
}

fn not_found_in(name: &str, directories: &[&str]) -> Error {
    let error = not_found(name, &directories.join(" "));
    if !directories.iter().any(|directory| Path::new(directory).exists()) {
        return error.with_details("no such directory");
    }
    match directories.iter().find_map(|directory| why_not(&join(directory, name))) {
        Some(cause) => error.with_details(cause),
        None => error,
    }
}

/// Why what is at this path is no plugin; `None` when nothing is there.
fn why_not(path: &str) -> Option<String> {
    match fs::metadata(path) {
        Ok(_) => Some(format!("{path} is no regular file")),
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => {
            let is_link = fs::symlink_metadata(path).is_ok_and(|found| found.is_symlink());
            is_link.then(|| format!("{path} is a link that leads nowhere"))
        }
        Err(error) => Some(format!("{path}: {}", Error::from(error))),
    }
}

fn regular(path: String) -> Option<(String, Metadata)> {
    let metadata = fs::metadata(&path).ok().filter(Metadata::is_file)?;
    Some((path, metadata))
}

/// True for the file that this process runs.
fn is_own_executable(found: &Metadata) -> bool {
    fs::metadata("/proc/self/exe").is_ok_and(|own| (own.dev(), own.ino()) == (found.dev(), found.ino()))
}

/// The inherited environment with the call's variables in place of inherited ones.
fn environment(request: &Request<'_>, verb: Verb) -> Vec<(OsString, OsString)> {
    let call = [
        ("CNI_COMMAND", verb.name()),
        ("CNI_CONTAINERID", &request.container_id),
        ("CNI_NETNS", &request.netns),
        ("CNI_IFNAME", &request.ifname),
        ("CNI_ARGS", &request.args),
        ("CNI_PATH", &request.path),
    ];
    let inherited = request.host.environment.iter().filter(|(name, _)| !call.iter().any(|(key, _)| name == key));
    let call = call.iter().map(|(name, value)| (OsString::from(name), OsString::from(value)));
    inherited.cloned().chain(call).collect()
}

/// Runs the program, if that is possible, and gives what it left, or its failure: the error object it printed, if it printed
/// one.
fn execute(path: &str, environment: &[(OsString, OsString)], stdin: &[u8]) -> Result<Result<Finished>> {
    let path = if path.contains('/') { path.to_string() } else { format!("./{path}") };
    let finished = process::run(&path, environment, stdin)?;
    let Some(status) = &finished.failure else { return Ok(Ok(finished)) };
    let error = failure(&finished.stdout, &finished.stderr, status);
    Ok(Err(if finished.interrupted { interrupted(error) } else { error }))
}

/// The error of a call that somebody wanted to end, told by its errno.
fn interrupted(error: Error) -> Error {
    let details =
        format!("{}{}interrupted by a signal", error.details, if error.details.is_empty() { "" } else { "; " });
    error.with_details(details).with_errno(Errno::EINTR)
}

fn failure(stdout: &[u8], stderr: &[u8], status: &str) -> Error {
    if stdout.is_empty() {
        let msg = match stderr {
            [] => format!("netplugin failed with no error message: {status}"),
            _ => format!("netplugin failed: {}: {status}", quoted(stderr)),
        };
        return Error::new(code::UNKNOWN, msg);
    }
    match json::parse_object(stdout).and_then(|object| error_object(&object)) {
        Ok(error) if error.msg.is_empty() => {
            let msg = format!("netplugin failed with no error message: {status}");
            Error::new(error.code, msg).with_details(format!("it printed {}", quoted(stdout)))
        }
        Ok(error) => error,
        Err(error) => {
            let what = "netplugin failed but error parsing its diagnostic message";
            // The reference does not tell of a signal here.
            let signal = if status.starts_with("signal") { status } else { "" };
            Error::new(code::UNKNOWN, format!("{what} {}: {error}", quoted(stdout))).with_details(signal)
        }
    }
}

/// What a program printed, from its beginning as far as anybody reads it.
fn quoted(bytes: &[u8]) -> String {
    const ENOUGH: usize = 500;
    let text = String::from_utf8_lossy(bytes);
    let more = if text.chars().nth(ENOUGH).is_some() { "…" } else { "" };
    format!("{:?}{more}", text.chars().take(ENOUGH).collect::<String>())
}

fn error_object(map: &Map<String, Value>) -> Result<Error> {
    let object = crate::cni::config::Object::top(map);
    let code = u32::try_from(object.integer("code")?).unwrap_or(0);
    Ok(Error::new(code, object.string("msg")?).with_details(object.string("details")?))
}

/// Reads a result as printed. One without a usable `cniVersion` is taken to have the configuration's.
fn parse_result(stdout: &[u8], version: &str) -> Result<(CniResult, String)> {
    let parse = || {
        let object = json::parse_object(stdout).context("failed to unmarshal raw result")?;
        let printed = object.get("cniVersion").and_then(Value::as_str).filter(|printed| !printed.is_empty());
        let version = printed.unwrap_or(version).to_string();
        Ok((CniResult::from_json(&Value::Object(object), &version)?, version))
    };
    parse().map_err(|error: Error| match error.details.is_empty() {
        true => error.with_details(format!("it printed {}", quoted(stdout))),
        false => error,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failed_program_is_described_by_what_it_printed() {
        let text =
            |stdout: &str, stderr: &str| failure(stdout.as_bytes(), stderr.as_bytes(), "exit status 1").to_string();
        assert_eq!(text("", ""), "netplugin failed with no error message: exit status 1");
        assert_eq!(text("", "ee\n"), "netplugin failed: \"ee\\n\": exit status 1");
        assert_eq!(text(r#"{"code":11,"msg":"m","details":"d"}"#, "x"), "m; d");
        assert!(text("zz", "").starts_with("netplugin failed but error parsing its diagnostic message \"zz\": "));
        let empty = "netplugin failed with no error message: exit status 1; it printed \"{}\"";
        assert_eq!(text("{}", ""), empty);
        assert!(failure(b"zz", b"", "signal: killed").to_string().ends_with("; signal: killed"));
        assert!(text("", &"é".repeat(501)).contains(&format!("{}\"…: ", "é".repeat(500))));
    }

    #[test]
    fn an_empty_element_of_the_path_is_the_current_directory() {
        assert_eq!(join("", "bridge"), "bridge");
        assert_eq!(join("/opt/cni/bin/", "bridge"), "/opt/cni/bin/bridge");
    }
}
