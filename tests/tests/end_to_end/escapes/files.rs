//! Files: what is left for the caller to trip over, trees and names that mislead a clean-up, room.

use crate::files::state;
use crate::refusals::{check, check_run};
use ringfence_tests::{Isolation, Lab, process};
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Command;

/// Names that a shell, the loader, an editor or a job of the caller's would pick up later.
pub(super) fn plants_for_the_caller(lab: &Lab) {
    let own = format!("rf-plant-{}", process::own());
    let home = lab.path("home");
    let closed = [
        "/etc/ld.so.preload".to_owned(),
        format!("/etc/profile.d/{own}.sh"),
        format!("/etc/cron.d/{own}"),
        format!("/usr/bin/{own}"),
        format!("/usr/local/bin/{own}"),
        format!("/usr/lib/{own}.so"),
        format!("/var/spool/cron/{own}"),
        format!("/run/{own}"),
        format!("/{own}"),
        format!("{}/.bashrc", home.display()),
        format!("{}/.ssh/authorized_keys", home.display()),
    ];
    let refused: &[&str] = &["refused ENOENT", "refused EACCES", "refused EROFS"];
    let mut expected: Vec<(String, &[&str])> = closed
        .iter()
        .map(|path| (format!("create={path}"), refused))
        .collect();
    // Where there is a private one, that is what is written to.
    let either: &[&str] = &["ALLOWED created", "refused EACCES", "refused ENOENT"];
    let shared = ["/tmp", "/var/tmp", "/dev/shm"].map(|place| format!("{place}/{own}"));
    for path in &shared {
        expected.push((format!("create={path}"), either));
    }
    check(lab, &expected);
    for path in closed
        .iter()
        .chain(&shared)
        .filter(|path| **path != closed[0])
    {
        assert!(!Path::new(path).exists(), "{path} is on the host");
    }

    // And what the program may write under such names, in its own home and workspace, goes with it.
    let script = "for name in .bashrc .profile .gitconfig ls sh ld.so.preload sitecustomize.py; do \
                  for place in \"$HOME\" \"$TMPDIR\" .; do echo evil > \"$place/$name\"; done; done";
    lab.run(["sh", "-c", script]).outcome().assert_code(0);
}

/// Trees that a careless clean-up would follow out of the workspace, get stuck in, or grow with:
/// links to what is outside, directories that nobody may enter, depth, numbers.
pub(super) fn links_in_the_workspace(lab: &Lab) {
    let directory = lab.open_directory("outside");
    let file = lab.file("outside/file", "before");
    fs::set_permissions(&file, fs::Permissions::from_mode(0o666)).unwrap();
    let before = (
        state(&file),
        fs::metadata(&directory).unwrap().permissions(),
    );
    let script = format!(
        "set -e\n\
         ln -s {outside} link; ln -s {outside}/file file; mkdir -p a/b; ln -s {outside} a/b/link\n\
         ln -s / root; ln -s . self; mkfifo fifo; mkdir closed; touch closed/x; chmod 0 closed\n\
         i=0; while [ $i -lt 300 ]; do mkdir d; cd d; ln -s {outside} l; i=$((i + 1)); done\n\
         i=0; while [ $i -lt 300 ]; do : > file-$i; i=$((i + 1)); done\n\
         chmod -R a= . || true",
        outside = directory.display()
    );
    lab.run(["sh", "-c", &script]).outcome().assert_code(0);
    let after = (
        state(&file),
        fs::metadata(&directory).unwrap().permissions(),
    );
    assert_eq!(after, before);
    assert_eq!(fs::read_dir(&directory).unwrap().count(), 1);
}

/// While names go on changing between a directory and a link to what is outside, the run is ended and
/// its workspace removed.
pub(super) fn names_that_change_meaning(lab: &Lab) {
    let directory = lab.open_directory("outside");
    fs::create_dir(directory.join("inner")).unwrap();
    let file = lab.file("outside/inner/file", "before");
    let before = state(&file);
    for _ in 0..3 {
        let run = lab.helper(["swap-links", directory.to_str().unwrap()]);
        let outcome = run.option("--timeout", "1s").outcome();
        outcome.assert_code(124).assert_stdout("swaps\n");
    }
    assert_eq!(state(&file), before);
}

/// Workspace, temporary files and shared memory are bounded together, in bytes and in names.
pub(super) fn a_full_workspace(lab: &Lab) {
    const MOST: u64 = 32 << 20;
    let bounded = |words: &[&str]| {
        let outcome = lab
            .helper(words)
            .option("--workspace-size", MOST.to_string())
            .outcome();
        outcome.assert_code(0);
        outcome.text()
    };
    let text = bounded(&["fill", ".", "/tmp", "/dev/shm"]);
    let written: u64 = text.trim().parse().unwrap();
    assert!((1..=MOST).contains(&written), "{text}");
    let text = bounded(&["fill-names", "/tmp"]);
    let (names, error) = text.trim().split_once(' ').unwrap();
    assert!(names.parse::<u64>().unwrap() <= MOST / 1024, "{text}");
    assert_eq!(error, rustix::io::Errno::NOSPC.raw_os_error().to_string());
}

/// What writing to memory by `/proc/self/mem` gives: the program's own memory is its own matter, or
/// even that is refused; a shared mapping is never written.
const MEMORY: &[&str] = &[
    "holds private written, shared EIO",
    "holds private EACCES, shared EACCES",
];

/// A file that is mapped for reading is not changed by way of the memory that it is in.
pub(super) fn memory_of_files(lab: &Lab) {
    const SYSTEM: &str = "/usr/bin/env";
    let directory = lab.open_directory("granted");
    let file = lab.file("granted/file", "before");
    fs::set_permissions(&file, fs::Permissions::from_mode(0o666)).unwrap();
    let mut tries = vec![format!("memory-of-file={SYSTEM}")];
    let of_granted = format!("memory-of-file={}", file.display());
    // Outside, this is what the try gets at.
    let outside = Command::new(lab.outside_probe()).arg(&of_granted).output();
    let text = String::from_utf8(outside.unwrap().stdout).unwrap();
    assert!(text.contains("private written"), "{text}");
    let system = fs::read(SYSTEM).unwrap();
    let before = state(&file);
    if lab.isolation != Isolation::Vm {
        tries.push(of_granted);
    }
    let run = lab.probe(&tries);
    let run = match lab.isolation {
        Isolation::Vm => run,
        _ => run.option("--ro", &directory),
    };
    let expected: Vec<_> = tries.iter().map(|name| (name.clone(), MEMORY)).collect();
    check_run(run, &expected);
    assert_eq!(fs::read(&file).unwrap(), b"before");
    assert_eq!(state(&file), before);
    assert!(fs::read(SYSTEM).unwrap() == system, "{SYSTEM} has changed");
}

/// The host's programs that run in the sandbox or have started it stay as they are, also once they
/// are not executed any more.
pub(super) fn programs_of_the_host(lab: &Lab) {
    let command = fs::read(lab.bench.command()).unwrap();
    let outcome = lab.helper(["overwrite-program-of-parent"]).outcome();
    outcome.assert_code(0);
    let text = outcome.text();
    let answers: Vec<_> = text.lines().collect();
    let refused = |answer: &&str| ["refused EACCES", "refused ENOENT"].contains(answer);
    assert!(
        answers.len() == 2 && answers.iter().all(refused),
        "{outcome}"
    );
    let now = fs::read(lab.bench.command()).unwrap();
    assert!(now == command, "the command has changed");
    // Outside, nothing but the parent's being executed is in the way of who may write to it.
    if process::is_root() {
        let mut outside = Command::new(lab.outside_probe());
        let outside = outside.args(["do", "overwrite-program-of-parent"]).output();
        let busy = "refused ETXTBSY\n".repeat(2);
        assert_eq!(String::from_utf8(outside.unwrap().stdout).unwrap(), busy);
    }
    if lab.isolation == Isolation::Vm {
        return;
    }

    let directory = lab.open_directory("granted");
    let copy = |name: &str| {
        let path = directory.join(name);
        fs::copy(lab.outside_probe(), &path).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o777)).unwrap();
        path
    };
    let (inside, outside) = (copy("inside"), copy("outside"));
    let before = fs::read(&inside).unwrap();
    let run = lab.run([inside.to_str().unwrap(), "do", "overwrite-own-program"]);
    let outcome = run.option("--ro", &directory).outcome();
    assert_ne!(outcome.code(), Some(0), "{outcome}");
    let errors = outcome.errors();
    let reasons = ["Permission denied", "Read-only file system"];
    assert!(
        reasons.iter().any(|reason| errors.contains(reason)),
        "{outcome}"
    );
    assert!(
        fs::read(&inside).unwrap() == before,
        "the program has changed"
    );
    let mut outside = Command::new(outside);
    let outside = outside.args(["do", "overwrite-own-program"]).output();
    assert_eq!(outside.unwrap().stdout, b"wrote\n");
}
