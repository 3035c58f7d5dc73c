//! Grants: paths of the host that the program may use, opened and judged before anything is made.
//!
//! A source is opened once (`O_PATH`, no magic links) and judged by what was opened. Without a
//! mount namespace the Landlock rule is on that very descriptor. With a private root the supervisor
//! has to open the path again, because a mount can only be copied from its own namespace; it does so
//! without following links and refuses what is not the same file ([`FileId`]).
//!
//! # What is refused
//! - Sources that hold more than files: the whole tree, `/proc`, `/sys`, `/dev`, control groups and
//!   the like under any path, and directories in which such are mounted, devices, sockets, FIFOs, and
//!   the directories of other sandboxes.
//! - Destinations that would hide what the sandbox itself put there, or another grant.
//! - What a layer could not keep: another place without a mount namespace, or without one a
//!   read-only part of something that may be written.

use crate::system::is_system;
use crate::view::WORKSPACE;
use crate::{Access, Grant, InputFile, SpawnError, WorkspacePath};
use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags, ResolveFlags, StatxFlags};
use std::cell::OnceCell;
use std::ffi::{OsStr, OsString};
use std::fs;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Component, Path, PathBuf};

/// Which file it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct FileId {
    pub(crate) device: (u32, u32),
    pub(crate) inode: u64,
}

/// A grant whose source is open and may be granted.
#[derive(Debug)]
pub(crate) struct Opened {
    /// The source, `O_PATH`.
    pub(crate) file: OwnedFd,
    /// Its path without links.
    pub(crate) source: PathBuf,
    pub(crate) id: FileId,
    pub(crate) directory: bool,
    /// Where it is in a private root; absolute.
    pub(crate) target: PathBuf,
    /// It is to be elsewhere than on the host.
    pub(crate) moved: bool,
    pub(crate) access: Access,
}

/// Places of the private root that a destination must neither be nor hide.
const OWN: &[&str] = &[
    WORKSPACE, "/tmp", "/etc", "/proc", "/dev", "/sys", "/usr", "/bin", "/sbin", "/lib", "/lib64",
    "/lib32", "/libx32",
];

/// Places of the private root that a destination must not be in.
const CLOSED: &[&str] = &["/proc", "/dev", "/sys"];

/// File systems that are interfaces of the kernel, by their magic numbers.
const INTERFACES: &[(u64, &str)] = &[
    (0x9fa0, "proc"),
    (0x6265_6572, "sysfs"),
    (0x0027_e0eb, "cgroup"),
    (0x6367_7270, "cgroup2"),
    (0x6462_6720, "debugfs"),
    (0x7472_6163, "tracefs"),
    (0x7363_6673, "securityfs"),
    (0x6265_6570, "configfs"),
    (0xf97c_ff8c, "selinuxfs"),
    (0xcafe_4a11, "bpf"),
    (0x6e73_6673, "nsfs"),
    (0x5049_4446, "pidfs"),
    (0x1cd1, "devpts"),
    (0x1980_0202, "mqueue"),
    (0x4249_4e4d, "binfmt_misc"),
    (0xde5e_81e4, "efivarfs"),
];

/// Opens and judges every grant of an execution.
pub(crate) fn open(grants: &[Grant], files: &[InputFile]) -> Result<Vec<Opened>, SpawnError> {
    let mut all: Vec<Opened> = Vec::with_capacity(grants.len());
    let interfaces = OnceCell::new();
    for grant in grants {
        let opened = open_one(grant)?;
        if opened.directory {
            let interfaces = interfaces.get_or_init(mounted_interfaces);
            keep_out(&opened.source, interfaces)?;
        }
        if let Some(other) = all.iter().find(|other| other.target == opened.target) {
            if other.id == opened.id && other.access == opened.access {
                continue;
            }
            return Err(invalid(format!(
                "{:?} is granted twice, as {:?} and as {:?}; grant it once, or give another \
                 destination",
                opened.target, other.source, opened.source
            )));
        }
        keep_clear(&opened.target, files)?;
        all.push(opened);
    }
    Ok(all)
}

/// Without a mount namespace everything is where it is on the host, and Landlock's rules add up.
pub(crate) fn without_mounts(grants: &[Opened], why: &str) -> Result<(), SpawnError> {
    for grant in grants {
        if grant.moved {
            return Err(SpawnError::LayerUnavailable {
                layer: crate::Layer::MountNs,
                why: format!(
                    "{:?} can only appear as {:?} in a mount namespace, and {why}; grant it without \
                     a destination, or copy it into the workspace (--file)",
                    grant.source, grant.target
                ),
            });
        }
        let writable = grants.iter().find(|other| {
            grant.access == Access::Read
                && other.access == Access::ReadWrite
                && grant.source.starts_with(&other.source)
        });
        if let Some(other) = writable {
            return Err(SpawnError::LayerUnavailable {
                layer: crate::Layer::MountNs,
                why: format!(
                    "{:?} can only be kept from being written within {:?} in a mount namespace, \
                     and {why}; grant parts that do not contain each other",
                    grant.source, other.source
                ),
            });
        }
    }
    Ok(())
}

fn open_one(grant: &Grant) -> Result<Opened, SpawnError> {
    let path = &grant.path;
    let refused = |why: String| invalid(format!("the path {path:?} cannot be granted: {why}"));
    if !path.is_absolute() {
        return Err(refused("give an absolute path".into()));
    }
    let (file, id, kind) = open_source(path).map_err(|error| match error {
        rustix::io::Errno::LOOP => {
            refused("it goes through a link of /proc, or through too many links".into())
        }
        error @ (rustix::io::Errno::NOENT | rustix::io::Errno::NOTDIR) => {
            let why = std::io::Error::from(error);
            refused(format!("{why}; name a file or directory that is there"))
        }
        error => refused(std::io::Error::from(error).to_string()),
    })?;
    let directory = match kind {
        FileType::Directory => true,
        FileType::RegularFile => false,
        _ => {
            return Err(refused(
                "it is a device, a socket or a FIFO; only files and directories can be".into(),
            ));
        }
    };
    let source = fs::read_link(format!("/proc/self/fd/{}", file.as_raw_fd()))
        .map_err(|error| refused(format!("its real path cannot be found: {error}")))?;
    if let Some(why) = sensitive(&source, &file, id) {
        return Err(refused(why));
    }
    let (target, moved) = target(grant, &source)?;
    Ok(Opened {
        file,
        source,
        id,
        directory,
        target,
        moved,
        access: grant.access,
    })
}

/// Where interfaces of the kernel are mounted, and which.
fn mounted_interfaces() -> Vec<(PathBuf, String)> {
    // Without it nothing of the kind can be mounted but what is known by its root.
    let table = fs::read("/proc/self/mountinfo").unwrap_or_default();
    let lines = table.split(|byte| *byte == b'\n');
    let mounts = lines.filter_map(|line| {
        // "number parent device root place options ... - type source options"
        let mut fields = line.split(|byte| *byte == b' ').skip(4);
        let place = unescape(fields.next()?);
        let kind = fields.skip_while(|field| *field != b"-").nth(1)?;
        Some((place, String::from_utf8_lossy(kind).into_owned()))
    });
    let is_interface = |kind: &str| INTERFACES.iter().any(|(_, name)| *name == kind);
    mounts
        .filter(|(_, kind)| is_interface(kind) || kind == "devtmpfs")
        .collect()
}

/// A path of `mountinfo`, where blanks and the like are written as octal numbers.
fn unescape(field: &[u8]) -> PathBuf {
    let mut path = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((byte, behind)) = rest.split_first() {
        let digits = behind.get(..3).filter(|_| *byte == b'\\');
        let number = digits.and_then(|digits| {
            digits.iter().try_fold(0_u8, |number, digit| {
                let digit = digit.checked_sub(b'0').filter(|digit| *digit < 8)?;
                number.checked_mul(8)?.checked_add(digit)
            })
        });
        path.push(number.unwrap_or(*byte));
        rest = match number {
            Some(_) => behind.get(3..).unwrap_or_default(),
            None => behind,
        };
    }
    PathBuf::from(OsString::from_vec(path))
}

/// A directory is granted with what is mounted below it.
fn keep_out(source: &Path, interfaces: &[(PathBuf, String)]) -> Result<(), SpawnError> {
    let mut below = interfaces.iter().filter(|(at, _)| at.starts_with(source));
    below.next().map_or(Ok(()), |(at, kind)| {
        Err(invalid(format!(
            "the path {source:?} cannot be granted: at {at:?} in it {kind} is mounted, an interface \
             of the kernel; grant the parts beside it"
        )))
    })
}

/// Opens a path without magic links, with a number above the standard streams'.
fn open_source(path: &Path) -> rustix::io::Result<(OwnedFd, FileId, FileType)> {
    let file = rustix::fs::openat2(
        CWD,
        path,
        OFlags::PATH | OFlags::CLOEXEC,
        Mode::empty(),
        ResolveFlags::NO_MAGICLINKS,
    )?;
    let file = rustix::io::fcntl_dupfd_cloexec(&file, 3)?;
    let (id, kind) = identify(file.as_fd())?;
    Ok((file, id, kind))
}

fn identify(file: std::os::fd::BorrowedFd<'_>) -> rustix::io::Result<(FileId, FileType)> {
    let wanted = StatxFlags::TYPE | StatxFlags::INO;
    let stat = rustix::fs::statx(file, "", AtFlags::EMPTY_PATH, wanted)?;
    let id = FileId {
        device: (stat.stx_dev_major, stat.stx_dev_minor),
        inode: stat.stx_ino,
    };
    Ok((id, FileType::from_raw_mode(stat.stx_mode.into())))
}

/// Why a source must not be granted, if so.
fn sensitive(source: &Path, file: &OwnedFd, id: FileId) -> Option<String> {
    let root = open_source(Path::new("/")).ok();
    if source == Path::new("/") || root.is_some_and(|(_, root, _)| root == id) {
        return Some("it is the whole tree; grant the parts of it that are needed".into());
    }
    if let Some(top) = CLOSED.iter().find(|top| source.starts_with(top)) {
        return Some(format!(
            "{top} is the kernel's interface to this machine, and the program has its own"
        ));
    }
    let magic = rustix::fs::fstatfs(file).map(|stat| {
        #[expect(
            clippy::cast_sign_loss,
            clippy::cast_possible_truncation,
            reason = "magic numbers have 32 bits, in whatever type a C library gives them"
        )]
        let magic = stat.f_type as u32;
        u64::from(magic)
    });
    let interface = INTERFACES
        .iter()
        .find(|(number, _)| magic.is_ok_and(|magic| magic == *number));
    if let Some((_, name)) = interface {
        return Some(format!("it lies on {name}, an interface of the kernel"));
    }
    let temporary = std::env::temp_dir().canonicalize().ok()?;
    if temporary.starts_with(source) {
        return Some(format!(
            "{temporary:?} holds the private directories of sandboxes; grant a directory beside or \
             below it, or set TMPDIR to another"
        ));
    }
    let below = source.strip_prefix(&temporary).ok()?.components().next()?;
    is_private_directory(below.as_os_str())
        .then(|| "it is the private directory of a sandbox".into())
}

/// Whether a name in the temporary directory is one of [`crate::host_directory`]'s.
fn is_private_directory(name: &OsStr) -> bool {
    let Some(numbers) = name.as_bytes().strip_prefix(b"ringfence-") else {
        return false;
    };
    let mut parts = numbers.split(|byte| *byte == b'-');
    let number = |part: &[u8]| !part.is_empty() && part.iter().all(u8::is_ascii_digit);
    parts.by_ref().take(3).filter(|part| number(part)).count() == 3 && parts.next().is_none()
}

/// Where a grant appears in a private root, and whether that is elsewhere than on the host.
fn target(grant: &Grant, source: &Path) -> Result<(PathBuf, bool), SpawnError> {
    let Some(destination) = &grant.destination else {
        let has_parent = grant
            .path
            .components()
            .any(|part| part == Component::ParentDir);
        // A system directory's second name is a link in the private root, too.
        let as_it_is = has_parent || is_system(source);
        let target = if as_it_is { source } else { &grant.path };
        let target = plain(target).map_err(|why| unusable(target, &why))?;
        if !is_system(&target) {
            check_target(&target)?;
        }
        return Ok((target, false));
    };
    let whole = Path::new(WORKSPACE).join(destination);
    let target = plain(&whole).map_err(|why| unusable(destination, &why))?;
    check_target(&target)?;
    if is_system(&target) && target != source {
        return Err(unusable(
            &target,
            "it is among the system's programs and libraries",
        ));
    }
    let moved = target != source && target != plain(&grant.path).unwrap_or_default();
    Ok((target, moved))
}

/// An absolute path without `.` and superfluous slashes.
fn plain(path: &Path) -> Result<PathBuf, String> {
    let mut whole = PathBuf::from("/");
    for part in path.components() {
        match part {
            Component::RootDir | Component::CurDir => {}
            Component::Normal(name) => whole.push(name),
            Component::ParentDir | Component::Prefix(_) => {
                return Err("it has the component \"..\"".into());
            }
        }
    }
    let relative = whole.strip_prefix("/").unwrap_or(&whole);
    if !relative.as_os_str().is_empty() {
        WorkspacePath::parse(relative.as_os_str().as_bytes()).map_err(|error| error.to_string())?;
    }
    Ok(whole)
}

fn check_target(target: &Path) -> Result<(), SpawnError> {
    if let Some(hidden) = OWN.iter().find(|own| Path::new(own).starts_with(target)) {
        let why = format!("it would hide {hidden} of the sandbox; give a path below or beside it");
        return Err(unusable(target, &why));
    }
    if let Some(top) = CLOSED.iter().find(|top| target.starts_with(top)) {
        return Err(unusable(target, &format!("{top} is the sandbox's own")));
    }
    Ok(())
}

fn unusable(target: &Path, why: &str) -> SpawnError {
    invalid(format!("{target:?} is no place for a granted path: {why}"))
}

/// Where grants appear below the workspace.
pub(crate) fn in_workspace(grants: &[Grant]) -> Vec<Vec<u8>> {
    let destinations = grants.iter().filter_map(|grant| grant.destination.as_ref());
    let below = destinations.filter_map(|destination| {
        let target = plain(&Path::new(WORKSPACE).join(destination)).ok()?;
        let below = target.strip_prefix(WORKSPACE).ok()?;
        Some(below.as_os_str().as_bytes().to_vec())
    });
    below.collect()
}

/// No input file is written to a granted path, or in place of a directory above one.
fn keep_clear(target: &Path, files: &[InputFile]) -> Result<(), SpawnError> {
    let Ok(below) = target.strip_prefix(WORKSPACE) else {
        return Ok(());
    };
    let clash = files.iter().map(|file| Path::new(file.path.as_os_str()));
    let mut clash = clash.filter(|file| file.starts_with(below) || below.starts_with(file));
    clash.next().map_or(Ok(()), |file| {
        Err(invalid(format!(
            "the input file {file:?} and the granted path {target:?} exclude each other; give one \
             of them another place"
        )))
    })
}

fn invalid(what: String) -> SpawnError {
    SpawnError::InvalidInput { what }
}

#[cfg(test)]
#[path = "grants_tests.rs"]
mod tests;
