//! Puts what was collected from a workspace into a directory of the caller's.
//!
//! The names come from the program, or from a guest that it has taken over; with the guest's, so do
//! sizes, order and number. All of it is checked here, whatever the other side has checked before:
//! a path that no pattern matches, that is not plain, or that comes twice, and more bytes or files
//! than were agreed upon, are a breach of the protocol ([`Breach`]).
//!
//! The directory is opened once. Below it no link is followed: each directory on the way is opened
//! from the one above, and a file is written under a name of our own, to which nobody else can have
//! put anything, before it takes the place of whatever is there.

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

use crate::Error;
use ringfence_protocol::{COLLECT_BYTES, COLLECT_FILES, Limits, Uncollected};
use rustix::fs::{AtFlags, CWD, Mode, OFlags};
use rustix::io::Errno;
use std::collections::BTreeSet;
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Bytes of a path, of a component, and components; as the sandbox's own bounds.
const MAX_PATH: usize = 2048;
const MAX_NAME: usize = 255;
const MAX_DEPTH: usize = 64;

/// Bytes of all patterns together: in the VM they share a frame with arguments and files.
const MAX_PATTERNS: usize = 32 << 10;

/// What came out of a workspace. The contents are the program's: as trustworthy as it is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Collected {
    /// The files that are in the caller's directory now, in the order of their paths.
    pub files: Vec<CollectedFile>,
    /// What matched a pattern, or is a directory that may hold what would, and was left.
    pub skipped: Vec<SkippedFile>,
    /// The patterns that none of the files matches.
    pub unmatched: Vec<String>,
}

/// A file that was collected.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct CollectedFile {
    /// Its path, relative to the workspace and to the caller's directory.
    pub path: PathBuf,
    /// Its size.
    pub bytes: u64,
}

/// Something that was not collected.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct SkippedFile {
    /// Its path, relative to the workspace.
    pub path: PathBuf,
    /// Why not.
    pub why: Uncollected,
}

/// Not everything that matches could be collected.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("cannot collect everything: {message}")]
#[non_exhaustive]
pub struct CollectError {
    /// The bound that was reached, or what cannot be read or written.
    pub message: String,
    /// What was collected before.
    pub collected: Collected,
}

/// The other side did not keep to what was agreed upon.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Breach(pub(crate) &'static str);

/// Receives the collected files of one execution.
#[derive(Debug)]
pub(crate) struct Collecting {
    pub(crate) patterns: Vec<String>,
    /// Bytes of all files together.
    limit: u64,
    out: OwnedFd,
    shown: PathBuf,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// The caller has lost interest: nothing more is written.
    abandoned: bool,
    seen: BTreeSet<Vec<u8>>,
    announced: u64,
    pending: Option<Pending>,
    collected: Collected,
    failure: Option<String>,
}

/// A file whose bytes are awaited.
#[derive(Debug)]
struct Pending {
    path: PathBuf,
    size: u64,
    left: u64,
    /// `None` when nothing is written any more.
    target: Option<Target>,
}

impl Collecting {
    /// Checks the patterns, and makes and opens the directory.
    pub(crate) fn open(
        patterns: Vec<String>,
        directory: &Path,
        limits: &Limits,
    ) -> Result<Self, Error> {
        for pattern in &patterns {
            let whole = pattern
                .split('/')
                .any(|part| matches!(part, "" | "." | ".."));
            if whole || pattern.starts_with('!') {
                return Err(Error::invalid(format!(
                    "the pattern {pattern:?} is not a plain path below the workspace, such as \
                     out/*.txt or dist/**"
                )));
            }
            fast_glob::validate(pattern).map_err(|error| {
                Error::invalid(format!("the pattern {pattern:?} is not valid: {error}"))
            })?;
        }
        let bytes: usize = patterns.iter().map(String::len).sum();
        if bytes > MAX_PATTERNS {
            return Err(Error::invalid(format!(
                "the patterns take {bytes} bytes, {MAX_PATTERNS} are allowed; use fewer, such as \
                 dist/**"
            )));
        }
        let output = |source| Error::output(directory, source);
        std::fs::create_dir_all(directory).map_err(output)?;
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let out = rustix::fs::openat(CWD, directory, flags, Mode::empty());
        Ok(Self {
            patterns,
            limit: limits.workspace.unwrap_or(COLLECT_BYTES).min(COLLECT_BYTES),
            out: out.map_err(|error| output(error.into()))?,
            shown: directory.to_owned(),
            state: Mutex::default(),
        })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// From now on nothing is written.
    pub(crate) fn abandon(&self) {
        let mut state = self.state();
        state.abandoned = true;
        if let Some(pending) = &mut state.pending {
            pending.target = None;
        }
    }

    /// A file begins. Returns the bytes of all files that were announced so far.
    pub(crate) fn begin(&self, path: &[u8], mode: u32, size: u64) -> Result<u64, Breach> {
        let parts = plain(path).ok_or(Breach("a path that leads out of the workspace"))?;
        let mut state = self.state();
        if state.pending.is_some() {
            return Err(Breach("a file before the last one was whole"));
        }
        let wanted = |pattern: &String| fast_glob::glob_match(pattern, path);
        if !self.patterns.iter().any(wanted) {
            return Err(Breach("a file that nobody asked for"));
        }
        if !state.seen.insert(path.to_vec()) {
            return Err(Breach("a file for the second time"));
        }
        state.announced = state.announced.saturating_add(size);
        if state.seen.len() > COLLECT_FILES || state.announced > self.limit {
            return Err(Breach("more files or bytes than agreed upon"));
        }
        let mut pending = Pending {
            path: OsString::from_vec(path.to_vec()).into(),
            size,
            left: size,
            target: None,
        };
        if state.failure.is_none() && !state.abandoned {
            match Target::create(&self.out, &parts, mode) {
                Ok(target) => pending.target = Some(target),
                Err(error) => state.fail(self.unwritable(&pending.path, &error)),
            }
        }
        state.pending = Some(pending);
        self.finish_if_whole(&mut state);
        Ok(state.announced)
    }

    /// The next bytes of the file that has begun.
    pub(crate) fn data(&self, bytes: &[u8]) -> Result<(), Breach> {
        let mut state = self.state();
        let len = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
        let pending = state.pending.as_mut();
        let Some(pending) = pending.filter(|pending| len > 0 && len <= pending.left) else {
            return Err(Breach("bytes of no file"));
        };
        pending.left = pending.left.saturating_sub(len);
        let written = pending
            .target
            .as_mut()
            .map(|target| target.file.write_all(bytes));
        if let Some(Err(error)) = written {
            pending.target = None;
            let why = self.unwritable(&pending.path, &error);
            state.fail(why);
        }
        self.finish_if_whole(&mut state);
        Ok(())
    }

    fn finish_if_whole(&self, state: &mut State) {
        if state
            .pending
            .as_ref()
            .is_none_or(|pending| pending.left > 0)
        {
            return;
        }
        let Some(pending) = state.pending.take() else {
            return;
        };
        match pending.target.map(Target::publish) {
            None => {}
            Some(Ok(())) => state.collected.files.push(CollectedFile {
                path: pending.path,
                bytes: pending.size,
            }),
            Some(Err(error)) => state.fail(self.unwritable(&pending.path, &error)),
        }
    }

    /// Something is left where it is.
    pub(crate) fn skipped(&self, path: &[u8], why: Uncollected) -> Result<(), Breach> {
        plain(path).ok_or(Breach("a path that leads out of the workspace"))?;
        let mut state = self.state();
        if state.collected.skipped.len() >= COLLECT_FILES {
            return Err(Breach("more skipped files than agreed upon"));
        }
        let path = OsString::from_vec(path.to_vec()).into();
        state.collected.skipped.push(SkippedFile { path, why });
        Ok(())
    }

    /// The other side cannot go on.
    pub(crate) fn fail(&self, why: String) {
        let mut state = self.state();
        state.pending = None;
        state.fail(why);
    }

    /// Nothing more comes.
    pub(crate) fn finish(&self) -> Result<(), Breach> {
        match self.state().pending {
            Some(_) => Err(Breach("an end in the middle of a file")),
            None => Ok(()),
        }
    }

    /// What was collected so far.
    pub(crate) fn outcome(&self) -> Result<Collected, CollectError> {
        let state = self.state();
        let mut collected = state.collected.clone();
        if let Some(message) = &state.failure {
            let message = message.clone();
            return Err(CollectError { message, collected });
        }
        let matched = |pattern: &&String| {
            let mut files = collected.files.iter();
            files.any(|file| fast_glob::glob_match(pattern, file.path.as_os_str().as_bytes()))
        };
        let unmatched = self.patterns.iter().filter(|pattern| !matched(pattern));
        collected.unmatched = unmatched.cloned().collect();
        Ok(collected)
    }

    fn unwritable(&self, path: &Path, error: &io::Error) -> String {
        format!("cannot write {path:?} in {:?}: {error}", self.shown)
    }
}

impl State {
    /// The first failure counts.
    fn fail(&mut self, why: String) {
        self.failure.get_or_insert(why);
    }
}

/// The components of a plain relative path.
fn plain(path: &[u8]) -> Option<Vec<&OsStr>> {
    let parts: Vec<&[u8]> = path.split(|byte| *byte == b'/').collect();
    let fits = path.len() <= MAX_PATH && parts.len() <= MAX_DEPTH && !path.contains(&0);
    let good = |part: &&[u8]| !matches!(*part, b"" | b"." | b"..") && part.len() <= MAX_NAME;
    let plain = fits && parts.iter().all(good);
    plain.then(|| parts.into_iter().map(OsStr::from_bytes).collect())
}

/// A file that is being written under a name of its own.
#[derive(Debug)]
struct Target {
    directory: OwnedFd,
    name: OsString,
    /// Under which it is written; none when it has its name.
    temporary: Option<OsString>,
    file: File,
    mode: Mode,
}

impl Target {
    /// Makes the file and the directories above it.
    fn create(out: &OwnedFd, parts: &[&OsStr], mode: u32) -> io::Result<Self> {
        let (name, above) = parts.split_last().ok_or(io::ErrorKind::InvalidInput)?;
        let mut directory = out.try_clone()?;
        for part in above {
            match rustix::fs::mkdirat(&directory, *part, Mode::from_raw_mode(0o777)) {
                Ok(()) | Err(Errno::EXIST) => {}
                Err(error) => return Err(error.into()),
            }
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            directory = rustix::fs::openat(&directory, *part, flags, Mode::empty())?;
        }
        let mut number = [0; 8];
        getrandom::fill(&mut number).map_err(io::Error::other)?;
        let temporary = format!(".ringfence-{:016x}", u64::from_le_bytes(number));
        let flags =
            OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let owner = Mode::RUSR | Mode::WUSR;
        let file = rustix::fs::openat(&directory, &temporary, flags, owner)?;
        // What others may do is the caller's to say, and so are set-user-ID bits.
        let owners = [
            (0o400, Mode::RUSR),
            (0o200, Mode::WUSR),
            (0o100, Mode::XUSR),
        ];
        let owners = owners.into_iter().filter(|(bit, _)| mode & bit != 0);
        Ok(Self {
            directory,
            name: (*name).to_owned(),
            temporary: Some(temporary.into()),
            file: file.into(),
            mode: owners.map(|(_, bit)| bit).collect(),
        })
    }

    /// Gives the file its name. What had it is gone; a link is not followed.
    fn publish(mut self) -> io::Result<()> {
        rustix::fs::fchmod(&self.file, self.mode)?;
        if let Some(temporary) = &self.temporary {
            let directory = self.directory.as_fd();
            rustix::fs::renameat(directory, temporary, directory, &self.name)?;
        }
        self.temporary = None;
        Ok(())
    }
}

impl Drop for Target {
    fn drop(&mut self) {
        if let Some(temporary) = &self.temporary {
            // Nothing more can be done about a file that cannot be removed.
            let removed = rustix::fs::unlinkat(&self.directory, temporary, AtFlags::empty());
            if let Err(error) = removed {
                tracing::debug!(%error, "a file that was not collected whole is left behind");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::{MetadataExt as _, symlink};

    fn collecting(directory: &Path, patterns: &[&str]) -> Collecting {
        let limits = Limits {
            workspace: Some(1000),
            ..Limits::default()
        };
        let patterns = patterns.iter().map(|&one| one.into()).collect();
        Collecting::open(patterns, directory, &limits).unwrap()
    }

    #[test]
    fn files_appear_whole_under_their_names() {
        let place = tempfile::tempdir().unwrap();
        let out = place.path().join("made/on/the/way");
        let collecting = collecting(&out, &["**", "none"]);
        assert_eq!(collecting.begin(b"a/b", 0o6755, 4), Ok(4));
        collecting.data(b"on").unwrap();
        assert!(!out.join("a/b").exists());
        assert_eq!(
            collecting.finish(),
            Err(Breach("an end in the middle of a file"))
        );
        collecting.data(b"ce").unwrap();
        assert_eq!(collecting.begin(b"\xff\n", 0o644, 0), Ok(4));
        collecting.skipped(b"link", Uncollected::Link).unwrap();
        collecting.finish().unwrap();
        let collected = collecting.outcome().unwrap();
        assert_eq!(collected.files.len(), 2);
        assert_eq!(collected.unmatched, ["none"]);
        assert_eq!(fs::read(out.join("a/b")).unwrap(), b"once");
        assert_eq!(
            fs::metadata(out.join("a/b")).unwrap().mode() & 0o7777,
            0o700
        );
        assert_eq!(fs::read_dir(&out).unwrap().count(), 2);
        assert_eq!(fs::read_dir(out.join("a")).unwrap().count(), 1);
    }

    #[test]
    fn no_link_in_the_directory_is_followed() {
        let place = tempfile::tempdir().unwrap();
        let (out, victim) = (place.path().join("out"), place.path().join("victim"));
        fs::create_dir(&out).unwrap();
        fs::create_dir(&victim).unwrap();
        fs::write(victim.join("file"), "before").unwrap();
        symlink(victim.join("file"), out.join("file")).unwrap();
        symlink(&victim, out.join("directory")).unwrap();
        let collecting = collecting(&out, &["**"]);
        collecting.begin(b"file", 0o644, 1).unwrap();
        collecting.data(b"x").unwrap();
        assert!(!out.join("file").is_symlink());
        assert_eq!(fs::read(out.join("file")).unwrap(), b"x");
        // What cannot be written is read to its end, and so is what follows.
        collecting.begin(b"directory/new", 0o644, 1).unwrap();
        collecting.data(b"x").unwrap();
        collecting.begin(b"other", 0o644, 1).unwrap();
        collecting.data(b"x").unwrap();
        let error = collecting.outcome().unwrap_err();
        assert!(
            error.to_string().contains("cannot write \"directory/new\""),
            "{error}"
        );
        assert_eq!(error.collected.files.len(), 1);
        assert_eq!(fs::read(victim.join("file")).unwrap(), b"before");
        assert_eq!(fs::read_dir(&victim).unwrap().count(), 1);
        assert!(!out.join("other").exists());
    }

    #[test]
    fn every_breach_is_noticed() {
        let place = tempfile::tempdir().unwrap();
        let collecting = collecting(place.path(), &["out/*", "deep/**"]);
        for path in ["../x", "/x", "", "out/../x", "out//x", "out/.", "out/a\0"] {
            assert!(
                collecting.begin(path.as_bytes(), 0o644, 0).is_err(),
                "{path:?}"
            );
            assert!(
                collecting
                    .skipped(path.as_bytes(), Uncollected::Link)
                    .is_err()
            );
        }
        let long = format!("deep/{}", "y/".repeat(100));
        assert!(
            collecting
                .begin(long.trim_end_matches('/').as_bytes(), 0, 0)
                .is_err()
        );
        assert!(collecting.begin(b".bashrc", 0o644, 0).is_err());
        assert!(collecting.data(b"x").is_err());
        assert!(collecting.begin(b"out/large", 0o644, 1001).is_err());
        let collecting = self::collecting(place.path(), &["out/*"]);
        collecting.begin(b"out/a", 0o644, 2).unwrap();
        assert!(collecting.begin(b"out/b", 0o644, 2).is_err());
        assert!(collecting.data(b"").is_err());
        assert!(collecting.data(b"xxx").is_err());
        collecting.data(b"xx").unwrap();
        assert!(collecting.data(b"x").is_err());
        assert!(collecting.begin(b"out/a", 0o644, 2).is_err());
        assert!(collecting.begin(b"out/c", 0o644, u64::MAX).is_err());
        let few = self::collecting(place.path(), &["out/*"]);
        few.abandon();
        for number in 0..COLLECT_FILES {
            few.begin(format!("out/{number}").as_bytes(), 0o644, 0)
                .unwrap();
        }
        assert!(few.begin(b"out/more", 0o644, 0).is_err());
    }

    #[test]
    fn nothing_is_left_of_what_was_abandoned() {
        let place = tempfile::tempdir().unwrap();
        let collecting = collecting(place.path(), &["*"]);
        collecting.begin(b"a", 0o644, 2).unwrap();
        collecting.data(b"x").unwrap();
        collecting.abandon();
        collecting.data(b"x").unwrap();
        assert_eq!(fs::read_dir(place.path()).unwrap().count(), 0);
        collecting.begin(b"b", 0o644, 0).unwrap();
        assert_eq!(fs::read_dir(place.path()).unwrap().count(), 0);
    }
}
