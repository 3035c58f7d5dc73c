//! Files written so that no half of one is ever seen, and errors that name the path.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

/// The file system refused something.
#[derive(Debug, thiserror::Error)]
#[error("cannot {action} {}", path.display())]
pub struct FileError {
    action: &'static str,
    path: PathBuf,
    source: io::Error,
}

/// For `map_err`: what was tried, and on which path.
pub(crate) fn failed(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> FileError {
    let path = path.to_owned();
    move |source| FileError {
        action,
        path,
        source,
    }
}

/// Creates a directory and its parents.
pub(crate) fn create_directory(path: &Path) -> Result<(), FileError> {
    fs::create_dir_all(path).map_err(failed("create the folder", path))
}

/// Calls `fill` with a temporary file beside `path` and renames it to `path` when all went well.
/// On any error nothing is left, and what was at `path` before is untouched.
pub(crate) fn write_atomically<T, E: From<FileError>>(
    path: &Path,
    fill: impl FnOnce(&mut File) -> Result<T, E>,
) -> Result<T, E> {
    let directory = path.parent().unwrap_or(Path::new("."));
    create_directory(directory)?;
    let mut file = tempfile::Builder::new()
        .prefix(".new-")
        .permissions(readable())
        .tempfile_in(directory)
        .map_err(failed("create a file in", directory))?;
    let value = fill(file.as_file_mut())?;
    file.as_file().sync_all().map_err(failed("write", path))?;
    file.persist(path)
        .map_err(|error| failed("write", path)(error.error))?;
    Ok(value)
}

/// Writes `bytes` to `path`, atomically.
pub(crate) fn write_bytes(path: &Path, bytes: &[u8]) -> Result<(), FileError> {
    write_atomically(path, |file| {
        file.write_all(bytes).map_err(failed("write", path))
    })
}

/// Marks a kept file as used now, so that [`remove_unused`] spares it. Where that is not permitted
/// the file is made anew one day, no more.
pub(crate) fn mark_used(path: &Path) {
    let _not_permitted = File::open(path).and_then(|file| file.set_modified(SystemTime::now()));
}

/// Removes files of `folder` that have not been used for a month.
pub(crate) fn remove_unused(folder: &Path) -> Result<(), FileError> {
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(failed("read", folder)(error)),
    };
    for entry in entries {
        let entry = entry.map_err(failed("read", folder))?;
        let used = entry.metadata().and_then(|metadata| metadata.modified());
        let used = used.map_err(failed("read", &entry.path()))?;
        if used.elapsed().is_ok_and(|unused| unused > KEPT) {
            fs::remove_file(entry.path()).map_err(failed("remove", &entry.path()))?;
        }
    }
    Ok(())
}

/// How long a file that is not used is kept.
const KEPT: Duration = Duration::from_secs(30 * 24 * 60 * 60);

/// Others may read what is built; the user's umask still applies.
fn readable() -> fs::Permissions {
    use std::os::unix::fs::PermissionsExt as _;
    fs::Permissions::from_mode(0o644)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_used_goes_one_day() {
        let directory = tempfile::tempdir().unwrap();
        for name in ["old", "used", "new"] {
            let path = directory.path().join(name);
            write_bytes(&path, b"x").unwrap();
            if name != "new" {
                let long_ago = SystemTime::now() - 2 * KEPT;
                File::open(&path).unwrap().set_modified(long_ago).unwrap();
            }
        }
        mark_used(&directory.path().join("used"));
        remove_unused(directory.path()).unwrap();
        remove_unused(&directory.path().join("absent")).unwrap();
        assert!(!directory.path().join("old").exists());
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 2);
    }

    #[test]
    fn a_failure_leaves_the_old_file_and_nothing_else() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("file");
        write_bytes(&path, b"old").unwrap();
        let result: Result<(), FileError> = write_atomically(&path, |file| {
            file.write_all(b"half").unwrap();
            Err(failed("write", &path)(io::Error::other("disk full")))
        });
        assert!(result.is_err());
        assert_eq!(fs::read(&path).unwrap(), b"old");
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1);
    }
}
