//! The Linux sandbox on the host's own kernel.

use super::{Control, Session};
use crate::collect::{Breach, Collecting};
use crate::command::{Request, Source};
use crate::error::chain;
use crate::sandbox::Config;
use crate::{Error, Isolation};
use ringfence_protocol::{CHUNK, Ended, Layer, LayerState, Network, Report};
use ringfence_sandbox::{
    Access, Content, Finished, Grant, InputFile, Interpreter, Killer, Patterns, Pool, Running,
    SpawnError, Spec, Stdin, WorkspacePath,
};
use std::ffi::OsString;
use std::io::Read;
use std::sync::{Arc, Mutex, PoisonError};

/// The interpreters that wait for code, if the configuration asks for some.
#[derive(Debug, Default)]
pub(crate) struct Prewarmed(Option<Pool>);

impl Prewarmed {
    pub(crate) fn new(config: &Config) -> Result<Self, Error> {
        if config.prewarm == 0 || config.isolation.resolve() != Isolation::Process {
            return Ok(Self::default());
        }
        let template = spec(
            config,
            Request {
                program: OsString::new(),
                args: Vec::new(),
                env: config.env.clone(),
                files: Vec::new(),
                stdin: false,
                collecting: None,
            },
        )?;
        let pool = Pool::new(Interpreter::PYTHON, template, config.prewarm);
        pool.map(|pool| Self(Some(pool))).map_err(Error::system(
            "cannot start a thread for the prewarmed pool",
        ))
    }

    pub(crate) fn wait_until_full(&self) -> Result<(), Error> {
        let Some(pool) = &self.0 else { return Ok(()) };
        pool.wait_until_full().map_err(|error| Error::Sandbox {
            message: chain(&error),
        })
    }
}

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
    let spec = spec(config, request)?;
    let waiting = prewarmed.0.as_ref().and_then(|pool| pool.take(&spec));
    let mut running = match waiting {
        Some(running) => running,
        None => ringfence_sandbox::spawn(spec).map_err(spawn_error)?,
    };
    let missing = || Error::Sandbox {
        message: "the sandbox gave no output stream".into(),
    };
    Ok(Session {
        stdin: running.stdin.take(),
        stdout: running.stdout.take().ok_or_else(missing)?,
        stderr: running.stderr.take().ok_or_else(missing)?,
        control: Arc::new(Process {
            killer: running.killer(),
            running: Mutex::new(Some(running)),
            collecting,
            limit,
        }),
        isolation: Isolation::Process,
        engine: None,
    })
}

fn spec(config: &Config, request: Request) -> Result<Spec, Error> {
    let mut spec = Spec::new(request.program);
    spec.args = request.args;
    spec.env = request.env;
    spec.collect = request.collecting.is_some();
    spec.limits = config.limits.clone();
    spec.network = Network::None;
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
    running: Mutex<Option<Running>>,
    collecting: Option<(Arc<Collecting>, Patterns)>,
    /// Bytes that the workspace may hold.
    limit: Option<u64>,
}

/// Copies what matches from the workspace, in which nobody writes any more.
fn collect(
    finished: &Finished,
    collecting: &Collecting,
    patterns: &Patterns,
    limit: Option<u64>,
) -> Result<(), String> {
    let broken = |Breach(what)| format!("the sandbox found {what}");
    let found = finished.collect(patterns, limit);
    let Some(found) = found.map_err(|error| chain(&error))? else {
        return Ok(());
    };
    for (path, why) in &found.skipped {
        collecting.skipped(path.as_bytes(), *why).map_err(broken)?;
    }
    let mut chunk = vec![0; CHUNK];
    for file in &found.files {
        let path = file.path.as_os_str();
        let opened = found.open(file).map_err(|error| chain(&error))?;
        collecting
            .begin(file.path.as_bytes(), file.mode, file.size)
            .map_err(broken)?;
        let mut content = opened.take(file.size);
        loop {
            let read = content.read(&mut chunk);
            let read = read.map_err(|error| format!("cannot read {path:?}: {error}"))?;
            let Some(bytes) = chunk.get(..read).filter(|bytes| !bytes.is_empty()) else {
                break;
            };
            collecting.data(bytes).map_err(broken)?;
        }
        if content.limit() > 0 {
            return Err(format!("{path:?} lost {} bytes", content.limit()));
        }
    }
    Ok(())
}

impl Control for Process {
    fn kill(&self, cause: Ended) {
        self.killer.kill(cause);
    }

    fn signal(&self, signal: u8) -> Result<(), Error> {
        let sent = self.killer.signal(i32::from(signal));
        sent.map_err(Error::system("cannot signal the program"))
    }

    fn wait(&self) -> Result<Report, Error> {
        let running = self
            .running
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        let Some(running) = running else {
            return Err(Error::Sandbox {
                message: "the program was waited for twice".into(),
            });
        };
        let finished = running.wait().map_err(|error| Error::Sandbox {
            message: chain(&error),
        })?;
        if let Some((collecting, patterns)) = &self.collecting
            && let Err(why) = collect(&finished, collecting, patterns, self.limit)
        {
            collecting.fail(why);
        }
        let mut report = finished.report.clone();
        drop(finished);
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
