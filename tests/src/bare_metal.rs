//! Kernels of a few instructions that a test's guest runs instead of Linux, to do to the machine
//! what Linux never does. Each is an arm64 `Image` (Linux,
//! `Documentation/arch/arm64/booting.rst`) assembled here, word by word.
//!
//! The guest starts with its MMU off. It has no stack, no memory of its own beside the code and no
//! exception vectors: an exception that it takes is an endless loop.

/// A general register.
type Register = u32;

/// A label's number.
type Label = usize;

/// `SYSTEM_OFF` and `SYSTEM_RESET`, PSCI 1.1 (Arm DEN 0022), 5.1.
pub const SYSTEM_OFF: u64 = 0x8400_0008;
/// See [`SYSTEM_OFF`].
pub const SYSTEM_RESET: u64 = 0x8400_0009;
/// `CPU_OFF`.
pub const CPU_OFF: u64 = 0x8400_0002;

/// Where the machine's devices are: the console, then one after the other the virtio devices.
/// [`registers`] checks it.
const UART: u64 = 0x0900_0000;
const VIRTIO: u64 = 0x0a00_0000;
const VIRTIO_STRIDE_LOG2: u32 = 12;
const DEVICES: u64 = 3;

/// What the first register of a virtio device reads, virtio 1.3, 4.2.2.
const VIRTIO_MAGIC: u64 = 0x7472_6976;

/// Widths of accesses, as logarithms of bytes.
const WIDTHS: [u32; 4] = [0, 1, 2, 3];

/// Assembles a program.
#[derive(Debug, Default)]
pub struct Program {
    words: Vec<u32>,
    labels: Vec<Option<usize>>,
    /// Words whose branch has to be given its distance: in which bits, to where.
    branches: Vec<(usize, Label, Field)>,
}

/// Where a branch instruction has its distance, in words: how many bits from which bit.
#[derive(Debug, Clone, Copy)]
struct Field {
    bits: u32,
    from: u32,
}

const LONG: Field = Field { bits: 26, from: 0 };
const MIDDLE: Field = Field { bits: 19, from: 5 };
const SHORT: Field = Field { bits: 14, from: 5 };

impl Program {
    /// An empty program.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// The kernel file.
    ///
    /// # Panics
    /// When a label was never put.
    #[must_use]
    pub fn image(mut self) -> Vec<u8> {
        for (at, label, field) in std::mem::take(&mut self.branches) {
            let target = self.labels[label].expect("a label that was put");
            let distance = i64::try_from(target).unwrap() - i64::try_from(at).unwrap();
            let mask = (1_u32 << field.bits) - 1;
            self.words[at] |= (u32::try_from(distance & i64::from(mask)).unwrap()) << field.from;
        }
        let len = 64 + 4 * self.words.len() as u64;
        let mut image = Vec::new();
        // A branch over the header, and a word that is reserved.
        image.extend_from_slice(&0x1400_0010_u32.to_le_bytes());
        image.extend_from_slice(&[0; 4]);
        // text_offset, image_size, flags: little-endian, pages of 4 KiB, anywhere in memory.
        for field in [0, len, 0b1010_u64] {
            image.extend_from_slice(&field.to_le_bytes());
        }
        image.extend_from_slice(&[0; 24]);
        image.extend_from_slice(b"ARM\x64");
        image.extend_from_slice(&[0; 4]);
        for word in self.words {
            image.extend_from_slice(&word.to_le_bytes());
        }
        image
    }

    /// Any instruction.
    #[must_use]
    pub fn word(mut self, word: u32) -> Self {
        self.words.push(word);
        self
    }

    /// MOVZ and MOVK: a register gets a value.
    #[must_use]
    pub fn set(self, to: Register, value: u64) -> Self {
        (0..4).fold(self, |program, part| {
            let immediate = u32::try_from((value >> (16 * part)) & 0xffff).unwrap();
            let operation = if part == 0 { 0xd280_0000 } else { 0xf280_0000 };
            program.word(operation | part << 21 | immediate << 5 | to)
        })
    }

    /// HVC with a function of PSCI in X0.
    #[must_use]
    pub fn psci(self, function: u64) -> Self {
        self.set(0, function).word(0xd400_0002)
    }

    /// Loops forever.
    #[must_use]
    pub fn hang(self) -> Self {
        self.word(0x1400_0000)
    }

    fn label(&mut self) -> Label {
        self.labels.push(None);
        self.labels.len() - 1
    }

    fn put(mut self, label: Label) -> Self {
        self.labels[label] = Some(self.words.len());
        self
    }

    fn branch(mut self, word: u32, field: Field, to: Label) -> Self {
        self.branches.push((self.words.len(), to, field));
        self.word(word)
    }

    fn jump(self, to: Label) -> Self {
        self.branch(0x1400_0000, LONG, to)
    }

    fn jump_if_zero(self, register: Register, to: Label) -> Self {
        self.branch(0xb400_0000 | register, MIDDLE, to)
    }

    fn jump_unless_zero(self, register: Register, to: Label) -> Self {
        self.branch(0xb500_0000 | register, MIDDLE, to)
    }

    fn jump_if_bit(self, register: Register, bit: u32, to: Label) -> Self {
        let word = 0x3700_0000 | (bit >> 5) << 31 | (bit & 31) << 19 | register;
        self.branch(word, SHORT, to)
    }

    /// Logical operation on a register shifted to the right.
    fn shifted(self, operation: u32, to: Register, a: Register, b: Register, by: u32) -> Self {
        self.word(operation | 1 << 22 | b << 16 | by << 10 | a << 5 | to)
    }

    fn and_shifted(self, to: Register, a: Register, b: Register, by: u32) -> Self {
        self.shifted(0x8a00_0000, to, a, b, by)
    }

    fn add(self, to: Register, a: Register, b: Register, left: u32) -> Self {
        self.word(0x8b00_0000 | b << 16 | left << 10 | a << 5 | to)
    }

    /// EOR of a register with itself, shifted left (or right).
    fn scramble(self, register: Register, right: bool, by: u32) -> Self {
        let (n, direction) = (register, u32::from(right) << 22);
        self.word(0xca00_0000 | direction | n << 16 | by << 10 | n << 5 | n)
    }

    /// A load or a store of 1 << `width` bytes at the address in a register.
    #[must_use]
    pub fn access(self, width: u32, load: bool, value: Register, address: Register) -> Self {
        self.word(0x3900_0000 | width << 30 | u32::from(load) << 22 | address << 5 | value)
    }
}

/// Reads and writes registers of every device at random, in every width, `count` times, and then
/// switches the machine off. Where a device is not where it should be, it resets the machine.
#[must_use]
pub fn registers(seed: u64, count: u64) -> Vec<u8> {
    let (random, left, uart, virtio) = (19, 20, 21, 22);
    let (device, offset, address, value, mask) = (3, 4, 5, 6, 7);
    let mut program = Program::new();
    let (again, wrong, console, chosen) = (
        program.label(),
        program.label(),
        program.label(),
        program.label(),
    );
    let (wide, status, ready) = (program.label(), program.label(), program.label());
    program = program.set(virtio, VIRTIO).set(uart, UART).set(left, count);
    // Each device is where it is thought to be.
    for number in 0..DEVICES {
        program = program
            .set(address, VIRTIO + (number << VIRTIO_STRIDE_LOG2))
            .access(2, true, value, address)
            .set(mask, VIRTIO_MAGIC)
            .word(0xcb00_0000 | mask << 16 | value << 5 | value)
            .jump_unless_zero(value, wrong);
    }
    program = program.set(random, seed | 1).put(again);
    // Marsaglia's xorshift64.
    program = program
        .scramble(random, false, 13)
        .scramble(random, true, 7)
        .scramble(random, false, 17);
    // 0 is the console, others are virtio devices.
    program = program
        .set(mask, DEVICES)
        .and_shifted(device, mask, random, 40)
        .jump_if_zero(device, console)
        .word(0xd100_0000 | 1 << 10 | device << 5 | device)
        .add(address, virtio, device, VIRTIO_STRIDE_LOG2)
        .jump(chosen)
        .put(console)
        .word(0xaa00_03e0 | uart << 16 | address)
        .put(chosen);
    // The value has a random number of bits; a half are small.
    program = program
        .word(0x9ac0_2400 | random << 16 | random << 5 | value)
        .set(mask, 0x1ff);
    // Mostly offsets of known registers, sometimes of the whole window.
    program = program
        .jump_if_bit(random, 43, wide)
        .jump_if_bit(random, 44, wide)
        .set(mask, 0xfff)
        .put(wide)
        .and_shifted(offset, mask, random, 20);
    // One of eight goes to the status register, with a plausible value.
    program = program
        .set(mask, 7)
        .and_shifted(mask, mask, random, 45)
        .jump_unless_zero(mask, status)
        .set(offset, 0x70)
        .set(mask, 0xf)
        .and_shifted(value, mask, random, 50)
        .put(status);
    let widths = WIDTHS.map(|_| program.label());
    let reads = WIDTHS.map(|_| program.label());
    program = program
        .jump_if_bit(random, 60, widths[0])
        .jump_if_bit(random, 61, widths[1])
        .jump_if_bit(random, 62, widths[3])
        .jump(widths[2]);
    for width in WIDTHS {
        let at = width as usize;
        // An address that is not a multiple of the width is the guest's own fault.
        program = program
            .put(widths[at])
            .set(mask, !((1 << width) - 1))
            .and_shifted(offset, offset, mask, 0)
            .add(address, address, offset, 0)
            .jump_if_bit(random, 59, reads[at])
            .access(width, false, value, address)
            .jump(ready)
            .put(reads[at])
            .access(width, true, value, address)
            .jump(ready);
    }
    program
        .put(ready)
        .word(0xd100_0000 | 1 << 10 | left << 5 | left)
        .jump_unless_zero(left, again)
        .psci(SYSTEM_OFF)
        .hang()
        .put(wrong)
        .psci(SYSTEM_RESET)
        .hang()
        .image()
}
