//! Names of Unix sockets, where those of abstract ones are the host's.
//!
//! Only names with a path are given. The program's own socket cannot be had everywhere (container
//! runtimes refuse `pidfd_getfd`), so a new one is bound and takes the place of the program's, as
//! with connections. What the program had set on its own is lost.
//!
//! The socket must tell the name by which the program knows it, for servers pass that on. So the path
//! is not taken apart: a process of its own, under the same Landlock rules as the program and with
//! its working directory and umask, binds to just that path, and whatever is swapped on the way,
//! the kernel makes the file only where the program could have. What does not lie in the program's
//! places to begin with is refused before.

#![expect(
    unsafe_code,
    reason = "system calls that take structures, and a process that shares memory"
)]

use super::connect::{Address, OUTSIDE, new_socket};
use super::resolve;
use super::target::{PATH, Target};
use super::{Fd, listener, low};
use crate::clone;
use crate::plan::{Mediation, Plan};
use crate::sys::{self, CloneArgs, Errno, Sys, signed};
use std::ffi::c_void;
use std::os::fd::RawFd;

/// Nanoseconds that a file system has to make the file, so that one that hangs delays no limit.
const PATIENCE: u64 = 1_000_000_000;
/// Bytes of the kernel's list of sockets that are read.
const LIST: usize = 16 << 20;
/// Bytes of a line of it before a name.
const LINE: usize = 96;

/// Binds the socket that the program means.
pub(super) fn perform(
    target: &Target,
    (plan, mediation): (&Plan, &Mediation),
    (listener, id): (RawFd, u64),
    args: &[u64; 6],
) -> Sys<()> {
    let [number, address, len, ..] = *args;
    let number = low(number);
    let mut place = [0; PATH];
    let place = target.place(number.cast_signed(), &mut place)?;
    let inode = place.strip_prefix(b"socket:[");
    let inode = inode.and_then(|rest| rest.strip_suffix(b"]"));
    let inode = inode.ok_or(Errno(libc::ENOTSOCK))?;
    let flags = target.flags(number)?;
    let address = Address::read(target, address, len)?;
    if matches!(address.name().first(), None | Some(0)) {
        return Err(super::OUTSIDE);
    }
    let directory = target.link(b"cwd")?;
    let umask = target.umask()?;
    resolve::entry(target, mediation, libc::AT_FDCWD, address.path()).map_err(
        |errno| match errno {
            super::OUTSIDE => OUTSIDE,
            other => other,
        },
    )?;
    target.check()?;
    let kind = kind(inode, mediation.datagrams)?;
    let socket = new_socket(kind | flags & libc::O_NONBLOCK)?;
    as_the_program_may(
        plan,
        &Naming {
            ruleset: plan.fds.ruleset,
            supervisor: sys::getpid(),
            directory: &directory,
            umask,
            socket: &socket,
            address: &address,
        },
    )?;
    let close_on_exec = flags & libc::O_CLOEXEC != 0;
    listener::replace(listener, id, &socket, number, close_on_exec)
}

/// What the process needs.
struct Naming<'a> {
    ruleset: RawFd,
    supervisor: i32,
    directory: &'a Fd,
    umask: u32,
    socket: &'a Fd,
    address: &'a Address,
}

/// Starts the process and waits for its end.
fn as_the_program_may(plan: &Plan, naming: &Naming<'_>) -> Sys<()> {
    let mut process = -1_i32;
    let args = CloneArgs {
        flags: libc::CLONE_PIDFD.cast_unsigned().into(),
        pidfd: &raw mut process as u64,
        ..CloneArgs::default()
    };
    // SAFETY: nobody is on the stack since the program's first process executed, and this function
    // only returns when the new process has ended, and so has its use of `naming`. All signals are
    // blocked. The new process makes only raw system calls.
    let number = unsafe {
        let naming = std::ptr::from_ref(naming).cast();
        clone::clone(args, &plan.program_stack, naming_process, naming)
    }?;
    let process = Fd(process);
    let mut ends = [libc::pollfd {
        fd: process.0,
        events: libc::POLLIN,
        revents: 0,
    }];
    if sys::retry(|| sys::poll(&mut ends, Some(PATIENCE))) != Ok(1) {
        let _ = sys::kill(number, libc::SIGKILL);
    }
    let mut status: libc::c_int = 0;
    let at = &raw mut status as usize;
    let args = [signed(number), at, signed(libc::__WALL), 0];
    // SAFETY: the kernel writes one int, to `status`, which outlives the call.
    sys::retry(|| unsafe { sys::call(libc::SYS_wait4, args) })?;
    match libc::WEXITSTATUS(status) {
        _ if !libc::WIFEXITED(status) => Err(Errno(libc::EIO)),
        0 => Ok(()),
        errno => Err(Errno(errno)),
    }
}

/// The process. Its status is the error's number, all of which are small enough.
extern "C" fn naming_process(naming: *const c_void) -> ! {
    // SAFETY: the supervisor passes a `Naming` and waits, so that it stays.
    let naming = unsafe { &*naming.cast::<Naming<'_>>() };
    sys::exit(naming.bind().err().map_or(0, |errno| errno.0))
}

impl Naming<'_> {
    fn bind(&self) -> Sys<()> {
        sys::prctl(libc::PR_SET_PDEATHSIG, [signed(libc::SIGKILL), 0, 0, 0])?;
        if sys::getppid() != self.supervisor {
            return Err(Errno(libc::ESRCH));
        }
        sys::fchdir(self.directory.0)?;
        let [address, len] = self.address.as_argument();
        sys::prctl(libc::PR_SET_NO_NEW_PRIVS, [1, 0, 0, 0])?;
        // SAFETY: the kernel reads `len` bytes of the address, which outlives the call; the others
        // take no pointers.
        unsafe {
            sys::call(libc::SYS_umask, [self.umask as usize])?;
            sys::call(libc::SYS_landlock_restrict_self, [signed(self.ruleset), 0])?;
            sys::call(libc::SYS_bind, [signed(self.socket.0), address, len])
        }
        .map(drop)
    }
}

/// The kind of an unnamed and unconnected Unix socket, by the kernel's list.
///
/// Whoever gives a socket a name with an end of line in it can make up a line of this list. It gains
/// another socket of a kind that it may have.
fn kind(inode: &[u8], datagrams: bool) -> Sys<i32> {
    let list = sys::openat(libc::AT_FDCWD, c"/proc/self/net/unix", libc::O_RDONLY, 0);
    let list = list.map(Fd).map_err(|_errno| super::OUTSIDE)?;
    let (mut line, mut len, mut total) = ([0; LINE], 0_usize, 0_usize);
    while total < LIST {
        let mut buffer = [0; 4096];
        let read = match sys::read(list.0, &mut buffer)? {
            0 => break,
            read => buffer.get(..read).unwrap_or_default(),
        };
        total = total.saturating_add(read.len());
        for byte in read {
            if *byte == b'\n' {
                let found = line.get(..len).and_then(|line| in_line(line, inode));
                if let Some(found) = found {
                    return found.filter_kind(datagrams);
                }
                len = 0;
            } else if let Some(slot) = line.get_mut(len) {
                *slot = *byte;
                len = len.saturating_add(1);
            }
        }
    }
    Err(super::OUTSIDE)
}

/// What a line of the list says of a socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Listed {
    kind: i32,
    connected: bool,
    named: bool,
}

impl Listed {
    fn filter_kind(self, datagrams: bool) -> Sys<i32> {
        match self {
            Self { named: true, .. } => Err(Errno(libc::EINVAL)),
            // It would be lost.
            Self {
                connected: true, ..
            } => Err(Errno(libc::EISCONN)),
            Self { kind, .. } => match kind {
                libc::SOCK_STREAM | libc::SOCK_SEQPACKET => Ok(kind),
                libc::SOCK_DGRAM if datagrams => Ok(kind),
                _ => Err(super::OUTSIDE),
            },
        }
    }
}

/// Address, references, protocol, flags, type, state, inode, name.
fn in_line(line: &[u8], inode: &[u8]) -> Option<Listed> {
    let mut fields = line
        .split(|byte| *byte == b' ')
        .filter(|field| !field.is_empty())
        .skip(4);
    let (kind, state) = (fields.next()?, fields.next()?);
    (fields.next()? == inode).then_some(())?;
    let kind = match kind {
        b"0001" => libc::SOCK_STREAM,
        b"0002" => libc::SOCK_DGRAM,
        b"0005" => libc::SOCK_SEQPACKET,
        _ => return None,
    };
    Some(Listed {
        kind,
        connected: state == b"03",
        named: fields.next().is_some(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::fd::AsRawFd as _;
    use std::os::unix::net::{UnixDatagram, UnixListener, UnixStream};

    fn of(socket: &impl std::os::fd::AsFd, datagrams: bool) -> Sys<i32> {
        let number = socket.as_fd().as_raw_fd();
        let link = fs::read_link(format!("/proc/self/fd/{number}")).unwrap();
        let link = link.to_str().unwrap();
        let inode = link.trim_start_matches("socket:[").trim_end_matches(']');
        kind(inode.as_bytes(), datagrams)
    }

    #[test]
    fn the_kernel_s_list_tells_the_kind() {
        let directory = tempfile::tempdir().unwrap();
        let named = UnixListener::bind(directory.path().join("socket")).unwrap();
        assert_eq!(of(&named, true), Err(Errno(libc::EINVAL)));
        let (one, _other) = UnixStream::pair().unwrap();
        assert_eq!(of(&one, true), Err(Errno(libc::EISCONN)));
        let datagrams = UnixDatagram::unbound().unwrap();
        assert_eq!(of(&datagrams, true), Ok(libc::SOCK_DGRAM));
        assert_eq!(of(&datagrams, false), Err(super::super::OUTSIDE));
        assert_eq!(kind(b"1", true), Err(super::super::OUTSIDE));
    }

    #[test]
    fn lines_are_taken_apart() {
        let line = b"0000000000000000: 00000002 00000000 00000000 0005 01 23456";
        let listed = Listed {
            kind: libc::SOCK_SEQPACKET,
            connected: false,
            named: false,
        };
        assert_eq!(in_line(line, b"23456"), Some(listed));
        assert_eq!(in_line(line, b"2345"), None);
        assert_eq!(in_line(b"Num       RefCount Protocol", b"23456"), None);
        assert_eq!(in_line(b"", b""), None);
    }
}
