//! `cargo xtask lab test`: the end-to-end tests in the lab, on the engines of our own.
//!
//! Each engine with each number of processors is a lab of its own, so that one which hangs or
//! breaks its machine takes no other along.

use super::{Job, Lab, Machine, Outcome, Placed, Stream};
use anyhow::{Context as _, ensure};
use clap::{Args, ValueEnum};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use xshell::{Shell, cmd};

pub(super) const TARGET: &str = "aarch64-unknown-linux-musl";

/// What the command in the lab needs to have.
pub(super) const FEATURES: &str = "hvf-over-kvm";

/// Until a lab is killed. The whole suite takes some fifteen minutes of an idle machine.
const PATIENCE: Duration = Duration::from_secs(60 * 60);

/// Memory of a lab, in MiB: files are in memory there, and guests.
const MEMORY: u32 = 4096;

/// The engines that run on the lab's KVM.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Engine {
    /// KVM as it is.
    Kvm,
    /// Hypervisor.framework's run loop, over an adapter to KVM.
    Hvf,
}

#[derive(Debug, Args)]
pub(crate) struct Test {
    /// Only these engines
    #[arg(long, value_enum, value_delimiter = ',', default_values = ["kvm", "hvf"])]
    engines: Vec<Engine>,
    /// Only guests with these numbers of processors
    #[arg(long, value_name = "N", value_delimiter = ',', default_values_t = [1, 2, 4])]
    cpus: Vec<u8>,
    /// Guest image [default: the one in the user's cache]
    #[arg(long, value_name = "DIR")]
    image: Option<PathBuf>,
    /// No tests whose names contain this
    #[arg(long, value_name = "NAME")]
    skip: Vec<String>,
    /// Only tests whose names contain this
    #[arg(default_value = "vm::")]
    filter: String,
}

impl Test {
    /// Some tests on one engine, without others.
    pub(crate) fn some(engine: Engine, cpus: u8, filter: &str, skip: &[&str]) -> Self {
        Self {
            engines: vec![engine],
            cpus: vec![cpus],
            image: None,
            skip: skip.iter().map(|name| (*name).to_owned()).collect(),
            filter: filter.into(),
        }
    }

    /// Runs the tests everywhere, and fails if one of them has.
    pub(crate) fn run(&self, shell: &Shell) -> anyhow::Result<()> {
        let lab = Lab::prepare(shell, self.image.as_deref())?;
        let programs = Programs::build(shell)?;
        let mut failed = Vec::new();
        for &engine in &self.engines {
            for &cpus in &self.cpus {
                let name = format!("{} with {cpus} processors", engine.name());
                eprintln!("-- {name}");
                let started = Instant::now();
                let outcome = self.run_in(&lab, &programs, engine, cpus)?;
                let seconds = started.elapsed().as_secs_f64();
                eprintln!("-- {name}: {outcome:?} after {seconds:.1} s");
                if outcome.code() != 0 {
                    failed.push(name);
                }
            }
        }
        ensure!(failed.is_empty(), "tests failed on {}", failed.join(", "));
        Ok(())
    }

    /// What the test program is told.
    fn arguments(&self) -> Vec<String> {
        let skipped = self.skip.iter();
        let skipped = skipped.flat_map(|name| ["--skip".to_owned(), name.clone()]);
        std::iter::once(self.filter.clone())
            .chain(skipped)
            .collect()
    }

    fn run_in(
        &self,
        lab: &Lab,
        programs: &Programs,
        engine: Engine,
        cpus: u8,
    ) -> anyhow::Result<Outcome> {
        let variable = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        let job = Job {
            program: programs.tests.display().to_string(),
            args: self.arguments(),
            env: vec![
                variable("RINGFENCE_BIN", "/lab/ringfence"),
                variable("RINGFENCE_PROBE_AARCH64", "/lab/ringfence-probe"),
                variable("RINGFENCE_TEST_ENGINE", engine.name()),
                variable("RINGFENCE_TEST_CPUS", &cpus.to_string()),
                variable("RINGFENCE_TEST_REQUIRE_VM", "1"),
            ],
            files: programs.files.clone(),
            ordinary_user: false,
        };
        let machine = Machine {
            cpus: cpus.max(2),
            memory: MEMORY,
            timeout: PATIENCE,
            verbose: false,
        };
        let mut ran = Ran::default();
        let report = lab.run(&job, &machine, |stream, bytes| {
            ran.look(bytes);
            print(stream, bytes)
        })?;
        // A filter that fits nothing, or a suite that skips all, is no success.
        ensure!(
            ran.passed() || report.outcome.code() != 0,
            "no test has run in the lab; is {:?} in any name?",
            self.filter
        );
        if report.outcome == Outcome::TimedOut {
            eprintln!("the lab's console ends with:\n{}", report.console);
        }
        Ok(report.outcome)
    }
}

impl Engine {
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Kvm => "kvm",
            Self::Hvf => "hvf",
        }
    }
}

/// Whether tests have run, by what they print.
#[derive(Debug, Default)]
struct Ran(String);

impl Ran {
    fn look(&mut self, bytes: &[u8]) {
        self.0.push_str(&String::from_utf8_lossy(bytes));
    }

    fn passed(&self) -> bool {
        let mut results = self.0.lines().filter_map(|line| {
            let (_, rest) = line.split_once("test result: ok. ")?;
            rest.split(' ').next()?.parse::<u32>().ok()
        });
        results.any(|passed| passed > 0)
    }
}

/// The sandbox's own tests that a kernel of version 2 of control groups and another architecture,
/// with its own numbers of system calls, have a part in: this machine may have neither.
const OF_SANDBOX: [&str; 7] = [
    "limits",
    "supervise",
    "terminal",
    "violations",
    "refusals",
    "metadata",
    "sockets",
];

/// Runs them in the lab, without any guest, as root and as an ordinary user.
pub(crate) fn sandbox(shell: &Shell) -> anyhow::Result<()> {
    let lab = Lab::prepare(shell, None)?;
    let named = OF_SANDBOX.iter().flat_map(|name| ["--test", name]);
    let package = ["--package", "ringfence-sandbox"];
    let programs = executables(shell, package.into_iter().chain(named))?;
    let users = [false, true].into_iter();
    let jobs = users.flat_map(|ordinary_user| OF_SANDBOX.map(|name| (name, ordinary_user)));
    for (name, ordinary_user) in jobs {
        let user = if ordinary_user {
            "ordinary user"
        } else {
            "root"
        };
        eprintln!("-- the sandbox's tests {name:?} as {user}");
        let found = programs.iter().find(|(each, _)| each == name);
        let (_, program) = found.with_context(|| format!("cargo has not built {name}"))?;
        let job = Job {
            program: program.display().to_string(),
            // They repeat the others by `setpriv`, which the lab does not have, nor a need for it.
            args: vec!["--skip".into(), "unprivileged".into()],
            ordinary_user,
            ..Job::default()
        };
        let machine = Machine {
            timeout: PATIENCE,
            ..Machine::default()
        };
        let mut ran = Ran::default();
        let report = lab.run(&job, &machine, |stream, bytes| {
            ran.look(bytes);
            print(stream, bytes)
        })?;
        let good = report.outcome.code() == 0 && ran.passed();
        ensure!(
            good,
            "the sandbox's tests {name:?} failed in the lab as {user}"
        );
    }
    Ok(())
}

/// What the tests in the lab consist of.
#[derive(Debug)]
struct Programs {
    tests: PathBuf,
    files: Vec<Placed>,
}

impl Programs {
    fn build(shell: &Shell) -> anyhow::Result<Self> {
        cmd!(
            shell,
            "cargo build --quiet --release --package ringfence-cli --no-default-features --features {FEATURES} --target {TARGET}"
        )
        .quiet()
        .run()?;
        cmd!(
            shell,
            "cargo build --quiet --package ringfence-probe --target {TARGET}"
        )
        .quiet()
        .run()?;
        let built = crate::demo::target_directory(shell)?.join(TARGET);
        let mut files = vec![
            placed(built.join("release/ringfence"))?,
            placed(built.join("debug/ringfence-probe"))?,
        ];
        // The tests find these where they were compiled.
        let programs = shell.current_dir().join("tests/programs");
        for path in shell.read_dir(&programs)? {
            let destination = path.to_str().context("a path that is no UTF-8")?.to_owned();
            files.push(Placed {
                source: path,
                destination,
            });
        }
        Ok(Self {
            tests: tests(shell)?,
            files,
        })
    }
}

pub(super) fn placed(source: PathBuf) -> anyhow::Result<Placed> {
    let destination = super::arguments::default_destination(&source)?;
    Ok(Placed {
        source,
        destination,
    })
}

/// Compiles the tests and finds the program.
fn tests(shell: &Shell) -> anyhow::Result<PathBuf> {
    let features = format!("ringfence/{FEATURES}");
    let package = ["--package", "ringfence-tests", "--test", "end_to_end"];
    let found = executables(shell, package.into_iter().chain(["--features", &features]))?;
    let mut found = found.into_iter().filter(|(name, _)| name == "end_to_end");
    let (_, program) = found
        .next()
        .context("cargo names no program of the tests")?;
    Ok(program)
}

/// Compiles tests for the lab and finds their programs, in whose names there is a digest.
fn executables<'a>(
    shell: &Shell,
    words: impl IntoIterator<Item = &'a str>,
) -> anyhow::Result<Vec<(String, PathBuf)>> {
    let messages = cmd!(
        shell,
        "cargo test --quiet {words...} --no-run --target {TARGET} --message-format json"
    )
    .quiet()
    .read()?;
    let found = messages.lines().filter_map(|line| {
        let message: serde_json::Value = serde_json::from_str(line).ok()?;
        let path = message["executable"].as_str()?;
        let name = message["target"]["name"].as_str()?;
        Some((name.to_owned(), Path::new(path).to_owned()))
    });
    Ok(found.collect())
}

/// Passes the program's output on, unchanged and at once.
pub(super) fn print(stream: Stream, bytes: &[u8]) -> anyhow::Result<()> {
    match stream {
        Stream::Stdout => {
            let mut stdout = io::stdout().lock();
            stdout.write_all(bytes).and_then(|()| stdout.flush())
        }
        Stream::Stderr => io::stderr().lock().write_all(bytes),
    }
    .context("cannot print what the lab's program printed")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_suite_without_tests_is_noticed() {
        let passed = |text: &str| {
            let mut ran = Ran::default();
            ran.look(text.as_bytes());
            ran.passed()
        };
        assert!(passed(
            "test a ... ok\n\ntest result: ok. 12 passed; 0 failed\n"
        ));
        assert!(!passed("test result: ok. 0 passed; 0 failed; 0 ignored\n"));
        assert!(!passed("test result: FAILED. 3 passed; 1 failed\n"));
        assert!(!passed(""));
    }
}
