//! Every limit is hit by a program and reported under its own name, and what was running is gone.

use ringfence_tests::{Isolation, Lab, Scenario};
use serde_json::Value;
use std::time::Duration;

pub(crate) const SCENARIOS: &[Scenario] = &[
    Scenario::everywhere("sleep_ends_at_the_time_limit", sleep_ends_at_the_time_limit),
    Scenario::everywhere(
        "a_fork_bomb_ends_at_the_time_limit",
        a_fork_bomb_ends_at_the_time_limit,
    ),
    Scenario::everywhere("ignored_signals_do_not_help", ignored_signals_do_not_help),
    Scenario::everywhere("cpu_time_is_limited", cpu_time_is_limited),
    Scenario::everywhere("memory_is_limited", memory_is_limited),
    Scenario::everywhere("processes_are_limited", processes_are_limited),
    // Without a mount namespace a workspace has no size.
    Scenario::on(
        "a_full_workspace_is_named",
        &[Isolation::Process, Isolation::ProcessUser, Isolation::Vm],
        a_full_workspace_is_named,
    ),
    Scenario::everywhere("processors_are_limited", processors_are_limited),
    Scenario::everywhere("open_files_are_limited", open_files_are_limited),
    Scenario::everywhere("file_size_is_limited", file_size_is_limited),
    Scenario::everywhere("the_smallest_limits", the_smallest_limits),
    Scenario::everywhere("the_largest_limits", the_largest_limits),
];

/// `sleep 60` for a second: exit status 124, status `timed_out`, no process left (the fixture looks).
fn sleep_ends_at_the_time_limit(lab: &Lab) {
    let (outcome, report) = lab.run(["sleep", "60"]).option("--timeout", "1s").json();
    outcome.assert_code(124);
    assert_eq!(report["status"], "timed_out");
    assert!(report["wall_ms"].as_f64().unwrap() >= 1000.0, "{report}");
    assert!(outcome.elapsed < Duration::from_secs(40), "{outcome}");

    let outcome = lab.run(["sleep", "60"]).option("--timeout", "1s").outcome();
    outcome.assert_code(124);
    assert!(outcome.errors().contains("time limit"), "{outcome}");
}

/// A fork bomb for a second: likewise.
fn a_fork_bomb_ends_at_the_time_limit(lab: &Lab) {
    let (outcome, report) = lab.helper(["fork-bomb"]).option("--timeout", "1s").json();
    outcome.assert_code(124);
    assert_eq!(report["status"], "timed_out");
}

/// A program that ignores every signal it can, and a daemon of it, end all the same.
fn ignored_signals_do_not_help(lab: &Lab) {
    for helper in ["hang-ignoring-signals", "daemonize-and-hang"] {
        let (outcome, report) = lab.helper([helper]).option("--timeout", "1s").json();
        outcome.assert_code(124);
        assert_eq!(report["status"], "timed_out");
    }
}

/// Whether a control group confined the program.
fn in_a_group(report: &Value) -> bool {
    let layers = report["isolation"]["layers"].as_array().unwrap();
    layers.iter().any(|layer| layer == "cgroup")
}

/// A program that computes for ever ends after its CPU time, long before its wall time. With a
/// control group the time of all its processes counts together; without one each has the whole.
fn cpu_time_is_limited(lab: &Lab) {
    for (helper, processes) in [(&["spin"][..], 1.0), (&["spin-many", "4"], 4.0)] {
        let run = lab
            .helper(helper)
            .option("--cpu-time", "1s")
            .option("--timeout", "80s");
        let (outcome, report) = run.json();
        outcome.assert_code(124);
        assert_eq!(report["status"], "cpu_exceeded");
        let together = if in_a_group(&report) { 1.0 } else { processes };
        let used = report["cpu_ms"].as_f64().unwrap();
        let most = 1000.0 * together + 1000.0;
        // The kernel enforces by ticks and reports by clock: on a busy machine they disagree.
        assert!((500.0..most).contains(&used), "{helper:?}: {report}");
    }
}

/// A program that wants more memory than it may does not get it. With a control group the kernel
/// kills it and the report says why; without one its allocation fails, as far as the memory is its
/// own: what it maps to share counts in a group only, and the report shows it.
fn memory_is_limited(lab: &Lab) {
    for helper in ["memory", "shared-memory"] {
        let run = lab
            .helper([helper, "300000000"])
            .option("--memory", "64MiB");
        let (outcome, report) = run.json();
        if in_a_group(&report) {
            outcome.assert_code(137);
            assert_eq!(report["status"], "memory_exceeded", "{helper}");
        } else if helper == "memory" {
            assert_ne!(outcome.code(), Some(0), "{outcome}");
        } else {
            let peak = report["peak_memory_bytes"].as_u64().unwrap();
            assert!(outcome.code() != Some(0) || peak > 290_000_000, "{outcome}");
        }
        assert!(
            in_a_group(&report) || lab.isolation != Isolation::Vm,
            "{report}"
        );
    }
    // The same amount is there for who may have it.
    lab.helper(["memory", "30000000"])
        .option("--memory", "64MiB")
        .outcome()
        .assert_code(0);
}

/// No more processes than allowed, and the refusal is the one that programs expect.
fn processes_are_limited(lab: &Lab) {
    let (outcome, report) = lab
        .helper(["fork-count", "200"])
        .option("--pids", "20")
        .json();
    outcome.assert_code(0);
    let text = report["stdout"].as_str().unwrap();
    let (children, refusal) = text.trim().split_once(' ').unwrap();
    assert!(children.parse::<u32>().unwrap() <= 20, "{outcome}");
    assert_ne!(refusal, "0", "200 processes were allowed: {outcome}");
    // Of its limits on each user the kernel does not tell that they were reached.
    let layers = report["isolation"]["layers"].as_array().unwrap();
    let has_group = layers.contains(&"cgroup".into());
    let named = violation(&report, "processes");
    assert_eq!(named.is_some(), has_group, "{report}");
    assert!(
        named.is_none_or(|why| why.contains("limit of 20")),
        "{report}"
    );
}

/// What the report says of a violation.
fn violation<'r>(report: &'r Value, operation: &str) -> Option<&'r str> {
    let violations = report["violations"].as_array()?;
    let mut named = violations.iter();
    let named = named.find(|violation| violation["operation"] == operation);
    named?["target"].as_str()
}

/// A full workspace is named, and one that is not full is not.
fn a_full_workspace_is_named(lab: &Lab) {
    let write = |script: &str| {
        let run = lab.run(["sh", "-c", script]);
        run.option("--workspace-size", "2MiB").json().1
    };
    let report = write("head -c 4194304 /dev/zero > file; true");
    let why = violation(&report, "workspace size").unwrap();
    assert!(why.contains("limit of 2097152"), "{report}");
    let report = write("head -c 1048576 /dev/zero > file");
    assert_eq!(violation(&report, "workspace size"), None, "{report}");
    let many =
        "i=0; while : > f$i; do i=$((i+1)); [ $i -lt 5000 ] || exit 1; done 2>/dev/null; true";
    let report = write(many);
    assert!(violation(&report, "workspace size").is_some(), "{report}");
}

/// No more processors than allowed at one time. A VM has no more than that. On the host's own kernel
/// a control group holds it; without one a program does not start, and it is said what to do.
fn processors_are_limited(lab: &Lab) {
    if lab.isolation == Isolation::Vm {
        let run = lab.run(["nproc"]).replace_option("--cpus", "3");
        run.outcome().assert_code(0).assert_stdout("3\n");
    } else {
        // More than there are is no limit, with and without a group.
        let run = lab.run(["true"]).option("--cpus", "255");
        run.outcome().assert_code(0);
        let outcome = lab.run(["true"]).option("--cpus", "1").outcome();
        if outcome.code() != Some(0) {
            outcome.assert_error(
                125,
                &[
                    "to 1 of this machine's processors",
                    "isolation vm",
                    "--cpus",
                ],
            );
            return;
        }
    }
    let run = lab
        .helper(["spin-many", "4"])
        .replace_option("--cpus", "1")
        .option("--timeout", "2s");
    let (outcome, report) = run.json();
    outcome.assert_code(124);
    let [cpu, wall] = ["cpu_ms", "wall_ms"].map(|name| report[name].as_f64().unwrap());
    assert!(cpu <= wall * 1.2, "{report}");
}

/// No more open files than allowed.
fn open_files_are_limited(lab: &Lab) {
    let outcome = lab
        .helper(["open-files", "200"])
        .option("--open-files", "30")
        .outcome();
    outcome.assert_code(0);
    let text = outcome.text();
    let (opened, refusal) = text.trim().split_once(' ').unwrap();
    assert!(opened.parse::<u32>().unwrap() < 30, "{outcome}");
    assert_ne!(refusal, "0", "200 files were allowed: {outcome}");
}

/// No file larger than allowed.
fn file_size_is_limited(lab: &Lab) {
    let run = lab
        .helper(["file", "3000000"])
        .option("--file-size", "1MiB");
    assert_ne!(run.outcome().code(), Some(0));
    let writes = "head -c 3000000 /dev/zero >large";
    for script in [format!("exec {writes}"), format!("{writes}; exit $?")] {
        let run = lab.run(["sh", "-c", &script]);
        let outcome = run.option("--file-size", "1MiB").outcome();
        outcome.assert_code(153);
        assert!(outcome.errors().contains("(--file-size)"), "{outcome}");
    }
    let run = lab
        .helper(["file", "3000000"])
        .option("--file-size", "4MiB");
    run.outcome().assert_code(0);
}

/// A limit of 0 is hit at once, with the status of that limit or an error, never a hang or a crash
/// of ringfence.
fn the_smallest_limits(lab: &Lab) {
    let echo = |option: &str| {
        lab.run(["sh", "-c", "echo x"])
            .option(option, "0")
            .outcome()
    };
    echo("--timeout").assert_code(124);
    echo("--cpu-time").assert_code(124);
    echo("--memory").assert_code(137);
    echo("--max-output").assert_code(137).assert_stdout("");
    echo("--pids").assert_error(137, &["(--pids)", "limit of 0"]);
    for option in ["--pids", "--open-files", "--file-size", "--workspace-size"] {
        let outcome = echo(option);
        assert!(
            !outcome.errors().contains("panicked"),
            "{option}: {outcome}"
        );
        assert!(
            outcome.code().is_some_and(|code| code <= 137),
            "{option}: {outcome}"
        );
    }
}

/// 2^64-1 of everything is no limit at all.
fn the_largest_limits(lab: &Lab) {
    let mut run = lab.run(["sh", "-c", "echo x > file; cat file"]);
    for option in [
        "--timeout",
        "--cpu-time",
        "--memory",
        "--pids",
        "--open-files",
        "--file-size",
        "--workspace-size",
        "--max-output",
    ] {
        run = run.option(option, u64::MAX.to_string());
    }
    run.outcome().assert_code(0).assert_stdout("x\n");
}
