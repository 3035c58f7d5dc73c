//! Limits: each is hit, named, and leaves nothing behind; extremes do no harm.
#![cfg(target_os = "linux")]

mod common;

use common::{
    MODES, file, is_root, processes_with, python, run, run_with, shell, skipped, spec,
    unique_seconds,
};
use ringfence_sandbox::{Ended, Layer, Limits, Namespaces, SpawnError, spawn};
use std::time::{Duration, Instant};

#[test]
fn wall_time_ends_a_sleeper() {
    for mode in MODES {
        let seconds = unique_seconds();
        let mut spec = spec("sleep", &[&seconds], mode);
        spec.limits.wall = Some(Duration::from_millis(300));
        let begin = Instant::now();
        let outcome = run(spec);
        assert_eq!(outcome.report.ended, Ended::TimedOut);
        assert!(outcome.report.wall >= Duration::from_millis(300));
        assert!(
            begin.elapsed() < Duration::from_secs(20),
            "{:?}",
            begin.elapsed()
        );
        assert_eq!(processes_with(&seconds), []);
    }
}

#[test]
fn a_fork_bomb_ends_and_leaves_nothing() {
    for mode in MODES {
        let marker = unique_seconds();
        let script = format!("bomb() {{ : {marker}; bomb | bomb & }}; bomb; sleep 60");
        let mut bomb = shell(&script, mode);
        bomb.limits.wall = Some(Duration::from_secs(1));
        bomb.limits.processes = Some(64);
        let outcome = run(bomb);
        assert_eq!(outcome.report.ended, Ended::TimedOut);
        assert_eq!(processes_with(&marker), []);
    }
}

#[test]
fn a_bomb_of_daemons_ends_too() {
    let code = "
import os, sys
marker = sys.argv[1]
while True:
    try:
        if os.fork() == 0:
            os.setsid()
            if os.fork(): os._exit(0)
    except OSError: pass
";
    for mode in MODES {
        let marker = unique_seconds();
        let mut bomb = python(code, mode);
        bomb.args.push(marker.as_str().into());
        bomb.limits.wall = Some(Duration::from_secs(1));
        bomb.limits.processes = Some(50);
        let outcome = run(bomb);
        assert_eq!(outcome.report.ended, Ended::TimedOut);
        assert_eq!(processes_with(&marker), []);
    }
}

#[test]
fn the_number_of_processes_is_bounded() {
    let code = "
import os, time
count = 1
try:
    while True:
        if os.fork() == 0: time.sleep(60); os._exit(0)
        count += 1
except OSError as error: print(count, error.errno)
";
    for mode in MODES {
        let mut spec = python(code, mode);
        spec.limits.processes = Some(20);
        let outcome = run(spec);
        assert_eq!(outcome.code(), 0, "{}", outcome.errors());
        let text = outcome.text();
        let (count, errno) = text.split_once(' ').unwrap();
        assert_eq!(errno, "11");
        let count: u32 = count.parse().unwrap();
        // Where processes are counted by user alone, others of that user come and go meanwhile.
        assert!((10..=30).contains(&count), "{count}");
        if mode == Namespaces::Auto {
            assert_eq!(count, 20);
        }
    }
}

#[test]
fn cpu_time_ends_a_spinner_but_not_a_sleeper() {
    for mode in MODES {
        let mut spinner = shell("while :; do :; done", mode);
        spinner.limits.cpu = Some(Duration::from_millis(300));
        let outcome = run(spinner);
        assert_eq!(outcome.report.ended, Ended::CpuExceeded);
        let cpu = outcome.report.cpu;
        assert!(
            cpu >= Duration::from_millis(250) && cpu < Duration::from_secs(3),
            "{cpu:?}"
        );
        let mut sleeper = spec("sleep", &["0.5"], mode);
        sleeper.limits.cpu = Some(Duration::from_millis(300));
        assert_eq!(run(sleeper).code(), 0);
    }
}

/// The kernel takes the counter from who executes a file that may not be read.
#[test]
fn cpu_time_of_a_file_that_may_only_be_executed_counts() {
    let script = "cp /bin/sh hidden; chmod 111 hidden; for i in 1 2 3 4 5 6 7 8; do
        ./hidden -c 'i=0; while [ $i -lt 600000 ]; do i=$((i+1)); done'
    done";
    for mode in MODES {
        let mut spec = shell(script, mode);
        spec.limits.cpu = Some(Duration::from_secs(1));
        let report = run(spec).report;
        assert_eq!(report.ended, Ended::CpuExceeded, "{mode:?} {report:?}");
        assert!(report.cpu < Duration::from_secs(4), "{report:?}");
    }
}

/// Of the kernel's own memory and of what it gives each user a few of.
#[test]
fn what_no_limit_counts_is_refused_or_bounded() {
    let code = "
import ctypes, errno, os, platform
libc = ctypes.CDLL(None, use_errno=True)
libc.mmap.restype = ctypes.c_void_p
def call(name, *args):
    answer = getattr(libc, name)(*args)
    failed = answer in (-1, ctypes.c_void_p(-1).value)
    print(name, args[0], errno.errorcode[ctypes.get_errno()] if failed else 'ok')
call('prctl', 78, 1, ctypes.c_ulong(1 << 24), 0, 0)
call('prctl', 62, 1, 0, 0, 0)
call('prctl', 15, b'name', 0, 0, 0)
for flags in 0x40000, 0x100, 0:
    call('mmap', None, ctypes.c_size_t(1 << 21), 3, 0x22 | flags, -1, ctypes.c_long(0))
call('memfd_create', b'x', 4)
call('memfd_create', b'x', 0)
call('fcntl', 0, 1040, 0)
instances = 0
while instances < 1000 and libc.inotify_init1(0) >= 0: instances += 1
print('instances', instances)
sets = 0
while sets < 1000 and libc.semget(0, 1000, 0o1600) >= 0: sets += 1
print('sets', sets)
";
    for mode in MODES {
        let mut spec = python(code, mode);
        spec.limits.open_files = Some(2000);
        let outcome = run(spec);
        let text = outcome.text();
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(
            lines.get(..9).unwrap_or_default(),
            [
                "prctl 78 EPERM",
                "prctl 62 EPERM",
                "prctl 15 ok",
                "mmap None EPERM",
                "mmap None EPERM",
                "mmap None ok",
                "memfd_create b'x' EPERM",
                "memfd_create b'x' ok",
                "fcntl 0 EPERM",
            ],
            "{text} {}",
            outcome.errors()
        );
        let most = |name: &str| -> u32 {
            let line = lines.iter().find_map(|line| line.strip_prefix(name));
            line.unwrap().trim().parse().unwrap()
        };
        // Root's sandboxes have users of their own.
        assert!(
            most("instances") <= if is_root() { 128 } else { 32 },
            "{text}"
        );
        // With a control group they count as memory.
        if is_root() && !outcome.has(Layer::Cgroup) {
            assert!(most("sets") <= 32, "{text}");
        }
    }
}

/// Nothing bounds a workspace on the host as a whole.
#[test]
fn no_file_is_larger_than_the_workspace_may_be() {
    let mut spec = shell("exec head -c 4000000 /dev/zero > file", Namespaces::Off);
    spec.limits.workspace = Some(1 << 20);
    spec.limits.file_size = None;
    let report = run(spec).report;
    assert_eq!(report.ended, Ended::Signaled { signal: 25 }, "{report:?}");
    let named = report
        .violations
        .iter()
        .map(|violation| &*violation.operation);
    assert_eq!(named.collect::<Vec<_>>(), ["file size"]);
}

/// Several spinners get no more than one processor's worth of time, or do not start.
/// The kernel tells the times of children when somebody waits for them, and nobody has to.
#[test]
fn cpu_time_of_children_that_nobody_waits_for_counts() {
    let level = std::fs::read_to_string("/proc/sys/kernel/perf_event_paranoid");
    let level = level.map_or(0, |text| text.trim().parse().unwrap_or(0));
    if level > 2 && !is_root() {
        return skipped("kernel.perf_event_paranoid lets nobody but root count");
    }
    let code = "
import os, signal, time
signal.signal(signal.SIGCHLD, signal.SIG_IGN)
for _ in range(100):
    if os.fork() == 0:
        end = time.process_time() + 0.2
        while time.process_time() < end: pass
        os._exit(0)
    try: os.wait()
    except ChildProcessError: pass
";
    for mode in MODES {
        let mut spec = python(code, mode);
        spec.limits.cpu = Some(Duration::from_secs(1));
        spec.limits.wall = Some(Duration::from_secs(60));
        let report = run(spec).report;
        assert_eq!(report.ended, Ended::CpuExceeded, "{mode:?} {report:?}");
        // Of a process that reaches the limit by itself the kernel counts whole ticks.
        assert!(report.cpu >= Duration::from_millis(900), "{report:?}");
        assert!(report.cpu < Duration::from_secs(4), "{report:?}");
    }
}

#[test]
fn processors_are_bounded_or_nothing_runs() {
    let code = "
import os, time
end = time.monotonic() + 1
for _ in range(3):
    if os.fork() == 0: break
while time.monotonic() < end: pass
";
    for mode in MODES {
        let mut spinners = python(code, mode);
        spinners.limits.processors = Some(1);
        match spawn(spinners) {
            Ok(running) => {
                let report = common::finish(running, Vec::new()).report;
                assert_eq!(report.ended, Ended::Exited { code: 0 });
                let most = report.wall + Duration::from_millis(200);
                assert!(report.cpu <= most, "{report:?}");
            }
            Err(error) => {
                assert!(matches!(
                    error,
                    SpawnError::ProcessorsUnbounded { count: 1, .. }
                ));
                let text = error.failure().message;
                for part in [
                    "to 1 of this machine's processors",
                    "isolation vm",
                    "--cpus",
                ] {
                    assert!(text.contains(part), "{text}");
                }
            }
        }
        let mut all = shell("echo all", mode);
        all.limits.processors = Some(u8::MAX);
        assert_eq!(run(all).text(), "all");
        let mut none = shell("true", mode);
        none.limits.processors = Some(0);
        assert!(matches!(spawn(none), Err(SpawnError::InvalidInput { .. })));
    }
}

#[test]
fn memory_is_bounded() {
    let code = "
try:
    x = bytearray(512 << 20)
    print('allocated')
except MemoryError:
    print('refused')
";
    for mode in MODES {
        let mut spec = python(code, mode);
        spec.limits.memory = Some(128 << 20);
        let outcome = run(spec);
        let refused = outcome.text() == "refused";
        assert!(
            refused || outcome.report.ended == Ended::MemoryExceeded,
            "{outcome:?}"
        );
    }
}

/// A segment outlives whoever made it, so the limits of processes do not see it.
#[test]
fn shared_segments_are_bounded_like_memory() {
    let code = "
import ctypes, errno
libc = ctypes.CDLL(None, use_errno=True)
made = [libc.shmget(0, 16 << 20, 0o1600) for _ in range(8)]
print(len([one for one in made if one >= 0]), errno.errorcode.get(ctypes.get_errno()))
queues = [libc.msgget(0, 0o1600) for _ in range(100)]
print(len([one for one in queues if one >= 0]))
";
    let mut spec = python(code, Namespaces::Auto);
    spec.limits.memory = Some(64 << 20);
    let outcome = run(spec);
    let text = outcome.text();
    match (outcome.has(Layer::IpcNs), outcome.has(Layer::Cgroup)) {
        (false, _) => assert!(text.starts_with("0 EPERM"), "{text}"),
        (true, false) if is_root() => assert_eq!(text, "4 ENOSPC\n64"),
        // What is held is counted when it is used; or the settings are the machine's root's.
        (true, _) => {}
    }
}

#[test]
fn files_and_descriptors_are_bounded() {
    for mode in MODES {
        let mut spec = shell("head -c 100000 /dev/zero >f; echo $? $(wc -c <f)", mode);
        spec.limits.file_size = Some(4096);
        let outcome = run(spec);
        assert!(outcome.text().ends_with(" 4096"), "{outcome:?}");
        let mut spec = shell("ulimit -n", mode);
        spec.limits.open_files = Some(17);
        assert_eq!(run(spec).text(), "17");
    }
}

#[test]
fn the_workspace_is_bounded_where_it_is_a_file_system_of_its_own() {
    let mut full = shell(
        "head -c 3000000 /dev/zero >a; head -c 3000000 /dev/zero >/tmp/b; stat -c %s a /tmp/b",
        Namespaces::Auto,
    );
    full.limits.workspace = Some(4 << 20);
    let outcome = run(full);
    let sizes: u64 = outcome
        .text()
        .lines()
        .map(|line| line.parse::<u64>().unwrap())
        .sum();
    if outcome.has(Layer::MountNs) {
        assert!(
            sizes <= 4 << 20 && outcome.errors().contains("No space"),
            "{sizes}"
        );
        let mut none = shell("head -c 1 /dev/zero >a", Namespaces::Auto);
        none.limits.workspace = Some(0);
        assert!(run(none).errors().contains("No space"));
    }
    let mut small = shell("true", Namespaces::Auto);
    small.limits.workspace = Some(3);
    small.files = vec![file("f", 0o644, b"four")];
    assert!(matches!(spawn(small), Err(SpawnError::InvalidInput { .. })));
}

#[test]
fn zero_is_hit_at_once_and_named() {
    type Change = fn(&mut Limits);
    let cases: [(Change, Ended); 4] = [
        (|limits| limits.wall = Some(Duration::ZERO), Ended::TimedOut),
        (
            |limits| limits.cpu = Some(Duration::ZERO),
            Ended::CpuExceeded,
        ),
        (|limits| limits.memory = Some(0), Ended::MemoryExceeded),
        (|limits| limits.processes = Some(0), Ended::Killed),
    ];
    for mode in MODES {
        for (change, expected) in cases {
            let mut spec = spec("sleep", &["60"], mode);
            change(&mut spec.limits);
            let outcome = run_with(spec, b"input".to_vec());
            assert_eq!(outcome.report.ended, expected);
        }
        // The program starts and learns it by itself.
        let mut files = shell("true", mode);
        files.limits.open_files = Some(0);
        assert!(matches!(
            run(files).report.ended,
            Ended::Exited { .. } | Ended::Signaled { .. }
        ));
        let mut size = shell("echo x >f", mode);
        size.limits.file_size = Some(0);
        let report = run(size).report;
        assert_ne!(report.ended, Ended::Exited { code: 0 });
    }
}

#[test]
fn the_largest_values_are_no_limit() {
    for mode in MODES {
        let mut spec = shell("echo x >f && cat f", mode);
        spec.limits = Limits {
            wall: Some(Duration::MAX),
            cpu: Some(Duration::MAX),
            memory: Some(u64::MAX),
            processes: Some(u64::MAX),
            open_files: Some(u64::MAX),
            file_size: Some(u64::MAX),
            workspace: Some(u64::MAX),
            output: Some(u64::MAX),
            processors: Some(u8::MAX),
        };
        assert_eq!(run(spec).text(), "x");
        let mut spec = shell("echo x >f && cat f", mode);
        spec.limits = Limits {
            wall: None,
            cpu: None,
            memory: None,
            processes: None,
            open_files: None,
            file_size: None,
            workspace: None,
            output: None,
            processors: None,
        };
        assert_eq!(run(spec).text(), "x");
    }
}

/// Where the machine runs out of memory the program goes first, and the caller, whose memory it shares
/// before it executes, no sooner than before.
#[test]
fn the_program_goes_before_the_caller() {
    let own = || std::fs::read_to_string("/proc/self/oom_score_adj").unwrap();
    let before = own();
    for mode in MODES {
        let outcome = run(spec("cat", &["/proc/self/oom_score_adj"], mode));
        assert_eq!(outcome.text(), "1000", "{}", outcome.errors());
        assert_eq!(own(), before);
    }
}

#[test]
fn tiny_amounts_of_memory_end_with_a_name_or_a_status() {
    for mode in MODES {
        for bytes in [1, 4096, 200 << 10, 1 << 20, 3 << 19, 2 << 20] {
            let mut spec = shell("true", mode);
            spec.limits.memory = Some(bytes);
            match spawn(spec) {
                Ok(running) => {
                    let report = common::finish(running, Vec::new()).report;
                    assert_ne!(report.ended, Ended::TimedOut, "{bytes}");
                }
                Err(SpawnError::InvalidInput { what }) => {
                    assert!(what.contains("not enough memory"), "{what}");
                }
                Err(error) => panic!("{error:?}"),
            }
        }
    }
}

#[test]
fn everything_is_limited_for_an_unprivileged_caller_too() {
    common::repeat_unprivileged(&["everything_is_limited_for_an_unprivileged_caller_too"]);
}
