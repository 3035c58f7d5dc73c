//! The library as an application uses it, in the tests' own process.

use ringfence::{
    Ended, Engine, Error, Isolation as Where, Layer, Output, Sandbox, SandboxBuilder, Stdio,
    Uncollected,
};
use ringfence_tests::leftovers::Before;
use ringfence_tests::{Isolation, Lab, Scenario, cpus, engine, process};
use std::fs;
use std::io::{Read as _, Write as _};
use std::time::Duration;

const BOTH: &[Isolation] = &[Isolation::Process, Isolation::Vm];

pub(crate) const SCENARIOS: &[Scenario] = &[
    Scenario::on("output_collects", BOTH, output_collects),
    Scenario::on("files_are_collected", BOTH, files_are_collected),
    Scenario::on("children_stream", BOTH, children_stream),
    Scenario::on("children_are_killed", BOTH, children_are_killed),
    Scenario::on("a_dropped_child_is_dead", BOTH, a_dropped_child_is_dead),
    Scenario::on("errors_are_typed", BOTH, errors_are_typed),
    Scenario::on(
        "many_threads_share_a_sandbox",
        BOTH,
        many_threads_share_a_sandbox,
    ),
    Scenario::on(
        "prewarmed_python_is_python",
        BOTH,
        prewarmed_python_is_python,
    ),
    Scenario::on(
        "what_it_uses_does_not_grow",
        BOTH,
        what_it_uses_does_not_grow,
    ),
];

pub(crate) fn builder(lab: &Lab) -> SandboxBuilder {
    let isolation = if lab.isolation == Isolation::Vm {
        Where::Vm
    } else {
        Where::Process
    };
    let engine: Engine = engine().parse().unwrap();
    let builder = Sandbox::builder()
        .isolation(isolation)
        .engine(engine)
        .timeout(Duration::from_secs(60));
    // On the host's own kernel this takes a control group.
    match isolation {
        Where::Vm => builder.cpus(cpus()),
        _ => builder,
    }
}

fn sandbox(lab: &Lab) -> Sandbox {
    builder(lab).build().unwrap()
}

/// Output, error, status, report, files and input, as the documentation shows them.
fn output_collects(lab: &Lab) {
    let sandbox = sandbox(lab);
    let code =
        "import sys; print(sys.stdin.read().upper()); print('no', file=sys.stderr); sys.exit(3)";
    let command = sandbox
        .command("python3")
        .arg("main.py")
        .file("main.py", code);
    let out = command.input("hello").output().unwrap();
    assert_eq!(
        (out.stdout.as_slice(), out.stderr.as_slice()),
        (&b"HELLO\n"[..], &b"no\n"[..])
    );
    assert_eq!(out.report.ended, Ended::Exited { code: 3 });
    assert!(!out.truncated && !out.report.success());
    assert!(out.report.wall > Duration::ZERO && out.report.cpu > Duration::ZERO);
    assert!(out.report.peak_memory > 1 << 20, "{:?}", out.report);
    for layer in Layer::REQUIRED {
        let state = out
            .report
            .layers
            .iter()
            .find(|state| state.layer == layer)
            .unwrap();
        assert!(state.is_active(), "{state:?}");
    }
    assert_eq!(out.report.layers.len(), Layer::ALL.len());
}

/// Files come back beside the output, and a failure to collect leaves the output as it is.
fn files_are_collected(lab: &Lab) {
    let sandbox = sandbox(lab);
    let out = lab.path("out");
    let script = "echo said; echo one > a; mkfifo b; truncate -s 1T c";
    let command = || {
        sandbox
            .command("sh")
            .args(["-c", script])
            .collect_into(&out)
    };
    let output = command()
        .collect("[ab]")
        .collect("nothing")
        .output()
        .unwrap();
    let collected = output.collected.unwrap();
    assert_eq!(collected.files.len(), 1, "{collected:?}");
    assert_eq!(
        (collected.files[0].path.to_str(), collected.files[0].bytes),
        (Some("a"), 4)
    );
    assert_eq!(collected.skipped[0].why, Uncollected::Special);
    assert_eq!(collected.unmatched, ["nothing"]);
    assert_eq!(fs::read(out.join("a")).unwrap(), b"one\n");

    let output = command().collect("*").output().unwrap();
    assert!(output.report.success());
    assert_eq!(output.stdout, b"said\n");
    let error = output.collected.unwrap_err();
    assert!(
        error.message.contains("\"c\" has 1099511627776 bytes"),
        "{error}"
    );
    let status = command().collect("*").stdout(Stdio::null()).status();
    assert!(matches!(status, Err(Error::Collect(_))), "{status:?}");

    fs::remove_file(out.join("a")).unwrap();
    let dropped = sandbox.command("sh").args(["-c", "echo x > a; sleep 300"]);
    let dropped = dropped.stdin(Stdio::null()).collect("*").collect_into(&out);
    drop(dropped.spawn().unwrap());
    assert_eq!(fs::read_dir(&out).unwrap().count(), 0);
    let nowhere = sandbox.command("true").collect("*").output();
    assert!(
        matches!(nowhere, Err(Error::InvalidInput { .. })),
        "{nowhere:?}"
    );
}

/// A conversation with a running program.
fn children_stream(lab: &Lab) {
    let command = sandbox(lab)
        .command("cat")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let (mut stdin, mut stdout) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
    for word in [b"one\n", b"two\n"] {
        stdin.write_all(word).unwrap();
        let mut answer = [0; 4];
        stdout.read_exact(&mut answer).unwrap();
        assert_eq!(&answer, word);
    }
    drop(stdin);
    assert!(child.wait().unwrap().success());
    assert!(
        child.wait().unwrap().success(),
        "a second wait gives the same"
    );
}

/// Kill and signal, also from another thread while one waits, also when input fills every buffer.
fn children_are_killed(lab: &Lab) {
    let sandbox = sandbox(lab);
    let sleep = || {
        sandbox
            .command("sleep")
            .arg("300")
            .stdout(Stdio::null())
            .stderr(Stdio::null())
    };
    let mut child = sleep().stdin(Stdio::null()).spawn().unwrap();
    let killer = child.killer();
    let other = std::thread::spawn(move || killer.kill());
    assert_eq!(child.wait().unwrap().ended, Ended::Killed);
    other.join().unwrap();

    let mut child = sleep().stdin(Stdio::null()).spawn().unwrap();
    child.killer().signal(15).unwrap();
    assert_eq!(child.wait().unwrap().ended, Ended::Signaled { signal: 15 });

    let mut child = sleep().input(vec![0; 8 << 20]).spawn().unwrap();
    child.kill();
    assert_eq!(child.wait().unwrap().ended, Ended::Killed);
}

/// Dropping a child ends it, and with the last reference to its sandbox the VM.
fn a_dropped_child_is_dead(lab: &Lab) {
    let before = Before::look(&[]);
    let command = sandbox(lab)
        .command("sh")
        .args(["-c", "echo runs; sleep 300"]);
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = [0; 5];
    child
        .stdout
        .as_mut()
        .unwrap()
        .read_exact(&mut line)
        .unwrap();
    assert_eq!(&line, b"runs\n");
    drop(child);
    before.assert_same();
}

/// What a caller can act upon has a variant of its own.
fn errors_are_typed(lab: &Lab) {
    let sandbox = sandbox(lab);
    let missing = sandbox.command("no-such-program").output();
    assert!(
        matches!(missing, Err(Error::NotFound { .. })),
        "{missing:?}"
    );
    let directory = sandbox.command("/usr").output();
    assert!(
        matches!(directory, Err(Error::NotExecutable { .. })),
        "{directory:?}"
    );
    let large = sandbox.command("true").arg("x".repeat(2 << 20)).output();
    let Err(Error::InvalidInput { message }) = large else {
        panic!("{large:?}")
    };
    assert!(message.contains("2097152 bytes"), "{message}");
    let escape = sandbox.command("true").file("../x", "").output();
    assert!(
        matches!(escape, Err(Error::InvalidInput { .. })),
        "{escape:?}"
    );
    let source = sandbox
        .command("true")
        .file_from("x", lab.path("nowhere"))
        .output();
    assert!(matches!(source, Err(Error::Input { .. })), "{source:?}");
    // A failure of one leaves the others as they were.
    assert!(sandbox.command("true").output().unwrap().report.success());
}

/// One sandbox, eight threads, each its own workspace.
fn many_threads_share_a_sandbox(lab: &Lab) {
    let sandbox = sandbox(lab);
    std::thread::scope(|scope| {
        for number in 0..8 {
            let sandbox = &sandbox;
            scope.spawn(move || {
                for _ in 0..3 {
                    let script = format!("test ! -e x; echo {number} > x; cat x");
                    let out = sandbox
                        .command("sh")
                        .args(["-c", &script])
                        .output()
                        .unwrap();
                    assert_eq!(out.stdout, format!("{number}\n").as_bytes());
                }
            });
        }
    });
}

/// Interpreters that were started ahead serve the helpers' commands, and nothing is left of them.
fn prewarmed_python_is_python(lab: &Lab) {
    let before = Before::look(&[]);
    let sandbox = builder(lab).prewarm(2).max_output(1 << 20).build().unwrap();
    let run = |code: &str| {
        sandbox.wait_prewarmed().unwrap();
        sandbox.python(code).input("hello").output().unwrap()
    };
    let time = "import time; print(time.clock_gettime(time.CLOCK_BOOTTIME))";
    let begun = "print(int(open('/proc/self/stat').read().split()[21]) / 100)";
    let seconds = |out: Output| -> f64 {
        let text = String::from_utf8(out.stdout).unwrap();
        text.trim().parse().unwrap()
    };
    sandbox.wait_prewarmed().unwrap();
    let before_code = sandbox.command("python3").args(["-c", time]).output();
    let (before_code, begun) = (seconds(before_code.unwrap()), seconds(run(begun)));
    assert!(begun < before_code, "{begun} {before_code}");
    let out = run("import sys; print(sys.stdin.read().upper(), sys.argv); sys.exit(3)");
    assert_eq!(out.stdout, b"HELLO ['main.py']\n");
    assert_eq!(out.report.ended, Ended::Exited { code: 3 });
    assert_eq!(out.report.layers.len(), Layer::ALL.len());
    let flood = run("while True: print('x' * 1000)");
    assert_eq!(flood.report.ended, Ended::OutputExceeded);
    assert_eq!((flood.stdout.len(), flood.truncated), (1 << 20, true));
    let faulty = run("def f():\n    return 1/0\nf()");
    let error = String::from_utf8_lossy(&faulty.stderr);
    assert!(error.contains("main.py\", line 2, in f"), "{error}");
    sandbox.wait_prewarmed().unwrap();
    let mut child = sandbox
        .python("import time; time.sleep(300)")
        .stdin(Stdio::null())
        .spawn()
        .unwrap();
    child.kill();
    assert_eq!(child.wait().unwrap().ended, Ended::Killed);
    // What the pool is not for runs as ever.
    let out = sandbox
        .python("import os; print(os.environ['A'])")
        .env("A", "b");
    assert_eq!(out.output().unwrap().stdout, b"b\n");
    assert!(sandbox.shell("exit 0").output().unwrap().report.success());
    drop(child);
    drop(sandbox);
    before.assert_same();
}

/// After a first run, further ones leave neither a descriptor nor a thread.
fn what_it_uses_does_not_grow(lab: &Lab) {
    let count = |what: &str| fs::read_dir(format!("/proc/self/{what}")).unwrap().count();
    let descriptors = || {
        let entries = fs::read_dir("/proc/self/fd").unwrap().flatten();
        let targets = entries.filter_map(|entry| fs::read_link(entry.path()).ok());
        let mut targets: Vec<_> = targets
            .filter(|target| !target.starts_with("/proc"))
            .collect();
        targets.sort();
        targets
    };
    let run = || {
        let output = sandbox(lab).command("true").output().unwrap();
        assert!(output.report.success());
    };
    let runs = match (lab.isolation, engine().as_str()) {
        // Emulation takes longer, and what this process does is the same.
        (Isolation::Vm, "qemu") => 5,
        _ => 100,
    };
    let resident = || process::status(process::own(), "VmRSS").unwrap();
    // The first ones fill what is kept by intention, such as the allocator's reserve.
    (0..3).for_each(|_| run());
    let (before, resident_before) = (descriptors(), resident());
    (0..runs).for_each(|_| run());
    let after = descriptors();
    assert!(
        after.len() <= before.len(),
        "{before:#?} grew to {after:#?}"
    );
    // Threads are joined or about to end: those that remain would add up.
    assert!(count("task") < 8, "{} threads", count("task"));
    let growth = resident().saturating_sub(resident_before);
    assert!(growth < 2048, "memory grew by {growth} KiB in {runs} runs");
}
