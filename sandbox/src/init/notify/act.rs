//! Operations that are prepared, perhaps asked about, and then performed.
//!
//! What is prepared holds everything open that the operation is about, and has read everything of
//! the program's memory: between the question and the deed the program can change nothing of it.

#![expect(unsafe_code, reason = "system calls that take strings")]

use super::files::Open;
use super::loss::{Removal, Renaming};
use super::resolve::Entry;
use super::target::{PATH, ProcPath, read_link};
use super::{Fd, OUTSIDE, Performed};
use super::{connect, exec};
use crate::questions::LONGEST;
use crate::sys::{self, Errno, Sys};
use ringfence_protocol::Operation;
use std::os::fd::RawFd;

/// A prepared operation.
#[derive(Debug)]
#[expect(
    clippy::large_enum_variant,
    reason = "there is no allocator here, and the table of these is small"
)]
pub(super) enum Act {
    Connect(connect::Ready),
    Open(Open),
    Truncate { object: Fd, len: u64 },
    Remove(Removal),
    Rename(Renaming),
    Exec(exec::Ready),
}

impl Act {
    /// What it is to whoever is asked. `None`: nobody is.
    pub(super) fn operation(&self) -> Option<Operation> {
        match self {
            Self::Connect(_) => Some(Operation::Connect),
            Self::Open(open) => open.is_asked().then_some(Operation::Write),
            Self::Truncate { .. } => Some(Operation::Write),
            Self::Remove(_) => Some(Operation::Delete),
            Self::Rename(renaming) => renaming.operation(),
            Self::Exec(_) => Some(Operation::Exec),
        }
    }

    pub(super) fn perform(&mut self, listener: RawFd, id: u64) -> Sys<Performed> {
        let done = match self {
            Self::Connect(ready) => return ready.perform(listener, id),
            Self::Open(open) => return open.perform(listener, id),
            // Only the program can.
            Self::Exec(_) => return Err(OUTSIDE),
            Self::Truncate { object, len } => {
                let path = name_of(object);
                let len = usize::try_from(*len).map_err(|_range| Errno(libc::EINVAL))?;
                let args = [path.as_c_str().as_ptr() as usize, len];
                // SAFETY: the path ends with NUL and outlives the call.
                unsafe { sys::call(libc::SYS_truncate, args) }.map(drop)
            }
            Self::Remove(removal) => return removal.perform(),
            Self::Rename(renaming) => return renaming.perform(),
        };
        done.map(|()| Performed::Done)
    }

    /// Writes down what it is about, and for a renaming that is asked about the new path, for a script
    /// its interpreter.
    pub(super) fn describe(&self, text: &mut Text) -> Sys<()> {
        match self {
            Self::Connect(ready) => ready.describe(text),
            Self::Open(open) => open.describe(text),
            Self::Truncate { object, .. } => text.object(object),
            Self::Exec(ready) => ready.describe(text),
            Self::Remove(removal) => removal.describe(text),
            Self::Rename(renaming) => renaming.describe(text),
        }
    }
}

/// A path that stands for what a descriptor of this process does.
pub(super) fn name_of(object: &Fd) -> ProcPath {
    ProcPath::new(b"/proc/self/fd/").number(object.0.cast_unsigned())
}

/// One or two paths, one after the other.
pub(super) struct Text {
    bytes: [u8; 2 * LONGEST],
    len: usize,
    first: Option<usize>,
}

impl Text {
    pub(super) const fn new() -> Self {
        Self {
            bytes: [0; 2 * LONGEST],
            len: 0,
            first: None,
        }
    }

    pub(super) fn push(&mut self, part: &[u8]) -> Sys<()> {
        let end = self.len.saturating_add(part.len());
        let slot = self.bytes.get_mut(self.len..end);
        slot.ok_or(Errno(libc::ENAMETOOLONG))?.copy_from_slice(part);
        self.len = end;
        Ok(())
    }

    pub(super) fn object(&mut self, object: &Fd) -> Sys<()> {
        let mut buffer = [0; PATH];
        let path = read_link(name_of(object).as_c_str(), &mut buffer)?;
        self.push(path)
    }

    pub(super) fn entry(&mut self, entry: &Entry) -> Sys<()> {
        self.object(&entry.directory)?;
        self.push(b"/")?;
        self.push(entry.name().to_bytes())
    }

    pub(super) fn divide(&mut self) {
        self.first = Some(self.len);
    }

    pub(super) fn bytes(&self) -> &[u8] {
        self.bytes.get(..self.len).unwrap_or_default()
    }

    pub(super) fn first_len(&self) -> usize {
        self.first.unwrap_or(self.len)
    }
}
