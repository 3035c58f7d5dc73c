//! Resource limits of the program's processes.
//!
//! Memory: where a control group bounds it, nothing is set here. Elsewhere it is `RLIMIT_DATA`,
//! which counts private writable memory of each process. `RLIMIT_AS` would also count what is
//! merely reserved, and Node, Go and the JVM reserve many gigabytes at their start. Neither bounds
//! shared memory that no file system holds, nor the sum over processes; only the control group
//! does.
//!
//! Nothing is raised: the caller's own hard limits stay the upper bound.

use crate::Limits;
use crate::plan::{Identity, Rlimit};
use crate::wire::Cause;
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::time::Duration;

/// Without a control group, less memory than this cannot hold any program: `execve` itself would
/// fail half-way, with no better sign than a killed process.
const LEAST_MEMORY: u64 = 128 << 10;

/// In a control group what the kernel itself keeps for a process counts as well. Where a process
/// that shares its parent's memory until it executes gets no memory for its page tables, the kernel
/// finds nobody to kill, and the process would try for ever.
const LEAST_MEMORY_IN_GROUP: u64 = 1 << 20;

/// What other layers bound already.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Bounded {
    pub(crate) memory: bool,
    pub(crate) processes: bool,
    /// The workspace as a whole.
    pub(crate) workspace: bool,
}

/// The limit on the size of a file: where nothing bounds the workspace as a whole, no file is larger
/// than that may be.
pub(crate) fn file_size(limits: &Limits, workspace_is_bounded: bool) -> Option<u64> {
    let whole = limits.workspace.filter(|_| !workspace_is_bounded);
    limits.file_size.into_iter().chain(whole).min()
}

/// A limit that is hit before the program runs.
pub(crate) fn spent(limits: &Limits, bounded: Bounded) -> Option<Cause> {
    let least = if bounded.memory {
        LEAST_MEMORY_IN_GROUP
    } else {
        LEAST_MEMORY
    };
    if limits.wall == Some(Duration::ZERO) {
        Some(Cause::TimedOut)
    } else if limits.cpu == Some(Duration::ZERO) {
        Some(Cause::CpuExceeded)
    } else if limits.memory.is_some_and(|bytes| bytes < least) {
        Some(Cause::MemoryExceeded)
    } else if limits.processes == Some(0) {
        Some(Cause::NoProcesses)
    } else {
        None
    }
}

/// Seconds of CPU time that a program which waits for what it is to do may have used before.
const START: u64 = 1;

/// The limits to be set in the program's process. One that `waits` has used CPU time before its
/// limit begins to count; the supervisor counts exactly.
pub(crate) fn rlimits(
    limits: &Limits,
    bounded: Bounded,
    identity: &Identity,
    waits: bool,
) -> Vec<Rlimit> {
    let mut set = Vec::new();
    let mut add = |resource, soft: Option<u64>, hard: Option<u64>| {
        if let (Some(soft), Some(hard)) = (soft, hard) {
            let most = hard_limit(resource);
            set.push(Rlimit {
                resource,
                soft: soft.min(most),
                hard: hard.min(most),
            });
        }
    };
    let same = |value: Option<u64>| (value, value);
    // A core file would be written by the kernel, outside all accounting.
    add(number(libc::RLIMIT_CORE), Some(0), Some(0));
    // Of the machine, not of the program: what the caller has is no measure.
    for (resource, most) in [
        (number(libc::RLIMIT_MEMLOCK), 8 << 20),
        (number(libc::RLIMIT_MSGQUEUE), 800 << 10),
        (number(libc::RLIMIT_SIGPENDING), 4096),
        (number(libc::RLIMIT_RTPRIO), 0),
        (number(libc::RLIMIT_NICE), 0),
    ] {
        add(resource, Some(most), Some(most));
    }
    let (soft, hard) = same(limits.open_files);
    add(number(libc::RLIMIT_NOFILE), soft, hard);
    let (soft, hard) = same(file_size(limits, bounded.workspace));
    add(number(libc::RLIMIT_FSIZE), soft, hard);
    let seconds = limits.cpu.map(|time| {
        time.as_secs()
            .saturating_add(u64::from(time.subsec_nanos() > 0))
            .saturating_add(if waits { START } else { 0 })
    });
    // A second later the kernel kills what ignores SIGXCPU.
    add(
        number(libc::RLIMIT_CPU),
        seconds,
        seconds.map(|seconds| seconds.saturating_add(1)),
    );
    if !bounded.memory {
        let (soft, hard) = same(limits.memory);
        add(number(libc::RLIMIT_DATA), soft, hard);
    }
    let (soft, hard) = same(processes(limits, bounded, identity));
    add(number(libc::RLIMIT_NPROC), soft, hard);
    set
}

/// A resource's number. The C libraries disagree on its type.
fn number(resource: impl TryInto<u32>) -> u32 {
    resource.try_into().unwrap_or(u32::MAX)
}

/// `RLIMIT_NPROC` counts all processes of a user, so others of the same user come on top. Where there is
/// a control group, that is to be reached first: it tells so.
fn processes(limits: &Limits, bounded: Bounded, identity: &Identity) -> Option<u64> {
    let limit = limits.processes?.saturating_add(bounded.processes.into());
    match identity {
        Identity::Own { .. } => Some(limit),
        // The supervisor is of the same user, and the only other one in the user namespace.
        Identity::Mapped { .. } => Some(limit.saturating_add(1)),
        Identity::Same { .. } if bounded.processes => None,
        Identity::Same { uid, .. } => Some(limit.saturating_add(tasks_of(*uid)).saturating_add(1)),
    }
}

/// Threads that a user has now.
fn tasks_of(uid: u32) -> u64 {
    let Ok(entries) = fs::read_dir("/proc") else {
        return 0;
    };
    let processes = entries.flatten().filter(|entry| {
        entry
            .file_name()
            .to_str()
            .is_some_and(|name| name.parse::<u32>().is_ok())
            && entry.metadata().is_ok_and(|metadata| metadata.uid() == uid)
    });
    processes.map(|entry| threads(&entry.path())).sum()
}

fn threads(process: &std::path::Path) -> u64 {
    fs::read_dir(process.join("task")).map_or(1, |tasks| tasks.count() as u64)
}

/// The hard limit of this process.
fn hard_limit(resource: u32) -> u64 {
    let mut limit = libc::rlimit64 {
        rlim_cur: 0,
        rlim_max: u64::MAX,
    };
    let args = [0, resource as usize, 0, &raw mut limit as usize];
    #[expect(unsafe_code, reason = "the standard library does not know limits")]
    // SAFETY: the kernel writes one `rlimit64`, which outlives the call.
    let _ = unsafe { crate::sys::call(libc::SYS_prlimit64, args) };
    limit.rlim_max
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOTHING: Bounded = Bounded {
        memory: false,
        processes: false,
        workspace: true,
    };
    const OWN: Identity = Identity::Own { base: 1, span: 1 };

    fn soft(limits: &Limits, resource: u32) -> Option<u64> {
        let set = rlimits(limits, NOTHING, &OWN, false);
        set.iter()
            .find(|limit| limit.resource == resource)
            .map(|limit| limit.soft)
    }

    #[test]
    fn zero_is_hit_at_once_and_nothing_overflows() {
        let limits = |change: fn(&mut Limits)| {
            let mut limits = Limits::default();
            change(&mut limits);
            limits
        };
        assert_eq!(spent(&Limits::default(), NOTHING), None);
        let wall = limits(|limits| limits.wall = Some(Duration::ZERO));
        assert_eq!(spent(&wall, NOTHING), Some(Cause::TimedOut));
        let cpu = limits(|limits| limits.cpu = Some(Duration::ZERO));
        assert_eq!(spent(&cpu, NOTHING), Some(Cause::CpuExceeded));
        let memory = limits(|limits| limits.memory = Some(0));
        assert_eq!(spent(&memory, NOTHING), Some(Cause::MemoryExceeded));
        let processes = limits(|limits| limits.processes = Some(0));
        assert_eq!(spent(&processes, NOTHING), Some(Cause::NoProcesses));
        let most = Limits {
            wall: Some(Duration::MAX),
            cpu: Some(Duration::MAX),
            memory: Some(u64::MAX),
            processes: Some(u64::MAX),
            open_files: Some(u64::MAX),
            file_size: Some(u64::MAX),
            workspace: Some(u64::MAX),
            output: Some(u64::MAX),
            processors: Some(u8::MAX),
        };
        assert_eq!(spent(&most, NOTHING), None);
        for limit in rlimits(&most, NOTHING, &Identity::Same { uid: 0, gid: 0 }, false) {
            assert!(limit.soft <= limit.hard);
        }
    }

    #[test]
    fn cpu_time_is_rounded_up_to_seconds() {
        let limits = Limits {
            cpu: Some(Duration::from_millis(1500)),
            ..Limits::default()
        };
        assert_eq!(soft(&limits, number(libc::RLIMIT_CPU)), Some(2));
        let waits = rlimits(&limits, NOTHING, &OWN, true);
        assert!(
            waits
                .iter()
                .any(|limit| limit.resource == number(libc::RLIMIT_CPU) && limit.soft == 3)
        );
        assert_eq!(soft(&limits, number(libc::RLIMIT_CORE)), Some(0));
        assert_eq!(soft(&limits, number(libc::RLIMIT_FSIZE)), None);
    }
}
