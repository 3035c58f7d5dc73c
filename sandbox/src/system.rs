//! Which of the system's programs, libraries and settings this host has.
//!
//! The list is the same for every sandbox, and to look at each of its entries takes longer than to
//! start a process. So it is remembered, and looked up again when one of the directories in which
//! its entries are has changed.

use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

/// Top-level directories of programs and libraries. On most systems all but the first are links.
const SYSTEM: &[&str] = &[
    "/usr",
    "/bin",
    "/sbin",
    "/lib",
    "/lib64",
    "/lib32",
    "/libx32",
    "/nix/store",
    "/gnu/store",
];

/// Of `/etc`: loader, certificates, time zone, service names, and what interpreters read.
const ETC: &[&str] = &[
    "/etc/ld.so.cache",
    "/etc/ld.so.conf",
    "/etc/ld.so.conf.d",
    "/etc/ssl/certs",
    "/etc/ssl/openssl.cnf",
    "/etc/pki/tls/certs",
    "/etc/pki/tls/cert.pem",
    "/etc/pki/ca-trust/extracted",
    "/etc/ca-certificates/extracted",
    "/etc/localtime",
    "/etc/timezone",
    "/etc/alternatives",
    "/etc/mime.types",
    "/etc/protocols",
    "/etc/services",
    "/etc/terminfo",
    "/etc/magic",
    "/etc/os-release",
    "/etc/lsb-release",
    "/etc/debian_version",
    "/etc/redhat-release",
    "/etc/alpine-release",
];

/// Whether a path is among the system's programs and libraries.
pub(crate) fn is_system(path: &Path) -> bool {
    SYSTEM.iter().any(|top| path.starts_with(top))
}

/// Something that this host has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) path: PathBuf,
    /// What it says, where it is a symbolic link.
    pub(crate) link: Option<PathBuf>,
    /// It is a directory, or leads to one.
    pub(crate) directory: bool,
}

/// What tells that a directory has changed.
type Stamp = Option<(u64, u64, i64, i64, i64, i64)>;

#[derive(Debug)]
struct Remembered {
    stamps: Vec<(PathBuf, Stamp)>,
    entries: Arc<[Entry]>,
}

static REMEMBERED: Mutex<Option<Remembered>> = Mutex::new(None);

/// All that this host has of the list.
pub(crate) fn entries() -> Arc<[Entry]> {
    let mut remembered = REMEMBERED.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(known) = &*remembered
        && known.stamps.iter().all(|(path, at)| stamp(path) == *at)
    {
        return Arc::clone(&known.entries);
    }
    let looked = look();
    let entries = Arc::clone(&looked.entries);
    *remembered = Some(looked);
    entries
}

fn look() -> Remembered {
    // Stamps first: what changes meanwhile is seen the next time.
    let mut stamps: Vec<(PathBuf, Stamp)> = vec![("/etc".into(), stamp(Path::new("/etc")))];
    let listed = SYSTEM.iter().chain(ETC).map(Path::new);
    for parent in listed.clone().filter_map(nearest_directory) {
        if !stamps.iter().any(|(known, _)| *known == parent) {
            let at = stamp(&parent);
            stamps.push((parent, at));
        }
    }
    let entries = listed
        .map(PathBuf::from)
        .chain(etc_of_interpreters())
        .filter_map(entry)
        .collect();
    Remembered { stamps, entries }
}

/// The directory that changes when this path appears or goes.
fn nearest_directory(path: &Path) -> Option<PathBuf> {
    let mut above = path.ancestors().skip(1);
    above.find(|path| path.is_dir()).map(PathBuf::from)
}

fn stamp(path: &Path) -> Stamp {
    let m = fs::metadata(path).ok()?;
    let (modified, changed) = ((m.mtime(), m.mtime_nsec()), (m.ctime(), m.ctime_nsec()));
    Some((
        m.dev(),
        m.ino(),
        modified.0,
        modified.1,
        changed.0,
        changed.1,
    ))
}

fn entry(path: PathBuf) -> Option<Entry> {
    let metadata = path.symlink_metadata().ok()?;
    let (link, directory) = if metadata.is_symlink() {
        (Some(fs::read_link(&path).ok()?), path.is_dir())
    } else {
        (None, metadata.is_dir())
    };
    Some(Entry {
        path,
        link,
        directory,
    })
}

/// The host's `/etc/python3*`, `/etc/java*` and the like, beside [`ETC`].
fn etc_of_interpreters() -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir("/etc") else {
        return Vec::new();
    };
    let wanted = |name: &[u8]| {
        [b"python".as_slice(), b"java-", b"perl", b"nodejs"]
            .iter()
            .any(|p| name.starts_with(p))
    };
    let entries = entries
        .flatten()
        .filter(|entry| wanted(entry.file_name().as_bytes()));
    entries.map(|entry| entry.path()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_remembered_is_what_is_there() {
        let first = entries();
        assert!(Arc::ptr_eq(&first, &entries()), "looked up twice");
        assert_eq!(*look().entries, *first);
        let usr = first.iter().find(|entry| entry.path == Path::new("/usr"));
        assert!(usr.is_some_and(|usr| usr.directory && usr.link.is_none()));
        assert!(
            first
                .iter()
                .all(|entry| entry.path.symlink_metadata().is_ok())
        );
    }

    #[test]
    fn a_changed_directory_has_another_stamp() {
        let directory = tempfile::tempdir().unwrap();
        let before = stamp(directory.path());
        assert!(before.is_some());
        fs::create_dir(directory.path().join("new")).unwrap();
        assert_ne!(stamp(directory.path()), before);
        assert_eq!(
            nearest_directory(&directory.path().join("new/er/est")),
            Some(directory.path().join("new"))
        );
    }
}
