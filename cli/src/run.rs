//! `run` and `eval`.

use crate::gate::Shown;
use crate::json::RunReport;
use crate::options::Options;
use crate::status::Status;
use crate::text::{json_line, tell};
use crate::tty::{Connected, Fatal};
use anyhow::Context as _;
use clap::Args;
use ringfence::{CollectError, Collected, Command, Language, Report, SkippedFile, Stdio};
use std::ffi::OsString;
use std::io::{Read, Write};
use std::os::unix::ffi::OsStringExt;

/// Warnings about files that were not collected, one line each.
const MOST_WARNINGS: usize = 20;

#[derive(Debug, Args)]
pub(crate) struct Run {
    #[command(flatten)]
    options: Options,
    /// The program (a name, an absolute path, or a path relative to the workspace) and its
    /// arguments; every option of ringfence stands before it
    #[arg(required = true, trailing_var_arg = true, value_names = ["PROGRAM", "ARGS"])]
    command: Vec<OsString>,
}

#[derive(Debug, Args)]
pub(crate) struct Eval {
    #[command(flatten)]
    options: Options,
    /// python, shell or node
    #[arg(value_name = "LANG")]
    language: Language,
    /// The code; read from standard input when it is - or left out
    #[arg(default_value = "-", allow_hyphen_values = true, value_name = "CODE")]
    code: OsString,
}

impl Run {
    pub(crate) fn execute(self) -> anyhow::Result<Status> {
        let mut words = self.command.into_iter();
        let program = words.next().context("no program was given")?;
        let command = self.options.sandbox()?.command(program).args(words);
        execute(&self.options, self.options.apply(command)?)
    }
}

impl Eval {
    pub(crate) fn execute(self) -> anyhow::Result<Status> {
        let sandbox = self.options.sandbox()?;
        let code = if self.code == "-" {
            let mut code = Vec::new();
            let mut stdin = std::io::stdin().lock();
            stdin
                .read_to_end(&mut code)
                .context("cannot read the code from standard input")?;
            code
        } else {
            self.code.into_vec()
        };
        execute(
            &self.options,
            self.options.apply(self.language.command(&sandbox, code))?,
        )
    }
}

fn execute(options: &Options, command: Command) -> anyhow::Result<Status> {
    if !options.json {
        let gate = options.gate();
        let command = match gate {
            Some(_) => command.stdout(Stdio::piped()).stderr(Stdio::piped()),
            None => command,
        };
        let mut child = command.spawn()?;
        let shown = gate.map(|gate| Shown::start(&mut child, gate));
        let shown = shown.transpose()?;
        let connected = options.tty.then(|| Connected::new(child.killer()));
        let connected = connected.transpose()?;
        let report = child.wait();
        let written = shown.map_or(Ok(()), Shown::end);
        let report = report?;
        written?;
        let fatal = connected.and_then(Connected::end);
        if let Some(reason) = crate::json::limit_message(&report, options.limits_files()) {
            tell(&reason);
        }
        let status = told(&child.collected(), &report);
        // The VM is gone with it.
        drop(child);
        fatal.into_iter().for_each(Fatal::leave);
        return Ok(status);
    }
    let output = command
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?
        .wait_with_output()?;
    let line = json_line(&RunReport::new(&output, options.collects()))?;
    let mut stdout = std::io::stdout().lock();
    stdout
        .write_all(&line)
        .and_then(|()| stdout.flush())
        .context("cannot write the report")?;
    Ok(match &output.collected {
        Ok(_) => Status::of_report(&output.report),
        Err(_) => Status::Own,
    })
}

/// Says what was not collected. Names are the program's: they are shown with every control character
/// escaped.
fn told(collected: &Result<Collected, CollectError>, report: &Report) -> Status {
    let (Ok(found)
    | Err(CollectError {
        collected: found, ..
    })) = collected;
    for SkippedFile { path, why, .. } in found.skipped.iter().take(MOST_WARNINGS) {
        tell(&format!("not collected: {path:?}: {why}"));
    }
    let more = found.skipped.len().saturating_sub(MOST_WARNINGS);
    if more > 0 {
        tell(&format!("not collected: {more} more"));
    }
    match collected {
        Ok(found) => {
            for pattern in &found.unmatched {
                tell(&format!(
                    "nothing that can be collected matches {pattern:?}"
                ));
            }
            Status::of_report(report)
        }
        Err(error) => {
            tell(&error.to_string());
            Status::Own
        }
    }
}
