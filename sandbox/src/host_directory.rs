//! The private directory on the host, where there is no mount namespace.
//!
//! Each sandbox has one in the system's temporary directory, so that nothing is left there when it
//! is gone. It is locked (`flock`) as long as its supervisor or its caller lives; one that can be
//! locked was left behind by a machine that lost both, and the next sandbox removes it.

use crate::init::remove_tree;
use crate::plan::HostDirectory;
use std::ffi::CString;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Once;
use std::sync::atomic::{AtomicU64, Ordering};

/// Makes and locks a directory. Others may pass through it where the sandbox has a user of its own.
pub(crate) fn create(uid: u32) -> io::Result<(PathBuf, HostDirectory)> {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    static SWEPT: Once = Once::new();
    let parent = std::env::temp_dir().canonicalize()?;
    if uid == 0 && !crate::resolve::is_open_to_all(&parent) {
        let why = format!(
            "{parent:?} or a directory above it may not be entered by the sandbox's own user; set \
             TMPDIR to one that everybody may enter"
        );
        return Err(io::Error::new(io::ErrorKind::PermissionDenied, why));
    }
    let opened = open(&parent)?;
    let prefix = format!("ringfence-{uid}-");
    // The sandbox's own user passes through root's.
    let mode = if uid == 0 { 0o711 } else { 0o700 };
    SWEPT.call_once(|| sweep(&parent, &opened, &prefix, uid));
    loop {
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("{prefix}{}-{number}", std::process::id());
        let path = parent.join(&name);
        match DirBuilder::new().mode(mode).create(&path) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => continue,
            result => result?,
        }
        let directory = match open(&path) {
            // Swept before it was locked.
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            result => result?,
        };
        if directory.try_lock().is_err() || directory.metadata()?.nlink() == 0 {
            continue;
        }
        let name = CString::new(name).map_err(|_nul| io::ErrorKind::InvalidInput)?;
        let host = HostDirectory {
            parent: opened.into(),
            directory: directory.into(),
            name,
        };
        return Ok((path, host));
    }
}

fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_DIRECTORY | libc::O_NOFOLLOW)
        .open(path)
}

/// Removes what nobody holds any more. Others can make directories of such names too: only the
/// user's own are looked into.
fn sweep(parent: &Path, opened: &File, prefix: &str, uid: u32) {
    let Ok(entries) = fs::read_dir(parent) else {
        return;
    };
    for entry in entries.flatten() {
        let name = entry.file_name();
        if !name.as_bytes().starts_with(prefix.as_bytes()) {
            continue;
        }
        if let (Ok(directory), Ok(name)) = (open(&entry.path()), CString::new(name.as_bytes()))
            && directory
                .metadata()
                .is_ok_and(|metadata| metadata.uid() == uid)
            && directory.try_lock().is_ok()
        {
            remove_tree(opened.as_raw_fd(), directory.as_raw_fd(), &name);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_nobody_holds_is_swept() {
        let parent = tempfile::tempdir().unwrap();
        let uid = parent.path().metadata().unwrap().uid();
        let paths = ["own-1-0", "own-1-1", "other-1-1"].map(|name| parent.path().join(name));
        for directory in &paths {
            fs::create_dir_all(directory.join("workspace/deep")).unwrap();
        }
        let [held, left, other] = paths;
        let holder = open(&held).unwrap();
        holder.try_lock().unwrap();
        let opened = open(parent.path()).unwrap();
        sweep(parent.path(), &opened, "own-", uid + 1);
        assert!(left.exists(), "of another user");
        sweep(parent.path(), &opened, "own-", uid);
        assert!(held.join("workspace/deep").exists());
        assert!(!left.exists());
        assert!(other.exists());
    }
}
