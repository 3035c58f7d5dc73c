//! Which program is started as a worker.

use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};

/// Names the program, for applications that carry their own copy of the command.
pub(crate) const VARIABLE: &str = "RINGFENCE_WORKER";

/// The command's file name.
const NAME: &str = "ringfence";

/// No program was found.
#[derive(Debug, thiserror::Error)]
#[error(
    "a VM runs in a process of the command {NAME}, which is neither this program nor beside it nor \
     on PATH; install it, or name it by {VARIABLE}"
)]
pub(crate) struct NoProgram;

/// Finds the `ringfence` command: named by the environment, this program itself, beside it, or on
/// `PATH`.
pub(crate) fn find() -> Result<PathBuf, NoProgram> {
    find_in(
        std::env::var_os(VARIABLE),
        std::env::current_exe().ok().as_deref(),
        std::env::var_os("PATH").as_deref(),
    )
}

fn find_in(
    named: Option<OsString>,
    own: Option<&Path>,
    search: Option<&OsStr>,
) -> Result<PathBuf, NoProgram> {
    if let Some(named) = named {
        return Ok(named.into());
    }
    let own = own.filter(|own| own.is_absolute());
    let itself = own.filter(|own| own.file_name() == Some(OsStr::new(NAME)));
    let beside = own.map(|own| own.with_file_name(NAME));
    let on_path = search
        .into_iter()
        .flat_map(std::env::split_paths)
        .map(|directory| directory.join(NAME));
    itself
        .map(Path::to_owned)
        .into_iter()
        .chain(beside)
        .chain(on_path)
        .find(|path| is_executable(path))
        .ok_or(NoProgram)
}

pub(crate) fn is_executable(path: &Path) -> bool {
    path.is_file() && rustix::fs::access(path, rustix::fs::Access::EXEC_OK).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    fn program(directory: &Path) -> PathBuf {
        let path = directory.join(NAME);
        fs::write(&path, "").unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        path
    }

    #[test]
    fn the_nearest_is_taken() {
        let near = tempfile::tempdir().unwrap();
        let far = tempfile::tempdir().unwrap();
        let search = far.path().as_os_str();
        let app = near.path().join("app");
        assert!(find_in(None, Some(&app), Some(search)).is_err());
        // A folder or a file that is no program does not count.
        fs::create_dir(near.path().join(NAME)).unwrap();
        let on_path = program(far.path());
        assert_eq!(find_in(None, Some(&app), Some(search)).unwrap(), on_path);
        fs::remove_dir(near.path().join(NAME)).unwrap();
        let beside = program(near.path());
        assert_eq!(find_in(None, Some(&app), Some(search)).unwrap(), beside);
        assert_eq!(find_in(None, Some(&beside), None).unwrap(), beside);
        assert_eq!(
            find_in(Some("/x".into()), None, None).unwrap(),
            Path::new("/x")
        );
    }
}
