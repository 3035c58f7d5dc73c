//! Services of this machine and of its network, behind sockets, pipes and names.

use crate::refusals::{check, check_run};
use ringfence_tests::{Lab, process};
use std::fs::{self, File};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::{UnixDatagram, UnixListener};

/// What a socket outside may answer: it is not there, or the supervisor, the filter or Landlock
/// refuses.
const SOCKET_REFUSED: &[&str] = &["refused ENOENT", "refused EACCES", "refused EPERM"];

/// A service's socket is no nearer by a link to it, by a link to its directory, or from a socket that
/// was made as one of a pair.
pub(super) fn sockets_behind_links(lab: &Lab) {
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
pub(super) fn services_in_a_granted_directory(lab: &Lab) {
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

/// Where abstract names are the host's none is taken: whoever connects would take the program for the
/// service. Elsewhere the names are the sandbox's own, which nobody outside can connect to.
pub(super) fn names_of_services(lab: &Lab) {
    let name = format!("rf-service-{}", process::own());
    let expected: Vec<(String, &[&str])> = vec![
        (format!("abstract-bind={name}"), &["refused EPERM"]),
        ("abstract-autobind".into(), &["refused EPERM"]),
        ("abstract-autobind-by-connect".into(), &["refused EPERM"]),
    ];
    check(lab, &expected);
}

/// Nothing is resolved: not a name of the network, not a user of the caller's network service.
pub(super) fn names_of_the_network(lab: &Lab) {
    let code = "import socket\n\
                for name in ['example.org', 'x.invalid', '_gateway', '10.0.0.1.in-addr.arpa']:\n    \
                    try:\n        print(socket.getaddrinfo(name, 80))\n    \
                    except OSError:\n        print('refused')\n";
    let outcome = lab.run(["python3", "-c", code]).outcome();
    outcome.assert_code(0).assert_stdout(&"refused\n".repeat(4));
}
