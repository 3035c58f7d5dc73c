//! The program's rights, taken on while something is done for it.
//!
//! The supervisor of a privileged caller could change what the program could not. While it acts for
//! the program, its effective user and group are the program's and it has no effective capability.
//! Its real and saved user stay, so that the program can neither signal nor trace it meanwhile;
//! where the real one does not ([`Rights::as_peer`]), other layers keep signals away.

#![expect(unsafe_code, reason = "system calls that take structures")]

use crate::init::User;
use crate::plan::{Identity, Plan};
use crate::sys::{self, Errno, Sys};

/// `_LINUX_CAPABILITY_VERSION_3`.
const VERSION: u32 = 0x2008_0522;

/// Leaves an id as it is.
const SAME: usize = u32::MAX as usize;

/// `struct __user_cap_data_struct`, twice.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Capabilities([Sets; 2]);

#[repr(C)]
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Sets {
    effective: u32,
    permitted: u32,
    inheritable: u32,
}

impl Capabilities {
    fn of_this_process() -> Sys<Self> {
        let header = [VERSION, 0];
        let mut found = Self::default();
        let args = [&raw const header as usize, &raw mut found as usize];
        // SAFETY: the kernel reads two words and writes six, to structures that outlive the call.
        unsafe { sys::call(libc::SYS_capget, args) }?;
        Ok(found)
    }

    fn set(&self) -> Sys<()> {
        let header = [VERSION, 0];
        let args = [
            &raw const header as usize,
            std::ptr::from_ref(self) as usize,
        ];
        // SAFETY: the kernel reads two words and six, of structures that outlive the call.
        unsafe { sys::call(libc::SYS_capset, args) }.map(drop)
    }

    fn without_effective(self) -> Self {
        Self(self.0.map(|sets| Sets {
            effective: 0,
            ..sets
        }))
    }
}

/// The supervisor's rights, and whose it takes on.
#[derive(Debug)]
pub(super) struct Rights {
    own: Capabilities,
    bare: Capabilities,
    /// The program's user and group, and the supervisor's, where they differ.
    users: Option<[(usize, usize); 2]>,
    /// The program could not send a signal to a process of its own user.
    out_of_reach: bool,
}

impl Rights {
    /// Must be called before the first notification.
    pub(super) fn new(plan: &Plan, user: User) -> Sys<Self> {
        let own = Capabilities::of_this_process()?;
        let mut users = None;
        if plan.mediation.is_some() && matches!(plan.identity, Identity::Own { .. }) {
            // SAFETY: none of the three takes a pointer but the empty list of groups. The program
            // has no further groups either.
            let (uid, gid) = unsafe {
                sys::call(libc::SYS_setgroups, [0, 0])?;
                (
                    sys::call(libc::SYS_geteuid, [])?,
                    sys::call(libc::SYS_getegid, [])?,
                )
            };
            users = Some([(user.uid as usize, user.gid as usize), (uid, gid)]);
        }
        let mediation = plan.mediation.as_ref();
        let supervised = mediation.and_then(|mediation| mediation.supervision.as_ref());
        Ok(Self {
            own,
            bare: own.without_effective(),
            users,
            out_of_reach: supervised.is_some_and(|supervised| supervised.out_of_reach),
        })
    }

    /// Those of this process, for a program that has the same.
    #[cfg(test)]
    pub(super) fn own() -> Self {
        Self {
            own: Capabilities::default(),
            bare: Capabilities::default(),
            users: None,
            out_of_reach: false,
        }
    }

    /// Does something that only a process of the program's real user may, or a privileged one.
    ///
    /// Container runtimes take the privilege (`CAP_SYS_PTRACE`) from root. Its real user is then
    /// lent to this process, where the program cannot reach it all the same.
    pub(super) fn as_peer(&self, act: impl Fn() -> Sys<()>) -> Sys<()> {
        let done = act();
        let Some([(uid, gid), (own_uid, own_gid)]) = self.users.filter(|_| self.out_of_reach)
        else {
            return done;
        };
        if done != Err(Errno(libc::EPERM)) {
            return done;
        }
        let done = set_real(uid, gid).and_then(|()| act());
        // Cannot fail: the effective user is still the own one.
        let _ = set_real(own_uid, own_gid);
        done
    }

    /// Does something with the program's rights alone.
    pub(super) fn as_program<T>(&self, act: impl FnOnce() -> Sys<T>) -> Sys<T> {
        let dumpable = sys::prctl(libc::PR_GET_DUMPABLE, [0; 4]).unwrap_or(0);
        let done = self.take_on().and_then(|()| act());
        self.give_back();
        if dumpable == 1 && self.users.is_some() {
            // A change of user clears it.
            let _ = sys::prctl(libc::PR_SET_DUMPABLE, [1, 0, 0, 0]);
        }
        done
    }

    fn take_on(&self) -> Sys<()> {
        if let Some([(uid, gid), _]) = self.users {
            set_effective(uid, gid)?;
        }
        if self.own == self.bare {
            return Ok(());
        }
        self.bare.set()
    }

    /// Cannot fail: the real and saved ids and the permitted capabilities were never given up.
    fn give_back(&self) {
        if let Some([_, (uid, gid)]) = self.users {
            let _ = set_effective(uid, gid);
        }
        if self.own != self.bare {
            let _ = self.own.set();
        }
    }
}

fn set_real(uid: usize, gid: usize) -> Sys<()> {
    // SAFETY: neither takes a pointer.
    unsafe {
        sys::call(libc::SYS_setresgid, [gid, SAME, SAME])?;
        sys::call(libc::SYS_setresuid, [uid, SAME, SAME])
    }
    .map(drop)
}

/// The group first: once the user is another one, the right to change groups is gone; and back,
/// the former group is still the real one.
fn set_effective(uid: usize, gid: usize) -> Sys<()> {
    // SAFETY: neither takes a pointer.
    unsafe {
        sys::call(libc::SYS_setresgid, [SAME, gid, SAME])?;
        sys::call(libc::SYS_setresuid, [SAME, uid, SAME])
    }
    .map(drop)
}
