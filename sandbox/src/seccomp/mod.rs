//! The system call filters: an allow list of system calls, and a deny list of arguments.
//!
//! One filter answers every call:
//! 1. A call that [`allow`] does not list gives `ENOSYS`, as on a kernel that does not have it, so
//!    that a C library newer than the list falls back to an older call.
//! 2. Calls and arguments that [`deny`] lists, with which a sandboxed program has no business, give
//!    `EPERM`. Sockets of every family but Unix are here. It is the supervisor that answers them,
//!    so that the report can name them.
//! 3. Rare calls that other layers leave open ([`mediate`]) are held until the supervisor has
//!    performed them.
//!
//! Where the kernel gives nobody to ask, another filter refuses what this one would have asked about.
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
mod prctl;
#[cfg(test)]
mod promised_tests;
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

impl Condition {
    fn holds(self, arguments: &[u64; 6]) -> bool {
        let whole = |index: u8| arguments.get(usize::from(index)).copied();
        let low = |index: u8| whole(index).map(|value| value & u64::from(u32::MAX));
        match self {
            Self::Is(index, value) => low(index) == Some(value.into()),
            Self::IsNot(index, value) => low(index) != Some(value.into()),
            Self::Whole(index, value) => whole(index) == Some(value),
            Self::Has(index, bits) => whole(index).is_some_and(|value| value & bits != 0),
            Self::Masked(index, mask, value) => {
                low(index).map(|low| low & u64::from(mask)) == Some(value.into())
            }
        }
    }
}

/// A call that is denied with these arguments.
#[derive(Debug)]
pub(crate) struct Rule {
    /// Why.
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
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
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
    /// Files that are cut off: by Landlock, or by a private root.
    pub(crate) truncation: bool,
    /// Files that outlive the sandbox: there are none that the program can make or change.
    pub(crate) lasting_files: bool,
}

impl Separated {
    /// How many there are.
    const VARIANTS: usize = 1 << 8;

    fn index(self) -> usize {
        let Self {
            sockets,
            names,
            ipc,
            pids,
            signals,
            root,
            truncation,
            lasting_files,
        } = self;
        let bits = [
            sockets,
            ipc,
            pids,
            signals,
            root,
            lasting_files,
            names,
            truncation,
        ];
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
            truncation: bits & 128 != 0,
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

/// The same filter for a kernel that gives no listener: what would be held is refused.
pub(crate) fn refusing(separated: Separated) -> Result<&'static [Instruction], FilterError> {
    static COMPILED: [OnceLock<Option<Vec<Instruction>>>; Separated::VARIANTS] =
        [const { OnceLock::new() }; Separated::VARIANTS];
    let cell = COMPILED.get(separated.index()).ok_or(FilterError)?;
    let refuse = |table: Table| {
        let refused = Answer::Errno(small(libc::EPERM));
        table.with_held_calls_answered(refused)
    };
    cell.get_or_init(|| bpf::assemble(&refuse(table(separated))))
        .as_deref()
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
    let asks = |operation| operations.contains(&operation);
    // What is renamed may replace something.
    let renames = asks(Operation::Rename) || asks(Operation::Delete);
    for (is_held, calls) in [
        (asks(Operation::Delete), mediate::DELETE),
        (renames, mediate::RENAME),
        (asks(Operation::Exec), mediate::EXEC),
    ] {
        for call in calls.iter().filter(|_| is_held) {
            table.hold(number(*call), &[]);
        }
    }
    if operations.contains(&Operation::Exec) {
        table.pass(number(libc::SYS_execve), Condition::Whole(PASS, pass));
    }
    table
}

/// The lists of denied arguments, and which of them count.
const fn denied_arguments(separated: Separated) -> [(bool, &'static [Rule]); 11] {
    let Separated {
        sockets,
        names,
        ipc,
        pids,
        signals,
        root,
        truncation,
        lasting_files,
    } = separated;
    [
        (true, deny::RULES),
        (!sockets, deny::WITHOUT_SOCKET_SEPARATION),
        (!names, deny::WITHOUT_NETWORK_NAMESPACE),
        (!ipc, deny::WITHOUT_IPC_NAMESPACE),
        (!pids, deny::WITHOUT_PID_NAMESPACE),
        (!signals, deny::WITHOUT_SIGNAL_SEPARATION),
        (!root, deny::WITHOUT_PRIVATE_ROOT),
        (!truncation, deny::WITHOUT_TRUNCATION),
        (!truncation, deny::WITHOUT_TRUNCATION_OF_THIS_ARCHITECTURE),
        (!lasting_files, deny::WITH_LASTING_FILES),
        (
            !lasting_files,
            deny::WITH_LASTING_FILES_OF_THIS_ARCHITECTURE,
        ),
    ]
}

/// Every entry of [`deny`] in one order, the same in each variant: the call, why it is denied, and
/// with which arguments.
fn denials() -> impl Iterator<Item = (libc::c_long, &'static str, &'static [Condition])> {
    let calls = deny::GROUPS.iter().flat_map(|group| {
        let calls = group.calls.iter();
        calls.map(|call| (*call, group.reason, [].as_slice()))
    });
    let nothing = Separated::default();
    let lists = denied_arguments(nothing).into_iter();
    let rules = lists.flat_map(|(_, list)| list);
    calls.chain(rules.map(|rule| (rule.call, rule.reason, rule.when)))
}

/// The entry that denies a call, by its place among all. Safe in a process that shares memory: it
/// neither allocates nor locks.
pub(crate) fn denial(
    separated: Separated,
    call: libc::c_long,
    arguments: &[u64; 6],
) -> Option<usize> {
    let calls = deny::GROUPS.iter().flat_map(|group| group.calls);
    let always = calls.map(|_| true);
    let lists = denied_arguments(separated).into_iter();
    let count = lists.flat_map(|(counts, list)| list.iter().map(move |_| counts));
    denials()
        .zip(always.chain(count))
        .position(|((denied, _, when), counts)| {
            counts && denied == call && when.iter().all(|condition| condition.holds(arguments))
        })
}

/// More than there are entries.
pub(crate) const MOST_DENIALS: usize = 192;

/// Entries that denied something, by their places.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Denials(pub(crate) [u64; MOST_DENIALS / 64]);

impl Denials {
    /// A place that cannot be one changes nothing.
    pub(crate) fn insert(&mut self, place: usize) {
        if let Some(word) = self.0.get_mut(place / 64) {
            *word |= 1 << (place % 64);
        }
    }

    /// What they are about: each call, and why it is denied.
    pub(crate) fn iter(self) -> impl Iterator<Item = (&'static str, &'static str)> {
        let has = move |place: &usize| {
            let word = self.0.get(place / 64);
            word.is_some_and(|word| word >> (place % 64) & 1 != 0)
        };
        (0..MOST_DENIALS).filter(has).filter_map(denied)
    }
}

/// What the entry at a place is about: the call, and why it is denied.
fn denied(place: usize) -> Option<(&'static str, &'static str)> {
    let (call, reason, _) = denials().nth(place)?;
    let call = syscalls::Sysno::new(usize::try_from(call).ok()?)?;
    Some((call.name(), reason))
}

/// Every call of the lists, and its answer.
pub(crate) fn table(separated: Separated) -> Table {
    let refused = Answer::Notify;
    let allowed = allow::GROUPS
        .iter()
        .chain(allow::ARCH_GROUPS)
        .flat_map(|group| group.calls)
        // Its flags and mode are in memory, where no filter can see them.
        .filter(|call| {
            separated.lasting_files && separated.truncation || **call != libc::SYS_openat2
        })
        .map(|call| (number(*call), Verdict::always(Answer::Allow)));
    let denied = deny::GROUPS
        .iter()
        .flat_map(|group| group.calls)
        .map(|call| (number(*call), Verdict::always(refused)));
    let mut calls: BTreeMap<u32, Verdict> = allowed.chain(denied).collect();

    let lists = denied_arguments(separated).into_iter();
    let lists = lists.filter_map(|(counts, list)| counts.then_some(list));
    for rule in lists.flatten() {
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
    if !separated.signals {
        for rule in mediate::SIGNALS {
            table.hold(number(rule.call), rule.when);
        }
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
            assert!(holds(&plain));
            let refuse = Answer::Errno(small(libc::EPERM));
            assert!(!holds(&plain.with_held_calls_answered(refuse)));
            refusing(separated).unwrap();
            assert!(holds(&supervised_table(separated, &everything, 1)));
            supervised(separated, &everything, 1).unwrap();
        }
    }

    #[test]
    fn every_denial_has_a_name_and_a_reason() {
        let places = denials().count();
        for place in 0..places {
            let (call, reason) = denied(place).unwrap();
            assert!(!call.is_empty() && !reason.is_empty());
        }
        assert_eq!(denied(places), None);
        assert!(places <= MOST_DENIALS, "{places}");
        let mut all = Denials::default();
        (0..places).for_each(|place| all.insert(place));
        assert_eq!(all.iter().count(), places);
        all.insert(MOST_DENIALS);
        assert_eq!(Denials([u64::MAX; _]).iter().count(), places);
        let all = Separated::all().last().unwrap();
        let named = |separated, call, first| {
            let place = denial(separated, call, &[first, 0, 0, 0, 0, 0]);
            place.and_then(denied).map(|(name, _)| name)
        };
        assert_eq!(named(all, libc::SYS_mount, 0), Some("mount"));
        assert_eq!(named(all, libc::SYS_socket, 2), Some("socket"));
        assert_eq!(named(all, libc::SYS_socket, 1), None);
        assert_eq!(named(all, libc::SYS_kill, 7), None);
        let nothing = Separated::default();
        assert_eq!(named(nothing, libc::SYS_kill, u64::MAX), Some("kill"));
        assert_eq!(named(nothing, libc::SYS_kill, 7), None);
        assert_eq!(named(nothing, libc::SYS_kill, 0), None);
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
            truncation: true,
            lasting_files: true,
        };
        let answers = std::thread::spawn(move || {
            sys::prctl(libc::PR_SET_NO_NEW_PRIVS, [1, 0, 0, 0]).unwrap();
            install(refusing(separated).unwrap(), 0).unwrap();
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
        let writes = writes.into_iter().flatten().chain(mediate::SIGNALS);
        let writes = writes.map(|rule| &rule.call);
        let others = [mediate::DELETE, mediate::RENAME, mediate::EXEC];
        for call in writes.chain(others.into_iter().flatten()) {
            assert!(seen.contains(call), "{call}");
        }
        for (call, reason, _) in denials() {
            assert!(seen.contains(&call), "{call}: {reason}");
        }
    }
}
