//! The last steps of the program's process before it executes.
//!
//! The order matters: what needs a privilege comes before the privilege goes, Landlock before the
//! filter that could deny its calls, and signals are let through last.

#![expect(unsafe_code, reason = "system calls that take structures")]

use super::notify::{self, Channel};
use super::{Done, Ready, User, at, item, terminal};
use crate::plan::{Identity, Plan, Rlimit};
use crate::sys::{self, Errno, Sys, signed};
use crate::wire::{Failure, Step};

/// `_LINUX_CAPABILITY_VERSION_3`.
const CAPABILITY_VERSION: u32 = 0x2008_0522;

/// `SECBIT_NOROOT`, `SECBIT_NO_SETUID_FIXUP`, `SECBIT_KEEP_CAPS` off, `SECBIT_NO_CAP_AMBIENT_RAISE`,
/// each locked: user 0, which the program cannot become, would not be special either.
const SECURE_BITS: usize = 0b1110_1111 & !0b0001_0000;

/// Becomes the program. Returns only why it could not.
pub(super) fn become_program(
    plan: &Plan,
    ready: &Ready,
    parent: i32,
    channel: &Channel,
) -> Failure {
    match prepare(plan, ready, parent, channel) {
        Ok(()) => {
            sys::block_signals(0);
            let execution = &plan.execution;
            let args = [
                execution.path.as_ptr() as usize,
                execution.argv.as_ptr() as usize,
                execution.envp.as_ptr() as usize,
                0,
                0,
                pass(plan),
            ];
            // SAFETY: the path ends with NUL, both vectors with a null pointer, and all their
            // strings live in the plan.
            match unsafe { sys::call(libc::SYS_execve, args) } {
                Ok(_) => at(Step::Execute)(Errno(libc::EIO)),
                Err(errno) => at(Step::Execute)(errno),
            }
        }
        Err(failure) => failure,
    }
}

/// What the call has no use for, and the filter of a supervised program looks at. The new program
/// begins with other registers and other memory, and never sees it.
fn pass(plan: &Plan) -> usize {
    let mediation = plan.mediation.as_ref();
    let supervised = mediation.and_then(|mediation| mediation.supervision.as_ref());
    let pass = supervised.map_or(0, |supervised| supervised.pass);
    usize::try_from(pass).unwrap_or(0)
}

fn prepare(plan: &Plan, ready: &Ready, parent: i32, channel: &Channel) -> Done {
    sys::setsid().map_err(at(Step::Session))?;
    let fds = plan.fds;
    for (stream, fd) in [fds.stdin, fds.stdout, fds.stderr].into_iter().enumerate() {
        let stream = i32::try_from(stream).unwrap_or(-1);
        sys::dup3(fd, stream, 0).map_err(at(Step::Streams))?;
    }
    if plan.terminal {
        terminal::control().map_err(at(Step::Streams))?;
    }
    sys::fchdir(ready.workspace).map_err(at(Step::WorkingDirectory))?;
    super::umask(0o022);
    default_signals();
    go_first();
    allow_own_proc(plan)?;
    set_limits(plan, |limit| !is_on_files(limit))?;
    drop_privileges(plan, ready.user).map_err(at(Step::Capabilities))?;
    // After the change of user, which clears it.
    let kill = [signed(libc::SIGKILL), 0, 0, 0];
    sys::prctl(libc::PR_SET_PDEATHSIG, kill).map_err(at(Step::Session))?;
    if sys::getppid() != parent {
        // The supervisor died before the line above could tell.
        return Err(at(Step::Session)(Errno(libc::ESRCH)));
    }
    sys::prctl(libc::PR_SET_NO_NEW_PRIVS, [1, 0, 0, 0]).map_err(at(Step::NoNewPrivs))?;
    landlock(plan).map_err(at(Step::Landlock))?;
    notify::install(plan, channel).map_err(at(Step::Seccomp))?;
    // After the last descriptor that is opened here.
    set_limits(plan, is_on_files)
}

fn is_on_files(limit: Rlimit) -> bool {
    i64::from(limit.resource) == i64::from(libc::RLIMIT_NOFILE)
}

/// Sets the limits of one kind.
fn set_limits(plan: &Plan, kind: impl Fn(Rlimit) -> bool) -> Done {
    for (index, limit) in plan.rlimits.iter().enumerate() {
        if kind(*limit) {
            set_limit(*limit).map_err(item(Step::Limits, index))?;
        }
    }
    Ok(())
}

/// What the caller ignores would stay ignored over `execve`.
fn default_signals() {
    for signal in 1..=64 {
        // SIGKILL and SIGSTOP are refused, which changes nothing.
        let _ = sys::default_action(signal);
    }
}

/// Where the machine runs out of memory, the program goes before anybody else. This process is one
/// after `vfork`, for which the kernel leaves those alone whose memory it shares.
fn go_first() {
    let _ = sys::write_file(libc::AT_FDCWD, c"/proc/self/oom_score_adj", b"1000");
}

fn set_limit(limit: Rlimit) -> Sys<()> {
    let new = libc::rlimit64 {
        rlim_cur: limit.soft,
        rlim_max: limit.hard,
    };
    let args = [0, limit.resource as usize, &raw const new as usize, 0];
    // SAFETY: the kernel reads one `rlimit64`, which outlives the call.
    unsafe { sys::call(libc::SYS_prlimit64, args) }.map(drop)
}

fn drop_privileges(plan: &Plan, user: User) -> Sys<()> {
    let privileged = !matches!(plan.identity, Identity::Same { .. });
    if privileged {
        sys::prctl(libc::PR_SET_SECUREBITS, [SECURE_BITS, 0, 0, 0])?;
        for capability in 0..=plan.last_capability {
            match sys::prctl(libc::PR_CAPBSET_DROP, [capability as usize, 0, 0, 0]) {
                Ok(_) | Err(Errno(libc::EINVAL)) => {}
                Err(errno) => return Err(errno),
            }
        }
    }
    let clear_ambient = [signed(libc::PR_CAP_AMBIENT_CLEAR_ALL), 0, 0, 0];
    sys::prctl(libc::PR_CAP_AMBIENT, clear_ambient)?;
    let (uid, gid) = (user.uid as usize, user.gid as usize);
    // SAFETY: none of the three takes a pointer but the empty list of groups.
    unsafe {
        if matches!(plan.identity, Identity::Own { .. }) {
            sys::call(libc::SYS_setgroups, [0, 0])?;
        }
        sys::call(libc::SYS_setresgid, [gid, gid, gid])?;
        sys::call(libc::SYS_setresuid, [uid, uid, uid])?;
    }
    // Effective, permitted and inheritable: none. Twice three words for 64 capabilities.
    let header = [CAPABILITY_VERSION, 0];
    let none = [0_u32; 6];
    // SAFETY: the kernel reads a header of two words and six words of sets.
    unsafe {
        sys::call(
            libc::SYS_capset,
            [header.as_ptr() as usize, none.as_ptr() as usize],
        )
    }
    .map(drop)
}

/// Where `/proc` is the host's, the program may read of it what is about itself.
fn allow_own_proc(plan: &Plan) -> Done {
    if plan.proc_self.is_empty() {
        return Ok(());
    }
    let own = sys::openat(libc::AT_FDCWD, c"/proc/self", libc::O_PATH, 0);
    let own = own.map_err(at(Step::LandlockRule))?;
    let added = super::add_rules(plan.fds.ruleset, own, &plan.proc_self);
    sys::close(own);
    added
}

fn landlock(plan: &Plan) -> Sys<()> {
    let ruleset = plan.fds.ruleset;
    // SAFETY: takes no pointers.
    unsafe { sys::call(libc::SYS_landlock_restrict_self, [signed(ruleset), 0]) }.map(drop)
}
