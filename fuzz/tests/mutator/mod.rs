//! A small structure-aware mutator: what it does to a seed is random, but the same on every run.

/// The longest input it makes.
const LONGEST: usize = 4096;

/// Values that decoders get wrong: ends of ranges, and varints that say more than follows.
const NOTABLE: &[&[u8]] = &[
    &[0],
    &[0x7f],
    &[0x80],
    &[0xff],
    &[0xff, 0xff, 0xff, 0xff],
    &[0xff, 0xff, 0xff, 0xff, 0x0f],
    &[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01],
    &[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f],
    &[
        0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x01,
    ],
    &[0x00, 0x00, 0x10, 0x00],
    &[0x01, 0x00, 0x10, 0x00],
];

pub struct Mutator {
    random: fastrand::Rng,
    seeds: Vec<Vec<u8>>,
    has_length: bool,
}

impl Mutator {
    pub fn new(seeds: Vec<Vec<u8>>, has_length: bool) -> Self {
        Self {
            random: fastrand::Rng::with_seed(0x5eed),
            seeds,
            has_length,
        }
    }

    /// The next input.
    pub fn next(&mut self) -> Vec<u8> {
        let mut input = self.seed();
        for _ in 0..self.random.usize(1..=8) {
            self.mutate(&mut input);
            input.truncate(LONGEST);
        }
        // Otherwise nearly every input would fail at its length and never reach the values.
        if self.has_length && self.random.u8(..4) != 0 {
            fix_header(&mut input);
        }
        input
    }

    fn seed(&mut self) -> Vec<u8> {
        self.random.choice(&self.seeds).cloned().unwrap_or_default()
    }

    fn mutate(&mut self, input: &mut Vec<u8>) {
        let at = self.random.usize(..=input.len());
        let end = self.random.usize(at..=input.len());
        match self.random.u8(..8) {
            0 if at < input.len() => input[at] ^= 1 << self.random.u8(..8),
            1 if at < input.len() => input[at] = self.random.u8(..),
            2 => input.insert(at, self.random.u8(..)),
            3 => drop(input.drain(at..end)),
            4 => {
                let copy = input[at..end].to_vec();
                input.splice(at..at, copy);
            }
            5 => {
                let notable = self.random.choice(NOTABLE).copied().unwrap_or_default();
                let end = at.saturating_add(notable.len()).min(input.len());
                input.splice(at..end, notable.iter().copied());
            }
            6 => {
                let other = self.seed();
                let from = self.random.usize(..=other.len());
                input.splice(at..end, other[from..].iter().copied());
            }
            _ => input.truncate(end),
        }
    }
}

/// Makes the first length field say what follows it.
fn fix_header(input: &mut [u8]) {
    if let Some((header, body)) = input.split_first_chunk_mut::<4>() {
        *header = u32::try_from(body.len()).unwrap_or(u32::MAX).to_le_bytes();
    }
}
