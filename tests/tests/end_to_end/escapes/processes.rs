//! Other processes: what they leave open, send over, share, and how they are reached.

use super::all;
use crate::refusals::{EPERM, HIDDEN, Victim, check, check_run};
use ringfence_tests::{Lab, process};
use rustix::io::{FdFlags, fcntl_setfd};
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
use std::fs::{self, File};
use std::io::{BufRead as _, BufReader, IoSlice, Read as _};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Command, Stdio};

/// Whatever the caller of ringfence has open by negligence, a directory outside, a file for writing
/// or a socket, is not open in the program.
pub(super) fn descriptors_left_open(lab: &Lab) {
    let file = lab.file("open", "before");
    let (socket, _other) = UnixStream::pair().unwrap();
    let left: [OwnedFd; 3] = [
        File::open("/").unwrap().into(),
        File::options().write(true).open(&file).unwrap().into(),
        socket.into(),
    ];
    for descriptor in &left {
        fcntl_setfd(descriptor, FdFlags::empty()).unwrap();
    }
    let run = lab.probe(["descriptors"]).start();
    drop(left);
    let outcome = run.finish();
    outcome
        .assert_code(0)
        .assert_stdout("descriptors holds [0, 1, 2]\n");
    assert_eq!(fs::read(&file).unwrap(), b"before");
}

/// Standard input that is a socket over which somebody sends a descriptor: the program gets bytes.
pub(super) fn descriptors_sent_over(lab: &Lab) {
    let (ours, theirs) = UnixStream::pair().unwrap();
    let root = File::open("/").unwrap();
    let fds = [root.as_fd()];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    assert!(control.push(SendAncillaryMessage::ScmRights(&fds)));
    let data = [IoSlice::new(b"x")];
    sendmsg(&ours, &data, &mut control, SendFlags::empty()).unwrap();
    let expected = all(&["receive-descriptor"], &["refused ENOTSOCK"]);
    let run = lab.probe(["receive-descriptor"]);
    check_run(run.input_file(OwnedFd::from(theirs).into()), &expected);
}

/// By number, by thread, by descriptor, as the end of a pipe, and to all at once: nobody outside gets
/// a signal.
pub(super) fn signals_to_others(lab: &Lab) {
    let victim = Victim::start(lab);
    let pid = victim.number(lab);
    let absent: &[&str] = &["refused ESRCH", "refused EPERM"];
    let mut expected: Vec<(String, &[&str])> = Vec::new();
    for name in [
        "signal-thread",
        "queue-thread-signal",
        "signal-by-pidfd",
        "steal-descriptor-of",
        "robust-list-of",
    ] {
        expected.push((format!("{name}={pid}"), absent));
    }
    // The memory of a process that is not about to end is not released for anybody.
    let living: &[&str] = &["refused ESRCH", "refused EPERM", "refused EINVAL"];
    expected.push((format!("release-memory-of={pid}"), living));
    expected.push((format!("advise-memory-of={pid}"), EPERM));
    // The owner of a descriptor is only looked up when a signal is due, and nobody learns of that.
    let owner: &[&str] = &["ALLOWED asked for", "refused ESRCH", "refused EPERM"];
    expected.push((format!("signal-by-descriptor={pid}"), owner));
    check(lab, &expected);
    // The command itself goes on too: it tells how the program ended.
    let outcome = lab.helper(["kill-everything"]).outcome();
    assert!(matches!(outcome.code(), Some(0 | 3)), "{outcome}");
    assert!(outcome.text().starts_with("begins\n"), "{outcome}");
    let pid = victim.0.id();
    assert!(process::is_alive(pid.try_into().unwrap()));

    // Outside, what was asked for happens.
    let mut probe = Command::new(lab.outside_probe());
    probe.arg(format!("signal-by-descriptor={pid}"));
    assert_eq!(probe.output().unwrap().status.code(), Some(1));
    assert!(victim.ended(), "SIGIO did not reach the victim outside");
}

/// Process 1 of the sandbox's namespace is ringfence's, or it is the host's: either way it is not to
/// be read, traced, raided, signalled, slowed or limited. In the guest there is the agent behind it.
pub(super) fn the_supervisor(lab: &Lab) {
    let files = [
        "init-maps",
        "init-program",
        "init-namespace",
        "init-descriptor",
        "init-write-memory",
    ];
    let gone: &[&str] = &["refused ENOENT", "refused EACCES", "refused ESRCH"];
    let mut expected = all(&files, gone);
    let calls = [
        "init-steal-descriptor",
        "init-trace",
        "init-read-memory",
        "kill=1",
        "queue-signal=1",
        "signal-thread=1",
        "queue-thread-signal=1",
        "signal-by-pidfd=1",
        "ptrace-attach=1",
        "compare-with=1",
        "move-pages-of=1",
        "advise-memory-of=1",
        "robust-list-of=1",
        "set-priority-of=1",
        "set-affinity-of=1",
        "set-limits-of=1",
    ];
    expected.extend(all(&calls, EPERM));
    for name in ["mem", "environ", "maps", "fd/0", "root/etc/passwd"] {
        expected.push((format!("read=/proc/1/{name}"), HIDDEN));
    }
    expected.push(("write=/proc/1/oom_score_adj".into(), HIDDEN));
    check(lab, &expected);
}

/// Shared memory, semaphores and queues that everybody outside may use.
pub(super) fn objects_of_ipc(lab: &Lab) {
    let name = format!("rf-test-{}", process::own());
    let mut holder = Command::new(lab.outside_probe());
    holder.args(["do", "ipc-objects", &name]);
    holder.stdin(Stdio::piped()).stdout(Stdio::piped());
    if let Some(user) = lab.isolation.user() {
        holder.uid(user).gid(user);
    }
    let mut holder = holder.spawn().unwrap();
    let mut said = BufReader::new(holder.stdout.take().unwrap());
    let mut line = String::new();
    said.read_line(&mut line).unwrap();
    let [memory, semaphore, queue] = line.split_whitespace().collect::<Vec<_>>()[..] else {
        panic!("the objects could not be made: {line:?}");
    };
    let shared = Path::new("/dev/shm").join(&name);
    fs::write(&shared, "shared").unwrap();
    fs::set_permissions(&shared, fs::Permissions::from_mode(0o666)).unwrap();

    let other: &[&str] = &["refused EINVAL", "refused EIDRM", "refused ENOENT"];
    let denied = lab.isolation.is_bare();
    let refused = if denied { EPERM } else { other };
    let mut expected: Vec<(String, &[&str])> = [
        ("shared-memory", memory),
        ("shared-memory-state", memory),
        ("shared-memory-removal", memory),
        ("semaphore", semaphore),
        ("semaphore-operation", semaphore),
        ("message", queue),
        ("posix-queue", &name),
        ("posix-queue-removal", &name),
    ]
    .map(|(each, value)| (format!("{each}={value}"), refused))
    .into();
    for each in ["read", "write", "remove"] {
        expected.push((format!("{each}={}", shared.display()), HIDDEN));
    }
    // Outside they are there to be used.
    let harmless = expected.iter().step_by(3).take(3).map(|(name, _)| name);
    let outside = Command::new(lab.outside_probe()).args(harmless).output();
    let text = String::from_utf8(outside.unwrap().stdout).unwrap();
    assert_eq!(text.matches(" ALLOWED ").count(), 3, "{text}");

    check(lab, &expected);
    assert_eq!(fs::read(&shared).unwrap(), b"shared");
    fs::remove_file(&shared).unwrap();
    drop(holder.stdin.take());
    line.clear();
    said.read_to_string(&mut line).unwrap();
    holder.wait().unwrap();
    assert_eq!(line, "same\n");
}

/// A program that is executed from memory runs, and gets no further than any other.
pub(super) fn programs_in_memory(lab: &Lab) {
    let secret = lab.file("secret", "s3cr3t");
    let tries = [
        format!("read={}", secret.display()),
        "read=/etc/shadow".into(),
        "tcp-socket".into(),
        "unshare=user".into(),
    ];
    let expected: Vec<(String, &[&str])> = tries
        .iter()
        .map(|name| (format!("program-in-memory={name}"), &["holds refused"][..]))
        .collect();
    check(lab, &expected);
}

/// Processes whose parents are dead are collected: they do not use up the limit.
pub(super) fn the_children_of_the_dead(lab: &Lab) {
    let run = lab.helper(["orphans", "200"]).option("--pids", "20");
    run.outcome().assert_code(0).assert_stdout("200 orphans\n");
}
