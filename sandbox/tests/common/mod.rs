//! What the tests share: running a program in each mode, and looking for what is left behind.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test stops where it is surprised"
)]
#![allow(
    dead_code,
    clippy::allow_attributes,
    reason = "each test file uses a part of it"
)]

use ringfence_sandbox::{
    Content, Decision, Ended, InputFile, Layer, Namespaces, Operation, Question, Report, Running,
    Spec, Stdin, Supervision, WorkspacePath, spawn,
};
use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

/// With all that the kernel grants, and with the required layers alone.
pub(crate) const MODES: [Namespaces; 2] = [Namespaces::Auto, Namespaces::Off];

/// Kills a process of this kernel.
pub(crate) fn kill(pid: i32) {
    let pid = rustix::process::Pid::from_raw(pid).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
}

/// Everything about an execution that has ended.
#[derive(Debug)]
pub(crate) struct Outcome {
    pub(crate) report: Report,
    pub(crate) stdout: Vec<u8>,
    pub(crate) stderr: Vec<u8>,
}

impl Outcome {
    /// Whether a layer was in force.
    pub(crate) fn has(&self, layer: Layer) -> bool {
        let mut states = self.report.layers.iter();
        states.any(|state| state.layer == layer && state.is_active())
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.stdout).trim().to_owned()
    }

    pub(crate) fn errors(&self) -> String {
        String::from_utf8_lossy(&self.stderr).into_owned()
    }

    pub(crate) fn code(&self) -> u8 {
        match self.report.ended {
            Ended::Exited { code } => code,
            other => panic!("{other:?}: {}", self.errors()),
        }
    }
}

pub(crate) fn spec(program: &str, args: &[&str], mode: Namespaces) -> Spec {
    let mut spec = Spec::new(program);
    spec.args = args.iter().map(Into::into).collect();
    spec.namespaces = mode;
    spec
}

pub(crate) fn shell(script: &str, mode: Namespaces) -> Spec {
    spec("sh", &["-c", script], mode)
}

/// The system's Python, which every user can reach.
pub(crate) fn python(code: &str, mode: Namespaces) -> Spec {
    spec("/usr/bin/python3", &["-c", code], mode)
}

pub(crate) fn file(path: &str, mode: u32, content: &[u8]) -> InputFile {
    let path = WorkspacePath::try_from(path).unwrap();
    InputFile {
        path,
        mode,
        content: Content::Bytes(content.to_vec()),
    }
}

/// Runs to the end, with this on standard input.
pub(crate) fn run_with(mut spec: Spec, input: Vec<u8>) -> Outcome {
    if !input.is_empty() {
        spec.stdin = Stdin::Piped;
    }
    finish(spawn(spec).unwrap(), input)
}

pub(crate) fn run(spec: Spec) -> Outcome {
    run_with(spec, Vec::new())
}

pub(crate) fn finish(mut running: Running, input: Vec<u8>) -> Outcome {
    let stdin = running.stdin.take();
    let writer = thread::spawn(move || {
        if let Some(mut stdin) = stdin {
            // A program that does not read to the end closes the pipe.
            let _ = stdin.write_all(&input);
        }
    });
    let read = |mut pipe: std::io::PipeReader| {
        thread::spawn(move || {
            let mut bytes = Vec::new();
            pipe.read_to_end(&mut bytes).unwrap();
            bytes
        })
    };
    let stdout = read(running.stdout.take().unwrap());
    let stderr = read(running.stderr.take().unwrap());
    let finished = running.wait().unwrap();
    writer.join().unwrap();
    Outcome {
        report: finished.report,
        stdout: stdout.join().unwrap(),
        stderr: stderr.join().unwrap(),
    }
}

/// Runs a program that has to ask for these, and returns the questions as well.
pub(crate) fn supervised(
    mut spec: Spec,
    operations: &[Operation],
    limit: Duration,
    mut policy: impl FnMut(&Question) -> Option<Decision> + Send + 'static,
) -> (Outcome, Vec<Question>) {
    spec.supervision = Some(Supervision {
        operations: operations.iter().copied().collect(),
        limit,
        default: Decision::Deny(libc::EROFS),
    });
    let mut running = spawn(spec).unwrap();
    let mut questions = running.questions.take().unwrap();
    let (sender, receiver) = mpsc::channel();
    let thread = thread::spawn(move || {
        while let Some(question) = questions.next_question() {
            if !question.expired
                && let Some(decision) = policy(&question)
            {
                questions.answer(question.token, decision);
            }
            sender.send(question).unwrap();
        }
    });
    let outcome = finish(running, Vec::new());
    thread.join().unwrap();
    (outcome, receiver.into_iter().collect())
}

/// Longer than any answer takes.
pub(crate) const MINUTE: Duration = Duration::from_secs(60);

/// Processes whose command line contains this, zombies aside.
pub(crate) fn processes_with(marker: &str) -> Vec<u32> {
    let entries = fs::read_dir("/proc").unwrap().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    pids.filter(|pid| {
        fs::read(format!("/proc/{pid}/cmdline"))
            .is_ok_and(|line| String::from_utf8_lossy(&line).contains(marker))
            && *pid != std::process::id()
    })
    .collect()
}

/// A number that no other test and no other run uses, for `sleep`.
pub(crate) fn unique_seconds() -> String {
    use std::sync::atomic::{AtomicU32, Ordering};
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    format!("8{:07}.{number:03}", std::process::id())
}

pub(crate) fn is_root() -> bool {
    fs::metadata("/proc/self").is_ok_and(|metadata| {
        use std::os::unix::fs::MetadataExt as _;
        metadata.uid() == 0
    })
}

/// Private directories on the host that are there now and were made by this process.
pub(crate) fn host_directories() -> Vec<String> {
    let entries = fs::read_dir(std::env::temp_dir()).unwrap().flatten();
    let names = entries.filter_map(|entry| entry.file_name().into_string().ok());
    let mine = format!("-{}-", std::process::id());
    names
        .filter(|name| name.starts_with("ringfence-") && name.contains(&mine))
        .collect()
}

/// Says loudly that a test could not run.
pub(crate) fn skipped(why: &str) {
    eprintln!("SKIPPED: {why}");
}

pub(crate) fn exists(path: &str) -> bool {
    Path::new(path).exists()
}

/// A directory that everybody may write to, as far as modes go.
pub(crate) fn open_directory(parent: &Path) -> tempfile::TempDir {
    let directory = tempfile::Builder::new().prefix("open").tempdir_in(parent);
    let directory = directory.unwrap();
    fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o777)).unwrap();
    directory
}

/// A copy of this test binary, because the build directory may be closed to others. Another process
/// makes it: what this one had open for writing, the processes that other tests start would have
/// open too.
pub(crate) fn copy_of_tests(directory: &Path) -> PathBuf {
    let copy = directory.join("tests");
    let mut install = std::process::Command::new("install");
    install.arg("-m755").arg(std::env::current_exe().unwrap());
    assert!(install.arg(&copy).status().unwrap().success());
    copy
}

/// Runs the same test binary as somebody who is not root, without these tests.
pub(crate) fn repeat_unprivileged(skip: &[&str]) {
    if !is_root() {
        return skipped("the tests run unprivileged already");
    }
    if !exists("/usr/bin/setpriv") {
        return skipped("setpriv is not installed");
    }
    let home = open_directory(&std::env::temp_dir());
    let copy = copy_of_tests(home.path());
    let mut again = std::process::Command::new("/usr/bin/setpriv");
    again
        .args([
            "--reuid",
            "65534",
            "--regid",
            "65534",
            "--clear-groups",
            "--",
        ])
        .arg(&copy);
    for test in skip {
        again.args(["--skip", test]);
    }
    again.args(["--test-threads", "2"]);
    let text = passes(&mut again, home.path());
    assert!(text.contains("test result: ok"));
}

/// Runs a test binary in surroundings that any user can have. What it says; it must succeed.
pub(crate) fn passes(tests: &mut std::process::Command, home: &Path) -> String {
    let output = tests
        .env("HOME", home)
        .env("TMPDIR", home)
        .env("PATH", "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin")
        .current_dir("/")
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{text}\n{errors}");
    text
}
