//! What is denied with `EPERM`: calls that a program expects to exist but must not use here, and
//! arguments of allowed calls.
//!
//! A call that is in neither list gives `ENOSYS`; it is named here where a program should learn
//! "not permitted" rather than "not there".

use super::Condition::{Has, Is, IsNot, Masked};
use super::{Group, Rule, prctl};

/// Flags of `clone` that make namespaces. `CLONE_NEWTIME` shares its bit with the exit signal's
/// mask and cannot be given to `clone`.
const NAMESPACES: u64 = (libc::CLONE_NEWNS
    | libc::CLONE_NEWCGROUP
    | libc::CLONE_NEWUTS
    | libc::CLONE_NEWIPC
    | libc::CLONE_NEWUSER
    | libc::CLONE_NEWPID
    | libc::CLONE_NEWNET) as u32 as u64;

const AF_UNIX: u32 = libc::AF_UNIX as u32;

const TIOCSTI: u32 = 0x5412;
const TIOCLINUX: u32 = 0x541C;
const TIOCSETD: u32 = 0x5423;
const FIOSETOWN: u32 = 0x8901;
const SIOCSPGRP: u32 = 0x8902;
const FIOGETOWN: u32 = 0x8903;
const SIOCGPGRP: u32 = 0x8904;
const SIOCATMARK: u32 = 0x8905;
const IOPRIO_WHO_PROCESS: u32 = 1;
/// Families of requests, by [`REQUEST_TYPE`].
const SOCKET_REQUESTS: u32 = 0x8900;
const PROCESS_REQUESTS: u32 = 0xff00;
const F_SETLEASE: u32 = 1024;
/// Linux 6.19.
const F_SETDELEG: u32 = 1040;
const F_NOTIFY: u32 = 1026;
const F_SETOWN: u32 = 8;
const F_SETOWN_EX: u32 = 15;

const MAP_GROWSDOWN: u64 = 0x100;
const MAP_HUGETLB: u64 = 0x4_0000;
const MFD_HUGETLB: u64 = 4;
const SHM_HUGETLB: u64 = 0o4000;

/// Bits of a mode that let whoever runs a file become its owner.
const SET_ID: u64 = 0o6000;
/// Flags of `open` with which the mode counts: `O_CREAT` and the bit that makes `O_TMPFILE`.
const CREATES: u64 = 0o100 | 0o20_000_000;

/// Never allowed.
pub(crate) const GROUPS: &[Group] = &[
    Group {
        reason: "looks into or changes other processes",
        calls: &[
            libc::SYS_ptrace,
            libc::SYS_process_vm_readv,
            libc::SYS_process_vm_writev,
            libc::SYS_pidfd_getfd,
            libc::SYS_process_madvise,
            libc::SYS_kcmp,
        ],
    },
    Group {
        reason: "makes or enters namespaces, or changes the file system tree",
        calls: &[
            libc::SYS_unshare,
            libc::SYS_setns,
            libc::SYS_mount,
            libc::SYS_umount2,
            libc::SYS_pivot_root,
            libc::SYS_chroot,
            libc::SYS_fsopen,
            libc::SYS_fsconfig,
            libc::SYS_fsmount,
            libc::SYS_fspick,
            libc::SYS_open_tree,
            libc::SYS_move_mount,
            libc::SYS_mount_setattr,
            libc::SYS_open_by_handle_at,
            libc::SYS_name_to_handle_at,
        ],
    },
    Group {
        reason: "large parts of the kernel that unprivileged programs do without",
        calls: &[
            libc::SYS_bpf,
            libc::SYS_perf_event_open,
            libc::SYS_userfaultfd,
            libc::SYS_fanotify_init,
            libc::SYS_fanotify_mark,
            libc::SYS_io_uring_setup,
            libc::SYS_io_uring_enter,
            libc::SYS_io_uring_register,
        ],
    },
    Group {
        reason: "keyrings are not separated by any namespace",
        calls: &[libc::SYS_add_key, libc::SYS_request_key, libc::SYS_keyctl],
    },
    Group {
        reason: "belongs to the administrator of the machine",
        calls: &[
            libc::SYS_kexec_load,
            libc::SYS_init_module,
            libc::SYS_finit_module,
            libc::SYS_delete_module,
            libc::SYS_quotactl,
            libc::SYS_quotactl_fd,
            libc::SYS_acct,
            libc::SYS_swapon,
            libc::SYS_swapoff,
            libc::SYS_reboot,
            libc::SYS_settimeofday,
            libc::SYS_clock_settime,
            libc::SYS_adjtimex,
            libc::SYS_clock_adjtime,
            libc::SYS_syslog,
            libc::SYS_vhangup,
            libc::SYS_sethostname,
            libc::SYS_setdomainname,
            libc::SYS_nfsservctl,
            libc::SYS_lookup_dcookie,
            libc::SYS_migrate_pages,
            libc::SYS_move_pages,
        ],
    },
];

/// Denied with these arguments.
pub(crate) const RULES: &[Rule] = &[
    Rule {
        reason: "only Unix sockets: no TCP, UDP, raw, netlink, vsock, packet or crypto sockets",
        call: libc::SYS_socket,
        when: &[IsNot(0, AF_UNIX)],
    },
    Rule {
        reason: "only Unix sockets, in pairs as well",
        call: libc::SYS_socketpair,
        when: &[IsNot(0, AF_UNIX)],
    },
    Rule {
        reason: "the limits of process 1, which is the supervisor and may be of the same user",
        call: libc::SYS_prlimit64,
        when: &[Is(0, 1)],
    },
    Rule {
        reason: "a new namespace gives capabilities inside it",
        call: libc::SYS_clone,
        when: &[Has(0, NAMESPACES)],
    },
    Rule {
        reason: "types into a terminal (CVE-2017-5226)",
        call: libc::SYS_ioctl,
        when: &[Is(1, TIOCSTI)],
    },
    Rule {
        reason: "pastes into a console",
        call: libc::SYS_ioctl,
        when: &[Is(1, TIOCLINUX)],
    },
    Rule {
        reason: "loads a line discipline",
        call: libc::SYS_ioctl,
        when: &[Is(1, TIOCSETD)],
    },
    Rule {
        reason: "network interfaces of the host; what is about the socket itself stays",
        call: libc::SYS_ioctl,
        when: &[
            Masked(1, REQUEST_TYPE, SOCKET_REQUESTS),
            IsNot(1, FIOSETOWN),
            IsNot(1, SIOCSPGRP),
            IsNot(1, FIOGETOWN),
            IsNot(1, SIOCGPGRP),
            IsNot(1, SIOCATMARK),
        ],
    },
    Rule {
        reason: "a lease on a file keeps others waiting that open it",
        call: libc::SYS_fcntl,
        when: &[Is(1, F_SETLEASE)],
    },
    Rule {
        reason: "a delegation of a file or directory keeps others waiting",
        call: libc::SYS_fcntl,
        when: &[Is(1, F_SETDELEG)],
    },
    Rule {
        reason: "options that are not about the program itself, or hold memory of the kernel's",
        call: libc::SYS_prctl,
        when: prctl::OTHERS,
    },
    Rule {
        reason: "huge pages that the host has set aside, which no limit counts",
        call: libc::SYS_mmap,
        when: &[Has(3, MAP_HUGETLB)],
    },
    Rule {
        reason: "memory that grows without being counted",
        call: libc::SYS_mmap,
        when: &[Has(3, MAP_GROWSDOWN)],
    },
    Rule {
        reason: "huge pages that the host has set aside, which no limit counts",
        call: libc::SYS_memfd_create,
        when: &[Has(1, MFD_HUGETLB)],
    },
    Rule {
        reason: "huge pages that the host has set aside, which no limit counts",
        call: libc::SYS_shmget,
        when: &[Has(2, SHM_HUGETLB)],
    },
    Rule {
        reason: "personalities switch off address space randomisation; a query and the default stay",
        call: libc::SYS_personality,
        when: &[IsNot(0, 0), IsNot(0, u32::MAX)],
    },
];

/// Bits of a socket's type beside its flags.
const SOCKET_TYPE: u32 = 0xf;
const DATAGRAM: u32 = libc::SOCK_DGRAM as u32;
/// The kernel makes a datagram socket of a raw one.
const RAW: u32 = libc::SOCK_RAW as u32;

/// Denied where nothing keeps a Unix socket from those of others. What a stream is connected to is
/// looked at by the supervisor; a datagram can be sent anywhere by each message, and the address is
/// in memory, where no filter sees it.
pub(crate) const WITHOUT_SOCKET_SEPARATION: &[Rule] = &[
    Rule {
        reason: "a socket of another process could be reached with each message",
        call: libc::SYS_socket,
        when: &[Masked(1, SOCKET_TYPE, DATAGRAM)],
    },
    Rule {
        reason: "a socket of another process could be reached with each message",
        call: libc::SYS_socket,
        when: &[Masked(1, SOCKET_TYPE, RAW)],
    },
    Rule {
        reason: "also a socket of a pair reaches others",
        call: libc::SYS_socketpair,
        when: &[Masked(1, SOCKET_TYPE, DATAGRAM)],
    },
    Rule {
        reason: "also a socket of a pair reaches others",
        call: libc::SYS_socketpair,
        when: &[Masked(1, SOCKET_TYPE, RAW)],
    },
];

const SOL_SOCKET: u32 = libc::SOL_SOCKET as u32;
const SO_PASSCRED: u32 = libc::SO_PASSCRED as u32;
const SO_PASSPIDFD: u32 = 76;

/// Denied where the names of abstract sockets are the host's. Explicit names are the supervisor's
/// matter; with these options the kernel gives a socket one when it first sends or connects.
pub(crate) const WITHOUT_NETWORK_NAMESPACE: &[Rule] = &[
    Rule {
        reason: "the kernel names the socket",
        call: libc::SYS_setsockopt,
        when: &[Is(1, SOL_SOCKET), Is(2, SO_PASSCRED)],
    },
    Rule {
        reason: "the kernel names the socket",
        call: libc::SYS_setsockopt,
        when: &[Is(1, SOL_SOCKET), Is(2, SO_PASSPIDFD)],
    },
];

/// Denied where no IPC namespace separates these objects from the host's.
pub(crate) const WITHOUT_IPC_NAMESPACE: &[Rule] = &[
    Rule {
        reason: "shared memory of the host",
        call: libc::SYS_shmget,
        when: &[],
    },
    Rule {
        reason: "shared memory of the host",
        call: libc::SYS_shmat,
        when: &[],
    },
    Rule {
        reason: "shared memory of the host",
        call: libc::SYS_shmctl,
        when: &[],
    },
    Rule {
        reason: "semaphores of the host",
        call: libc::SYS_semget,
        when: &[],
    },
    Rule {
        reason: "semaphores of the host",
        call: libc::SYS_semop,
        when: &[],
    },
    Rule {
        reason: "semaphores of the host",
        call: libc::SYS_semtimedop,
        when: &[],
    },
    Rule {
        reason: "semaphores of the host",
        call: libc::SYS_semctl,
        when: &[],
    },
    Rule {
        reason: "message queues of the host",
        call: libc::SYS_msgget,
        when: &[],
    },
    Rule {
        reason: "message queues of the host",
        call: libc::SYS_msgsnd,
        when: &[],
    },
    Rule {
        reason: "message queues of the host",
        call: libc::SYS_msgrcv,
        when: &[],
    },
    Rule {
        reason: "message queues of the host",
        call: libc::SYS_msgctl,
        when: &[],
    },
    Rule {
        reason: "message queues of the host",
        call: libc::SYS_mq_open,
        when: &[],
    },
    Rule {
        reason: "message queues of the host",
        call: libc::SYS_mq_unlink,
        when: &[],
    },
];

/// Denied where the process numbers are the host's: these reach other processes of the same user.
/// Zero means the caller itself.
pub(crate) const WITHOUT_PID_NAMESPACE: &[Rule] = &[
    Rule {
        reason: "limits of others",
        call: libc::SYS_prlimit64,
        when: &[IsNot(0, 0)],
    },
    Rule {
        reason: "processors of others",
        call: libc::SYS_sched_setaffinity,
        when: &[IsNot(0, 0)],
    },
    Rule {
        reason: "scheduling of others",
        call: libc::SYS_sched_setparam,
        when: &[IsNot(0, 0)],
    },
    Rule {
        reason: "scheduling of others",
        call: libc::SYS_sched_setscheduler,
        when: &[IsNot(0, 0)],
    },
    Rule {
        reason: "scheduling of others",
        call: libc::SYS_sched_setattr,
        when: &[IsNot(0, 0)],
    },
    Rule {
        reason: "priority of others",
        call: libc::SYS_setpriority,
        when: &[IsNot(1, 0)],
    },
    Rule {
        reason: "priority of the user",
        call: libc::SYS_setpriority,
        when: &[IsNot(0, 0)],
    },
    Rule {
        reason: "priority of others",
        call: libc::SYS_ioprio_set,
        when: &[IsNot(1, 0)],
    },
    Rule {
        reason: "I/O priority of all processes of the user",
        call: libc::SYS_ioprio_set,
        when: &[IsNot(0, IOPRIO_WHO_PROCESS)],
    },
    Rule {
        reason: "numbers and users of others, through descriptors of them",
        call: libc::SYS_ioctl,
        when: &[Masked(1, REQUEST_TYPE, PROCESS_REQUESTS)],
    },
    Rule {
        reason: "memory of others",
        call: libc::SYS_process_mrelease,
        when: &[],
    },
];

/// Denied where the tree of files is the host's and Landlock, before Linux 6.2, has no say in who cuts
/// off a file. Who opens one for writing has been asked already.
pub(crate) const WITHOUT_TRUNCATION: &[Rule] = &[
    Rule {
        reason: "cuts off any file that the caller may write",
        call: libc::SYS_truncate,
        when: &[],
    },
    Rule {
        reason: "cuts off a file that is opened for reading",
        call: libc::SYS_openat,
        when: &[Has(2, O_TRUNC), Masked(2, ACCESS_MODE, 0)],
    },
    Rule {
        reason: "cuts off a file that is opened for neither reading nor writing",
        call: libc::SYS_openat,
        when: &[Has(2, O_TRUNC), Masked(2, ACCESS_MODE, ACCESS_MODE)],
    },
];

/// The older forms of these calls.
#[cfg(target_arch = "x86_64")]
pub(crate) const WITHOUT_TRUNCATION_OF_THIS_ARCHITECTURE: &[Rule] = &[
    Rule {
        reason: "cuts off a file that is opened for reading",
        call: libc::SYS_open,
        when: &[Has(1, O_TRUNC), Masked(1, ACCESS_MODE, 0)],
    },
    Rule {
        reason: "cuts off a file that is opened for neither reading nor writing",
        call: libc::SYS_open,
        when: &[Has(1, O_TRUNC), Masked(1, ACCESS_MODE, ACCESS_MODE)],
    },
];

/// There are none.
#[cfg(target_arch = "aarch64")]
pub(crate) const WITHOUT_TRUNCATION_OF_THIS_ARCHITECTURE: &[Rule] = &[];

const O_TRUNC: u64 = 0o1000;
/// Both bits together ask for neither.
const ACCESS_MODE: u32 = 3;

/// Denied where the tree of files is the host's: Landlock has no say in it. The requests change a
/// file through a descriptor that is open for reading alone.
pub(crate) const WITHOUT_PRIVATE_ROOT: &[Rule] = &[
    Rule {
        reason: "of use only with what is denied as well, and of each user there are few",
        call: libc::SYS_inotify_init1,
        when: &[],
    },
    #[cfg(target_arch = "x86_64")]
    Rule {
        reason: "of use only with what is denied as well, and of each user there are few",
        call: libc::SYS_inotify_init,
        when: &[],
    },
    Rule {
        reason: "tells the names of files that others make, in directories that may not be read",
        call: libc::SYS_inotify_add_watch,
        when: &[],
    },
    Rule {
        reason: "tells when something happens in directories that may not be read",
        call: libc::SYS_fcntl,
        when: &[Is(1, F_NOTIFY)],
    },
    Rule {
        reason: "requests of file systems: flags, encryption, verity; the two queries stay",
        call: libc::SYS_ioctl,
        when: &[
            Masked(1, REQUEST_TYPE, FS_REQUESTS),
            IsNot(1, FS_IOC_GETFLAGS),
            IsNot(1, FS_IOC_FIEMAP),
        ],
    },
    Rule {
        reason: "sets a file's flags and project",
        call: libc::SYS_ioctl,
        when: &[Is(1, FS_IOC_FSSETXATTR)],
    },
    Rule {
        reason: "sets a file's version",
        call: libc::SYS_ioctl,
        when: &[Is(1, FS_IOC_SETVERSION)],
    },
    Rule {
        reason: "requests of f2fs, some of which cut off a file",
        call: libc::SYS_ioctl,
        when: &[Masked(1, REQUEST_TYPE, F2FS_REQUESTS)],
    },
    Rule {
        reason: "requests of btrfs make and remove subvolumes; clones between open files stay",
        call: libc::SYS_ioctl,
        when: &[
            Masked(1, REQUEST_TYPE, BTRFS_REQUESTS),
            IsNot(1, FICLONE),
            IsNot(1, FICLONERANGE),
            IsNot(1, FIDEDUPERANGE),
        ],
    },
];

/// Bits of a request that name its family.
const REQUEST_TYPE: u32 = 0xff00;
const FS_REQUESTS: u32 = (b'f' as u32) << 8;
const FS_IOC_GETFLAGS: u32 = 0x8008_6601;
const FS_IOC_FIEMAP: u32 = 0xC020_660B;
const FS_IOC_FSSETXATTR: u32 = 0x401C_5820;
const FS_IOC_SETVERSION: u32 = 0x4008_7602;
const BTRFS_REQUESTS: u32 = 0x9400;
const F2FS_REQUESTS: u32 = 0xf500;
const FICLONE: u32 = 0x4004_9409;
const FICLONERANGE: u32 = 0x4020_940D;
const FIDEDUPERANGE: u32 = 0xC018_9436;

/// The sign of an `int`.
const NEGATIVE: u32 = 1 << 31;

/// Denied where a signal could reach other processes of the same user: no process namespace, no
/// user of its own, and a Landlock before Linux 6.12. What names a process is not known to the
/// filter as its own, so the plain calls are the supervisor's ([`super::mediate::SIGNALS`]).
pub(crate) const WITHOUT_SIGNAL_SEPARATION: &[Rule] = &[
    Rule {
        reason: "signals to process groups and to all processes of the user",
        call: libc::SYS_kill,
        when: &[Masked(0, NEGATIVE, NEGATIVE)],
    },
    Rule {
        reason: "signals to others",
        call: libc::SYS_rt_sigqueueinfo,
        when: &[],
    },
    Rule {
        reason: "signals to others",
        call: libc::SYS_rt_tgsigqueueinfo,
        when: &[],
    },
    Rule {
        reason: "signals to others",
        call: libc::SYS_pidfd_send_signal,
        when: &[],
    },
    Rule {
        reason: "has the kernel signal others",
        call: libc::SYS_fcntl,
        when: &[Is(1, F_SETOWN)],
    },
    Rule {
        reason: "has the kernel signal others",
        call: libc::SYS_fcntl,
        when: &[Is(1, F_SETOWN_EX)],
    },
    Rule {
        reason: "has the kernel signal others",
        call: libc::SYS_ioctl,
        when: &[Is(1, FIOSETOWN)],
    },
    Rule {
        reason: "has the kernel signal others",
        call: libc::SYS_ioctl,
        when: &[Is(1, SIOCSPGRP)],
    },
];

/// Denied where what the program makes stays: a program with the caller's user as its owner and a
/// set-user-ID bit would give the caller's rights to whoever runs it later.
pub(crate) const WITH_LASTING_FILES: &[Rule] = &[
    Rule {
        reason: "set-user-ID or set-group-ID",
        call: libc::SYS_fchmod,
        when: &[Has(1, SET_ID)],
    },
    Rule {
        reason: "set-user-ID or set-group-ID",
        call: libc::SYS_fchmodat,
        when: &[Has(2, SET_ID)],
    },
    Rule {
        reason: "set-user-ID or set-group-ID",
        call: 452,
        when: &[Has(2, SET_ID)],
    },
    Rule {
        reason: "set-user-ID or set-group-ID from the beginning",
        call: libc::SYS_mknodat,
        when: &[Has(2, SET_ID)],
    },
    Rule {
        reason: "set-user-ID or set-group-ID from the beginning",
        call: libc::SYS_openat,
        when: &[Has(2, CREATES), Has(3, SET_ID)],
    },
];

/// The older forms of these calls.
#[cfg(target_arch = "x86_64")]
pub(crate) const WITH_LASTING_FILES_OF_THIS_ARCHITECTURE: &[Rule] = &[
    Rule {
        reason: "set-user-ID or set-group-ID",
        call: libc::SYS_chmod,
        when: &[Has(1, SET_ID)],
    },
    Rule {
        reason: "set-user-ID or set-group-ID from the beginning",
        call: libc::SYS_mknod,
        when: &[Has(1, SET_ID)],
    },
    Rule {
        reason: "set-user-ID or set-group-ID from the beginning",
        call: libc::SYS_creat,
        when: &[Has(1, SET_ID)],
    },
    Rule {
        reason: "set-user-ID or set-group-ID from the beginning",
        call: libc::SYS_open,
        when: &[Has(1, CREATES), Has(2, SET_ID)],
    },
];

/// There are none.
#[cfg(target_arch = "aarch64")]
pub(crate) const WITH_LASTING_FILES_OF_THIS_ARCHITECTURE: &[Rule] = &[];
