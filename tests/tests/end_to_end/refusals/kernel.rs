//! The kernel's own interfaces: each is the filter's to refuse, and the report names it.

use super::{ENOSYS, EPERM, check_report, owned};
use ringfence_tests::Lab;
use serde_json::Value;
use std::collections::BTreeSet;
use std::fs;
use std::time::{Duration, Instant, SystemTime};

/// The system calls that a report names as denied by the filter, each once for each reason.
fn denied(report: &Value) -> Vec<&str> {
    let violations = report["violations"].as_array().unwrap();
    let named = violations.iter().map(|violation| {
        assert_eq!(violation["layer"], "seccomp", "{report}");
        assert!(violation["target"].is_string(), "{report}");
        violation["operation"].as_str().unwrap()
    });
    named.collect()
}

/// The report names each call that the filter denied.
pub(super) fn what_is_refused_is_reported(lab: &Lab) {
    let (_, report) = lab.probe(["chroot", "udp-socket", "chroot"]).json();
    let mut named = denied(&report);
    named.sort_unstable();
    assert_eq!(named, ["chroot", "socket"], "{report}");
}

/// Tries that the filter refuses, and the system call of each, which the report then names. An
/// unprivileged process gets `EPERM` for most of them from the kernel as well: the name proves that
/// it was the filter.
const CALLS: [(&str, &str); 49] = [
    ("mount", "mount"),
    ("mount-bind", "mount"),
    ("mount-remount", "mount"),
    ("umount", "umount2"),
    ("pivot-root", "pivot_root"),
    ("chroot", "chroot"),
    ("fsopen", "fsopen"),
    ("fsconfig", "fsconfig"),
    ("fsmount", "fsmount"),
    ("fspick", "fspick"),
    ("open-tree", "open_tree"),
    ("move-mount", "move_mount"),
    ("mount-setattr", "mount_setattr"),
    ("setns", "setns"),
    ("setns-by-pidfd", "setns"),
    ("io-uring", "io_uring_setup"),
    ("io-uring-enter", "io_uring_enter"),
    ("io-uring-register", "io_uring_register"),
    ("bpf", "bpf"),
    ("perf-event", "perf_event_open"),
    ("userfaultfd", "userfaultfd"),
    ("keyctl", "keyctl"),
    ("add-key", "add_key"),
    ("request-key", "request_key"),
    ("kexec-load", "kexec_load"),
    ("init-module", "init_module"),
    ("finit-module", "finit_module"),
    ("delete-module", "delete_module"),
    ("reboot", "reboot"),
    ("swapon", "swapon"),
    ("swapoff", "swapoff"),
    ("acct", "acct"),
    ("quotactl", "quotactl"),
    ("syslog", "syslog"),
    ("set-clock", "clock_settime"),
    ("set-time", "settimeofday"),
    ("adjust-clock", "adjtimex"),
    ("adjust-clock-by-number", "clock_adjtime"),
    ("set-host-name", "sethostname"),
    ("set-domain-name", "setdomainname"),
    ("hang-up", "vhangup"),
    ("fanotify", "fanotify_init"),
    ("take-handle=/", "name_to_handle_at"),
    ("open-by-handle=/etc/passwd", "open_by_handle_at"),
    ("personality", "personality"),
    ("push-input", "ioctl"),
    ("push-input-high-bits", "ioctl"),
    ("console-selection", "ioctl"),
    ("line-discipline", "ioctl"),
];

/// What a program could have changed of the machine with these calls.
#[derive(Debug, PartialEq, Eq)]
struct Machine {
    names: [String; 2],
    mounts: String,
}

impl Machine {
    fn look() -> Self {
        let read = |path: &str| fs::read_to_string(path).unwrap();
        let name = |name: &str| read(&format!("/proc/sys/kernel/{name}"));
        Self {
            names: [name("hostname"), name("domainname")],
            mounts: read("/proc/self/mounts"),
        }
    }
}

/// No mount, namespace, io_uring, bpf, perf, keyring, module, clock, reboot, terminal injection; no
/// call by another architecture's table. Each is refused by the filter, also where the kernel would
/// refuse it anyway: the report names it. The machine outside is as it was.
pub(super) fn interfaces_are_refused(lab: &Lab) {
    const NAMESPACES: [&str; 8] = [
        "user", "mount", "pid", "net", "ipc", "uts", "cgroup", "time",
    ];
    let mut expected: Vec<(String, &[&str])> = CALLS
        .iter()
        .map(|(name, _)| ((*name).to_owned(), EPERM))
        .collect();
    let mut calls: BTreeSet<&str> = CALLS.iter().map(|(_, call)| *call).collect();
    calls.extend(["unshare", "clone"]);
    if lab.isolation.is_bare() {
        // The filter of whoever refuses namespaces has the last word.
        calls.retain(|call| !["unshare", "setns", "mount", "clone"].contains(call));
    }
    for name in NAMESPACES {
        expected.push((format!("unshare={name}"), EPERM));
        // A filter cannot look into the structure of `clone3`: libraries take "not there" as the
        // sign to use `clone`.
        expected.push((format!("clone3={name}"), ENOSYS));
        // `clone` has no flag for it: the bit belongs to the exit signal.
        if name != "time" {
            expected.push((format!("clone={name}"), EPERM));
        }
    }
    expected.extend(owned(&[
        ("kexec-file-load", ENOSYS),
        ("unknown-call", ENOSYS),
        // The terminal is that of the process's session, which has none.
        ("take-terminal", &["refused ENXIO", "refused EACCES"]),
        ("make-device", &["refused EACCES", "refused EPERM"]),
    ]));
    if lab.isolation.machine() == "x86_64" {
        expected.extend(owned(&[
            ("call-32-bit", &["killed SIGSYS"]),
            ("call-x32", ENOSYS),
            ("io-ports", ENOSYS),
            ("io-permissions", ENOSYS),
            ("local-descriptors", ENOSYS),
        ]));
    }
    let (before, clock, began) = (Machine::look(), SystemTime::now(), Instant::now());
    let report = check_report(lab.probe(expected.iter().map(|(name, _)| name)), &expected);
    let named: BTreeSet<&str> = denied(&report).into_iter().collect();
    assert_eq!(named, calls, "{report}");
    assert_eq!(Machine::look(), before);
    // The machine's clock and one that nobody can set went the same way.
    let passed = clock.elapsed().unwrap();
    let difference = passed.abs_diff(began.elapsed());
    assert!(difference < Duration::from_secs(5), "{difference:?}");
}
