//! What a program must not be able to do, each tried from inside and seen to be refused.
//!
//! The attempts are made by Python through raw system calls, so that no library stands between.
//! Each prints what the kernel said; a test names the answer that it expects, never just "not
//! success".
#![cfg(target_os = "linux")]

mod common;

use common::{MODES, Outcome, exists, is_root, python, run, shell, skipped};
use ringfence_sandbox::{Access, Grant, Namespaces, Spec};
use std::fs;
use std::os::unix::fs::PermissionsExt;

const PRELUDE: &str = "
import ctypes, errno, os, platform, socket, struct, sys
libc = ctypes.CDLL(None, use_errno=True)
arm = platform.machine() == 'aarch64'
def call(name, x86, arm64, *args):
    number = arm64 if arm else x86
    ctypes.set_errno(0)
    result = libc.syscall(ctypes.c_long(number), *[ctypes.c_long(a) if isinstance(a, int) else a for a in args])
    print(name, 'ok' if result >= 0 else errno.errorcode[ctypes.get_errno()])
def attempt(name, function):
    try: function(); print(name, 'ok')
    except OSError as error: print(name, errno.errorcode[error.errno])
";

/// Runs attempts and compares "name answer" lines.
fn check(mode: Namespaces, attempts: &str, expected: &[(&str, &[&str])]) -> Outcome {
    compare(
        mode,
        run(python(&format!("{PRELUDE}{attempts}"), mode)),
        expected,
    )
}

/// Compares the "name answer" lines of attempts.
fn compare(mode: Namespaces, outcome: Outcome, expected: &[(&str, &[&str])]) -> Outcome {
    assert_eq!(outcome.code(), 0, "{}", outcome.errors());
    let text = outcome.text();
    let lines: Vec<(&str, &str)> = text
        .lines()
        .filter_map(|line| line.rsplit_once(' '))
        .collect();
    for (name, answers) in expected {
        let answer = lines
            .iter()
            .find(|(found, _)| found == name)
            .map(|(_, answer)| *answer);
        assert!(
            answers.contains(&answer.unwrap_or("-")),
            "{mode:?} {name}: {answer:?}"
        );
    }
    assert_eq!(lines.len(), expected.len(), "{text}");
    outcome
}

#[test]
fn no_socket_but_unix() {
    let attempts = "
for name, domain, kind in [('tcp', 2, 1), ('udp', 2, 2), ('raw', 2, 3), ('tcp6', 10, 1),
        ('udp cloexec', 2, 2 | 0o2000000), ('netlink', 16, 3), ('packet', 17, 3), ('alg', 38, 5),
        ('vsock', 40, 1), ('xdp', 44, 3), ('bluetooth', 31, 5)]:
    attempt(name, lambda: socket.socket(domain, kind))
call('domain with high bits', 41, 198, (1 << 32) | 2, 1, 0)
call('inet pair', 53, 199, 2, 1, 0, (ctypes.c_int * 2)())
";
    let names = [
        "tcp",
        "udp",
        "raw",
        "tcp6",
        "udp cloexec",
        "netlink",
        "packet",
        "alg",
        "vsock",
        "xdp",
        "bluetooth",
        "domain with high bits",
        "inet pair",
    ];
    let expected: Vec<(&str, &[&str])> = names
        .iter()
        .map(|name| (*name, &["EPERM"] as &[_]))
        .collect();
    for mode in MODES {
        check(mode, attempts, &expected);
    }
}

#[test]
fn abstract_sockets_of_others_are_out_of_reach_and_own_ones_work() {
    use std::os::linux::net::SocketAddrExt as _;
    use std::os::unix::net::{SocketAddr, UnixListener};
    let name = format!("ringfence-test-{}", std::process::id());
    let address = SocketAddr::from_abstract_name(&name).unwrap();
    let _listener = UnixListener::bind_addr(&address).unwrap();
    let attempts = format!(
        "
attempt('abstract', lambda: socket.socket(socket.AF_UNIX).connect('\\0{name}'))
def own():
    s = socket.socket(socket.AF_UNIX); s.bind('own.sock'); s.listen()
    c = socket.socket(socket.AF_UNIX); c.connect('own.sock'); c.send(b'x')
attempt('own', own)
"
    );
    for mode in MODES {
        check(
            mode,
            &attempts,
            &[("abstract", &["EPERM", "ECONNREFUSED"]), ("own", &["ok"])],
        );
    }
}

#[test]
fn path_sockets_outside_are_out_of_reach() {
    use std::os::unix::net::UnixListener;
    let directory = tempfile::Builder::new()
        .prefix("sock")
        .tempdir_in("/var/tmp")
        .unwrap();
    fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let path = directory.path().join("host.sock");
    let _listener = UnixListener::bind(&path).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o777)).unwrap();
    let attempts = format!(
        "attempt('path', lambda: socket.socket(socket.AF_UNIX).connect('{}'))",
        path.display()
    );
    for mode in MODES {
        check(mode, &attempts, &[("path", &["ENOENT", "EACCES", "EPERM"])]);
    }
}

#[test]
fn no_administration_tracing_or_new_interfaces() {
    let attempts = "
null = ctypes.c_void_p(0)
call('ptrace', 101, 117, 0, 0, 0, 0)
call('process_vm_readv', 310, 270, 1, null, 0, null, 0, 0)
call('process_vm_writev', 311, 271, 1, null, 0, null, 0, 0)
call('pidfd_getfd', 438, 438, 0, 0, 0)
call('mount', 165, 40, b'none', b'/tmp', b'tmpfs', 0, null)
call('umount2', 166, 39, b'/proc', 2)
call('pivot_root', 155, 41, b'.', b'.')
call('chroot', 161, 51, b'.')
call('unshare user', 272, 97, 0x10000000)
call('unshare net', 272, 97, 0x40000000)
call('setns', 308, 268, 0, 0)
call('clone user', 56, 220, 0x10000000 | 17, 0, 0, 0, 0)
call('clone3', 435, 435, null, 0)
call('fsopen', 430, 430, b'tmpfs', 0)
call('open_tree', 428, 428, -100, b'/', 1)
call('move_mount', 429, 429, -1, b'', -1, b'', 0)
call('mount_setattr', 442, 442, -1, b'', 0, null, 0)
call('io_uring_setup', 425, 425, 1, null)
call('bpf', 321, 280, 0, null, 0)
call('perf_event_open', 298, 241, null, 0, -1, -1, 0)
call('userfaultfd', 323, 282, 0)
call('keyctl', 250, 219, 0, 0, 0, 0, 0)
call('add_key', 248, 217, b'user', b'a', b'b', 1, -3)
call('kexec_load', 246, 104, 0, 0, null, 0)
call('init_module', 175, 105, null, 0, b'')
call('open_by_handle_at', 304, 265, -100, null, 0)
call('reboot', 169, 142, 0, 0, 0, null)
call('swapon', 167, 224, b'/tmp/x', 0)
call('settimeofday', 164, 170, null, null)
call('clock_settime', 227, 112, 0, null)
call('sethostname', 170, 161, b'x', 1)
call('syslog', 103, 116, 3, null, 0)
call('acct', 163, 89, null)
call('quotactl', 179, 60, 0, null, 0, null)
call('personality', 135, 92, 0x0040000)
call('personality query', 135, 92, 0xffffffff)
call('ioctl TIOCSTI', 16, 29, 0, 0x5412, null)
call('ioctl TIOCSTI high', 16, 29, 0, (1 << 32) | 0x5412, null)
call('ioctl TIOCLINUX', 16, 29, 0, 0x541c, null)
call('ioctl TIOCSETD', 16, 29, 0, 0x5423, null)
call('unknown', 999, 999)
call('x32 getpid', 39 if arm else 0x40000027, 999)
call('setuid 0', 105, 146, 0)
call('setgroups', 116, 159, 1, (ctypes.c_uint * 1)(0))
call('iopl', 172, 999, 3)
";
    let mut expected: Vec<(&str, &[&str])> = vec![
        ("clone3", &["ENOSYS"]),
        ("personality query", &["ok"]),
        ("unknown", &["ENOSYS"]),
        ("x32 getpid", &["ENOSYS"]),
        ("setuid 0", &["EPERM", "EINVAL"]),
        ("setgroups", &["EPERM"]),
        ("iopl", &["ENOSYS"]),
        ("kexec_load", &["EPERM", "ENOSYS"]),
    ];
    for name in [
        "ptrace",
        "process_vm_readv",
        "process_vm_writev",
        "pidfd_getfd",
        "mount",
        "umount2",
        "pivot_root",
        "chroot",
        "unshare user",
        "unshare net",
        "setns",
        "clone user",
        "fsopen",
        "open_tree",
        "move_mount",
        "mount_setattr",
        "io_uring_setup",
        "bpf",
        "perf_event_open",
        "userfaultfd",
        "keyctl",
        "add_key",
        "init_module",
        "open_by_handle_at",
        "reboot",
        "swapon",
        "settimeofday",
        "clock_settime",
        "sethostname",
        "syslog",
        "acct",
        "quotactl",
        "personality",
        "ioctl TIOCSTI",
        "ioctl TIOCSTI high",
        "ioctl TIOCLINUX",
        "ioctl TIOCSETD",
    ] {
        expected.push((name, &["EPERM"]));
    }
    for mode in MODES {
        check(mode, attempts, &expected);
    }
}

#[test]
fn nothing_of_the_host_is_read() {
    let secret = tempfile::Builder::new()
        .prefix("secret")
        .tempdir_in("/var/tmp")
        .unwrap();
    fs::set_permissions(secret.path(), fs::Permissions::from_mode(0o755)).unwrap();
    fs::write(secret.path().join("file"), "secret").unwrap();
    let attempts = format!(
        "
for path in ['/etc/shadow', '/etc/sudoers', '/root', '/home', '/run', '/var/log', '/sys/kernel',
        '/proc/1/environ', '/proc/1/cmdline', '/proc/kcore', '/dev/kmsg', '/dev/pts/0', '/dev/tty',
        '{}']:
    attempt(path, lambda: os.listdir(path) if os.path.isdir(path) else open(path, 'rb').read(1))
",
        secret.path().join("file").display()
    );
    let path = secret.path().join("file");
    let names = [
        "/etc/shadow",
        "/etc/sudoers",
        "/root",
        "/home",
        "/run",
        "/var/log",
        "/sys/kernel",
        "/proc/1/environ",
        "/proc/1/cmdline",
        "/proc/kcore",
        "/dev/kmsg",
        "/dev/pts/0",
        "/dev/tty",
        path.to_str().unwrap(),
    ];
    let expected: Vec<(&str, &[&str])> = names
        .iter()
        .map(|name| (*name, &["EACCES", "ENOENT", "ENXIO", "EPERM"] as &[_]))
        .collect();
    for mode in MODES {
        check(mode, &attempts, &expected);
    }
}

#[test]
fn nothing_of_the_host_is_changed() {
    let outside = tempfile::Builder::new()
        .prefix("outside")
        .tempdir_in("/var/tmp")
        .unwrap();
    fs::set_permissions(outside.path(), fs::Permissions::from_mode(0o777)).unwrap();
    let file = outside.path().join("file");
    fs::write(&file, "content").unwrap();
    fs::set_permissions(&file, fs::Permissions::from_mode(0o666)).unwrap();
    let attempts = format!(
        "
def write(path): open(path, 'w').write('x')
for path in ['/usr/x', '/etc/x', '/x', '/dev/x', '/dev/shm/../x', '{dir}/x', '{file}']:
    attempt(path, lambda: write(path))
attempt('unlink', lambda: os.unlink('{file}'))
attempt('rename', lambda: os.rename('{file}', 'here'))
attempt('link', lambda: os.link('{file}', 'here'))
attempt('truncate', lambda: os.truncate('{file}', 0))
attempt('mknod', lambda: os.mknod('node', 0o20666, os.makedev(1, 3)))
",
        dir = outside.path().display(),
        file = file.display()
    );
    let (x, name) = (outside.path().join("x"), file.to_str().unwrap().to_owned());
    let refused: &[&str] = &["EACCES", "EROFS", "ENOENT", "EPERM", "EXDEV"];
    let mut expected: Vec<(&str, &[&str])> = Vec::new();
    for path in [
        "/usr/x",
        "/etc/x",
        "/x",
        "/dev/x",
        "/dev/shm/../x",
        x.to_str().unwrap(),
        &name,
    ] {
        expected.push((path, refused));
    }
    for attempt in ["unlink", "rename", "link", "truncate", "mknod"] {
        expected.push((attempt, refused));
    }
    for mode in MODES {
        check(mode, &attempts, &expected);
        assert_eq!(fs::read_to_string(&file).unwrap(), "content");
    }
}

#[test]
fn metadata_of_the_host_is_not_changed_where_there_is_a_private_root() {
    let attempts = "
attempt('utime', lambda: os.utime('/dev/null'))
attempt('chmod', lambda: os.chmod('/usr/bin/env', 0o777))
attempt('utime usr', lambda: os.utime('/usr/bin/env'))
attempt('xattr', lambda: os.setxattr('/usr/bin/env', 'user.x', b'y'))
";
    let refused: &[&str] = &["EROFS", "EPERM", "EACCES"];
    let expected: Vec<(&str, &[&str])> = ["utime", "chmod", "utime usr", "xattr"]
        .iter()
        .map(|name| (*name, refused))
        .collect();
    check(Namespaces::Auto, attempts, &expected);
}

#[test]
fn no_set_user_id_program_is_left_in_a_granted_directory() {
    let granted = tempfile::tempdir().unwrap();
    fs::set_permissions(granted.path(), fs::Permissions::from_mode(0o777)).unwrap();
    let attempts = format!(
        "
os.chdir({:?})
open('file', 'w').close()
descriptor = os.open('file', os.O_RDWR)
for bits in 0o4755, 0o2755:
    attempt(f'chmod {{bits:o}}', lambda: os.chmod('file', bits))
    attempt(f'fchmod {{bits:o}}', lambda: os.fchmod(descriptor, bits))
    attempt(f'open {{bits:o}}', lambda: os.open('new', os.O_CREAT | os.O_WRONLY, bits))
    attempt(f'unnamed {{bits:o}}', lambda: os.open('.', os.O_TMPFILE | os.O_WRONLY, bits))
    attempt(f'mknod {{bits:o}}', lambda: os.mknod('node', bits))
call('fchmodat2', 452, 452, -100, b'file', 0o4755, 0)
call('openat2', 437, 437, -100, b'new', struct.pack('QQQ', 0o101, 0o4755, 0), 24)
attempt('plain chmod', lambda: os.chmod('file', 0o1755))
attempt('plain open', lambda: os.open('new', os.O_CREAT | os.O_WRONLY, 0o755))
",
        granted.path()
    );
    let mut expected: Vec<(String, &[&str])> = Vec::new();
    for bits in ["4755", "2755"] {
        for name in ["chmod", "fchmod", "open", "unnamed", "mknod"] {
            expected.push((format!("{name} {bits}"), &["EPERM"]));
        }
    }
    // fchmodat2 is in Linux since 6.6, and the filter answers before the kernel looks.
    expected.push(("fchmodat2".into(), &["EPERM"]));
    expected.push(("openat2".into(), &["ENOSYS"]));
    expected.push(("plain chmod".into(), &["ok"]));
    expected.push(("plain open".into(), &["ok"]));
    let expected: Vec<(&str, &[&str])> = expected
        .iter()
        .map(|(name, answers)| (name.as_str(), *answers))
        .collect();
    for mode in MODES {
        let mut spec = python(&format!("{PRELUDE}{attempts}"), mode);
        spec.grants = vec![Grant {
            path: granted.path().into(),
            destination: None,
            access: Access::ReadWrite,
        }];
        compare(mode, run(spec), &expected);
        for entry in fs::read_dir(granted.path()).unwrap() {
            let path = entry.unwrap().path();
            let mode = fs::metadata(&path).unwrap().permissions().mode();
            assert_eq!(mode & 0o6000, 0, "{path:?}");
            fs::remove_file(path).unwrap();
        }
    }
}

#[test]
fn names_of_new_files_of_the_host_are_not_told() {
    let outside = tempfile::tempdir().unwrap();
    fs::set_permissions(outside.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let attempts = format!(
        "
watcher = libc.inotify_init()
call('watch', 254, 27, watcher, {:?}.encode(), 0x100)
",
        outside.path()
    );
    for mode in MODES {
        check(mode, &attempts, &[("watch", &["EPERM", "ENOENT"])]);
    }
}

#[test]
fn nothing_of_the_host_is_told_by_requests_or_by_the_programs_own_proc() {
    // TCP of the host; the list of its interfaces, by a Unix socket, which the request does not mind;
    // where a descriptor of a process leads.
    let attempts = "
import fcntl
for name in ['net/tcp', 'net/unix', 'net/route', 'task/%d/net/dev' % os.getpid()]:
    def look():
        lines = open('/proc/self/' + name).read().splitlines()
        # Of a network namespace of its own: headings, and the loopback device.
        if [line for line in lines[1:] if not line.startswith('Inter') and ' lo:' not in line and 'face' not in line]:
            print(lines)
        raise OSError(errno.ENOENT, '')
    attempt(name.split('/')[-1], look)
one, other = socket.socketpair()
room = bytearray(4096)
buffer = (ctypes.c_char * 4096).from_buffer(room)
attempt('interfaces', lambda: fcntl.ioctl(one, 0x8912, struct.pack('iL', 4096, ctypes.addressof(buffer))))
attempt('mark', lambda: fcntl.ioctl(one, 0x8905, bytes(4)))
own = os.pidfd_open(os.getpid())
attempt('process', lambda: fcntl.ioctl(own, 0xC040FF0B, bytearray(64)))
attempt('own status', lambda: open('/proc/self/status').read())
attempt('own maps', lambda: open('/proc/self/maps').read())
attempt('own descriptors', lambda: os.listdir('/proc/self/fd'))
";
    for mode in MODES {
        let by_descriptor: &[&str] = match mode {
            Namespaces::Off => &["EPERM"],
            _ => &["ok", "EPERM", "ENOTTY", "EINVAL"],
        };
        check(
            mode,
            attempts,
            &[
                ("tcp", &["EACCES", "ENOENT"]),
                ("unix", &["EACCES", "ENOENT"]),
                ("route", &["EACCES", "ENOENT"]),
                ("dev", &["EACCES", "ENOENT"]),
                ("interfaces", &["EPERM"]),
                // Urgent data is a matter of TCP; that the request was made is what counts.
                ("mark", &["ok", "EINVAL", "ENOTTY", "EOPNOTSUPP"]),
                ("process", by_descriptor),
                ("own status", &["ok"]),
                ("own maps", &["ok"]),
                ("own descriptors", &["ok"]),
            ],
        );
    }
}

/// A lease would let the program keep whoever opens a granted file waiting.
#[test]
fn no_lease_on_a_file() {
    let attempts = "
import fcntl
fd = os.open('file', os.O_CREAT | os.O_WRONLY, 0o600)
attempt('lease', lambda: fcntl.fcntl(fd, 1024, 1))
here = os.open('.', os.O_RDONLY)
attempt('notify', lambda: fcntl.fcntl(here, 1026, 4))
call('aio', 206, 0, 60000, ctypes.byref(ctypes.c_long(0)))
";
    for mode in MODES {
        let notify: &[&str] = match mode {
            Namespaces::Off => &["EPERM"],
            _ => &["ok", "EPERM", "EINVAL"],
        };
        let expected: [(&str, &[&str]); 3] = [
            ("lease", &["EPERM"]),
            ("notify", notify),
            ("aio", &["ENOSYS"]),
        ];
        check(mode, attempts, &expected);
    }
}

#[test]
fn keys_locks_and_boot_parameters_of_the_host_are_hidden() {
    let files = ["keys", "key-users", "locks", "kallsyms", "cmdline"];
    let attempts: String = files
        .iter()
        .map(|name| format!("attempt('{name}', lambda: open('/proc/{name}').read())\n"))
        .collect();
    let refused: &[&str] = &["EACCES", "ENOENT"];
    let expected = files.map(|name| (name, refused));
    for mode in MODES {
        check(mode, &attempts, &expected);
    }
}

#[test]
fn other_processes_are_out_of_sight_and_reach() {
    let mut victim = std::process::Command::new("sleep")
        .arg("60")
        .spawn()
        .unwrap();
    let pid = victim.id();
    let attempts = format!(
        "
attempt('kill', lambda: os.kill({pid}, 9))
attempt('cmdline', lambda: open('/proc/{pid}/cmdline').read())
attempt('environ', lambda: open('/proc/{pid}/environ').read())
attempt('parent', lambda: os.kill(os.getppid(), 9))
attempt('prlimit', lambda: __import__('resource').prlimit({pid}, 7, (1, 1)))
call('ioprio of the user', 251, 30, 3, 0, 3 << 13)
"
    );
    let refused: &[&str] = &["EPERM", "ESRCH", "EACCES", "ENOENT"];
    for mode in MODES {
        // Process 1 of a namespace ignores what its own namespace sends it.
        let parent: &[&str] = if mode == Namespaces::Auto {
            &["ok", "EPERM"]
        } else {
            &["EPERM"]
        };
        // In a namespace only its own processes are meant.
        let priority: &[&str] = if mode == Namespaces::Auto {
            &["ok", "EPERM", "ESRCH"]
        } else {
            &["EPERM"]
        };
        let expected = [
            ("kill", refused),
            ("cmdline", refused),
            ("environ", refused),
            ("parent", parent),
            ("prlimit", refused),
            ("ioprio of the user", priority),
        ];
        check(mode, &attempts, &expected);
        assert!(victim.try_wait().unwrap().is_none());
    }
    victim.kill().unwrap();
    victim.wait().unwrap();
}

#[test]
fn no_privilege_is_held_or_gained() {
    let script = "grep -E '^(Cap|NoNewPrivs|Seccomp:)' /proc/self/status; id -u; \
                  for f in /usr/bin/su /usr/bin/mount; do test -u $f && $f --version >/dev/null; done; id -u";
    for mode in MODES {
        let outcome = run(python(
            "print(open('/proc/self/status').read())\nimport os\nprint('uid', os.getuid())",
            mode,
        ));
        let text = outcome.text();
        for set in ["CapInh", "CapPrm", "CapEff", "CapAmb"] {
            assert!(
                text.contains(&format!("{set}:\t0000000000000000")),
                "{text}"
            );
        }
        if is_root() || mode == Namespaces::Auto {
            assert!(text.contains("CapBnd:\t0000000000000000"), "{text}");
        }
        assert!(
            text.contains("NoNewPrivs:\t1") && text.contains("Seccomp:\t2"),
            "{text}"
        );
        assert!(!text.contains("uid 0"));
        if mode == Namespaces::Auto {
            let text = run(shell(script, mode)).text();
            assert!(!text.lines().any(|line| line == "0"), "{text}");
        }
    }
}

#[test]
fn only_the_three_streams_are_open_and_the_session_is_its_own() {
    let code = "
import os
print(sorted(int(fd) for fd in os.listdir('/proc/self/fd'))[:-1], os.getsid(0) == os.getpid())
try: os.open('/dev/tty', os.O_RDWR); print('tty')
except OSError: print('none')
import signal; print(all(signal.getsignal(s) in (signal.SIG_DFL, signal.default_int_handler, None) for s in signal.valid_signals() if s not in (signal.SIGPIPE, signal.SIGXFSZ)), len(signal.pthread_sigmask(signal.SIG_BLOCK, [])))
";
    for mode in MODES {
        let text = run(python(code, mode)).text();
        assert_eq!(
            text.lines().collect::<Vec<_>>(),
            ["[0, 1, 2] True", "none", "True 0"]
        );
    }
}

#[test]
fn sandboxes_do_not_see_each_other() {
    for mode in MODES {
        let mut first = shell("echo secret >f; pwd; chmod -R 777 .; read x", mode);
        first.stdin = ringfence_sandbox::Stdin::Piped;
        let mut running = ringfence_sandbox::spawn(first).unwrap();
        let mut path = String::new();
        let stdout = running.stdout.as_mut().unwrap();
        std::io::BufRead::read_line(&mut std::io::BufReader::new(stdout), &mut path).unwrap();
        let other = run(shell(
            &format!("cat {}/f; ls -la {}/..", path.trim(), path.trim()),
            mode,
        ));
        assert!(!other.text().contains("secret"), "{}", other.text());
        drop(running);
    }
}

#[test]
fn foreign_architectures_are_killed_and_reported() {
    if !cfg!(target_arch = "x86_64") {
        return skipped("a 32-bit system call can be made on x86-64 only");
    }
    // mov eax, 20 (getpid of 32-bit x86); int 0x80; ret
    let code = "
import ctypes, mmap
m = mmap.mmap(-1, 4096, prot=7)
m.write(bytes([0xb8, 20, 0, 0, 0, 0xcd, 0x80, 0xc3]))
print(ctypes.CFUNCTYPE(ctypes.c_int)(ctypes.addressof(ctypes.c_char.from_buffer(m)))())
";
    for mode in MODES {
        let report = run(python(code, mode)).report;
        assert_eq!(report.ended, ringfence_sandbox::Ended::Killed);
        assert_eq!(report.violations.len(), 1, "{report:?}");
    }
}

#[test]
fn the_attempts_fail_for_the_right_reason() {
    // The same Python outside opens a TCP socket: so it is the sandbox that refuses.
    if !exists("/usr/bin/python3") {
        return skipped("/usr/bin/python3 is not installed");
    }
    let code = format!("{PRELUDE}attempt('tcp', lambda: socket.socket(2, 1))");
    let output = std::process::Command::new("/usr/bin/python3")
        .args(["-c", &code])
        .output()
        .unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stdout).trim(), "tcp ok");
    let _: Spec = python("pass", Namespaces::Off);
}

#[test]
fn everything_is_refused_for_an_unprivileged_caller_too() {
    common::repeat_unprivileged(&["everything_is_refused"]);
}
