//! Other processes. A value is a process number unless it says otherwise.

use super::Table;
use super::Try::Attempt;
use crate::sys::{self, NULL, call};
use libc::c_int;
use std::fs;
use std::io::{self, Write as _};
use std::os::fd::AsRawFd as _;

pub(super) const TRIES: Table = &[
    ("kill", Attempt(kill)),
    ("kill-group", Attempt(kill_group)),
    ("queue-signal", Attempt(queue_signal)),
    ("signal-thread", Attempt(signal_thread)),
    ("queue-thread-signal", Attempt(queue_thread_signal)),
    ("signal-by-pidfd", Attempt(signal_by_pidfd)),
    ("signal-by-descriptor", Attempt(signal_by_descriptor)),
    ("open-pidfd", Attempt(open_pidfd)),
    ("steal-descriptor-of", Attempt(steal_descriptor_of)),
    ("robust-list-of", Attempt(robust_list_of)),
    ("advise-memory-of", Attempt(advise_memory_of)),
    ("release-memory-of", Attempt(release_memory_of)),
    ("steal-descriptor", Attempt(steal_descriptor)),
    (
        "ptrace-traceme",
        Attempt(|_| ptrace(libc::PTRACE_TRACEME, 0)),
    ),
    (
        "ptrace-attach",
        Attempt(|pid| ptrace(libc::PTRACE_ATTACH, number(pid)?)),
    ),
    (
        "ptrace-seize",
        Attempt(|pid| ptrace(libc::PTRACE_SEIZE, number(pid)?)),
    ),
    (
        "ptrace-parent",
        Attempt(|_| ptrace(libc::PTRACE_SEIZE, parent()?)),
    ),
    (
        "ptrace-child",
        Attempt(|_| with_child(|pid| ptrace(libc::PTRACE_ATTACH, pid))),
    ),
    (
        "read-memory",
        Attempt(|pid| memory(libc::SYS_process_vm_readv, number(pid)?)),
    ),
    ("read-memory-of-child", Attempt(read_memory_of_child)),
    ("write-memory-of-child", Attempt(write_memory_of_child)),
    ("compare-with", Attempt(compare_with)),
    ("move-pages-of", Attempt(move_pages_of)),
    ("set-priority-of", Attempt(set_priority_of)),
    ("set-affinity-of", Attempt(set_affinity_of)),
    ("set-limits-of", Attempt(set_limits_of)),
    (
        "raise-priority",
        Attempt(|_| call!(libc::SYS_setpriority, 0, 0, -5).map(done)),
    ),
    ("find-in-proc", Attempt(find_in_proc)),
    ("init-environment", Attempt(|_| of_init("environ"))),
    ("init-memory", Attempt(|_| of_init("mem"))),
    ("init-root", Attempt(init_root)),
    ("init-maps", Attempt(|_| of_init("maps"))),
    ("init-program", Attempt(|_| of_init("exe"))),
    ("init-namespace", Attempt(|_| of_init("ns/mnt"))),
    ("init-descriptor", Attempt(|_| of_init("fd/0"))),
    ("init-write-memory", Attempt(init_write_memory)),
    (
        "init-steal-descriptor",
        Attempt(|_| steal_descriptor_of("1")),
    ),
    ("init-trace", Attempt(|_| ptrace(libc::PTRACE_SEIZE, 1))),
    (
        "init-read-memory",
        Attempt(|_| memory(libc::SYS_process_vm_readv, 1)),
    ),
];

fn done(_: usize) -> String {
    "done".into()
}

fn number(pid: &str) -> io::Result<c_int> {
    pid.parse().map_err(io::Error::other)
}

fn parent() -> io::Result<c_int> {
    c_int::try_from(call!(libc::SYS_getppid)?).map_err(io::Error::other)
}

/// `SIGCONT` changes nothing for a process that runs.
fn kill(pid: &str) -> io::Result<String> {
    call!(libc::SYS_kill, number(pid)?, libc::SIGCONT).map(done)
}

fn kill_group(pid: &str) -> io::Result<String> {
    call!(libc::SYS_kill, -number(pid)?, libc::SIGCONT).map(done)
}

fn queue_signal(pid: &str) -> io::Result<String> {
    let mut info = [0_u64; 16];
    // `si_signo`, then `si_code` is SI_QUEUE.
    info[0] = u64::from(libc::SIGCONT.cast_unsigned());
    info[1] = u64::from((-1_i32).cast_unsigned());
    let number = number(pid)?;
    call!(
        libc::SYS_rt_sigqueueinfo,
        number,
        libc::SIGCONT,
        &mut info[..]
    )
    .map(done)
}

fn signal_thread(pid: &str) -> io::Result<String> {
    let number = number(pid)?;
    call!(libc::SYS_tgkill, number, number, libc::SIGCONT).map(done)
}

fn queue_thread_signal(pid: &str) -> io::Result<String> {
    let mut info = [0_u64; 16];
    info[0] = u64::from(libc::SIGCONT.cast_unsigned());
    info[1] = u64::from((-1_i32).cast_unsigned());
    let number = number(pid)?;
    call!(
        libc::SYS_rt_tgsigqueueinfo,
        number,
        number,
        libc::SIGCONT,
        &mut info[..]
    )
    .map(done)
}

fn signal_by_pidfd(pid: &str) -> io::Result<String> {
    let pidfd = call!(libc::SYS_pidfd_open, number(pid)?, 0)?;
    call!(libc::SYS_pidfd_send_signal, pidfd, libc::SIGCONT, NULL, 0).map(done)
}

/// Names a process as the one to be told of input on a pipe, then writes to the pipe. The kernel
/// sends SIGIO, which ends who did not expect it, and tells nobody when it may not.
fn signal_by_descriptor(pid: &str) -> io::Result<String> {
    let (reader, mut writer) = io::pipe()?;
    let fd = reader.as_raw_fd();
    call!(libc::SYS_fcntl, fd, libc::F_SETOWN, number(pid)?)?;
    call!(libc::SYS_fcntl, fd, libc::F_SETFL, libc::O_ASYNC)?;
    writer.write_all(b"x")?;
    Ok("asked for".into())
}

fn steal_descriptor_of(pid: &str) -> io::Result<String> {
    let pidfd = call!(libc::SYS_pidfd_open, number(pid)?, 0)?;
    call!(libc::SYS_pidfd_getfd, pidfd, 1, 0).map(done)
}

/// An address in another process.
fn robust_list_of(pid: &str) -> io::Result<String> {
    let (mut head, mut len) = ([0_u64], [0_u64]);
    call!(
        libc::SYS_get_robust_list,
        number(pid)?,
        &mut head[..],
        &mut len[..]
    )
    .map(done)
}

fn advise_memory_of(pid: &str) -> io::Result<String> {
    let pidfd = call!(libc::SYS_pidfd_open, number(pid)?, 0).unwrap_or(usize::MAX);
    call!(
        libc::SYS_process_madvise,
        pidfd,
        NULL,
        0,
        libc::MADV_COLD,
        0
    )
    .map(done)
}

fn release_memory_of(pid: &str) -> io::Result<String> {
    let pidfd = call!(libc::SYS_pidfd_open, number(pid)?, 0)?;
    call!(libc::SYS_process_mrelease, pidfd, 0).map(done)
}

fn open_pidfd(pid: &str) -> io::Result<String> {
    call!(libc::SYS_pidfd_open, number(pid)?, 0).map(done)
}

/// Takes standard output from a child that did nothing to prevent it.
fn steal_descriptor(_: &str) -> io::Result<String> {
    with_child(|pid| {
        let pidfd = call!(libc::SYS_pidfd_open, pid, 0)?;
        call!(libc::SYS_pidfd_getfd, pidfd, 1, 0).map(done)
    })
}

fn ptrace(request: impl Into<i64>, pid: c_int) -> io::Result<String> {
    let request = c_int::try_from(request.into()).map_err(io::Error::other)?;
    call!(libc::SYS_ptrace, request, pid, NULL, NULL).map(done)
}

/// Runs `body` beside a child that waits until it is over.
fn with_child(body: impl FnOnce(c_int) -> io::Result<String>) -> io::Result<String> {
    let child = sys::idle_child()?;
    let outcome = body(child);
    call!(libc::SYS_kill, child, libc::SIGKILL)?;
    sys::wait(child)?;
    outcome
}

/// One byte from or to the start of `there` in another process.
fn transfer(call: libc::c_long, pid: c_int, there: u64) -> io::Result<String> {
    let mut byte = [0_u64];
    let mut local = [byte.as_mut_ptr().expose_provenance() as u64, 1];
    let mut remote = [there, 1];
    call!(call, pid, &mut local[..], 1, &mut remote[..], 1, 0).map(done)
}

fn memory(call: libc::c_long, pid: c_int) -> io::Result<String> {
    // An address that is mapped in no process: permission is looked at first.
    transfer(call, pid, 0x1000)
}

/// A child has the same addresses, so what is mapped here is mapped there.
fn own_address(word: &mut [u64]) -> u64 {
    word.as_mut_ptr().expose_provenance() as u64
}

fn read_memory_of_child(_: &str) -> io::Result<String> {
    let mut word = [7];
    let there = own_address(&mut word);
    with_child(|pid| transfer(libc::SYS_process_vm_readv, pid, there))
}

fn write_memory_of_child(_: &str) -> io::Result<String> {
    let mut word = [7];
    let there = own_address(&mut word);
    with_child(|pid| transfer(libc::SYS_process_vm_writev, pid, there))
}

fn compare_with(pid: &str) -> io::Result<String> {
    let me = std::process::id();
    call!(libc::SYS_kcmp, me, number(pid)?, 0, 1, 1).map(done)
}

fn move_pages_of(pid: &str) -> io::Result<String> {
    call!(libc::SYS_move_pages, number(pid)?, 0, NULL, NULL, NULL, 0).map(done)
}

fn set_priority_of(pid: &str) -> io::Result<String> {
    call!(libc::SYS_setpriority, 0, number(pid)?, 19).map(done)
}

fn set_affinity_of(pid: &str) -> io::Result<String> {
    let mut processors = [u64::MAX; 16];
    call!(
        libc::SYS_sched_setaffinity,
        number(pid)?,
        128,
        &mut processors[..]
    )
    .map(done)
}

/// The core-file limit of another process, to the value that most have.
fn set_limits_of(pid: &str) -> io::Result<String> {
    let mut limit = [0_u64, u64::MAX];
    call!(
        libc::SYS_prlimit64,
        number(pid)?,
        libc::RLIMIT_CORE,
        &mut limit[..],
        NULL
    )
    .map(done)
}

/// Looks for a text, given in hexadecimal so that it is not in this process's own arguments, in
/// everything that `/proc` says about any process.
fn find_in_proc(hex: &str) -> io::Result<String> {
    let text: Result<Vec<u8>, _> = (0..hex.len() / 2)
        .map(|at| u8::from_str_radix(hex.get(2 * at..2 * at + 2).unwrap_or_default(), 16))
        .collect();
    let text = text.map_err(io::Error::other)?;
    for entry in fs::read_dir("/proc")?.flatten() {
        for name in ["cmdline", "environ", "comm"] {
            let bytes = fs::read(entry.path().join(name)).unwrap_or_default();
            if bytes
                .windows(text.len().max(1))
                .any(|window| window == text)
            {
                return Ok(format!("in {}/{name}", entry.path().display()));
            }
        }
    }
    Err(io::Error::from_raw_os_error(libc::ENOENT))
}

/// Opens a file of process 1 for reading. With a process namespace, process 1 may be this very
/// program or its parent, which tell nothing that is not known: the same as no such process.
fn of_init(name: &str) -> io::Result<String> {
    let own = std::process::id() == 1 || parent()? == 1;
    if own {
        return Err(io::Error::from_raw_os_error(libc::ESRCH));
    }
    fs::File::open(format!("/proc/1/{name}")).map(|_| "opened".into())
}

fn init_write_memory(_: &str) -> io::Result<String> {
    let memory = fs::File::options().write(true).open("/proc/1/mem");
    memory.map(|_| "opened".into())
}

/// The root directory of process 1 leads out of this one's.
fn init_root(_: &str) -> io::Result<String> {
    let entries = fs::read_dir("/proc/1/root/")?;
    let own: Vec<_> = fs::read_dir("/")?
        .flatten()
        .map(|entry| entry.file_name())
        .collect();
    let other = entries
        .flatten()
        .find(|entry| !own.contains(&entry.file_name()));
    match other {
        Some(entry) => Ok(format!("shows {:?}", entry.file_name())),
        None => Err(io::Error::from_raw_os_error(libc::ENOENT)),
    }
}
