//! The command line of `cargo xtask lab`.

use super::test::{Test, print};
use super::{Job, Lab, Machine, Outcome, Placed, Report};
use anyhow::Context as _;
use clap::{Args, Subcommand};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};
use xshell::Shell;

/// Exit status for failures of the lab itself, as `ringfence` has it.
const OWN_FAILURE: u8 = 125;

#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    task: Option<Task>,
    /// Processors of the machine
    #[arg(long, value_name = "N", default_value_t = Machine::default().cpus)]
    cpus: u8,
    /// Memory of the machine, in MiB
    #[arg(long, value_name = "MIB", default_value_t = Machine::default().memory)]
    memory: u32,
    /// When the machine is killed
    #[arg(long, value_name = "TIME", default_value = "600s", value_parser = humantime::parse_duration)]
    timeout: Duration,
    /// Put a file into the lab [default destination: /lab/NAME]
    #[arg(long = "file", value_name = "SRC[:DST]", value_parser = placed)]
    files: Vec<Placed>,
    /// Set an environment variable of the program
    #[arg(long = "env", value_name = "K=V", value_parser = variable)]
    env: Vec<(String, String)>,
    /// Guest image, which becomes /image [default: the one in the user's cache]
    #[arg(long, value_name = "DIR")]
    image: Option<PathBuf>,
    /// Run as the ordinary user `user`, not as root
    #[arg(long)]
    user: bool,
    /// Have an arm64 QEMU in the lab
    #[arg(long)]
    tools: bool,
    /// Say how long each phase took, and print the console at the end
    #[arg(long, short)]
    verbose: bool,
    /// A path of a static arm64 program, or the name of a program of the lab; then its arguments
    #[arg(last = true, required = true, value_name = "PROGRAM")]
    words: Vec<String>,
}

#[derive(Debug, Subcommand)]
enum Task {
    /// Run the end-to-end tests of VMs in the lab, on the engines kvm and hvf
    Test(Test),
}

impl Arguments {
    /// Runs the program and returns its exit status.
    pub(crate) fn run(&self, shell: &Shell) -> ExitCode {
        let code = self.attempt(shell).unwrap_or_else(|error| {
            eprintln!("lab: {error:#}");
            OWN_FAILURE
        });
        code.into()
    }

    fn attempt(&self, shell: &Shell) -> anyhow::Result<u8> {
        if let Some(Task::Test(test)) = &self.task {
            test.run(shell)?;
            return Ok(0);
        }
        let (program, args) = self.words.split_first().context("no program")?;
        let started = Instant::now();
        let mut lab = Lab::prepare(shell, self.image.as_deref())?;
        if self.tools {
            lab = lab.with_tools()?;
        }
        let prepared = started.elapsed();
        let job = Job {
            program: program.clone(),
            args: args.to_vec(),
            env: self.env.clone(),
            files: self.files.clone(),
            ordinary_user: self.user,
        };
        let machine = Machine {
            cpus: self.cpus,
            memory: self.memory,
            timeout: self.timeout,
            verbose: self.verbose,
        };
        let report = lab.run(&job, &machine, print)?;
        if self.verbose {
            explain(prepared, &report);
        }
        if report.outcome == Outcome::TimedOut {
            let timeout = humantime::format_duration(self.timeout);
            eprintln!(
                "lab: killed after {timeout}; the console's last lines:\n{}",
                report.console
            );
        }
        Ok(report.outcome.code())
    }
}

fn explain(prepared: Duration, report: &Report) {
    let phases = report.phases;
    eprintln!("lab: the console's last lines:\n{}", report.console);
    for (phase, time) in [
        ("parts found or made", prepared),
        ("QEMU's start to PID 1", phases.init),
        ("  of these since the kernel's start", phases.kernel),
        ("PID 1 to the program", phases.program),
        ("the program", phases.end),
    ] {
        eprintln!("lab: {phase}: {:.3} s", time.as_secs_f64());
    }
}

/// `SRC[:DST]`
fn placed(text: &str) -> anyhow::Result<Placed> {
    let (source, destination) = match text.split_once(':') {
        Some((source, destination)) => (source, Some(destination.to_owned())),
        None => (text, None),
    };
    let source = PathBuf::from(source);
    let destination = match destination {
        Some(destination) => destination,
        None => default_destination(&source)?,
    };
    anyhow::ensure!(
        destination.starts_with('/') && !destination.ends_with('/'),
        "{destination} is no absolute path of a file in the lab"
    );
    Ok(Placed {
        source,
        destination,
    })
}

/// Where a file goes whose place was not said.
pub(super) fn default_destination(source: &Path) -> anyhow::Result<String> {
    let name = source.file_name().and_then(|name| name.to_str());
    let name = name.with_context(|| format!("{} has no file name", source.display()))?;
    Ok(format!("/lab/{name}"))
}

/// `K=V`
fn variable(text: &str) -> anyhow::Result<(String, String)> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.to_owned())),
        _ => anyhow::bail!("{text} is not of the form K=V"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_go_where_they_are_told() {
        let check = |text: &str, source: &str, destination: &str| {
            let expected = Placed {
                source: source.into(),
                destination: destination.into(),
            };
            assert_eq!(placed(text).unwrap(), expected, "{text}");
        };
        check("a/b", "a/b", "/lab/b");
        check("a/b:/tmp/c", "a/b", "/tmp/c");
        for text in ["a:b", "a:", "a:/b/", "..", ""] {
            assert!(placed(text).is_err(), "{text}");
        }
    }

    #[test]
    fn variables_have_a_name() {
        let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        assert_eq!(variable("A=b=c").unwrap(), pair("A", "b=c"));
        assert_eq!(variable("A=").unwrap(), pair("A", ""));
        for text in ["A", "=b", ""] {
            assert!(variable(text).is_err(), "{text}");
        }
    }
}
