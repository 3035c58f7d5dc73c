//! Sends the files that the host wants back.
//!
//! The program chose names, kinds, sizes and depth of everything in its workspace, and is dead by
//! now. What may be read of it is the sandbox's judgement ([`Finished::collect`]); here it becomes
//! messages. Should there be too much of anything, the host learns that beside the report.

use super::failure::End;
use super::output::Outbox;
use ringfence_protocol::{ByteBuf, CHUNK, FromAgent, Report, chain};
use ringfence_sandbox::{Collection, Finished, Found, Patterns};
use std::io::Read;
use tokio::io::AsyncWrite;
use tokio::sync::mpsc;

/// Checks the patterns of a request.
pub(super) fn patterns(patterns: Vec<String>) -> Result<Patterns, End> {
    Patterns::new(patterns).map_err(|error| End::invalid(chain(&error)))
}

/// Sends every file of the workspace that a pattern matches, in the order of their paths, and lets
/// the workspace go. Returns the report.
pub(super) async fn send<W: AsyncWrite + Unpin>(
    finished: Finished,
    patterns: Patterns,
    limit: Option<u64>,
    outbox: &Outbox<'_, W>,
) -> Result<Report, End> {
    let (sender, mut receiver) = mpsc::channel(1);
    let reading = tokio::task::spawn_blocking(move || {
        let emit = &mut |message| {
            sender
                .blocking_send(message)
                .map_err(|_nobody_listens| Stop::Gone)
        };
        match messages(&finished, &patterns, limit, emit) {
            Ok(()) => {}
            Err(Stop::Gone) => return Err(End::Gone),
            Err(Stop::Failed(why)) => {
                emit(FromAgent::CollectFailed(why)).map_err(|_gone| End::Gone)?;
            }
        }
        Ok(finished.report)
    });
    while let Some(message) = receiver.recv().await {
        outbox.send(&message).await?;
    }
    reading
        .await
        .map_err(|error| End::internal(error.to_string()))?
}

/// Why no more messages follow.
enum Stop {
    /// Nobody listens.
    Gone,
    /// For this reason, which the host is told.
    Failed(String),
}

/// Gives everything that matches to `emit`, message by message.
fn messages(
    finished: &Finished,
    patterns: &Patterns,
    limit: Option<u64>,
    emit: &mut dyn FnMut(FromAgent) -> Result<(), Stop>,
) -> Result<(), Stop> {
    let found = finished.collect(patterns, limit);
    let Some(found) = found.map_err(|error| Stop::Failed(chain(&error)))? else {
        return Ok(());
    };
    for (path, why) in &found.skipped {
        let path = ByteBuf::from(path.as_bytes().to_vec());
        emit(FromAgent::NotCollected { path, why: *why })?;
    }
    for file in &found.files {
        content(&found, file, emit)?;
    }
    Ok(())
}

fn content(
    found: &Collection<'_>,
    file: &Found,
    emit: &mut dyn FnMut(FromAgent) -> Result<(), Stop>,
) -> Result<(), Stop> {
    let opened = found.open(file);
    let opened = opened.map_err(|error| Stop::Failed(chain(&error)))?;
    emit(FromAgent::File {
        path: ByteBuf::from(file.path.as_bytes().to_vec()),
        mode: file.mode,
        size: file.size,
    })?;
    let chunk = u64::try_from(CHUNK).unwrap_or(u64::MAX);
    let mut left = file.size;
    while left > 0 {
        let mut data = Vec::new();
        let read = (&opened).take(left.min(chunk)).read_to_end(&mut data);
        let shown = String::from_utf8_lossy(file.path.as_bytes());
        if let Err(error) = read {
            return Err(Stop::Failed(format!("cannot read {shown:?}: {error}")));
        }
        if data.is_empty() {
            return Err(Stop::Failed(format!("{shown:?} lost {left} bytes")));
        }
        left = left.saturating_sub(u64::try_from(data.len()).unwrap_or(u64::MAX));
        emit(FromAgent::FileData(ByteBuf::from(data)))?;
    }
    Ok(())
}
