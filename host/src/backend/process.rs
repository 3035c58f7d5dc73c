//! The Linux sandbox on the host's own kernel.

use super::{Control, Session};
use crate::command::{Request, Source};
use crate::error::chain;
use crate::sandbox::Config;
use crate::{Error, Isolation};
use ringfence_protocol::{Ended, LayerState, Report};
use ringfence_protocol::{Layer, Network};
use ringfence_sandbox::{
    Access, Content, Grant, InputFile, Killer, Running, SpawnError, Spec, Stdin, WorkspacePath,
};
use std::sync::{Mutex, PoisonError};

pub(super) fn start(config: &Config, request: Request) -> Result<Session, Error> {
    let mut running = ringfence_sandbox::spawn(spec(config, request)?).map_err(spawn_error)?;
    let missing = || Error::Sandbox {
        message: "the sandbox gave no output stream".into(),
    };
    Ok(Session {
        stdin: running.stdin.take(),
        stdout: running.stdout.take().ok_or_else(missing)?,
        stderr: running.stderr.take().ok_or_else(missing)?,
        control: std::sync::Arc::new(Process {
            killer: running.killer(),
            running: Mutex::new(Some(running)),
        }),
        isolation: Isolation::Process,
        engine: None,
    })
}

fn spec(config: &Config, request: Request) -> Result<Spec, Error> {
    let mut spec = Spec::new(request.program);
    spec.args = request.args;
    spec.env = request.env;
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
        let mut report = finished.report;
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
