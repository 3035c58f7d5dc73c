//! Boards loaded from files, read back.

#![expect(
    clippy::cast_possible_truncation,
    reason = "numbers of these tests are small"
)]

use super::*;
use layout::{LEAST_MEMORY, MEMORY_GRANULE, MOST_MEMORY};
use proptest::prelude::*;
use std::fs;
use tempfile::TempDir;

/// A kernel file of `len` bytes that uses `image_size`, and an initramfs.
struct Files {
    _directory: TempDir,
    kernel: PathBuf,
    initramfs: PathBuf,
    image: Vec<u8>,
    archive: Vec<u8>,
}

fn image(len: usize, image_size: u64, text_offset: u64) -> Vec<u8> {
    let mut image: Vec<u8> = (0..len).map(|at| (at % 251) as u8).collect();
    image[8..16].copy_from_slice(&text_offset.to_le_bytes());
    image[16..24].copy_from_slice(&image_size.to_le_bytes());
    image[24..32].copy_from_slice(&0b1010_u64.to_le_bytes());
    image[56..60].copy_from_slice(b"ARM\x64");
    image
}

fn files(image: Vec<u8>, archive: Vec<u8>) -> Files {
    let directory = tempfile::tempdir().unwrap();
    let (kernel, initramfs) = (
        directory.path().join("Image"),
        directory.path().join("cpio"),
    );
    fs::write(&kernel, &image).unwrap();
    fs::write(&initramfs, &archive).unwrap();
    Files {
        _directory: directory,
        kernel,
        initramfs,
        image,
        archive,
    }
}

impl Files {
    fn load(&self, memory: u64) -> Result<Loaded, BoardError> {
        let layout = Layout::new(memory, 2).unwrap();
        load(layout, &self.kernel, &self.initramfs, "quiet")
    }
}

fn bytes(loaded: &Loaded, at: u64, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    loaded
        .memory
        .read_slice(&mut bytes, GuestAddress(at))
        .unwrap();
    bytes
}

/// Everything is where processor and tree say, and behind the kernel's file are zeros.
#[test]
fn what_is_loaded_is_there() {
    let len = 70_001;
    let files = files(image(len, 200_000, 0x8_0000), vec![0xa5; 12_345]);
    let loaded = files.load(LEAST_MEMORY).unwrap();
    let start = loaded.layout.memory().start;
    assert_eq!(loaded.entry, start + 0x8_0000);
    assert_eq!(bytes(&loaded, loaded.entry, len), files.image);
    let behind = bytes(&loaded, loaded.entry + len as u64, 130_000);
    assert!(behind.iter().all(|&byte| byte == 0));
    let tree = bytes(&loaded, loaded.fdt, TREE_ROOM as usize);
    let tree = ::fdt::Fdt::new(&tree).unwrap();
    let chosen = tree.find_node("/chosen").unwrap();
    let address = |name| {
        let value = chosen.property(name).unwrap().value;
        u64::from_be_bytes(value.try_into().unwrap())
    };
    let (from, to) = (address("linux,initrd-start"), address("linux,initrd-end"));
    assert_eq!(bytes(&loaded, from, (to - from) as usize), files.archive);
    assert_eq!(chosen.property("bootargs").unwrap().as_str(), Some("quiet"));
}

/// The guest's writes stay the guest's.
#[test]
fn the_files_are_not_changed() {
    let files = files(image(70_001, 80_000, 0), vec![1; 100]);
    let loaded = files.load(LEAST_MEMORY).unwrap();
    let all = vec![0xff; 80_000];
    loaded
        .memory
        .write_slice(&all, GuestAddress(loaded.entry))
        .unwrap();
    assert_eq!(fs::read(&files.kernel).unwrap(), files.image);
}

#[test]
fn seeds_differ() {
    let files = files(image(64, 64, 0), Vec::new());
    let seed = || {
        let loaded = files.load(LEAST_MEMORY).unwrap();
        let tree = bytes(&loaded, loaded.fdt, TREE_ROOM as usize);
        let tree = ::fdt::Fdt::new(&tree).unwrap();
        let chosen = tree.find_node("/chosen").unwrap();
        chosen.property("rng-seed").unwrap().value.to_vec()
    };
    assert_ne!(seed(), seed());
}

#[test]
fn what_does_not_fit_is_said() {
    let large = files(image(64, LEAST_MEMORY + 1, 0), Vec::new());
    let error = large.load(LEAST_MEMORY).unwrap_err();
    assert!(
        matches!(
            error,
            BoardError::NoRoom {
                what: "kernel",
                over: 1,
                ..
            }
        ),
        "{error}"
    );
    let endless = files(image(64, u64::MAX, 4), Vec::new());
    endless.load(LEAST_MEMORY).unwrap_err();
    let full = files(image(64, LEAST_MEMORY - 1, 0), Vec::new());
    let error = full.load(LEAST_MEMORY).unwrap_err();
    assert!(
        matches!(
            error,
            BoardError::NoRoom {
                what: "device tree",
                ..
            }
        ),
        "{error}"
    );
    let archive = files(
        image(64, LEAST_MEMORY - 2 * TREE_ROOM, 0),
        vec![0; TREE_ROOM as usize],
    );
    archive.load(LEAST_MEMORY).unwrap();
    let archive = files(
        image(64, LEAST_MEMORY - 2 * TREE_ROOM, 0),
        vec![0; TREE_ROOM as usize + 1],
    );
    let error = archive.load(LEAST_MEMORY).unwrap_err();
    assert!(
        matches!(
            error,
            BoardError::NoRoom {
                what: "initramfs",
                over: 1,
                ..
            }
        ),
        "{error}"
    );
    archive.load(LEAST_MEMORY + MEMORY_GRANULE).unwrap();
}

/// Found by the fuzz target `device_tree`: such a kernel fits into the memory of the largest guests.
#[test]
fn an_initramfs_beyond_32_gib_is_refused() {
    let layout = Layout::new(MOST_MEMORY, 1).unwrap();
    let place = |image_size, archive| {
        let text_offset = 0;
        let header = Header {
            text_offset,
            image_size,
        };
        Placement::new(&layout, header, archive)
    };
    let most = WINDOW - 2 * TREE_ROOM;
    place(TREE_ROOM, most).unwrap();
    for (image_size, archive) in [(TREE_ROOM, most + 1), (WINDOW - TREE_ROOM, 1)] {
        let error = place(image_size, archive).unwrap_err();
        assert!(matches!(error, BoardError::TooFar { over: 1 }), "{error}");
    }
}

#[test]
fn files_that_are_none_are_named() {
    let good = files(image(64, 64, 0), Vec::new());
    let layout = || Layout::new(LEAST_MEMORY, 1).unwrap();
    let folder = good.kernel.parent().unwrap();
    for (kernel, initramfs, word) in [
        (folder.join("none"), good.initramfs.clone(), "none"),
        (folder.to_owned(), good.initramfs.clone(), "kernel"),
        (good.kernel.clone(), folder.join("nothing"), "nothing"),
        (good.initramfs.clone(), good.initramfs.clone(), "no kernel"),
    ] {
        let said = load(layout(), &kernel, &initramfs, "")
            .unwrap_err()
            .to_string();
        assert!(said.contains(word), "{said}");
    }
    let long = "x".repeat(TREE_ROOM as usize);
    load(layout(), &good.kernel, &good.initramfs, &long).unwrap_err();
}

proptest! {
    /// Parts of any size are inside the memory and do not overlap, or are refused.
    #[test]
    fn parts_do_not_overlap(
        pieces in LEAST_MEMORY / MEMORY_GRANULE..=MOST_MEMORY / MEMORY_GRANULE,
        image_size in prop_oneof![1..100_u64 << 20, any::<u64>()],
        text_offset in (0..kernel::BASE_ALIGNMENT / 4).prop_map(|words| words * 4),
        archive in prop_oneof![0..100_u64 << 20, any::<u64>()],
    ) {
        let layout = Layout::new(pieces * MEMORY_GRANULE, 1).unwrap();
        let header = Header { text_offset, image_size };
        if let Ok(placement) = Placement::new(&layout, header, archive) {
            let memory = layout.memory();
            prop_assert!(memory.start <= placement.kernel.start);
            prop_assert!(placement.kernel.end <= placement.fdt.start);
            prop_assert!(placement.fdt.start.is_multiple_of(8));
            prop_assert!(placement.fdt.end <= placement.initramfs.start);
            prop_assert!(placement.initramfs.end <= memory.end);
            prop_assert_eq!(placement.kernel.end - placement.kernel.start, image_size);
        }
    }

    #[test]
    fn any_kernel_is_judged(data in prop::collection::vec(any::<u8>(), 0..200)) {
        misbehave::kernel_image(&data);
    }

    #[test]
    fn any_guest_is_placed_or_refused(data in prop::collection::vec(any::<u8>(), 0..200)) {
        misbehave::device_tree(&data);
    }
}
