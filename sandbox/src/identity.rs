//! Who the caller is, and who the program will be.
//!
//! A root caller gives each sandbox a user of its own, so that sandboxes cannot touch each other
//! and none is user 0. Anybody else is given a user namespace in which the caller's own user has
//! another number, or, where that is refused, stays who it is.

use crate::plan::Identity;
use rustix::thread::{CapabilitySet, capabilities};
use std::fs;

/// Far above what distributions, directories and containers give to anybody.
const OWN_BASE: u32 = 0x7000_0000;
/// Process numbers of Linux end at 2^22.
const OWN_SPAN: u32 = 1 << 22;
/// The fewest users that make a collision among living sandboxes unlikely enough.
const LEAST_SPAN: u32 = 1 << 12;
/// The program's user inside a user namespace.
const INSIDE: u32 = 1000;

/// What the caller is allowed to do about users.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Caller {
    /// Root, with this range of users to give away.
    Root { base: u32, span: u32 },
    /// Somebody else.
    User { uid: u32, gid: u32 },
}

/// The effective user and group of this process, and its range of users.
pub(crate) fn caller() -> Result<Caller, String> {
    #[expect(unsafe_code, reason = "the standard library does not tell the user")]
    // SAFETY: neither call takes arguments or fails.
    let (uid, gid) = unsafe { (libc::geteuid(), libc::getegid()) };
    if uid != 0 {
        return Ok(Caller::User { uid, gid });
    }
    let map = |file| fs::read_to_string(file).unwrap_or_default();
    let (uids, gids) = (map("/proc/self/uid_map"), map("/proc/self/gid_map"));
    match range(&uids).filter(|range| contains(&gids, *range)) {
        Some((base, span)) => may_give_users().map(|()| Caller::Root { base, span }),
        // Root of a user namespace with few users: in truth somebody else, who stays so.
        None if !maps_root_to_root(&uids) => Ok(Caller::User { uid, gid }),
        None => Err(
            "the caller is root and has no other user to give to the program: \
                     /proc/self/uid_map holds too few; run it as another user"
                .into(),
        ),
    }
}

/// What it takes to run a program as another user and to end it.
const NEEDED: &[(CapabilitySet, &str)] = &[
    (CapabilitySet::CHOWN, "CAP_CHOWN"),
    (CapabilitySet::DAC_OVERRIDE, "CAP_DAC_OVERRIDE"),
    (CapabilitySet::KILL, "CAP_KILL"),
    (CapabilitySet::SETGID, "CAP_SETGID"),
    (CapabilitySet::SETUID, "CAP_SETUID"),
    (CapabilitySet::SETPCAP, "CAP_SETPCAP"),
];

/// Whether this process has all of [`NEEDED`].
fn may_give_users() -> Result<(), String> {
    let own = capabilities(None).map_err(|error| format!("its capabilities: {error}"))?;
    let missing: Vec<&str> = NEEDED
        .iter()
        .filter(|(capability, _)| !own.effective.contains(*capability))
        .map(|(_, name)| *name)
        .collect();
    match missing.as_slice() {
        [] => Ok(()),
        missing => Err(format!(
            "the caller is root without {}, which it takes to run a program as another user and to \
             end it; give it that, or run it as another user",
            missing.join(", ")
        )),
    }
}

/// The lines of a map: first number inside, first outside, how many.
fn lines(map: &str) -> impl Iterator<Item = (u32, u32, u32)> {
    map.lines().filter_map(|line| {
        let mut numbers = line.split_whitespace().map(|number| number.parse().ok());
        Some((numbers.next()??, numbers.next()??, numbers.next()??))
    })
}

/// Users to give away: the usual range, or else the upper end of the largest that is mapped.
fn range(map: &str) -> Option<(u32, u32)> {
    if contains(map, (OWN_BASE, OWN_SPAN)) {
        return Some((OWN_BASE, OWN_SPAN));
    }
    let (inside, _, count) = lines(map).max_by_key(|(_, _, count)| *count)?;
    let span = (count / 2).min(OWN_SPAN);
    let base = inside.checked_add(count)?.checked_sub(span)?;
    (span >= LEAST_SPAN).then_some((base, span))
}

fn contains(map: &str, (base, span): (u32, u32)) -> bool {
    lines(map).any(|(inside, _, count)| {
        let end = u64::from(inside).saturating_add(count.into());
        inside <= base && u64::from(base).saturating_add(span.into()) <= end
    })
}

fn maps_root_to_root(map: &str) -> bool {
    lines(map).any(|(inside, outside, _)| inside == 0 && outside == 0)
}

impl Caller {
    /// Who the program will be.
    pub(crate) fn identity(self, user_namespace: bool) -> Identity {
        match self {
            Self::Root { base, span } => Identity::Own { base, span },
            Self::User { uid, gid } if user_namespace => Identity::Mapped {
                uid: INSIDE,
                gid: INSIDE,
                uid_map: format!("{INSIDE} {uid} 1\n").into_bytes(),
                gid_map: format!("{INSIDE} {gid} 1\n").into_bytes(),
            },
            Self::User { uid, gid } => Identity::Same { uid, gid },
        }
    }

    pub(crate) const fn is_root(self) -> bool {
        matches!(self, Self::Root { .. })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_range_lies_within_what_is_mapped() {
        let whole = "         0          0 4294967295\n";
        assert_eq!(range(whole), Some((OWN_BASE, OWN_SPAN)));
        assert!(maps_root_to_root(whole));
        let container = "0 100000 65536\n";
        assert_eq!(range(container), Some((32768, 32768)));
        assert!(contains(container, (32768, 32768)));
        assert!(!maps_root_to_root(container));
        assert_eq!(range("0 1000 1\n"), None);
        assert_eq!(range("nonsense\n1 2\n"), None);
    }
}
