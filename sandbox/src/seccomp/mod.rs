//! The system call filters: an allow list of system calls, and a deny list of arguments.
//!
//! Two filters are stacked, and the stricter answer wins:
//! 1. [`allow`]: a call that is not listed gives `ENOSYS`, as on a kernel that does not have it, so
//!    that a C library newer than this list falls back to an older call.
//! 2. [`deny`]: calls and arguments that a sandboxed program has no business with give `EPERM`.
//!    Sockets of every family but Unix are here.
//!
//! A call of a foreign architecture (32-bit code on a 64-bit kernel) kills the process; x32 calls
//! are in no list. Both filters are data; `seccompiler` turns them into BPF once per process.

pub(crate) mod allow;
pub(crate) mod deny;

use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule, TargetArch,
};
use std::collections::BTreeMap;
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
#[derive(Debug, Clone, Copy)]
pub(crate) enum Condition {
    /// The low 32 bits, which is all the kernel looks at for an `int`, are this value.
    Is(u8, u32),
    /// The low 32 bits are not this value.
    IsNot(u8, u32),
    /// Some of these bits are set, of all 64.
    Has(u8, u64),
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

/// Why a filter could not be made. A test compiles every variant, so that this does not happen.
#[derive(Debug, Clone, thiserror::Error)]
#[error("the system call filter cannot be compiled: {0}")]
pub(crate) struct FilterError(String);

/// What other layers separate, so that the filter need not close it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Separated {
    /// Unix sockets of others: abstract ones by Landlock or a network namespace, those with a path
    /// by Landlock or a private root.
    pub(crate) sockets: bool,
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
    const VARIANTS: usize = 1 << 6;

    fn index(self) -> usize {
        let Self {
            sockets,
            ipc,
            pids,
            signals,
            root,
            lasting_files,
        } = self;
        let bits = [sockets, ipc, pids, signals, root, lasting_files];
        bits.iter()
            .enumerate()
            .fold(0, |index, (bit, set)| index | usize::from(*set) << bit)
    }
}

/// The compiled filters, in the order in which they are applied.
#[derive(Debug)]
pub(crate) struct Filters {
    pub(crate) programs: [BpfProgram; 2],
}

/// The filters, compiled on first use.
pub(crate) fn filters(separated: Separated) -> Result<&'static Filters, FilterError> {
    static COMPILED: [OnceLock<Result<Filters, FilterError>>; Separated::VARIANTS] =
        [const { OnceLock::new() }; Separated::VARIANTS];
    let cell = COMPILED
        .get(separated.index())
        .ok_or_else(|| FilterError("no such variant".into()))?;
    cell.get_or_init(|| compile(separated))
        .as_ref()
        .map_err(Clone::clone)
}

fn compile(separated: Separated) -> Result<Filters, FilterError> {
    let allow = allow::GROUPS
        .iter()
        .chain(allow::ARCH_GROUPS)
        .flat_map(|group| group.calls)
        // Its mode is in memory, where no filter can see it.
        .filter(|call| separated.lasting_files || **call != libc::SYS_openat2)
        .map(|call| (*call, Vec::new()))
        .collect();
    let allow = program(
        allow,
        SeccompAction::Errno(errno(libc::ENOSYS)),
        SeccompAction::Allow,
    )?;

    let mut lists = vec![deny::RULES];
    if !separated.sockets {
        lists.push(deny::WITHOUT_SOCKET_SEPARATION);
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
    let always = |call: &i64| (*call, Vec::new());
    let mut denied: BTreeMap<i64, Vec<SeccompRule>> = deny::GROUPS
        .iter()
        .flat_map(|group| group.calls)
        .map(always)
        .collect();
    for rule in lists.iter().copied().flatten() {
        let chain = denied.entry(rule.call).or_default();
        // An empty chain means "always"; so does a rule without conditions.
        if rule.when.is_empty() {
            chain.clear();
        } else {
            chain.extend(rules(rule.when)?);
        }
    }
    let deny = program(
        denied,
        SeccompAction::Allow,
        SeccompAction::Errno(errno(libc::EPERM)),
    )?;
    Ok(Filters {
        programs: [allow, deny],
    })
}

fn errno(number: i32) -> u32 {
    number.unsigned_abs()
}

/// `Has` needs one rule per bit: the compiler only knows equality under a mask.
fn rules(when: &[Condition]) -> Result<Vec<SeccompRule>, FilterError> {
    let mut sets: Vec<Vec<SeccompCondition>> = vec![Vec::new()];
    for condition in when {
        let choices: Vec<SeccompCondition> = match *condition {
            Condition::Is(arg, value) => {
                vec![one(
                    arg,
                    SeccompCmpArgLen::Dword,
                    SeccompCmpOp::Eq,
                    u64::from(value),
                )?]
            }
            Condition::IsNot(arg, value) => {
                vec![one(
                    arg,
                    SeccompCmpArgLen::Dword,
                    SeccompCmpOp::Ne,
                    u64::from(value),
                )?]
            }
            Condition::Has(arg, bits) => (0..u64::BITS)
                .map(|shift| 1_u64 << shift)
                .filter(|bit| bits & bit != 0)
                .map(|bit| {
                    one(
                        arg,
                        SeccompCmpArgLen::Qword,
                        SeccompCmpOp::MaskedEq(bit),
                        bit,
                    )
                })
                .collect::<Result<_, _>>()?,
        };
        sets = sets
            .iter()
            .flat_map(|set| {
                choices.iter().map(move |choice| {
                    let mut set = set.clone();
                    set.push(choice.clone());
                    set
                })
            })
            .collect();
    }
    sets.into_iter()
        .map(|set| SeccompRule::new(set).map_err(|error| FilterError(error.to_string())))
        .collect()
}

fn one(
    arg: u8,
    len: SeccompCmpArgLen,
    op: SeccompCmpOp,
    value: u64,
) -> Result<SeccompCondition, FilterError> {
    SeccompCondition::new(arg, len, op, value).map_err(|error| FilterError(error.to_string()))
}

fn program(
    rules: BTreeMap<i64, Vec<SeccompRule>>,
    mismatch: SeccompAction,
    matched: SeccompAction,
) -> Result<BpfProgram, FilterError> {
    #[cfg(target_arch = "x86_64")]
    let arch = TargetArch::x86_64;
    #[cfg(target_arch = "aarch64")]
    let arch = TargetArch::aarch64;
    SeccompFilter::new(rules, mismatch, matched, arch)
        .and_then(BpfProgram::try_from)
        .map_err(|error| FilterError(error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn all_variants_compile_within_the_kernel_s_bound() {
        let mut seen = BTreeSet::new();
        for bits in 0..Separated::VARIANTS {
            let separated = Separated {
                sockets: bits & 1 != 0,
                ipc: bits & 2 != 0,
                pids: bits & 4 != 0,
                signals: bits & 8 != 0,
                root: bits & 16 != 0,
                lasting_files: bits & 32 != 0,
            };
            assert!(seen.insert(separated.index()));
            for program in &filters(separated).unwrap().programs {
                assert!(program.len() < 4096, "{} instructions", program.len());
            }
        }
    }

    #[test]
    fn signals_stay_in_the_process_group_where_nothing_else_keeps_them() {
        let separated = Separated {
            sockets: true,
            ipc: true,
            pids: false,
            signals: false,
            root: true,
            lasting_files: true,
        };
        let [_, deny] = &filters(separated).unwrap().programs;
        let answers = std::thread::spawn(|| {
            seccompiler::apply_filter(deny).unwrap();
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
                let answer = unsafe { crate::sys::call(call, args) };
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
            deny::WITHOUT_IPC_NAMESPACE,
            deny::WITHOUT_PID_NAMESPACE,
            deny::WITHOUT_SIGNAL_SEPARATION,
            deny::WITHOUT_PRIVATE_ROOT,
            deny::WITH_LASTING_FILES,
            deny::WITH_LASTING_FILES_OF_THIS_ARCHITECTURE,
        ];
        for rule in deny::RULES.iter().chain(lists.into_iter().flatten()) {
            assert!(seen.contains(&rule.call), "{}: {}", rule.call, rule.reason);
        }
    }
}
