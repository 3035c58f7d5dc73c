//! The system call filters: an allow list of system calls, and a deny list of arguments.
//!
//! One filter answers every call:
//! 1. A call that [`allow`] does not list gives `ENOSYS`, as on a kernel that does not have it, so
//!    that a C library newer than the list falls back to an older call.
//! 2. Calls and arguments that [`deny`] lists, with which a sandboxed program has no business, give
//!    `EPERM`. Sockets of every family but Unix are here.
//!
//! 3. Rare calls that other layers leave open ([`mediate`]) are held until the supervisor has
//!    performed them.
//!
//! A call of a foreign architecture (32-bit code on a 64-bit kernel) kills the process; x32 calls
//! are in no list. The lists are data; [`bpf`] turns them into a program, once per process.

pub(crate) mod allow;
pub(crate) mod bpf;
pub(crate) mod deny;
#[cfg(any(test, feature = "fuzzing"))]
mod kernel;
pub(crate) mod mediate;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod misbehave;
#[cfg(any(test, feature = "fuzzing"))]
mod reference;

use crate::sys::{self, Errno, Sys};
use bpf::{Answer, Instruction, Table, Verdict};
use ringfence_protocol::Operation;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::OnceLock;

/// Calls that are listed for one reason.
#[derive(Debug)]
pub(crate) struct Group {
    /// Why they are listed.
    #[cfg_attr(
        not(test),
        expect(dead_code, reason = "said beside the data; a test demands it")
    )]
    pub(crate) reason: &'static str,
    /// Their numbers on this architecture.
    pub(crate) calls: &'static [libc::c_long],
}

/// One condition on an argument; conditions of a rule hold together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Condition {
    /// The low 32 bits, which is all the kernel looks at for an `int`, are this value.
    Is(u8, u32),
    /// The low 32 bits are not this value.
    IsNot(u8, u32),
    /// All 64 bits are this value.
    Whole(u8, u64),
    /// Some of these bits are set, of all 64.
    Has(u8, u64),
    /// These bits of the low 32 have this value.
    Masked(u8, u32, u32),
}

/// A call that is denied with these arguments.
#[derive(Debug)]
pub(crate) struct Rule {
    /// Why.
    #[cfg_attr(
        not(test),
        expect(dead_code, reason = "said beside the data; a test demands it")
    )]
    pub(crate) reason: &'static str,
    /// The call's number.
    pub(crate) call: libc::c_long,
    /// When it is denied. All of these together.
    pub(crate) when: &'static [Condition],
}

/// A filter could not be made. A test compiles every variant, so that this does not happen.
#[derive(Debug, Clone, thiserror::Error)]
#[error("the system call filter has more instructions than the kernel takes")]
pub(crate) struct FilterError;

/// What other layers separate, so that the filter need not close it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Separated {
    /// Unix sockets of others: abstract ones by Landlock or a network namespace, those with a path
    /// by Landlock or a private root.
    pub(crate) sockets: bool,
    /// Names of abstract Unix sockets, which others could connect to, by a namespace.
    pub(crate) names: bool,
    /// System V IPC and message queues, by a namespace.
    pub(crate) ipc: bool,
    /// Process numbers, by a namespace.
    pub(crate) pids: bool,
    /// Processes that a signal could reach, by a namespace, by Landlock or by a user of its own.
    pub(crate) signals: bool,
    /// The host's tree of files, by a private root.
    pub(crate) root: bool,
    /// Files that outlive the sandbox: there are none that the program can make or change.
    pub(crate) lasting_files: bool,
}

impl Separated {
    /// How many there are.
    const VARIANTS: usize = 1 << 7;

    fn index(self) -> usize {
        let Self {
            sockets,
            names,
            ipc,
            pids,
            signals,
            root,
            lasting_files,
        } = self;
        let bits = [sockets, ipc, pids, signals, root, lasting_files, names];
        bits.iter()
            .enumerate()
            .fold(0, |index, (bit, set)| index | usize::from(*set) << bit)
    }

    /// Every variant.
    #[cfg(test)]
    pub(crate) fn all() -> impl Iterator<Item = Self> {
        (0..Self::VARIANTS).map(|bits| Self {
            sockets: bits & 1 != 0,
            ipc: bits & 2 != 0,
            pids: bits & 4 != 0,
            signals: bits & 8 != 0,
            root: bits & 16 != 0,
            lasting_files: bits & 32 != 0,
            names: bits & 64 != 0,
        })
    }
}

/// The filter, compiled on first use.
pub(crate) fn filter(separated: Separated) -> Result<&'static [Instruction], FilterError> {
    static COMPILED: [OnceLock<Option<Vec<Instruction>>>; Separated::VARIANTS] =
        [const { OnceLock::new() }; Separated::VARIANTS];
    COMPILED
        .get(separated.index())
        .and_then(|cell| {
            cell.get_or_init(|| bpf::assemble(&table(separated)))
                .as_deref()
        })
        .ok_or(FilterError)
}

/// The same filter, denying the calls that it holds. `None`: it holds none.
pub(crate) fn refusing(
    separated: Separated,
) -> Result<Option<&'static [Instruction]>, FilterError> {
    static COMPILED: [OnceLock<Option<Vec<Instruction>>>; Separated::VARIANTS] =
        [const { OnceLock::new() }; Separated::VARIANTS];
    if separated.root && separated.sockets && separated.names {
        return Ok(None);
    }
    let cell = COMPILED.get(separated.index()).ok_or(FilterError)?;
    let refuse = |table: Table| {
        let refused = Answer::Errno(small(libc::EPERM));
        table.with_held_calls_answered(refused)
    };
    cell.get_or_init(|| bpf::assemble(&refuse(table(separated))))
        .as_deref()
        .map(Some)
        .ok_or(FilterError)
}

/// The filter of a supervised program, which also holds what the program has to ask for.
/// Connections are among what other layers leave open then.
///
/// The program's own first `execve` is made before anybody could answer; it passes by a number that
/// only this filter and who makes that call know, in a register that the call has no use for.
pub(crate) fn supervised(
    separated: Separated,
    operations: &BTreeSet<Operation>,
    pass: u64,
) -> Result<Vec<Instruction>, FilterError> {
    bpf::assemble(&supervised_table(separated, operations, pass)).ok_or(FilterError)
}

/// The argument of `execve` that carries the pass.
const PASS: u8 = 5;

fn supervised_table(separated: Separated, operations: &BTreeSet<Operation>, pass: u64) -> Table {
    let mut table = table(separated);
    if operations.contains(&Operation::Write) {
        // Its flags are in memory, where no filter can see them.
        table.calls.remove(&number(libc::SYS_openat2));
        let lists = [mediate::WRITE, mediate::WRITE_OF_THIS_ARCHITECTURE];
        for rule in lists.into_iter().flatten() {
            table.hold(number(rule.call), rule.when);
        }
    }
    for (operation, calls) in [
        (Operation::Delete, mediate::DELETE),
        (Operation::Rename, mediate::RENAME),
        (Operation::Exec, mediate::EXEC),
    ] {
        if operations.contains(&operation) {
            for call in calls {
                table.hold(number(*call), &[]);
            }
        }
    }
    if operations.contains(&Operation::Exec) {
        table.pass(number(libc::SYS_execve), Condition::Whole(PASS, pass));
    }
    table
}

/// Every call of the lists, and its answer.
pub(crate) fn table(separated: Separated) -> Table {
    let refused = Answer::Errno(small(libc::EPERM));
    let allowed = allow::GROUPS
        .iter()
        .chain(allow::ARCH_GROUPS)
        .flat_map(|group| group.calls)
        // Its mode is in memory, where no filter can see it.
        .filter(|call| separated.lasting_files || **call != libc::SYS_openat2)
        .map(|call| (number(*call), Verdict::always(Answer::Allow)));
    let denied = deny::GROUPS
        .iter()
        .flat_map(|group| group.calls)
        .map(|call| (number(*call), Verdict::always(refused)));
    let mut calls: BTreeMap<u32, Verdict> = allowed.chain(denied).collect();

    let mut lists = vec![deny::RULES];
    if !separated.sockets {
        lists.push(deny::WITHOUT_SOCKET_SEPARATION);
    }
    if !separated.names {
        lists.push(deny::WITHOUT_NETWORK_NAMESPACE);
    }
    if !separated.ipc {
        lists.push(deny::WITHOUT_IPC_NAMESPACE);
    }
    if !separated.pids {
        lists.push(deny::WITHOUT_PID_NAMESPACE);
    }
    if !separated.signals {
        lists.push(deny::WITHOUT_SIGNAL_SEPARATION);
    }
    if !separated.root {
        lists.push(deny::WITHOUT_PRIVATE_ROOT);
    }
    if !separated.lasting_files {
        lists.push(deny::WITH_LASTING_FILES);
        lists.push(deny::WITH_LASTING_FILES_OF_THIS_ARCHITECTURE);
    }
    for rule in lists.iter().copied().flatten() {
        let verdict = calls.entry(number(rule.call));
        let verdict = verdict.or_insert(Verdict::always(refused));
        verdict.rules.push((rule.when.into(), refused));
    }
    let mut table = Table {
        calls,
        missing: Answer::Errno(small(libc::ENOSYS)),
    };
    let mut groups = Vec::new();
    if !separated.root {
        groups.extend(mediate::METADATA);
        groups.extend(mediate::METADATA_OF_THIS_ARCHITECTURE);
    }
    if !separated.sockets {
        groups.extend(mediate::SOCKETS);
    }
    if !separated.names {
        groups.extend(mediate::NAMES);
    }
    for call in groups.iter().flat_map(|group| group.calls) {
        table.hold(number(*call), &[]);
    }
    table
}

/// Puts a filter in force for the calling thread and what it starts. With the flag for a listener
/// the result is its descriptor.
pub(crate) fn install(program: &[Instruction], flags: usize) -> Sys<usize> {
    let len = u16::try_from(program.len()).map_err(|_range| Errno(libc::EINVAL))?;
    let filter = libc::sock_fprog {
        len,
        filter: program.as_ptr().cast_mut(),
    };
    let args = [
        libc::SECCOMP_SET_MODE_FILTER as usize,
        flags,
        &raw const filter as usize,
    ];
    #[expect(unsafe_code, reason = "a system call")]
    // SAFETY: the kernel reads the header and `len` instructions; both outlive the call.
    unsafe {
        sys::call(libc::SYS_seccomp, args)
    }
}

fn number(call: libc::c_long) -> u32 {
    u32::try_from(call).unwrap_or(u32::MAX)
}

fn small(errno: i32) -> u16 {
    u16::try_from(errno).unwrap_or(u16::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn every_variant_has_its_own_filter() {
        let seen: BTreeSet<usize> = Separated::all().map(Separated::index).collect();
        assert_eq!(seen.len(), Separated::VARIANTS);
    }

    #[test]
    fn what_is_held_can_be_refused_instead() {
        let everything: BTreeSet<Operation> = Operation::ALL.into();
        for separated in Separated::all() {
            let holds = |table: &Table| table.calls.values().any(Verdict::holds);
            let plain = table(separated);
            let Separated {
                root,
                sockets,
                names,
                ..
            } = separated;
            assert_eq!(holds(&plain), !root || !sockets || !names);
            assert_eq!(holds(&plain), refusing(separated).unwrap().is_some());
            let refuse = Answer::Errno(small(libc::EPERM));
            assert!(!holds(&plain.with_held_calls_answered(refuse)));
            assert!(holds(&supervised_table(separated, &everything, 1)));
            supervised(separated, &everything, 1).unwrap();
        }
    }

    #[test]
    fn only_the_pass_lets_execve_through() {
        let pass = 0x8123_4567_89ab_cdef;
        for separated in Separated::all() {
            let program = supervised(separated, &[Operation::Exec].into(), pass).unwrap();
            kernel::check(&program).unwrap();
            let answer = |call, last| {
                let call = kernel::Call {
                    number: number(call),
                    arch: reference::ARCH,
                    instruction_pointer: 0,
                    arguments: [last, last, last, last, last, last],
                };
                kernel::run(&program, &call)
            };
            let held = libc::SECCOMP_RET_USER_NOTIF;
            assert_eq!(answer(libc::SYS_execve, pass), libc::SECCOMP_RET_ALLOW);
            assert_eq!(answer(libc::SYS_execveat, pass), held);
            let near = (0..64).map(|bit| pass ^ 1 << bit);
            for other in near.chain([0, u64::MAX, pass >> 32, pass << 32]) {
                assert_eq!(answer(libc::SYS_execve, other), held, "{other:x}");
            }
        }
    }

    #[test]
    fn signals_stay_in_the_process_group_where_nothing_else_keeps_them() {
        let separated = Separated {
            sockets: true,
            names: true,
            ipc: true,
            pids: false,
            signals: false,
            root: true,
            lasting_files: true,
        };
        let answers = std::thread::spawn(move || {
            sys::prctl(libc::PR_SET_NO_NEW_PRIVS, [1, 0, 0, 0]).unwrap();
            install(filter(separated).unwrap(), 0).unwrap();
            let me = std::process::id() as usize;
            let everybody = usize::MAX;
            [
                (libc::SYS_kill, [0, 0, 0, 0]),
                (libc::SYS_kill, [me, 0, 0, 0]),
                (libc::SYS_kill, [everybody, 0, 0, 0]),
                (libc::SYS_tkill, [me, 0, 0, 0]),
                (libc::SYS_tgkill, [me, me, 0, 0]),
                (libc::SYS_pidfd_send_signal, [0, 0, 0, 0]),
                (libc::SYS_fcntl, [0, 8, me, 0]),
            ]
            .map(|(call, args)| {
                #[expect(unsafe_code, reason = "asks the filter")]
                // SAFETY: none of these calls is given a pointer that is not null.
                let answer = unsafe { sys::call(call, args) };
                answer.err().map_or(0, |errno| errno.0)
            })
        });
        let [group, others @ ..] = answers.join().unwrap();
        assert_eq!(group, 0);
        assert_eq!(others, [libc::EPERM; 6]);
    }

    #[test]
    fn no_call_is_listed_twice_and_none_is_both_allowed_and_always_denied() {
        let mut seen = BTreeSet::new();
        let allowed = allow::GROUPS.iter().chain(allow::ARCH_GROUPS);
        for group in allowed.chain(deny::GROUPS) {
            assert!(!group.reason.is_empty());
            for call in group.calls {
                assert!(
                    seen.insert(*call),
                    "system call {call} in {:?}",
                    group.reason
                );
            }
        }
        let lists = [
            deny::WITHOUT_SOCKET_SEPARATION,
            deny::WITHOUT_NETWORK_NAMESPACE,
            deny::WITHOUT_IPC_NAMESPACE,
            deny::WITHOUT_PID_NAMESPACE,
            deny::WITHOUT_SIGNAL_SEPARATION,
            deny::WITHOUT_PRIVATE_ROOT,
            deny::WITH_LASTING_FILES,
            deny::WITH_LASTING_FILES_OF_THIS_ARCHITECTURE,
        ];
        let mediated = [
            mediate::METADATA,
            mediate::METADATA_OF_THIS_ARCHITECTURE,
            mediate::SOCKETS,
            mediate::NAMES,
        ];
        for group in mediated.into_iter().flatten() {
            assert!(!group.reason.is_empty());
            for call in group.calls {
                assert!(seen.contains(call), "{call}: {}", group.reason);
            }
        }
        let writes = [mediate::WRITE, mediate::WRITE_OF_THIS_ARCHITECTURE];
        let writes = writes.into_iter().flatten().map(|rule| &rule.call);
        let others = [mediate::DELETE, mediate::RENAME, mediate::EXEC];
        for call in writes.chain(others.into_iter().flatten()) {
            assert!(seen.contains(call), "{call}");
        }
        for rule in deny::RULES.iter().chain(lists.into_iter().flatten()) {
            assert!(seen.contains(&rule.call), "{}: {}", rule.call, rule.reason);
        }
    }
}
