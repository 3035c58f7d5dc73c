//! A policy of the caller's decides what a program may do, wherever that runs.

use crate::api::builder;
use ringfence::{Decision, Ended, Operation, Policy, Sandbox};
use ringfence_tests::{Isolation, Lab, Scenario};
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

const BOTH: &[Isolation] = &[Isolation::Process, Isolation::Vm];

pub(crate) const SCENARIOS: &[Scenario] = &[
    Scenario::on(
        "a_policy_sees_and_decides",
        BOTH,
        a_policy_sees_and_decides_and_the_report_names_what_it_refused,
    ),
    Scenario::on(
        "a_kill_and_a_late_answer",
        BOTH,
        a_kill_and_a_policy_that_thinks_too_long,
    ),
    Scenario::on(
        "what_is_allowed_is_confined",
        BOTH,
        what_is_allowed_is_confined_all_the_same,
    ),
    Scenario::on(
        "programs_are_asked_about",
        BOTH,
        what_is_executed_is_asked_about_by_its_own_name,
    ),
    Scenario::on(
        "requests_are_answered_in_any_order",
        BOTH,
        requests_are_answered_in_any_order,
    ),
    Scenario::on(
        "what_is_renamed_over_is_deleted",
        BOTH,
        what_is_renamed_over_is_asked_about_as_deleted,
    ),
];

// Linux's numbers, which are the program's in every isolation.
const EACCES: i32 = 13;
const EROFS: i32 = 30;

fn supervised(lab: &Lab, policy: Policy) -> Sandbox {
    builder(lab).build().unwrap().supervise(policy)
}

fn a_policy_sees_and_decides_and_the_report_names_what_it_refused(lab: &Lab) {
    let seen = Arc::new(Mutex::new(Vec::new()));
    let seen_by_policy = Arc::clone(&seen);
    let policy = Policy::new([Operation::Write, Operation::Delete], move |request| {
        seen_by_policy.lock().unwrap().push(request.clone());
        match request.operation {
            Operation::Write => Decision::Allow,
            _ => Decision::Deny(EACCES),
        }
    });
    let script = "echo x >kept; rm -f kept; cat kept";
    let output = supervised(lab, policy)
        .command("sh")
        .args(["-c", script])
        .output()
        .unwrap();
    assert_eq!(output.stdout, b"x\n");
    let seen = seen.lock().unwrap();
    let [write, delete] = seen.as_slice() else {
        panic!("{seen:?}");
    };
    assert_eq!(write.operation, Operation::Write);
    assert!(write.path.ends_with("kept") && delete.path == write.path);
    let [violation] = output.report.violations.as_slice() else {
        panic!("{:?}", output.report);
    };
    assert_eq!(violation.operation, "delete");
    assert!(
        violation
            .target
            .as_deref()
            .map(Path::new)
            .unwrap()
            .ends_with("kept")
    );
}

fn a_kill_and_a_policy_that_thinks_too_long(lab: &Lab) {
    let policy = Policy::new([Operation::Write], |_| Decision::Kill);
    let output = supervised(lab, policy)
        .command("sh")
        .args(["-c", "echo x >f; sleep 60"])
        .output();
    let report = output.unwrap().report;
    assert_eq!(report.ended, Ended::Killed);
    assert_eq!(report.violations.len(), 1);

    let policy = Policy::new([Operation::Write], |_| {
        // Longer than the execution may take.
        std::thread::park_timeout(Duration::from_secs(600));
        Decision::Allow
    });
    let policy = policy
        .limit(Duration::from_millis(50))
        .otherwise(Decision::Deny(EROFS));
    let output = supervised(lab, policy)
        .command("sh")
        .args(["-c", "echo x >f || exit 7"])
        .output();
    let report = output.unwrap().report;
    assert_ne!(report.ended, Ended::Exited { code: 0 });
    assert_eq!(report.violations.len(), 1);
}

fn what_is_executed_is_asked_about_by_its_own_name(lab: &Lab) {
    let allowed_before = Mutex::new(false);
    let policy = Policy::new([Operation::Exec], move |request| {
        if !request.path.ends_with("tool") {
            return Decision::Allow;
        }
        let before = std::mem::replace(&mut *allowed_before.lock().unwrap(), true);
        if before {
            Decision::Deny(EACCES)
        } else {
            Decision::Allow
        }
    });
    let script = "chmod +x tool; ./tool one; ./tool two || echo $?";
    let output = supervised(lab, policy)
        .command("sh")
        .args(["-c", script])
        .file("tool", "#!/bin/sh\necho $1\n")
        .output()
        .unwrap();
    assert_eq!(output.stdout, b"one\n126\n");
    let [violation] = output.report.violations.as_slice() else {
        panic!("{:?}", output.report);
    };
    assert_eq!(violation.operation, "exec");
}

fn what_is_allowed_is_confined_all_the_same(lab: &Lab) {
    let policy = Policy::new(Operation::ALL, |_| Decision::Allow);
    let script = "echo x >/usr/x; echo x >/etc/x; rm -f /etc/passwd /usr/bin/env; echo done";
    let output = supervised(lab, policy)
        .command("sh")
        .args(["-c", script])
        .output()
        .unwrap();
    assert_eq!(output.stdout, b"done\n");
    assert!(Path::new("/usr/bin/env").exists() && !Path::new("/usr/x").exists());
}

fn requests_are_answered_in_any_order(lab: &Lab) {
    let (policy, requests) = Policy::stream([Operation::Write, Operation::Delete]);
    let answering = std::thread::spawn(move || {
        let mut postponed = Vec::new();
        for pending in requests {
            match pending.request().operation {
                Operation::Write => pending.answer(Decision::Allow),
                _ => postponed.push(pending),
            }
            if postponed.len() == 2 {
                let last = postponed.pop().unwrap();
                last.answer(Decision::Deny(EACCES));
                // The other one gets the default.
                postponed.clear();
            }
        }
    });
    let sandbox = supervised(lab, policy.otherwise(Decision::Deny(EROFS)));
    let script = "touch a b; rm a & rm b; wait; ls";
    let command = sandbox.command("sh").args(["-c", script]);
    let output = command.output().unwrap();
    assert_eq!(output.stdout, b"a\nb\n");
    let errors = String::from_utf8(output.stderr).unwrap();
    assert!(
        errors.contains("Permission denied") && errors.contains("Read-only"),
        "{errors}"
    );
    let [one, other] = output.report.violations.as_slice() else {
        panic!("{:?}", output.report);
    };
    assert!(one.operation == "delete" && other.operation == "delete");
    drop(sandbox);
    answering.join().unwrap();
}

fn what_is_renamed_over_is_asked_about_as_deleted(lab: &Lab) {
    let policy = Policy::new([Operation::Delete], |_| Decision::REFUSE);
    let script = "echo a >a; echo important >notes; mv a b; mv -f b notes; cat b notes";
    let output = supervised(lab, policy)
        .command("sh")
        .args(["-c", script])
        .output()
        .unwrap();
    assert_eq!(output.stdout, b"a\nimportant\n");
    let [violation] = output.report.violations.as_slice() else {
        panic!("{:?}", output.report);
    };
    assert_eq!(violation.operation, "delete");
    let target = violation.target.as_deref().map(Path::new);
    assert!(target.unwrap().ends_with("notes"));
}
