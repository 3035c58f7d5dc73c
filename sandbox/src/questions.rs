//! What a supervised program asks for, and the caller's answers, over a socket pair of their own.
//!
//! A question travels whole (`SOCK_SEQPACKET`): a header of fixed size and at most two paths, as
//! the kernel names the places that the supervisor holds open meanwhile. The caller checks every
//! number of it, as with the other records.

#![expect(unsafe_code, reason = "sends and receives on a socket")]

use crate::{Decision, Operation};
use ringfence_protocol::{ByteBuf, Question};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::Arc;

/// The longest path in a question: a directory's, a slash, a name.
pub(crate) const LONGEST: usize = 4096 + 1 + 255;
/// Token, operation, process, length of the first path, whether it has expired.
pub(crate) const HEADER: usize = 24;
/// The longest question.
pub(crate) const QUESTION: usize = HEADER + 2 * LONGEST;
/// Token, kind of decision, error number.
pub(crate) const ANSWER: usize = 16;

/// The operation as a number.
pub(crate) const fn number(operation: Operation) -> u32 {
    match operation {
        Operation::Write => 1,
        Operation::Delete => 2,
        Operation::Rename => 3,
        Operation::Exec => 5,
        _ => 4,
    }
}

fn operation(number: u32) -> Option<Operation> {
    let mut all = Operation::ALL.into_iter();
    all.find(|operation| self::number(*operation) == number)
}

/// The header of a question.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Header {
    pub(crate) token: u64,
    pub(crate) operation: Operation,
    pub(crate) process: u32,
    pub(crate) first_len: u32,
    pub(crate) expired: bool,
}

impl Header {
    pub(crate) fn to_bytes(self) -> [u8; HEADER] {
        let mut bytes = [0; HEADER];
        let words = [
            number(self.operation),
            self.process,
            self.first_len,
            u32::from(self.expired),
        ];
        let token = self.token.to_le_bytes().into_iter();
        let all = token.chain(words.into_iter().flat_map(u32::to_le_bytes));
        for (slot, byte) in bytes.iter_mut().zip(all) {
            *slot = byte;
        }
        bytes
    }

    fn from_bytes(bytes: &[u8]) -> Option<(Self, &[u8])> {
        let (token, rest) = bytes.split_first_chunk()?;
        let (words, paths) = rest.split_first_chunk::<16>()?;
        let mut words = words
            .as_chunks()
            .0
            .iter()
            .map(|word| u32::from_le_bytes(*word));
        let header = Self {
            token: u64::from_le_bytes(*token),
            operation: operation(words.next()?)?,
            process: words.next()?,
            first_len: words.next()?,
            expired: words.next()? != 0,
        };
        Some((header, paths))
    }
}

/// An answer as it travels.
pub(crate) fn answer_to_bytes(token: u64, decision: Decision) -> [u8; ANSWER] {
    let (kind, errno) = match decision {
        Decision::Allow => (0_u32, 0),
        Decision::Deny(errno) => (1, errno),
        Decision::Kill => (2, 0),
    };
    let mut bytes = [0; ANSWER];
    let token = token.to_le_bytes().into_iter();
    let all = token.chain(kind.to_le_bytes()).chain(errno.to_le_bytes());
    for (slot, byte) in bytes.iter_mut().zip(all) {
        *slot = byte;
    }
    bytes
}

/// Reads an answer. An error number that is none becomes the plain refusal.
pub(crate) fn answer_from_bytes(bytes: &[u8]) -> Option<(u64, Decision)> {
    let (token, rest) = bytes.split_first_chunk()?;
    let (kind, rest) = rest.split_first_chunk()?;
    let decision = match u32::from_le_bytes(*kind) {
        0 => Decision::Allow,
        1 => match i32::from_le_bytes(*rest.first_chunk()?) {
            errno @ 1..=4095 => Decision::Deny(errno),
            _ => Decision::REFUSE,
        },
        2 => Decision::Kill,
        _ => return None,
    };
    Some((u64::from_le_bytes(*token), decision))
}

/// The questions of a supervised program, one after the other.
#[derive(Debug)]
pub struct Questions {
    socket: Arc<OwnedFd>,
}

/// Answers [`Questions`], from any thread.
#[derive(Debug, Clone)]
pub struct Answerer {
    socket: Arc<OwnedFd>,
}

impl Questions {
    pub(crate) fn new(socket: OwnedFd) -> Self {
        Self {
            socket: Arc::new(socket),
        }
    }

    /// What answers.
    #[must_use]
    pub fn answerer(&self) -> Answerer {
        Answerer {
            socket: Arc::clone(&self.socket),
        }
    }

    /// Answers a question. An answer that comes too late has no effect.
    pub fn answer(&self, token: u64, decision: Decision) {
        self.answerer().answer(token, decision);
    }

    /// Waits for the next question. `None`: the execution has ended.
    pub fn next_question(&mut self) -> Option<Question> {
        let mut bytes = [0; QUESTION];
        loop {
            let fd = self.socket.as_raw_fd();
            // SAFETY: the call writes at most the buffer's length to it.
            let len = unsafe { libc::recv(fd, bytes.as_mut_ptr().cast(), bytes.len(), 0) };
            match usize::try_from(len) {
                Ok(0) => return None,
                Ok(len) => {
                    // The supervisor says nothing that cannot be read.
                    return bytes.get(..len).and_then(read);
                }
                Err(_) if io::Error::last_os_error().kind() == io::ErrorKind::Interrupted => {}
                Err(_) => return None,
            }
        }
    }
}

impl Answerer {
    /// Answers a question. Does not wait: an answer that comes too late, or on top of many that
    /// nobody asked for, has no effect.
    pub fn answer(&self, token: u64, decision: Decision) {
        let bytes = answer_to_bytes(token, decision);
        let fd = self.socket.as_raw_fd();
        let flags = libc::MSG_NOSIGNAL | libc::MSG_DONTWAIT;
        // SAFETY: the call reads the bytes, which outlive it.
        let _ = unsafe { libc::send(fd, bytes.as_ptr().cast(), bytes.len(), flags) };
    }
}

fn read(bytes: &[u8]) -> Option<Question> {
    let (header, paths) = Header::from_bytes(bytes)?;
    let (first, second) = paths.split_at_checked(usize::try_from(header.first_len).ok()?)?;
    let path = |bytes: &[u8]| ByteBuf::from(bytes.to_vec());
    Some(Question {
        token: header.token,
        operation: header.operation,
        path: path(first),
        destination: (!second.is_empty()).then(|| path(second)),
        process: header.process,
        expired: header.expired,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn questions_and_answers_are_read_back() {
        for operation in Operation::ALL {
            let header = Header {
                token: u64::MAX - 1,
                operation,
                process: 7,
                first_len: 2,
                expired: operation == Operation::Delete,
            };
            let mut bytes = header.to_bytes().to_vec();
            bytes.extend(b"/a/b/c");
            let question = read(&bytes).unwrap();
            assert_eq!(question.path.as_slice(), b"/a");
            assert_eq!(
                question.destination.as_deref().map(Vec::as_slice),
                Some(&b"/b/c"[..])
            );
            assert_eq!(question.operation, operation);
            assert_eq!(question.expired, header.expired);
            assert_eq!(read(&bytes[..HEADER + 1]), None);
        }
        for decision in [Decision::Allow, Decision::Deny(13), Decision::Kill] {
            let bytes = answer_to_bytes(9, decision);
            assert_eq!(answer_from_bytes(&bytes), Some((9, decision)));
            assert_eq!(answer_from_bytes(&bytes[..11]), None);
        }
        let odd = answer_to_bytes(9, Decision::Deny(-7));
        assert_eq!(answer_from_bytes(&odd), Some((9, Decision::REFUSE)));
    }
}
