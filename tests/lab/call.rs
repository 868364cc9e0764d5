//! Running a program on the lab's host and judging what came back.

use std::process::Stdio;

use serde_json::Value;

use super::{Background, Lab, feed};

/// A program about to run: arguments, environment, standard input.
#[derive(Clone)]
pub struct Call<'a> {
    lab: &'a Lab,
    program: String,
    arguments: Vec<String>,
    environment: Vec<(String, String)>,
    folder: String,
    stdin: Vec<u8>,
    /// What strace makes fail: system calls and the error.
    refusals: Vec<[String; 2]>,
}

impl<'a> Call<'a> {
    /// Any program, with an empty environment.
    pub fn new(lab: &'a Lab, program: &str) -> Self {
        let (arguments, environment, stdin, refusals) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        Call { lab, program: program.to_string(), arguments, environment, folder: "/".to_string(), stdin, refusals }
    }

    /// A plugin of `folder` with what every test wants unless it says otherwise: ADD of `eth0` to `ns1` for `c1`.
    pub fn plugin(lab: &'a Lab, folder: &str, name: &str) -> Self {
        Call::new(lab, &format!("{folder}/{name}"))
            .verb("ADD")
            .container("c1")
            .netns("/var/run/netns/ns1")
            .ifname("eth0")
            .env("CNI_PATH", folder)
    }

    pub fn verb(self, verb: &str) -> Self {
        self.env("CNI_COMMAND", verb)
    }

    pub fn container(self, id: &str) -> Self {
        self.env("CNI_CONTAINERID", id)
    }

    pub fn netns(self, path: &str) -> Self {
        self.env("CNI_NETNS", path)
    }

    pub fn ifname(self, name: &str) -> Self {
        self.env("CNI_IFNAME", name)
    }

    /// CNI_ARGS.
    pub fn args(self, pairs: &str) -> Self {
        self.env("CNI_ARGS", pairs)
    }

    /// Sets or replaces a variable.
    pub fn env(mut self, name: &str, value: &str) -> Self {
        self = self.without(name);
        self.environment.push((name.to_string(), value.to_string()));
        self
    }

    /// Removes a variable.
    pub fn without(mut self, name: &str) -> Self {
        self.environment.retain(|(known, _)| known != name);
        self
    }

    /// The network configuration, as JSON.
    pub fn config(self, config: &Value) -> Self {
        self.stdin(config.to_string())
    }

    /// Standard input, as bytes.
    pub fn stdin(mut self, bytes: impl AsRef<[u8]>) -> Self {
        self.stdin = bytes.as_ref().to_vec();
        self
    }

    /// Command line arguments.
    pub fn args_list(mut self, arguments: &[&str]) -> Self {
        self.arguments = arguments.iter().map(ToString::to_string).collect();
        self
    }

    /// Working directory.
    pub fn folder(mut self, folder: &str) -> Self {
        self.folder = folder.to_string();
        self
    }

    /// Runs the same call under another program, which gets ours as its last arguments.
    pub fn under(mut self, words: &[&str]) -> Self {
        let own = std::mem::replace(&mut self.program, words[0].to_string());
        let before: Vec<_> = words[1..].iter().map(ToString::to_string).chain([own]).collect();
        self.arguments.splice(0..0, before);
        self
    }

    /// Makes system calls fail, as a kernel, a file system or a policy does: `calls` (`link,linkat`) and `error` (`EPERM`,
    /// `EPERM:when=2`) are written as for strace.
    pub fn refused(mut self, calls: &str, error: &str) -> Self {
        self.refusals.push([calls, error].map(ToString::to_string));
        self
    }

    /// Runs the call under strace with these options, among them `calls`: those that are traced, all if empty. What is
    /// refused fails.
    pub fn traced(mut self, options: &[&str], calls: &str) -> Self {
        let refusals = std::mem::take(&mut self.refusals);
        let refused = refusals.iter().map(|[calls, _]| calls.as_str());
        let traced: Vec<&str> = if calls.is_empty() { vec!["all"] } else { refused.chain([calls]).collect() };
        let mut words: Vec<String> = ["strace", "-f", "-qq"].iter().chain(options).map(ToString::to_string).collect();
        words.extend(["-e".to_string(), format!("trace={}", traced.join(","))]);
        words.extend(
            refusals.iter().flat_map(|[calls, error]| ["-e".to_string(), format!("inject={calls}:error={error}")]),
        );
        self.under(&words.iter().map(String::as_str).collect::<Vec<_>>())
    }

    /// Runs to the end.
    pub fn run(&self) -> Outcome {
        if let Some([calls, _]) = self.refusals.first() {
            return self.clone().traced(&["-o", "/dev/null"], calls).run();
        }
        let mut child = self.child(Stdio::piped);
        feed(&mut child, &self.stdin);
        let output = child.wait_with_output().unwrap();
        Outcome {
            what: format!("{} {:?} {:?} < {}", self.program, self.arguments, self.environment, self.input()),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
            code: output.status.code(),
        }
    }

    /// Starts and leaves it running; its output is lost.
    pub fn spawn(&self) -> Background {
        let mut child = self.child(Stdio::null);
        feed(&mut child, &self.stdin);
        Background { child }
    }

    fn child(&self, output: fn() -> Stdio) -> std::process::Child {
        let mut command = self.lab.command(&self.program, &self.folder);
        command.args(&self.arguments).envs(self.environment.iter().cloned());
        command.stdin(Stdio::piped()).stdout(output()).stderr(output());
        command.spawn().unwrap_or_else(|error| panic!("{}: {error}", self.program))
    }

    fn input(&self) -> String {
        String::from_utf8_lossy(&self.stdin).into_owned()
    }
}

/// What a program left: its output and its exit code (`None`: ended by a signal).
#[derive(Debug, Clone)]
pub struct Outcome {
    #[expect(dead_code, reason = "read by {:?}, in the report of a failed test")]
    what: String,
    pub stdout: String,
    pub stderr: String,
    pub code: Option<i32>,
}

impl Outcome {
    /// Exit code 0, or the test fails with all that is known.
    pub fn success(self) -> Self {
        assert_eq!(self.code, Some(0), "{self:#?}");
        self
    }

    /// Success without a word on standard output.
    pub fn silent(self) -> Self {
        let outcome = self.success();
        assert_eq!(outcome.stdout, "", "{outcome:#?}");
        outcome
    }

    /// Standard output as exactly one JSON document.
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.stdout).unwrap_or_else(|error| panic!("{error}: {self:#?}"))
    }

    /// A successful result.
    pub fn result(self) -> Value {
        self.success().json()
    }

    /// Failure with exit code 1 and one CNI error object with this code and message.
    pub fn fails(self, code: i64, msg: &str) -> Self {
        let error = self.error();
        assert_eq!((error.0, error.1.as_str()), (code, msg), "{self:#?}");
        self
    }

    /// Failure whose message contains every one of `parts`.
    pub fn fails_with(self, code: i64, parts: &[&str]) -> Self {
        let error = self.error();
        assert_eq!(error.0, code, "{self:#?}");
        for part in parts {
            assert!(error.1.contains(part), "{part:?} is not in the message of {self:#?}");
        }
        self
    }

    /// The error object: code, message, details.
    pub fn error(&self) -> (i64, String, String) {
        assert_eq!(self.code, Some(1), "{self:#?}");
        let object = self.json();
        let text = |key: &str| object[key].as_str().unwrap_or_default().to_string();
        let code = object["code"].as_i64().unwrap_or_else(|| panic!("no code: {self:#?}"));
        (code, text("msg"), text("details"))
    }

    /// Failure of a program that is no plugin: exit code 1 and this as the last line of standard error.
    pub fn dies(self, last_line: &str) -> Self {
        assert_eq!(self.code, Some(1), "{self:#?}");
        assert_eq!(self.stderr.lines().last().unwrap_or_default(), last_line, "{self:#?}");
        self
    }

    /// Failure whose standard error contains every one of `parts`.
    pub fn dies_with(self, parts: &[&str]) -> Self {
        assert_eq!(self.code, Some(1), "{self:#?}");
        for part in parts {
            assert!(self.stderr.contains(part), "{part:?} is not on stderr of {self:#?}");
        }
        self
    }
}
