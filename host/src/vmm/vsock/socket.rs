//! The device's end of a Unix socket pair whose other end a host program holds.
//!
//! Bytes move between the socket and guest memory without a copy in between. Guest memory changes
//! under our feet, so it must never be seen as a Rust slice: the system calls get raw pointers,
//! which is why this module has unsafe code.

#![expect(
    unsafe_code,
    reason = "sendmsg and recvmsg on guest memory, which may not be a slice"
)]

use crate::vmm::devices::virtio::chain::{MOST_PIECES, Pieces};
use std::io;
use std::net::Shutdown;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use vm_memory::bitmap::BitmapSlice;

/// No signal when the host program is gone, which an application may not have ignored, and no
/// waiting whatever the mode of the file.
#[cfg(not(target_vendor = "apple"))]
const FLAGS: libc::c_int = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;
/// Apple's systems have no flag against the signal, and none against waiting that counts when
/// sending (xnu's `sosendcheck` asks for the file's mode alone): [`pair`] and [`HostSocket::new`]
/// see to that.
#[cfg(target_vendor = "apple")]
const FLAGS: libc::c_int = 0;

/// What a socket takes before it blocks, on Apple's systems, where that is 8 KiB unless asked for
/// more. Linux takes 208 KiB by itself.
#[cfg(target_vendor = "apple")]
const SEND_BUFFER: usize = 256 << 10;

/// The device's end of a new stream, and the host program's.
pub(super) fn pair() -> io::Result<(UnixStream, UnixStream)> {
    let (ours, theirs) = UnixStream::pair()?;
    #[cfg(target_vendor = "apple")]
    for end in [&ours, &theirs] {
        rustix::net::sockopt::set_socket_nosigpipe(end, true)?;
        rustix::net::sockopt::set_socket_send_buffer_size(end, SEND_BUFFER)?;
    }
    Ok((ours, theirs))
}

/// What a transfer came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Moved {
    /// So many bytes. Zero bytes received mean that the other side will send no more.
    Bytes(usize),
    /// None for now.
    WouldBlock,
    /// The other side is gone in this direction.
    Gone,
}

/// A connected stream socket.
#[derive(Debug)]
pub(super) struct HostSocket {
    stream: UnixStream,
}

impl HostSocket {
    /// `stream` is the first of a [`pair`].
    pub(super) fn new(stream: UnixStream) -> io::Result<Self> {
        #[cfg(target_vendor = "apple")]
        stream.set_nonblocking(true)?;
        Ok(Self { stream })
    }

    /// Sends from guest memory as much as the socket takes.
    pub(super) fn send_pieces<B: BitmapSlice>(&self, pieces: &Pieces<'_, B>) -> Moved {
        let guards: Vec<_> = pieces.iter().map(|slice| slice.ptr_guard()).collect();
        let mut vectors = [EMPTY; MOST_PIECES];
        let mut count = 0_usize;
        for (vector, guard) in vectors.iter_mut().zip(&guards) {
            vector.iov_base = guard.as_ptr().cast_mut().cast();
            vector.iov_len = guard.len();
            count = count.saturating_add(1);
        }
        let message = message(&mut vectors, count);
        // SAFETY: the descriptor is open while `self` lives. `message` names the first `count`
        // entries of `vectors`, each a range of mapped guest memory that `guards` keeps accessible
        // until this function returns; the kernel only reads them, through `const` access.
        let sent = unsafe { libc::sendmsg(self.stream.as_raw_fd(), &raw const message, FLAGS) };
        moved(sent)
    }

    /// Receives into guest memory what there is and fits.
    pub(super) fn receive_pieces<B: BitmapSlice>(&self, pieces: &Pieces<'_, B>) -> Moved {
        let guards: Vec<_> = pieces.iter().map(|slice| slice.ptr_guard_mut()).collect();
        let mut vectors = [EMPTY; MOST_PIECES];
        let mut count = 0_usize;
        for (vector, guard) in vectors.iter_mut().zip(&guards) {
            vector.iov_base = guard.as_ptr().cast();
            vector.iov_len = guard.len();
            count = count.saturating_add(1);
        }
        let mut message = message(&mut vectors, count);
        // SAFETY: the descriptor is open while `self` lives. `message` names the first `count`
        // entries of `vectors`, each a range of mapped guest memory that `guards` keeps accessible
        // and that may be written at any time, since no Rust reference to it exists. No control
        // data and no address are asked for.
        let received = unsafe { libc::recvmsg(self.stream.as_raw_fd(), &raw mut message, FLAGS) };
        let moved = moved(received);
        if let Moved::Bytes(mut rest) = moved {
            for slice in pieces.iter() {
                slice.bitmap().mark_dirty(0, slice.len().min(rest));
                rest = rest.saturating_sub(slice.len());
            }
        }
        moved
    }

    /// Sends from this process's memory as much as the socket takes.
    pub(super) fn send_bytes(&self, bytes: &[u8]) -> Moved {
        // SAFETY: the descriptor is open while `self` lives, and pointer and length are those of
        // a live slice.
        let sent = unsafe {
            libc::send(
                self.stream.as_raw_fd(),
                bytes.as_ptr().cast(),
                bytes.len(),
                FLAGS,
            )
        };
        moved(sent)
    }

    /// Ends one direction. That it may be ended already is no error.
    pub(super) fn shutdown(&self, how: Shutdown) {
        let _ = self.stream.shutdown(how);
    }
}

impl AsFd for HostSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }
}

const EMPTY: libc::iovec = libc::iovec {
    iov_base: std::ptr::null_mut(),
    iov_len: 0,
};

fn message(vectors: &mut [libc::iovec; MOST_PIECES], count: usize) -> libc::msghdr {
    // SAFETY: `msghdr` is a C structure of integers and pointers, for which all zeroes is the
    // value that means "nothing".
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    message.msg_iov = vectors.as_mut_ptr();
    #[cfg(all(target_os = "linux", not(target_env = "musl")))]
    {
        message.msg_iovlen = count;
    }
    #[cfg(not(all(target_os = "linux", not(target_env = "musl"))))]
    {
        // MOST_PIECES is far below what a C `int` holds.
        message.msg_iovlen = libc::c_int::try_from(count).unwrap_or(0);
    }
    message
}

fn moved(result: libc::ssize_t) -> Moved {
    match usize::try_from(result) {
        Ok(bytes) => Moved::Bytes(bytes),
        // EINTR cannot happen: the calls do not wait.
        Err(_) => match io::Error::last_os_error().kind() {
            io::ErrorKind::WouldBlock => Moved::WouldBlock,
            _ => Moved::Gone,
        },
    }
}
