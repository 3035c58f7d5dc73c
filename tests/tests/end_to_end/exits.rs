//! Exit statuses: the program's own, those of signals, and those of ringfence.

use ringfence_tests::{Isolation, Lab, Scenario};
use serde_json::Value;
use std::fs::File;
use std::process::{Command, Stdio};

pub(crate) const SCENARIOS: &[Scenario] = &[
    Scenario::everywhere(
        "the_programs_status_is_the_commands",
        the_programs_status_is_the_commands,
    ),
    Scenario::everywhere("signals_are_128_and_more", signals_are_128_and_more),
    Scenario::everywhere(
        "reports_tell_status_and_signal",
        reports_tell_status_and_signal,
    ),
    Scenario::everywhere("signals_are_no_limits", signals_are_no_limits),
    Scenario::everywhere("options_end_at_the_program", options_end_at_the_program),
    Scenario::on(
        "a_full_device_is_an_error",
        &[Isolation::Process],
        a_full_device_is_an_error,
    ),
];

/// What cannot be said is an error of ringfence, and no panic; a reader that has gone is neither.
fn a_full_device_is_an_error(lab: &Lab) {
    let call = |words: &[&str], stdout: Stdio, stderr: Stdio| {
        let mut command = Command::new(lab.bench.command());
        command.args(words).stdout(stdout).stderr(stderr);
        let output = command.spawn().unwrap().wait_with_output().unwrap();
        (output.status.code(), output.stderr)
    };
    let full = || Stdio::from(File::options().write(true).open("/dev/full").unwrap());
    let closed = || Stdio::from(std::io::pipe().unwrap().1);
    for words in [
        &["doctor"][..],
        &["doctor", "--json"],
        &["run", "--json", "true"],
    ] {
        let (code, stderr) = call(words, full(), Stdio::piped());
        let stderr = String::from_utf8_lossy(&stderr).into_owned();
        assert_eq!(code, Some(125), "{words:?}: {stderr}");
        assert!(stderr.contains("No space left"), "{words:?}: {stderr}");
    }
    assert_eq!(call(&["doctor"], closed(), full()).0, Some(0));
    assert_eq!(
        call(&["run", "no-such-program"], full(), full()).0,
        Some(127)
    );
}

/// 0 to 255, among them those that ringfence uses itself.
fn the_programs_status_is_the_commands(lab: &Lab) {
    for code in [0, 1, 124, 127, 255] {
        lab.run(["sh", "-c", &format!("exit {code}")])
            .outcome()
            .assert_code(code);
    }
}

/// A program that dies of signal N gives 128+N, whichever signal it is.
fn signals_are_128_and_more(lab: &Lab) {
    // SIGHUP, SIGABRT, SIGKILL, SIGSEGV, SIGPIPE, SIGTERM, SIGXCPU and a real-time signal.
    for signal in [1, 6, 9, 11, 13, 15, 24, 40] {
        lab.helper(["raise", &signal.to_string()])
            .outcome()
            .assert_code(128 + signal);
    }
}

/// The report tells what the exit status has to fold into one number.
fn reports_tell_status_and_signal(lab: &Lab) {
    let (outcome, report) = lab.helper(["exit", "137"]).json();
    outcome.assert_code(137);
    assert_eq!(
        (&report["status"], &report["exit_code"]),
        (&"exited".into(), &137.into())
    );
    assert_eq!(report["signal"], Value::Null);

    let (outcome, report) = lab.helper(["raise", "9"]).json();
    outcome.assert_code(137);
    assert_eq!(
        (&report["status"], &report["signal"]),
        (&"signaled".into(), &9.into())
    );
    assert_eq!(report["exit_code"], Value::Null);
}

/// A program that sends itself the signals of limits has reached none, and a report that cannot know
/// says so.
fn signals_are_no_limits(lab: &Lab) {
    let raise = |signal: &str, options: &[&str]| {
        let run = lab.helper(["raise", signal]).options(options);
        let (outcome, report) = run.json();
        outcome.assert_code(if signal == "31" {
            137
        } else {
            128 + signal.parse::<i32>().unwrap()
        });
        report
    };
    let report = raise("24", &["--cpu-time", "10s"]);
    assert_eq!(report["status"], "signaled", "{report}");
    // Without a mount namespace the workspace's size limits its files.
    if !lab.isolation.is_bare() {
        let report = raise("25", &[]);
        assert_eq!(report["violations"], Value::Array(vec![]), "{report}");
    }
    for (signal, options, operation) in [
        ("25", &["--file-size", "1MiB"][..], "file size"),
        ("31", &[], "system call"),
    ] {
        let report = raise(signal, options);
        let violation = &report["violations"][0];
        assert_eq!(violation["operation"], operation, "{report}");
        let target = violation["target"].as_str().unwrap();
        assert!(
            target.contains("unless the program sent it itself"),
            "{report}"
        );
    }
}

/// What follows the program's name is the program's, with and without `--`.
fn options_end_at_the_program(lab: &Lab) {
    let words = ["echo", "--json", "--", "--timeout", "-x"];
    lab.run(words)
        .outcome()
        .assert_code(0)
        .assert_stdout("--json -- --timeout -x\n");
    let without = lab
        .command("run")
        .options(lab.isolation.options())
        .options(words)
        .program([""; 0]);
    // The fixture ends the words with `--`, which is then an argument of the program as well.
    without
        .outcome()
        .assert_code(0)
        .assert_stdout("--json -- --timeout -x --\n");
}
