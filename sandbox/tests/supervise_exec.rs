//! Supervised execution of programs: what is asked about, and that nothing else is executed.
#![cfg(target_os = "linux")]
#![expect(clippy::unwrap_used, reason = "a test stops where it is surprised")]

mod common;

use common::{MINUTE, MODES, Outcome, file, python, shell, supervised};
use ringfence_sandbox::{Decision, Ended, Operation, Question, Spec};
use std::time::Duration;

fn asked(
    spec: Spec,
    policy: impl FnMut(&Question) -> Option<Decision> + Send + 'static,
) -> (Outcome, Vec<String>) {
    let (outcome, questions) = supervised(spec, &[Operation::Exec], MINUTE, policy);
    let name = |question: Question| {
        assert_eq!(question.operation, Operation::Exec);
        let path = String::from_utf8_lossy(&question.path).into_owned();
        let name = path.rsplit('/').next().unwrap();
        // Nobody could be asked about it any more.
        let mark = if question.expired { "!" } else { "" };
        format!("{name}{mark}")
    };
    (outcome, questions.into_iter().map(name).collect())
}

fn all(_: &Question) -> Option<Decision> {
    Some(Decision::Allow)
}

/// Allows all but what has this name.
fn all_but(
    name: &'static str,
    otherwise: Decision,
) -> impl FnMut(&Question) -> Option<Decision> + Send {
    move |question| {
        let is_it = question.path.ends_with(name.as_bytes());
        Some(if is_it { otherwise } else { Decision::Allow })
    }
}

#[test]
fn what_is_allowed_runs_and_what_is_refused_does_not() {
    let script = "
echo begin
/usr/bin/id -u >/dev/null && echo one
/usr/bin/stat / >/dev/null 2>error || echo $?
cat error
/usr/bin/missing 2>/dev/null || echo $?
/etc 2>/dev/null || echo $?
/usr/bin/env id -u >/dev/null && echo two
kill -TERM $$
";
    for mode in MODES {
        let refuse = Decision::Deny(libc::EACCES);
        let (outcome, questions) = asked(shell(script, mode), all_but("stat", refuse));
        let text = outcome.text();
        let lines: Vec<&str> = text.lines().collect();
        let [first, one, status, error, rest @ ..] = lines.as_slice() else {
            unreachable!("{mode:?} {text} {}", outcome.errors());
        };
        assert_eq!([*first, *one, *status], ["begin", "one", "126"]);
        assert!(error.contains("ermission denied"), "{error}");
        assert_eq!(rest, ["127", "126", "two"], "{mode:?}");
        assert_eq!(questions, ["id", "stat", "cat", "env", "id"]);
        assert_eq!(outcome.report.ended, Ended::Signaled { signal: 15 });
    }
}

#[test]
fn a_kill_ends_everything() {
    let script = "/usr/bin/sleep 1000 & /usr/bin/id; echo never";
    for mode in MODES {
        let (outcome, questions) = asked(shell(script, mode), all_but("id", Decision::Kill));
        assert_eq!(outcome.report.ended, Ended::Killed);
        assert_eq!(outcome.text(), "");
        assert!(questions.contains(&"id".to_owned()));
    }
}

#[test]
fn scripts_are_asked_about_by_their_own_name() {
    let script = "
./tool one two; ./nested
cd sub; ./relative
exec 3<../tool; /dev/fd/3 three
../loop || echo $?; ../lost || echo $?; ../empty || echo $?
ln -s ../tool link; ./link four
";
    for mode in MODES {
        let mut spec = shell(script, mode);
        spec.files = vec![
            file("tool", 0o755, b"#!/bin/sh\necho $0 $*\n"),
            file("nested", 0o755, b"#! ./tool -x\n"),
            file("sub/relative", 0o755, b"#!../tool\n"),
            file("loop", 0o755, b"#!../loop\n"),
            file("lost", 0o755, b"#!/missing/program\n"),
            // No program: what the shell makes of it is its own affair.
            file("empty", 0o755, b""),
        ];
        let (outcome, mut questions) = asked(spec, all);
        assert_eq!(
            outcome.text(),
            "./tool one two\n./tool -x ./nested\n../tool ./relative\n/dev/fd/3 three\n127\n127\n./link four",
            "{mode:?} {}",
            outcome.errors()
        );
        // What a shell does about what is neither: it runs itself.
        questions.retain(|name| !name.ends_with("sh"));
        let expected = ["tool", "nested", "relative", "tool", "empty", "ln", "tool"];
        assert_eq!(questions, expected, "{mode:?}");
    }
}

/// A script of the system, with `/bin/sh` as its interpreter.
fn system_script() -> Option<&'static str> {
    let candidates = ["/usr/bin/zgrep", "/usr/bin/xzgrep", "/usr/bin/zcmp"];
    candidates.into_iter().find(|path| {
        std::fs::canonicalize(path).is_ok_and(|real| real.as_os_str() == *path)
            && std::fs::read(path).is_ok_and(|text| text.starts_with(b"#!/bin/sh"))
    })
}

#[test]
fn a_script_is_told_by_no_name_that_may_not_be_true() {
    let Some(script) = system_script() else {
        return common::skipped("no script of the system's was found");
    };
    let (directory, name) = script.rsplit_once('/').unwrap();
    let code = format!(
        "
{script}
/bin/ln -s {script} link; ./link; \"$PWD/link\"
exec 3<{script}; /dev/fd/3
exec 4<.; /dev/fd/4/link
./own; ./borrowed
{directory}/../bin/{name}; {directory}/../..$PWD/link
cd {directory}; ./{name}
"
    );
    let told = |path: &[u8]| String::from_utf8_lossy(path).into_owned();
    let sh = std::fs::canonicalize("/bin/sh").unwrap();
    let id = std::fs::canonicalize("/usr/bin/id").unwrap();
    for mode in MODES {
        let mut spec = shell(&code, mode);
        spec.files = vec![
            file("own", 0o755, b"#!/bin/sh\n"),
            file("borrowed", 0o755, b"#!/usr/bin/id -u\n"),
        ];
        let (outcome, questions) =
            supervised(spec, &[Operation::Exec], MINUTE, |question: &Question| {
                let is_link = question.path.ends_with(b"/ln");
                Some(if is_link {
                    Decision::Allow
                } else {
                    Decision::Deny(libc::EACCES)
                })
            });
        let mut seen = questions.iter().map(|question| {
            let by = question.destination.as_ref();
            (told(&question.path), by.map(|path| told(path)))
        });
        let mut next = || seen.next().unwrap();
        let sh = Some(told(sh.as_os_str().as_encoded_bytes()));
        let system = (script.to_owned(), sh.clone());
        assert_eq!(next(), system, "{}", outcome.errors());
        assert_eq!(next().1, None);
        assert_eq!(next(), ("./link".to_owned(), sh.clone()));
        let (linked, by) = next();
        assert!(linked.starts_with('/') && linked.ends_with("/link"));
        assert_eq!(by, sh);
        let workspace = linked.strip_suffix("/link").unwrap();
        assert_eq!(next(), system);
        assert_eq!(next(), ("link".to_owned(), sh.clone()));
        assert_eq!(next(), (format!("{workspace}/own"), sh.clone()));
        let id = Some(told(id.as_os_str().as_encoded_bytes()));
        assert_eq!(next(), (format!("{workspace}/borrowed"), id));
        assert_eq!(next(), (format!("../bin/{name}"), sh.clone()));
        assert_eq!(next(), (format!("..{workspace}/link"), sh.clone()));
        assert_eq!(next(), (format!("./{name}"), sh));
        assert_eq!(seen.next(), None, "{mode:?}");
    }
}

/// What the Python programs here begin with.
const PRELUDE: &str = "
import ctypes, os, signal, subprocess, sys, threading, time
libc = ctypes.CDLL(None, use_errno=True)
def run(function):
    pid = os.fork()
    if pid == 0:
        try: function()
        except OSError as error: print(error.strerror, flush=True)
        os._exit(9)
    return os.waitpid(pid, 0)[1]
";

fn program(code: &str, mode: ringfence_sandbox::Namespaces) -> Spec {
    python(&format!("{PRELUDE}{code}"), mode)
}

#[test]
fn programs_without_a_path_are_asked_about() {
    let code = "
memory = os.memfd_create('image')
with open('/usr/bin/echo', 'rb') as source:
    os.write(memory, source.read())
print(run(lambda: os.execve(memory, ['echo', 'memory'], {})), flush=True)
own = os.open('/usr/bin/echo', os.O_PATH | os.O_CLOEXEC)
print(run(lambda: os.execve(own, ['echo', 'descriptor'], {})), flush=True)
print(run(lambda: os.execv(f'/proc/self/fd/{memory}', ['echo', 'proc'])), flush=True)
print(run(lambda: os.execv('/proc/self/exe', ['python', '-c', 'print(7)'])), flush=True)
print(run(lambda: os.execv('/proc/1/exe', ['x'])) != 0, flush=True)
directory = os.open('/usr/bin', os.O_PATH)
execveat = 281 if os.uname().machine == 'aarch64' else 322
def at(fd, path, flags):
    vector = (ctypes.c_char_p * 3)(b'echo', b'at', None)
    libc.syscall(execveat, fd, path, vector, None, flags)
    raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
print(run(lambda: at(directory, b'echo', 0)), flush=True)
os.symlink('/usr/bin/echo', 'link')
print(run(lambda: at(-100, b'link', 0x100)), flush=True)
print(run(lambda: at(-100, b'', 0)), flush=True)
print(run(lambda: at(99, b'', 0x1000)), flush=True)
print(run(lambda: at(directory, b'echo', 0x10000)), flush=True)
";
    for mode in MODES {
        let (outcome, questions) = asked(program(code, mode), all);
        let expected = ["memory", "0", "descriptor", "0", "proc", "0", "7", "0"];
        let text = outcome.text();
        let lines: Vec<&str> = text.lines().collect();
        let (first, rest) = lines.split_at_checked(expected.len()).unwrap();
        assert_eq!(first, expected, "{mode:?} {text} {}", outcome.errors());
        let [.., a, at, zero, link, b, empty, c, bad, d, check, e] = rest else {
            unreachable!("{rest:?}");
        };
        assert_eq!([*a, *at, *zero], ["True", "at", "0"]);
        assert!(link.starts_with("Too many"), "{text} {questions:?}");
        assert!(empty.starts_with("No such"), "{empty}");
        assert!(bad.starts_with("Bad file"), "{bad}");
        assert!(check.starts_with("Invalid"), "{check}");
        assert_eq!([*b, *c, *d, *e], ["2304"; 4]);
        let (first, last) = (questions.first().unwrap(), questions.last().unwrap());
        assert!(first.contains("image"), "{questions:?}");
        assert!(last.contains("echo") || last.contains("coreutils"));
        assert_eq!(questions.len(), 5, "{questions:?}");
    }
}

#[test]
fn threads_and_their_children_execute() {
    let code = "
results = []
def work():
    for _ in range(8):
        results.append(subprocess.run(['/usr/bin/echo', 'x'], capture_output=True).stdout)
threads = [threading.Thread(target=work) for _ in range(6)]
for thread in threads: thread.start()
for thread in threads: thread.join()
print(len(results), set(results), flush=True)
def other():
    thread = threading.Thread(target=lambda: os.execv('/usr/bin/echo', ['echo', 'from a thread']))
    idle = threading.Thread(target=lambda: time.sleep(1000))
    idle.start(); thread.start(); thread.join()
print(run(other), flush=True)
def several():
    barrier = threading.Barrier(12)
    def work():
        barrier.wait()
        os.execv('/usr/bin/echo', ['echo', 'from one of them'])
    threads = [threading.Thread(target=work) for _ in range(12)]
    for thread in threads: thread.start()
    for thread in threads: thread.join()
print({run(several) for _ in range(30)}, flush=True)
def missing():
    for _ in range(50):
        try: os.execv('bad', ['bad'])
        except OSError as error: errors.append(error.strerror)
errors = []
open('bad', 'w').write('neither'); os.chmod('bad', 0o755)
threads = [threading.Thread(target=missing) for _ in range(4)]
for thread in threads: thread.start()
for thread in threads: thread.join()
print(len(errors), set(errors), flush=True)
threading.Thread(target=lambda: os.execv('/usr/bin/echo', ['echo', 'instead'])).start()
time.sleep(1000)
";
    for mode in MODES {
        let (outcome, _) = asked(program(code, mode), all);
        let several = "from one of them\n".repeat(30);
        let expected = format!(
            "48 {{b'x\\n'}}\nfrom a thread\n0\n{several}{{0}}\n200 {{'Exec format error'}}\ninstead"
        );
        assert_eq!(outcome.text(), expected, "{mode:?} {}", outcome.errors());
        assert_eq!(outcome.code(), 0);
    }
}

#[test]
fn who_could_not_execute_lives_on_as_before() {
    let code = "
seen = []
signal.signal(signal.SIGUSR1, lambda *_: seen.append('one'))
signal.signal(signal.SIGTERM, lambda *_: seen.append('term'))
open('bad', 'w').write('neither'); os.chmod('bad', 0o755)
def storm():
    for _ in range(300):
        os.kill(os.getpid(), signal.SIGUSR1)
sender = threading.Thread(target=storm); sender.start()
for _ in range(200):
    try: os.execv('bad', ['bad'])
    except OSError as error: assert error.errno == 8, error
sender.join()
print('one' in seen, flush=True)
ready, done = os.pipe()
child = os.fork()
if child == 0:
    for _ in range(20):
        try: os.execv('bad', ['bad'])
        except OSError: pass
    os.write(1, b'child\\n')
    signal.signal(signal.SIGTERM, lambda *_: os._exit(5))
    os.write(done, b'x')
    while True: signal.pause()
os.read(ready, 1)
os.kill(child, signal.SIGSTOP)
print(os.WIFSTOPPED(os.waitpid(child, os.WUNTRACED)[1]), flush=True)
os.kill(child, signal.SIGCONT)
print(os.WIFCONTINUED(os.waitpid(child, os.WCONTINUED)[1]), flush=True)
os.kill(child, signal.SIGTERM)
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
os.kill(os.getpid(), signal.SIGTERM)
print(seen[-1])
";
    for mode in MODES {
        let (outcome, _) = asked(program(code, mode), all);
        assert_eq!(
            outcome.text(),
            "True\nchild\nTrue\nTrue\n5\nterm",
            "{mode:?} {}",
            outcome.errors()
        );
        assert_eq!(outcome.code(), 0);
    }
}

#[test]
fn who_is_stopped_or_killed_while_executing_harms_nobody() {
    let code = "
import random
for round in range(150):
    child = subprocess.Popen(['/usr/bin/sleep', '1000'], stdout=subprocess.DEVNULL) \\
        if round % 2 else None
    if child is None:
        pid = os.fork()
        if pid == 0: os.execv('/usr/bin/sleep', ['sleep', '1000'])
    else:
        pid = child.pid
    time.sleep(random.random() * 0.003)
    if round % 3 == 0:
        os.kill(pid, signal.SIGSTOP)
        assert os.WIFSTOPPED(os.waitpid(pid, os.WUNTRACED)[1])
    os.kill(pid, signal.SIGKILL)
    assert os.WTERMSIG(os.waitpid(pid, 0)[1]) == 9
    if child: child.returncode = -9
print('done')
";
    for mode in MODES {
        let (outcome, _) = asked(program(code, mode), all);
        assert_eq!(outcome.text(), "done", "{mode:?} {}", outcome.errors());
    }
}

/// The path in memory is changed all the time: by another thread or by another process.
#[test]
fn nothing_but_what_was_allowed_begins() {
    let code = "
import mmap
who = sys.argv[1] if len(sys.argv) > 1 else WHO
page = mmap.mmap(-1, 4096)
view = (ctypes.c_char * 64).from_buffer(page)
address = ctypes.addressof(view)
if NAMES[1] == 'link': os.symlink(*NAMES)
GOOD, EVIL = [os.path.abspath(name).encode() + b'\\0' for name in NAMES]
def flip():
    while True:
        ctypes.memmove(address, EVIL, len(EVIL)); ctypes.memmove(address, GOOD, len(GOOD))
ctypes.memmove(address, GOOD, len(GOOD))
if who == 'process':
    if os.fork() == 0: flip()
else:
    sys.setswitchinterval(1e-5)
number = 221 if os.uname().machine == 'aarch64' else 59
vector = (ctypes.c_char_p * 2)(b'x', None)
while True:
    pid = os.fork()
    if pid == 0:
        if who == 'thread': threading.Thread(target=flip, daemon=True).start()
        while True: libc.syscall(number, ctypes.c_void_p(address), vector, None)
    os.waitpid(pid, 0)
    os.write(1, b'.')
";
    let mut cases = vec![
        ("thread", ["good", "evil"], false),
        ("process", ["good", "evil"], false),
        // Both have the same interpreter.
        ("process", ["fine", "foul"], true),
    ];
    // Both are the same script, but the program can let one of the names lead elsewhere.
    cases.extend(system_script().map(|script| ("process", [script, "link"], true)));
    for (mode, (who, names, scripts)) in MODES
        .into_iter()
        .flat_map(|mode| cases.iter().map(move |case| (mode, *case)))
    {
        let code = format!("WHO, NAMES = {who:?}, {names:?}\n{code}");
        let mut spec = program(&code, mode);
        spec.limits.wall = Some(Duration::from_secs(120));
        let image = std::fs::read("/usr/bin/true").unwrap();
        spec.files = vec![
            file("good", 0o755, &image),
            // Would say so on standard output.
            file("evil", 0o755, &std::fs::read("/usr/bin/pwd").unwrap()),
            file("fine", 0o755, b"#!/bin/sh\n:\n"),
            file("foul", 0o755, b"#!/bin/sh\necho foul\n"),
        ];
        let (good, evil) = (names[0], names[1]);
        let refuse = Decision::Deny(libc::EACCES);
        let (outcome, questions) = asked(spec, all_but(evil, refuse));
        let text = outcome.text();
        assert!(
            text.bytes().all(|byte| byte == b'.'),
            "{mode:?} {who} {scripts} {text}"
        );
        assert!(questions.iter().any(|name| good.ends_with(name.as_str())));
        // In the end it was caught, and is named.
        let named = if scripts { "sh" } else { evil };
        let last = questions.last().unwrap();
        assert!(last.ends_with(&format!("{named}!")), "{last}");
        assert_eq!(
            outcome.report.ended,
            Ended::Killed,
            "{mode:?} {who} {}",
            outcome.errors()
        );
    }
}

#[test]
fn what_the_caller_named_is_not_asked_about() {
    for mode in MODES {
        let (outcome, questions) = asked(shell("echo plain", mode), |_| None);
        assert_eq!(outcome.text(), "plain");
        assert!(questions.is_empty());
    }
}

#[test]
fn all_operations_are_asked_about_together() {
    for mode in MODES {
        let script = "/usr/bin/touch a && /usr/bin/mv a b && /usr/bin/rm b && echo done";
        let (outcome, questions) = supervised(shell(script, mode), &Operation::ALL, MINUTE, all);
        assert_eq!(outcome.text(), "done", "{}", outcome.errors());
        let operations: Vec<String> = questions
            .iter()
            .map(|question| question.operation.to_string())
            .collect();
        assert_eq!(
            operations,
            ["exec", "write", "exec", "rename", "exec", "delete"]
        );
    }
}

#[test]
fn nothing_is_left_of_those_who_were_executing() {
    for mode in MODES {
        let seconds = common::unique_seconds();
        let script = format!(
            "for i in 1 2 3 4 5 6 7 8; do
                (while :; do /usr/bin/env /usr/bin/true; done) &
                /usr/bin/setsid /usr/bin/sleep {seconds} &
            done
            wait"
        );
        let mut spec = shell(&script, mode);
        spec.limits.wall = Some(Duration::from_millis(400));
        let (outcome, _) = asked(spec, all);
        assert_eq!(outcome.report.ended, Ended::TimedOut);
        assert!(common::processes_with(&seconds).is_empty());
    }
}

/// Has a child with this process number, which must be free, until its input ends.
const NUMBERED: &str = "
import ctypes, os, select, sys
number = ctypes.c_int(int(sys.argv[1]))
arguments = (ctypes.c_uint64 * 11)()
arguments[4] = 17
arguments[8], arguments[9] = ctypes.addressof(number), 1
libc = ctypes.CDLL(None, use_errno=True)
pid = libc.syscall(435, arguments, ctypes.sizeof(arguments))
if pid == 0:
    waiter = select.epoll()
    waiter.register(0, select.EPOLLIN)
    print(os.getpid(), flush=True)
    # Fails when the process is stopped meanwhile.
    told = libc.epoll_wait(waiter.fileno(), (ctypes.c_char * 64)(), 1, -1)
    os._exit(7 if told == 1 else 8)
if pid < 0: sys.exit(os.strerror(ctypes.get_errno()))
sys.exit(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
";

/// Who asked is killed, and its number is a stranger's before the answer comes.
#[test]
fn a_stranger_with_the_number_of_one_who_asked_is_left_alone() {
    use std::io::{BufRead as _, BufReader, Write as _};
    use std::process::{Command, Stdio};
    if !common::is_root() {
        return common::skipped("only root chooses the number of a process");
    }
    let code = "
pid = os.fork()
if pid == 0: os.execv('/usr/bin/id', ['id'])
sys.stdin.readline()
os.kill(pid, signal.SIGKILL); os.waitpid(pid, 0)
print('gone', flush=True)
sys.stdin.readline()
print('end')
";
    let mut spec = program(code, ringfence_sandbox::Namespaces::Off);
    spec.stdin = ringfence_sandbox::Stdin::Piped;
    spec.limits.wall = Some(Duration::from_secs(20));
    spec.supervision = Some(ringfence_sandbox::Supervision {
        operations: [Operation::Exec].into(),
        limit: MINUTE,
        default: Decision::REFUSE,
    });
    let mut running = ringfence_sandbox::spawn(spec).unwrap();
    let mut stdin = running.stdin.take().unwrap();
    let mut stdout = BufReader::new(running.stdout.take().unwrap()).lines();
    let mut questions = running.questions.take().unwrap();
    let question = questions.next_question().unwrap();
    stdin.write_all(b"\n").unwrap();
    assert_eq!(stdout.next().unwrap().unwrap(), "gone");
    let number = question.process.to_string();
    let mut stranger = Command::new("/usr/bin/python3");
    let stranger = stranger.args(["-c", NUMBERED, &number]);
    let stranger = stranger.stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut stranger = stranger.spawn().unwrap();
    let mut told = BufReader::new(stranger.stdout.take().unwrap()).lines();
    assert_eq!(told.next().unwrap().unwrap(), number);
    let status = || std::fs::read_to_string(format!("/proc/{number}/status")).unwrap();
    while !status().contains("State:\tS") {
        std::thread::yield_now();
    }
    questions.answer(question.token, Decision::Allow);
    stdin.write_all(b"\n").unwrap();
    assert_eq!(stdout.next().unwrap().unwrap(), "end");
    assert!(status().contains("TracerPid:\t0\n"), "{}", status());
    let ended = running.wait().unwrap().report.ended;
    assert_eq!(ended, Ended::Exited { code: 0 });
    drop(stranger.stdin.take());
    assert_eq!(stranger.wait().unwrap().code(), Some(7));
}

/// Many programs begin with this signal ignored, and so may the caller.
#[test]
fn a_caller_that_ignores_its_children_is_served() {
    let own = std::env::current_exe().unwrap();
    let test = "what_is_allowed_runs_and_what_is_refused_does_not";
    let again = std::process::Command::new("/bin/sh")
        .args(["-c", "trap '' CHLD; exec \"$0\" --exact \"$1\""])
        .args([own.as_os_str(), test.as_ref()])
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&again.stdout);
    assert!(text.contains("1 passed"), "{text}");
}

#[test]
fn the_same_holds_for_an_unprivileged_caller() {
    common::repeat_unprivileged(&["the_same_holds"]);
}
