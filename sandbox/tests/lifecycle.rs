//! Nothing survives: not the end of the program, not the end of the caller, not five hundred runs.
#![cfg(target_os = "linux")]
#![expect(clippy::unwrap_used, reason = "a test stops where it is surprised")]

mod common;

use common::{
    MODES, finish, host_directories, kill, processes_with, run, shell, spec, unique_seconds,
};
use ringfence_sandbox::{Ended, Namespaces, spawn};
use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::time::{Duration, Instant};

/// Tests that count what this process has open run alone.
static ALONE: Mutex<()> = Mutex::new(());

fn alone() -> std::sync::MutexGuard<'static, ()> {
    ALONE
        .lock()
        .unwrap_or_else(std::sync::PoisonError::into_inner)
}

fn open_files() -> usize {
    fs::read_dir("/proc/self/fd").unwrap().count()
}

/// Waits for a condition that another process brings about, with the kernel's own events: a pidfd
/// is of no use for processes of strangers, so this looks again until a deadline.
fn eventually(mut done: impl FnMut() -> bool) -> bool {
    let deadline = Instant::now() + Duration::from_secs(20);
    while Instant::now() < deadline {
        if done() {
            return true;
        }
        std::thread::yield_now();
    }
    false
}

#[test]
fn descendants_end_with_the_first_process() {
    let _guard = alone();
    for mode in MODES {
        let marker = unique_seconds();
        let script = format!(
            "sleep {marker} & setsid sleep {marker} & (setsid sh -c 'sleep {marker} & exec sleep {marker}' &) ; \
             nohup sleep {marker} >/dev/null 2>&1 & echo started"
        );
        let outcome = run(shell(&script, mode));
        assert_eq!(outcome.text(), "started");
        assert_eq!(processes_with(&marker), []);
    }
}

#[test]
fn descendants_that_hold_the_streams_do_not_delay_the_end() {
    let _guard = alone();
    for mode in MODES {
        let begin = Instant::now();
        let marker = unique_seconds();
        let outcome = run(shell(&format!("setsid sleep {marker} & exit 0"), mode));
        assert_eq!(outcome.code(), 0);
        assert!(begin.elapsed() < Duration::from_secs(10));
        assert_eq!(processes_with(&marker), []);
    }
}

#[test]
fn dropping_kills() {
    let _guard = alone();
    for mode in MODES {
        let marker = unique_seconds();
        let mut running = spawn(shell(&format!("echo up; sleep {marker}"), mode)).unwrap();
        let mut up = [0; 3];
        running
            .stdout
            .as_mut()
            .unwrap()
            .read_exact(&mut up)
            .unwrap();
        drop(running);
        assert_eq!(processes_with(&marker), []);
        assert_eq!(host_directories(), Vec::<String>::new());
    }
}

#[test]
fn five_hundred_runs_leave_nothing() {
    let _guard = alone();
    for mode in MODES {
        run(shell("true", mode));
        let before = (open_files(), mounts(), children());
        for round in 0..250 {
            let outcome = run(shell(
                "echo x >f; mkdir -p a/b/c; chmod 0 a/b; echo $?",
                mode,
            ));
            assert_eq!(outcome.text(), "0", "round {round}: {}", outcome.errors());
        }
        // The harness opens files for a moment when it starts another test.
        assert!(eventually(|| before == (open_files(), mounts(), children())));
        assert_eq!(host_directories(), Vec::<String>::new());
    }
}

fn mounts() -> usize {
    fs::read_to_string("/proc/self/mountinfo")
        .unwrap()
        .lines()
        .filter(|line| line.contains("ringfence"))
        .count()
}

/// Children of this process, zombies included.
fn children() -> usize {
    let me = format!(" {} ", std::process::id());
    let entries = fs::read_dir("/proc").unwrap().flatten();
    let stats = entries.filter_map(|entry| fs::read_to_string(entry.path().join("stat")).ok());
    let fields = stats.filter_map(|stat| stat.rsplit_once(')').map(|(_, rest)| rest.to_owned()));
    fields
        .filter(|rest| rest.get(2..).is_some_and(|rest| rest.starts_with(&me)))
        .count()
}

#[test]
fn failures_leave_nothing() {
    let _guard = alone();
    for mode in MODES {
        let mut broken = spec("./run", &[], mode);
        broken.files = vec![common::file("run", 0o755, b"#!/does/not/exist\n")];
        assert!(spawn(broken).is_err());
        let before = (open_files(), children());
        for _ in 0..20 {
            let mut broken = spec("./run", &[], mode);
            broken.files = vec![common::file("run", 0o755, b"#!/does/not/exist\n")];
            assert!(spawn(broken).is_err());
            assert!(spawn(spec("no-such-program", &[], mode)).is_err());
        }
        assert!(eventually(|| before == (open_files(), children())));
        assert_eq!(host_directories(), Vec::<String>::new());
    }
}

#[test]
fn many_at_once_do_not_keep_each_other_alive() {
    let _guard = alone();
    for mode in MODES {
        let before = open_files();
        let outcomes: Vec<_> = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..32)
                .map(|index| {
                    scope.spawn(move || {
                        // Each reads to the end: a sibling that held the other end would hang it.
                        let mut cat = shell("cat; sleep 0.05", mode);
                        cat.stdin = ringfence_sandbox::Stdin::Piped;
                        // Without a user namespace the kernel counts all processes of an ordinary
                        // user: those of sandboxes that start later as well.
                        cat.limits.processes = Some(1024);
                        let running = spawn(cat).unwrap();
                        finish(running, format!("{index}").into_bytes())
                    })
                })
                .collect();
            threads
                .into_iter()
                .map(|thread| thread.join().unwrap())
                .collect()
        });
        for (index, outcome) in outcomes.iter().enumerate() {
            assert_eq!((outcome.code(), outcome.text()), (0, index.to_string()));
        }
        assert!(eventually(|| open_files() == before));
    }
}

/// Not a test of its own: the caller that the next test kills.
#[test]
fn helper_caller() {
    let Ok(mode) = std::env::var("RINGFENCE_TEST_CALLER") else {
        return;
    };
    let (mode, marker) = mode.split_once(' ').unwrap();
    let mode = if mode == "Auto" {
        Namespaces::Auto
    } else {
        Namespaces::Off
    };
    let script = format!("echo x >f; setsid sleep {marker} & echo up; sleep {marker}");
    let mut running = spawn(shell(&script, mode)).unwrap();
    let mut up = [0; 3];
    running
        .stdout
        .as_mut()
        .unwrap()
        .read_exact(&mut up)
        .unwrap();
    println!("\nready");
    let _ = running.wait();
}

#[test]
fn a_killed_caller_takes_everything_with_it() {
    let _guard = alone();
    for mode in MODES {
        let marker = unique_seconds();
        let home = tempfile::tempdir().unwrap();
        let mut caller = Command::new(std::env::current_exe().unwrap())
            .args([
                "--exact",
                "helper_caller",
                "--nocapture",
                "--test-threads",
                "1",
            ])
            .env("RINGFENCE_TEST_CALLER", format!("{mode:?} {marker}"))
            .env("TMPDIR", home.path())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(caller.stdout.take().unwrap()).lines();
        assert!(lines.map_while(Result::ok).any(|line| line == "ready"));
        assert!(processes_with(&marker).len() >= 2);
        caller.kill().unwrap();
        caller.wait().unwrap();
        assert!(
            eventually(|| processes_with(&marker).is_empty()),
            "{:?}",
            processes_with(&marker)
        );
        let left = || {
            let parents = fs::read_dir(home.path()).unwrap().flatten();
            parents
                .filter_map(|entry| fs::read_dir(entry.path()).ok())
                .flatten()
                .count()
        };
        assert!(eventually(|| left() == 0), "{} directories", left());
    }
}

#[test]
fn a_killed_supervisor_takes_the_program_with_it_and_is_reported() {
    let _guard = alone();
    if !common::is_root() {
        return common::skipped("the supervisor cannot be found by an unprivileged user");
    }
    for mode in MODES {
        let marker = unique_seconds();
        let mut running = spawn(shell(&format!("echo up; exec sleep {marker}"), mode)).unwrap();
        let mut up = [0; 3];
        running
            .stdout
            .as_mut()
            .unwrap()
            .read_exact(&mut up)
            .unwrap();
        assert!(eventually(|| processes_with(&marker).len() == 1));
        let program = processes_with(&marker)[0];
        let stat = fs::read_to_string(format!("/proc/{program}/stat")).unwrap();
        let supervisor = stat
            .rsplit_once(')')
            .unwrap()
            .1
            .split(' ')
            .nth(2)
            .unwrap()
            .to_owned();
        kill(supervisor.parse().unwrap());
        let error = running.wait().unwrap_err();
        assert!(error.to_string().contains("signal 9"), "{error}");
        assert!(eventually(|| processes_with(&marker).is_empty()));
        assert_eq!(host_directories(), Vec::<String>::new());
    }
}

#[test]
fn the_caller_s_own_children_are_left_alone() {
    let _guard = alone();
    let mut own = Command::new("sleep").arg("0.2").spawn().unwrap();
    let running = spawn(spec("true", &[], Namespaces::Auto)).unwrap();
    assert!(own.wait().unwrap().success());
    assert_eq!(
        finish(running, Vec::new()).report.ended,
        Ended::Exited { code: 0 }
    );
}

#[test]
fn nothing_survives_for_an_unprivileged_caller_either() {
    let _guard = alone();
    common::repeat_unprivileged(&["nothing_survives_for_an_unprivileged_caller_either"]);
}

#[test]
fn a_process_whose_first_thread_has_ended_ends_with_the_others() {
    let _guard = alone();
    let code = "
import ctypes, os, threading, time
threading.Thread(target=lambda: time.sleep(1000)).start()
ctypes.CDLL(None).syscall(93 if os.uname().machine == 'aarch64' else 60, 0)
";
    for mode in MODES {
        let mut spec = common::python(code, mode);
        spec.limits.wall = Some(Duration::from_millis(500));
        assert_eq!(run(spec).report.ended, Ended::TimedOut, "{mode:?}");
    }
}
