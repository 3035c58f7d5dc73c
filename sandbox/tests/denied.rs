//! Sandboxes in surroundings that deny something: a container's filter that has the only listener,
//! or that forbids mounts. The filter is put around a thread, from which the sandbox is started.
#![cfg(target_os = "linux")]
#![expect(
    clippy::unwrap_used,
    unsafe_code,
    reason = "a test stops where it is surprised, and installs a filter that no crate can"
)]

mod common;

use common::{Outcome, finish, is_root, python, run, skipped};
use ringfence_sandbox::{Ended, Layer, LayerStatus, Namespaces, probe, spawn};
use std::io::Read as _;
use std::os::fd::{FromRawFd as _, OwnedFd};
use std::process::Command;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

const CHANGES: &str = "
import errno, os, socket, sys, threading
def attempt(name, function):
    try: function(); print(name, 'ok')
    except OSError as error: print(name, errno.errorcode[error.errno])
open('file', 'w').close()
attempt('chmod', lambda: os.chmod('file', 0o600))
attempt('utime', lambda: os.utime(os.path.abspath('file')))
attempt('descriptor', lambda: os.fchmod(os.open('file', os.O_RDONLY), 0o640))
attempt('outside', lambda: os.chmod('/usr/bin/env', 0o755))
attempt('socket', lambda: socket.socket(socket.AF_INET))
def connect():
    server = socket.socket(socket.AF_UNIX); server.bind('own'); server.listen()
    socket.socket(socket.AF_UNIX).connect('own')
attempt('connect', connect)
thread = threading.Thread(target=lambda: attempt('thread', lambda: os.chmod('file', 0o600)))
thread.start(); thread.join()
";

/// A filter that answers one call with `EPERM`, and lets everything else through.
fn filter(denied: libc::c_long) -> [libc::sock_filter; 4] {
    let step = |code: u32, jt, jf, k| libc::sock_filter {
        code: code.try_into().unwrap(),
        jt,
        jf,
        k,
    };
    let refuse = libc::SECCOMP_RET_ERRNO | libc::EPERM.unsigned_abs();
    [
        step(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, 0, 0),
        step(
            libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K,
            0,
            1,
            denied.try_into().unwrap(),
        ),
        step(libc::BPF_RET | libc::BPF_K, 0, 0, refuse),
        step(libc::BPF_RET | libc::BPF_K, 0, 0, libc::SECCOMP_RET_ALLOW),
    ]
}

/// Puts a filter around this thread. Gives what the kernel says.
fn surround(mut filter: [libc::sock_filter; 4], flags: libc::c_ulong) -> libc::c_long {
    let header = libc::sock_fprog {
        len: filter.len().try_into().unwrap(),
        filter: filter.as_mut_ptr(),
    };
    let mode = libc::SECCOMP_SET_MODE_FILTER;
    // SAFETY: takes no pointers.
    let set = unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) };
    assert_eq!(set, 0);
    // SAFETY: the kernel reads the header and as many instructions as it says.
    let result = unsafe { libc::syscall(libc::SYS_seccomp, mode, flags, &raw const header) };
    assert!(result >= 0);
    result
}

fn answers(outcome: &Outcome) -> Vec<String> {
    assert_eq!(outcome.code(), 0, "{}", outcome.errors());
    outcome.text().lines().map(str::to_owned).collect()
}

fn why_no_mounts(outcome: &Outcome) -> String {
    let layers = outcome.report.layers.iter();
    let mut found = layers.filter(|state| state.layer == Layer::MountNs);
    match &found.next().unwrap().status {
        LayerStatus::Missing { why } => why.clone(),
        LayerStatus::Active => String::new(),
    }
}

#[test]
fn without_a_listener_the_calls_are_refused_and_the_report_says_so() {
    let outcome = thread::spawn(|| {
        let listener = surround(
            filter(libc::SYS_reboot),
            libc::SECCOMP_FILTER_FLAG_NEW_LISTENER,
        );
        // SAFETY: the kernel has just made this descriptor.
        let _listener = unsafe { OwnedFd::from_raw_fd(listener.try_into().unwrap()) };
        run(python(CHANGES, Namespaces::Off))
    });
    let outcome = outcome.join().unwrap();
    assert_eq!(
        answers(&outcome),
        [
            "chmod EPERM",
            "utime EPERM",
            "descriptor EPERM",
            "outside EPERM",
            "socket EPERM",
            "connect EPERM",
            "thread EPERM"
        ]
    );
    let why = why_no_mounts(&outcome);
    assert!(
        why.contains("no notifications") && why.contains("busy"),
        "{why}"
    );
    // Nobody could take note of it.
    assert_eq!(outcome.report.violations, []);
}

#[test]
fn without_mounts_but_with_own_process_numbers_the_right_process_is_looked_at() {
    if !is_root() {
        return skipped("only root has a process namespace without a mount namespace");
    }
    let outcome = thread::spawn(|| {
        surround(filter(libc::SYS_mount), 0);
        run(python(CHANGES, Namespaces::Auto))
    });
    let outcome = outcome.join().unwrap();
    assert!(
        outcome.has(Layer::PidNs) && !outcome.has(Layer::MountNs),
        "{:?}",
        outcome.report
    );
    assert_eq!(
        answers(&outcome),
        [
            "chmod ok",
            "utime ok",
            "descriptor ok",
            "outside EPERM",
            "socket EPERM",
            "connect ok",
            "thread ok"
        ]
    );
    assert!(!why_no_mounts(&outcome).contains("notifications"));
}

/// Set for a run in surroundings that root has prepared.
const PREPARED: &str = "RINGFENCE_TEST_PREPARED";

/// Repeats a test as an ordinary user, in a mount namespace of its own in which this was done.
fn repeat_with_mounts(mounts: &str, test: &str) {
    if !is_root() || !common::exists("/usr/bin/setpriv") {
        return skipped("only root can mount for setpriv");
    }
    let home = common::open_directory(&std::env::temp_dir());
    let copy = common::copy_of_tests(home.path());
    let script = format!(
        "{mounts} && exec setpriv --reuid 65534 --regid 65534 --clear-groups -- \"$0\" --exact \
         {test} --nocapture"
    );
    let mut tests = Command::new("unshare");
    tests
        .args(["-m", "sh", "-c", &script])
        .arg(&copy)
        .env(PREPARED, home.path());
    let text = common::passes(&mut tests, home.path());
    assert!(text.contains("1 passed"), "{text}");
}

#[test]
fn a_proc_that_is_refused_is_told() {
    if std::env::var_os(PREPARED).is_some() {
        return a_covered_proc();
    }
    if !common::exists("/proc/tty") {
        return skipped("there is nothing to cover");
    }
    repeat_with_mounts(
        "mount -t tmpfs none /proc/tty",
        "a_proc_that_is_refused_is_told",
    );
}

fn a_covered_proc() {
    let outcome = run(common::shell(
        "echo /proc/*; cd /workspace",
        Namespaces::Auto,
    ));
    if !outcome.has(Layer::UserNs) {
        return skipped("no user namespaces here");
    }
    assert_eq!(outcome.text(), "/proc/*", "{}", outcome.errors());
    assert!(outcome.has(Layer::MountNs) && outcome.has(Layer::PidNs));
    let told = |layers: &[ringfence_sandbox::LayerState]| {
        let layers = layers.iter().filter(|state| state.layer == Layer::MountNs);
        let whys = layers.filter_map(|state| match &state.status {
            LayerStatus::Missing { why } => Some(why.clone()),
            LayerStatus::Active => None,
        });
        whys.collect::<Vec<_>>()
    };
    let mut whole = common::shell("true", Namespaces::Auto);
    whole.require.push(Layer::MountNs);
    let refused = spawn(whole).unwrap_err().to_string();
    assert!(refused.contains("/proc"), "{refused}");
    let [why] = told(&outcome.report.layers).try_into().unwrap();
    assert!(
        why.contains("/proc is empty") && why.contains("not permitted"),
        "{why}"
    );
    assert_eq!(told(&probe()), [why]);
}

/// As in containers, whose filter refuses the counter: what the first process has waited for counts.
#[test]
fn without_a_counter_the_cpu_time_of_children_counts() {
    let script = "for i in 1 2 3 4 5 6 7 8; do
        python3 -c 'import time
while time.process_time() < 0.6: pass'
    done";
    for mode in common::MODES {
        let outcome = thread::spawn(move || {
            surround(filter(libc::SYS_perf_event_open), 0);
            let mut spec = common::shell(script, mode);
            spec.limits.cpu = Some(Duration::from_secs(1));
            run(spec)
        });
        let report = outcome.join().unwrap().report;
        assert_eq!(report.ended, Ended::CpuExceeded, "{report:?}");
        assert!(report.cpu < Duration::from_secs(4), "{report:?}");
    }
}

/// `/proc` hides processes that do not let themselves be looked at, also from the supervisor.
#[test]
fn hidden_processes_end_with_the_others() {
    const TEST: &str = "hidden_processes_end_with_the_others";
    if std::env::var_os(PREPARED).is_some() {
        return hidden_processes();
    }
    for hidden in ["1", "2", "4"] {
        let mount = format!("mount -t proc -o hidepid={hidden} proc /proc");
        repeat_with_mounts(&mount, TEST);
    }
}

fn hidden_processes() {
    // Each in a session of its own, some below others, some visible ones below hidden ones, and some
    // that fork without end.
    let code = "
import ctypes, os, time
ctypes.CDLL(None).prctl(4, 0, 0, 0, 0)
first = os.getpid()
for _ in range(2):
    for _ in range(2):
        if os.fork() == 0:
            os.setsid()
            if os.fork() == 0: os.execl('/bin/sleep', 'sleep', '1000')
            break
for _ in range(4 if os.getpid() == first else 0):
    if os.fork() == 0:
        os.setsid()
        while True:
            if os.fork(): os._exit(0)
if os.getpid() == first: print('up', flush=True)
time.sleep(1000)
";
    let mut running = spawn(python(code, Namespaces::Off)).unwrap();
    let mut up = [0; 3];
    running
        .stdout
        .as_mut()
        .unwrap()
        .read_exact(&mut up)
        .unwrap();
    running.killer().kill(Ended::Killed);
    let (sender, receiver) = mpsc::channel();
    thread::spawn(move || sender.send(finish(running, Vec::new())).is_ok());
    // The output ends with the last process that has it.
    let outcome = receiver.recv_timeout(common::MINUTE / 2).unwrap();
    assert_eq!(outcome.report.ended, Ended::Killed);
}

#[test]
fn without_a_listener_no_signal_leaves_the_process_group() {
    const TEST: &str = "without_a_listener_no_signal_leaves_the_process_group";
    if std::env::var_os(PREPARED).is_none() {
        if !cfg!(debug_assertions) {
            return skipped("this build has no older Landlock");
        }
        return repeat_with_mounts("export RINGFENCE_TEST_LANDLOCK=4", TEST);
    }
    let code = "sleep 1000 & kill $! || echo refused; trap 'echo trapped' USR1; kill -USR1 0; \
                kill -9 0";
    let outcome = thread::spawn(|| {
        let listener = surround(
            filter(libc::SYS_reboot),
            libc::SECCOMP_FILTER_FLAG_NEW_LISTENER,
        );
        // SAFETY: the kernel has just made this descriptor.
        let _listener = unsafe { OwnedFd::from_raw_fd(listener.try_into().unwrap()) };
        run(common::shell(code, Namespaces::Off))
    });
    let outcome = outcome.join().unwrap();
    assert_eq!(outcome.text(), "refused\ntrapped", "{}", outcome.errors());
    let layers = outcome.report.layers.iter();
    let mut found = layers.filter(|state| state.layer == Layer::PidNs);
    let LayerStatus::Missing { why } = &found.next().unwrap().status else {
        return assert!(!outcome.has(Layer::PidNs));
    };
    assert!(why.contains("signals") && why.contains("busy"), "{why}");
}
