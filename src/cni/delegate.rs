//! Running another plugin: found in CNI_PATH by its type, called in process when what is found is this executable, executed
//! otherwise (`pkg/invoke` of the reference library).

use std::ffi::OsString;
use std::fs::{self, Metadata};
use std::os::unix::fs::MetadataExt;

use serde_json::{Map, Value};

use crate::cni::environment::Verb;
use crate::cni::json;
use crate::cni::plugin::{Plugin, Request};
use crate::cni::result::CniResult;
use crate::cni::serve;
use crate::cni::undo::Undo;
use crate::error::{Context, Error, Result, code};
use crate::sys::process;

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
        if name.contains('/') {
            return Err(Error::internal(format!("invalid plugin name: {name}")));
        }
        let built_in = (request.host.plugins)(name);
        let directories: Vec<&str> = request.path.split(':').collect();
        if request.path.is_empty() {
            return built_in.map(Delegate::BuiltIn).ok_or_else(|| not_found(name, &["built-in"]));
        }
        let found = directories.iter().map(|directory| join(directory, name)).find_map(regular);
        let (path, metadata) = found.ok_or_else(|| not_found(name, &directories))?;
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

    /// Asks for an ADD. How to take it back is written to `undo`.
    pub fn add(&self, request: &Request<'_>, undo: &mut Undo) -> Result<CniResult> {
        self.add_or_say("", request, undo)
    }

    /// The same; a failure that is not one of the plugin's own begins with these words (with nothing, if empty).
    pub fn add_or_say(&self, words: &str, request: &Request<'_>, undo: &mut Undo) -> Result<CniResult> {
        let say = |error: Error| if words.is_empty() { error } else { error.context(words) };
        match self {
            Delegate::BuiltIn(plugin) => {
                serve::gate(*plugin, request)?;
                plugin.add(request, undo)
            }
            Delegate::Program(path) => {
                let output = execute(path, &environment(request, Verb::Add), request.config.raw()).map_err(say)??;
                let (path, variables) = (path.clone(), environment(request, Verb::Del));
                let raw = request.config.raw().to_vec();
                undo.push_deletion(move || execute(&path, &variables, &raw)?.map(drop));
                parse_result(&output, request.config.version()).map_err(say)
            }
        }
    }

    /// Asks for what the request's verb says; for every verb but ADD.
    pub fn call(&self, request: &Request<'_>) -> Result<()> {
        match self {
            Delegate::BuiltIn(plugin) => {
                serve::gate(*plugin, request)?;
                serve::call(*plugin, request, &mut Undo::default()).map(drop)
            }
            Delegate::Program(path) => {
                execute(path, &environment(request, request.verb), request.config.raw())?.map(drop)
            }
        }
    }
}

fn join(directory: &str, name: &str) -> String {
    match directory {
        "" => name.to_string(),
        _ => format!("{}/{name}", directory.trim_end_matches('/')),
    }
}

fn not_found(name: &str, directories: &[&str]) -> Error {
    Error::internal(format!("failed to find plugin {name:?} in path [{}]", directories.join(" ")))
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

/// Runs the program, if that is possible, and gives its standard output, or its failure: the error object it printed, if it
/// printed one.
fn execute(path: &str, environment: &[(OsString, OsString)], stdin: &[u8]) -> Result<Result<Vec<u8>>> {
    let path = if path.contains('/') { path.to_string() } else { format!("./{path}") };
    let finished = process::run(&path, environment, stdin)?;
    Ok(match finished.failure {
        None => Ok(finished.stdout),
        Some(status) => Err(failure(&finished.stdout, &finished.stderr, &status)),
    })
}

fn failure(stdout: &[u8], stderr: &[u8], status: &str) -> Error {
    let quoted = |bytes: &[u8]| format!("{:?}", String::from_utf8_lossy(bytes));
    if stdout.is_empty() {
        let msg = match stderr {
            [] => format!("netplugin failed with no error message: {status}"),
            _ => format!("netplugin failed: {}: {status}", quoted(stderr)),
        };
        return Error::new(code::UNKNOWN, msg);
    }
    match json::parse_object(stdout).and_then(|object| error_object(&object)) {
        Ok(error) => error,
        Err(error) => {
            let what = "netplugin failed but error parsing its diagnostic message";
            Error::new(code::UNKNOWN, format!("{what} {}: {error}", quoted(stdout)))
        }
    }
}

fn error_object(map: &Map<String, Value>) -> Result<Error> {
    let object = crate::cni::config::Object::top(map);
    let code = u32::try_from(object.integer("code")?).unwrap_or(0);
    Ok(Error::new(code, object.string("msg")?).with_details(object.string("details")?))
}

/// Reads a result as printed. One without a usable `cniVersion` is taken to have the configuration's.
fn parse_result(stdout: &[u8], version: &str) -> Result<CniResult> {
    let object = json::parse_object(stdout).context("failed to unmarshal raw result")?;
    CniResult::from_json(&Value::Object(object), version)
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
    }

    #[test]
    fn an_empty_element_of_the_path_is_the_current_directory() {
        assert_eq!(join("", "bridge"), "bridge");
        assert_eq!(join("/opt/cni/bin/", "bridge"), "/opt/cni/bin/bridge");
    }
}
