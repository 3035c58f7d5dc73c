//! One execution on one connection.
//!
//! ```text
//! host   Hello  Exec  FileData*   Stdin* Signal* Answer* Resize* StdinEnd
//! agent  Hello               Started  Stdout* Stderr* StdinTaken* Question*  Files  Exited
//!
//! Files = (NotCollected | File FileData*)* CollectFailed?
//! ```
//! or `Failed` in place of whatever would have come next. When the host closes the connection or
//! its sending half, the execution is killed.
//!
//! # Flow control
//! The connection is always read, so that a signal or the host's going is seen at once; that costs
//! no more than [`STDIN_WINDOW`](ringfence_protocol::STDIN_WINDOW) bytes of input that the program
//! has not taken. The program's output is read only when the previous frame of it was written: a
//! host that does not read stops the program, not the agent.
//!
//! The session is generic over its stream. Nothing in here knows of vsock.

mod collect;
mod failure;
mod files;
mod input;
mod output;
mod program;
mod questions;
mod stdin;
mod streams;

use crate::executions::Executions;
use crate::frame_io::{FrameReader, FrameWriter};
use crate::prewarmed::Prewarmed;
pub(crate) use failure::End;
pub(crate) use program::template;
use ringfence_protocol::{Exec, FromAgent, Hello, ToAgent};
use std::path::PathBuf;
use std::sync::Arc;
use tokio::io::{AsyncRead, AsyncWrite};

/// What all sessions share.
#[derive(Debug)]
pub struct Shared {
    /// The executions under way.
    pub executions: Arc<Executions>,
    /// The interpreters that wait for code.
    pub prewarmed: Arc<Prewarmed>,
    /// A directory, in memory, for nameless files that are being received.
    pub spool: PathBuf,
}

/// Serves one connection to its end.
pub async fn serve<R, W>(reader: R, writer: W, shared: &Shared)
where
    R: AsyncRead + Unpin + Send,
    W: AsyncWrite + Unpin + Send,
{
    let mut reader = FrameReader::new(reader);
    let mut writer = FrameWriter::new(writer);
    let ended = Box::pin(session(&mut reader, &mut writer, shared)).await;
    if let Err(End::Failed(failure)) = ended {
        let message = FromAgent::Failed(failure);
        // A host that neither reads nor goes away keeps nothing but its own connection.
        tokio::select! {
            biased;
            _sent_or_gone = writer.send(&message) => {}
            () = reader.drain() => {}
        }
    }
    let _gone = writer.shutdown().await;
}

async fn session<R, W>(
    reader: &mut FrameReader<R>,
    writer: &mut FrameWriter<W>,
    shared: &Shared,
) -> Result<(), End>
where
    R: AsyncRead + Unpin + Send,
    W: AsyncWrite + Unpin + Send,
{
    greet(reader, writer).await?;
    // Before the request is read, so that one that waits costs no memory.
    let slot = shared.executions.slot().await?;
    // Until the session is over: what it collects still takes memory when the program is dead.
    let _held = slot.hold();
    let exec = request(reader).await?;
    let files = files::receive(reader, exec.files, exec.limits.workspace, &shared.spool).await?;
    let request = Exec {
        files: Vec::new(),
        ..exec
    };
    let prewarmed = Arc::clone(&shared.prewarmed);
    Box::pin(program::run(
        reader, writer, request, files, slot, prewarmed,
    ))
    .await
}

/// Exchanges greetings.
///
/// # Errors
/// [`End`] when the peer is gone, or is not a host of this version.
pub(crate) async fn greet<R, W>(
    reader: &mut FrameReader<R>,
    writer: &mut FrameWriter<W>,
) -> Result<(), End>
where
    R: AsyncRead + Unpin,
    W: AsyncWrite + Unpin,
{
    writer.send(&Hello::ours()).await?;
    let theirs: Hello = reader.read().await?.ok_or(End::Gone)?;
    theirs
        .check()
        .map_err(|error| End::invalid(error.to_string()))?;
    Ok(())
}

async fn request<R: AsyncRead + Unpin>(reader: &mut FrameReader<R>) -> Result<Exec, End> {
    match reader.read().await?.ok_or(End::Gone)? {
        ToAgent::Exec(exec) => Ok(*exec),
        _ => Err(End::invalid(
            "the first message of an exec connection must be the request",
        )),
    }
}
