//! Runs every target over its corpus and over a bounded number of mutations of it, the same on
//! every run, and bounds the memory that an input may cost.

mod meter;
mod mutator;

use mutator::Mutator;
use ringfence_fuzz::{TARGETS, Target};
use std::collections::BTreeSet;
use std::fs;
use std::panic::{self, AssertUnwindSafe};
use std::path::PathBuf;

fn folder(target: &str) -> PathBuf {
    [env!("CARGO_MANIFEST_DIR"), "corpus", target]
        .iter()
        .collect()
}

/// The corpus of a target, by name, so that every run sees the same order.
fn corpus(target: &str) -> Vec<(String, Vec<u8>)> {
    let mut seeds: Vec<_> = fs::read_dir(folder(target))
        .unwrap()
        .map(|entry| {
            let entry = entry.unwrap();
            let name = entry.file_name().into_string().unwrap();
            (name, fs::read(entry.path()).unwrap())
        })
        .collect();
    seeds.sort();
    assert!(!seeds.is_empty(), "{target} has no corpus");
    seeds
}

/// Runs one input and reports it whole when the target fails.
fn run(target: &Target, what: &str, input: &[u8]) {
    let Target { name, body, .. } = target;
    let outcome = panic::catch_unwind(AssertUnwindSafe(|| meter::peak(|| body(input))));
    let hex: String = input.iter().map(|byte| format!("{byte:02x}")).collect();
    match outcome {
        Ok(peak) => {
            let allowed = target.memory + target.memory_per_byte * input.len();
            assert!(
                peak <= allowed,
                "{name}: {what} costs {peak} bytes of memory: {hex}"
            );
        }
        Err(_) => panic!("{name}: {what} panics; add it to the corpus: {hex}"),
    }
}

#[test]
fn every_target_survives_its_corpus() {
    for target in TARGETS {
        for (name, input) in corpus(target.name) {
            run(target, &name, &input);
        }
    }
}

#[test]
fn every_target_survives_mutations_of_its_corpus() {
    for target in TARGETS {
        let seeds = corpus(target.name).into_iter().map(|(_, input)| input);
        let mut mutator = Mutator::new(seeds.collect(), target.has_length);
        for round in 0..target.mutations {
            let input = mutator.next();
            run(target, &format!("mutation {round}"), &input);
        }
    }
}

/// Entry points, targets and corpora are the same set, so that nothing is left out of any.
#[cfg(target_os = "linux")]
#[test]
fn every_target_has_an_entry_point_and_a_corpus() {
    let names = |folder: &str| {
        let folder = [env!("CARGO_MANIFEST_DIR"), folder]
            .iter()
            .collect::<PathBuf>();
        let entries = fs::read_dir(folder).unwrap();
        let name = |entry: std::io::Result<fs::DirEntry>| {
            let name = entry.unwrap().file_name().into_string().unwrap();
            name.trim_end_matches(".rs").to_owned()
        };
        entries.map(name).collect::<BTreeSet<_>>()
    };
    let targets: BTreeSet<_> = TARGETS
        .iter()
        .map(|target| target.name.to_owned())
        .collect();
    assert_eq!(names("fuzz_targets"), targets);
    assert_eq!(names("corpus"), targets);
}

/// A frame of the largest size, filled with what costs the decoder most: lists of empty elements.
#[test]
fn the_largest_frames_cost_memory_in_proportion() {
    use ringfence_protocol::frame::MAX_FRAME;
    let decoder = TARGETS.iter().find(|target| target.name == "decode_frame");
    let decoder = decoder.unwrap();
    for variant in 0..12_u8 {
        for filler in [0, 1, 0x7f, 0xff] {
            let mut input = u32::try_from(MAX_FRAME).unwrap().to_le_bytes().to_vec();
            // Empty program, then a list of arguments as long as the frame allows.
            input.extend([variant, 0, 0xf0, 0xff, 0x3f]);
            input.resize(4 + MAX_FRAME, filler);
            let what = format!("a full frame of variant {variant} with {filler}");
            let allowed = decoder.memory + decoder.memory_per_byte * input.len();
            let peak = meter::peak(|| ringfence_fuzz::decode_frame(&input));
            assert!(peak <= allowed, "{what} costs {peak} bytes of memory");
        }
    }
}

/// The corpus of the decoder holds every message of the frozen wire format, so that a new message
/// is fuzzed from the day it exists.
#[test]
fn the_corpus_has_every_message() {
    let schema = format!(
        "../protocol/tests/schema/v{}.txt",
        ringfence_protocol::VERSION
    );
    let schema = fs::read_to_string(schema).unwrap();
    let seeds = corpus("decode_frame");
    for line in schema.lines() {
        let (name, hex) = line.split_once(' ').unwrap();
        // Parts of messages, on no connection by themselves.
        let parts = ["Layer::", "Network::", "Operation::"];
        if parts.iter().any(|part| name.starts_with(part)) {
            continue;
        }
        let body: Vec<u8> = (0..hex.len() / 2)
            .map(|at| u8::from_str_radix(&hex[2 * at..2 * at + 2], 16).unwrap())
            .collect();
        let header = u32::try_from(body.len()).unwrap().to_le_bytes();
        let frame = [&header[..], &body].concat();
        assert!(
            seeds.iter().any(|(_, seed)| *seed == frame),
            "corpus/decode_frame has no seed for {name}: add a file with its frame"
        );
    }
}
