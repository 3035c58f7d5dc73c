//! Files of the workspace for the caller.

use crate::collect::{Breach, Collecting};
use crate::error::chain;
use ringfence_protocol::CHUNK;
use ringfence_sandbox::{Finished, Patterns};
use std::io::Read as _;

/// Copies what matches from the workspace, in which nobody writes any more.
pub(super) fn copy(
    finished: &Finished,
    collecting: &Collecting,
    patterns: &Patterns,
    limit: Option<u64>,
) -> Result<(), String> {
    let broken = |Breach(what)| format!("the sandbox found {what}");
    let found = finished.collect(patterns, limit);
    let Some(found) = found.map_err(|error| chain(&error))? else {
        return Ok(());
    };
    for (path, why) in &found.skipped {
        collecting.skipped(path.as_bytes(), *why).map_err(broken)?;
    }
    let mut chunk = vec![0; CHUNK];
    for file in &found.files {
        let path = file.path.as_os_str();
        let opened = found.open(file).map_err(|error| chain(&error))?;
        collecting
            .begin(file.path.as_bytes(), file.mode, file.size)
            .map_err(broken)?;
        let mut content = opened.take(file.size);
        loop {
            let read = content.read(&mut chunk);
            let read = read.map_err(|error| format!("cannot read {path:?}: {error}"))?;
            let Some(bytes) = chunk.get(..read).filter(|bytes| !bytes.is_empty()) else {
                break;
            };
            collecting.data(bytes).map_err(broken)?;
        }
        if content.limit() > 0 {
            return Err(format!("{path:?} lost {} bytes", content.limit()));
        }
    }
    Ok(())
}
