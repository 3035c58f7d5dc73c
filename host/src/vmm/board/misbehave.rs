//! Kernels, sizes and command lines that are what bytes say, for property tests and for fuzzing.
//!
//! Whatever the bytes say, a guest is refused, or its parts lie apart from each other within its
//! memory and its device tree says where.

#![expect(
    clippy::arithmetic_side_effects,
    clippy::cast_possible_truncation,
    clippy::indexing_slicing,
    clippy::unwrap_used,
    reason = "tests may fail"
)]

use super::kernel::{BASE_ALIGNMENT, Header};
use super::layout::{self, CONSOLE, Layout, MEMORY_GRANULE, MOST_CPUS, VirtioSlot};
use super::{BoardError, Placement, TREE_ROOM};
use crate::vmm::devices::misbehave::Decisions;
use ::fdt::Fdt;
use ::fdt::node::FdtNode;
use std::error::Error;
use std::ops::Range;

/// A command line that every tree has room for.
const SHORT: usize = 0x1000;

/// A file that claims to be a kernel: its first bytes, and a length that need not be theirs.
pub(crate) fn kernel_image(data: &[u8]) {
    let mut decisions = Decisions(data);
    let claimed = match decisions.below(2) {
        0 => None,
        _ => Some(decisions.value()),
    };
    let bytes = decisions.0;
    let len = claimed.unwrap_or(bytes.len() as u64);
    match Header::parse(bytes, len) {
        Ok(header) => {
            assert!(header.image_size > 0 && header.image_size >= len);
            let layout = Layout::new(256 << 20, 1).unwrap();
            place(&layout, header, len);
        }
        Err(error) => assert!((10..1000).contains(&error.to_string().len()), "{error}"),
    }
}

/// A guest of any size with any kernel, initramfs and command line.
pub(crate) fn device_tree(data: &[u8]) {
    let mut decisions = Decisions(data);
    let (memory, cpus) = match decisions.below(4) {
        0 => (decisions.value(), decisions.below(256) as u8),
        _ => (
            decisions.below(0x8000) * MEMORY_GRANULE,
            decisions.below(u64::from(MOST_CPUS) + 1) as u8,
        ),
    };
    let header = Header {
        text_offset: decisions.below(BASE_ALIGNMENT / 4) * 4,
        image_size: decisions.value().max(1),
    };
    let initramfs = decisions.value();
    let args = String::from_utf8_lossy(decisions.0);
    let layout = match Layout::new(memory, cpus) {
        Ok(layout) => layout,
        Err(error) => return refused(&error),
    };
    assert_eq!((layout.cpus(), cpus > 0), (cpus, true));
    let Some(placement) = place(&layout, header, initramfs) else {
        return;
    };
    match super::tree(&layout, &args, placement.initramfs.clone()) {
        Ok(tree) => read(&tree, &layout, &placement, &args),
        Err(error) => {
            assert!(args.contains('\0') || args.len() > SHORT, "{error}");
            refused(&error);
        }
    }
}

/// Errors are for people.
fn refused(error: &BoardError) {
    let mut cause: Option<&dyn Error> = Some(error);
    while let Some(error) = cause {
        assert!((5..1000).contains(&error.to_string().len()), "{error}");
        cause = error.source();
    }
}

fn place(layout: &Layout, header: Header, initramfs: u64) -> Option<Placement> {
    let memory = layout.memory();
    let placement = match Placement::new(layout, header, initramfs) {
        Ok(placement) => placement,
        Err(error) => {
            refused(&error);
            // No guest with room is refused.
            let needed = u128::from(header.image_size) + u128::from(initramfs);
            let room = (memory.end - memory.start).min(32 << 30);
            assert!(needed + 3 * u128::from(TREE_ROOM) > u128::from(room));
            return None;
        }
    };
    let Placement {
        kernel,
        fdt,
        initramfs: archive,
    } = &placement;
    let size = |region: &Range<u64>| region.end - region.start;
    assert_eq!(size(kernel), header.image_size);
    assert_eq!((size(fdt), size(archive)), (TREE_ROOM, initramfs));
    assert_eq!(kernel.start % BASE_ALIGNMENT, header.text_offset);
    assert!(fdt.start.is_multiple_of(8));
    // One after the other.
    let edges = [memory.start, kernel.start, kernel.end, fdt.start, fdt.end];
    assert!(edges.is_sorted() && fdt.end <= archive.start && archive.end <= memory.end);
    assert!(archive.end - memory.start <= 32 << 30);
    Some(placement)
}

/// Another reader than ours finds what was meant.
fn read(tree: &[u8], layout: &Layout, placement: &Placement, args: &str) {
    assert!(tree.len() as u64 <= TREE_ROOM);
    let fdt = Fdt::new(tree).unwrap();
    assert_eq!(fdt.total_size(), tree.len());
    assert_eq!(fdt.cpus().count(), usize::from(layout.cpus()));
    for (cpu, index) in fdt.cpus().zip(0..) {
        assert_eq!(cpu.ids().first(), layout::affinity(index) as usize);
    }
    let size = |region: Range<u64>| (region.start, region.end - region.start);
    let memory = fdt.find_node("/memory@80000000").unwrap();
    assert_eq!(regions(&memory), [size(layout.memory())]);
    let gic = fdt.find_compatible(&["arm,gic-v3"]).unwrap();
    let both = [layout.gic_distributor(), layout.gic_redistributors()];
    assert_eq!(regions(&gic), both.map(size));
    let uart = fdt.find_compatible(&["arm,pl011"]).unwrap();
    assert_eq!(regions(&uart), [(CONSOLE.address, CONSOLE.size)]);
    let devices = fdt.find_all_nodes("/virtio_mmio").count();
    assert_eq!(devices, VirtioSlot::ALL.len());
    assert_eq!(fdt.chosen().bootargs(), Some(args));
    let chosen = fdt.find_node("/chosen").unwrap();
    let archive = &placement.initramfs;
    for (name, expected) in [
        ("linux,initrd-start", archive.start),
        ("linux,initrd-end", archive.end),
    ] {
        let value = chosen.property(name).unwrap().value;
        assert_eq!(value, expected.to_be_bytes());
    }
}

/// `reg` of a node: addresses and sizes of 64 bits.
fn regions(node: &FdtNode<'_, '_>) -> Vec<(u64, u64)> {
    let value = node.property("reg").unwrap().value;
    let numbers: Vec<_> = value
        .chunks_exact(8)
        .map(|bytes| u64::from_be_bytes(bytes.try_into().unwrap()))
        .collect();
    numbers
        .chunks_exact(2)
        .map(|two| (two[0], two[1]))
        .collect()
}
