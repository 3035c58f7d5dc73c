//! Signals of an ordinary user's programs, where neither a namespace nor Landlock keeps them: they
//! are performed within the sandbox, and reach nobody else.
#![cfg(target_os = "linux")]

mod common;

use common::{Outcome, is_root, python, run, shell, skipped, spec};
use ringfence_sandbox::{Ended, Namespaces};
use std::process::Command;
use std::time::Duration;

/// Lowers the version of Landlock: 6 is the first that confines signals.
const LANDLOCK: &str = "RINGFENCE_TEST_LANDLOCK";

/// Without the protection these tests would kill all processes of their user: it has no others.
#[test]
fn signals_are_performed_for_an_ordinary_user() {
    if !is_root() || !common::exists("/usr/bin/setpriv") {
        return skipped("only root can be a user that has no other processes");
    }
    if !cfg!(debug_assertions) {
        return skipped("this build has no older Landlock");
    }
    let home = common::open_directory(&std::env::temp_dir());
    let user = (1_000_000_000 + std::process::id()).to_string();
    let mut tests = Command::new("/usr/bin/setpriv");
    tests
        .args(["--reuid", &user, "--regid", &user, "--clear-groups", "--"])
        .arg(common::copy_of_tests(home.path()))
        .args(["--skip", "signals_are_performed_for_an_ordinary_user"])
        .args(["--test-threads", "1"])
        .env(LANDLOCK, "4");
    let text = common::passes(&mut tests, home.path());
    assert!(text.contains("test result: ok"), "{text}");
}

/// Whether this is the run that the first test makes.
fn is_prepared() -> bool {
    !is_root() && std::env::var(LANDLOCK).is_ok_and(|version| version == "4")
}

fn lines(outcome: &Outcome) -> Vec<String> {
    assert_eq!(outcome.code(), 0, "{}", outcome.errors());
    outcome.text().lines().map(str::to_owned).collect()
}

const PRELUDE: &str = "
import ctypes, errno, os, signal, subprocess, sys, threading, time
libc = ctypes.CDLL(None, use_errno=True)
sys.stdout.reconfigure(line_buffering=True)
def attempt(name, function):
    try: print(name, function() or 'ok')
    except OSError as error: print(name, errno.errorcode[error.errno])
def call(number, *args):
    if libc.syscall(number, *args) < 0: raise OSError(ctypes.get_errno(), '')
ARM = os.uname().machine == 'aarch64'
KILL, TKILL, TGKILL = (129, 130, 131) if ARM else (62, 200, 234)
QUEUE, THREAD_QUEUE, DESCRIPTOR = (138, 240, 424) if ARM else (129, 297, 424)
";

fn program(code: &str) -> Outcome {
    let mut spec = python(&format!("{PRELUDE}{code}"), Namespaces::Off);
    spec.limits.wall = Some(Duration::from_secs(30));
    run(spec)
}

#[test]
fn shells_end_what_they_started() {
    if !is_prepared() {
        return;
    }
    let script = "sleep 1000 & kill $!; wait $!; echo $?
timeout 0.2 sleep 5; echo $?
timeout -s KILL 0.2 sleep 5; echo $?
(sleep 1000 & echo $! > below); kill -0 $(cat below) && kill $(cat below); echo $?
sh -c 'kill -TERM $$'; echo $?
trap 'echo trapped' USR1; kill -USR1 $$
(kill -USR1 $$); echo $?";
    let outcome = run(shell(script, Namespaces::Off));
    let expected = ["143", "124", "137", "0", "143", "trapped", "trapped", "0"];
    let mut said = lines(&outcome);
    said.sort();
    let mut sorted = expected.map(str::to_owned);
    sorted.sort();
    assert_eq!(said, sorted, "{}", outcome.errors());
    assert_eq!(outcome.report.violations, []);
    if !common::exists("/usr/bin/bash") {
        return skipped("bash is not installed");
    }
    let script = "sleep 1000 & one=$!; sleep 1000 & two=$!; kill %1 %2
wait $one; echo =$?; wait $two; echo =$?";
    let outcome = run(spec("bash", &["-c", script], Namespaces::Off));
    // Beside what the shell says of its jobs.
    let mut said = lines(&outcome);
    said.retain(|line| line.starts_with('='));
    assert_eq!(said, ["=143", "=143"], "{}", outcome.errors());
}

#[test]
fn programs_signal_children_threads_and_themselves() {
    if !is_prepared() {
        return;
    }
    let code = "
child = subprocess.Popen(['sleep', '1000'])
attempt('probe', lambda: os.kill(child.pid, 0))
attempt('invalid', lambda: os.kill(child.pid, 65))
attempt('terminate', child.terminate)
print('ended', child.wait())
child = subprocess.Popen(['true'])
os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
attempt('zombie', lambda: os.kill(child.pid, signal.SIGTERM))
child.wait()
print('abort', subprocess.run([sys.executable, '-c', 'import os; os.abort()']).returncode)
got = []
signal.signal(signal.SIGUSR1, lambda *_: got.append(1))
def until(count):
    while len(got) < count: time.sleep(0.001)
attempt('raise', lambda: signal.raise_signal(signal.SIGUSR1)); until(1)
attempt('self', lambda: os.kill(os.getpid(), signal.SIGUSR1)); until(2)
main = threading.main_thread()
def others():
    attempt('thread', lambda: signal.pthread_kill(main.ident, signal.SIGUSR1))
    attempt('tkill', lambda: call(TKILL, main.native_id, signal.SIGUSR1))
    attempt('tgkill', lambda: call(TGKILL, os.getpid(), main.native_id, signal.SIGUSR1))
thread = threading.Thread(target=others)
thread.start(); thread.join(); until(3)
# A function of the C library that can be cancelled.
thread, result = ctypes.c_ulong(), ctypes.c_void_p()
libc.pthread_create(ctypes.byref(thread), None, libc.pause, None)
print('cancel', libc.pthread_cancel(thread))
libc.pthread_join(thread, ctypes.byref(result))
print('cancelled', ctypes.c_long(result.value).value)
# Of a child that is in a session of its own and has lost its parent.
ends = os.pipe()
if os.fork() == 0:
    os.setsid()
    pid = os.fork()
    if pid == 0: time.sleep(1000)
    os.write(ends[1], str(pid).encode())
    os._exit(0)
os.wait()
attempt('orphan', lambda: os.kill(int(os.read(ends[0], 20)), signal.SIGKILL))
child = os.fork()
if child == 0:
    attempt('parent', lambda: os.kill(os.getppid(), signal.SIGUSR1))
    sys.stdout.flush()
    os._exit(0)
os.waitpid(child, 0)
until(4)
";
    let outcome = program(code);
    assert_eq!(
        lines(&outcome),
        [
            "probe ok",
            "invalid EINVAL",
            "terminate ok",
            "ended -15",
            "zombie ok",
            "abort -6",
            "raise ok",
            "self ok",
            "thread ok",
            "tkill ok",
            "tgkill ok",
            "cancel 0",
            "cancelled -1",
            "orphan ok",
            "parent ok"
        ]
    );
    assert_eq!(outcome.report.violations, []);
    let outcome = program("os.abort()");
    assert_eq!(outcome.report.ended, Ended::Signaled { signal: 6 });
}

#[test]
fn nobody_outside_is_reached() {
    if !is_prepared() {
        return;
    }
    // Of the program's own user.
    let mut victim = Command::new("sleep").arg("60").spawn().unwrap();
    let (pid, caller) = (victim.id(), std::process::id());
    let code = format!(
        "
for name, pid in [('victim', {pid}), ('caller', {caller}), ('supervisor', os.getppid()),
                  ('first', 1), ('nobody', 4194303), ('beyond', 2**31 - 1),
                  ('all', -1), ('group', -{pid}), ('own group', -os.getpgrp()), ('least', -2**31)]:
    attempt(name, lambda: os.kill(pid, 0))
    attempt(name, lambda: os.kill(pid, 9))
    attempt(name, lambda: call(TGKILL, pid, pid, 9))
    attempt(name, lambda: call(TKILL, pid, 9))
attempt('low half', lambda: call(KILL, ctypes.c_ulong(7 << 32 | {pid}), 9))
info = (ctypes.c_int * 32)(9, 0, -1)
attempt('queue', lambda: call(QUEUE, {pid}, 9, info))
attempt('queue', lambda: call(THREAD_QUEUE, {pid}, {pid}, 9, info))
attempt('queue', lambda: call(QUEUE, os.getpid(), 9, info))
attempt('descriptor', lambda: call(DESCRIPTOR, os.pidfd_open({pid}), 9, None, 0))
import fcntl
attempt('owner', lambda: fcntl.fcntl(0, fcntl.F_SETOWN, {pid}))
"
    );
    let outcome = program(&code);
    for line in lines(&outcome) {
        let mut refused = ["EPERM", "EINVAL", "ESRCH"].iter();
        assert!(refused.any(|errno| line.ends_with(errno)), "{line}");
    }
    let said = lines(&outcome);
    for name in [
        "victim",
        "caller",
        "supervisor",
        "first",
        "nobody",
        "beyond",
    ] {
        let errors: Vec<&str> = said
            .iter()
            .filter_map(|line| line.strip_prefix(name)?.split_whitespace().next())
            .collect();
        assert_eq!(errors, ["EPERM", "EPERM", "EPERM", "ESRCH"], "{name}");
    }
    assert_eq!(victim.try_wait().unwrap(), None);
    victim.kill().unwrap();
    victim.wait().unwrap();
    let named: Vec<&str> = outcome
        .report
        .violations
        .iter()
        .map(|violation| violation.operation.as_str())
        .collect();
    assert!(
        named.contains(&"kill") && named.contains(&"rt_sigqueueinfo"),
        "{named:?}"
    );
    assert!(
        !named.contains(&"tgkill") && !named.contains(&"tkill"),
        "{named:?}"
    );
}

#[test]
fn a_flood_of_signals_delays_no_limit() {
    if !is_prepared() {
        return;
    }
    let code = "
child = os.fork()
if child == 0:
    while True: time.sleep(1000)
def flood():
    while True: os.kill(child, 0)
for _ in range(8): threading.Thread(target=flood).start()
";
    let mut spec = python(&format!("{PRELUDE}{code}"), Namespaces::Off);
    spec.limits.wall = Some(Duration::from_millis(700));
    let outcome = run(spec);
    assert_eq!(outcome.report.ended, Ended::TimedOut);
    assert!(outcome.report.wall < Duration::from_secs(5));
}
