//! What the project promises that a program cannot do, by name: independent of the lists that the
//! filters are made of, and asked of the compiled programs, in every variant.

use super::reference::ARCH;
use super::{Operation, Separated, denial, filter, kernel, refusing, supervised};
use std::collections::BTreeSet;
use std::fmt::Debug;
use syscalls::Sysno;

/// Closed whatever the arguments are.
const CLOSED: &[&str] = &[
    // Interfaces behind which large parts of the kernel are.
    "io_uring_setup",
    "io_uring_enter",
    "io_uring_register",
    "bpf",
    "perf_event_open",
    "userfaultfd",
    "fanotify_init",
    "fanotify_mark",
    // Keyrings.
    "keyctl",
    "add_key",
    "request_key",
    // Mounts, and files by other ways than a path.
    "mount",
    "umount2",
    "pivot_root",
    "chroot",
    "fsopen",
    "fsconfig",
    "fsmount",
    "fspick",
    "open_tree",
    "move_mount",
    "mount_setattr",
    "open_by_handle_at",
    "name_to_handle_at",
    // Namespaces.
    "unshare",
    "setns",
    // Other processes.
    "ptrace",
    "process_vm_readv",
    "process_vm_writev",
    "process_madvise",
    "pidfd_getfd",
    "kcmp",
    "move_pages",
    "migrate_pages",
    // The machine.
    "kexec_load",
    "init_module",
    "finit_module",
    "delete_module",
    "reboot",
    "swapon",
    "swapoff",
    "settimeofday",
    "clock_settime",
    "adjtimex",
    "clock_adjtime",
    "sethostname",
    "setdomainname",
    "acct",
    "quotactl",
    "quotactl_fd",
    "syslog",
    "vhangup",
];

/// As if the kernel did not have them. Of `clone3` the C library takes that as the sign to use
/// `clone`, whose flags a filter sees.
const UNKNOWN: &[&str] = &["clone3", "kexec_file_load"];

#[cfg(target_arch = "x86_64")]
const UNKNOWN_OF_THIS_ARCHITECTURE: &[&str] = &["iopl", "ioperm", "modify_ldt", "uselib"];
#[cfg(target_arch = "aarch64")]
const UNKNOWN_OF_THIS_ARCHITECTURE: &[&str] = &[];

/// Calls without a name in the library yet: `statmount`, `listmount`, `open_tree_attr`.
const UNKNOWN_NUMBERS: &[u32] = &[457, 458, 467];

/// Arguments that a rule could look at.
const ARGUMENTS: [[u64; 6]; 4] = [[0; 6], [1; 6], [u32::MAX as u64; 6], [u64::MAX; 6]];

fn number(name: &str) -> u32 {
    let call: Sysno = name.parse().unwrap_or_else(|()| panic!("no call {name}"));
    u32::try_from(call.id()).unwrap()
}

fn call(number: u32, arguments: [u64; 6]) -> kernel::Call {
    kernel::Call {
        number,
        arch: ARCH,
        instruction_pointer: 0,
        arguments,
    }
}

const fn error(errno: i32) -> u32 {
    libc::SECCOMP_RET_ERRNO | errno.cast_unsigned()
}

/// One variant of the filters, compiled.
struct Variant {
    separated: Separated,
    listened: Vec<super::Instruction>,
    refusing: Vec<super::Instruction>,
    supervised: Vec<super::Instruction>,
}

impl Variant {
    fn all() -> impl Iterator<Item = Self> {
        let everything: BTreeSet<Operation> = Operation::ALL.into();
        Separated::all().map(move |separated| Self {
            separated,
            listened: filter(separated).unwrap().to_vec(),
            refusing: refusing(separated).unwrap().to_vec(),
            supervised: supervised(separated, &everything, 0x8123_4567_89ab_cdef).unwrap(),
        })
    }

    /// A call fails with this error and is never made: by the filter itself, or because the
    /// supervisor denies it, and does not perform it, when it is told of it.
    fn assert_refused(&self, call: &kernel::Call, errno: i32, what: &dyn Debug) {
        let Self { separated, .. } = self;
        let denied = || {
            let number = libc::c_long::from(call.number);
            denial(*separated, number, &call.arguments).is_some()
        };
        let answer = kernel::run(&self.refusing, call);
        assert_eq!(answer, error(errno), "{what:?} of {call:x?}: {separated:?}");
        for program in [&self.listened, &self.supervised] {
            let answer = kernel::run(program, call);
            let held = answer == libc::SECCOMP_RET_USER_NOTIF;
            assert!(
                answer == error(errno) || held && errno == libc::EPERM && denied(),
                "{answer:x} for {what:?} of {call:x?}: {separated:?}"
            );
        }
    }
}

#[test]
fn calls_that_are_promised_to_be_closed_are() {
    let unknown = UNKNOWN.iter().chain(UNKNOWN_OF_THIS_ARCHITECTURE);
    let unknown = unknown.map(|name| (number(name), libc::ENOSYS));
    let unnamed = UNKNOWN_NUMBERS.iter().map(|call| (*call, libc::ENOSYS));
    let closed = CLOSED.iter().map(|name| (number(name), libc::EPERM));
    let calls: Vec<_> = closed.chain(unknown).chain(unnamed).collect();
    for variant in Variant::all() {
        for (number, errno) in &calls {
            for arguments in ARGUMENTS {
                variant.assert_refused(&call(*number, arguments), *errno, &number);
            }
        }
        // What every program does is not refused, so that the answers above mean something.
        for name in ["read", "mmap", "exit_group", "getpid"] {
            let call = call(number(name), [0; 6]);
            for program in [&variant.listened, &variant.refusing, &variant.supervised] {
                let answer = kernel::run(program, &call);
                assert_eq!(answer, libc::SECCOMP_RET_ALLOW, "{name}");
            }
        }
    }
}

#[test]
fn sockets_of_every_family_but_unix_are_closed() {
    const AF_UNIX: u64 = 1;
    const AF_ALG: u64 = 38;
    const TYPES: [u64; 4] = [1, 2, 3, 3 | 0o2_000_000];
    let families = (0..64).chain([AF_ALG, 255, u64::from(u32::MAX)]);
    let families: Vec<u64> = families.filter(|family| *family != AF_UNIX).collect();
    for variant in Variant::all() {
        for name in ["socket", "socketpair"] {
            for family in &families {
                for kind in TYPES {
                    let call = call(number(name), [*family, kind, 0, 0, 0, 0]);
                    variant.assert_refused(&call, libc::EPERM, &name);
                }
                // The kernel does not look at the high half.
                let call = call(number(name), [*family | 1 << 32, 1, 0, 0, 0, 0]);
                variant.assert_refused(&call, libc::EPERM, &name);
            }
        }
    }
}

#[test]
fn arguments_that_are_promised_to_be_closed_are() {
    // Mount, cgroup, UTS, IPC, user, PID and network namespace.
    const NAMESPACES: [u64; 7] = [
        0x0002_0000,
        0x0200_0000,
        0x0400_0000,
        0x0800_0000,
        0x1000_0000,
        0x2000_0000,
        0x4000_0000,
    ];
    const SIGCHLD: u64 = 17;
    // What threads and `vfork` are made with.
    const OTHERS: [u64; 3] = [0, 0x4100, 0x003d_0f00];
    const TERMINAL_REQUESTS: [u64; 3] = [0x5412, 0x541c, 0x5423];
    // No randomisation of addresses, what is readable is executable, memory at address 0, another
    // system's ways, a 32-bit machine's name.
    const PERSONALITIES: [u64; 6] = [0x0004_0000, 0x0040_0000, 0x0010_0000, 1, 8, 0x0020_0000];
    // What `/proc` tells of a process, I/O without limits, processors for itself alone, memory that
    // is merged with that of others, a table of the kernel's of any size.
    const PROCESS_OPTIONS: [u64; 5] = [35, 57, 62, 67, 78];
    let mut calls = Vec::new();
    for namespace in NAMESPACES {
        for other in OTHERS {
            calls.push(("clone", [namespace | other | SIGCHLD, 0, 0, 0, 0, 0]));
        }
    }
    for request in TERMINAL_REQUESTS {
        for descriptor in [0, 3, u64::MAX] {
            for high in [0, 1 << 32, 0xffff_ffff << 32] {
                calls.push(("ioctl", [descriptor, request | high, 0, 0, 0, 0]));
            }
        }
    }
    for personality in PERSONALITIES {
        for high in [0, 1 << 32] {
            calls.push(("personality", [personality | high, 0, 0, 0, 0, 0]));
        }
    }
    for option in PROCESS_OPTIONS {
        for high in [0, 1 << 32] {
            calls.push(("prctl", [option | high, 0, 0, 0, 0, 0]));
        }
    }
    for variant in Variant::all() {
        for (name, arguments) in &calls {
            let call = call(number(name), *arguments);
            variant.assert_refused(&call, libc::EPERM, name);
        }
    }
}

/// The entries of x32 have numbers of their own, and a 32-bit program another architecture.
#[test]
fn other_tables_of_calls_are_closed() {
    const X32: u32 = 0x4000_0000;
    // i386, Arm, x86-64 and arm64.
    const ARCHITECTURES: [u32; 4] = [0x4000_0003, 0x4000_0028, 0xc000_003e, 0xc000_00b7];
    for variant in Variant::all() {
        for number in 0..1024 {
            let call = call(X32 | number, [0; 6]);
            variant.assert_refused(&call, libc::ENOSYS, &"x32");
        }
        for arch in ARCHITECTURES.into_iter().filter(|arch| *arch != ARCH) {
            for number in [0, 1, 59, 221] {
                let call = kernel::Call {
                    arch,
                    ..call(number, [0; 6])
                };
                for program in [&variant.listened, &variant.refusing, &variant.supervised] {
                    let answer = kernel::run(program, &call);
                    assert_eq!(answer, libc::SECCOMP_RET_KILL_PROCESS);
                }
            }
        }
    }
}
