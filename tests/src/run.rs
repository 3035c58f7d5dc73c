//! One call of the command: built, run, and judged.

use crate::leftovers::Before;
use crate::process::{self, Number};
use crate::{Isolation, Lab, Terminal};
use ringfence_probe::Pattern;
use rustix::process::Signal;
use serde_json::Value;
use std::ffi::{OsStr, OsString};
use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::process::{Child, ChildStderr, ChildStdin, ChildStdout, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

/// Standard input of a call.
#[derive(Debug)]
enum Input {
    Null,
    Bytes(Vec<u8>),
    Pattern(u64),
    File(File),
}

/// A call of the command that has not begun.
#[derive(Debug)]
#[must_use]
pub struct Run<'a> {
    lab: &'a Lab<'a>,
    subcommand: OsString,
    options: Vec<OsString>,
    program: Vec<OsString>,
    environment: Vec<(OsString, OsString)>,
    input: Input,
    patience: Duration,
    /// What executes the command, if it is not the caller itself.
    wrapper: Vec<OsString>,
}

impl<'a> Run<'a> {
    pub(crate) fn new(lab: &'a Lab<'a>, subcommand: &str) -> Self {
        let patience = if lab.isolation == Isolation::Vm {
            240
        } else {
            90
        };
        let variables = lab.environment().into_iter();
        Self {
            lab,
            subcommand: subcommand.into(),
            options: Vec::new(),
            program: Vec::new(),
            environment: variables
                .map(|(name, value)| (name.into(), value.into()))
                .collect(),
            input: Input::Null,
            patience: Duration::from_secs(patience),
            wrapper: Vec::new(),
        }
    }

    /// An option with its value.
    pub fn option(self, name: &str, value: impl AsRef<OsStr>) -> Self {
        self.options([OsStr::new(name), value.as_ref()])
    }

    /// An option with its value, instead of the value that the isolation gave it.
    pub fn replace_option(mut self, name: &str, value: impl AsRef<OsStr>) -> Self {
        let given = self.options.iter().position(|word| word == name);
        if let Some(at) = given {
            self.options.drain(at..at + 2);
        }
        self.option(name, value)
    }

    /// Words before the program.
    pub fn options<S: AsRef<OsStr>>(mut self, words: impl IntoIterator<Item = S>) -> Self {
        self.options
            .extend(words.into_iter().map(|word| word.as_ref().to_owned()));
        self
    }

    /// The program and its arguments, instead of what was there.
    pub fn program<S: AsRef<OsStr>>(mut self, words: impl IntoIterator<Item = S>) -> Self {
        self.program.clear();
        self.more(words)
    }

    /// More arguments of the program.
    pub fn more<S: AsRef<OsStr>>(mut self, words: impl IntoIterator<Item = S>) -> Self {
        self.program
            .extend(words.into_iter().map(|word| word.as_ref().to_owned()));
        self
    }

    /// A variable of the caller's environment.
    pub fn with(mut self, name: &str, value: impl AsRef<OsStr>) -> Self {
        self.environment.retain(|(each, _)| each != name);
        self.environment
            .push((name.into(), value.as_ref().to_owned()));
        self
    }

    /// Standard input from memory.
    pub fn input(mut self, bytes: impl Into<Vec<u8>>) -> Self {
        self.input = Input::Bytes(bytes.into());
        self
    }

    /// This many bytes of the probe's pattern as standard input.
    pub fn input_pattern(mut self, len: u64) -> Self {
        self.input = Input::Pattern(len);
        self
    }

    /// Standard input from an open file.
    pub fn input_file(mut self, file: File) -> Self {
        self.input = Input::File(file);
        self
    }

    /// How long the call may take until it counts as hanging.
    pub const fn patience(mut self, patience: Duration) -> Self {
        self.patience = patience;
        self
    }

    fn command(&self) -> Command {
        let mut words = vec![self.lab.bench.command().into_os_string()];
        if self.lab.isolation.is_bare() {
            let probe = self.lab.outside_probe().into_os_string();
            words.splice(0..0, [probe, "do".into(), "without-namespaces".into()]);
        }
        words.push(self.subcommand.clone());
        words.extend(self.options.iter().cloned());
        if self.subcommand == "run" {
            words.push("--".into());
        }
        words.extend(self.program.iter().cloned());
        words.splice(0..0, self.wrapper.iter().cloned());
        let (program, arguments) = words.split_first().unwrap();
        let mut command = Command::new(program);
        command
            .args(arguments)
            .env_clear()
            .envs(self.environment.iter().cloned());
        command.current_dir(self.lab.path(""));
        if let Some(user) = self.lab.isolation.user() {
            command.uid(user).gid(user);
        }
        command
    }

    /// Starts the call and leaves its streams to the scenario.
    ///
    /// # Panics
    /// When the command cannot be started.
    #[must_use]
    pub fn start(self) -> Running {
        self.start_with(Stdio::piped())
    }

    /// Starts the call with a terminal as its three streams. It has no control of the caller's
    /// session, so that signals are the scenario's to send.
    ///
    /// # Panics
    /// As [`Run::start`], and when there is no terminal to be had.
    #[must_use]
    pub fn start_at(self, terminal: &Terminal) -> Running {
        let stream = || Stdio::from(terminal.commands().try_clone().unwrap());
        self.start_on([stream(), stream(), stream()])
    }

    /// As [`Run::start_at`], in a session of its own that the terminal controls.
    ///
    /// # Panics
    /// As [`Run::start_at`].
    #[must_use]
    pub fn start_in_session(mut self, terminal: &Terminal) -> Running {
        self.wrapper = vec!["/usr/bin/setsid".into(), "--ctty".into()];
        self.start_at(terminal)
    }

    fn start_with(self, stdin: Stdio) -> Running {
        self.start_on([stdin, Stdio::piped(), Stdio::piped()])
    }

    fn start_on(self, [stdin, stdout, stderr]: [Stdio; 3]) -> Running {
        let before = Before::look(&self.lab.callers_places());
        let mut command = self.command();
        let shown = shown(&command);
        command.stdin(stdin).stdout(stdout).stderr(stderr);
        let mut child = command.spawn().unwrap();
        // It holds streams of its own.
        drop(command);
        Running {
            stdin: child.stdin.take(),
            stdout: child.stdout.take(),
            stderr: child.stderr.take(),
            began: Instant::now(),
            patience: self.patience,
            child,
            before,
            shown,
        }
    }

    /// Runs the call to its end, checks that nothing is left behind, and gives what came out.
    ///
    /// # Panics
    /// When it hangs or leaves something behind.
    #[track_caller]
    pub fn outcome(mut self) -> Outcome {
        let mut source: Box<dyn Read + Send> = match std::mem::replace(&mut self.input, Input::Null)
        {
            Input::File(file) => return self.start_with(file.into()).finish(),
            Input::Null => return self.start_with(Stdio::null()).finish(),
            Input::Bytes(bytes) => Box::new(io::Cursor::new(bytes)),
            Input::Pattern(len) => Box::new(Pattern::new(len)),
        };
        let mut running = self.start();
        let mut stdin = running.stdin.take().unwrap();
        // A program that ends early closes its input: that is no failure of the writer.
        let writer = thread::spawn(move || io::copy(&mut source, &mut stdin).is_ok());
        let outcome = running.finish();
        writer.join().unwrap();
        outcome
    }

    /// As [`Run::outcome`], with `--json`, and the object that came out.
    ///
    /// # Panics
    /// As [`Run::outcome`], and when standard output is not one JSON object.
    #[track_caller]
    pub fn json(self) -> (Outcome, Value) {
        let outcome = self.options(["--json"]).outcome();
        let value = serde_json::from_slice(&outcome.stdout);
        let value = value.unwrap_or_else(|error| panic!("no JSON ({error}): {outcome}"));
        (outcome, value)
    }
}

/// A command line for messages, without what is too long to read.
fn shown(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    let words = words.map(|word| {
        let word = word.to_string_lossy();
        let short: String = word.chars().take(200).collect();
        if short.len() < word.len() {
            format!("{short}…")
        } else {
            short
        }
    });
    words.collect::<Vec<_>>().join(" ")
}

/// A call that has begun.
#[derive(Debug)]
pub struct Running {
    /// Standard input, until it is taken or dropped.
    pub stdin: Option<ChildStdin>,
    /// Standard output.
    pub stdout: Option<ChildStdout>,
    /// Standard error.
    pub stderr: Option<ChildStderr>,
    child: Child,
    began: Instant,
    patience: Duration,
    before: Before,
    shown: String,
}

impl Running {
    /// The process number of the command.
    #[must_use]
    pub fn pid(&self) -> Number {
        Number::try_from(self.child.id()).unwrap()
    }

    /// Reads one line of standard output, byte by byte so that nothing after it is lost.
    ///
    /// # Panics
    /// When the stream ends or fails.
    pub fn line(&mut self) -> String {
        let stdout = self.stdout.as_mut().unwrap();
        let mut line = Vec::new();
        let mut byte = [0];
        while stdout.read(&mut byte).unwrap() == 1 && byte != *b"\n" {
            line.extend(byte);
        }
        String::from_utf8(line).unwrap()
    }

    /// Sends the command a signal.
    ///
    /// # Panics
    /// When it is gone.
    pub fn signal(&self, signal: Signal) {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, signal).unwrap();
    }

    /// Reads both streams to their end, waits for the command, and checks that nothing is left
    /// behind at that moment.
    ///
    /// # Panics
    /// When it hangs or leaves something behind.
    #[track_caller]
    pub fn finish(self) -> Outcome {
        let (outcome, before) = self.end();
        before.assert_same();
        outcome
    }

    /// As [`Running::finish`], while another call is under way: what that one holds is not this
    /// one's, so only the outcome is judged.
    ///
    /// # Panics
    /// When it hangs.
    #[track_caller]
    #[must_use]
    pub fn finish_beside(self) -> Outcome {
        self.end().0
    }

    /// As [`Running::finish`], for a command that was killed: what it started has to notice first.
    ///
    /// # Panics
    /// When it hangs or leaves something behind for long.
    #[track_caller]
    pub fn finish_killed(self) -> Outcome {
        let (outcome, before) = self.end();
        before.assert_same_soon();
        outcome
    }

    #[track_caller]
    fn end(mut self) -> (Outcome, Before) {
        let stdout = self
            .stdout
            .take()
            .map(|stream| thread::spawn(move || read(stream)));
        let stderr = self
            .stderr
            .take()
            .map(|stream| thread::spawn(move || read(stream)));
        let deadline = self.began + self.patience;
        let hangs = !process::wait_for_end(self.pid(), deadline);
        if hangs {
            for pid in process::descendants(self.pid()) {
                process::kill(pid);
            }
            process::kill(self.pid());
        }
        let status = self.child.wait().unwrap();
        let elapsed = self.began.elapsed();
        let collect = |reader: Option<thread::JoinHandle<Vec<u8>>>| {
            reader
                .map(|reader| reader.join().unwrap())
                .unwrap_or_default()
        };
        let outcome = Outcome {
            status,
            stdout: collect(stdout),
            stderr: collect(stderr),
            elapsed,
            shown: self.shown,
        };
        assert!(!hangs, "no end within {:?}: {outcome}", self.patience);
        (outcome, self.before)
    }
}

fn read(mut stream: impl Read) -> Vec<u8> {
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes).unwrap();
    bytes
}

/// How a call ended.
#[derive(Debug)]
pub struct Outcome {
    status: ExitStatus,
    /// All of standard output.
    pub stdout: Vec<u8>,
    /// All of standard error.
    pub stderr: Vec<u8>,
    /// From start to end.
    pub elapsed: Duration,
    shown: String,
}

impl Outcome {
    /// The exit status was this.
    ///
    /// # Panics
    /// When it was not.
    #[track_caller]
    pub fn assert_code(&self, code: i32) -> &Self {
        assert_eq!(self.status.code(), Some(code), "{self}");
        self
    }

    /// The command was ended by this signal.
    ///
    /// # Panics
    /// When it was not.
    #[track_caller]
    pub fn assert_signal(&self, signal: i32) -> &Self {
        assert_eq!(self.status.signal(), Some(signal), "{self}");
        self
    }

    /// The exit status, if there was one.
    #[must_use]
    pub fn code(&self) -> Option<i32> {
        self.status.code()
    }

    /// Standard output was exactly this.
    ///
    /// # Panics
    /// When it was not.
    #[track_caller]
    pub fn assert_stdout(&self, expected: &str) -> &Self {
        assert_eq!(self.text(), expected, "{self}");
        self
    }

    /// ringfence itself refused, with a message that contains these words and nothing on standard
    /// output.
    ///
    /// # Panics
    /// When it did not.
    #[track_caller]
    pub fn assert_error(&self, code: i32, words: &[&str]) -> &Self {
        self.assert_code(code);
        assert_eq!(self.stdout, b"", "{self}");
        let stderr = self.errors();
        assert!(!stderr.contains("panicked at"), "{self}");
        for word in words {
            assert!(stderr.contains(word), "{word:?} is missing: {self}");
        }
        self
    }

    /// Standard output as text.
    #[must_use]
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.stdout).into_owned()
    }

    /// Standard error as text.
    #[must_use]
    pub fn errors(&self) -> String {
        String::from_utf8_lossy(&self.stderr).into_owned()
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let short = |bytes: &[u8]| {
            let text = String::from_utf8_lossy(bytes);
            text.chars().take(4000).collect::<String>()
        };
        write!(
            f,
            "\n  $ {}\n  {} after {:?}\n  stdout ({} bytes): {}\n  stderr ({} bytes): {}",
            self.shown,
            self.status,
            self.elapsed,
            self.stdout.len(),
            short(&self.stdout),
            self.stderr.len(),
            short(&self.stderr),
        )
    }
}
