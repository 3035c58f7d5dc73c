//! Guest memory, and how files get into it.
//!
//! Huge pages are asked for: without them a boot takes half as long again, for the host's faults
//! and for the walks through two levels of page tables. Files are read and not mapped for the same
//! reason: a mapped kernel, though nothing is copied, is one of small pages, and boots a tenth slower
//! than a copy of 5 MiB among huge ones.

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
    #[cfg(target_os = "linux")]
    ask_for_huge_pages(&memory);
    Ok(Arc::new(memory))
}

/// Where the system leaves it to programs, this one wants huge pages.
#[cfg(target_os = "linux")]
#[expect(unsafe_code, reason = "madvise takes an address")]
fn ask_for_huge_pages(memory: &Memory) {
    use rustix::mm::{Advice, madvise};
    use vm_memory::{GuestMemoryBackend as _, GuestMemoryRegion as _};
    for region in memory.iter() {
        if let Ok(slice) = region.as_volatile_slice() {
            let start = slice.ptr_guard_mut().as_ptr();
            // SAFETY: the whole of a mapping that exists; the advice changes no content.
            let advised = unsafe { madvise(start.cast(), slice.len(), Advice::LinuxHugepage) };
            if let Err(error) = advised {
                tracing::debug!(%error, "the system has no huge pages for the guest");
            }
        }
    }
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
