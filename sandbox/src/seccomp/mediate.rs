//! Rare calls that Landlock has no say in, which the supervisor performs on the program's behalf.
//!
//! Only these are ever notified; a call that programs make often, such as `openat`, `read` or
//! `close`, must never be listed: a notification costs two changes of process. Where the kernel
//! gives no notifications, the same lists are denied.

use super::Condition::{Has, IsNot};
use super::{Group, Rule};

/// Where the tree of files is the host's.
pub(crate) const METADATA: &[Group] = &[
    Group {
        reason: "modes",
        calls: &[
            libc::SYS_fchmod,
            libc::SYS_fchmodat,
            452, // fchmodat2
        ],
    },
    Group {
        reason: "owners",
        calls: &[libc::SYS_fchown, libc::SYS_fchownat],
    },
    Group {
        reason: "times",
        calls: &[libc::SYS_utimensat],
    },
    Group {
        reason: "extended attributes",
        calls: &[
            libc::SYS_setxattr,
            libc::SYS_lsetxattr,
            libc::SYS_fsetxattr,
            libc::SYS_removexattr,
            libc::SYS_lremovexattr,
            libc::SYS_fremovexattr,
            463, // setxattrat
            466, // removexattrat
        ],
    },
];

/// The older forms.
#[cfg(target_arch = "x86_64")]
pub(crate) const METADATA_OF_THIS_ARCHITECTURE: &[Group] = &[Group {
    reason: "older forms",
    calls: &[
        libc::SYS_chmod,
        libc::SYS_chown,
        libc::SYS_lchown,
        libc::SYS_utime,
        libc::SYS_utimes,
        libc::SYS_futimesat,
    ],
}];

/// There are none.
#[cfg(target_arch = "aarch64")]
pub(crate) const METADATA_OF_THIS_ARCHITECTURE: &[Group] = &[];

/// Where nothing keeps a Unix socket from those of others.
pub(crate) const SOCKETS: &[Group] = &[Group {
    reason: "a socket of another process could be reached by its path",
    calls: &[libc::SYS_connect],
}];

/// Where the names of abstract sockets are the host's.
pub(crate) const NAMES: &[Group] = &[Group {
    reason: "processes of others connect to a name that a service is expected at",
    calls: &[libc::SYS_bind],
}];

/// Where a signal could reach other processes of the same user: the supervisor knows which are the
/// sandbox's.
pub(crate) const SIGNALS: &[Rule] = &[
    Rule {
        reason: "signals to others; zero is the own process group",
        call: libc::SYS_kill,
        when: &[IsNot(0, 0)],
    },
    Rule {
        reason: "signals to threads of others",
        call: libc::SYS_tkill,
        when: &[],
    },
    Rule {
        reason: "signals to threads of others",
        call: libc::SYS_tgkill,
        when: &[],
    },
];

/// Bits of `open` that make or change a file: writing, `O_CREAT`, `O_TRUNC`.
const CHANGES: u64 = 0o3 | 0o100 | 0o1000;

/// What a supervised program asks for before it writes.
pub(crate) const WRITE: &[Rule] = &[
    Rule {
        reason: "opens for writing, or makes",
        call: libc::SYS_openat,
        when: &[Has(2, CHANGES)],
    },
    Rule {
        reason: "cuts off",
        call: libc::SYS_truncate,
        when: &[],
    },
];

/// The older forms.
#[cfg(target_arch = "x86_64")]
pub(crate) const WRITE_OF_THIS_ARCHITECTURE: &[Rule] = &[
    Rule {
        reason: "opens for writing, or makes",
        call: libc::SYS_open,
        when: &[Has(1, CHANGES)],
    },
    Rule {
        reason: "makes",
        call: libc::SYS_creat,
        when: &[],
    },
];

/// There are none.
#[cfg(target_arch = "aarch64")]
pub(crate) const WRITE_OF_THIS_ARCHITECTURE: &[Rule] = &[];

/// What a supervised program asks for before it deletes.
pub(crate) const DELETE: &[libc::c_long] = &[
    libc::SYS_unlinkat,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_unlink,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_rmdir,
];

/// What a supervised program asks for before it renames, or before it deletes by renaming something
/// over it.
pub(crate) const RENAME: &[libc::c_long] = &[
    libc::SYS_renameat,
    libc::SYS_renameat2,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_rename,
];

/// What a supervised program asks for before it executes another one.
pub(crate) const EXEC: &[libc::c_long] = &[libc::SYS_execve, libc::SYS_execveat];
