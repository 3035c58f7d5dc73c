//! Files outside of the workspace: contents, names and metadata, tried from inside by the probe as in
//! [`refusals`](crate::refusals).

use crate::refusals::{EPERM, HIDDEN, check, check_run};
use ringfence_tests::{Isolation, Lab, Scenario};
use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

pub(crate) const SCENARIOS: &[Scenario] = &[
    Scenario::everywhere("secrets_are_out_of_reach", secrets_are_out_of_reach),
    Scenario::everywhere(
        "files_outside_are_out_of_reach",
        files_outside_are_out_of_reach,
    ),
    Scenario::everywhere("metadata_outside_stays", metadata_outside_stays),
    Scenario::everywhere(
        "system_files_stay_as_they_are",
        system_files_stay_as_they_are,
    ),
    Scenario::on(
        "granted_files_stay_as_they_are",
        &Isolation::ON_THIS_KERNEL,
        granted_files_stay_as_they_are,
    ),
    Scenario::everywhere("grants_have_destinations", grants_have_destinations),
    Scenario::on(
        "sensitive_places_are_not_granted",
        &Isolation::ON_THIS_KERNEL,
        sensitive_places_are_not_granted,
    ),
];

/// A grant is where it is asked to be, read-only in every layer where it is, or nowhere.
fn grants_have_destinations(lab: &Lab) {
    let directory = lab.open_directory("granted");
    let file = lab.file("granted/file", "before");
    fs::set_permissions(&file, fs::Permissions::from_mode(0o666)).unwrap();
    let at = |destination: &str| format!("{}:{destination}", directory.display());
    let script = "cat /data/x/file; cat in/side/file; echo > in/side/new && echo wrong; \
                  echo >> /data/x/file && echo wrong; chmod 777 /data/x/file && echo wrong; \
                  echo mine > in/mine; echo yes > /opt/w/new && cat in/side/new";
    let run = lab.run(["sh", "-c", script]).options([
        "--ro",
        &at("/data/x"),
        "--ro",
        &at("in/side"),
        "--rw",
        &at("/opt/w"),
    ]);
    let outcome = run.outcome();
    match lab.isolation {
        Isolation::Vm => outcome.assert_error(125, &["cannot be shared", "--file"]),
        each if each.is_bare() => outcome.assert_error(125, &["mount namespace", "--file"]),
        _ => outcome.assert_code(0).assert_stdout("beforebeforeyes\n"),
    };
    assert_eq!(fs::read(&file).unwrap(), b"before");
    if lab.isolation == Isolation::Vm || lab.isolation.is_bare() {
        assert!(!directory.join("new").exists());
        return;
    }
    // What is granted below the workspace is not the workspace's: it does not come back.
    let run = lab.run(["sh", "-c", "echo mine > in/mine"]);
    let run = run
        .option("--ro", at("in/side"))
        .option("--collect", "in/**");
    let (outcome, value) = run.option("--out", lab.path("out")).json();
    let expected = serde_json::json!([{"path": "in/mine", "bytes": 5}]);
    assert_eq!(value["collected"], expected, "{outcome}");
    // Nothing of the sandbox's own is covered, and nothing is written through a grant by the way.
    for (destination, word) in [
        ("/workspace", "would hide"),
        ("/", "would hide"),
        (".", "would hide"),
        ("/usr/bin", "would hide /usr/bin|system's programs|no place"),
        ("/usr/lib/x", "system's programs"),
        ("/proc/x", "the sandbox's own"),
        ("/dev", "would hide"),
        ("../x", "\"..\""),
    ] {
        let outcome = lab.run(["true"]).option("--ro", at(destination)).outcome();
        let words: Vec<&str> = word.split('|').collect();
        let errors = outcome.errors();
        assert!(words.iter().any(|word| errors.contains(word)), "{outcome}");
        outcome.assert_error(125, &["no place for a granted path"]);
    }
    let input = format!("{}:in/side/new", file.display());
    let run = lab.run(["true"]).option("--rw", at("in/side"));
    run.option("--file", input)
        .outcome()
        .assert_error(125, &["exclude each other"]);
}

/// The kernel's interfaces, the whole tree, and other sandboxes' files, under any name.
fn sensitive_places_are_not_granted(lab: &Lab) {
    let link = lab.path("link");
    std::os::unix::fs::symlink("/proc/self", &link).unwrap();
    let temporary = lab.path("tmp");
    for path in [
        Path::new("/"),
        Path::new("/usr/.."),
        Path::new("/proc"),
        Path::new("/proc/self/cwd"),
        Path::new("/proc/self/root/etc"),
        Path::new("/sys"),
        Path::new("/sys/fs/cgroup"),
        Path::new("/dev"),
        Path::new("/dev/null"),
        &link,
        &temporary,
    ] {
        for option in ["--ro", "--rw"] {
            let run = lab.run(["true"]).option(option, path);
            run.outcome().assert_error(125, &["cannot be granted"]);
        }
    }
}

/// A file of the guest that everybody in it may read, and that no sandbox in it shows.
const HIDDEN_IN_GUEST: &str = "/etc/shells";

/// Passwords, homes, sockets of services, devices and the kernel's view of the machine, by every
/// kind of path.
fn secrets_are_out_of_reach(lab: &Lab) {
    let mut expected: Vec<(String, &[&str])> = Vec::new();
    for path in [
        "/etc/shadow",
        "/etc/gshadow",
        "/etc/sudoers",
        "/etc/ssh/sshd_config",
    ] {
        expected.push((format!("read={path}"), HIDDEN));
        expected.push((format!("read-through-link={path}"), HIDDEN));
        expected.push((format!("read-through-proc-root={path}"), HIDDEN));
    }
    for path in [
        "/root", "/home", "/run", "/var", "/sys", "/boot", "/srv", "/mnt", "/media", "/opt",
    ] {
        expected.push((format!("list={path}"), HIDDEN));
    }
    for path in [
        "/proc/kcore",
        "/proc/kallsyms",
        "/proc/sysrq-trigger",
        "/dev/mem",
        "/dev/kmsg",
        "/dev/sda",
        "/dev/vda",
        "/dev/kvm",
        "/dev/vsock",
        "/dev/console",
    ] {
        expected.push((format!("write={path}"), HIDDEN));
    }
    // Terminals are the sandbox's own, or there are none.
    if lab.isolation.is_bare() {
        expected.push(("write=/dev/ptmx".into(), HIDDEN));
        expected.push(("list=/dev/pts".into(), HIDDEN));
    } else {
        expected.push(("list=/dev/pts".into(), &["ALLOWED 1 entries"]));
    }
    let escape: &[&str] = &["refused ENOENT", "refused EACCES"];
    expected.push(("read=../../../../../../etc/shadow".into(), escape));
    expected.push(("open-by-handle=/etc/shadow".into(), EPERM));
    // The caller's own home, which the tests fill.
    let secret = lab.file("home/secret", "s3cr3t");
    let (hidden, home) = if lab.isolation == Isolation::Vm {
        (PathBuf::from(HIDDEN_IN_GUEST), PathBuf::from("/root"))
    } else {
        (secret.clone(), lab.path("home"))
    };
    for name in [
        "read",
        "write",
        "read-through-link",
        "read-through-proc-root",
        "execute",
    ] {
        expected.push((format!("{name}={}", hidden.display()), HIDDEN));
    }
    expected.push((format!("list={}", home.display()), HIDDEN));
    check(lab, &expected);
    fs::remove_file(secret).unwrap();
}

/// What can be seen of a file's state from outside.
pub(crate) fn state(path: &Path) -> (u32, u32, u32, u64, i64, i64) {
    let metadata = fs::metadata(path).unwrap();
    let owner = (metadata.mode(), metadata.uid(), metadata.gid());
    (
        owner.0,
        owner.1,
        owner.2,
        metadata.len(),
        metadata.mtime(),
        metadata.ctime_nsec(),
    )
}

/// A file outside that anybody may change, in a directory where anybody may do anything, stays as it
/// is; nothing is made beside it, and it cannot be drawn into the workspace.
fn files_outside_are_out_of_reach(lab: &Lab) {
    let directory = lab.open_directory("outside");
    let file = lab.file("outside/file", "before");
    fs::set_permissions(&file, fs::Permissions::from_mode(0o777)).unwrap();
    let before = state(&file);
    let (target, place) = if lab.isolation == Isolation::Vm {
        (Path::new(HIDDEN_IN_GUEST), Path::new("/run"))
    } else {
        (&*file, &*directory)
    };
    // A move or link across a border of Landlock or of a mount.
    let crossing: &[&str] = match lab.isolation {
        // Also in the directory of the sandbox's own that is at its place.
        Isolation::Vm => &["refused ENOENT", "refused EXDEV", "refused EROFS"],
        _ => &["refused ENOENT", "refused EACCES", "refused EXDEV"],
    };
    let at = |name: &str| format!("{name}={}", target.display());
    let mut expected: Vec<(String, &[&str])> = Vec::new();
    for name in [
        "read",
        "read-through-link",
        "write",
        "append",
        "truncate",
        "execute",
    ] {
        expected.push((at(name), HIDDEN));
    }
    for name in ["remove", "rename-away", "rename-over", "hard-link"] {
        expected.push((at(name), crossing));
    }
    for name in ["create", "create-directory"] {
        expected.push((format!("{name}={}", place.join("new").display()), HIDDEN));
    }
    expected.push((format!("list={}", place.display()), HIDDEN));
    check(lab, &expected);
    assert_eq!(state(&file), before);
    assert_eq!(fs::read_dir(&directory).unwrap().count(), 1);
}

pub(crate) const METADATA: [&str; 8] = [
    "chmod",
    "chmod-by-descriptor",
    "chmod-through-link",
    "fchmodat2",
    "chown",
    "utimens",
    "setxattr",
    "removexattr",
];

/// Mode, owner, times and extended attributes of a file of the caller's stay. Where no private root
/// hides it, Landlock has no say in them, and it is the supervisor that refuses.
fn metadata_outside_stays(lab: &Lab) {
    let file = lab.file("metadata", "before");
    let before = state(&file);
    let target = match lab.isolation {
        Isolation::Vm => Path::new(HIDDEN_IN_GUEST),
        _ => &*file,
    };
    let expected: Vec<(String, &[&str])> = METADATA
        .iter()
        .chain(&["file-attributes"])
        .map(|name| {
            let refused: &[&str] = match *name {
                _ if !lab.isolation.is_bare() => HIDDEN,
                // A descriptor for reading is not to be had.
                "chmod-by-descriptor" | "file-attributes" => &["refused EACCES"],
                "chmod-through-link" => &["refused EACCES", "refused EPERM"],
                _ => EPERM,
            };
            (format!("{name}={}", target.display()), refused)
        })
        .collect();
    check(lab, &expected);
    assert_eq!(state(&file), before);
}

/// A program of the system, which everybody may read, stays as it is: content, name and metadata.
fn system_files_stay_as_they_are(lab: &Lab) {
    const PROGRAM: &str = "/usr/bin/env";
    let before = state(Path::new(PROGRAM));
    // The owner is asked for before the mount.
    let read_only: &[&str] = &["refused EACCES", "refused EROFS"];
    // Across a border of Landlock or of a mount.
    let crossing: &[&str] = &["refused EACCES", "refused EXDEV"];
    let metadata: &[&str] = if lab.isolation.is_bare() {
        EPERM
    } else {
        &["refused EROFS"]
    };
    let mut expected: Vec<(&str, &[&str])> = vec![("read", &["ALLOWED 64 bytes"])];
    expected.extend(["write", "append", "truncate", "remove"].map(|name| (name, read_only)));
    expected.extend(["rename-away", "rename-over"].map(|name| (name, crossing)));
    // Some machines let nobody link what is not his (`fs.protected_hardlinks`).
    let linking: &[&str] = &["refused EACCES", "refused EXDEV", "refused EPERM"];
    expected.push(("hard-link", linking));
    expected.extend(METADATA.map(|name| (name, metadata)));
    expected.push(("file-attributes", metadata));
    let expected: Vec<_> = expected
        .iter()
        .map(|(name, answers)| (format!("{name}={PROGRAM}"), *answers))
        .collect();
    check(lab, &expected);
    assert_eq!(state(Path::new(PROGRAM)), before);
}

/// A directory granted for reading is readable and nothing else: neither content nor metadata can be
/// changed.
fn granted_files_stay_as_they_are(lab: &Lab) {
    let directory = lab.open_directory("granted");
    let file = lab.file("granted/file", "before");
    fs::set_permissions(&file, fs::Permissions::from_mode(0o666)).unwrap();
    let before = state(&file);
    let at = |name: &str| format!("{name}={}", file.display());
    let unchanged: &[&str] = &["refused EROFS", "refused EACCES"];
    let mut expected: Vec<(String, &[&str])> = vec![(at("read"), &["ALLOWED 6 bytes"])];
    for name in ["write", "append", "truncate", "remove"] {
        expected.push((at(name), unchanged));
    }
    expected.push((
        format!("create={}", directory.join("new").display()),
        unchanged,
    ));
    let refused: &[&str] = if lab.isolation.is_bare() {
        EPERM
    } else {
        &["refused EROFS", "refused EPERM"]
    };
    expected.extend(METADATA.map(|name| (at(name), refused)));
    let names = expected.iter().map(|(name, _)| name);
    check_run(lab.probe(names).option("--ro", &directory), &expected);
    assert_eq!(state(&file), before);
    assert_eq!(fs::read(&file).unwrap(), b"before");

    // The other way round: what is granted for writing can be written.
    let run = lab.run([
        "sh",
        "-c",
        &format!("echo after > {0}; cat {0}", file.display()),
    ]);
    run.option("--rw", &directory)
        .outcome()
        .assert_code(0)
        .assert_stdout("after\n");
    assert_eq!(fs::read(&file).unwrap(), b"after\n");
}
