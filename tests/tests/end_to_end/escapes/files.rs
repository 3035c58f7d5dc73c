//! Files: what is left for the caller to trip over, trees and names that mislead a clean-up, room.

use crate::files::state;
use crate::refusals::check;
use ringfence_tests::{Lab, process};
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

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
