//! System calls that reach the kernel's own state, its namespaces or its larger attack surfaces.

use super::Table;
use super::Try::Attempt;
use crate::sys::{NULL, call};
use std::fs::File;
use std::io;
use std::os::fd::AsRawFd as _;

pub(super) const TRIES: Table = &[
    ("mount", Attempt(mount)),
    ("mount-bind", Attempt(mount_bind)),
    ("mount-remount", Attempt(mount_remount)),
    (
        "umount",
        Attempt(|_| call!(libc::SYS_umount2, c".", libc::MNT_DETACH).map(done)),
    ),
    (
        "pivot-root",
        Attempt(|_| call!(libc::SYS_pivot_root, c".", c".").map(done)),
    ),
    (
        "chroot",
        Attempt(|_| call!(libc::SYS_chroot, c".").map(done)),
    ),
    (
        "fsopen",
        Attempt(|_| call!(libc::SYS_fsopen, c"tmpfs", 0).map(done)),
    ),
    (
        "fsconfig",
        Attempt(|_| call!(libc::SYS_fsconfig, -1, 0, c"x", c"x", 0).map(done)),
    ),
    (
        "fsmount",
        Attempt(|_| call!(libc::SYS_fsmount, -1, 0, 0).map(done)),
    ),
    (
        "fspick",
        Attempt(|_| call!(libc::SYS_fspick, libc::AT_FDCWD, c"/", 0).map(done)),
    ),
    ("open-tree", Attempt(open_tree)),
    ("move-mount", Attempt(move_mount)),
    ("mount-setattr", Attempt(mount_setattr)),
    ("unshare", Attempt(|name| unshare(namespace(name)?))),
    ("clone", Attempt(|name| clone(namespace(name)?))),
    ("clone3", Attempt(|name| clone3(namespace(name)?))),
    ("setns", Attempt(setns)),
    ("setns-by-pidfd", Attempt(setns_by_pidfd)),
    ("io-uring", Attempt(io_uring)),
    (
        "io-uring-enter",
        Attempt(|_| call!(libc::SYS_io_uring_enter, -1, 0, 0, 0, NULL, 0).map(done)),
    ),
    (
        "io-uring-register",
        Attempt(|_| call!(libc::SYS_io_uring_register, -1, 0, NULL, 0).map(done)),
    ),
    ("bpf", Attempt(bpf)),
    ("perf-event", Attempt(perf_event)),
    (
        "userfaultfd",
        Attempt(|_| call!(libc::SYS_userfaultfd, USER_MODE_ONLY).map(done)),
    ),
    (
        "keyctl",
        Attempt(|_| call!(libc::SYS_keyctl, 0, -3, 1).map(done)),
    ),
    ("add-key", Attempt(add_key)),
    (
        "request-key",
        Attempt(|_| call!(libc::SYS_request_key, c"user", c"x", NULL, -3).map(done)),
    ),
    (
        "kexec-load",
        Attempt(|_| call!(libc::SYS_kexec_load, 0, 0, NULL, 0).map(done)),
    ),
    (
        "kexec-file-load",
        Attempt(|_| call!(KEXEC_FILE_LOAD, -1, -1, 0, NULL, 0).map(done)),
    ),
    (
        "init-module",
        Attempt(|_| call!(libc::SYS_init_module, NULL, 0, c"").map(done)),
    ),
    (
        "finit-module",
        Attempt(|_| call!(libc::SYS_finit_module, -1, c"", 0).map(done)),
    ),
    (
        "delete-module",
        Attempt(|_| call!(libc::SYS_delete_module, c"x", 0).map(done)),
    ),
    ("reboot", Attempt(reboot)),
    (
        "swapon",
        Attempt(|_| call!(libc::SYS_swapon, c"x", 0).map(done)),
    ),
    (
        "swapoff",
        Attempt(|_| call!(libc::SYS_swapoff, c"x").map(done)),
    ),
    ("acct", Attempt(|_| call!(libc::SYS_acct, c"x").map(done))),
    (
        "quotactl",
        Attempt(|_| call!(libc::SYS_quotactl, 0x80_0001, NULL, 0, NULL).map(done)),
    ),
    (
        "quotactl-by-descriptor",
        Attempt(|_| call!(libc::SYS_quotactl_fd, 0, 0x80_0001, 0, NULL).map(done)),
    ),
    (
        "syslog",
        Attempt(|_| call!(libc::SYS_syslog, 10, NULL, 0).map(done)),
    ),
    ("set-clock", Attempt(set_clock)),
    (
        "set-time",
        Attempt(|_| call!(libc::SYS_settimeofday, NULL, NULL).map(done)),
    ),
    ("adjust-clock", Attempt(adjust_clock)),
    ("adjust-clock-by-number", Attempt(adjust_clock_by_number)),
    (
        "set-host-name",
        Attempt(|_| call!(libc::SYS_sethostname, c"x", 1).map(done)),
    ),
    (
        "set-domain-name",
        Attempt(|_| call!(libc::SYS_setdomainname, c"x", 1).map(done)),
    ),
    ("hang-up", Attempt(|_| call!(libc::SYS_vhangup).map(done))),
    (
        "fanotify",
        Attempt(|_| call!(libc::SYS_fanotify_init, 0, 0).map(done)),
    ),
    (
        "personality",
        Attempt(|_| call!(libc::SYS_personality, READ_IMPLIES_EXEC).map(done)),
    ),
    (
        "personality-without-randomness",
        Attempt(|_| call!(libc::SYS_personality, ADDR_NO_RANDOMIZE).map(done)),
    ),
    ("mount-of-groups", Attempt(mount_of_groups)),
    (
        "mounts-by-number",
        Attempt(|_| call!(LISTMOUNT, NULL, NULL, 0, 0).map(done)),
    ),
    ("own-terminal", Attempt(own_terminal)),
    ("push-own-input", Attempt(|_| on_own_terminal(TIOCSTI))),
    (
        "own-line-discipline",
        Attempt(|_| on_own_terminal(TIOCSETD)),
    ),
    ("push-input", Attempt(|_| ioctl(TIOCSTI))),
    (
        "push-input-high-bits",
        Attempt(|_| ioctl(TIOCSTI | 1 << 32)),
    ),
    ("console-selection", Attempt(|_| ioctl(TIOCLINUX))),
    ("line-discipline", Attempt(|_| ioctl(TIOCSETD))),
    (
        "take-terminal",
        Attempt(|_| File::open("/dev/tty").map(|_| "opened".into())),
    ),
    ("unknown-call", Attempt(|_| call!(1023).map(done))),
    #[cfg(target_arch = "x86_64")]
    (
        "call-32-bit",
        Attempt(|_| crate::sys::int80_getpid().map(|pid| format!("pid {pid}"))),
    ),
    #[cfg(target_arch = "x86_64")]
    (
        "call-x32",
        Attempt(|_| call!(0x4000_0000 | libc::SYS_getpid).map(|pid| format!("pid {pid}"))),
    ),
    #[cfg(target_arch = "x86_64")]
    ("io-ports", Attempt(|_| call!(libc::SYS_iopl, 3).map(done))),
    #[cfg(target_arch = "x86_64")]
    (
        "io-permissions",
        Attempt(|_| call!(libc::SYS_ioperm, 0x80, 1, 1).map(done)),
    ),
    #[cfg(target_arch = "x86_64")]
    (
        "local-descriptors",
        Attempt(|_| call!(libc::SYS_modify_ldt, 0x11, NULL, 0).map(done)),
    ),
];

#[cfg(target_arch = "x86_64")]
const KEXEC_FILE_LOAD: libc::c_long = 320;
#[cfg(target_arch = "aarch64")]
const KEXEC_FILE_LOAD: libc::c_long = 294;
const USER_MODE_ONLY: i32 = 1;
const TIOCSTI: u64 = 0x5412;
const TIOCLINUX: u64 = 0x541C;
const TIOCSETD: u64 = 0x5423;
const READ_IMPLIES_EXEC: u32 = 0x040_0000;
const ADDR_NO_RANDOMIZE: u32 = 0x004_0000;
const LISTMOUNT: libc::c_long = 458;
const CLONE_NEWTIME: i32 = 0x80;

fn done(_: usize) -> String {
    "done".into()
}

fn mount(_: &str) -> io::Result<String> {
    call!(libc::SYS_mount, c"none", c".", c"tmpfs", 0, NULL).map(done)
}

fn mount_bind(_: &str) -> io::Result<String> {
    call!(
        libc::SYS_mount,
        c"/",
        c".",
        NULL,
        libc::MS_BIND | libc::MS_REC,
        NULL
    )
    .map(done)
}

fn mount_remount(_: &str) -> io::Result<String> {
    call!(
        libc::SYS_mount,
        NULL,
        c"/",
        NULL,
        libc::MS_REMOUNT | libc::MS_BIND,
        NULL
    )
    .map(done)
}

/// The interface in which a group names the program to be run at its end.
fn mount_of_groups(_: &str) -> io::Result<String> {
    call!(libc::SYS_mount, c"none", c".", c"cgroup", 0, c"rdma").map(done)
}

fn open_tree(_: &str) -> io::Result<String> {
    let clone = 1 | libc::O_CLOEXEC.cast_unsigned();
    call!(libc::SYS_open_tree, libc::AT_FDCWD, c"/", clone).map(done)
}

fn move_mount(_: &str) -> io::Result<String> {
    call!(
        libc::SYS_move_mount,
        libc::AT_FDCWD,
        c"/",
        libc::AT_FDCWD,
        c".",
        0
    )
    .map(done)
}

/// `struct mount_attr` that takes read-only away from the root.
fn mount_setattr(_: &str) -> io::Result<String> {
    let mut attributes = [0_u64, 1, 0, 0];
    let size = 32;
    call!(
        libc::SYS_mount_setattr,
        libc::AT_FDCWD,
        c"/",
        0,
        &mut attributes[..],
        size
    )
    .map(done)
}

fn namespace(name: &str) -> io::Result<i32> {
    Ok(match name {
        "user" => libc::CLONE_NEWUSER,
        "mount" => libc::CLONE_NEWNS,
        "pid" => libc::CLONE_NEWPID,
        "net" => libc::CLONE_NEWNET,
        "ipc" => libc::CLONE_NEWIPC,
        "uts" => libc::CLONE_NEWUTS,
        "cgroup" => libc::CLONE_NEWCGROUP,
        "time" => CLONE_NEWTIME,
        _ => return Err(io::Error::other("no such namespace")),
    })
}

fn unshare(flags: i32) -> io::Result<String> {
    call!(libc::SYS_unshare, flags).map(done)
}

/// Ends the child at once: both return here, and zero is the child.
fn born(pid: usize) -> String {
    if pid == 0 {
        std::process::exit(0);
    }
    "a child".into()
}

fn clone(flags: i32) -> io::Result<String> {
    call!(
        libc::SYS_clone,
        flags | libc::SIGCHLD,
        NULL,
        NULL,
        NULL,
        NULL
    )
    .map(born)
}

/// `struct clone_args`: a filter cannot look into it.
fn clone3(flags: i32) -> io::Result<String> {
    let mut arguments = [0_u64; 11];
    arguments[0] = u64::from(flags.cast_unsigned());
    arguments[4] = u64::from(libc::SIGCHLD.cast_unsigned());
    call!(libc::SYS_clone3, &mut arguments[..], 88).map(born)
}

/// By a descriptor of this very namespace, so that only permission can be in the way.
fn setns(_: &str) -> io::Result<String> {
    let own = File::open("/proc/self/ns/net");
    let descriptor = own.as_ref().map_or(-1, |file| file.as_raw_fd());
    call!(libc::SYS_setns, descriptor, libc::CLONE_NEWNET).map(done)
}

fn setns_by_pidfd(_: &str) -> io::Result<String> {
    let own = call!(libc::SYS_pidfd_open, std::process::id(), 0)?;
    call!(libc::SYS_setns, own, libc::CLONE_NEWNET).map(done)
}

fn io_uring(_: &str) -> io::Result<String> {
    let mut parameters = [0_u64; 15];
    call!(libc::SYS_io_uring_setup, 4, &mut parameters[..]).map(done)
}

/// A map of one element, as unprivileged programs may make where the host allows it.
fn bpf(_: &str) -> io::Result<String> {
    // Type array, key of 4 bytes, value of 4 bytes, 1 entry.
    let mut attributes = [(4_u64 << 32) | 2, (1_u64 << 32) | 4, 0, 0, 0, 0, 0, 0, 0];
    call!(libc::SYS_bpf, 0, &mut attributes[..], 72).map(done)
}

/// The program's own page faults: what unprivileged users may count almost everywhere.
fn perf_event(_: &str) -> io::Result<String> {
    let mut attributes = [0_u64; 16];
    // Type software in the low half, size of the structure in the high half; then the counter;
    // then, among the flags, not the kernel (bit 5) and not the hypervisor (bit 6).
    attributes[0] = (128 << 32) | 1;
    attributes[1] = 2;
    attributes[5] = 0x60;
    call!(libc::SYS_perf_event_open, &mut attributes[..], 0, -1, -1, 0).map(done)
}

fn add_key(_: &str) -> io::Result<String> {
    call!(libc::SYS_add_key, c"user", c"ringfence", c"x", 1, -3).map(done)
}

/// Asks for Ctrl-Alt-Del to be ignored, which harms nobody where it is allowed.
fn reboot(_: &str) -> io::Result<String> {
    call!(libc::SYS_reboot, 0xfee1_dead_u32, 0x2812_1969, 0, NULL).map(done)
}

/// To a time that is none, which is looked at after the permission: harmless where allowed, and
/// then `EINVAL`.
fn set_clock(_: &str) -> io::Result<String> {
    let mut time = [0_u64, u64::MAX];
    call!(libc::SYS_clock_settime, libc::CLOCK_REALTIME, &mut time[..]).map(done)
}

/// `struct timex` that asks for a change of the tick.
fn adjust_clock(_: &str) -> io::Result<String> {
    let mut change = [0_u64; 26];
    change[0] = 0x4000;
    call!(libc::SYS_adjtimex, &mut change[..]).map(done)
}

fn adjust_clock_by_number(_: &str) -> io::Result<String> {
    let mut change = [0_u64; 26];
    change[0] = 0x4000;
    call!(
        libc::SYS_clock_adjtime,
        libc::CLOCK_REALTIME,
        &mut change[..]
    )
    .map(done)
}

/// Both ends of a terminal of the sandbox's own.
fn terminal() -> io::Result<(File, File)> {
    let open = |path: &str| File::options().read(true).write(true).open(path);
    let master = open("/dev/ptmx")?;
    let mut number = [0_u64];
    call!(
        libc::SYS_ioctl,
        master.as_raw_fd(),
        libc::TIOCGPTN,
        &mut number[..]
    )?;
    let mut unlocked = [0_u64];
    call!(
        libc::SYS_ioctl,
        master.as_raw_fd(),
        libc::TIOCSPTLCK,
        &mut unlocked[..]
    )?;
    let slave = open(&format!("/dev/pts/{}", number[0]))?;
    Ok((master, slave))
}

fn own_terminal(_: &str) -> io::Result<String> {
    terminal().map(|_| "opened".into())
}

fn on_own_terminal(request: u64) -> io::Result<String> {
    let (_master, slave) = terminal()?;
    let mut word = [u64::from(b'x')];
    call!(libc::SYS_ioctl, slave.as_raw_fd(), request, &mut word[..]).map(done)
}

/// On standard input: where that is no terminal, only a filter answers otherwise than `ENOTTY`.
fn ioctl(request: u64) -> io::Result<String> {
    let mut byte = *b"x";
    call!(libc::SYS_ioctl, 0, request, &mut byte[..]).map(done)
}
