//! The Linux sandbox on the host's own kernel.

mod collect;
mod keys;
mod prewarmed;

use super::watch::Watch;
use super::{Control, Session};
use crate::collect::Collecting;
use crate::command::{Request, Source};
use crate::error::chain;
use crate::sandbox::Config;
use crate::{Error, Isolation, Policy, Violation};
use keys::Keys;
pub(crate) use prewarmed::Prewarmed;
use ringfence_protocol::{Ended, Layer, LayerState, Network, Report, TerminalSize};
use ringfence_sandbox::{
    Access, Content, Grant, InputFile, Killer, Patterns, Questions, Running, SpawnError, Spec,
    Stdin, Terminal, WorkspacePath,
};
use std::io::{self, PipeReader, PipeWriter};
use std::os::fd::{AsFd as _, OwnedFd};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};

pub(super) fn start(
    config: &Config,
    prewarmed: &Prewarmed,
    request: Request,
) -> Result<Session, Error> {
    let collecting = request.collecting.clone();
    let patterns = collecting.as_ref().map(|collecting| {
        Patterns::new(collecting.patterns.clone()).map_err(|error| Error::invalid(chain(&error)))
    });
    let collecting = collecting.zip(patterns.transpose()?);
    let limit = config.limits.workspace;
    let policy = request.policy.clone();
    let has_stdin = request.stdin;
    let spec = spec(config, request)?;
    let waiting = prewarmed.take(&spec);
    let mut running = match waiting {
        Some(running) => running,
        None => ringfence_sandbox::spawn(spec).map_err(spawn_error)?,
    };
    let questions = running.questions.take();
    let supervised = questions
        .zip(policy)
        .map(|(questions, policy)| Supervised::start(questions, policy));
    let over = running.over();
    let over = over.map_err(Error::system("cannot watch for the program's end"))?;
    let streams = Streams::take(&mut running, has_stdin, &over)?;
    Ok(Session {
        stdin: streams.stdin,
        stdout: streams.stdout,
        stderr: streams.stderr,
        over: Some(over),
        control: Arc::new(Process {
            killer: running.killer(),
            terminal: running.terminal.take(),
            ongoing: Mutex::new(Some(Ongoing {
                running,
                keys: streams.keys,
                supervised: supervised.transpose()?,
            })),
            collecting,
            limit,
        }),
        isolation: Isolation::Process,
        engine: None,
    })
}

/// The caller's ends.
struct Streams {
    stdin: Option<PipeWriter>,
    stdout: PipeReader,
    stderr: PipeReader,
    keys: Option<Keys>,
}

impl Streams {
    /// Takes them. A terminal is read like a pipe; with it there is nothing on standard error.
    fn take(running: &mut Running, has_stdin: bool, over: &OwnedFd) -> Result<Self, Error> {
        if let Some(terminal) = &running.terminal {
            let made = Self::of_terminal(terminal, has_stdin, over);
            return made.map_err(Error::system("cannot make the program's streams"));
        }
        let missing = || Error::Sandbox {
            message: "the sandbox gave no output stream".into(),
        };
        Ok(Self {
            stdin: running.stdin.take(),
            stdout: running.stdout.take().ok_or_else(missing)?,
            stderr: running.stderr.take().ok_or_else(missing)?,
            keys: None,
        })
    }

    fn of_terminal(terminal: &Terminal, has_stdin: bool, over: &OwnedFd) -> io::Result<Self> {
        let typed = has_stdin.then(io::pipe).transpose()?;
        let (typed, stdin) = typed.unzip();
        let keys = typed.map(|typed| Keys::start(typed, terminal, over.try_clone()?));
        let (stderr, _closed) = io::pipe()?;
        Ok(Self {
            stdin,
            stdout: terminal.as_fd().try_clone_to_owned()?.into(),
            stderr,
            keys: keys.transpose()?,
        })
    }
}

fn spec(config: &Config, request: Request) -> Result<Spec, Error> {
    let mut spec = Spec::new(request.program);
    spec.args = request.args;
    spec.env = request.env;
    spec.collect = request.collecting.is_some();
    spec.terminal = request.terminal;
    spec.limits = config.limits.clone();
    spec.network = Network::None;
    spec.supervision = request
        .policy
        .as_ref()
        .map(|policy| policy.supervision.clone());
    spec.require = config.require.clone();
    spec.stdin = if request.stdin {
        Stdin::Piped
    } else {
        Stdin::Null
    };
    for grant in &config.grants {
        let access = if grant.writable {
            Access::ReadWrite
        } else {
            Access::Read
        };
        spec.grants.push(Grant {
            path: grant.path.clone(),
            destination: grant.destination.clone(),
            access,
        });
    }
    for file in request.files {
        let file = file.open()?;
        let path = WorkspacePath::try_from(file.path.as_os_str())
            .map_err(|error| Error::invalid(error.to_string()))?;
        let content = match file.source {
            Source::Bytes(bytes) => Content::Bytes(bytes),
            Source::File(file, _) => Content::File(file),
        };
        spec.files.push(InputFile {
            path,
            mode: file.mode,
            content,
        });
    }
    Ok(spec)
}

#[derive(Debug)]
struct Process {
    killer: Killer,
    terminal: Option<Terminal>,
    /// Until it is waited for.
    ongoing: Mutex<Option<Ongoing>>,
    collecting: Option<(Arc<Collecting>, Patterns)>,
    /// Bytes that the workspace may hold.
    limit: Option<u64>,
}

/// What ends with the execution.
#[derive(Debug)]
struct Ongoing {
    running: Running,
    keys: Option<Keys>,
    supervised: Option<Supervised>,
}

/// The questions of a supervised program on their way to its policy.
#[derive(Debug)]
struct Supervised {
    watch: Arc<Watch>,
    /// Ends with the execution.
    reader: JoinHandle<()>,
}

impl Supervised {
    fn start(mut questions: Questions, policy: Arc<Policy>) -> Result<Self, Error> {
        let answerer = questions.answerer();
        let answer = move |token, decision| answerer.answer(token, decision);
        let watch = Arc::new(Watch::start(policy, answer)?);
        let own = Arc::clone(&watch);
        let reader = thread::Builder::new().name("ringfence-questions".into());
        let reader = reader.spawn(move || {
            while let Some(question) = questions.next_question() {
                own.take(question);
            }
            own.end();
        });
        let failed = Error::system("cannot start a thread for a program's questions");
        let reader = reader.map_err(failed)?;
        Ok(Self { watch, reader })
    }

    /// What was refused until the end, which has come.
    fn end(self) -> Vec<Violation> {
        // It does not panic; if it did, its refusals up to then are recorded.
        let _ = self.reader.join();
        self.watch.refused()
    }
}

impl Control for Process {
    fn kill(&self, cause: Ended) {
        self.killer.kill(cause);
    }

    fn signal(&self, signal: u8) -> Result<(), Error> {
        let sent = self.killer.signal(i32::from(signal));
        sent.map_err(Error::system("cannot signal the program"))
    }

    fn resize(&self, size: TerminalSize) -> Result<(), Error> {
        let terminal = self.terminal.as_ref().ok_or_else(super::no_terminal)?;
        let resized = terminal.resize(size);
        resized.map_err(Error::system("cannot resize the program's terminal"))
    }

    fn wait(&self) -> Result<Report, Error> {
        let ongoing = self
            .ongoing
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        let Some(Ongoing {
            running,
            keys,
            supervised,
        }) = ongoing
        else {
            return Err(Error::Sandbox {
                message: "the program was waited for twice".into(),
            });
        };
        let finished = running.wait().map_err(|error| Error::Sandbox {
            message: chain(&error),
        })?;
        if let Some((collecting, patterns)) = &self.collecting
            && let Err(why) = collect::copy(&finished, collecting, patterns, self.limit)
        {
            collecting.fail(why);
        }
        let mut report = finished.report.clone();
        drop(finished);
        keys.into_iter().for_each(Keys::end);
        report
            .violations
            .extend(supervised.map(Supervised::end).unwrap_or_default());
        report.layers.push(LayerState::missing(
            Layer::Vm,
            "process isolation shares the host's kernel; use isolation vm",
        ));
        Ok(report)
    }
}

fn spawn_error(error: SpawnError) -> Error {
    Error::from_failure(error.failure())
}
