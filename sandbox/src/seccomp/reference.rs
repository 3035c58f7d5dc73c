//! The lists and tables, read directly: what a call is to be answered, without any program.

use super::bpf::{Answer, Table};
use super::kernel::Call;
use super::{Condition, Group, Rule, Separated, allow, deny, mediate};

/// As if the kernel did not have it.
const UNKNOWN: u32 = libc::SECCOMP_RET_ERRNO | libc::ENOSYS.cast_unsigned();
/// What the supervisor answers with `EPERM`, and where there is none to ask, the filter.
const REFUSED: u32 = libc::SECCOMP_RET_ERRNO | libc::EPERM.cast_unsigned();

#[cfg(target_arch = "x86_64")]
pub(super) const ARCH: u32 = 0xc000_003e;
#[cfg(target_arch = "aarch64")]
pub(super) const ARCH: u32 = 0xc000_00b7;

/// What a filter returns for a call, by the lists alone, where there is nobody to ask: what is held
/// is told by its own value all the same.
pub(super) fn answer(separated: Separated, call: &Call) -> u32 {
    let number = i64::from(call.number);
    let listed = |groups: &[Group]| groups.iter().any(|group| group.calls.contains(&number));
    let matches = |rule: &Rule| {
        rule.call == number && rule.when.iter().all(|condition| holds(condition, call))
    };
    if call.arch != ARCH {
        libc::SECCOMP_RET_KILL_PROCESS
    } else if listed(deny::GROUPS) || rules(separated).any(matches) {
        REFUSED
    } else if number == libc::SYS_openat2 && !(separated.lasting_files && separated.truncation) {
        UNKNOWN
    } else if held(separated).any(|group| group.calls.contains(&number))
        || held_rules(separated).iter().any(matches)
    {
        libc::SECCOMP_RET_USER_NOTIF
    } else if listed(allow::GROUPS) || listed(allow::ARCH_GROUPS) {
        libc::SECCOMP_RET_ALLOW
    } else {
        UNKNOWN
    }
}

/// What a filter returns for a call, by a table.
pub(super) fn value(table: &Table, call: &Call) -> u32 {
    let answer = match table.calls.get(&call.number) {
        _ if call.arch != ARCH => Answer::KillProcess,
        None => table.missing,
        Some(verdict) => {
            let mut rules = verdict.rules.iter();
            let rule = rules.find(|(when, _)| when.iter().all(|condition| holds(condition, call)));
            rule.map_or(verdict.otherwise, |(_, answer)| *answer)
        }
    };
    match answer {
        Answer::Allow => libc::SECCOMP_RET_ALLOW,
        Answer::Notify => libc::SECCOMP_RET_USER_NOTIF,
        Answer::KillProcess => libc::SECCOMP_RET_KILL_PROCESS,
        Answer::Errno(errno) => libc::SECCOMP_RET_ERRNO | u32::from(errno),
    }
}

/// What the supervisor performs; all of it is allowed otherwise.
fn held(separated: Separated) -> impl Iterator<Item = &'static Group> {
    [
        (!separated.root, mediate::METADATA),
        (!separated.root, mediate::METADATA_OF_THIS_ARCHITECTURE),
        (!separated.sockets, mediate::SOCKETS),
        (!separated.names, mediate::NAMES),
    ]
    .into_iter()
    .filter(|(counts, _)| *counts)
    .flat_map(|(_, groups)| groups)
}

/// What the supervisor performs with some arguments; it is allowed otherwise.
pub(super) fn held_rules(separated: Separated) -> &'static [Rule] {
    if separated.signals {
        &[]
    } else {
        mediate::SIGNALS
    }
}

/// The rules that count.
pub(super) fn rules(separated: Separated) -> impl Iterator<Item = &'static Rule> {
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
    .into_iter()
    .filter(|(counts, _)| *counts)
    .flat_map(|(_, rules)| rules)
}

fn holds(condition: &Condition, call: &Call) -> bool {
    let argument = |index: u8| call.arguments.get(usize::from(index)).copied();
    let low = |index: u8| argument(index).map(|value| value & 0xffff_ffff);
    match *condition {
        Condition::Is(index, value) => low(index) == Some(value.into()),
        Condition::IsNot(index, value) => low(index).is_some_and(|low| low != u64::from(value)),
        Condition::Whole(index, value) => argument(index) == Some(value),
        Condition::Has(index, bits) => argument(index).is_some_and(|value| value & bits != 0),
        Condition::Masked(index, mask, value) => {
            low(index).is_some_and(|low| low & u64::from(mask) == u64::from(value))
        }
    }
}
