//! What a program sees and costs: files, modules, streams, ends, time.

use crate::common::{MODES, Outcome, file, run_with, spec};
use crate::{alone, pool, script, served};
use ringfence_sandbox::{Access, Ended, Grant, Namespaces, Spec};
use std::path::Path;
use std::time::Duration;

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
        spec.grants.push(Grant {
            destination: None,
            path: path.into(),
            access: Access::Read,
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
fn time_counts_from_the_codes_arrival() {
    let _guard = alone();
    for mode in MODES {
        let limit = Duration::from_secs(2);
        let pool = pool(mode, 1, |spec| spec.limits.wall = Some(limit));
        // Time passes while the interpreter waits: more than it will have.
        let pause = run_with(spec("sleep", &["2.5"], mode), vec![]);
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
