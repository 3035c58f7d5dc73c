//! What the filter denied is named in the report.
#![cfg(target_os = "linux")]

mod common;

use common::{MODES, Outcome, python, run, shell};
use ringfence_sandbox::{Ended, Layer};
use std::time::Duration;

/// Makes calls without the C library's own checks before them.
const PRELUDE: &str = "
import ctypes, errno, os, socket, threading
libc = ctypes.CDLL(None, use_errno=True)
def call(name, *args):
    answer = getattr(libc, name)(*args)
    print(name, 0 if answer >= 0 else errno.errorcode[ctypes.get_errno()])
";

fn named(outcome: &Outcome) -> Vec<&str> {
    let violations = outcome.report.violations.iter();
    violations
        .inspect(|violation| {
            assert_eq!(violation.layer, Layer::Seccomp);
            assert!(violation.target.as_ref().is_some_and(|why| !why.is_empty()));
        })
        .map(|violation| violation.operation.as_str())
        .collect()
}

#[test]
fn each_denied_call_is_named_once_for_each_reason() {
    let code = "
for _ in range(100): libc.unshare(0x10000000)
call('unshare', 0x10000000)
call('mount', 0, 0, 0, 0, 0)
call('socket', 2, 1, 0)
call('socket', 16, 3, 0)
for request in 0x5412, 0x541c, 0x5412: call('ioctl', 0, ctypes.c_ulong(request), 0)
thread = threading.Thread(target=lambda: call('setns', 0, 0))
thread.start(); thread.join()
child = os.fork()
if child == 0:
    call('personality', ctypes.c_ulong(0x40000))
    os._exit(0)
os.waitpid(child, 0)
";
    for mode in MODES {
        let outcome = run(python(&format!("{PRELUDE}{code}"), mode));
        assert_eq!(outcome.code(), 0, "{}", outcome.errors());
        for line in outcome.text().lines() {
            assert!(line.ends_with(" EPERM"), "{line}");
        }
        let mut names = named(&outcome);
        names.sort_unstable();
        assert_eq!(
            names,
            [
                "ioctl",
                "ioctl",
                "mount",
                "personality",
                "setns",
                "socket",
                "unshare"
            ]
        );
    }
}

#[test]
fn what_is_allowed_unknown_or_refused_by_others_is_not_named() {
    let code = "
call('getppid')
call('socket', 1, 1, 0)
call('syscall', 9999)
call('syscall', 424 + 1000)
for path in '/etc/shadow', '/root/x':
    try: open(path)
    except OSError: pass
os.chmod(os.environ['WORKSPACE'], 0o700)
";
    for mode in MODES {
        let outcome = run(python(&format!("{PRELUDE}{code}"), mode));
        assert_eq!(outcome.code(), 0, "{}", outcome.errors());
        assert_eq!(named(&outcome), [""; 0], "{}", outcome.text());
    }
}

/// Each denied call wakes the supervisor: it must keep to its limits all the same.
#[test]
fn a_flood_of_denied_calls_delays_no_limit() {
    let code = "
def flood():
    while True: libc.unshare(0x10000000)
for _ in range(8): threading.Thread(target=flood).start()
";
    for mode in MODES {
        let mut spec = python(&format!("{PRELUDE}{code}"), mode);
        spec.limits.wall = Some(Duration::from_secs(4));
        let outcome = run(spec);
        assert_eq!(outcome.report.ended, Ended::TimedOut);
        assert_eq!(named(&outcome), ["unshare"]);
        assert!(outcome.report.wall < common::MINUTE);
    }
}

#[test]
fn what_one_program_was_denied_is_not_told_of_another() {
    for mode in MODES {
        let first = run(python(&format!("{PRELUDE}call('unshare', 0)"), mode));
        assert_eq!(named(&first), ["unshare"]);
        let second = run(shell("true", mode));
        assert_eq!(named(&second), [""; 0]);
    }
}
