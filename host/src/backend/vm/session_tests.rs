//! What a guest that was taken over can do with collected files and with questions: an agent that
//! follows a script.

use super::*;
use crate::collect::Collecting;
use crate::vmm::{Exit, Machine, MachineError};
use crate::{CollectError, Collected, Engine, Policy};
use ringfence_protocol::{ByteBuf, Decision, Hello, Limits, Operation, Uncollected, frame};
use std::path::Path;

/// A machine whose agent has one connection.
#[derive(Debug)]
struct Scripted(Mutex<Option<UnixStream>>);

impl Machine for Scripted {
    fn connect(&self, _port: u32, _timeout: Duration) -> Result<UnixStream, MachineError> {
        Ok(self.0.lock().unwrap().take().unwrap())
    }

    fn stop(&self) {}

    fn exit(&self) -> Option<Exit> {
        None
    }

    fn exit_within(&self, _patience: Duration) -> Option<Exit> {
        None
    }

    fn console_tail(&self) -> String {
        String::new()
    }
}

fn guest(agent: UnixStream) -> Arc<Guest> {
    let (ready, _other) = UnixStream::pair().unwrap();
    Arc::new(Guest {
        machine: Arc::new(Scripted(Mutex::new(Some(agent)))),
        engine: Engine::Qemu,
        _ready: ready,
    })
}

fn request(policy: Option<Policy>) -> Request {
    Request {
        program: "true".into(),
        args: Vec::new(),
        env: Vec::new(),
        files: Vec::new(),
        stdin: false,
        terminal: None,
        policy: policy.map(Arc::new),
        collecting: None,
    }
}

/// An execution that collects `out/**` of at most 1000 bytes, and an agent that says this.
fn run(
    directory: &Path,
    messages: Vec<FromAgent>,
) -> (Result<Report, Error>, Result<Collected, CollectError>) {
    run_with(directory, messages, None)
}

/// The same with a policy.
fn run_with(
    directory: &Path,
    messages: Vec<FromAgent>,
    policy: Option<Policy>,
) -> (Result<Report, Error>, Result<Collected, CollectError>) {
    let (ours, mut theirs) = UnixStream::pair().unwrap();
    let agent = thread::spawn(move || {
        let mut said = frame::encode(&Hello::ours()).unwrap();
        for message in [FromAgent::Started].into_iter().chain(messages) {
            said.extend(frame::encode(&message).unwrap());
        }
        // A host that has heard enough hangs up.
        drop(theirs.write_all(&said));
        drop(theirs.shutdown(Shutdown::Write));
        drop(io::copy(&mut theirs, &mut io::sink()));
    });
    let guest = guest(ours);
    let limits = Limits {
        workspace: Some(1000),
        ..Limits::default()
    };
    let collecting = Collecting::open(vec!["out/**".into()], directory, &limits).unwrap();
    let collecting = Arc::new(collecting);
    let request = Request {
        collecting: Some(Arc::clone(&collecting)),
        ..request(policy)
    };
    let config = Config {
        limits,
        ..Config::default()
    };
    let session = start(guest, &config, request).unwrap();
    let report = session.control.wait();
    agent.join().unwrap();
    (report, collecting.outcome())
}

fn file(path: &str, size: u64) -> FromAgent {
    FromAgent::File {
        path: ByteBuf::from(path.as_bytes().to_vec()),
        mode: 0o6755,
        size,
    }
}

fn data(len: usize) -> FromAgent {
    FromAgent::FileData(ByteBuf::from(vec![b'x'; len]))
}

fn exited() -> FromAgent {
    FromAgent::Exited(Box::new(Report {
        ended: Ended::Exited { code: 0 },
        wall: Duration::ZERO,
        cpu: Duration::ZERO,
        peak_memory: 0,
        layers: Layer::REQUIRED.map(LayerState::active).to_vec(),
        violations: Vec::new(),
    }))
}

#[test]
fn what_an_honest_agent_sends_arrives() {
    let place = tempfile::tempdir().unwrap();
    let skipped = FromAgent::NotCollected {
        path: ByteBuf::from(b"out/link".to_vec()),
        why: Uncollected::Link,
    };
    let messages = vec![skipped, file("out/a", 5), data(2), data(3), exited()];
    let (report, collected) = run(place.path(), messages);
    assert!(report.is_ok(), "{report:?}");
    let collected = collected.unwrap();
    assert_eq!((collected.files.len(), collected.skipped.len()), (1, 1));
    let written = std::fs::read(place.path().join("out/a")).unwrap();
    assert_eq!(written, b"xxxxx");
}

#[test]
fn a_hostile_agent_writes_nothing_that_was_not_asked_for() {
    for messages in [
        vec![file("../escaped", 0)],
        vec![file("/tmp/escaped", 0)],
        vec![file("out/../../escaped", 0)],
        vec![file(".bashrc", 0)],
        vec![file("out/a", 1001)],
        vec![file("out/a", u64::MAX), data(9)],
        vec![file("out/a", 999), file("out/b", 1)],
        vec![file("out/a", 2), data(3)],
        vec![file("out/a", 2), data(1), exited()],
        vec![file("out/a", 2), data(0)],
        vec![data(1)],
        vec![FromAgent::NotCollected {
            path: ByteBuf::from(b"../x".to_vec()),
            why: Uncollected::Link,
        }],
    ] {
        let place = tempfile::tempdir().unwrap();
        let directory = place.path().join("directory");
        let shown = format!("{messages:?}");
        let (report, _) = run(&directory, messages);
        let message = report.unwrap_err().to_string();
        assert!(message.contains("broke the protocol"), "{message}: {shown}");
        assert!(!place.path().join("escaped").exists(), "{shown}");
        let left = std::fs::read_dir(directory.join("out"));
        assert_eq!(left.map_or(0, Iterator::count), 0, "{shown}");
    }
}

#[test]
fn an_agent_that_cannot_go_on_says_why() {
    let place = tempfile::tempdir().unwrap();
    let failed = FromAgent::CollectFailed("too \u{1b}[2Jmuch".into());
    let messages = vec![file("out/a", 5), data(2), failed, exited()];
    let (report, collected) = run(place.path(), messages);
    assert!(report.is_ok(), "{report:?}");
    let error = collected.unwrap_err();
    assert_eq!(error.message, "too [2Jmuch");
    let left = std::fs::read_dir(place.path().join("out")).unwrap().count();
    assert_eq!(left, 0);
}

fn question(token: u64, operation: Operation, path: &str, expired: bool) -> FromAgent {
    FromAgent::Question(Box::new(Question {
        token,
        operation,
        path: ByteBuf::from(path.as_bytes().to_vec()),
        destination: None,
        process: 1,
        expired,
    }))
}

#[test]
fn questions_that_nobody_wants_break_the_protocol() {
    let long = "x".repeat(LONGEST_PATH + 1);
    let policy = || Policy::new([Operation::Write], |_| Decision::Allow);
    for (asked, policy) in [
        (question(1, Operation::Write, "/a", false), None),
        (question(1, Operation::Write, &long, false), Some(policy())),
        (question(1, Operation::Delete, "/a", false), Some(policy())),
    ] {
        let place = tempfile::tempdir().unwrap();
        let (report, _) = run_with(place.path(), vec![asked, exited()], policy);
        let message = report.unwrap_err().to_string();
        assert!(message.contains("broke the protocol"), "{message}");
    }
}

/// A policy that does not answer, and a guest that asks without end: what is kept is bounded, the
/// execution ends, and what the report says of it can be shown.
#[test]
fn a_flood_of_questions_waits_for_nobody() {
    let (never, nobody) = std::sync::mpsc::channel::<()>();
    let nobody = Mutex::new(nobody);
    let policy = Policy::new([Operation::Write], move |_| {
        let _ = nobody.lock().unwrap().recv();
        Decision::Allow
    });
    let mut messages: Vec<_> = (0..10_000)
        .map(|token| question(token, Operation::Write, "/a\u{1b}[2J", token % 2 == 1))
        .collect();
    messages.push(exited());
    let place = tempfile::tempdir().unwrap();
    let (report, _) = run_with(place.path(), messages, Some(policy));
    let violations = report.unwrap().violations;
    assert_eq!(violations.len(), 64);
    assert_eq!(violations[0].target.as_deref(), Some("/a[2J"));
    drop(never);
}

/// A guest that asks without reading the answers, and then shows more than anybody reads: neither a
/// kill nor the end waits for it.
#[test]
fn a_guest_that_reads_nothing_ends_all_the_same() {
    for reads in [false, true] {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        let agent = thread::spawn(move || {
            let mut said = frame::encode(&Hello::ours()).unwrap();
            said.extend(frame::encode(&FromAgent::Started).unwrap());
            for token in 0..100_000 {
                let asked = question(token, Operation::Write, "/a", false);
                said.extend(frame::encode(&asked).unwrap());
            }
            let shown = FromAgent::Stdout(ByteBuf::from(vec![b'x'; 60_000]));
            let shown = frame::encode(&shown).unwrap();
            if theirs.write_all(&said).is_ok() {
                while theirs.write_all(&shown).is_ok() {}
            }
        });
        let policy = Policy::new([Operation::Write], |_| Decision::Allow);
        let session = start(guest(ours), &Config::default(), request(Some(policy))).unwrap();
        let (control, mut stdout) = (Arc::clone(&session.control), session.stdout);
        let killer = thread::spawn(move || {
            // As at the output limit, by the thread that reads; or by another one.
            let mut byte = [0];
            stdout.read_exact(&mut byte).unwrap();
            control.kill(Ended::OutputExceeded);
            if reads {
                drop(stdout.read_to_end(&mut Vec::new()));
            }
            stdout
        });
        let report = session.control.wait().unwrap();
        assert_eq!(report.ended, Ended::OutputExceeded);
        drop(killer.join().unwrap());
        agent.join().unwrap();
    }
}

/// The next message of the host's.
fn heard(theirs: &mut UnixStream) -> Vec<u8> {
    let mut header = [0; frame::HEADER];
    theirs.read_exact(&mut header).unwrap();
    let mut body = vec![0; frame::body_len(header).unwrap()];
    theirs.read_exact(&mut body).unwrap();
    body
}

/// The next answer of the host's.
fn answered(theirs: &mut UnixStream) -> (u64, Decision) {
    loop {
        if let ToAgent::Answer { token, decision } = frame::decode(&heard(theirs)).unwrap() {
            return (token, decision);
        }
    }
}

/// Two requests of a stream, answered in the other order, and one that has expired.
#[test]
fn a_stream_is_answered_in_any_order() {
    let (ours, mut theirs) = UnixStream::pair().unwrap();
    let agent = thread::spawn(move || {
        let mut said = frame::encode(&Hello::ours()).unwrap();
        said.extend(frame::encode(&FromAgent::Started).unwrap());
        for token in 1..=3 {
            let asked = question(token, Operation::Write, &format!("/{token}"), false);
            said.extend(frame::encode(&asked).unwrap());
        }
        theirs.write_all(&said).unwrap();
        let _hello = heard(&mut theirs);
        let answers = [answered(&mut theirs), answered(&mut theirs)];
        let expired = question(2, Operation::Write, "/2", true);
        let mut said = frame::encode(&expired).unwrap();
        said.extend(frame::encode(&exited()).unwrap());
        theirs.write_all(&said).unwrap();
        drop(io::copy(&mut theirs, &mut io::sink()));
        answers
    });
    let (policy, mut requests) = Policy::stream([Operation::Write]);
    let session = start(guest(ours), &Config::default(), request(Some(policy))).unwrap();
    let [first, second, third] = [(); 3].map(|()| requests.next().unwrap());
    third.answer(Decision::Deny(13));
    first.answer(Decision::Allow);
    let report = session.control.wait().unwrap();
    assert!(!second.is_pending());
    second.answer(Decision::Kill);
    let answers = [(3, Decision::Deny(13)), (1, Decision::Allow)];
    assert_eq!(agent.join().unwrap(), answers);
    let targets = report.violations.iter().map(|each| each.target.as_deref());
    assert_eq!(targets.collect::<Vec<_>>(), [Some("/3"), Some("/2")]);
    drop(session);
    assert!(requests.next().is_none());
}

/// A stream that nobody takes from, or that answers all, and a guest that asks without end and takes
/// no answers: what is kept is bounded, and whoever answers waits for nobody.
#[test]
fn a_flood_of_requests_is_bounded() {
    for is_answered in [false, true] {
        let (policy, mut requests) = Policy::stream([Operation::Write]);
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        let agent = thread::spawn(move || {
            let mut said = frame::encode(&Hello::ours()).unwrap();
            said.extend(frame::encode(&FromAgent::Started).unwrap());
            for token in 0..100_000 {
                let asked = question(token, Operation::Write, "/a", false);
                said.extend(frame::encode(&asked).unwrap());
            }
            said.extend(frame::encode(&exited()).unwrap());
            theirs.write_all(&said).unwrap();
            // Nothing is read until the host hangs up.
            drop(theirs.shutdown(Shutdown::Write));
            theirs
        });
        let session = start(guest(ours), &Config::default(), request(Some(policy))).unwrap();
        if is_answered {
            for _ in 0..1000 {
                requests.next().unwrap().answer(Decision::REFUSE);
            }
        }
        let report = session.control.wait().unwrap();
        assert_eq!(report.violations.is_empty(), !is_answered);
        assert!(report.violations.len() <= 64);
        drop((agent.join().unwrap(), session));
        assert_eq!(requests.count(), 0);
    }
}
