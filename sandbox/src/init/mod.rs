//! The processes between `clone` and `execve`: the supervisor, called init because it is process 1
//! of the sandbox's process namespace where there is one, and the program before it executes.
//!
//! # Rules of this module
//! It runs in the caller's memory, beside the caller's threads, on small stacks of its own
//! ([`crate::clone`]). So: raw system calls only ([`crate::sys`]), no allocation, no lock, no panic,
//! nothing dropped that would free memory. Everything needed is in the [`Plan`].
//!
//! # Who is trusted
//! The supervisor trusts the plan and the caller's commands. What it learns of the program is wait
//! statuses and numbers that the kernel counts.
//!
//! # Life
//! ```text
//! set up ──> start the program ──> wait ──> kill everything ──> clean up ──> report ──> exit
//!    └──────────────┴── failure: report the step ──> clean up ──> exit
//! ```
//! Waiting ends when the program's first process ends, a limit is hit, the caller says so, or the
//! caller is gone.

mod clock;
mod descent;
mod files;
mod notify;
mod pids;
mod program;
mod remove;
mod root;
mod supervise;
mod sweep;
mod terminal;
mod trace;

use crate::plan::{Cgroup, HostDirectory, Identity, PathRule, Plan};
use crate::sys::{self, Errno};
use crate::wire::{Event, Failure, Record, Step};
use std::os::fd::{AsRawFd, RawFd};

pub(crate) use remove::remove_tree;

/// The outcome of a step.
type Done<T = ()> = Result<T, Failure>;

/// Turns an error number into the failure of a step.
fn at(step: Step) -> impl Fn(Errno) -> Failure {
    item(step, 0)
}

/// The same for one item of a list.
fn item(step: Step, index: usize) -> impl Fn(Errno) -> Failure {
    let item = u32::try_from(index).unwrap_or(u32::MAX);
    move |errno| Failure {
        step,
        item,
        errno: errno.0,
    }
}

/// The user and group of the program, as numbers inside the sandbox.
#[derive(Debug, Clone, Copy)]
struct User {
    uid: u32,
    gid: u32,
}

/// The supervisor. Never returns.
pub(crate) fn run(plan: &Plan) -> ! {
    let control = plan.fds.control;
    match set_up(plan) {
        Ok(ready) => supervise::run(plan, &ready),
        Err(failure) => {
            plan.on_host.remove();
            let _ = send(control, &Event::Failed(failure).to_record(), None);
            sys::exit(1)
        }
    }
}

/// What the set-up leaves for what follows.
#[derive(Debug, Clone, Copy)]
struct Ready {
    user: User,
    /// The workspace, `O_PATH`.
    workspace: RawFd,
    /// The caller's side of a terminal of the sandbox's own.
    terminal: Option<RawFd>,
    /// Why a private root has no `/proc`, 0 if it has one or there is none.
    no_proc: i32,
}

fn set_up(plan: &Plan) -> Done<Ready> {
    for (first, last) in &plan.gaps {
        sys::close_range(*first, *last).map_err(at(Step::CloseFiles))?;
    }
    let null = plan.fds.null;
    for stream in 0..=2 {
        sys::dup3(null, stream, libc::O_CLOEXEC).map_err(at(Step::CloseFiles))?;
    }
    sys::setsid().map_err(at(Step::Session))?;
    let _ = sys::prctl(
        libc::PR_SET_NAME,
        [c"ringfence-init".as_ptr() as usize, 0, 0, 0],
    );
    umask(0);
    let user = identity(plan)?;
    if !plan.has_namespace(libc::CLONE_NEWPID) {
        let on = [1, 0, 0, 0];
        sys::prctl(libc::PR_SET_CHILD_SUBREAPER, on).map_err(at(Step::Session))?;
    }
    if plan.has_namespace(libc::CLONE_NEWIPC) && plan.on_host.cgroup.is_none() {
        bound_objects(plan);
    }
    if plan.has_namespace(libc::CLONE_NEWUSER) {
        bound_watches();
    }
    if plan.has_namespace(libc::CLONE_NEWUTS) {
        set_hostname().map_err(at(Step::Hostname))?;
    }
    let no_proc = match &plan.root {
        Some(root) => root::build(root, user)?,
        None => 0,
    };
    if no_proc != 0 && plan.requires_root {
        return Err(at(Step::Proc)(Errno(no_proc)));
    }
    let terminal = terminal::own(plan).map_err(at(Step::Streams))?;
    own_streams(plan, user).map_err(at(Step::Streams))?;
    let workspace = files::workspace(plan, user)?;
    for index in 0..plan.files.len() {
        files::write(plan, workspace, index, user).map_err(item(Step::InputFile, index))?;
    }
    add_rules(plan.fds.ruleset, libc::AT_FDCWD, &plan.rules)?;
    notify::open_roots(plan)?;
    Ok(Ready {
        user,
        workspace,
        terminal,
        no_proc,
    })
}

/// Gives the pipes to the program's user, so that it can open them again as `/dev/stdout`.
fn own_streams(plan: &Plan, user: User) -> sys::Sys<()> {
    if !matches!(plan.identity, Identity::Own { .. }) {
        return Ok(());
    }
    let stdin = plan.stdin_piped.then_some(plan.fds.stdin);
    for stream in [plan.fds.stdout, plan.fds.stderr].into_iter().chain(stdin) {
        let args = [sys::signed(stream), user.uid as usize, user.gid as usize];
        #[expect(unsafe_code, reason = "a system call")]
        // SAFETY: takes no pointers.
        unsafe { sys::call(libc::SYS_fchown, args) }?;
    }
    Ok(())
}

fn umask(mask: usize) {
    #[expect(unsafe_code, reason = "a system call")]
    // SAFETY: takes no pointers.
    let _ = unsafe { sys::call(libc::SYS_umask, [mask]) };
}

/// Bounds what the kernel gives each user a few of, and the program's user is the caller.
fn bound_watches() {
    let here = libc::AT_FDCWD;
    let _ = sys::write_file(here, c"/proc/sys/user/max_inotify_instances", b"32");
    let _ = sys::write_file(here, c"/proc/sys/user/max_inotify_watches", b"8192");
}

/// Bounds what System V objects hold, which no process has and no limit of a process counts. Where
/// the settings may not be changed they stay.
fn bound_objects(plan: &Plan) {
    const PAGE: u64 = 4096;
    const QUEUES: &[u8] = b"64";
    /// In one set, in all sets, in one operation, sets.
    const SEMAPHORES: &[u8] = b"1000 32000 100 256";
    let here = libc::AT_FDCWD;
    let _ = sys::write_file(here, c"/proc/sys/kernel/msgmni", QUEUES);
    let _ = sys::write_file(here, c"/proc/sys/kernel/sem", SEMAPHORES);
    if let Some(most) = plan.spec.limits.memory {
        let pages = u32::try_from(most / PAGE).unwrap_or(u32::MAX);
        let mut buffer = [0; 10];
        let pages = root::decimal(pages, &mut buffer);
        let _ = sys::write_file(here, c"/proc/sys/kernel/shmall", pages);
    }
}

fn set_hostname() -> sys::Sys<()> {
    let name = b"sandbox";
    #[expect(unsafe_code, reason = "a system call")]
    // SAFETY: the kernel reads `len` bytes of a constant.
    unsafe { sys::call(libc::SYS_sethostname, [name.as_ptr() as usize, name.len()]) }.map(drop)
}

fn identity(plan: &Plan) -> Done<User> {
    match &plan.identity {
        Identity::Same { uid, gid } => Ok(User {
            uid: *uid,
            gid: *gid,
        }),
        Identity::Mapped {
            uid,
            gid,
            uid_map,
            gid_map,
        } => {
            let here = libc::AT_FDCWD;
            // Without this an unprivileged process may not map groups.
            sys::write_file(here, c"/proc/self/setgroups", b"deny").map_err(at(Step::UserMap))?;
            sys::write_file(here, c"/proc/self/uid_map", uid_map).map_err(at(Step::UserMap))?;
            sys::write_file(here, c"/proc/self/gid_map", gid_map).map_err(at(Step::UserMap))?;
            Ok(User {
                uid: *uid,
                gid: *gid,
            })
        }
        Identity::Own { base, span } => {
            // `/proc` is still the host's, so this is the number that the host knows this process
            // by: unique among the living.
            let mut buffer = [0; 16];
            let link = read_link(c"/proc/self", &mut buffer).map_err(at(Step::Identity))?;
            let number = link.iter().try_fold(0_u32, |number, digit| {
                let digit = digit.checked_sub(b'0').filter(|digit| *digit < 10)?;
                number.checked_mul(10)?.checked_add(u32::from(digit))
            });
            let number = number.and_then(|number| number.checked_rem(*span));
            let uid = number.and_then(|number| base.checked_add(number));
            let uid = uid.ok_or(Errno(libc::ERANGE)).map_err(at(Step::Identity))?;
            Ok(User { uid, gid: uid })
        }
    }
}

fn read_link<'b>(path: &std::ffi::CStr, buffer: &'b mut [u8]) -> sys::Sys<&'b [u8]> {
    let (start, len) = (buffer.as_mut_ptr() as usize, buffer.len());
    let args = [
        sys::signed(libc::AT_FDCWD),
        path.as_ptr() as usize,
        start,
        len,
    ];
    #[expect(unsafe_code, reason = "a system call")]
    // SAFETY: `path` ends with NUL; the kernel writes at most `len` bytes to the borrowed buffer.
    let written = unsafe { sys::call(libc::SYS_readlinkat, args) }?;
    Ok(buffer.get(..written).unwrap_or_default())
}

/// `struct landlock_path_beneath_attr`, which the kernel declares packed.
#[repr(C, packed)]
struct PathBeneath {
    allowed_access: u64,
    parent_fd: i32,
}

/// Adds rules on paths, seen from a directory.
fn add_rules(ruleset: RawFd, directory: RawFd, rules: &[PathRule]) -> Done {
    for (index, rule) in rules.iter().enumerate() {
        let failed = item(Step::LandlockRule, index);
        if let Some(file) = &rule.file {
            add_rule(ruleset, file.as_raw_fd(), rule.access).map_err(failed)?;
            continue;
        }
        let opened = if rule.without_links {
            let resolve = sys::NO_SYMLINKS | sys::NO_MAGICLINKS;
            sys::openat2(directory, &rule.path, libc::O_PATH, resolve)
        } else {
            sys::openat(directory, &rule.path, libc::O_PATH, 0)
        };
        match opened {
            Ok(fd) => {
                let added = add_rule(ruleset, fd, rule.access);
                sys::close(fd);
                added.map_err(failed)?;
            }
            Err(Errno(libc::ENOENT | libc::ENOTDIR | libc::EACCES)) if rule.optional => {}
            Err(errno) => return Err(failed(errno)),
        }
    }
    Ok(())
}

/// Grants rights on everything beneath what a descriptor stands for.
fn add_rule(ruleset: RawFd, path: RawFd, access: u64) -> sys::Sys<()> {
    const PATH_BENEATH: usize = 1;
    let rule = PathBeneath {
        allowed_access: access,
        parent_fd: path,
    };
    let args = [
        sys::signed(ruleset),
        PATH_BENEATH,
        &raw const rule as usize,
        0,
    ];
    #[expect(unsafe_code, reason = "a system call")]
    // SAFETY: the kernel reads one `PathBeneath`, which outlives the call.
    unsafe { sys::call(libc::SYS_landlock_add_rule, args) }.map(drop)
}

/// What a sandbox has on the host.
#[derive(Debug, Default)]
pub(crate) struct OnHost {
    /// The private directory, without a mount namespace.
    pub(crate) directory: Option<HostDirectory>,
    pub(crate) cgroup: Option<Cgroup>,
}

impl OnHost {
    /// Removes it. Everything in it has ended. Once more does no harm.
    pub(crate) fn remove(&self) {
        if let Some(group) = &self.cgroup {
            let _ = sys::unlinkat(group.parent.as_raw_fd(), &group.name, libc::AT_REMOVEDIR);
        }
        if let Some(host) = &self.directory {
            remove_tree(
                host.parent.as_raw_fd(),
                host.directory.as_raw_fd(),
                &host.name,
            );
        }
    }
}

/// Room for a control message with one descriptor: a header and an int, aligned.
#[repr(C, align(8))]
struct OneDescriptor {
    header: libc::cmsghdr,
    descriptor: i32,
}

/// Sends a record, and a descriptor with it.
fn send(control: RawFd, record: &Record, descriptor: Option<RawFd>) -> sys::Sys<()> {
    #[expect(
        unsafe_code,
        reason = "plain structures with padding that differs between libraries"
    )]
    let (mut rights, mut message): (OneDescriptor, libc::msghdr) =
        // SAFETY: all-zero bytes are valid for these plain structures.
        unsafe { (std::mem::zeroed(), std::mem::zeroed()) };
    let mut part = libc::iovec {
        iov_base: record.as_ptr().cast_mut().cast(),
        iov_len: record.len(),
    };
    message.msg_iov = &raw mut part;
    message.msg_iovlen = 1;
    if let Some(descriptor) = descriptor {
        rights.header.cmsg_level = libc::SOL_SOCKET;
        rights.header.cmsg_type = libc::SCM_RIGHTS;
        rights.header.cmsg_len = sys::small_size(size_of::<libc::cmsghdr>() + size_of::<i32>());
        rights.descriptor = descriptor;
        message.msg_control = (&raw mut rights).cast();
        message.msg_controllen = sys::small_size(size_of::<OneDescriptor>());
    }
    let args = [
        sys::signed(control),
        &raw const message as usize,
        sys::signed(libc::MSG_NOSIGNAL),
    ];
    #[expect(unsafe_code, reason = "a system call")]
    // SAFETY: the kernel reads the message and what it points to, all of which outlive the call.
    sys::retry(|| unsafe { sys::call(libc::SYS_sendmsg, args) }).map(drop)
}
