//! Paths and records that are what bytes say, for property tests and for fuzzing.
//!
//! Whatever the bytes say, a path that is accepted stays below the workspace, and a record is
//! refused or means one thing.

#![expect(clippy::panic, clippy::unwrap_used, reason = "tests may fail")]

use crate::running::report;
use crate::wire::{Cause, Command, Event, RECORD, Record, Summary};
use crate::{Ended, Limits, PathError, WorkspacePath};
use std::fmt::Debug;
use std::path::{Component, Path};
use std::time::Duration;

/// A path for the workspace.
pub(crate) fn workspace_path(bytes: &[u8]) {
    let parts = || bytes.split(|byte| *byte == b'/');
    let plain = bytes.len() <= 2048
        && parts().count() <= 64
        && parts().all(|part| {
            (1..=255).contains(&part.len()) && !part.contains(&0) && part != b"." && part != b".."
        });
    let parsed = WorkspacePath::parse(bytes);
    if let Ok(text) = str::from_utf8(bytes) {
        assert_eq!(WorkspacePath::try_from(text), parsed);
    }
    match parsed {
        Ok(path) => {
            assert!(plain, "{path:?} is accepted");
            assert_eq!(path.as_bytes(), bytes);
            assert!(path.components().eq(parts()));
            let below = Path::new("/workspace").join(path.as_os_str());
            let below = below.strip_prefix("/workspace").unwrap();
            let names = below.components().map(|component| match component {
                Component::Normal(name) => name.as_encoded_bytes(),
                other => panic!("{other:?} in {below:?}"),
            });
            assert!(names.eq(parts()), "{below:?} is not what was given");
        }
        Err(error) => {
            assert!(!plain, "{error}");
            assert_eq!(bytes.is_empty(), error == PathError::Empty);
            assert!(error.to_string().len() < 500 + 20 * bytes.len().min(2048));
        }
    }
}

/// What a supervisor says that the program has taken over, and what a caller might.
pub(crate) fn records(bytes: &[u8]) {
    for record in bytes.chunks(RECORD) {
        let event = read(record, Event::from_record, Event::to_record);
        if let Some(Event::Ended(summary)) = event {
            end(summary);
        }
        read(record, Command::from_record, Command::to_record);
    }
}

/// Reads a record, which means one thing: what is behind the part that counts changes nothing.
fn read<T: Debug + PartialEq + Copy>(
    record: &[u8],
    from_record: fn(&[u8]) -> Option<T>,
    to_record: fn(T) -> Record,
) -> Option<T> {
    let parts = (0..=record.len()).filter_map(|len| record.get(..len));
    let mut read = parts.filter_map(|part| Some((part, from_record(part)?)));
    let Some((counts, meant)) = read.next() else {
        assert_eq!(from_record(record), None);
        return None;
    };
    assert!(read.all(|(_, longer)| longer == meant), "{record:x?}");
    let written = to_record(meant);
    assert_eq!(from_record(&written), Some(meant));
    let (start, rest) = written.split_at(counts.len());
    assert_eq!(start, counts);
    assert!(rest.iter().all(|byte| *byte == 0));
    Some(meant)
}

/// What the caller makes of an end.
fn end(summary: Summary) {
    for cpu in [None, Some(Duration::ZERO), Some(Duration::from_secs(1))] {
        let limits = Limits {
            cpu,
            ..Limits::default()
        };
        let report = report(summary, &limits, Vec::new());
        assert_eq!(report.wall.as_nanos(), summary.wall_nanos.into());
        assert_eq!(report.cpu.as_nanos(), summary.cpu_nanos.into());
        assert_eq!(report.peak_memory, summary.peak_bytes);
        let good = match (summary.cause, report.ended) {
            (Cause::TimedOut, ended) => ended == Ended::TimedOut,
            (Cause::CpuExceeded, ended) => ended == Ended::CpuExceeded,
            (Cause::MemoryExceeded, ended) => ended == Ended::MemoryExceeded,
            (Cause::OutputExceeded, ended) => ended == Ended::OutputExceeded,
            (Cause::Killed | Cause::NoProcesses, ended) => ended == Ended::Killed,
            (Cause::Leader, Ended::Exited { code }) => {
                summary.status.to_le_bytes().get(1) == Some(&code) && summary.oom_kills == 0
            }
            (Cause::Leader, Ended::Signaled { signal }) => {
                summary.status & 0x7f == signal.into() && signal > 0
            }
            (Cause::Leader, Ended::MemoryExceeded) => summary.oom_kills > 0,
            (Cause::Leader, Ended::CpuExceeded) => cpu.is_some(),
            (Cause::Leader, Ended::Killed) => summary.status & 0x7f == libc::SIGSYS,
            (Cause::Leader, _) => false,
        };
        assert!(good, "{summary:?} gives {:?}", report.ended);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn any_path_is_judged(bytes in prop::collection::vec(prop_oneof![
            Just(b'/'), Just(b'.'), Just(0), any::<u8>(),
        ], 0..300)) {
            workspace_path(&bytes);
        }

        #[test]
        fn any_record_means_one_thing(
            kind in 0..5_u32,
            bytes in prop::collection::vec(prop_oneof![Just(0_u8), 0..40_u8, any::<u8>()], 0..60),
        ) {
            records(&bytes);
            records(&[&kind.to_le_bytes(), &bytes[..]].concat());
        }
    }
}
