//! A policy as a stream of requests, in `process` isolation.
#![cfg(target_os = "linux")]
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use ringfence::{
    Child, Decision, Ended, Isolation, Operation, PendingRequest, Policy, Report, Requests,
    Sandbox, Stdio,
};
use std::io::{BufRead, BufReader, Read};
use std::thread;
use std::time::{Duration, Instant};

// Linux's numbers.
const EACCES: i32 = 13;
const EROFS: i32 = 30;

/// Longer than any of these tests takes.
const LONG: Duration = Duration::from_secs(600);

fn spawned(policy: Policy, script: &str) -> Child {
    let sandbox = Sandbox::builder().isolation(Isolation::Process);
    let sandbox = sandbox.timeout(Duration::from_secs(120)).build().unwrap();
    let command = sandbox.supervise(policy).command("sh").args(["-c", script]);
    command.stdout(Stdio::piped()).spawn().unwrap()
}

/// A program that has to ask before it writes, and its requests.
fn asking(script: &str, limit: Duration) -> (Child, Requests) {
    let (policy, requests) = Policy::stream([Operation::Write]);
    let policy = policy.limit(limit).otherwise(Decision::Deny(EROFS));
    (spawned(policy, script), requests)
}

fn name(pending: &PendingRequest) -> String {
    let name = pending.request().path.file_name();
    name.unwrap().to_str().unwrap().to_owned()
}

fn lines(child: &mut Child) -> impl Iterator<Item = String> + use<> {
    let output = BufReader::new(child.stdout.take().unwrap());
    output.lines().map(Result::unwrap)
}

fn targets(report: &Report) -> Vec<&str> {
    let targets = report.violations.iter().map(|violation| {
        let target = violation.target.as_deref().unwrap();
        target.rsplit_once('/').unwrap().1
    });
    targets.collect()
}

#[test]
fn answers_come_in_any_order_from_any_thread() {
    const fn assert_send<T: Send>(_: &T) {}
    let script = "(echo x >one && echo one) & (echo y >two && echo two) & wait; cat one two";
    let (mut child, mut requests) = asking(script, LONG);
    let mut lines = lines(&mut child);
    let (first, second) = (requests.next().unwrap(), requests.next().unwrap());
    assert_send(&requests);
    let names = [name(&first), name(&second)];
    assert!(first.is_pending() && second.is_pending());
    second.answer(Decision::Allow);
    // It goes on while the first still waits.
    assert_eq!(lines.next().unwrap(), names[1]);
    thread::spawn(move || first.answer(Decision::Allow))
        .join()
        .unwrap();
    assert_eq!(lines.next().unwrap(), names[0]);
    assert_eq!(lines.collect::<Vec<_>>(), ["x", "y"]);
    assert!(child.wait().unwrap().violations.is_empty());
    drop(child);
    assert!(requests.next().is_none());
}

#[test]
fn a_slow_answer_delays_no_other() {
    let script = "(echo x >slow || echo refused) &
for i in 1 2 3 4 5 6 7 8 9 10; do echo $i >f || exit 1; done; echo rest; wait";
    let (mut child, mut requests) = asking(script, LONG);
    let mut lines = lines(&mut child);
    let mut slow = None;
    for _ in 0..11 {
        let pending = requests.next().unwrap();
        match name(&pending).as_str() {
            "slow" => slow = Some(pending),
            _ => pending.answer(Decision::Allow),
        }
    }
    assert_eq!(lines.next().unwrap(), "rest");
    slow.unwrap().answer(Decision::Deny(EACCES));
    assert_eq!(lines.next().unwrap(), "refused");
    assert_eq!(targets(&child.wait().unwrap()), ["slow"]);
}

#[test]
fn a_late_answer_has_no_effect() {
    let script = "echo x >taken || echo one; echo x >waiting || echo two";
    let (mut child, mut requests) = asking(script, Duration::from_millis(200));
    let taken = requests.next().unwrap();
    let lines: Vec<String> = lines(&mut child).collect();
    assert_eq!(lines, ["one", "two"]);
    assert!(!taken.is_pending());
    taken.answer(Decision::Deny(EACCES));
    let report = child.wait().unwrap();
    assert_eq!(targets(&report), ["taken", "waiting"]);
    drop(child);
    // What nobody looked at in time is not there any more.
    assert!(requests.next().is_none());
}

#[test]
fn what_is_dropped_gets_the_default_at_once() {
    let begun = Instant::now();
    let script = "echo x >one; echo x >two; echo x >three; echo x >four; ls";
    let (mut child, mut requests) = asking(script, LONG);
    drop(requests.next());
    requests.next().unwrap().answer(Decision::Allow);
    let third = requests.next().unwrap();
    // The fourth, and whatever else would come.
    drop(requests);
    third.answer(Decision::Allow);
    assert_eq!(lines(&mut child).collect::<Vec<_>>(), ["three", "two"]);
    assert_eq!(targets(&child.wait().unwrap()), ["one", "four"]);
    assert!(begun.elapsed() < LONG);
}

/// What waits in the stream when that is dropped.
#[test]
fn nobody_listens_any_more() {
    let script = "(echo x >one || echo refused) & (echo x >two || echo refused) & wait";
    let (mut child, mut requests) = asking(script, LONG);
    // The other one waits by then, or comes later.
    let pending = requests.next().unwrap();
    drop(requests);
    let mut lines = lines(&mut child);
    assert_eq!(lines.next().unwrap(), "refused");
    pending.answer(Decision::Deny(EACCES));
    assert_eq!(lines.next().unwrap(), "refused");
    assert_eq!(child.wait().unwrap().violations.len(), 2);
}

#[test]
fn an_execution_that_has_ended_needs_no_answer() {
    let script = "for i in 1 2 3 4; do (echo x >f$i) & done; wait";
    let (mut child, mut requests) = asking(script, LONG);
    let taken = requests.next().unwrap();
    child.kill();
    let report = child.wait().unwrap();
    assert_eq!(report.ended, Ended::Killed);
    assert_eq!(targets(&report), Vec::<&str>::new());
    assert!(!taken.is_pending());
    drop(child);
    assert!(requests.next().is_none());
    taken.answer(Decision::Kill);
}

#[test]
fn a_kill_is_an_answer() {
    let (mut child, mut requests) = asking("echo x >f; echo never", LONG);
    requests.next().unwrap().answer(Decision::Kill);
    let report = child.wait().unwrap();
    assert_eq!(report.ended, Ended::Killed);
    assert_eq!(targets(&report), ["f"]);
    let mut text = String::new();
    let mut output = child.stdout.take().unwrap();
    output.read_to_string(&mut text).unwrap();
    assert_eq!(text, "");
}

/// Several commands that have the same policy, one of which ends meanwhile.
#[test]
fn commands_share_a_stream() {
    let (policy, mut requests) = Policy::stream([Operation::Write]);
    let sandbox = Sandbox::builder().isolation(Isolation::Process);
    let sandbox = sandbox.build().unwrap().supervise(policy.limit(LONG));
    let spawn = |script| {
        let command = sandbox.command("sh").args(["-c", script]);
        command.stdout(Stdio::piped()).spawn().unwrap()
    };
    let mut first = spawn("echo x >first");
    let of_first = requests.next().unwrap();
    let mut second = spawn("echo x >second && cat second");
    let of_second = requests.next().unwrap();
    let mut third = spawn("echo x >third && cat third");
    first.kill();
    first.wait().unwrap();
    of_first.answer(Decision::Kill);
    of_second.answer(Decision::Allow);
    let of_third = requests.next().unwrap();
    assert_eq!(name(&of_third), "third");
    of_third.answer(Decision::Allow);
    for child in [&mut second, &mut third] {
        assert_eq!(lines(child).collect::<Vec<_>>(), ["x"]);
        assert!(child.wait().unwrap().success());
    }
}
