//! The listener: how it comes to the supervisor, and the kernel's requests on it.

#![expect(unsafe_code, reason = "system calls that take structures")]

use super::Fd;
use crate::init::send;
use crate::plan::Plan;
use crate::seccomp;
use crate::sys::{self, Errno, Sys, signed};
use crate::wire::RECORD;
use std::os::fd::RawFd;

/// `struct seccomp_notif`.
#[repr(C)]
#[derive(Default)]
struct Notification {
    id: u64,
    pid: u32,
    flags: u32,
    number: i32,
    architecture: u32,
    instruction: u64,
    args: [u64; 6],
}

/// `struct seccomp_notif_resp`.
#[repr(C)]
struct Response {
    id: u64,
    value: i64,
    error: i32,
    flags: u32,
}

/// `struct seccomp_notif_addfd`.
#[repr(C)]
struct AddDescriptor {
    id: u64,
    flags: u32,
    source: u32,
    target: u32,
    target_flags: u32,
}

const MAGIC: usize = (b'!' as usize) << 8;
const WRITE: usize = 1 << 30;
const READ: usize = 2 << 30;
/// The kernel puts the size of what it takes and gives into the request's number.
const RECEIVE: usize = READ | WRITE | size_of::<Notification>() << 16 | MAGIC;
const SEND: usize = READ | WRITE | size_of::<Response>() << 16 | MAGIC | 1;
const IS_VALID: usize = WRITE | size_of::<u64>() << 16 | MAGIC | 2;
const ADD_DESCRIPTOR: usize = WRITE | size_of::<AddDescriptor>() << 16 | MAGIC | 3;
/// `SECCOMP_USER_NOTIF_FLAG_CONTINUE`.
const GO_ON: u32 = 1;
/// `SECCOMP_ADDFD_FLAG_SETFD`: to a number of the sender's choice, which may be in use.
const AT_NUMBER: u32 = 1;
/// `SECCOMP_ADDFD_FLAG_SEND`: its number is the answer.
const IS_ANSWER: u32 = 2;

/// A call that the kernel holds.
#[derive(Debug, Clone, Copy)]
pub(super) struct Call {
    pub(super) id: u64,
    pub(super) pid: u32,
    pub(super) number: libc::c_long,
    pub(super) args: [u64; 6],
}

fn request(listener: RawFd, number: usize, structure: usize) -> Sys<()> {
    // SAFETY: each caller gives the structure that belongs to the request, which outlives the call.
    unsafe { sys::call(libc::SYS_ioctl, [signed(listener), number, structure]) }.map(drop)
}

/// The next call that is held. Does not wait when the listener was seen to be readable.
pub(super) fn receive(listener: RawFd) -> Sys<Call> {
    let mut held = Notification::default();
    request(listener, RECEIVE, &raw mut held as usize)?;
    Ok(Call {
        id: held.id,
        pid: held.pid,
        number: held.number.into(),
        args: held.args,
    })
}

/// Ends a held call with this result. That nobody waits for it any more is no matter.
pub(super) fn answer(listener: RawFd, id: u64, result: Sys<()>) {
    let response = Response {
        id,
        value: 0,
        error: result.err().map_or(0, |errno| errno.0.saturating_neg()),
        flags: 0,
    };
    let _ = request(listener, SEND, &raw const response as usize);
}

/// Lets the program itself make a held call.
pub(super) fn go_on(listener: RawFd, id: u64) -> Sys<()> {
    let response = Response {
        id,
        value: 0,
        error: 0,
        flags: GO_ON,
    };
    request(listener, SEND, &raw const response as usize)
}

/// Whether the call is still held: so its process has not ended and its number is still its own.
pub(super) fn is_valid(listener: RawFd, id: u64) -> Sys<()> {
    request(listener, IS_VALID, &raw const id as usize)
}

/// Puts a descriptor in the place of one of the caller's.
pub(super) fn replace(
    listener: RawFd,
    id: u64,
    with: &Fd,
    target: u32,
    close_on_exec: bool,
) -> Sys<()> {
    add(listener, id, with, (AT_NUMBER, target), close_on_exec)
}

/// Ends a held call with a new descriptor.
pub(super) fn give(listener: RawFd, id: u64, opened: &Fd, close_on_exec: bool) -> Sys<()> {
    add(listener, id, opened, (IS_ANSWER, 0), close_on_exec)
}

fn add(
    listener: RawFd,
    id: u64,
    source: &Fd,
    (flags, target): (u32, u32),
    close_on_exec: bool,
) -> Sys<()> {
    let flag = libc::O_CLOEXEC.cast_unsigned();
    let add = AddDescriptor {
        id,
        flags,
        source: source.0.cast_unsigned(),
        target,
        target_flags: if close_on_exec { flag } else { 0 },
    };
    request(listener, ADD_DESCRIPTOR, &raw const add as usize)
}

/// The way of the listener from the program's process to the supervisor, which is suspended until
/// the program executes.
#[derive(Debug)]
pub(in crate::init) struct Channel {
    supervisor: Fd,
    program: Fd,
}

impl Channel {
    /// A socket pair.
    pub(in crate::init) fn new() -> Sys<Self> {
        let mut ends = [-1_i32; 2];
        let kind = libc::SOCK_SEQPACKET | libc::SOCK_CLOEXEC;
        let args = [
            signed(libc::AF_UNIX),
            signed(kind),
            0,
            ends.as_mut_ptr() as usize,
        ];
        // SAFETY: the kernel writes two ints, to `ends`, which outlives the call.
        unsafe { sys::call(libc::SYS_socketpair, args) }?;
        let [supervisor, program] = ends.map(Fd);
        Ok(Self {
            supervisor,
            program,
        })
    }

    /// What the program's process has sent: the listener, or why there is none.
    pub(super) fn take(&self) -> Sys<(Option<RawFd>, i32)> {
        let mut record = [0_u8; RECORD];
        let mut rights = [0_u64; 8];
        // SAFETY: all-zero bytes are a valid message header.
        let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
        let mut part = libc::iovec {
            iov_base: record.as_mut_ptr().cast(),
            iov_len: record.len(),
        };
        message.msg_iov = &raw mut part;
        message.msg_iovlen = 1;
        message.msg_control = rights.as_mut_ptr().cast();
        message.msg_controllen = sys::small_size(size_of_val(&rights));
        let flags = libc::MSG_CMSG_CLOEXEC | libc::MSG_DONTWAIT;
        let args = [
            signed(self.supervisor.0),
            &raw mut message as usize,
            signed(flags),
        ];
        // SAFETY: the message points to two buffers of the lengths it says, which outlive the call.
        sys::retry(|| unsafe { sys::call(libc::SYS_recvmsg, args) })?;
        let errno = record
            .first_chunk()
            .map_or(0, |bytes| i32::from_le_bytes(*bytes));
        if errno != 0 {
            return Ok((None, errno));
        }
        // SAFETY: the message is as the kernel left it; the macro stays within its bounds.
        let header = unsafe { libc::CMSG_FIRSTHDR(&raw const message) };
        if header.is_null() {
            return Err(Errno(libc::EBADF));
        }
        // SAFETY: only the program's process holds the other end, before it executes; it sends
        // one descriptor, and the kernel wrote the whole message.
        let listener = unsafe { libc::CMSG_DATA(header).cast::<i32>().read_unaligned() };
        Ok((Some(listener), 0))
    }
}

/// Installs the filter in the program's process and sends its listener, or, where the kernel gives
/// none, denies what the filter would have held.
///
/// From here on nothing that the filter holds may be called: nobody answers until the program has
/// executed.
pub(in crate::init) fn install(plan: &Plan, channel: &Channel) -> Sys<()> {
    let mediation = plan.mediation.as_ref();
    let own_filter = mediation.and_then(|mediation| mediation.own_filter.as_deref());
    let filter = own_filter.unwrap_or(plan.filter);
    let with = |flags: libc::c_ulong| {
        let flags = usize::try_from(flags).unwrap_or(0);
        seccomp::install(filter, flags)
    };
    let listen = libc::SECCOMP_FILTER_FLAG_NEW_LISTENER;
    // Signals wait until an answered call has returned, so that none is performed twice.
    let listener = match with(listen | libc::SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV) {
        // Before Linux 5.19.
        Err(Errno(libc::EINVAL)) => with(listen),
        listener => listener,
    };
    let mut record = [0; RECORD];
    let sent = match listener {
        Ok(listener) => {
            let listener = RawFd::try_from(listener).map_err(|_range| Errno(libc::EBADF))?;
            Some(listener)
        }
        // Nobody could be asked.
        Err(errno) if own_filter.is_some() => return Err(errno),
        // A filter around this sandbox has a listener already, or forbids this one.
        Err(errno) => {
            seccomp::install(plan.refusing, 0)?;
            if let Some(start) = record.first_chunk_mut() {
                *start = errno.0.to_le_bytes();
            }
            None
        }
    };
    send(channel.program.0, &record, sent)
}
