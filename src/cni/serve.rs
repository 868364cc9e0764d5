//! What the main function of a plugin does (`pkg/skel` of the reference library): variables, configuration, versions,
//! the namespace's identity, the call, and the answer on standard output.

use crate::cni::config::NetworkConfig;
use crate::cni::environment::{Environment, Verb, overrides_netns, validate_network_name};
use crate::cni::json::{self, Node};
use crate::cni::plugin::{Host, Plugin, Request};
use crate::cni::result::CniResult;
use crate::cni::undo::Undo;
use crate::cni::version::{self, Number};
use crate::error::{Context, Error, Result, code};
use crate::sys::log;
use crate::sys::netns::{self, Netns};

/// What a plugin process prints and how it ends.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Answer {
    /// For standard output.
    pub stdout: String,
    /// For standard error.
    pub stderr: String,
    /// False for exit status 1.
    pub success: bool,
}

/// Serves one call. `stdin` is read only when the verb has input. `print` writes the answer; if that fails, an ADD is
/// taken back.
pub fn serve(
    plugin: &'static dyn Plugin,
    host: &Host,
    stdin: impl FnOnce() -> Result<Vec<u8>>,
    print: impl Fn(&Answer) -> Result<()>,
) -> bool {
    let environment = Environment::read(|name| host.variable(name));
    if environment.command.is_empty() {
        let answer = Answer { stderr: about(plugin), success: true, ..Answer::default() };
        return print(&answer).is_ok();
    }
    let Environment { command, container_id, ifname, netns, .. } = &environment;
    let logged = log::Call::begin(plugin.name(), command, container_id, ifname, netns);
    let mut undo = Undo::default();
    let served = answer(plugin, &environment, host, stdin, &mut undo)
        .and_then(|stdout| print(&Answer { stdout, success: true, ..Answer::default() }));
    match served {
        Ok(()) => {
            undo.commit();
            logged.end(None);
            true
        }
        Err(error) => {
            let error = undo.roll_back(error.with_hint());
            logged.end(Some(&error));
            let stdout = error_json(&error);
            // Nobody is left to tell if this cannot be printed either.
            let _ = print(&Answer { stdout, ..Answer::default() });
            false
        }
    }
}

/// The about text: the two lines of the plugin's original, and a third with this program's name and
/// version.
pub fn about(plugin: &dyn Plugin) -> String {
    format!(
        "{}\nCNI protocol versions supported: {}\ncni-box {}\n",
        plugin.release(),
        plugin.versions().join(", "),
        env!("CARGO_PKG_VERSION"),
    )
}

/// The error object: four-space indentation, no newline at the end.
pub fn error_json(error: &Error) -> String {
    let mut members: Vec<(&'static str, Node)> = vec![("code", error.code.into()), ("msg", error.msg.as_str().into())];
    if !error.details.is_empty() {
        members.push(("details", error.details.as_str().into()));
    }
    json::pretty(&Node::Object(members))
}

fn answer(
    plugin: &'static dyn Plugin,
    environment: &Environment,
    host: &Host,
    stdin: impl FnOnce() -> Result<Vec<u8>>,
    undo: &mut Undo,
) -> Result<String> {
    environment.validate()?;
    let verb = Verb::parse(&environment.command);
    if verb == Some(Verb::Version) {
        return Ok(version_json(plugin));
    }
    let raw = stdin().map_err(|error| Error::new(code::IO_FAILURE, format!("error reading from stdin: {error}")))?;
    let config = NetworkConfig::parse(raw).map_err(|error| match error.code {
        code::INTERNAL => Error::new(code::DECODING_FAILURE, format!("error unmarshall network config: {error}")),
        _ => error,
    })?;
    validate_network_name(&config.name)?;
    log::add_to_call("network", &config.name);
    let Some(verb) = verb else {
        let msg = format!("unknown CNI_COMMAND: {}", environment.command);
        return Err(Error::new(code::INVALID_ENVIRONMENT, msg));
    };
    let request = request(verb, environment, config, host);
    gate(plugin, &request)?;
    let own = check_netns(&request);
    perform(plugin, request, own, undo)
}

fn request<'h>(verb: Verb, environment: &Environment, config: NetworkConfig, host: &'h Host) -> Request<'h> {
    // They are a container's, and these two verbs are about none.
    let args = if matches!(verb, Verb::Gc | Verb::Status) { String::new() } else { environment.args.clone() };
    Request {
        verb,
        container_id: environment.container_id.clone(),
        netns: environment.netns.clone(),
        ifname: environment.ifname.clone(),
        args,
        path: environment.path.clone(),
        config,
        spares_links: false,
        host,
    }
}

/// Calls the plugin; `own` is the verdict on the namespace's identity. A DEL in the plugin's own namespace still gives
/// back what is remembered by container id, but it must not touch links, so it does not see any.
fn perform(plugin: &dyn Plugin, mut request: Request<'_>, own: Result<()>, undo: &mut Undo) -> Result<String> {
    match (request.verb, own) {
        (Verb::Del, Err(error)) => {
            request.hide_links();
            call(plugin, &request, undo)?;
            Err(error)
        }
        (_, own) => {
            own?;
            let result = call(plugin, &request, undo)?;
            let node = result.map(|result| result.to_json(request.config.version())).transpose()?;
            Ok(node.as_ref().map(json::pretty).unwrap_or_default())
        }
    }
}

/// Calls a plugin of this executable with a request that has passed [`gate`]. Only ADD has a result.
pub fn call(plugin: &dyn Plugin, request: &Request<'_>, undo: &mut Undo) -> Result<Option<CniResult>> {
    match request.verb {
        Verb::Add => return plugin.add(request, undo).map(Some),
        Verb::Check => plugin.check(request)?,
        Verb::Del => plugin.del(request)?,
        Verb::Gc => plugin.gc(request)?,
        Verb::Status => {
            plugin.status(request)?;
            plugin.validate(request)?;
        }
        Verb::Version => {}
    }
    Ok(None)
}

/// Verifies that configuration and plugin are of versions that know the verb, and agree on one; and, before anything is done
/// for an ADD, that the configuration can work.
pub fn gate(plugin: &dyn Plugin, request: &Request<'_>) -> Result<()> {
    match request.verb {
        Verb::Check => gate_verb(plugin, request, version::WITH_CHECK)?,
        Verb::Gc | Verb::Status => gate_verb(plugin, request, version::WITH_GC)?,
        Verb::Add | Verb::Del | Verb::Version => {}
    }
    let wanted = request.config.version();
    if plugin.versions().contains(&wanted) {
        return if request.verb == Verb::Add { plugin.validate(request) } else { Ok(()) };
    }
    let supported: Vec<String> = plugin.versions().iter().map(|version| format!("{version:?}")).collect();
    let details = format!("config is {wanted:?}, plugin supports [{}]", supported.join(" "));
    Err(Error::new(code::INCOMPATIBLE_VERSION, "incompatible CNI versions").with_details(details))
}

fn gate_verb(plugin: &dyn Plugin, request: &Request<'_>, least: Number) -> Result<()> {
    let wanted = version::parse(request.config.version()).map_err(|error| error.with_code(code::DECODING_FAILURE))?;
    let refuse = |who: &str| {
        let msg = format!("{who} version does not allow {}", request.verb.name());
        Err(Error::new(code::INCOMPATIBLE_VERSION, msg))
    };
    if wanted < least {
        return refuse("config");
    }
    if !plugin.versions().iter().any(|version| version::at_least(version, wanted)) {
        return refuse("plugin");
    }
    Ok(())
}

/// Fails when an ADD or DEL names the namespace this process is in, unless CNI_NETNS_OVERRIDE allows that. A namespace
/// that cannot be opened is another one.
pub fn check_netns(request: &Request<'_>) -> Result<()> {
    let attaches = matches!(request.verb, Verb::Add | Verb::Del);
    if !attaches || overrides_netns(&request.host.variable("CNI_NETNS_OVERRIDE")) {
        return Ok(());
    }
    let Some(theirs) = netns::identity_at(&request.netns) else { return Ok(()) };
    let own = Netns::home().and_then(Netns::identity);
    let failed =
        |cause: Error| Error::new(code::INVALID_NETNS, "get plugin's netns failed").with_details(cause.to_string());
    let own = own.map_err(failed)?;
    if own == theirs {
        let msg = "plugin's netns and netns from CNI_NETNS should not be the same";
        return Err(Error::new(code::INVALID_NETNS, msg));
    }
    Ok(())
}

fn version_json(plugin: &dyn Plugin) -> String {
    let node = Node::Object(vec![
        ("cniVersion", version::CURRENT.into()),
        ("supportedVersions", plugin.versions().to_vec().into()),
    ]);
    json::compact(&node) + "\n"
}

/// Reads standard input to its end.
pub fn read_stdin() -> Result<Vec<u8>> {
    // Room for any ordinary configuration, or it would be read in many small steps.
    let mut bytes = Vec::with_capacity(8 * 1024);
    std::io::Read::read_to_end(&mut std::io::stdin().lock(), &mut bytes).context("read")?;
    Ok(bytes)
}
