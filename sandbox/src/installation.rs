//! What of the host is shown for a program that is not the system's.
//!
//! Whoever names a program asks for that program, and not for what lies around it: the directory
//! above its `bin` may be an installation, and may as well be somebody's work with its history and
//! passwords. So what is shown are the parts that an installation is made of, by their names, and
//! where something says that this is somebody's work, the program's file alone. A directory is shown
//! as a whole only where a version manager keeps its installations, and never a home.
//!
//! The directories around a program may be a stranger's, who changes them meanwhile: a link among their
//! parts is shown only where it leads to another part that is shown, and what was judged has a path
//! without links by then ([`Part::real`]), by which it is opened later. Who swaps a directory on it for
//! a link gains nothing.

use crate::resolve::{Host, without_parents};
use crate::shim;
use crate::system::is_system;
use std::fs;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

/// The directories that installations of all kinds have.
const USUAL: &[&str] = &[
    "bin", "sbin", "lib", "lib32", "lib64", "libexec", "include", "share",
];

/// Something of the host that is shown for a program.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Part {
    /// Where the program sees it; a name may be a link.
    pub(crate) at: PathBuf,
    /// What was judged, by a path without links.
    pub(crate) real: PathBuf,
}

impl Part {
    /// By a path without links.
    pub(crate) fn of(real: PathBuf) -> Self {
        Self {
            at: real.clone(),
            real,
        }
    }

    fn has(&self, path: &Path) -> bool {
        path.starts_with(&self.real)
    }
}

/// What some have beside them.
struct Kind {
    /// All of this is there.
    signs: &'static [&'static str],
    /// What else belongs to it.
    parts: &'static [&'static str],
}

const KINDS: &[Kind] = &[
    // A virtual environment of Python.
    Kind {
        signs: &["pyvenv.cfg"],
        parts: &["pyvenv.cfg"],
    },
    // A JDK, and one before Java 9.
    Kind {
        signs: &["release", "lib/modules"],
        parts: &["release", "conf", "jmods"],
    },
    Kind {
        signs: &["release", "jre/lib"],
        parts: &["release", "jre"],
    },
    // Go.
    Kind {
        signs: &["VERSION", "pkg/tool"],
        parts: &["VERSION", "go.env", "pkg", "src"],
    },
    // Conda, whose OpenSSL is configured there.
    Kind {
        signs: &["conda-meta"],
        parts: &["ssl"],
    },
];

/// What somebody's own work has, and no installation.
const WORK: &[&str] = &[".git", ".hg", ".svn", ".jj", ".env"];

/// Links that are followed from a program's name to its file: the kernel's own bound.
const MOST_LINKS: usize = 40;

/// What is shown for the program that `path` names and `file` is, which has no links.
pub(crate) fn shown(path: &Path, file: &Path, host: &Host) -> Vec<Part> {
    let homes = Homes::of(host);
    let mut all = virtual_environment(path, &homes, host);
    if !is_system(file) {
        all.extend(installation(path, file, &homes, host));
    }
    let mut shown: Vec<Part> = Vec::new();
    for part in all {
        if !shown.iter().any(|other| part.at.starts_with(&other.at)) {
            shown.push(part);
        }
    }
    shown
}

/// The Python virtual environment that a path is a part of, by this name and by its own.
fn virtual_environment(path: &Path, homes: &Homes, host: &Host) -> Vec<Part> {
    let root = path.parent().and_then(Path::parent);
    // Where its name is a link, the grant of a directory around it shows that link as such.
    let Some((root, real)) = root.and_then(|root| Some((root, root.canonicalize().ok()?))) else {
        return Vec::new();
    };
    if !real.join("pyvenv.cfg").is_file() || homes.are_in(root) || homes.are_in(&real) {
        return Vec::new();
    }
    let parts = match is_work(&real, host) {
        true => parts(&real),
        false => vec![Part::of(real.clone())],
    };
    [called(root, &real, &parts), parts].concat()
}

/// What is shown of the installation that the program is a part of: of the first that one of its
/// names lies in and that its file is a part of, too.
fn installation(path: &Path, file: &Path, homes: &Homes, host: &Host) -> Vec<Part> {
    let names = names(path);
    for name in &names {
        let prefix = prefix_of(&name.real);
        let Some(prefix) = prefix.filter(|prefix| file.starts_with(prefix)) else {
            continue;
        };
        if homes.too_wide(prefix) {
            continue;
        }
        let parts = if shim::is_installation(prefix, host) {
            vec![Part::of(prefix.to_path_buf())]
        } else if is_work(prefix, host) && !prefix.join("pyvenv.cfg").is_file() {
            continue;
        } else {
            parts(prefix)
        };
        if !parts.iter().any(|part| part.has(file)) {
            continue;
        }
        // A link on the way, such as a virtual environment's to its base, may call it otherwise.
        let others = names.iter().filter_map(|name| prefix_of(&name.spelled));
        let others = others.filter(|other| {
            *other != prefix
                && !is_system(other)
                && !homes.too_wide(other)
                && other.canonicalize().is_ok_and(|real| real == prefix)
        });
        let others: Vec<Part> = others
            .flat_map(|other| called(other, prefix, &parts))
            .collect();
        return [parts, others].concat();
    }
    vec![Part::of(file.to_path_buf())]
}

/// A name of a program.
struct Name {
    /// As somebody called it, without "..".
    spelled: PathBuf,
    /// In a directory without links.
    real: PathBuf,
}

/// A program's names, each a link to the next. The last is its file's own.
fn names(path: &Path) -> Vec<Name> {
    let mut names = Vec::new();
    let mut next = Some(path.to_path_buf());
    while let Some(spelled) = next.filter(|_| names.len() <= MOST_LINKS) {
        let spelled = without_parents(&spelled);
        let directory = spelled.parent().and_then(|above| above.canonicalize().ok());
        let Some((directory, name)) = directory.zip(spelled.file_name()) else {
            break;
        };
        let real = directory.join(name);
        next = fs::read_link(&real)
            .ok()
            .map(|target| directory.join(target));
        names.push(Name { spelled, real });
    }
    names
}

/// The directory above the `bin` or `sbin` that a path is in.
fn prefix_of(path: &Path) -> Option<&Path> {
    let directory = path.parent()?;
    let name = directory.file_name()?;
    let is_bin = name == "bin" || name == "sbin";
    directory.parent().filter(|_| is_bin)
}

/// The parts of an installation that are there; the path of `prefix` has no links. A link is one of
/// them only where it leads to another.
fn parts(prefix: &Path) -> Vec<Part> {
    let there = |name: &&str| prefix.join(name).symlink_metadata().is_ok();
    let kinds = KINDS.iter().filter(|kind| kind.signs.iter().all(there));
    let others = kinds.flat_map(|kind| kind.parts).map(|name| (*name, true));
    let usual = USUAL.iter().map(|name| (*name, false));
    let (mut parts, mut links) = (Vec::new(), Vec::new());
    for (name, may_be_a_file) in usual.chain(others) {
        let part = prefix.join(name);
        let Ok(metadata) = part.symlink_metadata() else {
            continue;
        };
        if metadata.is_symlink() {
            links.push(part);
        } else if metadata.is_dir() || (may_be_a_file && metadata.is_file()) {
            parts.push(Part::of(part));
        }
    }
    let links = links.into_iter().filter_map(|at| {
        let real = at.canonicalize().ok()?;
        let is_part = parts.iter().any(|part| part.has(&real));
        is_part.then_some(Part { at, real })
    });
    let links: Vec<Part> = links.collect();
    parts.extend(links);
    parts
}

/// The parts of `prefix` by another name of it.
fn called(other: &Path, prefix: &Path, parts: &[Part]) -> Vec<Part> {
    let called = parts.iter().filter_map(|part| {
        let below = part.at.strip_prefix(prefix).ok()?;
        let at = match below.as_os_str().is_empty() {
            true => other.to_path_buf(),
            false => other.join(below),
        };
        let real = part.real.clone();
        Some(Part { at, real })
    });
    called.collect()
}

/// Whether a directory is somebody's own work, or the one that the caller stands in.
fn is_work(directory: &Path, host: &Host) -> bool {
    host.directory.as_deref() == Some(directory)
        || WORK
            .iter()
            .any(|sign| directory.join(sign).symlink_metadata().is_ok())
}

/// The homes of this host, as far as they are known.
struct Homes {
    known: Vec<PathBuf>,
    /// Directories in which each entry is a home.
    above: Vec<PathBuf>,
}

impl Homes {
    fn of(host: &Host) -> Self {
        // Paths without links are compared with them, and `/home` itself is a link on some hosts.
        let both = |path: PathBuf| {
            let real = path.canonicalize().ok();
            std::iter::once(path).chain(real)
        };
        let known = host.home().into_iter().chain(["/root".into()]);
        Self {
            known: known.flat_map(both).collect(),
            above: both("/home".into()).collect(),
        }
    }

    /// Whether a directory is a home, or above one.
    fn are_in(&self, directory: &Path) -> bool {
        self.known.iter().any(|home| home.starts_with(directory))
            || self.above.iter().any(|above| {
                above.starts_with(directory) || directory.parent() == Some(above.as_path())
            })
    }

    /// Whether a directory holds more than one installation: the root, what is right below it, a
    /// home, what is above one, or a hidden directory right below one, such as `.local`.
    fn too_wide(&self, directory: &Path) -> bool {
        let name = directory.file_name().unwrap_or_default();
        let parent = directory.parent();
        let in_a_home = parent.is_some_and(|parent| {
            let above = parent.parent();
            self.known.iter().any(|home| home == parent)
                || self
                    .above
                    .iter()
                    .any(|homes| Some(homes.as_path()) == above)
        });
        directory.components().count() <= 2
            || self.are_in(directory)
            || (in_a_home && name.as_bytes().starts_with(b"."))
    }
}

#[cfg(test)]
#[path = "installation_tests.rs"]
mod tests;
