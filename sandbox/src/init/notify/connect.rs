//! Connections to Unix sockets with a path.
//!
//! The program's own socket is not connected: a connection to a queue that is full waits, and
//! another thread could see to it that the supervisor is what waits. So a new socket, which the
//! program does not know yet and which never waits, is connected and then takes the place of the
//! program's. What the program had set on its own is lost; programs connect a socket before they do
//! anything else with it.

#![expect(unsafe_code, reason = "system calls that take structures")]

use super::act::{Text, name_of};
use super::target::{PATH, Target};
use super::{Fd, Performed, listener, low, resolve};
use crate::plan::Mediation;
use crate::sys::{self, Errno, Sys, signed};
use std::os::fd::RawFd;

/// Refused because of where it lies.
pub(super) const OUTSIDE: Errno = Errno(libc::EACCES);

/// `struct sockaddr_un`: a family of two bytes, then a path.
const ADDRESS: usize = size_of::<libc::sockaddr_un>();

/// An address, in whatever of it is used.
#[derive(Debug)]
pub(super) struct Address {
    bytes: [u8; ADDRESS],
    len: usize,
}

impl Address {
    /// Reads one of the program's, which must be one of a Unix socket.
    pub(super) fn read(target: &Target, address: u64, len: u64) -> Sys<Self> {
        let len = usize::try_from(low(len)).unwrap_or(usize::MAX);
        let mut bytes = [0; ADDRESS];
        let used = bytes.get_mut(..len).ok_or(Errno(libc::EINVAL))?;
        target.bytes(address, used)?;
        let (family, _) = used.split_first_chunk().ok_or(Errno(libc::EINVAL))?;
        match i32::from(u16::from_ne_bytes(*family)) {
            libc::AF_UNIX => Ok(Self { bytes, len }),
            _ => Err(Errno(libc::EINVAL)),
        }
    }

    /// What follows the family.
    pub(super) fn name(&self) -> &[u8] {
        self.bytes.get(2..self.len).unwrap_or_default()
    }

    /// The path, which ends where the address does or at a NUL.
    pub(super) fn path(&self) -> &[u8] {
        let mut parts = self.name().split(|byte| *byte == 0);
        parts.next().unwrap_or_default()
    }

    /// What a system call takes: where it is, and its length.
    pub(super) fn as_argument(&self) -> [usize; 2] {
        [self.bytes.as_ptr() as usize, self.len]
    }

    fn new(path: &[u8]) -> Sys<Self> {
        let mut bytes = [0; ADDRESS];
        let family = u16::try_from(libc::AF_UNIX).unwrap_or(0).to_ne_bytes();
        let len = family.len().saturating_add(path.len());
        let room = bytes.get_mut(..len).ok_or(Errno(libc::EINVAL))?;
        for (slot, byte) in room.iter_mut().zip(family.iter().chain(path)) {
            *slot = *byte;
        }
        Ok(Self { bytes, len })
    }
}

/// A prepared `connect`.
#[derive(Debug)]
pub(super) struct Ready {
    /// The program's socket, and the flags with which it is open.
    socket: u32,
    flags: i32,
    /// What is connected to, unless it is abstract.
    object: Option<Fd>,
    address: Address,
}

/// Prepares to connect the socket that the program means.
pub(super) fn prepare(target: &Target, mediation: &Mediation, args: &[u64; 6]) -> Sys<Ready> {
    let [socket, address, len, ..] = *args;
    let socket = low(socket);
    let mut place = [0; PATH];
    let kind = target.place(socket.cast_signed(), &mut place)?;
    if !kind.starts_with(b"socket:[") {
        return Err(Errno(libc::ENOTSOCK));
    }
    let flags = target.flags(socket)?;
    let given = Address::read(target, address, len)?;
    let (object, address) = match given.name().first() {
        None => return Err(Errno(libc::EINVAL)),
        Some(0) if mediation.abstract_sockets => {
            target.check()?;
            (None, given)
        }
        // Landlock would look at the supervisor here, who is not confined; this is its answer.
        Some(0) => return Err(super::OUTSIDE),
        Some(_) => {
            let path = given.path();
            let here = libc::AT_FDCWD;
            let object = resolve::named(target, mediation, here, path, true);
            let object = object.map_err(|errno| match errno {
                super::OUTSIDE => OUTSIDE,
                other => other,
            })?;
            let address = Address::new(name_of(&object).as_c_str().to_bytes())?;
            (Some(object), address)
        }
    };
    Ok(Ready {
        socket,
        flags,
        object,
        address,
    })
}

impl Ready {
    pub(super) fn perform(&self, listener: RawFd, id: u64) -> Sys<Performed> {
        let may_wait = self.flags & libc::O_NONBLOCK == 0;
        let connected = match connect(&self.address) {
            Err(Errno(libc::EAGAIN)) if may_wait => return Ok(Performed::Later),
            connected => connected?,
        };
        if may_wait {
            let args = [signed(connected.0), signed(libc::F_SETFL), 0];
            // SAFETY: takes no pointers.
            unsafe { sys::call(libc::SYS_fcntl, args) }?;
        }
        let close_on_exec = self.flags & libc::O_CLOEXEC != 0;
        listener::replace(listener, id, &connected, self.socket, close_on_exec)?;
        Ok(Performed::Done)
    }

    pub(super) fn describe(&self, text: &mut Text) -> Sys<()> {
        if let Some(object) = &self.object {
            return text.object(object);
        }
        // After the family and the NUL that makes it abstract.
        text.push(b"@")?;
        let name = self.address.name().get(1..);
        text.push(name.unwrap_or_default())
    }
}

/// A new socket that is connected to an address: a stream, or of whole messages where the other
/// side has those.
fn connect(address: &Address) -> Sys<Fd> {
    let mut result = Err(Errno(libc::EPROTOTYPE));
    for kind in [libc::SOCK_STREAM, libc::SOCK_SEQPACKET] {
        result = connect_as(kind, address);
        if !matches!(result, Err(Errno(libc::EPROTOTYPE))) {
            break;
        }
    }
    result
}

fn connect_as(kind: i32, address: &Address) -> Sys<Fd> {
    let socket = new_socket(kind | libc::SOCK_NONBLOCK)?;
    let [at, len] = address.as_argument();
    let args = [signed(socket.0), at, len];
    // SAFETY: the kernel reads `len` bytes of the address, which outlives the call.
    unsafe { sys::call(libc::SYS_connect, args) }?;
    Ok(socket)
}

pub(super) fn new_socket(kind: i32) -> Sys<Fd> {
    let args = [signed(libc::AF_UNIX), signed(kind | libc::SOCK_CLOEXEC), 0];
    // SAFETY: takes no pointers.
    let number = unsafe { sys::call(libc::SYS_socket, args) }?;
    RawFd::try_from(number)
        .map(Fd)
        .map_err(|_range| Errno(libc::EBADF))
}
