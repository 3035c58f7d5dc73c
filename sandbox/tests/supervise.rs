//! Supervised execution: what is asked, what each answer does, and that the deed is the one that
//! was asked about.
#![cfg(target_os = "linux")]
#![expect(clippy::unwrap_used, reason = "a test stops where it is surprised")]

mod common;

use common::{MINUTE, MODES, finish, python, shell, supervised};
use ringfence_sandbox::{Decision, Ended, Namespaces, Operation, Question, Supervision, spawn};
use std::thread;
use std::time::{Duration, Instant};

/// All that the supervisor does itself.
const DONE: [Operation; 4] = [
    Operation::Write,
    Operation::Delete,
    Operation::Rename,
    Operation::Connect,
];

fn short(question: &Question) -> String {
    let name = |path: &[u8]| {
        let name = path.rsplit(|byte| *byte == b'/').next();
        String::from_utf8_lossy(name.unwrap()).into_owned()
    };
    let second = question.destination.as_ref().map(|path| name(path));
    let first = name(&question.path);
    second.map_or_else(
        || format!("{} {first}", question.operation),
        |second| format!("{} {first} {second}", question.operation),
    )
}

#[test]
fn each_operation_is_asked_about_and_done_after_it() {
    let script = "
set -e
umask 027
echo one >a; echo two >>a; cat a >/dev/null; echo note >/dev/stderr
mv a b; cat b; stat -c %a b; mkdir d; cp b d/c; rm b; rm -r d; ls -A
truncate -s 5 s; mktemp -u >/dev/null
";
    for mode in MODES {
        let (outcome, questions) = supervised(shell(script, mode), &DONE, MINUTE, |_| {
            Some(Decision::Allow)
        });
        assert_eq!(outcome.code(), 0, "{mode:?} {}", outcome.errors());
        assert_eq!(outcome.text(), "one\ntwo\n640", "{mode:?}");
        assert_eq!(outcome.errors(), "note\n");
        let asked: Vec<String> = questions.iter().map(short).collect();
        assert_eq!(
            asked,
            [
                "write a",
                "write a",
                "rename a b",
                "write c",
                "delete b",
                "delete c",
                "delete d",
                "write s"
            ],
            "{mode:?}"
        );
        assert!(questions[3].path.ends_with(b"workspace/d/c"));
    }
}

#[test]
fn a_refusal_is_an_error_number_and_leaves_everything_as_it_was() {
    let code = "
import errno, os, socket
open('kept', 'w').write('content')
def attempt(name, function):
    try: function(); print(name, 'ok')
    except OSError as error: print(name, errno.errorcode[error.errno])
attempt('write', lambda: open('kept', 'w'))
attempt('append', lambda: open('kept', 'a'))
attempt('new', lambda: open('new', 'x'))
attempt('truncate', lambda: os.truncate('kept', 0))
attempt('unlink', lambda: os.unlink('kept'))
attempt('rename', lambda: os.rename('kept', 'other'))
attempt('read', lambda: open('kept').read())
attempt('outside', lambda: open('/etc/new', 'w'))
attempt('missing', lambda: open('missing/new', 'w'))
attempt('exclusive', lambda: open('kept', 'x'))
os.symlink('kept', 'link')
attempt('no link', lambda: os.open('link', os.O_WRONLY | os.O_NOFOLLOW))
server = socket.socket(socket.AF_UNIX); server.bind('socket'); server.listen()
attempt('connect', lambda: socket.socket(socket.AF_UNIX).connect('socket'))
attempt('datagram', lambda: socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM))
print(sorted(os.listdir()), open('kept').read())
";
    for mode in MODES {
        let mut first = true;
        let (outcome, questions) = supervised(python(code, mode), &DONE, MINUTE, move |_| {
            let decision = if first {
                Decision::Allow
            } else {
                Decision::Deny(libc::ENOLCK)
            };
            first = false;
            Some(decision)
        });
        let text = outcome.text();
        let lines: Vec<&str> = text.lines().collect();
        let expected = [
            "write ENOLCK",
            "append ENOLCK",
            "new ENOLCK",
            "truncate ENOLCK",
            "unlink ENOLCK",
            "rename ENOLCK",
            "read ok",
            "outside EACCES",
            "missing ENOENT",
            "exclusive EEXIST",
            "no link ELOOP",
            "connect ENOLCK",
            "datagram EPERM",
            "['kept', 'link', 'socket'] content",
        ];
        assert_eq!(lines, expected, "{mode:?} {}", outcome.errors());
        assert_eq!(questions.len(), 8);
    }
}

#[test]
fn without_an_answer_the_default_counts() {
    for mode in MODES {
        let begin = Instant::now();
        let limit = Duration::from_millis(100);
        let (outcome, questions) = supervised(
            shell("echo x >file || echo $?; ls", mode),
            &[Operation::Write],
            limit,
            |_| None,
        );
        assert!(
            outcome.errors().contains("Read-only"),
            "{}",
            outcome.errors()
        );
        assert!(begin.elapsed() >= limit);
        let expired: Vec<bool> = questions.iter().map(|question| question.expired).collect();
        assert_eq!(expired, [false, true]);
        assert_eq!(questions[0].path, questions[1].path);
    }
    // Nobody listens at all.
    let mut spec = shell("echo x >file; ls", Namespaces::Auto);
    spec.supervision = Some(Supervision {
        operations: [Operation::Write].into(),
        limit: MINUTE,
        default: Decision::Allow,
    });
    let mut running = spawn(spec).unwrap();
    drop(running.questions.take());
    assert_eq!(finish(running, Vec::new()).text(), "file");
}

#[test]
fn a_kill_ends_everything() {
    for mode in MODES {
        let (outcome, _) = supervised(
            shell("sleep 1000 & echo x >file; echo never", mode),
            &[Operation::Write],
            MINUTE,
            |_| Some(Decision::Kill),
        );
        assert_eq!(outcome.report.ended, Ended::Killed);
        assert_eq!(outcome.text(), "");
    }
}

#[test]
fn limits_hold_while_somebody_thinks() {
    for mode in MODES {
        // More ask than the table holds.
        let script = "for i in $(seq 40); do (echo x >file$i) & done; wait";
        let mut spec = shell(script, mode);
        spec.limits.wall = Some(Duration::from_secs(3));
        let begin = Instant::now();
        let (outcome, questions) = supervised(spec, &[Operation::Write], MINUTE, |_| None);
        assert_eq!(outcome.report.ended, Ended::TimedOut);
        assert_eq!(questions.len(), 16);
        assert!(begin.elapsed() < Duration::from_secs(60));
    }
}

#[test]
fn what_is_done_is_what_was_asked_about() {
    // While the answer is awaited the way there is swapped and the path in memory is changed.
    let code = "
import ctypes, os, threading, time
libc = ctypes.CDLL(None, use_errno=True)
os.mkdir('one'); os.mkdir('two'); os.symlink('one', 'way')
buffer = ctypes.create_string_buffer(b'way/file')
def swap():
    time.sleep(0.5)
    os.symlink('two', 'next'); os.rename('next', 'way')
    ctypes.memmove(buffer, b'two/else', 8)
thread = threading.Thread(target=swap); thread.start()
fd = libc.open(buffer, os.O_WRONLY | os.O_CREAT, 0o600)
os.write(fd, b'x'); thread.join()
print(os.listdir('one'), os.listdir('two'))
";
    for mode in MODES {
        let (outcome, questions) =
            supervised(python(code, mode), &[Operation::Write], MINUTE, |_| {
                thread::sleep(Duration::from_millis(1500));
                Some(Decision::Allow)
            });
        assert_eq!(outcome.text(), "['file'] []", "{}", outcome.errors());
        assert!(questions[0].path.ends_with(b"one/file"));
    }
}

#[test]
fn a_fifo_is_waited_for_without_the_supervisor() {
    let script = "mkfifo f; (echo through >f) & sleep 0.2; cat f; wait";
    for mode in MODES {
        let (outcome, _) = supervised(shell(script, mode), &[Operation::Write], MINUTE, |_| {
            Some(Decision::Allow)
        });
        assert_eq!(outcome.text(), "through", "{}", outcome.errors());
    }
}

#[test]
fn the_same_holds_for_an_unprivileged_caller() {
    common::repeat_unprivileged(&["the_same_holds"]);
}
