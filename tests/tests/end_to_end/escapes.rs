//! Ways out that others have found, each tried against something outside that would show it.
//!
//! As in [`refusals`](crate::refusals) every answer is exact. Beyond it, what is outside is looked at
//! afterwards: it is as it was.

use crate::files::state;
use crate::refusals::{EPERM, HIDDEN, Victim, check, check_run};
use ringfence_tests::{Isolation, Lab, Scenario, process};
use rustix::io::{FdFlags, fcntl_setfd};
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
use std::fs::{self, File};
use std::io::{BufRead as _, BufReader, IoSlice, Read as _};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::{UnixDatagram, UnixListener, UnixStream};
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Command, Stdio};

/// Where a mount namespace makes one file system of what can be written to.
const WITH_MOUNTS: &[Isolation] = &[Isolation::Process, Isolation::ProcessUser, Isolation::Vm];

pub(crate) const SCENARIOS: &[Scenario] = &[
    Scenario::everywhere("further_interfaces", further_interfaces),
    Scenario::everywhere("files_of_the_kernel", files_of_the_kernel),
    Scenario::everywhere("terminals_of_its_own", terminals_of_its_own),
    Scenario::everywhere("the_terminal_of_the_caller", the_terminal_of_the_caller),
    Scenario::everywhere("descriptors_left_open", descriptors_left_open),
    Scenario::everywhere("descriptors_sent_over", descriptors_sent_over),
    Scenario::everywhere("signals_to_others", signals_to_others),
    Scenario::everywhere("the_supervisor", the_supervisor),
    Scenario::everywhere("objects_of_ipc", objects_of_ipc),
    Scenario::everywhere("programs_in_memory", programs_in_memory),
    Scenario::everywhere("plants_for_the_caller", plants_for_the_caller),
    Scenario::on(
        "set_user_id_programs",
        &Isolation::ON_THIS_KERNEL,
        set_user_id,
    )
    .unless(no_root),
    Scenario::everywhere("programs_that_change_user", programs_that_change_user),
    Scenario::everywhere("links_in_the_workspace", links_in_the_workspace),
    Scenario::everywhere("names_that_change_meaning", names_that_change_meaning),
    Scenario::everywhere("sockets_behind_links", sockets_behind_links),
    Scenario::on(
        "services_in_a_granted_directory",
        &Isolation::ON_THIS_KERNEL,
        services_in_a_granted_directory,
    ),
    Scenario::everywhere("names_of_the_network", names_of_the_network),
    Scenario::on("a_full_workspace", WITH_MOUNTS, a_full_workspace),
    Scenario::everywhere("the_children_of_the_dead", the_children_of_the_dead),
    Scenario::everywhere("characters_that_control", characters_that_control),
];

/// Names with the same expectation.
fn all<'a>(names: &[&str], expected: &'a [&'a str]) -> Vec<(String, &'a [&'a str])> {
    names
        .iter()
        .map(|name| ((*name).to_owned(), expected))
        .collect()
}

/// The rest of interfaces that hand out privileges or large parts of the kernel: each is the
/// filter's to refuse.
fn further_interfaces(lab: &Lab) {
    let refused = [
        "fsconfig",
        "fsmount",
        "io-uring-enter",
        "io-uring-register",
        "quotactl-by-descriptor",
        "adjust-clock-by-number",
        "personality-without-randomness",
        "mount-of-groups",
        "netfilter-socket",
        "netlink-socket-flags",
        "tcp-pair",
        "netlink-pair",
        "tipc-pair",
        "take-handle=/",
    ];
    let mut expected = all(&refused, EPERM);
    expected.extend(all(&["mounts-by-number"], &["refused ENOSYS"]));
    let places = [
        "make-device=./",
        "make-device=/tmp/",
        "make-device=/dev/shm/",
    ];
    let blocks = ["make-block-device=./", "make-block-device=/tmp/"];
    for name in places.iter().chain(&blocks) {
        expected.push(((*name).into(), &["refused EACCES", "refused EPERM"]));
    }
    check(lab, &expected);
}

/// What the kernel does with the rights of root when somebody writes a path to it, and what it tells
/// of itself.
fn files_of_the_kernel(lab: &Lab) {
    const WRITES: [&str; 20] = [
        "/proc/sys/kernel/core_pattern",
        "/proc/sys/kernel/modprobe",
        "/proc/sys/kernel/ns_last_pid",
        "/proc/sys/kernel/randomize_va_space",
        "/proc/sys/vm/overcommit_memory",
        "/proc/sys/fs/binfmt_misc/register",
        "/proc/sys/net/ipv4/ip_forward",
        "/proc/sysrq-trigger",
        "/proc/self/uid_map",
        "/proc/self/gid_map",
        "/proc/self/setgroups",
        "/proc/self/attr/exec",
        "/proc/self/oom_score_adj",
        "/proc/1/oom_score_adj",
        "/proc/1/exe",
        "/sys/kernel/uevent_helper",
        "/sys/fs/cgroup/release_agent",
        "/sys/fs/cgroup/rdma/release_agent",
        "/sys/fs/cgroup/cgroup.procs",
        "/sys/devices/system/cpu/cpu0/online",
    ];
    const READS: [&str; 10] = [
        "/proc/kcore",
        "/proc/kallsyms",
        "/proc/kmsg",
        "/proc/keys",
        "/proc/cmdline",
        "/dev/mem",
        "/dev/kmem",
        "/dev/kmsg",
        "/dev/port",
        "/dev/vda",
    ];
    let refused: &[&str] = &["refused ENOENT", "refused EACCES", "refused EROFS"];
    let writes = WRITES.iter().map(|path| (format!("write={path}"), refused));
    let reads = READS.iter().map(|path| (format!("read={path}"), HIDDEN));
    let pattern = || fs::read("/proc/sys/kernel/core_pattern").unwrap();
    let before = pattern();
    check(lab, &writes.chain(reads).collect::<Vec<_>>());
    assert_eq!(pattern(), before);
}

/// A terminal that the program makes itself is one of a private file system, and on it too nothing
/// can be typed for others and no line discipline be loaded.
fn terminals_of_its_own(lab: &Lab) {
    let bare = lab.isolation == Isolation::ProcessBare;
    let none: &[&str] = &["refused EACCES"];
    let opened: &[&str] = &["ALLOWED opened"];
    let mut expected = all(&["own-terminal"], if bare { none } else { opened });
    let others = ["push-own-input", "own-line-discipline"];
    expected.extend(all(&others, if bare { none } else { EPERM }));
    for number in 0..4 {
        expected.push((format!("write=/dev/pts/{number}"), HIDDEN));
    }
    check(lab, &expected);
}

/// Both ends of a new terminal that passes on everything as it is.
fn terminal() -> (OwnedFd, File) {
    use rustix::termios::{OptionalActions, tcgetattr, tcsetattr};
    let flags = rustix::pty::OpenptFlags::RDWR | rustix::pty::OpenptFlags::NOCTTY;
    let master = rustix::pty::openpt(flags).unwrap();
    rustix::pty::grantpt(&master).unwrap();
    rustix::pty::unlockpt(&master).unwrap();
    let name = rustix::pty::ptsname(&master, Vec::new()).unwrap();
    let mut both = File::options();
    let slave = both.read(true).write(true).open(name.to_str().unwrap());
    let slave = slave.unwrap();
    let mut attributes = tcgetattr(&slave).unwrap();
    attributes.make_raw();
    tcsetattr(&slave, OptionalActions::Now, &attributes).unwrap();
    (master, slave)
}

/// With a terminal as standard input the program has none, and cannot type into the caller's.
fn the_terminal_of_the_caller(lab: &Lab) {
    let (_master, slave) = terminal();
    let mut expected = all(&["streams-are-no-terminal"], &["holds none"]);
    let others = ["push-input", "push-input-high-bits", "console-selection"];
    expected.extend(all(&others, EPERM));
    expected.extend(all(
        &["take-terminal"],
        &["refused ENXIO", "refused EACCES"],
    ));
    let run = lab.probe(expected.iter().map(|(name, _)| name));
    check_run(run.input_file(slave.try_clone().unwrap()), &expected);
    assert_eq!(rustix::io::ioctl_fionread(&slave).unwrap(), 0);
}

/// Whatever the caller of ringfence has open by negligence, a directory outside, a file for writing
/// or a socket, is not open in the program.
fn descriptors_left_open(lab: &Lab) {
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
fn descriptors_sent_over(lab: &Lab) {
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
fn signals_to_others(lab: &Lab) {
    let victim = Victim::start(lab);
    let pid = victim.0.id();
    let absent: &[&str] = &["refused ESRCH", "refused EPERM"];
    let mut expected: Vec<(String, &[&str])> = Vec::new();
    for name in [
        "signal-thread",
        "queue-thread-signal",
        "signal-by-pidfd",
        "steal-descriptor-of",
        "release-memory-of",
        "robust-list-of",
    ] {
        expected.push((format!("{name}={pid}"), absent));
    }
    expected.push((format!("advise-memory-of={pid}"), EPERM));
    // The owner of a descriptor is only looked up when a signal is due, and nobody learns of that.
    let owner: &[&str] = &["ALLOWED asked for", "refused ESRCH", "refused EPERM"];
    expected.push((format!("signal-by-descriptor={pid}"), owner));
    check(lab, &expected);
    // The command itself goes on too: it tells how the program ended.
    let outcome = lab.helper(["kill-everything"]).outcome();
    assert!(matches!(outcome.code(), Some(0 | 3)), "{outcome}");
    assert!(outcome.text().starts_with("begins\n"), "{outcome}");
    assert!(process::is_alive(pid.try_into().unwrap()));

    // Outside, what was asked for happens.
    let mut probe = Command::new(lab.outside_probe());
    probe.arg(format!("signal-by-descriptor={pid}"));
    assert_eq!(probe.output().unwrap().status.code(), Some(1));
    assert!(victim.ended(), "SIGIO did not reach the victim outside");
}

/// Process 1 of the sandbox's namespace is ringfence's, or it is the host's: either way it is not to
/// be read, traced or raided.
fn the_supervisor(lab: &Lab) {
    let files = [
        "init-maps",
        "init-program",
        "init-namespace",
        "init-descriptor",
        "init-write-memory",
    ];
    let gone: &[&str] = &["refused ENOENT", "refused EACCES", "refused ESRCH"];
    let mut expected = all(&files, gone);
    let calls = ["init-steal-descriptor", "init-trace", "init-read-memory"];
    expected.extend(all(&calls, EPERM));
    check(lab, &expected);
}

/// Shared memory, semaphores and queues that everybody outside may use.
fn objects_of_ipc(lab: &Lab) {
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
    let denied = lab.isolation == Isolation::ProcessBare;
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
fn programs_in_memory(lab: &Lab) {
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

/// Names that a shell, the loader, an editor or a job of the caller's would pick up later.
fn plants_for_the_caller(lab: &Lab) {
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

fn no_root() -> Option<String> {
    (!process::is_root()).then(|| "only root can make a file of root's set-user-ID".into())
}

/// A program that belongs to root and is set-user-ID and set-group-ID gives its user nothing.
fn set_user_id(lab: &Lab) {
    const USER: u32 = 54322;
    let directory = lab.open_directory("granted");
    fs::set_permissions(&directory, fs::Permissions::from_mode(0o755)).unwrap();
    let program = directory.join("program");
    fs::copy(lab.outside_probe(), &program).unwrap();
    std::os::unix::fs::chown(&program, Some(0), Some(0)).unwrap();
    fs::set_permissions(&program, fs::Permissions::from_mode(0o6755)).unwrap();
    // Outside it makes anybody root.
    let mut outside = Command::new(&program);
    outside.arg("not-uid=0").uid(USER).gid(USER);
    assert_eq!(outside.output().unwrap().status.code(), Some(1));

    let path = program.to_str().unwrap();
    let run = lab.run([path, "not-uid=0", "capabilities", "set-fs-uid-0"]);
    run.option("--ro", &directory).outcome().assert_code(0);
}

/// The system's own programs that change the user or the tree of files are there and do nothing.
fn programs_that_change_user(lab: &Lab) {
    let script = "for program in 'su -c true' 'sudo -n true' 'mount -t tmpfs none /tmp' \
                  'mount --bind / /tmp' 'umount /proc' 'newgrp root -c true' 'pkexec true' \
                  'unshare -Ur true' 'nsenter -t 1 -m true' 'chroot / true' 'setpriv --reuid 0 true'; do \
                  $program < /dev/null > /dev/null 2>&1 && echo \"$program works\"; done; id -u; exit 0";
    let outcome = lab.run(["sh", "-c", script]).outcome();
    outcome.assert_code(0);
    let text = outcome.text();
    assert!(
        text.trim().parse::<u32>().is_ok_and(|uid| uid != 0),
        "{outcome}"
    );
}

/// Trees that a careless clean-up would follow out of the workspace, get stuck in, or grow with:
/// links to what is outside, directories that nobody may enter, depth, numbers.
fn links_in_the_workspace(lab: &Lab) {
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
fn names_that_change_meaning(lab: &Lab) {
    let directory = lab.open_directory("outside");
    fs::create_dir(directory.join("inner")).unwrap();
    let file = lab.file("outside/inner/file", "before");
    let before = state(&file);
    for _ in 0..3 {
        let run = lab.helper(["swap-links", directory.to_str().unwrap()]);
        let outcome = run.option("--timeout", "300ms").outcome();
        outcome.assert_code(124).assert_stdout("swaps\n");
    }
    assert_eq!(state(&file), before);
}

/// What a socket outside may answer: it is not there, or the supervisor, the filter or Landlock
/// refuses.
const SOCKET_REFUSED: &[&str] = &["refused ENOENT", "refused EACCES", "refused EPERM"];

/// A service's socket is no nearer by a link to it, by a link to its directory, or from a socket that
/// was made as one of a pair.
fn sockets_behind_links(lab: &Lab) {
    let directory = lab.open_directory("run-like");
    let path = directory.join("docker.sock");
    let listener = UnixListener::bind(&path).unwrap();
    let log = directory.join("log");
    let datagrams = UnixDatagram::bind(&log).unwrap();
    for path in [&path, &log] {
        fs::set_permissions(path, fs::Permissions::from_mode(0o777)).unwrap();
    }
    let (path, log) = (path.display(), log.display());
    let expected: Vec<(String, &[&str])> = [
        format!("unix-connect-through-link={path}"),
        format!("unix-connect=/proc/self/root{path}"),
        format!("unix-connect=/proc/1/root{path}"),
        format!("unix-connect=/workspace/../{path}"),
        format!("unix-send-by-pair={log}"),
        format!("unix-connect-by-pair={log}"),
    ]
    .map(|name| (name, SOCKET_REFUSED))
    .into();
    check(lab, &expected);
    listener.set_nonblocking(true).unwrap();
    datagrams.set_nonblocking(true).unwrap();
    assert!(listener.accept().is_err() && datagrams.recv(&mut [0]).is_err());
}

/// A directory that is granted for reading may hold the sockets and named pipes of services: they
/// cannot be used.
fn services_in_a_granted_directory(lab: &Lab) {
    // Not below a directory that the program may write to: its rights would reach here.
    let place = tempfile::Builder::new()
        .prefix("rf-lab-")
        .tempdir_in("/var/tmp");
    let place = place.unwrap();
    fs::set_permissions(place.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let [stream, log, pipe] = ["stream", "log", "pipe"].map(|name| place.path().join(name));
    let listener = UnixListener::bind(&stream).unwrap();
    let datagrams = UnixDatagram::bind(&log).unwrap();
    let fifo = rustix::fs::FileType::Fifo;
    let mode = rustix::fs::Mode::from_raw_mode(0o666);
    rustix::fs::mknodat(rustix::fs::CWD, &pipe, fifo, mode, 0).unwrap();
    for path in [&stream, &log, &pipe] {
        fs::set_permissions(path, fs::Permissions::from_mode(0o777)).unwrap();
    }
    // A reader, so that whoever may write need not wait.
    let reader = File::options().read(true).write(true).open(&pipe).unwrap();

    let (stream, log, pipe) = (stream.display(), log.display(), pipe.display());
    let expected: Vec<(String, &[&str])> = [
        format!("unix-connect={stream}"),
        format!("unix-connect-through-link={stream}"),
        format!("unix-send={log}"),
        format!("unix-send-by-pair={log}"),
        format!("unix-connect-by-pair={log}"),
        format!("write={pipe}"),
        format!("append={pipe}"),
    ]
    .map(|name| (name, SOCKET_REFUSED))
    .into();
    let names = expected.iter().map(|(name, _)| name);
    check_run(lab.probe(names).option("--ro", place.path()), &expected);
    listener.set_nonblocking(true).unwrap();
    datagrams.set_nonblocking(true).unwrap();
    assert!(listener.accept().is_err() && datagrams.recv(&mut [0]).is_err());
    assert_eq!(rustix::io::ioctl_fionread(&reader).unwrap(), 0);
}

/// Nothing is resolved: not a name of the network, not a user of the caller's network service.
fn names_of_the_network(lab: &Lab) {
    let code = "import socket\n\
                for name in ['example.org', 'x.invalid', '_gateway', '10.0.0.1.in-addr.arpa']:\n    \
                    try:\n        print(socket.getaddrinfo(name, 80))\n    \
                    except OSError:\n        print('refused')\n";
    let outcome = lab.run(["python3", "-c", code]).outcome();
    outcome.assert_code(0).assert_stdout(&"refused\n".repeat(4));
}

/// Workspace, temporary files and shared memory are bounded together, in bytes and in names.
fn a_full_workspace(lab: &Lab) {
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

/// Processes whose parents are dead are collected: they do not use up the limit.
fn the_children_of_the_dead(lab: &Lab) {
    let run = lab.helper(["orphans", "200"]).option("--pids", "20");
    run.outcome().assert_code(0).assert_stdout("200 orphans\n");
}

/// Nothing that the program or its name contains controls the terminal of who reads ringfence's own
/// words: not what begins with ESC, nor the one-byte forms of the same.
fn characters_that_control(lab: &Lab) {
    let controls = |text: &str| text.chars().any(|c| c.is_control() && c != '\n');
    let name = "evil\u{1b}]0;title\u{7}\u{9b}31m\u{7f}\r";
    let outcome = lab.run([name]).outcome();
    outcome.assert_error(127, &["evil"]);
    assert!(!controls(&outcome.errors()), "{outcome}");
    let outcome = lab.run(["true"]).option("--file", lab.path(name)).outcome();
    outcome.assert_error(125, &["evil"]);
    assert!(!controls(&outcome.errors()), "{outcome}");

    let script =
        "printf 'a\\033]0;title\\007\\302\\2331m\\177\\r'; printf '\\302\\205\\033' >&2; exit 9";
    let (outcome, report) = lab.run(["sh", "-c", script]).json();
    outcome.assert_code(9);
    assert_eq!(report["stdout"], "a\u{1b}]0;title\u{7}\u{9b}1m\u{7f}\r");
    assert_eq!(report["stderr"], "\u{85}\u{1b}");
    let text = outcome.text();
    assert!(
        !controls(&text) && text.matches('\n').count() == 1,
        "{text:?}"
    );
}
