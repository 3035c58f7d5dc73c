//! Options of `prctl` that a program may use: what is about itself alone and holds no memory of the
//! kernel's that no limit counts.
//!
//! Left out are `PR_SET_MM` (what `/proc` tells of a process), `PR_SCHED_CORE` (keeps processors from
//! others), `PR_SET_MEMORY_MERGE` (tells what others have in memory), `PR_SET_IO_FLUSHER`,
//! `PR_FUTEX_HASH` (holds as much of the kernel's memory as asked for), and whatever is newer than
//! this list.
//!
//! Source: `linux/prctl.h` of Linux 6.18.

use super::Condition::{self, IsNot};

/// None of the options that are allowed.
pub(crate) const OTHERS: &[Condition] = &[
    IsNot(0, 1),           // PR_SET_PDEATHSIG
    IsNot(0, 2),           // PR_GET_PDEATHSIG
    IsNot(0, 3),           // PR_GET_DUMPABLE
    IsNot(0, 4),           // PR_SET_DUMPABLE
    IsNot(0, 5),           // PR_GET_UNALIGN
    IsNot(0, 6),           // PR_SET_UNALIGN
    IsNot(0, 7),           // PR_GET_KEEPCAPS
    IsNot(0, 8),           // PR_SET_KEEPCAPS: locked
    IsNot(0, 13),          // PR_GET_TIMING
    IsNot(0, 14),          // PR_SET_TIMING
    IsNot(0, 15),          // PR_SET_NAME
    IsNot(0, 16),          // PR_GET_NAME
    IsNot(0, 21),          // PR_GET_SECCOMP
    IsNot(0, 22),          // PR_SET_SECCOMP: adds to the filter
    IsNot(0, 23),          // PR_CAPBSET_READ
    IsNot(0, 24),          // PR_CAPBSET_DROP
    IsNot(0, 25),          // PR_GET_TSC
    IsNot(0, 26),          // PR_SET_TSC
    IsNot(0, 27),          // PR_GET_SECUREBITS
    IsNot(0, 28),          // PR_SET_SECUREBITS: locked
    IsNot(0, 29),          // PR_SET_TIMERSLACK
    IsNot(0, 30),          // PR_GET_TIMERSLACK
    IsNot(0, 31),          // PR_TASK_PERF_EVENTS_DISABLE: its own, of which it has none
    IsNot(0, 32),          // PR_TASK_PERF_EVENTS_ENABLE
    IsNot(0, 33),          // PR_MCE_KILL
    IsNot(0, 34),          // PR_MCE_KILL_GET
    IsNot(0, 36),          // PR_SET_CHILD_SUBREAPER
    IsNot(0, 37),          // PR_GET_CHILD_SUBREAPER
    IsNot(0, 38),          // PR_SET_NO_NEW_PRIVS
    IsNot(0, 39),          // PR_GET_NO_NEW_PRIVS
    IsNot(0, 40),          // PR_GET_TID_ADDRESS
    IsNot(0, 41),          // PR_SET_THP_DISABLE
    IsNot(0, 42),          // PR_GET_THP_DISABLE
    IsNot(0, 47),          // PR_CAP_AMBIENT: there are none
    IsNot(0, 50),          // PR_SVE_SET_VL
    IsNot(0, 51),          // PR_SVE_GET_VL
    IsNot(0, 52),          // PR_GET_SPECULATION_CTRL
    IsNot(0, 53),          // PR_SET_SPECULATION_CTRL
    IsNot(0, 54),          // PR_PAC_RESET_KEYS
    IsNot(0, 55),          // PR_SET_TAGGED_ADDR_CTRL
    IsNot(0, 56),          // PR_GET_TAGGED_ADDR_CTRL
    IsNot(0, 59),          // PR_SET_SYSCALL_USER_DISPATCH
    IsNot(0, 60),          // PR_PAC_SET_ENABLED_KEYS
    IsNot(0, 61),          // PR_PAC_GET_ENABLED_KEYS
    IsNot(0, 63),          // PR_SME_SET_VL
    IsNot(0, 64),          // PR_SME_GET_VL
    IsNot(0, 65),          // PR_SET_MDWE
    IsNot(0, 66),          // PR_GET_MDWE
    IsNot(0, 74),          // PR_GET_SHADOW_STACK_STATUS
    IsNot(0, 75),          // PR_SET_SHADOW_STACK_STATUS
    IsNot(0, 76),          // PR_LOCK_SHADOW_STACK_STATUS
    IsNot(0, 0x4155_5856), // PR_GET_AUXV
    IsNot(0, 0x5356_4d41), // PR_SET_VMA: names for memory
    IsNot(0, 0x5961_6d61), // PR_SET_PTRACER: nobody may trace
];
