//! Files and their metadata. Each value is a path.

use super::Table;
use super::Try::{Attempt, State};
use super::error_name;
use crate::sys::{NULL, call};
use std::ffi::CString;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _};
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _, symlink};

pub(super) const TRIES: Table = &[
    ("read", Attempt(read)),
    ("read-through-link", Attempt(read_through_link)),
    ("read-through-proc-root", Attempt(read_through_proc_root)),
    ("list", Attempt(list)),
    ("write", Attempt(write)),
    ("append", Attempt(append)),
    ("truncate", Attempt(truncate)),
    ("create", Attempt(create)),
    (
        "create-directory",
        Attempt(|path| fs::create_dir(path).map(|()| path.into())),
    ),
    (
        "remove",
        Attempt(|path| fs::remove_file(path).map(|()| path.into())),
    ),
    (
        "rename-away",
        Attempt(|path| fs::rename(path, "renamed").map(|()| path.into())),
    ),
    ("rename-over", Attempt(rename_over)),
    (
        "hard-link",
        Attempt(|path| fs::hard_link(path, "linked").map(|()| path.into())),
    ),
    ("chmod", Attempt(chmod)),
    ("chmod-by-descriptor", Attempt(chmod_by_descriptor)),
    ("chmod-through-link", Attempt(chmod_through_link)),
    ("fchmodat2", Attempt(fchmodat2)),
    ("chown", Attempt(chown)),
    ("utimens", Attempt(utimens)),
    ("setxattr", Attempt(setxattr)),
    ("removexattr", Attempt(removexattr)),
    ("file-attributes", Attempt(file_attributes)),
    ("memory-of-file", State(memory_of_file)),
    ("execute", Attempt(execute)),
    ("open-by-handle", Attempt(open_by_handle)),
    ("take-handle", Attempt(take_handle)),
    (
        "make-device",
        Attempt(|place| make_device(place, libc::S_IFCHR, 1, 1)),
    ),
    (
        "make-block-device",
        Attempt(|place| make_device(place, libc::S_IFBLK, 8, 0)),
    ),
];

const XATTR: &std::ffi::CStr = c"user.ringfence";

/// `FS_IOC_SETFLAGS`.
const SET_FLAGS: u64 = 0x4008_6602;

const FCHMODAT2: libc::c_long = 452;

fn path(text: &str) -> io::Result<CString> {
    CString::new(text).map_err(io::Error::other)
}

fn done(_: usize) -> String {
    "done".into()
}

fn read(path: &str) -> io::Result<String> {
    let mut start = [0; 64];
    let read = File::open(path)?.read(&mut start)?;
    Ok(format!("{read} bytes"))
}

/// The workspace is writable, so a link in it may name anything.
fn read_through_link(path: &str) -> io::Result<String> {
    let link = format!("link-{}", std::process::id());
    symlink(path, &link)?;
    read(&link)
}

fn read_through_proc_root(path: &str) -> io::Result<String> {
    read(&format!("/proc/self/root{path}"))
}

fn list(path: &str) -> io::Result<String> {
    Ok(format!("{} entries", fs::read_dir(path)?.count()))
}

fn write(path: &str) -> io::Result<String> {
    OpenOptions::new()
        .write(true)
        .open(path)
        .map(|_| "opened".into())
}

fn append(path: &str) -> io::Result<String> {
    OpenOptions::new()
        .append(true)
        .open(path)
        .map(|_| "opened".into())
}

fn truncate(path: &str) -> io::Result<String> {
    let path = self::path(path)?;
    call!(libc::SYS_truncate, path.as_c_str(), 0).map(done)
}

fn create(path: &str) -> io::Result<String> {
    OpenOptions::new()
        .write(true)
        .create_new(true)
        .open(path)
        .map(|_| "created".into())
}

fn rename_over(path: &str) -> io::Result<String> {
    fs::write("mine", "x")?;
    fs::rename("mine", path).map(|()| path.into())
}

fn chmod(path: &str) -> io::Result<String> {
    let path = self::path(path)?;
    call!(libc::SYS_fchmodat, libc::AT_FDCWD, path.as_c_str(), 0o600).map(done)
}

/// A descriptor opened for reading is enough to change the mode of what it names.
fn chmod_by_descriptor(path: &str) -> io::Result<String> {
    let file = File::open(path)?;
    call!(libc::SYS_fchmod, file.as_raw_fd(), 0o600).map(done)
}

/// `O_PATH` asks for no access at all; the link in `/proc` then leads to the file.
fn chmod_through_link(path: &str) -> io::Result<String> {
    let file = OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_PATH)
        .open(path)?;
    let link = self::path(&format!("/proc/self/fd/{}", file.as_raw_fd()))?;
    call!(libc::SYS_fchmodat, libc::AT_FDCWD, link.as_c_str(), 0o600).map(done)
}

fn fchmodat2(path: &str) -> io::Result<String> {
    let path = self::path(path)?;
    call!(
        FCHMODAT2,
        libc::AT_FDCWD,
        path.as_c_str(),
        0o600,
        libc::AT_SYMLINK_NOFOLLOW
    )
    .map(done)
}

/// To the owner that the file may have already: refused for anyone but an owner all the same.
fn chown(path: &str) -> io::Result<String> {
    let path = self::path(path)?;
    let uid = call!(libc::SYS_getuid)?;
    let gid = call!(libc::SYS_getgid)?;
    call!(
        libc::SYS_fchownat,
        libc::AT_FDCWD,
        path.as_c_str(),
        uid,
        gid,
        0
    )
    .map(done)
}

fn utimens(path: &str) -> io::Result<String> {
    let path = self::path(path)?;
    let mut times = [1_u64, 0, 1, 0];
    call!(
        libc::SYS_utimensat,
        libc::AT_FDCWD,
        path.as_c_str(),
        &mut times[..],
        0
    )
    .map(done)
}

fn setxattr(path: &str) -> io::Result<String> {
    let path = self::path(path)?;
    let mut value = *b"x";
    call!(
        libc::SYS_setxattr,
        path.as_c_str(),
        XATTR,
        &mut value[..],
        1,
        0
    )
    .map(done)
}

fn removexattr(path: &str) -> io::Result<String> {
    let path = self::path(path)?;
    call!(libc::SYS_removexattr, path.as_c_str(), XATTR).map(done)
}

/// The `chattr` of file systems: needs a descriptor opened for reading only.
fn file_attributes(path: &str) -> io::Result<String> {
    let file = File::open(path)?;
    let mut flags = [0_u64];
    call!(libc::SYS_ioctl, file.as_raw_fd(), SET_FLAGS, &mut flags[..]).map(done)
}

/// Maps a file for reading, as its own and shared, and writes to both mappings through
/// `/proc/self/mem`, which does not ask for their protection. What is the program's own may be
/// written; the file stays as it is.
fn memory_of_file(path: &str) -> Result<String, String> {
    let write = |flags: libc::c_int| {
        let file = File::open(path)?;
        let descriptor = file.as_raw_fd();
        let protection = libc::PROT_READ;
        let start = call!(libc::SYS_mmap, NULL, 4096, protection, flags, descriptor, 0)?;
        let memory = OpenOptions::new().write(true).open("/proc/self/mem")?;
        memory.write_at(b"changed", start as u64)
    };
    let content = || fs::read(path).map_err(|error| format!("it cannot be read: {error}"));
    let before = content()?;
    let kinds = [("private", libc::MAP_PRIVATE), ("shared", libc::MAP_SHARED)];
    let answers = kinds.map(|(kind, flags)| match write(flags) {
        Ok(_) => format!("{kind} written"),
        Err(error) => format!("{kind} {}", error_name(&error)),
    });
    if content()? == before {
        Ok(answers.join(", "))
    } else {
        Err(format!("the file has changed: {}", answers.join(", ")))
    }
}

fn execute(path: &str) -> io::Result<String> {
    let status = std::process::Command::new(path).status()?;
    Ok(format!("ended with {status}"))
}

/// A handle names a file of a file system by its number, whatever the path to it.
fn open_by_handle(path: &str) -> io::Result<String> {
    // `struct file_handle`: size of the handle, its type, then the handle itself.
    let mut handle = [0_u8; 136];
    handle[..4].copy_from_slice(&128_u32.to_ne_bytes());
    let mut mount = [0_u64];
    let name = self::path(path)?;
    // Without a handle of that file the number of the root directory serves, 2 on ext4.
    if call!(
        libc::SYS_name_to_handle_at,
        libc::AT_FDCWD,
        name.as_c_str(),
        &mut handle[..],
        &mut mount[..],
        0
    )
    .is_err()
    {
        handle[..16].copy_from_slice(&[8, 0, 0, 0, 1, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0]);
    }
    let root = File::open("/").or_else(|_| File::open("."))?;
    call!(
        libc::SYS_open_by_handle_at,
        root.as_raw_fd(),
        &mut handle[..],
        libc::O_RDONLY
    )
    .map(done)
}

fn take_handle(path: &str) -> io::Result<String> {
    let mut handle = [0_u8; 136];
    handle[..4].copy_from_slice(&128_u32.to_ne_bytes());
    let mut mount = [0_u64];
    let name = self::path(path)?;
    call!(
        libc::SYS_name_to_handle_at,
        libc::AT_FDCWD,
        name.as_c_str(),
        &mut handle[..],
        &mut mount[..],
        0
    )
    .map(done)
}

/// A device file in a directory, such as the kernel's memory or the first disk.
fn make_device(place: &str, kind: u32, major: u32, minor: u32) -> io::Result<String> {
    let name = path(&format!("{place}device-{}", std::process::id()))?;
    let device = (major << 8) | minor;
    call!(
        libc::SYS_mknodat,
        libc::AT_FDCWD,
        name.as_c_str(),
        kind | 0o666,
        device
    )
    .map(done)
}
