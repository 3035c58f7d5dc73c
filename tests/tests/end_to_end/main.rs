//! The end-to-end tests: every scenario in every isolation of this machine.
//!
//! | variable | meaning |
//! |---|---|
//! | `RINGFENCE_BIN` | the command under test; else the one in cargo's target directory |
//! | `RINGFENCE_PROBE_X86_64`, `RINGFENCE_PROBE_AARCH64` | the probe, likewise |
//! | `RINGFENCE_NUMPY_WHEEL` | the wheel of numpy that is installed in the sandbox; skipped without it |
//! | `RINGFENCE_IMAGE` | the guest image; else the one in the user's cache |
//! | `RINGFENCE_TEST_ENGINE`, `RINGFENCE_TEST_CPUS` | the VM's engine, `qemu` unless said, and its processors |
//! | `RINGFENCE_TEST_REQUIRE_VM` | `1`: a VM that cannot be had is a failure, not a skip |
//! | `RINGFENCE_TEST_REQUIRE_NAMESPACES` | `1`: a namespace that is not in force outside of the VM is a failure; `root`: for root alone |
//!
//! What cannot run is listed as ignored, with the reason. Scenarios run one after another: each
//! compares what is on the machine before and after.

#![cfg(target_os = "linux")]
#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

mod api;
mod ask;
mod basics;
mod collect;
mod escapes;
mod exits;
mod files;
mod input;
mod layers;
mod lifecycle;
mod limits;
mod machine;
mod programs;
mod refusals;
mod streams;
mod supervise;
mod terminal;

use libtest_mimic::{Arguments, Trial};
use ringfence_tests::{Availability, Bench, Isolation, Lab, Scenario, process};
use signal_hook::consts::{SIGHUP, SIGINT, SIGQUIT, SIGTERM};
use signal_hook::flag::register_conditional_shutdown;
use std::io;
use std::process::ExitCode;
use std::sync::Arc;

const MODULES: [(&str, &[Scenario]); 17] = [
    ("basics", basics::SCENARIOS),
    ("layers", layers::SCENARIOS),
    ("exits", exits::SCENARIOS),
    ("streams", streams::SCENARIOS),
    ("limits", limits::SCENARIOS),
    ("refusals", refusals::SCENARIOS),
    ("escapes", escapes::SCENARIOS),
    ("files", files::SCENARIOS),
    ("collect", collect::SCENARIOS),
    ("programs", programs::SCENARIOS),
    ("input", input::SCENARIOS),
    ("lifecycle", lifecycle::SCENARIOS),
    ("machine", machine::SCENARIOS),
    ("api", api::SCENARIOS),
    ("supervise", supervise::SCENARIOS),
    ("ask", ask::SCENARIOS),
    ("terminal", terminal::SCENARIOS),
];

fn main() -> ExitCode {
    let mut arguments = Arguments::from_args();
    arguments.test_threads = Some(1);
    process::adopt_orphans();
    if let Err(error) = end_by_signals() {
        eprintln!("the tests cannot run: {error}");
        return ExitCode::FAILURE;
    }

    let available = Isolation::ALL.map(|isolation| (isolation, isolation.availability()));
    let usable = available
        .iter()
        .filter(|(_, state)| *state == Availability::Yes);
    let usable: Vec<_> = usable.map(|(isolation, _)| *isolation).collect();
    let bench = match Bench::new(&usable) {
        Ok(bench) => Arc::new(bench),
        Err(error) => {
            eprintln!("the tests cannot run: {error:#}");
            return ExitCode::FAILURE;
        }
    };
    let trials = available
        .iter()
        .flat_map(|(isolation, state)| trials(*isolation, state, &bench));
    let conclusion = libtest_mimic::run(&arguments, trials.collect());
    if conclusion.num_ignored > 0 && !arguments.list {
        eprintln!(
            "skipped: {} scenarios; each says above why",
            conclusion.num_ignored
        );
    }
    conclusion.exit_code()
}

/// Lets signals end this process and what it starts, also where whoever started it ignores some, as a
/// shell does for what runs in its background.
fn end_by_signals() -> io::Result<()> {
    for signal in [SIGHUP, SIGINT, SIGQUIT, SIGTERM] {
        register_conditional_shutdown(signal, 128 + signal, Arc::new(true.into()))?;
    }
    Ok(())
}

/// The scenarios of one isolation. Where it cannot be had although it must, they are one failure.
fn trials(isolation: Isolation, state: &Availability, bench: &Arc<Bench>) -> Vec<Trial> {
    if let Availability::Failed(reason) = state {
        let reason = reason.clone();
        let name = format!("{}::can_be_had", isolation.name());
        return vec![Trial::test(name, move || Err(reason.into()))];
    }
    let modules = MODULES.into_iter();
    let all =
        modules.flat_map(|(module, scenarios)| scenarios.iter().map(move |each| (module, each)));
    let here = all.filter(|(_, scenario)| scenario.on.contains(&isolation));
    let trials = here.map(|(module, scenario)| {
        let name = format!("{}::{module}::{}", isolation.name(), scenario.name);
        let (bench, body) = (Arc::clone(bench), scenario.body);
        let trial = Trial::test(name, move || {
            body(&Lab::new(&bench, isolation));
            Ok(())
        });
        let reason = match state {
            Availability::Skipped(reason) => Some(reason.clone()),
            _ => (scenario.missing)(),
        };
        match reason {
            Some(reason) => trial
                .with_kind(format!("skipped: {reason}"))
                .with_ignored_flag(true),
            None => trial,
        }
    });
    trials.collect()
}
