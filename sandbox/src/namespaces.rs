//! Which namespaces a sandbox gets, and why not the others.
//!
//! Whether the kernel grants a namespace is only known when it is asked: AppArmor, a container's
//! filter or a sysctl may refuse it. So a sandbox is tried with all that the kernel has, and when
//! that is refused, with fewer; each step says why. A refusal that will not change is remembered for
//! the life of the process.

use crate::identity::Caller;
use crate::wire::{Failure, Step};
use crate::{Layer, LayerState, Namespaces};
use std::fs;
use std::path::Path;
use std::sync::{Mutex, PoisonError};

/// A kind of namespace: layer, flag of `clone`, name below `/proc/self/ns`, kernel option.
const KINDS: [(Layer, i32, &str, &str); 6] = [
    (Layer::UserNs, libc::CLONE_NEWUSER, "user", "CONFIG_USER_NS"),
    (
        Layer::MountNs,
        libc::CLONE_NEWNS,
        "mnt",
        "CONFIG_NAMESPACES",
    ),
    (Layer::PidNs, libc::CLONE_NEWPID, "pid", "CONFIG_PID_NS"),
    (Layer::NetNs, libc::CLONE_NEWNET, "net", "CONFIG_NET_NS"),
    (Layer::IpcNs, libc::CLONE_NEWIPC, "ipc", "CONFIG_IPC_NS"),
    (Layer::UtsNs, libc::CLONE_NEWUTS, "uts", "CONFIG_UTS_NS"),
];

/// How much was refused before, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Refused {
    Mounts(String),
    All(String),
}

static REMEMBERED: Mutex<Option<Refused>> = Mutex::new(None);

/// The namespaces of one try.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Attempt {
    states: Vec<LayerState>,
}

impl Attempt {
    /// The best that is not known to be refused.
    pub(crate) fn first(mode: Namespaces, caller: Caller) -> Self {
        if mode == Namespaces::Off {
            return Self::none("namespaces were switched off for this execution");
        }
        let attempt = Self::all(caller);
        match &*REMEMBERED.lock().unwrap_or_else(PoisonError::into_inner) {
            Some(Refused::All(why)) => Self::none(why),
            Some(Refused::Mounts(why)) => attempt.without(Layer::MountNs, why),
            None => attempt,
        }
    }

    /// All that the kernel has.
    fn all(caller: Caller) -> Self {
        let states: Vec<LayerState> = KINDS
            .iter()
            .map(|(layer, _, name, option)| {
                if *layer == Layer::UserNs && caller.is_root() {
                    let why = "the caller is root and gives each sandbox a user id of its own, \
                               which takes no user namespace";
                    return LayerState::missing(*layer, why);
                }
                if Path::new("/proc/self/ns").join(name).exists() {
                    return LayerState::active(*layer);
                }
                LayerState::missing(*layer, format!("the kernel was built without {option}"))
            })
            .collect();
        let attempt = Self { states };
        if !caller.is_root() && !attempt.has(Layer::UserNs) {
            return Self::none(
                "an unprivileged caller needs a user namespace for it, and the kernel was built \
                 without CONFIG_USER_NS",
            );
        }
        attempt
    }

    fn none(why: &str) -> Self {
        Self {
            states: KINDS
                .iter()
                .map(|(layer, ..)| LayerState::missing(*layer, why))
                .collect(),
        }
    }

    fn without(mut self, layer: Layer, why: &str) -> Self {
        for state in &mut self.states {
            if state.layer == layer {
                *state = LayerState::missing(layer, why);
            }
        }
        self
    }

    pub(crate) fn has(&self, layer: Layer) -> bool {
        self.states
            .iter()
            .any(|state| state.layer == layer && state.is_active())
    }

    pub(crate) fn states(&self) -> &[LayerState] {
        &self.states
    }

    /// Flags for `clone3`.
    pub(crate) fn flags(&self) -> u64 {
        let wanted = KINDS.iter().filter(|(layer, ..)| self.has(*layer));
        wanted.fold(0, |flags, (_, flag, ..)| {
            flags | u64::from(flag.cast_unsigned())
        })
    }

    /// What to try after `clone3` was refused.
    pub(crate) fn after_clone_error(&self, errno: i32, caller: Caller) -> Option<Self> {
        let refusals = [
            libc::EPERM,
            libc::EINVAL,
            libc::ENOSYS,
            libc::ENOSPC,
            libc::EUSERS,
        ];
        if self.flags() == 0 || !refusals.contains(&errno) {
            return None;
        }
        let why = format!(
            "the kernel refused namespaces ({}){}",
            text(errno),
            advice(caller)
        );
        let passing = errno == libc::ENOSPC || errno == libc::EUSERS;
        if !passing {
            remember(Refused::All(why.clone()));
        }
        Some(Self::none(&why))
    }

    /// What to try after a step inside the namespaces was refused.
    pub(crate) fn after_failure(&self, failure: Failure, caller: Caller) -> Option<Self> {
        let about_mounts = matches!(
            failure.step,
            Step::PrivateMounts
                | Step::RootMount
                | Step::OpenTree
                | Step::Attach
                | Step::Proc
                | Step::PivotRoot
                | Step::ReadOnlyRoot
        );
        let about_users = matches!(failure.step, Step::UserMap | Step::Hostname);
        if !about_mounts && !about_users {
            return None;
        }
        let refusals = [libc::EPERM, libc::EACCES, libc::ENOSYS, libc::EINVAL];
        if !refusals.contains(&failure.errno) || self.flags() == 0 {
            return None;
        }
        let (step, reason) = (failure.step.text(), text(failure.errno));
        let why = format!("a sandbox could not {step} ({reason}){}", advice(caller));
        // Without its own mounts a user namespace would only take away.
        if about_mounts && caller.is_root() && self.has(Layer::MountNs) {
            remember(Refused::Mounts(why.clone()));
            return Some(self.clone().without(Layer::MountNs, &why));
        }
        remember(Refused::All(why.clone()));
        Some(Self::none(&why))
    }
}

fn remember(refused: Refused) {
    *REMEMBERED.lock().unwrap_or_else(PoisonError::into_inner) = Some(refused);
}

fn text(errno: i32) -> String {
    std::io::Error::from_raw_os_error(errno).to_string()
}

/// What the administrator of this machine could do.
fn advice(caller: Caller) -> String {
    let setting = |name: &str| {
        let text = fs::read_to_string(Path::new("/proc/sys").join(name)).ok()?;
        text.trim().parse::<u64>().ok()
    };
    if caller.is_root() {
        return "; this looks like a container without CAP_SYS_ADMIN: give it that capability, or \
                run as another user where user namespaces are permitted"
            .into();
    }
    if setting("kernel/apparmor_restrict_unprivileged_userns") == Some(1) {
        return "; AppArmor restricts unprivileged user namespaces: add a profile with \"userns,\" \
                for this program, or set kernel.apparmor_restrict_unprivileged_userns=0"
            .into();
    }
    if setting("kernel/unprivileged_userns_clone") == Some(0) {
        return "; set kernel.unprivileged_userns_clone=1".into();
    }
    if setting("user/max_user_namespaces") == Some(0) {
        return "; set user.max_user_namespaces above 0".into();
    }
    "; a container's own filter may be the cause: permit unshare and mount in it".into()
}

#[cfg(test)]
mod tests {
    use super::*;

    const USER: Caller = Caller::User { uid: 5, gid: 5 };
    const ROOT: Caller = Caller::Root { base: 1, span: 1 };

    #[test]
    fn each_refusal_leads_to_less_and_says_why() {
        let all = Attempt::all(ROOT);
        assert!(all.has(Layer::MountNs) && !all.has(Layer::UserNs));
        assert!(Attempt::all(USER).has(Layer::UserNs));
        assert_eq!(Attempt::first(Namespaces::Off, ROOT).flags(), 0);
        assert_eq!(all.after_clone_error(libc::ENOMEM, ROOT), None);
        let none = all.after_clone_error(libc::ENOSPC, ROOT).unwrap();
        assert_eq!(none.flags(), 0);
        assert_eq!(none.after_clone_error(libc::ENOSPC, ROOT), None);
        let other = Failure {
            step: Step::InputFile,
            item: 0,
            errno: libc::EPERM,
        };
        assert_eq!(all.after_failure(other, ROOT), None);
    }
}
