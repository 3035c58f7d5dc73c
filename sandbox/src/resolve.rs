//! Finds the program: its real file, and what of the host becomes readable for it.
//!
//! A program of the system needs nothing more. One that a version manager installed in a home
//! directory is found behind its shim ([`crate::shim`]). What becomes readable for a program that is
//! not the system's, [`crate::installation`] says.

use crate::installation::{self, Part};
use crate::system::is_system;
use crate::{InputFile, SpawnError, WorkspacePath, shim};
use std::ffi::{OsStr, OsString};
use std::fs;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Component, Path, PathBuf};

/// What the caller's environment says about programs; a parameter, so that tests need not change it.
#[derive(Debug, Clone, Default)]
pub(crate) struct Host {
    /// The variables that matter, by name.
    pub(crate) variables: Vec<(OsString, OsString)>,
    /// The directory that the caller stands in, without links.
    pub(crate) directory: Option<PathBuf>,
}

impl Host {
    pub(crate) fn current() -> Self {
        Self {
            variables: std::env::vars_os().collect(),
            directory: std::env::current_dir().ok(),
        }
    }

    pub(crate) fn variable(&self, name: &str) -> Option<&OsStr> {
        let found = self.variables.iter().find(|(key, _)| key == name);
        found
            .map(|(_, value)| value.as_os_str())
            .filter(|value| !value.is_empty())
    }

    pub(crate) fn home(&self) -> Option<PathBuf> {
        self.variable("HOME")
            .map(PathBuf::from)
            .filter(|home| home.is_absolute())
    }

    /// Absolute directories of `PATH`.
    pub(crate) fn path(&self) -> Vec<PathBuf> {
        let path = self.variable("PATH").unwrap_or(OsStr::new(DEFAULT_PATH));
        std::env::split_paths(path)
            .filter(|directory| directory.is_absolute())
            .collect()
    }
}

/// Where the host has no `PATH`.
const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Where a program is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Resolved {
    /// The path to execute, as it is seen inside. Relative to the workspace or absolute.
    pub(crate) path: PathBuf,
    /// What becomes readable beside the system: directories or single files.
    pub(crate) parts: Vec<Part>,
    /// `PATH` inside.
    pub(crate) search: OsString,
}

impl Resolved {
    #[cfg(test)]
    pub(crate) fn of_system(path: PathBuf) -> Self {
        Self {
            path,
            parts: Vec::new(),
            search: DEFAULT_PATH.into(),
        }
    }
}

/// Finds `program`. `reachable` says whether the sandbox's user could come to a path of the host
/// where no private root is built for it.
pub(crate) fn resolve(
    program: &OsStr,
    files: &[InputFile],
    host: &Host,
    reachable: &dyn Fn(&Path) -> bool,
) -> Result<Resolved, SpawnError> {
    let bytes = program.as_bytes();
    if bytes.is_empty() {
        return Err(invalid(
            "the program's name is empty; name a program or a path".into(),
        ));
    }
    if bytes.contains(&0) {
        return Err(invalid(format!(
            "the program's name {program:?} contains a NUL byte"
        )));
    }
    if !bytes.contains(&b'/') {
        return on_path(program, host, reachable);
    }
    if let Some(inside) = program.as_bytes().strip_prefix(b"/workspace/") {
        return in_workspace(program, inside, files, host);
    }
    if !bytes.starts_with(b"/") {
        return in_workspace(program, bytes, files, host);
    }
    let path = Path::new(program);
    check_executable(program, path)?;
    let real = real_file(path, host).unwrap_or_else(|| path.to_path_buf());
    if !reachable(&real) {
        return Err(unreachable_program(program, &real));
    }
    exposed(program, &real, host)
}

fn invalid(what: String) -> SpawnError {
    SpawnError::InvalidInput { what }
}

fn unreachable_program(program: &OsStr, path: &Path) -> SpawnError {
    SpawnError::NotExecutable {
        program: program.into(),
        path: path.into(),
        why: "a directory above it is closed to the sandbox's user, and without a mount namespace \
              it cannot be shown elsewhere"
            .into(),
    }
}

/// A program that is one of the input files.
fn in_workspace(
    program: &OsStr,
    mut path: &[u8],
    files: &[InputFile],
    host: &Host,
) -> Result<Resolved, SpawnError> {
    while let Some(rest) = path.strip_prefix(b"./") {
        path = rest;
    }
    let path = WorkspacePath::parse(path).map_err(|error| invalid(error.to_string()))?;
    let below = [path.as_bytes(), b"/"].concat();
    if files
        .iter()
        .any(|file| file.path.as_bytes().starts_with(&below))
    {
        return Err(SpawnError::IsDirectory {
            program: program.into(),
        });
    }
    let Some(file) = files.iter().find(|file| file.path == path) else {
        return Err(SpawnError::NotFound {
            program: program.into(),
            hint: "a relative path names one of the input files, and none is called so".into(),
        });
    };
    if file.mode & 0o111 == 0 {
        return Err(SpawnError::NotExecutable {
            program: program.into(),
            path: PathBuf::from(path.as_os_str()),
            why: format!(
                "its mode {:o} has no execute bit; give the file mode 755",
                file.mode
            ),
        });
    }
    // A path with a slash, so that nobody searches for it.
    let relative = OsString::from_vec([b"./", path.as_bytes()].concat());
    Ok(Resolved {
        path: relative.into(),
        parts: Vec::new(),
        search: search(&[], host),
    })
}

/// A program by its bare name.
fn on_path(
    program: &OsStr,
    host: &Host,
    reachable: &dyn Fn(&Path) -> bool,
) -> Result<Resolved, SpawnError> {
    let mut found = None;
    for directory in host.path() {
        let candidate = directory.join(program);
        let Ok(()) = check_executable(program, &candidate) else {
            // The first that exists but cannot be executed is the better thing to report.
            if found.is_none() && candidate.exists() {
                found = check_executable(program, &candidate).err();
            }
            continue;
        };
        let Some(real) = real_file(&candidate, host) else {
            found.get_or_insert_with(|| SpawnError::NotFound {
                program: program.into(),
                hint: format!("{candidate:?} is a version manager's shim with nothing behind it"),
            });
            continue;
        };
        if reachable(&real) {
            return exposed(program, &real, host);
        }
        found.get_or_insert_with(|| unreachable_program(program, &real));
    }
    Err(found.unwrap_or_else(|| {
        let path = std::env::join_paths(host.path()).unwrap_or_default();
        SpawnError::NotFound {
            program: program.into(),
            hint: format!("PATH is {path:?}; give an absolute path or install it"),
        }
    }))
}

/// Whether the file is there and can be executed.
fn check_executable(program: &OsStr, path: &Path) -> Result<(), SpawnError> {
    let metadata = fs::metadata(path).map_err(|error| SpawnError::NotFound {
        program: program.into(),
        hint: error.to_string(),
    })?;
    if metadata.is_dir() {
        return Err(SpawnError::IsDirectory {
            program: program.into(),
        });
    }
    let refused = |why: &str| SpawnError::NotExecutable {
        program: program.into(),
        path: path.into(),
        why: why.into(),
    };
    if !metadata.is_file() {
        return Err(refused("it is not a regular file"));
    }
    if metadata.permissions().mode() & 0o111 == 0 {
        return Err(refused("it has no execute permission; chmod +x may help"));
    }
    Ok(())
}

/// The file behind a shim, or the path itself. `None`: a shim with nothing behind it.
fn real_file(path: &Path, host: &Host) -> Option<PathBuf> {
    match shim::behind(path, host) {
        shim::Behind::NoShim => Some(path.to_path_buf()),
        shim::Behind::File(file) => Some(file),
        shim::Behind::Nothing => None,
    }
}

/// What is to be shown for a program, and how it is executed.
fn exposed(program: &OsStr, path: &Path, host: &Host) -> Result<Resolved, SpawnError> {
    let path = &without_parents(path);
    let canonical = path.canonicalize().unwrap_or_else(|_| path.to_path_buf());
    // A link may lead to another file than before, which is shown only where it is a program.
    check_executable(program, &canonical)?;
    let parts = installation::shown(path, &canonical, host);
    // A name that lies within what is shown keeps its meaning: a virtual environment's python finds
    // its configuration beside itself. Any other link is followed here.
    let shown =
        |path: &Path| is_system(path) || parts.iter().any(|part| path.starts_with(&part.at));
    let executed = if shown(path) {
        path.to_path_buf()
    } else {
        canonical
    };
    let mut first = Vec::new();
    if !is_system(&executed) {
        first.extend(executed.parent().map(Path::to_path_buf));
    }
    let search = search(&first, host);
    Ok(Resolved {
        path: executed,
        parts,
        search,
    })
}

/// The same file by a path without "..", of which neither a bind nor a comparison makes sense. Its
/// own name stays: it may be a link that means something.
pub(crate) fn without_parents(path: &Path) -> PathBuf {
    let parent = path
        .components()
        .any(|part| part == Component::ParentDir)
        .then(|| path.parent()?.canonicalize().ok())
        .flatten();
    match (parent, path.file_name()) {
        (Some(parent), Some(name)) => parent.join(name),
        _ => path.to_path_buf(),
    }
}

/// `PATH` inside: the program's own directory, then the host's as far as it is visible.
fn search(first: &[PathBuf], host: &Host) -> OsString {
    let mut directories: Vec<PathBuf> = first.to_vec();
    for directory in host.path() {
        if is_system(&directory) && !directories.contains(&directory) {
            directories.push(directory);
        }
    }
    if directories.len() == first.len() {
        directories.extend(std::env::split_paths(DEFAULT_PATH));
    }
    std::env::join_paths(directories).unwrap_or_else(|_| DEFAULT_PATH.into())
}

/// Whether everybody may pass all directories above a path, and execute it.
pub(crate) fn is_open_to_all(path: &Path) -> bool {
    let Ok(path) = path.canonicalize() else {
        return false;
    };
    path.ancestors()
        .all(|part| fs::metadata(part).is_ok_and(|metadata| metadata.mode() & 1 == 1))
}

#[cfg(test)]
#[path = "resolve_tests.rs"]
mod tests;
