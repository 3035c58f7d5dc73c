//! Receives the files of a request.
//!
//! What a file claims to be is bounded by the workspace's limit before its first byte is taken, and
//! memory grows with what came, not with what was claimed. Small files stay in vectors, large ones
//! go to nameless files in memory: few descriptors, and no name that could be left behind.

use super::failure::End;
use crate::frame_io::FrameReader;
use ringfence_protocol::{FileEntry, ToAgent, chain};
use ringfence_sandbox::{Content, InputFile, WorkspacePath};
use rustix::fs::{Mode, OFlags};
use std::fs::File;
use std::io::{self, Seek, SeekFrom, Write};
use std::path::Path;
use tokio::io::AsyncRead;

/// Files of one request.
const MAX_FILES: usize = 16 << 10;

/// Bytes of all files where the request sets no limit of its own.
const MAX_TOTAL: u64 = 1 << 30;

/// Files up to this size stay in vectors.
const SMALL: u64 = 1 << 20;

/// Checks the files of a request and receives what the request itself did not hold.
pub(super) async fn receive<R: AsyncRead + Unpin>(
    reader: &mut FrameReader<R>,
    entries: Vec<FileEntry>,
    limit: Option<u64>,
    spool: &Path,
) -> Result<Vec<InputFile>, End> {
    check_total(&entries, limit)?;
    let mut files = Vec::with_capacity(entries.len());
    // Bytes of the last frame that belong to the next file.
    let mut rest: Vec<u8> = Vec::new();
    for entry in entries {
        let mut file = Incoming::new(entry, spool)?;
        while file.missing > 0 {
            if rest.is_empty() {
                rest = file_data(reader).await?;
            }
            rest = file.take(rest)?;
        }
        files.push(file.finish()?);
    }
    if rest.is_empty() {
        return Ok(files);
    }
    Err(End::invalid(format!(
        "{} bytes of file data belong to no file",
        rest.len()
    )))
}

fn check_total(entries: &[FileEntry], limit: Option<u64>) -> Result<(), End> {
    if entries.len() > MAX_FILES {
        let count = entries.len();
        return Err(End::invalid(format!(
            "{count} files are more than the {MAX_FILES} of one request; send an archive"
        )));
    }
    let limit = limit.unwrap_or(MAX_TOTAL);
    let total = entries
        .iter()
        .fold(0_u64, |total, entry| total.saturating_add(entry.size));
    if total > limit {
        return Err(End::invalid(format!(
            "the files have {total} bytes, the workspace may have {limit}; raise its limit"
        )));
    }
    Ok(())
}

async fn file_data<R: AsyncRead + Unpin>(reader: &mut FrameReader<R>) -> Result<Vec<u8>, End> {
    match reader.read().await?.ok_or(End::Gone)? {
        ToAgent::FileData(data) if !data.is_empty() => Ok(data.into_vec()),
        ToAgent::FileData(_) => Err(End::invalid("a message of file data has no bytes")),
        _ => Err(End::invalid(
            "another message came before the files were complete",
        )),
    }
}

/// A file that is being received.
struct Incoming {
    path: WorkspacePath,
    mode: u32,
    missing: u64,
    content: Content,
}

impl Incoming {
    fn new(entry: FileEntry, spool: &Path) -> Result<Self, End> {
        let path = WorkspacePath::parse(&entry.path)
            .map_err(|error| End::invalid(format!("a file's path is refused: {error}")))?;
        let held = u64::try_from(entry.content.len()).unwrap_or(u64::MAX);
        let missing = entry.size.checked_sub(held).ok_or_else(|| {
            let size = entry.size;
            End::invalid(format!("a file of {size} bytes came with {held}"))
        })?;
        let content = if entry.size <= SMALL {
            Content::Bytes(entry.content.into_vec())
        } else {
            let mut file = nameless(spool)?;
            file.write_all(&entry.content).map_err(cannot_store)?;
            Content::File(file)
        };
        Ok(Self {
            path,
            mode: entry.mode,
            missing,
            content,
        })
    }

    /// Takes what is missing of `data` and gives back what is left of it.
    fn take(&mut self, mut data: Vec<u8>) -> Result<Vec<u8>, End> {
        let missing = usize::try_from(self.missing).unwrap_or(usize::MAX);
        let rest = data.split_off(missing.min(data.len()));
        match &mut self.content {
            Content::Bytes(bytes) => bytes.extend_from_slice(&data),
            Content::File(file) => file.write_all(&data).map_err(cannot_store)?,
        }
        let taken = u64::try_from(data.len()).unwrap_or(u64::MAX);
        self.missing = self.missing.saturating_sub(taken);
        Ok(rest)
    }

    fn finish(mut self) -> Result<InputFile, End> {
        if let Content::File(file) = &mut self.content {
            file.seek(SeekFrom::Start(0)).map_err(cannot_store)?;
        }
        Ok(InputFile {
            path: self.path,
            mode: self.mode,
            content: self.content,
        })
    }
}

fn nameless(spool: &Path) -> Result<File, End> {
    let flags = OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC;
    let file = rustix::fs::open(spool, flags, Mode::RUSR | Mode::WUSR)
        .map_err(|error| cannot_store(error.into()))?;
    Ok(file.into())
}

fn cannot_store(error: io::Error) -> End {
    End::internal(format!("cannot store a received file: {}", chain(&error)))
}
