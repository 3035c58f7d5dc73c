//! The workspace and the files in it.
//!
//! Nobody else has access yet, so there is no race; links are not followed all the same.

use super::{Done, User, at};
use crate::plan::{Plan, PlannedFile, Source};
use crate::sys::{self, Errno, Sys};
use crate::wire::Step;
use std::ffi::CStr;
use std::os::fd::{AsRawFd, RawFd};

/// Opens the workspace, and makes it where it is a directory of the host.
pub(super) fn workspace(plan: &Plan<'_>, user: User) -> Done<RawFd> {
    let failed = at(Step::Workspace);
    let flags = libc::O_PATH | libc::O_DIRECTORY | libc::O_NOFOLLOW;
    let Some(host) = &plan.on_host.directory else {
        return sys::openat(libc::AT_FDCWD, c"/workspace", flags, 0).map_err(failed);
    };
    let directory = host.directory.as_raw_fd();
    for name in [c"workspace", c"tmp"] {
        private_directory(directory, name, user).map_err(&failed)?;
    }
    sys::openat(directory, c"workspace", flags, 0).map_err(failed)
}

/// Makes a directory that is the program's alone.
pub(super) fn private_directory(parent: RawFd, name: &CStr, user: User) -> Sys<()> {
    sys::mkdirat(parent, name, 0o700)?;
    sys::fchownat(parent, name, user.uid, user.gid, libc::AT_SYMLINK_NOFOLLOW)
}

/// Writes one input file.
pub(super) fn write(workspace: RawFd, file: &PlannedFile<'_>, user: User) -> Sys<()> {
    let owned = |path| {
        sys::fchownat(
            workspace,
            path,
            user.uid,
            user.gid,
            libc::AT_SYMLINK_NOFOLLOW,
        )
    };
    for parent in &file.parents {
        match sys::mkdirat(workspace, parent, 0o755) {
            Ok(()) => owned(parent)?,
            Err(Errno(libc::EEXIST)) => {}
            Err(errno) => return Err(errno),
        }
    }
    let flags = libc::O_WRONLY | libc::O_CREAT | libc::O_EXCL | libc::O_NOFOLLOW;
    let fd = sys::openat(workspace, &file.path, flags, file.mode)?;
    let result = match &file.source {
        Source::Bytes(bytes) => sys::write_all(fd, bytes),
        Source::File { file, len } => copy(file.as_raw_fd(), fd, *len),
    };
    sys::close(fd);
    result?;
    owned(&file.path)
}

/// Copies a file from its start, at most the length that it had when it was planned.
fn copy(from: RawFd, to: RawFd, len: u64) -> Sys<()> {
    let mut offset: i64 = 0;
    let mut left = len;
    while left > 0 {
        let count = usize::try_from(left).unwrap_or(usize::MAX).min(1 << 30);
        let args = [
            sys::signed(to),
            sys::signed(from),
            &raw mut offset as usize,
            count,
        ];
        #[expect(unsafe_code, reason = "a system call")]
        // SAFETY: the kernel reads and writes the offset, which outlives the call.
        let copied = sys::retry(|| unsafe { sys::call(libc::SYS_sendfile, args) })?;
        if copied == 0 {
            break;
        }
        left = left.saturating_sub(copied as u64);
    }
    Ok(())
}
