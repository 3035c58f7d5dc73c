//! Reads from a file straight into guest memory.
//!
//! Guest memory changes under our feet, so it must never be seen as a Rust slice: the system call
//! gets raw pointers, which is why this module has unsafe code.

#![expect(
    unsafe_code,
    reason = "preadv into guest memory, which may not be a slice"
)]

use super::chain::{MOST_PIECES, Pieces};
use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use vm_memory::bitmap::BitmapSlice;

const EMPTY: libc::iovec = libc::iovec {
    iov_base: std::ptr::null_mut(),
    iov_len: 0,
};

/// Fills all of `pieces` from `offset` of `file`.
pub(super) fn read_exact_at<B: BitmapSlice>(
    file: &File,
    pieces: &Pieces<'_, B>,
    offset: u64,
) -> io::Result<()> {
    let mut rest = pieces.first(pieces.len());
    let mut offset = offset;
    while rest.len() > 0 {
        match read_at(file, &rest, offset) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(count) => {
                // The kernel filled at most what it was given.
                rest.split_front(count).ok_or(io::ErrorKind::InvalidData)?;
                let count = u64::try_from(count).map_err(io::Error::other)?;
                offset = offset
                    .checked_add(count)
                    .ok_or(io::ErrorKind::InvalidInput)?;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

fn read_at<B: BitmapSlice>(file: &File, pieces: &Pieces<'_, B>, offset: u64) -> io::Result<usize> {
    let offset = libc::off_t::try_from(offset).map_err(io::Error::other)?;
    let guards: Vec<_> = pieces.iter().map(|slice| slice.ptr_guard_mut()).collect();
    let mut vectors = [EMPTY; MOST_PIECES];
    for (vector, guard) in vectors.iter_mut().zip(&guards) {
        vector.iov_base = guard.as_ptr().cast();
        vector.iov_len = guard.len();
    }
    // Far below what a C `int` holds.
    let count = libc::c_int::try_from(guards.len().min(MOST_PIECES)).unwrap_or(0);
    // SAFETY: the descriptor is open while `file` lives. The first `count` entries of `vectors` are
    // each a range of mapped guest memory that `guards` keeps accessible until this function
    // returns, and that may be written at any time, since no Rust reference to it exists.
    let read = unsafe { libc::preadv(file.as_raw_fd(), vectors.as_ptr(), count, offset) };
    let read = usize::try_from(read).map_err(|_| io::Error::last_os_error())?;
    let mut left = read;
    for slice in pieces.iter() {
        slice.bitmap().mark_dirty(0, slice.len().min(left));
        left = left.saturating_sub(slice.len());
    }
    Ok(read)
}
