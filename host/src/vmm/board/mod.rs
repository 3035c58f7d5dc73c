//! The board: what a guest finds when its first processor starts. Memory with kernel, initramfs and
//! device tree in it, and the addresses of everything ([`layout`]).
//!
//! ```text
//! start of memory, a multiple of 2 MiB
//!   + text_offset          the kernel: its file, and behind it the memory that it clears itself
//!   the next 2 MiB         the device tree, 2 MiB at most
//!   the 2 MiB after those  the initramfs
//! ```
//! Linux, `Documentation/arch/arm64/booting.rst`: the tree is at a multiple of 8 and has 2 MiB at
//! most; the initramfs lies in the same 32 GiB as the kernel.

mod fdt;
pub(crate) mod kernel;
pub(crate) mod layout;
mod memory;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod misbehave;
#[cfg(test)]
mod tests;

use super::devices::Memory;
use kernel::{Header, KernelError};
use layout::Layout;
use memory::Part;
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use vm_memory::{Bytes, GuestAddress};

/// Room for the device tree, and the alignment of what is around it, in bytes.
const TREE_ROOM: u64 = 2 << 20;

/// Kernel and initramfs must lie within so many bytes from a multiple of 1 GiB, and memory begins at
/// one.
const WINDOW: u64 = 32 << 30;

/// A guest's memory, ready to run.
#[derive(Debug)]
pub(crate) struct Loaded {
    pub(crate) memory: Arc<Memory>,
    pub(crate) layout: Layout,
    /// Address of the kernel's first instruction.
    pub(crate) entry: u64,
    /// Address of the device tree.
    pub(crate) fdt: u64,
}

/// Why a guest cannot be put together.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BoardError {
    /// Too little, too much or no multiple.
    #[error(
        "a guest cannot have {bytes} bytes of memory; take {} MiB to {} MiB, in steps of {} MiB",
        layout::LEAST_MEMORY >> 20,
        layout::MOST_MEMORY >> 20,
        layout::MEMORY_GRANULE >> 20
    )]
    Memory {
        /// What was asked for.
        bytes: u64,
    },
    /// None or too many.
    #[error(
        "a guest cannot have {wanted} processors; take 1 to {}",
        layout::MOST_CPUS
    )]
    Processors {
        /// What was asked for.
        wanted: u8,
    },
    /// This machine has no memory for the guest's.
    #[error(
        "this machine gives no {} MiB for the guest's memory; take less",
        bytes >> 20
    )]
    NoMemory {
        /// What was asked for.
        bytes: u64,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// A file cannot be read.
    #[error("cannot read the guest's {what} {}", path.display())]
    Read {
        /// Which part of the guest.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// A file is no kernel.
    #[error("{} is no kernel for the guest", path.display())]
    Kernel {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        #[source]
        source: KernelError,
    },
    /// The parts do not fit.
    #[error(
        "the guest's {what} ends {} KiB behind its memory of {} MiB; give it more",
        over.div_ceil(1 << 10),
        memory >> 20
    )]
    NoRoom {
        /// Which part does not.
        what: &'static str,
        /// By how many bytes.
        over: u64,
        /// Bytes of memory.
        memory: u64,
    },
    /// There is room, but Linux would not find the initramfs.
    #[error(
        "the guest's kernel and initramfs end {} KiB behind the 32 GiB that Linux takes them from; \
         take smaller ones",
        over.div_ceil(1 << 10)
    )]
    TooFar {
        /// By how many bytes.
        over: u64,
    },
    /// The device tree cannot be written.
    #[error("cannot write the guest's device tree; is a kernel argument odd or very long?")]
    Tree(#[from] vm_fdt::Error),
    /// The device tree is too long.
    #[error(
        "the guest's device tree has {len} bytes of {TREE_ROOM}; take shorter kernel arguments"
    )]
    LongTree {
        /// Its bytes.
        len: usize,
    },
    /// The system has no random numbers.
    #[error("this system gives no random numbers for the guest")]
    Seed(#[source] getrandom::Error),
}

/// Where the parts go.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Placement {
    /// The kernel and the memory behind it that it uses.
    kernel: Range<u64>,
    fdt: Range<u64>,
    initramfs: Range<u64>,
}

impl Placement {
    /// Places a kernel and an initramfs of so many bytes.
    fn new(layout: &Layout, header: Header, initramfs: u64) -> Result<Self, BoardError> {
        let memory = layout.memory();
        let within = |what, start: u64, size: u64| {
            // A sum that does not fit into 64 bits does not fit into any memory.
            let end = start.saturating_add(size);
            match end.checked_sub(memory.end) {
                None | Some(0) => Ok(start..end),
                Some(over) => Err(BoardError::NoRoom {
                    what,
                    over,
                    memory: memory.end.saturating_sub(memory.start),
                }),
            }
        };
        let start = memory.start.saturating_add(header.text_offset);
        let kernel = within("kernel", start, header.image_size)?;
        let fdt = within(
            "device tree",
            kernel.end.next_multiple_of(TREE_ROOM),
            TREE_ROOM,
        )?;
        let initramfs = within("initramfs", fdt.end, initramfs)?;
        let used = initramfs.end.saturating_sub(memory.start);
        if let Some(over @ 1..) = used.checked_sub(WINDOW) {
            return Err(BoardError::TooFar { over });
        }
        Ok(Self {
            kernel,
            fdt,
            initramfs,
        })
    }
}

/// Makes the memory and puts everything into it.
pub(crate) fn load(
    layout: Layout,
    kernel: &Path,
    initramfs: &Path,
    args: &str,
) -> Result<Loaded, BoardError> {
    let image = Part::open("kernel", kernel)?;
    let archive = Part::open("initramfs", initramfs)?;
    let start = image.start(kernel::HEADER)?;
    let header = Header::parse(&start, image.len).map_err(|source| BoardError::Kernel {
        path: kernel.to_owned(),
        source,
    })?;
    let placement = Placement::new(&layout, header, archive.len)?;
    let memory = memory::allocate(&layout)?;
    let tree = tree(&layout, args, placement.initramfs.clone())?;
    memory
        .write_slice(&tree, GuestAddress(placement.fdt.start))
        .map_err(|_| BoardError::LongTree { len: tree.len() })?;
    image.read(&memory, placement.kernel.start)?;
    archive.read(&memory, placement.initramfs.start)?;
    Ok(Loaded {
        memory,
        layout,
        entry: placement.kernel.start,
        fdt: placement.fdt.start,
    })
}

fn tree(layout: &Layout, args: &str, initramfs: Range<u64>) -> Result<Vec<u8>, BoardError> {
    let mut seed = [0; fdt::SEED];
    getrandom::fill(&mut seed).map_err(BoardError::Seed)?;
    let chosen = fdt::Chosen {
        args,
        initramfs,
        seed: &seed,
    };
    let tree = fdt::write(layout, &chosen)?;
    if tree.len() as u64 > TREE_ROOM {
        return Err(BoardError::LongTree { len: tree.len() });
    }
    Ok(tree)
}
