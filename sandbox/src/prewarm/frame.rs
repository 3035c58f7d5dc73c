//! What a waiting interpreter is told: one frame on its standard input.
//!
//! Numbers are `u32`, little-endian; strings are their length and their bytes.
//!
//! | field | meaning |
//! |---|---|
//! | number | 1: standard input is empty; 0: it follows the frame |
//! | number, strings | arguments after the script's name |
//! | number, pairs of strings | files: path below the workspace, content |
//!
//! The reader is trusted as long as it has not run what the frame brings.

use crate::{Content, Spec, Stdin};
use std::os::unix::ffi::OsStrExt as _;

/// Bytes of a frame at most. Whatever is larger costs more than the start of an interpreter.
pub(crate) const MAX_FRAME: usize = 1 << 20;

/// Permission bits of the files that a waiting interpreter writes.
const MODE: u32 = 0o644;

/// The frame of an execution. `None`: it does not fit into one.
pub(crate) fn frame(spec: &Spec) -> Option<Vec<u8>> {
    let mut frame = Vec::new();
    number(&mut frame, usize::from(spec.stdin == Stdin::Null))?;
    let args = spec.args.get(1..)?;
    number(&mut frame, args.len())?;
    for arg in args {
        string(&mut frame, arg.as_bytes())?;
    }
    number(&mut frame, spec.files.len())?;
    for file in &spec.files {
        let Content::Bytes(content) = &file.content else {
            return None;
        };
        if file.mode & 0o777 != MODE {
            return None;
        }
        string(&mut frame, file.path.as_bytes())?;
        string(&mut frame, content)?;
    }
    Some(frame)
}

fn number(frame: &mut Vec<u8>, number: usize) -> Option<()> {
    frame.extend_from_slice(&u32::try_from(number).ok()?.to_le_bytes());
    Some(())
}

fn string(frame: &mut Vec<u8>, bytes: &[u8]) -> Option<()> {
    if frame.len().saturating_add(bytes.len()) > MAX_FRAME {
        return None;
    }
    number(frame, bytes.len())?;
    frame.extend_from_slice(bytes);
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{InputFile, WorkspacePath};

    fn file(len: usize, mode: u32) -> InputFile {
        InputFile {
            path: WorkspacePath::parse(b"a/b").unwrap(),
            mode,
            content: Content::Bytes(vec![7; len]),
        }
    }

    #[test]
    fn a_frame_is_laid_out_as_documented() {
        let mut spec = Spec::new("python3");
        spec.args = vec!["main.py".into(), "x".into()];
        spec.files = vec![file(2, 0o644)];
        let expected = b"\x01\0\0\0\x01\0\0\0\x01\0\0\0x\x01\0\0\0\x03\0\0\0a/b\x02\0\0\0\x07\x07";
        assert_eq!(frame(&spec).unwrap(), expected);
        spec.stdin = Stdin::Piped;
        assert_eq!(frame(&spec).unwrap().first(), Some(&0));
    }

    #[test]
    fn what_does_not_fit_is_left_to_the_ordinary_way() {
        let mut spec = Spec::new("python3");
        assert_eq!(frame(&spec), None, "no script");
        spec.args = vec!["main.py".into()];
        assert!(frame(&spec).is_some());
        spec.files = vec![file(2, 0o755)];
        assert_eq!(frame(&spec), None, "another mode");
        spec.files = vec![file(MAX_FRAME, 0o644)];
        assert_eq!(frame(&spec), None, "too large");
        spec.files = vec![InputFile {
            content: Content::File(tempfile::tempfile().unwrap()),
            ..file(0, 0o644)
        }];
        assert_eq!(frame(&spec), None, "a file of the host");
    }
}
