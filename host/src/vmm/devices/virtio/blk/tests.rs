//! The disk through its transport and a real ring.

#![expect(
    clippy::arithmetic_side_effects,
    clippy::indexing_slicing,
    reason = "tests may fail"
)]

use super::*;
use crate::vmm::devices::MmioDevice;
use crate::vmm::devices::testing::{BASE, BUFFERS, Buffer, Driver, INDIRECT, MEMORY, NEXT, WRITE};
use std::io::Write;

const SECTORS: usize = 10_000;
const DATA: u64 = BUFFERS + 0x1_0000;
const STATUS: u64 = BUFFERS + 0x8000;
/// What no request leaves a status at.
const UNTOUCHED: u8 = 0x77;

fn content() -> Vec<u8> {
    let words = (0..SECTORS * 128).map(|i| u32::try_from(i * 2_654_435 % 0xffff_fffb).unwrap());
    words.flat_map(u32::to_le_bytes).collect()
}

fn file(bytes: &[u8]) -> File {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(bytes).unwrap();
    file
}

fn driver() -> Driver<Blk> {
    Driver::started(Blk::new(file(&content())).unwrap())
}

fn header(kind: u32, sector: u64) -> Vec<u8> {
    [
        kind.to_le_bytes().as_slice(),
        &[0; 4],
        &sector.to_le_bytes(),
    ]
    .concat()
}

/// Serves one request of usual shape; its status and length.
fn request(driver: &mut Driver<Blk>, kind: u32, sector: u64, data: &[(u64, u32)]) -> (u8, u32) {
    driver.put(BUFFERS, &header(kind, sector));
    let write = kind != VIRTIO_BLK_T_OUT;
    let mut buffers = vec![(BUFFERS, 16, false)];
    buffers.extend(data.iter().map(|&(at, len)| (at, len, write)));
    buffers.push((STATUS, 1, true));
    let len = chain(driver, &buffers);
    (driver.bytes(STATUS, 1)[0], len)
}

/// Serves one chain of any shape; the length.
fn chain(driver: &mut Driver<Blk>, buffers: &[Buffer]) -> u32 {
    driver.put(STATUS, &[UNTOUCHED]);
    let head = driver.offer(0, buffers);
    driver.notify(0);
    assert_eq!(driver.interrupted(), 1);
    let (taken, len) = driver.take(0).expect("given back");
    assert_eq!(taken, u32::from(head));
    assert_eq!(driver.take(0), None);
    len
}

#[test]
fn the_driver_learns_of_the_disk() {
    let driver = driver();
    assert_eq!(driver.get(8), 2);
    let mut capacity = [0xff; 8];
    driver.transport.read(0x100, &mut capacity);
    assert_eq!(u64::from_le_bytes(capacity), SECTORS as u64);
    assert_eq!((driver.get(0x108), driver.get(0x10c)), (SIZE_MAX, SEG_MAX));
    // Byte by byte, and behind the end.
    let mut byte = [0xff];
    driver.transport.read(0x101, &mut byte);
    assert_eq!(byte, [(SECTORS >> 8).to_le_bytes()[0]]);
    assert_eq!(driver.get(0x110), 0);
    assert_eq!(driver.get(0x1fc), 0);
    assert_ne!(driver.offered_features() & 1 << VIRTIO_BLK_F_RO, 0);
}

#[test]
fn sectors_are_read() {
    let mut driver = driver();
    let content = content();
    for (sector, lengths) in [
        (0, vec![512]),
        (1, vec![4096, 512]),
        (7, vec![1, 510, 1, 3000, 72 + 512]),
        (SECTORS as u64 - 1, vec![512]),
        (100, vec![64 << 10; 62]),
        (3, vec![4096; 62]),
    ] {
        let mut at = DATA;
        let mut data = Vec::new();
        for len in lengths {
            data.push((at, len));
            at += u64::from(len);
        }
        let len = usize::try_from(at - DATA).unwrap();
        let status = request(&mut driver, VIRTIO_BLK_T_IN, sector, &data);
        assert_eq!(status, (0, u32::try_from(len).unwrap() + 1));
        let from = usize::try_from(sector).unwrap() * 512;
        assert!(driver.bytes(DATA, len) == content[from..from + len]);
    }
}

#[test]
fn indirect_requests_are_read() {
    let mut driver = driver();
    driver.put(BUFFERS, &header(VIRTIO_BLK_T_IN, 5));
    let table = BUFFERS + 0x100;
    driver.describe(table, (BUFFERS, 16, NEXT, 1));
    driver.describe(table + 16, (DATA, 1024, NEXT | WRITE, 2));
    driver.describe(table + 32, (STATUS, 1, WRITE, 0));
    driver.describe(driver.rings[0].base, (table, 48, INDIRECT, 0));
    driver.offer_head(0, 0);
    driver.notify(0);
    assert_eq!(driver.take(0), Some((0, 1025)));
    assert!(driver.bytes(DATA, 1024) == content()[5 * 512..7 * 512]);
}

#[test]
fn the_disk_tells_its_name() {
    let mut driver = driver();
    let status = request(&mut driver, VIRTIO_BLK_T_GET_ID, 0, &[(DATA, 20)]);
    assert_eq!(status, (0, 21));
    assert_eq!(&driver.bytes(DATA, 20)[..10], b"ringfence\0");
}

#[test]
fn requests_that_cannot_be_served_fail() {
    let mut driver = driver();
    let end = SECTORS as u64;
    let mut check = |what: &str, kind: u32, sector: u64, data: &[(u64, u32)], expected: u32| {
        let (status, len) = request(&mut driver, kind, sector, data);
        assert_eq!((u32::from(status), len), (expected, 0), "{what}");
    };
    let (r, io, no) = (VIRTIO_BLK_T_IN, VIRTIO_BLK_S_IOERR, VIRTIO_BLK_S_UNSUPP);
    check("behind the end", r, end, &[(DATA, 512)], io);
    check("across the end", r, end - 1, &[(DATA, 1024)], io);
    check("far away", r, u64::MAX, &[(DATA, 512)], io);
    check(
        "whose bytes overflow",
        r,
        u64::MAX / 512,
        &[(DATA, 512)],
        io,
    );
    check("whose end overflows", r, u64::MAX - 1, &[(DATA, 1024)], io);
    check("half a sector", r, 0, &[(DATA, 256)], io);
    check("a sector and a byte", r, 0, &[(DATA, 513)], io);
    check(
        "the same memory again and again",
        r,
        0,
        &[(DATA, 1 << 20); 60],
        io,
    );
    check("write", VIRTIO_BLK_T_OUT, 0, &[(DATA, 512)], io);
    check("flush", 4, 0, &[], no);
    check("discard", 11, 0, &[(DATA, 16)], no);
    check("unknown", u32::MAX, 0, &[(DATA, 512)], no);
    assert!(driver.bytes(DATA, 4096) == [0; 4096]);
}

#[test]
fn an_empty_read_is_one() {
    let mut driver = driver();
    assert_eq!(request(&mut driver, VIRTIO_BLK_T_IN, 0, &[]), (0, 1));
}

#[test]
fn malformed_chains_are_given_back() {
    let far = BASE + MEMORY;
    let read = [(BUFFERS, 16, false), (DATA, 512, true)];
    let cases: [(&str, Vec<Buffer>, u8); 9] = [
        ("no status", vec![(BUFFERS, 16, false)], UNTOUCHED),
        ("nothing", vec![(BUFFERS, 0, false)], UNTOUCHED),
        ("empty status", vec![read[0], (STATUS, 0, true)], UNTOUCHED),
        (
            "short header",
            vec![(BUFFERS, 15, false), (STATUS, 1, true)],
            1,
        ),
        ("no header", vec![(STATUS, 1, true)], 1),
        (
            "header for writing",
            vec![(BUFFERS, 16, true), (STATUS, 1, true)],
            1,
        ),
        (
            "status outside",
            vec![read[0], read[1], (far, 1, true)],
            UNTOUCHED,
        ),
        (
            "data outside",
            vec![read[0], (far - 256, 512, true), (STATUS, 1, true)],
            UNTOUCHED,
        ),
        (
            "too many pieces",
            [vec![read[0]; 65], vec![(STATUS, 1, true)]].concat(),
            UNTOUCHED,
        ),
    ];
    for (what, buffers, status) in cases {
        let mut driver = driver();
        driver.put(BUFFERS, &header(VIRTIO_BLK_T_IN, 0));
        chain(&mut driver, &buffers);
        assert_eq!(driver.bytes(STATUS, 1), [status], "{what}");
        // And it goes on.
        let status = request(&mut driver, VIRTIO_BLK_T_IN, 1, &[(DATA, 512)]);
        assert_eq!(status, (0, 513), "{what}");
    }
}

#[test]
fn header_and_status_lie_where_the_driver_wants() {
    let mut driver = driver();
    driver.put(BUFFERS, &header(VIRTIO_BLK_T_IN, 2));
    // The header in three pieces, the status right behind the data.
    let len = chain(
        &mut driver,
        &[
            (BUFFERS, 1, false),
            (BUFFERS + 1, 10, false),
            (BUFFERS + 11, 5, false),
            (DATA, 500, true),
            (DATA + 500, 13, true),
        ],
    );
    assert_eq!(len, 513);
    assert!(driver.bytes(DATA, 513) == [&content()[1024..1536], &[0]].concat());
}

#[test]
fn whole_sectors_of_any_file_are_a_disk() {
    for (len, sectors) in [(0, 0), (1, 0), (511, 0), (512, 1), (1300, 2)] {
        let mut driver = Driver::started(Blk::new(file(&vec![7; len])).unwrap());
        assert_eq!(driver.get(0x100), sectors);
        let status = request(&mut driver, VIRTIO_BLK_T_IN, sectors.into(), &[(DATA, 512)]);
        assert_eq!(status.0, 1);
    }
}

#[test]
fn a_file_that_shrank_is_an_error() {
    let file = file(&vec![7; 4096]);
    let other = file.try_clone().unwrap();
    let mut driver = Driver::started(Blk::new(file).unwrap());
    other.set_len(512).unwrap();
    let status = request(&mut driver, VIRTIO_BLK_T_IN, 0, &[(DATA, 1024)]);
    assert_eq!(status, (1, 0));
}

#[test]
fn many_requests_cost_one_interrupt() {
    let mut driver = driver();
    driver.put(BUFFERS, &header(VIRTIO_BLK_T_IN, 0));
    for i in 0..40 {
        let data = DATA + i * 512;
        driver.offer(
            0,
            &[(BUFFERS, 16, false), (data, 512, true), (STATUS, 1, true)],
        );
    }
    driver.notify(0);
    assert!(driver.line.asserted());
    assert_eq!(driver.interrupted(), 1);
    assert!(!driver.line.asserted());
    assert_eq!(std::iter::from_fn(|| driver.take(0)).count(), 40);
}

#[test]
fn a_full_ring_is_served_by_one_notification() {
    let mut driver = driver();
    for _ in 0..3 {
        for _ in 0..RING_SIZE {
            driver.offer(0, &[(STATUS, 1, true)]);
        }
        driver.notify(0);
        assert_eq!(
            std::iter::from_fn(|| driver.take(0)).count(),
            usize::from(RING_SIZE)
        );
    }
}

#[test]
fn impossible_indices_need_a_reset() {
    let mut driver = driver();
    driver.rings[0].offered = RING_SIZE + 5;
    driver.offer_head(0, 0);
    driver.notify(0);
    assert_eq!(driver.status(), 0x4f);
    assert_eq!(driver.interrupted(), 2);
    driver.start(u64::MAX);
    let status = request(&mut driver, VIRTIO_BLK_T_IN, 1, &[(DATA, 512)]);
    assert_eq!(status, (0, 513));
}

#[test]
fn what_comes_later_brings_its_own_notification() {
    let mut driver = driver();
    for _ in 0..3 {
        driver.offer(0, &[(STATUS, 1, true)]);
        driver.offer(0, &[(STATUS, 1, true)]);
        driver.notify(0);
        // `avail_event`, behind the used ring: the next chain is to be told of.
        let ring = driver.rings[0];
        let event = driver.bytes(ring.used() + 4 + 8 * u64::from(ring.size), 2);
        assert_eq!(event, ring.offered.to_le_bytes());
    }
}

#[test]
fn a_head_outside_of_the_table_is_skipped() {
    let mut driver = driver();
    driver.offer_head(0, RING_SIZE);
    driver.offer_head(0, u16::MAX);
    driver.notify(0);
    assert_eq!(driver.take(0), None);
    assert!(!driver.line.asserted());
    let status = request(&mut driver, VIRTIO_BLK_T_IN, 1, &[(DATA, 512)]);
    assert_eq!(status, (0, 513));
}
