//! The last words of a guest: a bounded memory of what was printed, made safe to print again.

use std::collections::VecDeque;
use std::fs::File;
use std::io::Write;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Most bytes that the log file gets; a guest can print for ever.
const LOG_LIMIT: usize = 4 << 20;

/// Keeps the end of a byte stream, and copies its beginning to a file if there is one.
#[derive(Debug)]
pub(super) struct Tail {
    limit: usize,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    bytes: VecDeque<u8>,
    log: Option<File>,
    log_space: usize,
}

impl Tail {
    pub(super) fn new(limit: usize, log: Option<File>) -> Self {
        let state = State {
            bytes: VecDeque::new(),
            log,
            log_space: LOG_LIMIT,
        };
        Self {
            limit,
            state: Mutex::new(state),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Nothing panics while it holds the lock.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn push(&self, bytes: &[u8]) {
        let mut state = self.state();
        let kept = &bytes[bytes.len().saturating_sub(self.limit)..];
        let excess = (state.bytes.len() + kept.len()).saturating_sub(self.limit);
        state.bytes.drain(..excess);
        state.bytes.extend(kept);
        let logged = &bytes[..bytes.len().min(state.log_space)];
        state.log_space -= logged.len();
        if let Some(log) = &mut state.log
            && (logged.is_empty() || log.write_all(logged).is_err())
        {
            // Full, ours or the disk's: a log is no reason to disturb the guest.
            state.log = None;
        }
    }

    /// What is kept, as text that a terminal takes for text.
    pub(super) fn text(&self) -> String {
        let bytes: Vec<u8> = self.state().bytes.iter().copied().collect();
        String::from_utf8_lossy(&bytes)
            .chars()
            .filter(|c| !c.is_control() || matches!(c, '\n' | '\t'))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_end_is_kept() {
        let tail = Tail::new(8, None);
        tail.push(b"0123456789");
        assert_eq!(tail.text(), "23456789");
        tail.push(b"abc");
        assert_eq!(tail.text(), "56789abc");
    }

    #[test]
    fn terminals_are_not_obeyed() {
        let tail = Tail::new(64, None);
        tail.push(b"\x1b[2Jpanic\r\n\xff\x07\x9b");
        assert_eq!(tail.text(), "[2Jpanic\n\u{fffd}\u{fffd}");
    }

    #[test]
    fn the_log_is_bounded() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let tail = Tail::new(16, Some(file.reopen().unwrap()));
        let block = vec![b'x'; 1 << 20];
        for _ in 0..6 {
            tail.push(&block);
        }
        assert_eq!(file.as_file().metadata().unwrap().len(), LOG_LIMIT as u64);
    }
}
