//! Interpreters that were started ahead of their code.

use crate::command::Request;
use crate::error::chain;
use crate::sandbox::Config;
use crate::{Error, Isolation};
use ringfence_sandbox::{Interpreter, Pool, Running, Spec};
use std::ffi::OsString;

/// The interpreters that wait for code, if the configuration asks for some.
#[derive(Debug, Default)]
pub(crate) struct Prewarmed(Option<Pool>);

impl Prewarmed {
    pub(crate) fn new(config: &Config) -> Result<Self, Error> {
        if config.prewarm == 0 || config.isolation.resolve() != Isolation::Process {
            return Ok(Self::default());
        }
        let template = super::spec(
            config,
            Request {
                program: OsString::new(),
                args: Vec::new(),
                env: config.env.clone(),
                files: Vec::new(),
                stdin: false,
                terminal: None,
                collecting: None,
                policy: None,
            },
        )?;
        let pool = Pool::new(Interpreter::PYTHON, template, config.prewarm);
        pool.map(|pool| Self(Some(pool))).map_err(Error::system(
            "cannot start a thread for the prewarmed pool",
        ))
    }

    /// One that waits, if it is what this execution would be.
    pub(super) fn take(&self, spec: &Spec) -> Option<Running> {
        self.0.as_ref().and_then(|pool| pool.take(spec))
    }

    pub(crate) fn wait_until_full(&self) -> Result<(), Error> {
        let Some(pool) = &self.0 else { return Ok(()) };
        pool.wait_until_full().map_err(|error| Error::Sandbox {
            message: chain(&error),
        })
    }
}
