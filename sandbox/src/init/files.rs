//! The workspace and the files in it.
//!
//! Nobody else has access yet, so there is no race; links are not followed all the same.

use super::{Done, User, at};
use crate::Content;
use crate::plan::{Plan, Source};
use crate::sys::{self, Errno, Sys};
use crate::wire::Step;
use std::ffi::CStr;
use std::os::fd::{AsRawFd, RawFd};

/// Opens the workspace, and makes it where it is a directory of the host.
pub(super) fn workspace(plan: &Plan, user: User) -> Done<RawFd> {
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

/// Writes the input file with this index, unless the caller ends meanwhile.
pub(super) fn write(plan: &Plan, workspace: RawFd, index: usize, user: User) -> Sys<()> {
    let no_file = Errno(libc::EINVAL);
    let file = plan.files.get(index).ok_or(no_file)?;
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
        Source::Bytes => match plan.spec.files.get(index).map(|file| &file.content) {
            Some(Content::Bytes(bytes)) => sys::write_all(fd, bytes),
            _ => Err(no_file),
        },
        Source::File { file, len } => copy(file.as_raw_fd(), fd, *len, plan.fds.caller),
    };
    sys::close(fd);
    result?;
    owned(&file.path)
}

/// Bytes between two looks at the caller.
const PORTION: usize = 16 << 20;

/// Copies a file from its start, at most the length that it had when it was planned. Holes become
/// memory, so that this can take long and much: for nobody it is not done.
fn copy(from: RawFd, to: RawFd, len: u64, caller: RawFd) -> Sys<()> {
    let mut offset: i64 = 0;
    let mut left = len;
    while left > 0 {
        if is_gone(caller)? {
            return Err(Errno(libc::ESRCH));
        }
        let count = usize::try_from(left).unwrap_or(usize::MAX).min(PORTION);
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

/// Whether the process behind a descriptor has ended.
fn is_gone(process: RawFd) -> Sys<bool> {
    let mut fds = [libc::pollfd {
        fd: process,
        events: libc::POLLIN,
        revents: 0,
    }];
    sys::poll(&mut fds, Some(0)).map(|ready| ready > 0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;
    use std::process::Command;

    #[expect(unsafe_code, reason = "the standard library opens no processes")]
    fn open_process(pid: u32) -> RawFd {
        // SAFETY: takes no pointers.
        let fd = unsafe { sys::call(libc::SYS_pidfd_open, [pid as usize, 0]) };
        RawFd::try_from(fd.unwrap()).unwrap()
    }

    #[test]
    fn nothing_is_copied_for_a_caller_that_is_gone() {
        let from = tempfile::tempfile().unwrap();
        from.set_len(1 << 40).unwrap();
        let to: File = tempfile::tempfile().unwrap();
        let mut gone = Command::new("true").spawn().unwrap();
        let caller = open_process(gone.id());
        gone.wait().unwrap();
        let (source, target) = (from.as_raw_fd(), to.as_raw_fd());
        assert_eq!(
            copy(source, target, 1 << 40, caller),
            Err(Errno(libc::ESRCH))
        );
        assert_eq!(to.metadata().unwrap().len(), 0);
        sys::close(caller);
        let living = open_process(std::process::id());
        copy(source, target, 5, living).unwrap();
        assert_eq!(to.metadata().unwrap().len(), 5);
        sys::close(living);
    }
}
