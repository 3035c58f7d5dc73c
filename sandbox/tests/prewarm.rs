//! An interpreter that was started ahead of its code gives what an ordinary one gives.
#![cfg(target_os = "linux")]
#![expect(clippy::unwrap_used, reason = "a test stops where it is surprised")]

mod common;

use common::{MODES, Outcome, file, finish, host_directories, repeat_unprivileged, run_with, spec};
use ringfence_sandbox::{Ended, Interpreter, Namespaces, Pool, PoolError, Spec, Stdin as Input};
use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

/// Each test looks at what the pool of this process leaves.
static ALONE: Mutex<()> = Mutex::new(());

fn alone() -> MutexGuard<'static, ()> {
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

fn script(code: &str, mode: Namespaces) -> Spec {
    let mut spec = spec("python3", &["main.py"], mode);
    spec.files = vec![file("main.py", 0o644, code.as_bytes())];
    spec
}

fn pool(mode: Namespaces, size: usize, change: impl Fn(&mut Spec)) -> Pool {
    let mut template = Spec::new("python3");
    template.namespaces = mode;
    change(&mut template);
    let pool = Pool::new(Interpreter::PYTHON, template, size).unwrap();
    pool.wait_until_full().unwrap();
    pool
}

/// Runs by the pool, which has to be ready for it.
fn served(pool: &Pool, mut spec: Spec, input: &[u8]) -> Outcome {
    pool.wait_until_full().unwrap();
    if !input.is_empty() {
        spec.stdin = Input::Piped;
    }
    finish(pool.take(&spec).unwrap(), input.to_vec())
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

/// Programs, what is on their standard input, and their arguments.
const PROGRAMS: &[(&str, &str, &[&str])] = &[
    ("print(6*7)", "", &[]),
    ("", "", &[]),
    ("1/0", "", &[]),
    ("def f():\n    raise ValueError('x')\n\nf()\n", "", &[]),
    (
        "try:\n    1/0\nexcept Exception as e:\n    raise KeyError('k') from e\n",
        "",
        &[],
    ),
    ("def f(:\n", "", &[]),
    ("x = 'a\n", "", &[]),
    ("# -*- coding: latin-1 -*-\nprint(len('\u{e9}'))", "", &[]),
    ("import sys; sys.exit(3)", "", &[]),
    ("import sys; sys.exit('told')", "", &[]),
    ("raise SystemExit", "", &[]),
    ("import os; os._exit(7)", "", &[]),
    ("raise KeyboardInterrupt", "", &[]),
    (
        "import sys\nsys.excepthook = lambda *a: print('hook', a[0])\n1/0",
        "",
        &[],
    ),
    ("import sys\nsys.excepthook = None\n1/0", "", &[]),
    (
        "import atexit; atexit.register(print, 'last'); print('first')",
        "",
        &[],
    ),
    (
        "class C:\n    def __del__(self): print('gone')\nc = C()\n",
        "",
        &[],
    ),
    (
        "import sys; print(repr(sys.stdin.read()))",
        "text\nmore",
        &[],
    ),
    ("print(input()); print(input())", "a\nb\n", &[]),
    ("print(input())", "", &[]),
    (
        "import os; print(os.read(0, 10)); print(os.path.realpath('/dev/fd/0') == '/dev/null')",
        "",
        &[],
    ),
    (
        "import sys; print(sys.argv, getattr(sys, 'orig_argv', 0))",
        "",
        &["one", "two words", "\u{fc}", ""],
    ),
    (
        "import sys; print(sys.argv, getattr(sys, 'orig_argv', 0))",
        "",
        &[],
    ),
    (
        "print(__name__, __file__, __doc__, __package__, __spec__, sorted(globals()), __loader__.__class__)",
        "",
        &[],
    ),
    (
        "'about'\nx: int = 1\nprint(__doc__, __annotations__)",
        "",
        &[],
    ),
    (
        "import sys; print(sys.flags, sys.path, sys.executable, sys.prefix)",
        "",
        &[],
    ),
    (
        "import sys; print(sorted(sys.modules), sorted(sys.path_importer_cache), sys.meta_path, sys.warnoptions)",
        "",
        &[],
    ),
    (
        "import os; print(sorted(os.environ.items()), os.getcwd(), sorted(os.listdir('.')))",
        "",
        &[],
    ),
    (
        "import os; print([(os.stat(n).st_mode, os.stat(n).st_uid == os.getuid()) for n in ('.', 'main.py')])",
        "",
        &[],
    ),
    (
        "import os; print(sorted(os.listdir('/proc/self/fd')))",
        "",
        &[],
    ),
    (
        "import sys; print([s.encoding for s in (sys.stdin, sys.stdout, sys.stderr)], sys.stdout.line_buffering)",
        "",
        &[],
    ),
    (
        "import signal; print([signal.getsignal(n) for n in (2, 13, 15)], signal.pthread_sigmask(0, []))",
        "",
        &[],
    ),
    (
        "import resource as r; print([r.getrlimit(n) for n in (r.RLIMIT_NOFILE, r.RLIMIT_FSIZE, r.RLIMIT_NPROC)][:2])",
        "",
        &[],
    ),
    (
        "import sys\ntry:\n    sys._getframe(1)\nexcept ValueError as e:\n    print(e)",
        "",
        &[],
    ),
    ("import traceback; traceback.print_stack()", "", &[]),
    (
        "import warnings; warnings.warn('careful', stacklevel=2)",
        "",
        &[],
    ),
    (
        "import inspect; print(inspect.getsource(inspect.getmodule(inspect.currentframe())))",
        "",
        &[],
    ),
    (
        "import threading as t\nts = [t.Thread(target=print, args=(i,)) for i in range(3)]\n[x.start() or x.join() for x in ts]",
        "",
        &[],
    ),
    (
        "import threading, time\nthreading.Thread(target=lambda: (time.sleep(.05), print('late'))).start()\nprint('early')",
        "",
        &[],
    ),
    (
        "import threading\nthreading.Thread(target=lambda: 1/0, name='t').start()",
        "",
        &[],
    ),
    (
        "import subprocess as s, sys; print(s.run(['sh', '-c', 'cat; exit 4'], stdin=sys.stdin), s.check_output(['echo', 'x']))",
        "in",
        &[],
    ),
    (
        "import multiprocessing as m\nif __name__ == '__main__':\n    with m.get_context('spawn').Pool(1) as p:\n        print(p.map(abs, [-1, -2]))",
        "",
        &[],
    ),
    ("import os; os.kill(os.getpid(), 9)", "", &[]),
    (
        "import os, signal; os.kill(os.getpid(), signal.SIGTERM)",
        "",
        &[],
    ),
    ("import os; os.abort()", "", &[]),
    ("import ctypes; ctypes.string_at(0)", "", &[]),
    (
        "import sys; sys.stdout.buffer.write(b'\\xff\\x00\\x06\\xfe')",
        "",
        &[],
    ),
    (
        "import sys; sys.stderr.write('e'); sys.stdout.write('o'); sys.stdout.flush(); raise SystemExit(9)",
        "",
        &[],
    ),
    ("print('x' * 5_000_000)", "", &[]),
    (
        "import io, sys\nold = sys.stdout\nsys.stdout = io.StringIO()\nold.write('kept')",
        "",
        &[],
    ),
    (
        "f = open('/dev/stdout', 'w'); f.write('by the end')",
        "",
        &[],
    ),
    (
        "import sys; sys.stdout.buffer.write(b'raw'); sys.stdout = None",
        "",
        &[],
    ),
    ("import sitecustomize", "", &[]),
    ("import usercustomize", "", &[]),
    ("import main; print(main.__name__)", "", &[]),
    (
        "import asyncio\nasync def f():\n    await asyncio.sleep(0); return 5\nprint(asyncio.run(f()))",
        "",
        &[],
    ),
    (
        "import os; pid = os.fork()\nif pid: print(os.waitpid(pid, 0)[1])\nelse: os._exit(2)",
        "",
        &[],
    ),
    (
        "import sys; sys.setrecursionlimit(100)\ndef f(n): return f(n+1)\nf(0)",
        "",
        &[],
    ),
    (
        "import gc; print(len([o for o in gc.get_objects() if getattr(o, '__name__', '') in ('vanish', 'take', 'prepare')]))",
        "",
        &[],
    ),
];

#[test]
fn everything_is_as_with_an_ordinary_start() {
    let _guard = alone();
    for mode in MODES {
        let pool = pool(mode, 2, |_| {});
        for (code, input, args) in PROGRAMS {
            let spec = || {
                let mut spec = script(code, mode);
                spec.args.extend(args.iter().map(Into::into));
                spec
            };
            let one = run_with(spec(), input.as_bytes().to_vec());
            let other = served(&pool, spec(), input.as_bytes());
            let shown = |outcome: &Outcome| {
                // Numbers that differ from run to run: the private directory, and addresses.
                let places = |text: String| {
                    let words = text.split_inclusive(['/', ' ', '"', '\'', ',', '>']);
                    words
                        .filter(|word| !word.starts_with("ringfence-") && !word.starts_with("0x"))
                        .collect::<String>()
                };
                let stdout = places(outcome.text());
                (outcome.report.ended, stdout, places(outcome.errors()))
            };
            assert_eq!(shown(&other), shown(&one), "{code} {mode:?}");
            assert_eq!(
                other.stdout.len().abs_diff(one.stdout.len()) / 8,
                0,
                "{code}"
            );
            assert_eq!(other.report.layers, one.report.layers);
            assert_eq!(other.report.violations, one.report.violations);
        }
    }
}

#[test]
fn files_are_there_before_the_code_runs() {
    let _guard = alone();
    for mode in MODES {
        let pool = pool(mode, 1, |_| {});
        let mut spec = script(
            "import pkg.mod, os; print(pkg.mod.X, os.path.getsize('big'))",
            mode,
        );
        spec.files.push(file("pkg/__init__.py", 0o644, b""));
        spec.files
            .push(file("pkg/mod.py", 0o644, b"X = 'imported'"));
        spec.files.push(file("big", 0o644, &vec![1; 900_000]));
        assert_eq!(served(&pool, spec, b"").text(), "imported 900000");
    }
}

#[test]
fn nothing_of_one_run_is_seen_by_the_next() {
    let _guard = alone();
    let pool = pool(Namespaces::Auto, 1, |_| {});
    let code = "import builtins, os, sys\n\
                print(hasattr(builtins, 'left'), os.path.exists('left'), os.path.exists('/tmp/left'), hash('x'))\n\
                builtins.left = 1\nopen('left', 'w').close(); open('/tmp/left', 'w').close()";
    let first = served(&pool, script(code, Namespaces::Auto), b"").text();
    let second = served(&pool, script(code, Namespaces::Auto), b"").text();
    assert!(first.starts_with("False False False"), "{first}");
    assert!(second.starts_with("False False False"), "{second}");
    assert_ne!(first, second, "each has hashes of its own");
}

#[test]
fn time_counts_from_the_codes_arrival() {
    let _guard = alone();
    for mode in MODES {
        let limit = Duration::from_millis(400);
        let pool = pool(mode, 1, |spec| spec.limits.wall = Some(limit));
        // Time passes while the interpreter waits: more than it will have.
        let pause = run_with(spec("sleep", &["0.6"], mode), vec![]);
        assert_eq!(pause.code(), 0);
        let with_limit = |code| {
            let mut spec = script(code, mode);
            spec.limits.wall = Some(limit);
            spec
        };
        let short = served(&pool, with_limit("print(1)"), b"");
        assert_eq!(short.text(), "1");
        assert!(short.report.wall < limit, "{:?}", short.report);
        let endless = served(&pool, with_limit("while True: pass"), b"");
        assert_eq!(endless.report.ended, Ended::TimedOut);
        let wall = endless.report.wall;
        assert!(wall >= limit && wall < limit * 4, "{wall:?}");
        assert!(endless.report.cpu <= wall * 2, "{:?}", endless.report);
    }
}

#[test]
fn processor_time_counts_from_the_codes_arrival() {
    let _guard = alone();
    for mode in MODES {
        let limit = Duration::from_millis(300);
        let pool = pool(mode, 1, |spec| spec.limits.cpu = Some(limit));
        let mut spec = script("while True: pass", mode);
        spec.limits.cpu = Some(limit);
        let endless = served(&pool, spec, b"");
        assert_eq!(endless.report.ended, Ended::CpuExceeded);
        assert!(endless.report.cpu >= limit, "{:?}", endless.report);
        let mut spec = script("pass", mode);
        spec.limits.cpu = Some(limit);
        let ordinary = run_with(script("pass", mode), vec![]).report.cpu;
        let cpu = served(&pool, spec, b"").report.cpu;
        assert!(cpu < ordinary, "{cpu:?}, {ordinary:?}");
    }
}

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
                let killed = Command::new("kill").args(["-9", &pid.to_string()]).status();
                assert!(killed.unwrap().success());
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
            .args(["--exact", "helper_caller", "--nocapture"])
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

#[test]
fn the_systems_own_customization_is_kept() {
    let _guard = alone();
    let directory = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| std::fs::write(directory.path().join(name), text);
    write(
        "sitecustomize.py",
        "import builtins; builtins.own = __file__",
    )
    .unwrap();
    open_to_all(directory.path());
    let change = |spec: &mut Spec| {
        let path = directory.path();
        spec.env.push(("PYTHONPATH".into(), path.into()));
        spec.grants.push(ringfence_sandbox::Grant {
            destination: None,
            path: path.into(),
            access: ringfence_sandbox::Access::Read,
        });
    };
    let pool = pool(Namespaces::Auto, 1, change);
    let code = "import os, sys; print(own, sys.modules['sitecustomize'], os.environ['PYTHONPATH'], sys.path)";
    let spec = || {
        let mut spec = script(code, Namespaces::Auto);
        change(&mut spec);
        spec
    };
    let one = run_with(spec(), vec![]);
    let other = served(&pool, spec(), b"");
    assert_eq!(one.code(), 0, "{one:?}");
    assert_eq!(other.text(), one.text());
}

fn open_to_all(path: &Path) {
    use std::os::unix::fs::PermissionsExt as _;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755)).unwrap();
}

#[test]
fn unprivileged() {
    repeat_unprivileged(&["unprivileged"]);
}
