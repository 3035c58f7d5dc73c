//! Frames over an asynchronous byte stream.
//!
//! [`FrameReader`] and [`FrameWriter`] keep a frame that is half done in themselves, so that every
//! method may be cancelled (dropped in a `select!`) at any await point and called again later
//! without losing or repeating a byte.
//!
//! The peer's bytes are not trusted: a length is checked before its frame is allocated, and a
//! buffer never exceeds one frame.

use ringfence_protocol::frame::{self, FrameError, HEADER};
use serde::{Serialize, de::DeserializeOwned};
use std::io;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

/// What a reader or writer keeps of its buffer between two frames.
const KEEP: usize = 128 << 10;
/// How much is read at once of what is forgotten.
const DRAIN: usize = 4 << 10;

/// Why no frame came.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The peer sent something that is no frame.
    #[error(transparent)]
    Frame(#[from] FrameError),
    /// The stream ended within a frame.
    #[error("the connection ended after {got} of a frame's {want} bytes")]
    Truncated {
        /// Bytes that came, header included.
        got: usize,
        /// Bytes that the frame has as far as known, header included.
        want: usize,
    },
    /// The stream failed.
    #[error("cannot read from the connection")]
    Io(#[from] io::Error),
}

/// Why a frame was not sent.
#[derive(Debug, thiserror::Error)]
pub enum WriteError {
    /// The message does not fit a frame.
    #[error(transparent)]
    Frame(#[from] FrameError),
    /// The stream failed.
    #[error("cannot write to the connection")]
    Io(#[from] io::Error),
}

/// Reads frames.
#[derive(Debug)]
pub struct FrameReader<R> {
    stream: R,
    /// The header, then the body, as far as they came.
    frame: Vec<u8>,
}

impl<R: AsyncRead + Unpin> FrameReader<R> {
    /// Reads from `stream`.
    pub const fn new(stream: R) -> Self {
        Self {
            stream,
            frame: Vec::new(),
        }
    }

    /// The next message, or `None` when the stream ended between two frames. May be cancelled.
    ///
    /// # Errors
    /// [`ReadError`]. After one the stream has no known frame border: close it.
    pub async fn read<T: DeserializeOwned>(&mut self) -> Result<Option<T>, ReadError> {
        if !self.fill(HEADER).await? {
            return Ok(None);
        }
        let header = self.frame.first_chunk().ok_or(FrameError::Empty)?;
        let want = frame::body_len(*header)?.saturating_add(HEADER);
        self.fill(want).await?;
        let message = frame::decode(self.frame.get(HEADER..).unwrap_or_default())?;
        self.frame.clear();
        self.frame.shrink_to(KEEP);
        Ok(Some(message))
    }

    /// Reads until `want` bytes are there. False when the stream ended before the first one.
    async fn fill(&mut self, want: usize) -> Result<bool, ReadError> {
        loop {
            let got = self.frame.len();
            let missing = want.saturating_sub(got);
            if missing == 0 {
                return Ok(true);
            }
            self.frame.reserve(missing);
            let limit = u64::try_from(missing).unwrap_or(u64::MAX);
            // `take` keeps a read from running into the next frame; `read_buf` does not zero.
            if (&mut self.stream)
                .take(limit)
                .read_buf(&mut self.frame)
                .await?
                == 0
            {
                if got == 0 {
                    return Ok(false);
                }
                return Err(ReadError::Truncated { got, want });
            }
        }
    }

    /// Reads and forgets whatever comes until the stream ends or fails. May be cancelled.
    pub async fn drain(&mut self) {
        loop {
            self.frame.clear();
            self.frame.reserve(DRAIN);
            match self.stream.read_buf(&mut self.frame).await {
                Ok(0) | Err(_) => return,
                Ok(_) => {}
            }
        }
    }
}

/// Writes frames.
#[derive(Debug)]
pub struct FrameWriter<W> {
    stream: W,
    frame: Vec<u8>,
    /// How much of `frame` was written.
    written: usize,
}

impl<W: AsyncWrite + Unpin> FrameWriter<W> {
    /// Writes to `stream`.
    pub const fn new(stream: W) -> Self {
        Self {
            stream,
            frame: Vec::new(),
            written: 0,
        }
    }

    /// Sends a message. When it is cancelled the message was either not begun, or the next call
    /// sends the rest of it first.
    ///
    /// # Errors
    /// [`WriteError`]. After [`WriteError::Frame`] the connection is still in order.
    pub async fn send<T: Serialize>(&mut self, message: &T) -> Result<(), WriteError> {
        self.finish().await?;
        frame::encode_into(message, &mut self.frame)?;
        self.finish().await?;
        Ok(())
    }

    /// Sends the rest of a frame that was begun. May be cancelled.
    async fn finish(&mut self) -> io::Result<()> {
        while let Some(rest) = self
            .frame
            .get(self.written..)
            .filter(|rest| !rest.is_empty())
        {
            let written = self.stream.write(rest).await?;
            if written == 0 {
                return Err(io::ErrorKind::WriteZero.into());
            }
            self.written = self.written.saturating_add(written);
        }
        self.frame.clear();
        self.frame.shrink_to(KEEP);
        self.written = 0;
        Ok(())
    }

    /// Tells the peer that nothing more comes.
    ///
    /// # Errors
    /// The stream's own.
    pub async fn shutdown(&mut self) -> io::Result<()> {
        self.stream.shutdown().await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ringfence_protocol::{ByteBuf, FromAgent, Hello, ToAgent, frame::MAX_FRAME};
    use tokio::io::{DuplexStream, duplex};

    fn run<T>(test: impl Future<Output = T>) -> T {
        tokio::runtime::Builder::new_current_thread()
            .build()
            .unwrap()
            .block_on(test)
    }

    fn pair(capacity: usize) -> (FrameWriter<DuplexStream>, FrameReader<DuplexStream>) {
        let (writer, reader) = duplex(capacity);
        (FrameWriter::new(writer), FrameReader::new(reader))
    }

    #[test]
    fn messages_arrive_whole_and_in_order_through_a_narrow_stream() {
        run(async {
            let (mut writer, mut reader) = pair(7);
            let message =
                |n: usize| ToAgent::Stdin(ByteBuf::from([n.to_le_bytes()[0]].repeat(n * 100)));
            let sending = async {
                for n in 1..20 {
                    writer.send(&message(n)).await.unwrap();
                }
                drop(writer);
            };
            let receiving = async {
                for n in 1..20 {
                    assert_eq!(reader.read().await.unwrap(), Some(message(n)));
                }
                assert!(reader.read::<ToAgent>().await.unwrap().is_none());
            };
            tokio::join!(sending, receiving);
        });
    }

    #[test]
    fn a_cancelled_read_goes_on_where_it_was() {
        run(async {
            let (mut stream, reader) = duplex(1 << 20);
            let mut reader = FrameReader::new(reader);
            let bytes = frame::encode(&Hello::ours()).unwrap();
            for byte in &bytes[..bytes.len() - 1] {
                stream.write_all(&[*byte]).await.unwrap();
                tokio::select! {
                    biased;
                    message = reader.read::<Hello>() => panic!("{message:?}"),
                    () = std::future::ready(()) => {}
                }
            }
            stream.write_all(&bytes[bytes.len() - 1..]).await.unwrap();
            assert_eq!(reader.read().await.unwrap(), Some(Hello::ours()));
        });
    }

    #[test]
    fn a_cancelled_write_is_completed_by_the_next() {
        run(async {
            let (mut writer, mut reader) = pair(10);
            let first = FromAgent::Stdout(ByteBuf::from(vec![1; 100]));
            tokio::select! {
                biased;
                sent = writer.send(&first) => panic!("{sent:?}"),
                () = std::future::ready(()) => {}
            }
            let second = async { writer.send(&FromAgent::Started).await.unwrap() };
            let both = async {
                assert_eq!(reader.read().await.unwrap(), Some(first.clone()));
                assert_eq!(reader.read().await.unwrap(), Some(FromAgent::Started));
            };
            tokio::join!(second, both);
        });
    }

    #[test]
    fn hostile_lengths_are_refused_before_allocation() {
        for length in [u32::MAX, 0, u32::try_from(MAX_FRAME).unwrap() + 1] {
            run(async {
                let (mut stream, reader) = duplex(64);
                let mut reader = FrameReader::new(reader);
                stream.write_all(&length.to_le_bytes()).await.unwrap();
                let error = reader.read::<ToAgent>().await.unwrap_err();
                assert!(matches!(error, ReadError::Frame(_)), "{error}");
                assert!(reader.frame.capacity() <= 64);
            });
        }
    }

    #[test]
    fn an_end_within_a_frame_is_named() {
        run(async {
            let (mut stream, reader) = duplex(64);
            let mut reader = FrameReader::new(reader);
            stream.write_all(&[100, 0, 0, 0, 1, 2]).await.unwrap();
            drop(stream);
            let error = reader.read::<ToAgent>().await.unwrap_err();
            assert!(
                matches!(error, ReadError::Truncated { got: 6, want: 104 }),
                "{error}"
            );
        });
    }
}
