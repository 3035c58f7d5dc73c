//! What of the host a program sees, and where.
//!
//! Read-only: the system's programs and libraries, and the minimum of `/etc`. Never a home
//! directory, `/run`, `/sys`, `/var` or the host's users. With a mount namespace the list becomes
//! binds of a private root, without one it becomes Landlock rules; it is the same list.

use crate::grants::{FileId, Opened};
use crate::plan::{Bind, Root};
use crate::resolve::Resolved;
use crate::{Access, Limits, SpawnError, system};
use std::ffi::CString;
use std::fs;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicI32;

/// The workspace in a private root.
pub(crate) const WORKSPACE: &str = "/workspace";

/// Devices that hold nothing.
pub(crate) const DEVICES: &[&str] = &["null", "zero", "full", "random", "urandom"];

/// All devices of the host that a program has. `tty` is whatever terminal a process has, and none of
/// the caller's can be had.
pub(crate) fn devices() -> impl Iterator<Item = &'static str> {
    DEVICES.iter().copied().chain(["tty"])
}

/// Files of `/etc` that say nothing of this host.
const SYNTHETIC: &[(&str, &str)] = &[
    (
        "etc/nsswitch.conf",
        "passwd: files\ngroup: files\nhosts: files\nservices: files\n",
    ),
    ("etc/hosts", "127.0.0.1 localhost\n::1 localhost\n"),
    ("etc/hostname", "sandbox\n"),
];

/// Something of the host that may be read.
pub(crate) struct Readable {
    pub(crate) path: PathBuf,
    pub(crate) directory: bool,
    /// Its path had no links when it was judged, and must not have any when it is opened.
    pub(crate) without_links: bool,
}

/// Everything of the host that may be read.
pub(crate) fn readable(resolved: &Resolved) -> Vec<Readable> {
    let entries = system::entries();
    let system = entries
        .iter()
        .map(|entry| (&*entry.path, entry.directory))
        .chain([(Path::new("/etc/nsswitch.conf"), false)])
        .map(|(path, directory)| Readable {
            path: path.into(),
            directory,
            without_links: false,
        });
    let parts = resolved.parts.iter().map(|part| Readable {
        path: part.real.clone(),
        directory: part.real.is_dir(),
        without_links: true,
    });
    system.chain(parts).collect()
}

/// Collects the parts of a private root.
#[derive(Default)]
struct Builder {
    directories: Vec<PathBuf>,
    links: Vec<(PathBuf, PathBuf)>,
    binds: Vec<Shown>,
}

/// Something of the host that is bound into a private root.
struct Shown {
    /// As the program's links call it.
    source: PathBuf,
    /// What is opened instead, without following links.
    real: Option<PathBuf>,
    target: PathBuf,
    access: Access,
    device: bool,
    directory: bool,
    granted: Option<(FileId, OwnedFd)>,
}

impl Shown {
    /// What the host has at the same place, to be read.
    fn of_host(path: &Path, directory: bool) -> Self {
        Self {
            source: path.into(),
            real: None,
            target: path.into(),
            access: Access::Read,
            device: false,
            directory,
            granted: None,
        }
    }

    /// Whether what `other` shows at its place is what this shows there, or contains it.
    fn has(&self, other: &Self) -> bool {
        let below = |path: &Path, top: &Path| path.strip_prefix(top).map(Path::to_path_buf).ok();
        let place = below(&other.target, &self.target);
        place.is_some() && place == below(&other.source, &self.source)
    }
}

impl Builder {
    /// Shows what the host has at the same place: a symbolic link as such, anything else bound.
    fn show(&mut self, entry: &system::Entry) {
        let path = &entry.path;
        if let Some(target) = &entry.link {
            self.make_parents(path);
            self.links.push((target.clone(), path.clone()));
        } else {
            self.bind(Shown::of_host(path, entry.directory));
        }
    }

    /// Adds a bind, unless what is nearest above it shows the same already.
    fn bind(&mut self, shown: Shown) {
        let above = self.binds.iter().filter(|other| other.has(&shown));
        let nearest = above.max_by_key(|other| other.target.components().count());
        if nearest.is_none_or(|nearest| nearest.access != shown.access) {
            self.binds.push(shown);
        }
    }

    /// Adds a grant, unless it and something else would hide each other.
    fn grant(&mut self, opened: Opened) -> Result<(), SpawnError> {
        let shown = Shown {
            real: Some(opened.source.clone()),
            source: opened.source,
            target: opened.target,
            access: opened.access,
            device: false,
            directory: opened.directory,
            granted: Some((opened.id, opened.file)),
        };
        let hidden = self.binds.iter().find(|other| {
            let (ours, theirs) = (&shown.target, &other.target);
            (theirs.starts_with(ours) && !shown.has(other))
                || (ours.starts_with(theirs) && !other.has(&shown))
        });
        if let Some(other) = hidden {
            return Err(SpawnError::InvalidInput {
                what: format!(
                    "{:?} cannot be granted as {:?}: there and {:?} exclude each other; give \
                     another destination",
                    shown.source, shown.target, other.target
                ),
            });
        }
        // A part of the system, or the program itself, may lie within what is granted for writing,
        // and a name of the program may be a link there.
        self.binds
            .retain(|other| other.granted.is_some() || !shown.has(other));
        self.bind(shown);
        Ok(())
    }

    /// Directories of the root itself, which are made before anything is bound.
    fn make_parents(&mut self, path: &Path) {
        let parents: Vec<&Path> = path.ancestors().skip(1).collect();
        for parent in parents
            .into_iter()
            .rev()
            .filter(|parent| *parent != Path::new("/"))
        {
            if !self.directories.iter().any(|made| made == parent) {
                self.directories.push(parent.into());
            }
        }
    }
}

/// The private root for a program.
pub(crate) fn private_root(
    resolved: &Resolved,
    mut grants: Vec<Opened>,
    limits: &Limits,
) -> Result<Root, SpawnError> {
    let mut builder = Builder::default();
    for directory in [
        "/etc",
        "/proc",
        "/dev",
        "/dev/pts",
        "/dev/shm",
        "/workspace",
        "/tmp",
    ] {
        builder.make_parents(&Path::new(directory).join("x"));
    }
    for entry in system::entries().iter() {
        builder.show(entry);
    }
    for part in &resolved.parts {
        builder.bind(Shown {
            real: Some(part.real.clone()),
            ..Shown::of_host(&part.at, part.real.is_dir())
        });
    }
    for name in devices() {
        let path = Path::new("/dev").join(name);
        if path.exists() {
            builder.binds.push(Shown {
                device: true,
                ..Shown::of_host(&path, false)
            });
        }
    }
    for (name, target) in [
        ("ptmx", "pts/ptmx"),
        ("fd", "/proc/self/fd"),
        ("stdin", "fd/0"),
        ("stdout", "fd/1"),
        ("stderr", "fd/2"),
    ] {
        builder
            .links
            .push((target.into(), Path::new("/dev").join(name)));
    }
    grants.sort_by_key(|grant| grant.target.components().count());
    for grant in grants {
        builder.grant(grant)?;
    }
    // A bind that lies within another one comes after it.
    builder
        .binds
        .sort_by_key(|shown| shown.target.components().count());
    finish(builder, limits)
}

fn finish(builder: Builder, limits: &Limits) -> Result<Root, SpawnError> {
    let Builder {
        directories,
        links,
        binds,
    } = builder;
    let bases = ["/tmp", "/var", "/mnt", "/usr", "/proc"];
    let base = bases
        .into_iter()
        .find(|base| is_real_directory(base))
        .unwrap_or("/proc");
    let targets: Vec<PathBuf> = binds.iter().map(|shown| shown.target.clone()).collect();
    let binds = binds
        .into_iter()
        .enumerate()
        .map(|(index, shown)| bind(shown, targets.get(..index).unwrap_or_default()))
        .collect::<Result<_, SpawnError>>()?;
    Ok(Root {
        base: c_string(Path::new(base))?,
        directories: directories
            .iter()
            .map(|path| relative(path))
            .collect::<Result<_, _>>()?,
        links: links
            .iter()
            .map(|(target, path)| Ok((c_string(target)?, relative(path)?)))
            .collect::<Result<_, SpawnError>>()?,
        files: SYNTHETIC
            .iter()
            .map(|(path, text)| Ok((c_string(Path::new(path))?, text.as_bytes().to_vec())))
            .collect::<Result<_, SpawnError>>()?,
        binds,
        scratch: scratch_options(limits.workspace)?,
        no_room: limits.workspace == Some(0),
    })
}

/// A bind as the supervisor carries it out, after those at `earlier`.
fn bind(shown: Shown, earlier: &[PathBuf]) -> Result<Bind, SpawnError> {
    let target = &shown.target;
    let in_scratch = shown.granted.is_some()
        && [WORKSPACE, "/tmp"]
            .iter()
            .any(|top| target.starts_with(top));
    let tops: &[&str] = if in_scratch {
        &["/", WORKSPACE, "/tmp"]
    } else {
        &["/"]
    };
    let parents: Vec<&Path> = target.ancestors().skip(1).collect();
    let parents = parents.into_iter().rev();
    let parents = parents.filter(|path| !tops.iter().any(|top| *path == Path::new(top)));
    Ok(Bind {
        directory: shown.directory,
        source: c_string(shown.real.as_ref().unwrap_or(&shown.source))?,
        without_links: shown.real.is_some(),
        target: relative(target)?,
        parents: parents.map(relative).collect::<Result<_, _>>()?,
        writable: shown.access == Access::ReadWrite,
        device: shown.device,
        exists: earlier.iter().any(|other| target.starts_with(other)),
        in_scratch,
        granted: shown.granted,
        tree: AtomicI32::new(-1),
    })
}

fn is_real_directory(path: &str) -> bool {
    fs::symlink_metadata(path).is_ok_and(|metadata| metadata.is_dir())
}

/// Mount options of what the program can write to. The number of files is bounded with the size:
/// an empty file costs the kernel about a KiB.
fn scratch_options(limit: Option<u64>) -> Result<CString, SpawnError> {
    let options = match limit {
        Some(bytes) if bytes < 1 << 62 => {
            let inodes = (bytes / 1024).clamp(1024, 1 << 20);
            format!("mode=0755,size={},nr_inodes={inodes}", bytes.max(1))
        }
        _ => "mode=0755,size=0".into(),
    };
    c_string(Path::new(&options))
}

fn relative(path: &Path) -> Result<CString, SpawnError> {
    c_string(path.strip_prefix("/").unwrap_or(path))
}

/// A path for the kernel.
pub(crate) fn c_string(path: &Path) -> Result<CString, SpawnError> {
    CString::new(path.as_os_str().as_bytes()).map_err(|_nul| SpawnError::InvalidInput {
        what: format!("{path:?} contains a NUL byte, which no path can"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Grant;
    use crate::installation::Part;

    #[test]
    fn the_size_of_the_workspace_is_an_option_of_its_file_system() {
        let options = |limit| scratch_options(limit).unwrap().into_string().unwrap();
        assert_eq!(options(Some(0)), "mode=0755,size=1,nr_inodes=1024");
        assert_eq!(
            options(Some(64 << 20)),
            "mode=0755,size=67108864,nr_inodes=65536"
        );
        assert_eq!(options(None), "mode=0755,size=0");
        assert_eq!(options(Some(u64::MAX)), "mode=0755,size=0");
    }

    #[test]
    fn the_private_root_has_no_home_and_no_run() {
        let resolved = Resolved::of_system("/usr/bin/true".into());
        let root = private_root(&resolved, Vec::new(), &Limits::default()).unwrap();
        for bind in &root.binds {
            let target = bind.target.to_str().unwrap();
            for closed in [
                "home",
                "root",
                "run",
                "var",
                "sys",
                "etc/shadow",
                "etc/passwd",
            ] {
                assert!(!target.starts_with(closed), "{target}");
            }
            assert_ne!(target, "");
            assert_ne!(target, "etc");
        }
    }

    /// The binds of the private root below `top`, and which of them can be written to.
    fn writable(
        top: &Path,
        grants: &[(&Path, Access)],
        resolved: &Resolved,
    ) -> Vec<(PathBuf, bool)> {
        let grants: Vec<Grant> = grants
            .iter()
            .map(|(path, access)| Grant {
                path: path.into(),
                destination: None,
                access: *access,
            })
            .collect();
        let opened = crate::grants::open(&grants, &[]).unwrap();
        let root = private_root(resolved, opened, &Limits::default()).unwrap();
        let binds = root.binds.into_iter();
        let mut shown: Vec<(PathBuf, bool)> = binds
            .map(|bind| {
                let target = Path::new("/").join(bind.target.to_str().unwrap());
                (target, bind.writable)
            })
            .filter(|(target, _)| target.starts_with(top))
            .collect();
        shown.sort();
        shown
    }

    #[test]
    fn what_is_nearest_to_a_place_says_whether_it_can_be_written_in_whatever_order() {
        let resolved = Resolved::of_system("/usr/bin/true".into());
        let [usr, bin, env] = ["/usr", "/usr/bin", "/usr/bin/env"].map(Path::new);
        let grants = [
            (usr, Access::ReadWrite),
            (bin, Access::Read),
            (env, Access::ReadWrite),
        ];
        let expected = [(usr, true), (bin, false), (env, true)]
            .map(|(target, writable)| (target.to_path_buf(), writable));
        for order in [
            [0, 1, 2],
            [0, 2, 1],
            [1, 0, 2],
            [1, 2, 0],
            [2, 0, 1],
            [2, 1, 0],
        ] {
            let grants = order.map(|index| *grants.get(index).unwrap());
            assert_eq!(writable(usr, &grants, &resolved), expected, "{grants:?}");
        }
        let reading = [(bin, Access::Read), (usr, Access::Read)];
        assert_eq!(
            writable(usr, &reading, &resolved),
            [(usr.to_path_buf(), false)]
        );
    }

    #[test]
    fn a_program_within_what_is_granted_is_as_writable_as_that() {
        let place = tempfile::tempdir().unwrap();
        let top = place.path().canonicalize().unwrap();
        let environment = top.join("environment");
        fs::create_dir(&environment).unwrap();
        let mut resolved = Resolved::of_system(environment.join("bin/tool"));
        resolved.parts = vec![Part::of(environment.clone())];
        let alone = writable(&top, &[], &resolved);
        assert_eq!(alone, [(environment, false)]);
        for (access, expected) in [(Access::Read, false), (Access::ReadWrite, true)] {
            let shown = writable(&top, &[(&top, access)], &resolved);
            assert_eq!(shown, [(top.clone(), expected)]);
        }
    }
}
