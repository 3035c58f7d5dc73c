//! What the lab's PID 1 and the developer's machine say to each other.
//!
//! The job comes with the initramfs, as the file [`JOB`]. Everything that happens then comes out of
//! one virtio-serial port of the name [`PORT`], as frames: a little-endian `u32` of length, then
//! one [`Message`] in postcard. One port for everything keeps the order: who has read
//! [`Message::Ended`] has read all that the program printed.
//!
//! Both sides are this repository's. Lengths are checked so that a broken machine ends with an
//! error; nothing here defends against a hostile one.

use serde::{Deserialize, Serialize, de::DeserializeOwned};
use std::io::{self, Read, Write};
use std::time::Duration;

/// The port's name.
pub const PORT: &str = "ringfence.lab";

/// Where the job is in the initramfs.
pub const JOB: &str = "lab/job";

/// Folder of the initramfs whose parts become folders of the lab's root, each of a name of
/// [`PLACES`].
pub const PLACED: &str = "lab/places";

/// Folder of the initramfs with the files that are copied, each of the name that [`Copied`] says.
pub const STAGED: &str = "lab/staged";

/// Folders of the lab that are in memory and hold files without a copy, with their modes.
pub const PLACES: [(&str, u16); 4] = [
    ("image", 0o755),
    ("lab", 0o755),
    ("run", 0o755),
    ("tmp", 0o1777),
];

/// Where the tools are in the lab, and a part of the root they are too.
pub const TOOLS: &str = "/tools";

/// The lab's ordinary user: name, and number of user and group.
pub const USER: (&str, u32) = ("user", 2000);

/// Most bytes of a frame's message.
pub const MOST: usize = 1 << 20;

/// What the lab is to run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Job {
    /// The program: a path of the lab, or a name to be found on its `PATH`.
    pub program: String,
    /// Its arguments.
    pub args: Vec<String>,
    /// Added to its environment.
    pub env: Vec<(String, String)>,
    /// Whether it runs as [`USER`] instead of root.
    pub ordinary_user: bool,
    /// Whether there is a second disk, with tools.
    pub tools: bool,
    /// Files to be copied before.
    pub files: Vec<Copied>,
}

/// A file that is copied to its place.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Copied {
    /// Its name in [`STAGED`].
    pub staged: String,
    /// Its path in the lab.
    pub path: String,
}

/// What comes out of the lab.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Message {
    /// PID 1 runs and has opened the port. Time since the kernel's start.
    Init(Duration),
    /// The program has been started. Time since the kernel's start.
    Started(Duration),
    /// The program printed to its standard output.
    Stdout(#[serde(with = "serde_bytes")] Vec<u8>),
    /// The program printed to its standard error.
    Stderr(#[serde(with = "serde_bytes")] Vec<u8>),
    /// The program has ended, and nothing follows.
    Ended(Ended),
    /// The program could not be started, and nothing follows.
    Failed(String),
}

/// How the program ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Ended {
    /// With this exit status.
    Exited(u8),
    /// By this signal.
    Signaled(u8),
}

impl Ended {
    /// The status as a shell has it: that of the program, or 128 and the signal.
    #[must_use]
    pub const fn code(self) -> u8 {
        match self {
            Self::Exited(code) => code,
            Self::Signaled(signal) => signal.saturating_add(128),
        }
    }
}

/// What was read is no message.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FrameError {
    /// The frame is too long.
    #[error("a frame of {0} bytes, of which {MOST} are allowed")]
    TooLong(usize),
    /// The bytes are not those of a message.
    #[error("{0} bytes that are no message of this version")]
    Malformed(usize),
}

impl From<FrameError> for io::Error {
    fn from(error: FrameError) -> Self {
        Self::new(io::ErrorKind::InvalidData, error)
    }
}

/// The bytes of a value.
///
/// # Errors
/// When the value is too large.
pub fn encode(value: &impl Serialize) -> io::Result<Vec<u8>> {
    postcard::to_allocvec(value).map_err(io::Error::other)
}

/// A value from its bytes.
///
/// # Errors
/// [`FrameError::Malformed`] when they are of anything else.
pub fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, FrameError> {
    match postcard::take_from_bytes(bytes) {
        Ok((value, [])) => Ok(value),
        _ => Err(FrameError::Malformed(bytes.len())),
    }
}

/// Writes one message.
///
/// # Errors
/// Those of the writer, and [`FrameError::TooLong`].
pub fn send(mut to: impl Write, message: &Message) -> io::Result<()> {
    let bytes = encode(message)?;
    let length = u32::try_from(bytes.len())
        .ok()
        .filter(|_| bytes.len() <= MOST)
        .ok_or(FrameError::TooLong(bytes.len()))?;
    // One write: the port makes one request of it.
    let frame = [&length.to_le_bytes()[..], &bytes].concat();
    to.write_all(&frame)
}

/// Reads one message; `None` at the end of the stream.
///
/// # Errors
/// Those of the reader, `UnexpectedEof` in the middle of a message, and [`FrameError`].
pub fn receive(mut from: impl Read) -> io::Result<Option<Message>> {
    let mut length = [0; 4];
    match from.read(&mut length[..1]) {
        Ok(0) => return Ok(None),
        Ok(_) => from.read_exact(&mut length[1..])?,
        Err(error) => return Err(error),
    }
    let length = usize::try_from(u32::from_le_bytes(length)).unwrap_or(usize::MAX);
    if length > MOST {
        return Err(FrameError::TooLong(length).into());
    }
    let mut bytes = vec![0; length];
    from.read_exact(&mut bytes)?;
    Ok(Some(decode(&bytes)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn messages() -> Vec<Message> {
        vec![
            Message::Init(Duration::from_micros(1_234_567)),
            Message::Stdout(vec![0, 255, b'\n']),
            Message::Stderr(vec![7; 64 << 10]),
            Message::Failed("no".into()),
            Message::Ended(Ended::Exited(3)),
        ]
    }

    #[test]
    fn messages_come_as_they_were_sent() {
        let mut stream = Vec::new();
        for message in &messages() {
            send(&mut stream, message).unwrap();
        }
        let mut rest = &stream[..];
        for message in messages() {
            assert_eq!(receive(&mut rest).unwrap(), Some(message));
        }
        assert_eq!(receive(&mut rest).unwrap(), None);
    }

    #[test]
    fn broken_streams_are_errors() {
        let kind = |bytes: &[u8]| receive(bytes).unwrap_err().kind();
        let mut frame = Vec::new();
        send(&mut frame, &Message::Ended(Ended::Signaled(9))).unwrap();
        for end in 1..frame.len() {
            assert_eq!(kind(&frame[..end]), io::ErrorKind::UnexpectedEof, "{end}");
        }
        assert_eq!(kind(&[255; 8]), io::ErrorKind::InvalidData);
        assert_eq!(kind(&[1, 0, 0, 0, 99]), io::ErrorKind::InvalidData);
        // A message and one byte more.
        assert_eq!(kind(&[4, 0, 0, 0, 4, 0, 0, 0]), io::ErrorKind::InvalidData);
        let long = Message::Stdout(vec![0; MOST]);
        assert_eq!(
            send(io::sink(), &long).unwrap_err().kind(),
            io::ErrorKind::InvalidData
        );
    }

    #[test]
    fn statuses_are_those_of_a_shell() {
        assert_eq!(Ended::Exited(3).code(), 3);
        assert_eq!(Ended::Signaled(9).code(), 137);
        assert_eq!(Ended::Signaled(200).code(), 255);
    }
}
