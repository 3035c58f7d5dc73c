//! What a worker and its client say to each other: records of 16 bytes on a Unix socket, some with
//! a stream beside them.
//!
//! Both ends are the same program, and neither is the guest; a record that makes no sense ends the
//! conversation all the same.

use rustix::io::{Errno, FdFlags, fcntl_setfd};
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
};
use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;

const LEN: usize = 16;

/// One message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Record {
    /// To the client, with a stream: the guest has connected to the ready port.
    Ready,
    /// To the worker: connect to this port of the guest.
    Connect { ticket: u32, port: u32, millis: u32 },
    /// To the client: with a stream, or with the reason why there is none.
    Connected { ticket: u32, outcome: Outcome },
}

/// What became of a wish to connect.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Outcome {
    Done,
    Refused,
    Reset,
    Gone,
    TimedOut,
    TooMany,
    Failed,
}

/// Every outcome that is a failure, with the kind of error that it stands for.
const FAILURES: [(Outcome, io::ErrorKind); 6] = [
    (Outcome::Refused, io::ErrorKind::ConnectionRefused),
    (Outcome::Reset, io::ErrorKind::ConnectionReset),
    (Outcome::Gone, io::ErrorKind::NotConnected),
    (Outcome::TimedOut, io::ErrorKind::TimedOut),
    (Outcome::TooMany, io::ErrorKind::QuotaExceeded),
    (Outcome::Failed, io::ErrorKind::Other),
];

impl Outcome {
    pub(super) fn of(error: &io::Error) -> Self {
        let known = FAILURES.iter().find(|(_, kind)| *kind == error.kind());
        known.map_or(Self::Failed, |&(outcome, _)| outcome)
    }

    /// `None` for success.
    pub(super) fn error(self) -> Option<io::ErrorKind> {
        let failure = FAILURES.iter().find(|(outcome, _)| *outcome == self);
        failure.map(|&(_, kind)| kind)
    }

    fn from_code(code: u32) -> Option<Self> {
        let mut all = std::iter::once(Self::Done).chain(FAILURES.map(|(outcome, _)| outcome));
        all.find(|&outcome| outcome as u32 == code)
    }
}

const READY: u32 = 1;
const CONNECT: u32 = 2;
const CONNECTED: u32 = 3;

impl Record {
    fn encode(self) -> [u8; LEN] {
        let words = match self {
            Self::Ready => [READY, 0, 0, 0],
            Self::Connect {
                ticket,
                port,
                millis,
            } => [CONNECT, ticket, port, millis],
            Self::Connected { ticket, outcome } => [CONNECTED, ticket, outcome as u32, 0],
        };
        let mut bytes = [0; LEN];
        for (to, word) in bytes.chunks_exact_mut(4).zip(words) {
            to.copy_from_slice(&word.to_ne_bytes());
        }
        bytes
    }

    fn decode(bytes: [u8; LEN]) -> Option<Self> {
        let (words, _) = bytes.as_chunks::<4>();
        let [kind, ticket, third, fourth] = *words else {
            return None;
        };
        let [kind, ticket, third, fourth] = [kind, ticket, third, fourth].map(u32::from_ne_bytes);
        match kind {
            READY => Some(Self::Ready),
            CONNECT => Some(Self::Connect {
                ticket,
                port: third,
                millis: fourth,
            }),
            CONNECTED => {
                Outcome::from_code(third).map(|outcome| Self::Connected { ticket, outcome })
            }
            _ => None,
        }
    }
}

/// Sends one record. Several threads may do so at a time when a lock keeps them apart.
pub(super) fn send(
    socket: &UnixStream,
    record: Record,
    stream: Option<BorrowedFd<'_>>,
) -> io::Result<()> {
    let bytes = record.encode();
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    let streams = stream.as_slice();
    if !streams.is_empty() {
        ancillary.push(SendAncillaryMessage::ScmRights(streams));
    }
    let mut sent = 0;
    while let Some(rest) = bytes.get(sent..).filter(|rest| !rest.is_empty()) {
        #[cfg(target_os = "linux")]
        let flags = SendFlags::NOSIGNAL;
        #[cfg(not(target_os = "linux"))]
        let flags = SendFlags::empty();
        match sendmsg(socket, &[IoSlice::new(rest)], &mut ancillary, flags) {
            // The stream went with the first byte.
            Ok(count) => {
                sent += count;
                ancillary.clear();
            }
            Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

/// Receives one record, with a stream if one came along. `None` at the end.
pub(super) fn receive(socket: &UnixStream) -> io::Result<Option<(Record, Option<UnixStream>)>> {
    let mut bytes = [0; LEN];
    let mut received = 0;
    let mut stream = None;
    while received < LEN {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut ancillary = RecvAncillaryBuffer::new(&mut space);
        let rest = bytes.get_mut(received..).unwrap_or_default();
        let result = recvmsg(
            socket.as_fd(),
            &mut [IoSliceMut::new(rest)],
            &mut ancillary,
            RecvFlags::empty(),
        );
        let count = match result {
            Ok(message) => message.bytes,
            Err(Errno::INTR) => continue,
            Err(error) => return Err(error.into()),
        };
        for message in ancillary.drain() {
            if let RecvAncillaryMessage::ScmRights(rights) = message {
                for fd in rights {
                    close_on_exec(&fd)?;
                    stream = Some(UnixStream::from(fd));
                }
            }
        }
        match (count, received) {
            (0, 0) => return Ok(None),
            (0, _) => return Err(io::ErrorKind::UnexpectedEof.into()),
            _ => received += count,
        }
    }
    match Record::decode(bytes) {
        Some(record) => Ok(Some((record, stream))),
        None => Err(io::Error::new(
            io::ErrorKind::InvalidData,
            "a record of an unknown kind",
        )),
    }
}

/// macOS has no flag that does this on arrival.
fn close_on_exec(fd: &OwnedFd) -> io::Result<()> {
    Ok(fcntl_setfd(fd, FdFlags::CLOEXEC)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};

    #[test]
    fn records_come_back() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let mut records = vec![
            Record::Ready,
            Record::Connect {
                ticket: 7,
                port: u32::MAX,
                millis: 20_000,
            },
        ];
        let outcomes = FAILURES.map(|(outcome, _)| outcome);
        records.extend(outcomes.map(|outcome| Record::Connected { ticket: 1, outcome }));
        for record in records {
            send(&ours, record, None).unwrap();
            let (back, stream) = receive(&theirs).unwrap().unwrap();
            assert_eq!(back, record);
            assert!(stream.is_none());
        }
        drop(ours);
        assert!(receive(&theirs).unwrap().is_none());
    }

    #[test]
    fn streams_travel_along() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let (mut near, far) = UnixStream::pair().unwrap();
        send(&ours, Record::Ready, Some(far.as_fd())).unwrap();
        drop(far);
        let (_, stream) = receive(&theirs).unwrap().unwrap();
        stream.unwrap().write_all(b"hello").unwrap();
        let mut text = String::new();
        near.read_to_string(&mut text).unwrap();
        assert_eq!(text, "hello");
    }

    #[test]
    fn nonsense_is_an_error() {
        let (mut ours, theirs) = UnixStream::pair().unwrap();
        ours.write_all(&[0xff; LEN]).unwrap();
        assert!(receive(&theirs).is_err());
        ours.write_all(&[1; LEN - 1]).unwrap();
        drop(ours);
        assert!(receive(&theirs).is_err());
    }
}
