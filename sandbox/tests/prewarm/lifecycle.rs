//! The pool itself: what it serves, what it replaces, how it ends and with whom.

use crate::common::{MODES, file, finish, host_directories, kill, run_with};
use crate::{alone, pool, script};
use ringfence_sandbox::{Interpreter, Namespaces, Pool, PoolError, Spec};
use std::io::{BufRead as _, BufReader};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

#[test]
fn what_the_pool_is_not_made_for_takes_the_ordinary_way() {
    let _guard = alone();
    let mode = Namespaces::Auto;
    let pool = pool(mode, 1, |_| {});
    let refused = |what: &str, change: fn(&mut Spec)| {
        let mut spec = script("print(1)", mode);
        change(&mut spec);
        assert!(pool.take(&spec).is_none(), "{what}");
    };
    refused("a variable", |spec| spec.env.push(("A".into(), "b".into())));
    refused("a limit", |spec| spec.limits.wall = None);
    refused("another program", |spec| spec.program = "python".into());
    refused("an option", |spec| spec.args.insert(0, "-u".into()));
    refused("other isolation", |spec| spec.namespaces = Namespaces::Off);
    refused("the workspace afterwards", |spec| spec.collect = true);
    refused("a large file", |spec| {
        spec.files.push(file("x", 0o644, &vec![0; 2 << 20]));
    });
    refused("a program file", |spec| {
        spec.files.push(file("x", 0o755, b""));
    });
    // Found out by the interpreter, before any code has run.
    refused("a file in a file", |spec| {
        spec.files.push(file("x", 0o644, b""));
        spec.files.push(file("x/y", 0o644, b""));
    });
}

#[test]
fn many_at_once() {
    let _guard = alone();
    let mode = Namespaces::Auto;
    let pool = pool(mode, 4, |_| {});
    let (next, warm) = (AtomicUsize::new(0), AtomicUsize::new(0));
    thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    if number >= 200 {
                        break;
                    }
                    let spec = script(&format!("print({number} * 3)"), mode);
                    let outcome = match pool.take(&spec) {
                        Some(running) => {
                            warm.fetch_add(1, Ordering::Relaxed);
                            finish(running, vec![])
                        }
                        None => run_with(spec, vec![]),
                    };
                    assert_eq!(outcome.text(), (number * 3).to_string());
                }
            });
        }
    });
    assert!(warm.load(Ordering::Relaxed) >= 4);
    drop(pool);
    assert_eq!(children(), [""; 0]);
}

/// The processes that this process has started and not reaped.
fn children() -> Vec<String> {
    let mut found = Vec::new();
    for task in std::fs::read_dir("/proc/self/task").unwrap().flatten() {
        let list = std::fs::read_to_string(task.path().join("children")).unwrap_or_default();
        found.extend(list.split_whitespace().map(str::to_owned));
    }
    found
}

/// Process numbers of the interpreters that wait.
fn waiting() -> Vec<i32> {
    let mut found = Vec::new();
    for supervisor in children() {
        let list = format!("/proc/{supervisor}/task/{supervisor}/children");
        let list = std::fs::read_to_string(list).unwrap_or_default();
        found.extend(
            list.split_whitespace()
                .map(|pid| pid.parse::<i32>().unwrap()),
        );
    }
    found
}

#[test]
fn one_that_dies_while_it_waits_serves_nobody_and_is_replaced() {
    let _guard = alone();
    for mode in MODES {
        let pool = pool(mode, 3, |_| {});
        for round in 0..3 {
            for pid in waiting() {
                kill(pid);
            }
            // Nothing of it is seen, whether the pool has noticed yet or not.
            let spec = script("print(6*7)", mode);
            let outcome = match pool.take(&spec) {
                Some(running) => finish(running, vec![]),
                None => run_with(spec, vec![]),
            };
            assert_eq!(outcome.text(), "42", "{round}");
            pool.wait_until_full().unwrap();
        }
    }
}

#[test]
fn nothing_is_left() {
    let _guard = alone();
    for mode in MODES {
        let open = || std::fs::read_dir("/proc/self/fd").unwrap().count();
        let before = (open(), host_directories());
        let full = pool(mode, 3, |_| {});
        assert_eq!(waiting().len(), 3);
        drop(full);
        assert_eq!(children(), [""; 0]);
        // Also one that is not full yet.
        drop(Pool::new(Interpreter::PYTHON, Spec::new("python3"), 3).unwrap());
        assert_eq!(children(), [""; 0]);
        assert_eq!((open(), host_directories()), before);
    }
}

/// Not a test of its own: the caller that the next test kills.
#[test]
fn helper_caller() {
    let Ok(mode) = std::env::var("RINGFENCE_TEST_POOL") else {
        return;
    };
    let mode = if mode == "Auto" {
        Namespaces::Auto
    } else {
        Namespaces::Off
    };
    let pool = pool(mode, 2, |_| {});
    println!("\nready {:?}", waiting());
    // Until this process is killed.
    let spec = script("import time; time.sleep(600)", mode);
    drop(finish(pool.take(&spec).unwrap(), vec![]));
}

#[test]
fn a_killed_caller_takes_the_pool_with_it() {
    let _guard = alone();
    for mode in MODES {
        let home = tempfile::tempdir().unwrap();
        let mut caller = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "lifecycle::helper_caller", "--nocapture"])
            .env("RINGFENCE_TEST_POOL", format!("{mode:?}"))
            .env("TMPDIR", home.path())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(caller.stdout.take().unwrap()).lines();
        let ready = lines.find_map(|line| Some(line.ok()?.strip_prefix("ready ")?.to_owned()));
        let ready = ready.unwrap();
        let pids = ready.trim_matches(['[', ']']).split(", ");
        let pids: Vec<i32> = pids.map(|pid| pid.parse().unwrap()).collect();
        assert_eq!(pids.len(), 2);
        let ends = pids.iter().map(|pid| open_process(*pid));
        let mut ends: Vec<libc::pollfd> = ends.collect();
        caller.kill().unwrap();
        caller.wait().unwrap();
        for end in &mut ends {
            #[expect(
                unsafe_code,
                reason = "the standard library waits for own children only"
            )]
            // SAFETY: one entry, which outlives the call.
            let ended = unsafe { libc::poll(end, 1, 20_000) };
            assert_eq!(ended, 1, "{mode:?}");
        }
    }
}

/// What to wait for, for the end of another's process.
#[expect(unsafe_code, reason = "the standard library opens no processes")]
fn open_process(pid: i32) -> libc::pollfd {
    // SAFETY: takes no pointers.
    let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) };
    libc::pollfd {
        fd: i32::try_from(fd).unwrap(),
        events: libc::POLLIN,
        revents: 0,
    }
}

#[test]
#[expect(unsafe_code, reason = "the standard library does not fork")]
fn a_fork_has_no_part_in_it() {
    let _guard = alone();
    let full = pool(Namespaces::Auto, 1, |_| {});
    let spec = script("print(6*7)", Namespaces::Auto);
    // SAFETY: the new process allocates nothing and ends without any clean-up of this one's.
    let child = unsafe { libc::fork() };
    if child == 0 {
        let refused =
            full.take(&spec).is_none() && matches!(full.wait_until_full(), Err(PoolError::Forked));
        drop(full);
        // SAFETY: takes no pointers.
        unsafe { libc::_exit(if refused { 42 } else { 1 }) };
    }
    let mut status = 0;
    // SAFETY: the call writes one int, which outlives it.
    unsafe { libc::waitpid(child, &raw mut status, 0) };
    assert_eq!(libc::WEXITSTATUS(status), 42);
    // What waits has been left alone.
    assert_eq!(finish(full.take(&spec).unwrap(), vec![]).text(), "42");
}

#[test]
fn a_pool_that_cannot_start_says_why() {
    let _guard = alone();
    let mut template = Spec::new("python3");
    template
        .env
        .push(("PYTHONHOME".into(), "/nonexistent".into()));
    let pool = Pool::new(Interpreter::PYTHON, template, 2).unwrap();
    for _ in 0..2 {
        let PoolError::NotStarted { why, .. } = pool.wait_until_full().unwrap_err() else {
            unreachable!()
        };
        assert!(why.contains("ended before it was ready"), "{why}");
    }
    let mut spec = script("print(1)", Namespaces::Auto);
    spec.env.push(("PYTHONHOME".into(), "/nonexistent".into()));
    assert!(pool.take(&spec).is_none());
}
