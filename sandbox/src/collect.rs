//! Finds what a caller wants back from a workspace.
//!
//! The program chose names, kinds, sizes and depth of everything in there, and is dead by now.
//! Paths are resolved below the workspace only, without links and without leaving its file system;
//! only regular files of the workspace's own owner are taken. What else matches is named with the
//! reason ([`Uncollected`]), and what exceeds a bound is an error before anything is read: a list
//! with something missing would be mistaken for the whole.
//!
//! The caller may be more powerful than the program: it reads nothing that the program's user may
//! not read.

#![cfg_attr(
    not(test),
    deny(
        clippy::indexing_slicing,
        clippy::arithmetic_side_effects,
        clippy::panic,
        clippy::unwrap_used,
        clippy::expect_used
    )
)]

use crate::{Finished, Uncollected, WorkspacePath};
use ringfence_protocol::{COLLECT_BYTES, COLLECT_FILES};
use rustix::fs::{Dir, FileType, Mode, OFlags, ResolveFlags, Stat};
use rustix::io::Errno;
use std::collections::BTreeSet;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// Patterns of one request, and bytes of each.
const MAX_PATTERNS: usize = 256;
const MAX_PATTERN: usize = 1024;

/// Entries of a workspace that are looked at.
const MAX_ENTRIES: usize = 100_000;
/// How deep directories are followed: as deep as a [`WorkspacePath`] goes.
const MAX_DEPTH: usize = 64;

/// Why nothing, or no more, can be collected.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CollectError {
    /// A pattern makes no sense.
    #[error("the pattern {pattern:?} {why}")]
    Pattern {
        /// The pattern, as far as it fits into a line.
        pattern: String,
        /// What is wrong with it.
        why: String,
    },
    /// There is more than may be collected.
    #[error("{what}; collect less")]
    TooMuch {
        /// Which bound, and what exceeds it.
        what: String,
    },
    /// Something of the workspace cannot be read.
    #[error("cannot read {path} in the workspace")]
    Unreadable {
        /// Its path, for people.
        path: String,
        /// The operating system's reason.
        #[source]
        source: io::Error,
    },
}

/// Which files of a workspace are wanted: those whose path matches one of these. `*` and `?` stop at
/// a slash, `**` does not; `[a-z]` and `{a,b}` are known, and a backslash takes a meaning away.
#[derive(Debug, Clone)]
pub struct Patterns(Vec<String>);

impl Patterns {
    /// Checks the patterns.
    ///
    /// # Errors
    /// [`CollectError::Pattern`], and [`CollectError::TooMuch`] for too many of them.
    pub fn new(patterns: Vec<String>) -> Result<Self, CollectError> {
        if patterns.len() > MAX_PATTERNS {
            let count = patterns.len();
            return Err(CollectError::TooMuch {
                what: format!("{count} patterns are more than {MAX_PATTERNS}"),
            });
        }
        for pattern in &patterns {
            if let Some(why) = problem(pattern) {
                let pattern = pattern.chars().take(80).collect();
                return Err(CollectError::Pattern { pattern, why });
            }
        }
        Ok(Self(patterns))
    }

    /// Whether nothing is wanted.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    fn matches(&self, path: &[u8]) -> bool {
        self.0
            .iter()
            .any(|pattern| fast_glob::glob_match(pattern, path))
    }
}

fn problem(pattern: &str) -> Option<String> {
    if pattern.len() > MAX_PATTERN {
        let len = pattern.len();
        return Some(format!("has {len} bytes, {MAX_PATTERN} are accepted"));
    }
    if pattern.is_empty() {
        return Some("matches nothing".into());
    }
    if pattern.starts_with('!') {
        return Some(
            "begins with \"!\", but patterns only add up; write \"\\!\" for a name".into(),
        );
    }
    let odd = |part: &str| matches!(part, "" | "." | "..");
    if pattern.split('/').any(odd) {
        return Some(
            "is not a plain path below the workspace, such as out/*.txt or dist/**".into(),
        );
    }
    let invalid = fast_glob::validate(pattern).err();
    invalid.map(|error| format!("is not valid: {error}"))
}

/// A file that is wanted and can be had.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// Where in the workspace.
    pub path: WorkspacePath,
    /// The permission bits.
    pub mode: u32,
    /// Bytes.
    pub size: u64,
}

/// What matched.
#[derive(Debug)]
pub struct Collection<'w> {
    workspace: BorrowedFd<'w>,
    /// The files, in the order of their paths.
    pub files: Vec<Found>,
    /// What matched, or may hide what would match, and is not collected.
    pub skipped: Vec<(WorkspacePath, Uncollected)>,
}

impl Finished {
    /// Looks for what matches in the workspace; nothing where
    /// [`Spec::collect`](crate::Spec::collect) did not ask to keep it. `limit` bounds the bytes of
    /// all files together.
    ///
    /// # Errors
    /// [`CollectError`] when there is too much of anything.
    pub fn collect(
        &self,
        patterns: &Patterns,
        limit: Option<u64>,
    ) -> Result<Option<Collection<'_>>, CollectError> {
        let limit = limit.unwrap_or(COLLECT_BYTES).min(COLLECT_BYTES);
        let workspace = self.workspace.as_ref().map(AsFd::as_fd);
        workspace
            .map(|workspace| collect(workspace, patterns, &self.granted, limit))
            .transpose()
    }
}

impl Collection<'_> {
    /// Opens a file to be read. It has been checked again; the reader takes no more than
    /// [`Found::size`] bytes of it.
    ///
    /// # Errors
    /// [`CollectError::Unreadable`].
    pub fn open(&self, found: &Found) -> Result<File, CollectError> {
        let path = found.path.as_bytes();
        let open = || {
            let file = open(self.workspace, path, OFlags::NONBLOCK)?;
            let stat = rustix::fs::fstat(&file)?;
            match FileType::from_raw_mode(stat.st_mode) {
                FileType::RegularFile => Ok(file),
                _ => Err(Errno::NXIO),
            }
        };
        open()
            .map(File::from)
            .map_err(|error| unreadable(path, error))
    }
}

fn collect<'w>(
    workspace: BorrowedFd<'w>,
    patterns: &Patterns,
    granted: &[Vec<u8>],
    limit: u64,
) -> Result<Collection<'w>, CollectError> {
    let top = open(workspace, b".", OFlags::DIRECTORY).map_err(|error| unreadable(b".", error))?;
    let owner = rustix::fs::fstat(&top).map_err(|error| unreadable(b".", error))?;
    let mut walk = Walk {
        patterns,
        granted: granted.iter().map(Vec::as_slice).collect(),
        owner: owner.st_uid,
        limit,
        entries: 0,
        bytes: 0,
        files: Vec::new(),
        skipped: Vec::new(),
    };
    walk.directory(top, &mut Vec::new(), 1)?;
    let (mut files, mut skipped) = (walk.files, walk.skipped);
    files.sort_unstable_by(|one, other| one.path.cmp(&other.path));
    skipped.sort_unstable_by(|one, other| one.0.cmp(&other.0));
    Ok(Collection {
        workspace,
        files,
        skipped,
    })
}

/// The search for matching files.
struct Walk<'a> {
    patterns: &'a Patterns,
    /// Where paths of the host were: they are not the program's results.
    granted: BTreeSet<&'a [u8]>,
    /// Who owns the workspace and what the program made in it.
    owner: u32,
    limit: u64,
    entries: usize,
    bytes: u64,
    files: Vec<Found>,
    skipped: Vec<(WorkspacePath, Uncollected)>,
}

impl Walk<'_> {
    /// Looks at a directory and what is below. `path` is its path, and the same again afterwards;
    /// `depth` is how many components paths in it have.
    fn directory(
        &mut self,
        fd: OwnedFd,
        path: &mut Vec<u8>,
        depth: usize,
    ) -> Result<(), CollectError> {
        let entries = Dir::read_from(&fd).map_err(|error| unreadable(path, error))?;
        for entry in entries {
            let entry = entry.map_err(|error| unreadable(path, error))?;
            let name = entry.file_name().to_bytes();
            if name == b"." || name == b".." {
                continue;
            }
            self.entries = self.entries.saturating_add(1);
            if self.entries > MAX_ENTRIES {
                return Err(CollectError::TooMuch {
                    what: format!(
                        "the workspace has more than {MAX_ENTRIES} files and directories"
                    ),
                });
            }
            let end = path.len();
            if end > 0 {
                path.push(b'/');
            }
            path.extend_from_slice(name);
            let looked = self.entry(fd.as_fd(), name, entry.file_type(), path, depth);
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
    ) -> Result<(), CollectError> {
        if self.granted.contains(path.as_slice()) {
            return Ok(());
        }
        // Some file systems do not say in the directory what an entry is.
        let unknown = kind == FileType::Unknown;
        if kind == FileType::Directory || unknown {
            match self.open_directory(parent, name, path, depth)? {
                Some(child) => return self.directory(child, path, depth.saturating_add(1)),
                None if !unknown => return Ok(()),
                None => {}
            }
        }
        if !self.patterns.matches(path) {
            return Ok(());
        }
        match kind {
            FileType::RegularFile | FileType::Unknown => self.file(parent, name, path),
            FileType::Symlink => self.skip(path, Uncollected::Link),
            _ => self.skip(path, Uncollected::Special),
        }
    }

    /// Opens what is said to be a directory. `None`: it is none, or not to be looked into.
    fn open_directory(
        &mut self,
        parent: BorrowedFd<'_>,
        name: &[u8],
        path: &[u8],
        depth: usize,
    ) -> Result<Option<OwnedFd>, CollectError> {
        let opened = open(parent, name, OFlags::DIRECTORY);
        let opened = opened.and_then(|fd| rustix::fs::fstat(&fd).map(|stat| (fd, stat)));
        match opened {
            Ok((_, stat)) if stat.st_mode & 0o500 != 0o500 => {
                self.skip(path, Uncollected::Unreadable)?;
            }
            Ok(_) if depth >= MAX_DEPTH => self.skip(path, Uncollected::TooDeep)?,
            Ok((child, _)) => return Ok(Some(child)),
            Err(Errno::NOTDIR | Errno::LOOP) => {}
            Err(Errno::ACCESS | Errno::PERM) => self.skip(path, Uncollected::Unreadable)?,
            Err(Errno::XDEV) => self.skip(path, Uncollected::Foreign)?,
            Err(error) => return Err(unreadable(path, error)),
        }
        Ok(None)
    }

    fn file(
        &mut self,
        parent: BorrowedFd<'_>,
        name: &[u8],
        path: &[u8],
    ) -> Result<(), CollectError> {
        let opened = open(parent, name, OFlags::NONBLOCK);
        let stat = match opened.and_then(rustix::fs::fstat) {
            Ok(stat) => stat,
            Err(Errno::LOOP) => return self.skip(path, Uncollected::Link),
            // What a socket gives.
            Err(Errno::NXIO | Errno::NODEV) => return self.skip(path, Uncollected::Special),
            Err(Errno::ACCESS | Errno::PERM) => return self.skip(path, Uncollected::Unreadable),
            Err(Errno::XDEV) => return self.skip(path, Uncollected::Foreign),
            Err(error) => return Err(unreadable(path, error)),
        };
        if let Some(why) = self.reason_against(&stat) {
            return self.skip(path, why);
        }
        let Ok(checked) = WorkspacePath::parse(path) else {
            return self.skip(path, Uncollected::TooDeep);
        };
        let size = u64::try_from(stat.st_size).unwrap_or(u64::MAX);
        self.bytes = self.bytes.saturating_add(size);
        if self.bytes > self.limit {
            return Err(CollectError::TooMuch {
                what: format!(
                    "{} has {size} bytes, with which the collected files exceed {}",
                    shown(path),
                    self.limit
                ),
            });
        }
        if self.files.len() >= COLLECT_FILES {
            return Err(CollectError::TooMuch {
                what: format!("more than {COLLECT_FILES} files match"),
            });
        }
        self.files.push(Found {
            path: checked,
            mode: stat.st_mode & 0o777,
            size,
        });
        Ok(())
    }

    fn reason_against(&self, stat: &Stat) -> Option<Uncollected> {
        if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
            return Some(Uncollected::Special);
        }
        // A hard link to somebody else's file.
        if stat.st_uid != self.owner {
            return Some(Uncollected::Foreign);
        }
        (stat.st_mode & 0o400 == 0).then_some(Uncollected::Unreadable)
    }

    fn skip(&mut self, path: &[u8], why: Uncollected) -> Result<(), CollectError> {
        if self.skipped.len() >= COLLECT_FILES {
            return Err(CollectError::TooMuch {
                what: format!("more than {COLLECT_FILES} things match that cannot be collected"),
            });
        }
        // A path that is too long is told by the directory that it is in.
        let mut known = path;
        loop {
            if let Ok(path) = WorkspacePath::parse(known) {
                let skipped = (path, why);
                if self.skipped.last() != Some(&skipped) {
                    self.skipped.push(skipped);
                }
                return Ok(());
            }
            let Some(slash) = known.iter().rposition(|byte| *byte == b'/') else {
                return Ok(());
            };
            known = known.get(..slash).unwrap_or_default();
        }
    }
}

/// Opens for reading what is below a directory, without following anything.
fn open(parent: BorrowedFd<'_>, path: &[u8], flags: OFlags) -> rustix::io::Result<OwnedFd> {
    rustix::fs::openat2(
        parent,
        path,
        flags | OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NOCTTY,
        Mode::empty(),
        ResolveFlags::BENEATH
            | ResolveFlags::NO_XDEV
            | ResolveFlags::NO_MAGICLINKS
            | ResolveFlags::NO_SYMLINKS,
    )
}

fn unreadable(path: &[u8], error: Errno) -> CollectError {
    CollectError::Unreadable {
        path: shown(path),
        source: error.into(),
    }
}

/// A path for people, not longer than a line.
fn shown(path: &[u8]) -> String {
    let text: String = String::from_utf8_lossy(path).chars().take(200).collect();
    format!("{text:?}")
}

#[cfg(test)]
#[path = "collect_tests.rs"]
mod tests;
