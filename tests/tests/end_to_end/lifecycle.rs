//! Nothing is left behind, however a run ends. The fixture looks for processes, files, sockets,
//! control groups and mounts before and after each call.

use ringfence_tests::{Isolation, Lab, Scenario};
use rustix::process::Signal;

pub(crate) const SCENARIOS: &[Scenario] = &[
    Scenario::everywhere(
        "a_killed_caller_takes_all_along",
        a_killed_caller_takes_all_along,
    ),
    Scenario::everywhere("daemons_end_with_the_leader", daemons_end_with_the_leader),
    Scenario::everywhere("several_at_a_time", several_at_a_time),
    Scenario::on(
        "five_hundred_runs",
        &[Isolation::Process],
        five_hundred_runs,
    ),
    Scenario::on(
        "twenty_runs",
        &[
            Isolation::ProcessUser,
            Isolation::ProcessBare,
            Isolation::ProcessBareRoot,
            Isolation::Vm,
        ],
        twenty_runs,
    ),
];

/// SIGKILL, SIGTERM, SIGINT and SIGHUP to the command in the middle of a run: the program, its
/// descendants and the VM end, and their files are gone.
fn a_killed_caller_takes_all_along(lab: &Lab) {
    for signal in [Signal::KILL, Signal::TERM, Signal::INT, Signal::HUP] {
        let script = "echo data > file; (setsid sleep 300 &) ; echo runs; sleep 300";
        let run = lab.run(["sh", "-c", script]).option("--timeout", "200s");
        let mut running = run.start();
        assert_eq!(running.line(), "runs");
        running.signal(signal);
        running.finish_killed().assert_signal(signal.as_raw());
    }
}

/// The leader's end is the end, for a daemon that left session and parent behind too.
fn daemons_end_with_the_leader(lab: &Lab) {
    let script = "setsid sh -c 'trap \"\" TERM HUP; sleep 300' > /dev/null 2>&1 & exit 7";
    lab.run(["sh", "-c", script]).outcome().assert_code(7);
}

/// Calls at the same time do not disturb each other.
fn several_at_a_time(lab: &Lab) {
    let count = if lab.isolation == Isolation::Vm { 2 } else { 8 };
    let runs: Vec<_> = (0..count)
        .map(|number| {
            lab.run(["sh", "-c", &format!("echo {number} > x; cat x")])
                .start()
        })
        .collect();
    for (number, run) in runs.into_iter().enumerate() {
        run.finish_beside()
            .assert_code(0)
            .assert_stdout(&format!("{number}\n"));
    }
}

/// 500 runs: the fixture compares after each.
fn five_hundred_runs(lab: &Lab) {
    for _ in 0..500 {
        lab.run(["true"]).outcome().assert_code(0);
    }
}

/// Fewer where a run takes longer or the way is the same.
fn twenty_runs(lab: &Lab) {
    for _ in 0..20 {
        lab.run(["true"]).outcome().assert_code(0);
    }
}
