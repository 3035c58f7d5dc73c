//! Finds the files that the host wants back, and sends them.
//!
//! The program chose names, kinds, sizes and depth of everything in its workspace, and is dead by
//! now. Paths are resolved below the workspace only, without links; only regular files are taken,
//! whatever else matches is passed over. The number of entries looked at, the files and their bytes
//! are bounded, and what exceeds a bound is named: a list with something missing would be mistaken
//! for the whole.

use super::failure::End;
use super::output::Outbox;
use ringfence_protocol::{ByteBuf, CHUNK, FromAgent, Report};
use ringfence_sandbox::Finished;
use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, ResolveFlags};
use std::fs::File;
use std::io::Read;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use tokio::io::AsyncWrite;
use tokio::sync::mpsc;

/// Patterns of one request, and bytes of each.
const MAX_PATTERNS: usize = 256;
const MAX_PATTERN: usize = 1024;

/// Entries of the workspace that are looked at.
const MAX_ENTRIES: usize = 100_000;
/// Files that are sent.
const MAX_FILES: usize = 4096;
/// Bytes that are sent where the workspace has no smaller limit.
const MAX_TOTAL: u64 = 4 << 30;
/// How deep directories are followed, and bytes of a path; the host accepts no more.
const MAX_DEPTH: usize = 64;
const MAX_PATH: usize = 2048;

/// What is to be collected.
#[derive(Debug)]
pub(super) struct Patterns(Vec<String>);

impl Patterns {
    /// Checks the patterns.
    pub(super) fn new(patterns: Vec<String>) -> Result<Self, End> {
        if patterns.len() > MAX_PATTERNS {
            let count = patterns.len();
            return Err(End::invalid(format!(
                "{count} patterns are more than {MAX_PATTERNS}"
            )));
        }
        for pattern in &patterns {
            if pattern.len() > MAX_PATTERN {
                let len = pattern.len();
                return Err(End::invalid(format!(
                    "a pattern of {len} bytes is longer than {MAX_PATTERN}"
                )));
            }
            fast_glob::validate(pattern)
                .map_err(|error| End::invalid(format!("the pattern {pattern:?}: {error}")))?;
        }
        Ok(Self(patterns))
    }

    /// Whether nothing is to be collected.
    pub(super) const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    fn matches(&self, path: &[u8]) -> bool {
        self.0
            .iter()
            .any(|pattern| fast_glob::glob_match(pattern, path))
    }
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
        let limit = limit.unwrap_or(MAX_TOTAL).min(MAX_TOTAL);
        if let Some(workspace) = &finished.workspace {
            collect(workspace.as_fd(), &patterns, limit, &mut |message| {
                sender
                    .blocking_send(message)
                    .map_err(|_nobody_listens| End::Gone)
            })?;
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

/// Gives every matching file to `emit`, message by message.
fn collect(
    workspace: BorrowedFd<'_>,
    patterns: &Patterns,
    limit: u64,
    emit: &mut dyn FnMut(FromAgent) -> Result<(), End>,
) -> Result<(), End> {
    let mut walk = Walk {
        patterns,
        entries: 0,
        found: Vec::new(),
    };
    let top = open(workspace, b".", OFlags::DIRECTORY).map_err(|error| unreadable(b".", &error))?;
    walk.directory(top, &mut Vec::new(), 0)?;
    let mut paths = walk.found;
    paths.sort_unstable();
    let mut left = limit;
    for path in paths {
        let file =
            open(workspace, &path, OFlags::NONBLOCK).map_err(|error| unreadable(&path, &error))?;
        let stat = rustix::fs::fstat(&file).map_err(|error| unreadable(&path, &error))?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
            continue;
        }
        let size = u64::try_from(stat.st_size).unwrap_or(u64::MAX);
        left = left.checked_sub(size).ok_or_else(|| {
            End::invalid(format!(
                "{} has {size} bytes, with which the collected files exceed {limit}; \
                 raise the workspace's limit or collect less",
                shown(&path)
            ))
        })?;
        let mode = stat.st_mode & 0o777;
        emit(FromAgent::File {
            path: ByteBuf::from(path.clone()),
            mode,
            size,
        })?;
        content(File::from(file), &path, size, emit)?;
    }
    Ok(())
}

fn content(
    file: File,
    path: &[u8],
    size: u64,
    emit: &mut dyn FnMut(FromAgent) -> Result<(), End>,
) -> Result<(), End> {
    let chunk = u64::try_from(CHUNK).unwrap_or(u64::MAX);
    let mut left = size;
    while left > 0 {
        let mut data = Vec::new();
        let read = (&file).take(left.min(chunk)).read_to_end(&mut data);
        read.map_err(|error| unreadable(path, &error))?;
        left = left.saturating_sub(u64::try_from(data.len()).unwrap_or(u64::MAX));
        if data.is_empty() {
            return Err(End::internal(format!("{} lost {left} bytes", shown(path))));
        }
        emit(FromAgent::FileData(ByteBuf::from(data)))?;
    }
    Ok(())
}

/// The search for matching files.
struct Walk<'a> {
    patterns: &'a Patterns,
    entries: usize,
    found: Vec<Vec<u8>>,
}

impl Walk<'_> {
    /// Looks at a directory and what is below. `path` is its path, and the same again afterwards.
    fn directory(&mut self, fd: OwnedFd, path: &mut Vec<u8>, depth: usize) -> Result<(), End> {
        let entries = Dir::read_from(&fd).map_err(|error| unreadable(path, &error))?;
        for entry in entries {
            let entry = entry.map_err(|error| unreadable(path, &error))?;
            let name = entry.file_name().to_bytes();
            if name == b"." || name == b".." {
                continue;
            }
            self.entries = self.entries.saturating_add(1);
            if self.entries > MAX_ENTRIES {
                return Err(End::invalid(format!(
                    "the workspace has more than {MAX_ENTRIES} entries; nothing is collected"
                )));
            }
            let end = path.len();
            if end > 0 {
                path.push(b'/');
            }
            path.extend_from_slice(name);
            let kind = kind(fd.as_fd(), name, entry.file_type());
            let looked = self.entry(fd.as_fd(), name, kind, path, depth);
            path.truncate(end);
            looked?;
        }
        Ok(())
    }

    fn entry(
        &mut self,
        parent: BorrowedFd<'_>,
        name: &[u8],
        kind: FileType,
        path: &mut Vec<u8>,
        depth: usize,
    ) -> Result<(), End> {
        match kind {
            FileType::Directory if depth.saturating_add(1) < MAX_DEPTH => {
                let child = open(parent, name, OFlags::DIRECTORY)
                    .map_err(|error| unreadable(path, &error))?;
                self.directory(child, path, depth.saturating_add(1))
            }
            FileType::RegularFile if self.patterns.matches(path) => {
                if path.len() > MAX_PATH || self.found.len() >= MAX_FILES {
                    return Err(End::invalid(format!(
                        "more than {MAX_FILES} files match, or a path is longer than {MAX_PATH} \
                         bytes; collect less"
                    )));
                }
                self.found.push(path.clone());
                Ok(())
            }
            // Deeper than any host accepts, or no regular file.
            _ => Ok(()),
        }
    }
}

/// What an entry is. Some file systems do not say so in the directory.
fn kind(parent: BorrowedFd<'_>, name: &[u8], kind: FileType) -> FileType {
    if kind != FileType::Unknown {
        return kind;
    }
    rustix::fs::statat(parent, name, AtFlags::SYMLINK_NOFOLLOW).map_or(FileType::Unknown, |stat| {
        FileType::from_raw_mode(stat.st_mode)
    })
}

/// Opens for reading what is below a directory, without following anything.
fn open(parent: BorrowedFd<'_>, path: &[u8], flags: OFlags) -> rustix::io::Result<OwnedFd> {
    rustix::fs::openat2(
        parent,
        path,
        flags | OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NOCTTY,
        Mode::empty(),
        ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS | ResolveFlags::NO_SYMLINKS,
    )
}

fn unreadable(path: &[u8], error: &dyn std::fmt::Display) -> End {
    End::internal(format!("cannot collect {}: {error}", shown(path)))
}

/// A path for people, not longer than a line.
fn shown(path: &[u8]) -> String {
    let text: String = String::from_utf8_lossy(path).chars().take(200).collect();
    format!("{text:?}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::{PermissionsExt, symlink};
    use std::path::Path;

    fn patterns(all: &[&str]) -> Patterns {
        Patterns::new(all.iter().map(|&one| one.into()).collect()).unwrap()
    }

    /// What is collected: path, mode and bytes of each file; or the failure's message.
    fn collected(
        directory: &Path,
        patterns: &Patterns,
        limit: u64,
    ) -> Result<Vec<(String, u32, Vec<u8>)>, String> {
        let workspace = rustix::fs::open(directory, OFlags::PATH, Mode::empty()).unwrap();
        let mut files: Vec<(String, u32, Vec<u8>)> = Vec::new();
        let ended = collect(workspace.as_fd(), patterns, limit, &mut |message| {
            match message {
                FromAgent::File { path, mode, .. } => {
                    let path = String::from_utf8(path.into_vec()).unwrap();
                    files.push((path, mode, Vec::new()));
                }
                FromAgent::FileData(data) => files.last_mut().unwrap().2.extend_from_slice(&data),
                other => panic!("{other:?}"),
            }
            Ok(())
        });
        match ended {
            Ok(()) => Ok(files),
            Err(End::Failed(failure)) => Err(failure.message),
            Err(End::Gone) => panic!("nobody went away"),
        }
    }

    #[test]
    fn regular_files_come_in_order_and_everything_else_is_passed_over() {
        let dir = tempfile::tempdir().unwrap();
        let big = vec![7; CHUNK * 2 + 1];
        fs::create_dir_all(dir.path().join("out/deep")).unwrap();
        fs::write(dir.path().join("out/deep/b.txt"), &big).unwrap();
        fs::write(dir.path().join("out/a.txt"), b"").unwrap();
        fs::write(dir.path().join("other"), b"x").unwrap();
        let mode = fs::Permissions::from_mode(0o640);
        fs::set_permissions(dir.path().join("out/a.txt"), mode).unwrap();
        symlink("/etc/passwd", dir.path().join("out/link.txt")).unwrap();
        symlink("/etc", dir.path().join("out/etc.txt")).unwrap();
        let fifo = dir.path().join("out/fifo.txt");
        rustix::fs::mkfifoat(rustix::fs::CWD, &fifo, Mode::RWXU).unwrap();
        let files = collected(dir.path(), &patterns(&["out/**/*.txt"]), 1 << 20).unwrap();
        assert_eq!(files.len(), 2);
        assert_eq!(files[0], ("out/a.txt".into(), 0o640, Vec::new()));
        assert_eq!((files[1].0.as_str(), &files[1].2), ("out/deep/b.txt", &big));
    }

    #[test]
    fn a_sparse_giant_is_refused_by_name() {
        let dir = tempfile::tempdir().unwrap();
        let giant = File::create(dir.path().join("giant")).unwrap();
        giant.set_len(1 << 40).unwrap();
        let message = collected(dir.path(), &patterns(&["*"]), 1 << 20).unwrap_err();
        assert!(
            message.contains("\"giant\" has 1099511627776 bytes"),
            "{message}"
        );
    }

    #[test]
    fn too_many_files_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        for number in 0..=MAX_FILES {
            fs::write(dir.path().join(number.to_string()), b"").unwrap();
        }
        let message = collected(dir.path(), &patterns(&["*"]), 1 << 20).unwrap_err();
        assert!(message.contains("more than 4096 files"), "{message}");
    }

    #[test]
    fn patterns_are_checked() {
        for bad in ["a[", "{a", "a\\"] {
            assert!(Patterns::new(vec![bad.into()]).is_err(), "{bad}");
        }
        assert!(Patterns::new(vec!["x".repeat(MAX_PATTERN + 1)]).is_err());
        assert!(Patterns::new(vec![String::new(); MAX_PATTERNS + 1]).is_err());
    }
}
