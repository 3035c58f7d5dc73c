//! What a hostile program tries, and exactly how it is refused.
//!
//! Every try is made by the probe from inside, against a target that exists: a file that belongs to
//! the caller and that anybody may change, listeners that accept, a process of the caller's. So a
//! refusal is the sandbox's and not the target's. The expected answers are exact; "it failed
//! somehow" proves nothing.

mod kernel;

use crate::files::METADATA;
use ringfence_tests::{Isolation, Lab, Outcome, Scenario, process};
use serde_json::Value;
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::io::{BufRead as _, BufReader};
use std::net::{TcpListener, UdpSocket};
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::{SocketAddr, UnixDatagram, UnixListener, UnixStream};
use std::os::unix::process::CommandExt as _;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

pub(crate) const SCENARIOS: &[Scenario] = &[
    Scenario::on(
        "outside_the_tries_succeed",
        &[Isolation::Process],
        outside_the_tries_succeed,
    ),
    Scenario::everywhere(
        "kernel_interfaces_are_refused",
        kernel::interfaces_are_refused,
    ),
    Scenario::everywhere(
        "what_is_refused_is_reported",
        kernel::what_is_refused_is_reported,
    ),
    Scenario::everywhere("sockets_are_refused", sockets_are_refused),
    Scenario::everywhere(
        "listeners_outside_are_out_of_reach",
        listeners_outside_are_out_of_reach,
    ),
    Scenario::everywhere(
        "processes_outside_are_out_of_reach",
        processes_outside_are_out_of_reach,
    ),
    Scenario::everywhere(
        "own_processes_cannot_be_traced",
        own_processes_cannot_be_traced,
    ),
    Scenario::everywhere("the_process_holds_nothing", the_process_holds_nothing),
    Scenario::everywhere(
        "the_callers_environment_is_not_in_proc",
        the_callers_environment_is_not_in_proc,
    ),
    // Without a network namespace no abstract name is given.
    Scenario::on(
        "sandboxes_do_not_meet",
        &[Isolation::Process, Isolation::ProcessUser, Isolation::Vm],
        sandboxes_do_not_meet,
    ),
];

/// A try with the answers that count as refused.
type Expected<'a> = (&'a str, &'a [&'a str]);

/// Makes all tries in one run and compares the answers.
#[track_caller]
pub(crate) fn check(lab: &Lab, expected: &[(String, &[&str])]) {
    check_run(lab.probe(expected.iter().map(|(name, _)| name)), expected);
}

#[track_caller]
pub(crate) fn check_run(run: ringfence_tests::Run<'_>, expected: &[(String, &[&str])]) {
    let outcome = run.outcome();
    check_answers(&outcome.text(), &outcome, expected);
}

/// As [`check_run`], and gives the report.
#[track_caller]
fn check_report(run: ringfence_tests::Run<'_>, expected: &[(String, &[&str])]) -> Value {
    let (outcome, report) = run.json();
    let text = report["stdout"].as_str().unwrap();
    check_answers(text, &outcome, expected);
    report
}

#[track_caller]
fn check_answers(text: &str, outcome: &Outcome, expected: &[(String, &[&str])]) {
    let answers: BTreeMap<_, _> = text
        .lines()
        .filter_map(|line| {
            expected.iter().find_map(|(name, _)| {
                Some((
                    name.as_str(),
                    line.strip_prefix(name.as_str())?.strip_prefix(' ')?,
                ))
            })
        })
        .collect();
    let mut wrong = String::new();
    for (name, allowed) in expected {
        let answer = answers.get(name.as_str()).copied().unwrap_or("(no answer)");
        if !allowed.contains(&answer) {
            writeln!(wrong, "  {name}: {answer}, expected {allowed:?}").unwrap();
        }
    }
    assert!(
        wrong.is_empty(),
        "not refused as expected:\n{wrong}{outcome}"
    );
}

fn owned<'a>(expected: &[Expected<'a>]) -> Vec<(String, &'a [&'a str])> {
    expected
        .iter()
        .map(|(name, allowed)| ((*name).to_owned(), *allowed))
        .collect()
}

pub(crate) const EPERM: &[&str] = &["refused EPERM"];
const ENOSYS: &[&str] = &["refused ENOSYS"];
/// Hidden by a private root, or denied by Landlock where there is none.
pub(crate) const HIDDEN: &[&str] = &["refused ENOENT", "refused EACCES"];

/// The counterpart of all the others: outside of a sandbox the probe succeeds at what it is refused
/// inside, so that a try which is made wrongly does not pass for one that is refused.
fn outside_the_tries_succeed(lab: &Lab) {
    let file = lab.file("mine", "before");
    let socket = lab.path("socket");
    let _unix = UnixListener::bind(&socket).unwrap();
    let name = format!("rf-test-outside-{}", process::own());
    let address = SocketAddr::from_abstract_name(&name).unwrap();
    let _hidden = UnixListener::bind_addr(&address).unwrap();
    let victim = Victim::start(lab);
    let pid = victim.0.id();
    let mut tries: Vec<String> = [
        "tcp-socket",
        "udp-socket",
        "high-bits-socket",
        "netlink-socket",
        "tcp-bind=127.0.0.1:0",
        "udp-bind=127.0.0.1:0",
        "abstract-autobind",
        "abstract-autobind-by-connect",
        "ptrace-traceme",
        "ptrace-child",
        "read-memory-of-child",
        "write-memory-of-child",
        "capabilities",
        "seccomp",
        "core-dumps",
    ]
    .map(str::to_owned)
    .into();
    for name in [
        "kill",
        "queue-signal",
        "open-pidfd",
        "set-priority-of",
        "set-limits-of",
    ] {
        tries.push(format!("{name}={pid}"));
    }
    for name in METADATA
        .iter()
        .chain(&["read", "read-through-link", "write", "truncate"])
    {
        tries.push(format!("{name}={}", file.display()));
    }
    tries.push(format!("unix-connect={}", socket.display()));
    tries.push(format!("abstract-connect={name}"));
    tries.push(format!("abstract-bind={name}-free"));
    // In the arguments of the victim.
    tries.push("find-in-proc=68616e67".into());

    // The tests may themselves run confined, and they may run as an ordinary user.
    let excused = |name: &str| match name {
        "capabilities" => !process::is_root(),
        "seccomp" => process::status(process::own(), "Seccomp") != Some(0),
        "core-dumps" => {
            rustix::process::getrlimit(rustix::process::Resource::Core).maximum == Some(0)
        }
        _ => false,
    };
    let mut command = Command::new(lab.outside_probe());
    let output = command
        .args(&tries)
        .current_dir(lab.path(""))
        .output()
        .unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    for name in tries.iter().filter(|name| !excused(name)) {
        let mut answers = text
            .lines()
            .filter_map(|line| line.strip_prefix(name.as_str()));
        assert!(
            answers.any(|answer| answer.starts_with(" ALLOWED ")),
            "{name} is refused: {text}"
        );
    }
}

/// Only Unix sockets can be made, whatever flags or high bits the call carries.
fn sockets_are_refused(lab: &Lab) {
    const SOCKETS: [&str; 21] = [
        "tcp-socket",
        "tcp6-socket",
        "udp-socket",
        "udp6-socket",
        "mptcp-socket",
        "sctp-socket",
        "ping-socket",
        "raw-socket",
        "raw-socket-cloexec",
        "raw6-socket",
        "netlink-socket",
        "packet-socket",
        "vsock-socket",
        "alg-socket",
        "key-socket",
        "xdp-socket",
        "tipc-socket",
        "can-socket",
        "bluetooth-socket",
        "rds-socket",
        "smc-socket",
    ];
    let mut expected: Vec<(String, &[&str])> = SOCKETS
        .iter()
        .map(|name| ((*name).to_owned(), EPERM))
        .collect();
    expected.extend(owned(&[
        ("qipcrtr-socket", EPERM),
        ("high-bits-socket", EPERM),
        ("tcp-bind=127.0.0.1:0", EPERM),
        ("tcp-bind=[::1]:0", EPERM),
        ("udp-bind=0.0.0.0:0", EPERM),
        // The ports of ringfence's own agent and host.
        ("vsock-connect=1024", EPERM),
        ("vsock-connect=1025", EPERM),
        ("vsock-connect=1026", EPERM),
    ]));
    check(lab, &expected);
}

/// TCP, UDP, Unix sockets with paths and with abstract names: all of them listen outside, where
/// anybody may connect, and none is reached.
fn listeners_outside_are_out_of_reach(lab: &Lab) {
    let directory = lab.open_directory("sockets");
    let tcp = TcpListener::bind("127.0.0.1:0").unwrap();
    let udp = UdpSocket::bind("127.0.0.1:0").unwrap();
    let (stream, datagram) = (directory.join("stream"), directory.join("datagram"));
    let unix = UnixListener::bind(&stream).unwrap();
    let unix_datagram = UnixDatagram::bind(&datagram).unwrap();
    for path in [&stream, &datagram] {
        fs::set_permissions(path, fs::Permissions::from_mode(0o777)).unwrap();
    }
    let name = format!("rf-test-{}", process::own());
    let address = SocketAddr::from_abstract_name(&name).unwrap();
    let hidden = UnixListener::bind_addr(&address).unwrap();
    let datagram_name = format!("{name}-datagram");
    let address = SocketAddr::from_abstract_name(&datagram_name).unwrap();
    let hidden_datagram = UnixDatagram::bind_addr(&address).unwrap();

    // With a network namespace nobody has the name, without one Landlock's scope refuses.
    let abstract_names: &[&str] = &["refused ECONNREFUSED", "refused EPERM"];
    // Where nothing separates path names the supervisor refuses, and there are no datagram sockets.
    let (path_names, datagram_names): (&[&str], &[&str]) = if lab.isolation.is_bare() {
        (&["refused EACCES"], EPERM)
    } else {
        (HIDDEN, HIDDEN)
    };
    let expected: Vec<(String, &[&str])> = vec![
        (format!("tcp-connect={}", tcp.local_addr().unwrap()), EPERM),
        (format!("udp-send={}", udp.local_addr().unwrap()), EPERM),
        (format!("unix-connect={}", stream.display()), path_names),
        (format!("unix-send={}", datagram.display()), datagram_names),
        (format!("abstract-connect={name}"), abstract_names),
        (format!("abstract-send={datagram_name}"), abstract_names),
    ];
    check(lab, &expected);

    // Whatever the answers said: nothing arrived.
    tcp.set_nonblocking(true).unwrap();
    udp.set_nonblocking(true).unwrap();
    unix.set_nonblocking(true).unwrap();
    unix_datagram.set_nonblocking(true).unwrap();
    hidden.set_nonblocking(true).unwrap();
    hidden_datagram.set_nonblocking(true).unwrap();
    assert!(tcp.accept().is_err() && udp.recv(&mut [0]).is_err());
    assert!(unix.accept().is_err() && unix_datagram.recv(&mut [0]).is_err());
    assert!(hidden.accept().is_err() && hidden_datagram.recv(&mut [0]).is_err());
}

/// A process of the caller's, outside.
pub(crate) struct Victim(pub(crate) Child);

impl Victim {
    pub(crate) fn start(lab: &Lab) -> Self {
        let mut command = Command::new(lab.outside_probe());
        command.args(["do", "hang"]).stdout(Stdio::piped());
        if let Some(user) = lab.isolation.user() {
            command.uid(user).gid(user);
        }
        let mut child = command.spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.as_mut().unwrap())
            .read_line(&mut line)
            .unwrap();
        assert_eq!(line, "here\n");
        Self(child)
    }

    /// The number to try: in the guest that of the first process of all, for this one is not there.
    pub(crate) fn number(&self, lab: &Lab) -> u32 {
        match lab.isolation {
            Isolation::Vm => 1,
            _ => self.0.id(),
        }
    }

    /// Waits for it to end, which it does not by itself. `false` when it does not.
    pub(crate) fn ended(&self) -> bool {
        let deadline = Instant::now() + Duration::from_secs(20);
        process::wait_for_end(self.0.id().try_into().unwrap(), deadline)
    }
}

impl Drop for Victim {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A process outside, of the same user, cannot be signalled, traced, read, listed, slowed or
/// limited.
fn processes_outside_are_out_of_reach(lab: &Lab) {
    let victim = Victim::start(lab);
    let pid = victim.number(lab);
    // With a process namespace there is no such number, without one the call is refused.
    let absent: &[&str] = &["refused ESRCH", "refused EPERM"];
    let mut expected: Vec<(String, &[&str])> = Vec::new();
    // Not a group, but all processes would be number 1.
    if lab.isolation != Isolation::Vm {
        expected.push((format!("kill-group={pid}"), absent));
    }
    for name in [
        "kill",
        "queue-signal",
        "set-priority-of",
        "set-affinity-of",
        "set-limits-of",
    ] {
        expected.push((format!("{name}={pid}"), absent));
    }
    for name in [
        "ptrace-attach",
        "ptrace-seize",
        "read-memory",
        "compare-with",
        "move-pages-of",
    ] {
        expected.push((format!("{name}={pid}"), EPERM));
    }
    for name in ["mem", "environ", "root/etc/passwd", "maps", "cwd/x", "fd/0"] {
        expected.push((format!("read=/proc/{pid}/{name}"), HIDDEN));
    }
    expected.push((format!("list=/proc/{pid}"), HIDDEN));
    // A descriptor of a process gives no power over it, and tells no more than that there is one.
    let descriptor: &[&str] = match lab.isolation {
        Isolation::Vm => &["ALLOWED done"],
        each if each.is_bare() => &["ALLOWED done"],
        _ => &["refused ESRCH"],
    };
    expected.push((format!("open-pidfd={pid}"), descriptor));
    for name in ["init-environment", "init-memory", "init-root"] {
        expected.push((
            name.into(),
            &["refused ENOENT", "refused EACCES", "refused ESRCH"],
        ));
    }
    check(lab, &expected);
    assert!(process::is_alive(victim.0.id().try_into().unwrap()));
}

/// Nor may a program trace, read or raid its own children: what is not needed is not there.
fn own_processes_cannot_be_traced(lab: &Lab) {
    let expected = [
        ("ptrace-traceme", EPERM),
        ("ptrace-parent", EPERM),
        ("ptrace-child", EPERM),
        ("read-memory-of-child", EPERM),
        ("write-memory-of-child", EPERM),
        ("steal-descriptor", EPERM),
        ("raise-priority", &["refused EACCES"]),
    ];
    check(lab, &owned(&expected));
}

/// No capability, no privilege to gain, a filter, only the three standard streams, a session of its
/// own, not the host's root, no group of the caller's, and no way back from any of it.
fn the_process_holds_nothing(lab: &Lab) {
    let session = process::session();
    // In a user namespace 0 stands for nobody: the number is invalid rather than forbidden.
    let root: &[&str] = &["refused EPERM", "refused EINVAL"];
    let mut expected = owned(&[
        ("capabilities", &["holds none"]),
        ("no-new-privs", &["holds set"]),
        ("seccomp", &["holds 2"]),
        ("descriptors", &["holds [0, 1, 2]"]),
        ("core-dumps", &["holds none"]),
        ("groups", &["holds []", "holds [65534]"]),
        ("set-uid-0", root),
        ("set-all-uids-0", root),
        ("set-gid-0", root),
        ("set-groups", EPERM),
        ("set-fs-uid-0", EPERM),
        ("raise-limit", EPERM),
        ("raise-capability", EPERM),
        ("leave-seccomp", &["refused EINVAL"]),
    ]);
    expected.push((format!("session={session}"), &["holds own"]));
    // An ordinary user without a namespace may not empty it; `no_new_privs` makes it idle.
    if !lab.isolation.is_bare() {
        expected.push(("bounding-set".into(), &["holds none"]));
    }
    check(lab, &expected);

    // Descriptors that the caller left open are not passed on either, nor is its root user.
    let outcome = lab.probe(["not-uid=0", "descriptors"]).outcome();
    outcome.assert_code(0);
}

/// The environment of the process that called ringfence appears nowhere in `/proc`.
fn the_callers_environment_is_not_in_proc(lab: &Lab) {
    let secret = format!("rf-secret-{}", process::own());
    let hex = secret.bytes().fold(String::new(), |mut hex, byte| {
        write!(hex, "{byte:02x}").unwrap();
        hex
    });
    let expected: [(String, &[&str]); 1] = [(
        format!("find-in-proc={hex}"),
        &["refused ENOENT", "refused EACCES"],
    )];
    let run = lab.probe([&expected[0].0]).with("HOST_SECRET", &secret);
    check_run(run, &expected);
}

/// Two sandboxes of the same caller at the same time: neither sees the other's processes, abstract
/// names or files.
fn sandboxes_do_not_meet(lab: &Lab) {
    let name = format!("rf-meet-{}", process::own());
    let mut first = lab
        .helper(["abstract-listen", &name])
        .option("--timeout", "200s")
        .start();
    assert_eq!(first.line(), "here");
    let hex = name.bytes().fold(String::new(), |mut hex, byte| {
        write!(hex, "{byte:02x}").unwrap();
        hex
    });
    // One probe each: the name is in the first one's arguments, which it may see of itself.
    let connect = lab.probe([format!("abstract-connect={name}")]);
    connect.start().finish_beside().assert_code(0);
    let find = lab.probe([format!("find-in-proc={hex}")]);
    find.start().finish_beside().assert_code(0);
    // Nor is the name one of the host's.
    let address = SocketAddr::from_abstract_name(&name).unwrap();
    let outside = UnixStream::connect_addr(&address).unwrap_err();
    assert_eq!(outside.kind(), std::io::ErrorKind::ConnectionRefused);
    first.signal(rustix::process::Signal::TERM);
    first.finish_killed();
}
