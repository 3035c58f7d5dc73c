//! Guest memory, and how files get into it.
//!
//! On Linux the kernel's file is mapped where the guest expects it, private to the guest: its pages
//! are those of the page cache, nothing is copied before it is needed, and what the guest writes is
//! its own. The page that the file ends in is filled up with zeros by the system. Should somebody
//! shorten the file meanwhile, the guest's access faults and the worker process ends, nothing else.
//! Elsewhere, and where the address is not that of a page, the file is read.

use super::BoardError;
use super::layout::Layout;
use crate::vmm::devices::Memory;
use std::fs::File;
use std::io;
use std::path::Path;
use std::sync::Arc;
use vm_memory::{Bytes, GuestAddress};

/// Memory for the guest, all zeros. Pages are there from when they are first touched.
pub(super) fn allocate(layout: &Layout) -> Result<Arc<Memory>, BoardError> {
    let region = layout.memory();
    let bytes = region.end.saturating_sub(region.start);
    let no_room = |source: io::Error| BoardError::NoMemory { bytes, source };
    let size = usize::try_from(bytes).map_err(|error| no_room(io::Error::other(error)))?;
    let memory = Memory::from_ranges(&[(GuestAddress(region.start), size)])
        .map_err(|error| no_room(io::Error::other(error)))?;
    Ok(Arc::new(memory))
}

/// A file that goes into the guest's memory.
#[derive(Debug)]
pub(super) struct Part<'a> {
    what: &'static str,
    path: &'a Path,
    file: File,
    pub(super) len: u64,
}

impl<'a> Part<'a> {
    pub(super) fn open(what: &'static str, path: &'a Path) -> Result<Self, BoardError> {
        let read = |source| BoardError::Read {
            what,
            path: path.to_owned(),
            source,
        };
        let file = File::open(path).map_err(read)?;
        let metadata = file.metadata().map_err(read)?;
        if !metadata.is_file() {
            return Err(read(io::Error::other("it is not a regular file")));
        }
        Ok(Self {
            what,
            path,
            file,
            len: metadata.len(),
        })
    }

    /// The first bytes, as many of `most` as there are.
    pub(super) fn start(&self, most: usize) -> Result<Vec<u8>, BoardError> {
        use std::io::Read as _;
        let mut bytes = Vec::new();
        let mut start = (&self.file).take(most as u64);
        start
            .read_to_end(&mut bytes)
            .map_err(|source| self.failed(source))?;
        Ok(bytes)
    }

    /// Has the file be at an address, by mapping it if that can be. The caller has checked that
    /// there is room for it.
    #[cfg(target_os = "linux")]
    pub(super) fn map(self, memory: &Memory, at: u64) -> Result<(), BoardError> {
        if map(&self.file, self.len, memory, at).is_some() {
            return Ok(());
        }
        self.read(memory, at)
    }

    /// Has the file be at an address.
    #[cfg(not(target_os = "linux"))]
    pub(super) fn map(self, memory: &Memory, at: u64) -> Result<(), BoardError> {
        self.read(memory, at)
    }

    /// Copies the file to an address. The caller has checked that there is room for it.
    pub(super) fn read(mut self, memory: &Memory, at: u64) -> Result<(), BoardError> {
        use std::io::Seek as _;
        let failed = |source| BoardError::Read {
            what: self.what,
            path: self.path.to_owned(),
            source,
        };
        self.file.rewind().map_err(failed)?;
        let count = usize::try_from(self.len).map_err(|error| failed(io::Error::other(error)))?;
        memory
            .read_exact_volatile_from(GuestAddress(at), &mut self.file, count)
            .map_err(|error| failed(io::Error::other(error)))
    }

    fn failed(&self, source: io::Error) -> BoardError {
        BoardError::Read {
            what: self.what,
            path: self.path.to_owned(),
            source,
        }
    }
}

/// Maps a file over the guest's memory, whole pages of it. `None` if that cannot be.
#[cfg(target_os = "linux")]
#[expect(unsafe_code, reason = "a mapping at a fixed address")]
fn map(file: &File, len: u64, memory: &Memory, at: u64) -> Option<()> {
    use rustix::mm::{MapFlags, ProtFlags, mmap};
    use vm_memory::GuestMemoryBackend as _;
    let page = rustix::param::page_size();
    let len = usize::try_from(len).ok()?.checked_next_multiple_of(page)?;
    // One piece of the guest's memory, all of it.
    let slice = memory.get_slice(GuestAddress(at), len).ok()?;
    let host = slice.ptr_guard_mut().as_ptr();
    if len == 0 || !host.addr().is_multiple_of(page) {
        return None;
    }
    let (access, flags) = (
        ProtFlags::READ | ProtFlags::WRITE,
        MapFlags::PRIVATE | MapFlags::FIXED,
    );
    // SAFETY: these pages are the guest's memory, which nothing but guest and devices access, and
    // which knows of no content that would have to stay; it is unmapped whole, with this in it.
    unsafe { mmap(host.cast(), len, access, flags, file, 0) }.ok()?;
    Some(())
}
