//! The process whose call is held: its memory, its working directory, its descriptors.

#![expect(unsafe_code, reason = "system calls that take structures")]

use super::listener::{self, Call};
use super::{Fd, OUTSIDE};
use crate::sys::{self, Errno, Sys, signed};
use std::ffi::CStr;
use std::os::fd::RawFd;

/// The longest path that the kernel takes, its NUL included.
pub(super) const PATH: usize = 4096;
/// The smallest page: a string's end is looked for page by page, since the next may be missing.
const PAGE: u64 = 4096;
/// `PIDFD_THREAD`, since Linux 6.9.
const THREAD: i32 = libc::O_EXCL;

/// A path of `/proc`, put together without an allocator.
#[derive(Debug, Clone, Copy)]
pub(super) struct ProcPath {
    bytes: [u8; 64],
    len: usize,
}

impl ProcPath {
    pub(super) fn new(start: &[u8]) -> Self {
        let empty = Self {
            bytes: [0; 64],
            len: 0,
        };
        empty.text(start)
    }

    /// What does not fit is left out; the longest path here has half of the room.
    pub(super) fn text(mut self, text: &[u8]) -> Self {
        // The last byte stays NUL.
        let room = self.bytes.get_mut(self.len..63).unwrap_or_default();
        for (slot, byte) in room.iter_mut().zip(text) {
            *slot = *byte;
        }
        self.len = self.len.saturating_add(text.len()).min(63);
        self
    }

    pub(super) fn number(self, number: u32) -> Self {
        let mut digits = [0_u8; 10];
        let mut rest = number;
        let mut used = 0_usize;
        for slot in digits.iter_mut().rev() {
            *slot = b'0'.saturating_add(u8::try_from(rest % 10).unwrap_or(0));
            used = used.saturating_add(1);
            rest /= 10;
            if rest == 0 {
                break;
            }
        }
        let start = digits.len().saturating_sub(used);
        self.text(digits.get(start..).unwrap_or_default())
    }

    pub(super) fn as_c_str(&self) -> &CStr {
        CStr::from_bytes_until_nul(&self.bytes).unwrap_or_default()
    }
}

/// The process that made a held call, or that is stopped.
#[derive(Debug)]
pub(super) struct Target {
    /// The listener, and the call that makes sure of the number. None: the stop does.
    held: Option<(RawFd, u64)>,
    /// As `/proc` numbers it.
    number: u32,
    memory: Fd,
}

impl Target {
    pub(super) fn new(listener: RawFd, call: &Call, own_processes: bool) -> Sys<Self> {
        Self::open(Some((listener, call.id)), call.pid, own_processes)
    }

    /// A process that cannot go on.
    pub(super) fn stopped(pid: u32, own_processes: bool) -> Sys<Self> {
        Self::open(None, pid, own_processes)
    }

    fn open(held: Option<(RawFd, u64)>, pid: u32, own_processes: bool) -> Sys<Self> {
        let number = match pid {
            0 => return Err(OUTSIDE),
            pid if own_processes => number_in_proc(pid)?,
            pid => pid,
        };
        let path = ProcPath::new(b"/proc/").number(number).text(b"/mem");
        let memory = sys::openat(libc::AT_FDCWD, path.as_c_str(), libc::O_RDONLY, 0);
        let memory = Fd(memory.map_err(|_errno| OUTSIDE)?);
        Ok(Self {
            held,
            number,
            memory,
        })
    }

    /// Whether all that was read before was really of this process.
    pub(super) fn check(&self) -> Sys<()> {
        self.held
            .map_or(Ok(()), |(listener, id)| listener::is_valid(listener, id))
    }

    /// Reads all of a buffer.
    pub(super) fn bytes(&self, address: u64, buffer: &mut [u8]) -> Sys<()> {
        let read = self.some(address, buffer)?;
        (read == buffer.len())
            .then_some(())
            .ok_or(Errno(libc::EFAULT))
    }

    fn some(&self, address: u64, buffer: &mut [u8]) -> Sys<usize> {
        let fault = Errno(libc::EFAULT);
        let args = [
            signed(self.memory.0),
            buffer.as_mut_ptr() as usize,
            buffer.len(),
            usize::try_from(address).map_err(|_range| fault)?,
        ];
        // SAFETY: the kernel writes at most the buffer's length to it.
        sys::retry(|| unsafe { sys::call(libc::SYS_pread64, args) }).map_err(|_errno| fault)
    }

    /// Reads a string up to its NUL.
    pub(super) fn string<'b>(&self, address: u64, buffer: &'b mut [u8]) -> Sys<&'b CStr> {
        let mut filled = 0_usize;
        loop {
            let at = address.saturating_add(filled as u64);
            let in_page = PAGE.saturating_sub(at % PAGE);
            let rest = buffer.get_mut(filled..).unwrap_or_default();
            let len = rest.len().min(usize::try_from(in_page).unwrap_or(0));
            let part = rest.get_mut(..len).unwrap_or_default();
            if part.is_empty() {
                return Err(Errno(libc::ENAMETOOLONG));
            }
            self.bytes(at, part)?;
            filled = filled.saturating_add(len);
            if part.contains(&0) {
                break;
            }
        }
        CStr::from_bytes_until_nul(buffer).map_err(|_none| Errno(libc::ENAMETOOLONG))
    }

    fn proc_path(&self, kind: &[u8]) -> ProcPath {
        let path = ProcPath::new(b"/proc/").number(self.number);
        path.text(kind)
    }

    /// Where a descriptor or the working directory (`AT_FDCWD`) is.
    pub(super) fn place<'b>(&self, fd: i32, buffer: &'b mut [u8]) -> Sys<&'b [u8]> {
        let path = match u32::try_from(fd) {
            Ok(number) => self.proc_path(b"/fd/").number(number),
            Err(_) if fd == libc::AT_FDCWD => self.proc_path(b"/cwd"),
            Err(_) => return Err(Errno(libc::EBADF)),
        };
        read_link(path.as_c_str(), buffer).map_err(no_descriptor)
    }

    /// What a descriptor stands for, `O_PATH`.
    pub(super) fn object(&self, fd: i32) -> Sys<Fd> {
        let number = u32::try_from(fd).map_err(|_range| Errno(libc::EBADF))?;
        let path = self.proc_path(b"/fd/").number(number);
        let opened = sys::openat(libc::AT_FDCWD, path.as_c_str(), libc::O_PATH, 0);
        opened.map(Fd).map_err(no_descriptor)
    }

    /// What one of the links of the process leads to (`cwd`, `exe`), `O_PATH`.
    pub(super) fn link(&self, name: &[u8]) -> Sys<Fd> {
        let path = self.proc_path(b"/").text(name);
        sys::openat(libc::AT_FDCWD, path.as_c_str(), libc::O_PATH, 0).map(Fd)
    }

    /// The flags with which a descriptor is open.
    pub(super) fn flags(&self, fd: u32) -> Sys<i32> {
        let path = self.proc_path(b"/fdinfo/").number(fd);
        let mut buffer = [0; 512];
        let text = sys::read_file(libc::AT_FDCWD, path.as_c_str(), &mut buffer);
        field(text.map_err(no_descriptor)?, b"flags:", 8)
            .and_then(|flags| i32::try_from(flags).ok())
            .ok_or(Errno(libc::EBADF))
    }
}

impl Target {
    /// The bits of a mode that the process takes from new files.
    pub(super) fn umask(&self) -> Sys<u32> {
        let path = self.proc_path(b"/status");
        let mut buffer = [0; 512];
        let text = sys::read_file(libc::AT_FDCWD, path.as_c_str(), &mut buffer)?;
        field(text, b"Umask:", 8)
            .and_then(|mask| u32::try_from(mask).ok())
            .ok_or(OUTSIDE)
    }

    /// The number of the whole process, as this one counts.
    pub(super) fn process(&self, own_processes: bool) -> Sys<i32> {
        let key: &[u8] = if own_processes { b"NStgid:" } else { b"Tgid:" };
        number_of_process(self.number, key)
    }

    /// The number with this key that the kernel gave to a new program.
    pub(super) fn auxiliary(&self, key: u64) -> Sys<u64> {
        let path = self.proc_path(b"/auxv");
        let mut buffer = [0; 1024];
        let bytes = sys::read_file(libc::AT_FDCWD, path.as_c_str(), &mut buffer)?;
        let words = bytes.as_chunks().0.iter();
        let mut words = words.map(|word| u64::from_ne_bytes(*word));
        while let (Some(found), Some(value)) = (words.next(), words.next()) {
            if found == key {
                return Ok(value);
            }
        }
        Err(OUTSIDE)
    }
}

/// The number of the process that a thread is of, where `/proc` has the numbers of this one.
pub(super) fn thread_group(thread: u32) -> Sys<i32> {
    number_of_process(thread, b"Tgid:")
}

fn number_of_process(thread: u32, key: &[u8]) -> Sys<i32> {
    let path = ProcPath::new(b"/proc/").number(thread).text(b"/status");
    let file = sys::openat(libc::AT_FDCWD, path.as_c_str(), libc::O_RDONLY, 0).map(Fd)?;
    let (mut line, mut len) = ([0; 256], 0_usize);
    loop {
        let mut buffer = [0; 1024];
        let read = match sys::read(file.0, &mut buffer)? {
            0 => return Err(OUTSIDE),
            read => buffer.get(..read).unwrap_or_default(),
        };
        for byte in read {
            if *byte == b'\n' {
                if let Some(list) = line.get(..len).and_then(|line| line.strip_prefix(key)) {
                    return last_number(list).ok_or(OUTSIDE);
                }
                len = 0;
            } else if let Some(slot) = line.get_mut(len) {
                // The line with all groups is much longer, and not the one.
                *slot = *byte;
                len = len.saturating_add(1);
            }
        }
    }
}

/// Of a list of a process's numbers, that in the innermost namespace.
fn last_number(list: &[u8]) -> Option<i32> {
    let last = list.trim_ascii().rsplit(u8::is_ascii_whitespace).next();
    last.and_then(|digits| number(digits, 10))
        .and_then(|number| i32::try_from(number).ok())
}

/// A descriptor that is not there.
fn no_descriptor(errno: Errno) -> Errno {
    if errno == Errno(libc::ENOENT) {
        Errno(libc::EBADF)
    } else {
        errno
    }
}

/// The number after a key at the start of a line.
fn field(text: &[u8], key: &[u8], base: u64) -> Option<u64> {
    let line = text
        .split(|byte| *byte == b'\n')
        .find_map(|line| line.strip_prefix(key))?;
    number(line.trim_ascii(), base)
}

fn number(digits: &[u8], base: u64) -> Option<u64> {
    (!digits.is_empty()).then_some(())?;
    digits.iter().try_fold(0_u64, |number, digit| {
        let digit = u64::from(digit.checked_sub(b'0')?);
        (digit < base).then_some(())?;
        number.checked_mul(base)?.checked_add(digit)
    })
}

/// The number by which `/proc` knows a process or thread, where that is the host's and this is
/// process 1 of a namespace of its own.
fn number_in_proc(pid: u32) -> Sys<u32> {
    let open = |flags: i32| {
        // SAFETY: takes no pointers.
        unsafe { sys::call(libc::SYS_pidfd_open, [pid as usize, signed(flags)]) }
    };
    let opened = match open(THREAD) {
        Err(Errno(libc::EINVAL)) => open(0)?,
        opened => opened?,
    };
    let process = Fd(RawFd::try_from(opened).map_err(|_range| OUTSIDE)?);
    let path = ProcPath::new(b"/proc/self/fdinfo/").number(process.0.cast_unsigned());
    let mut buffer = [0; 512];
    let text = sys::read_file(libc::AT_FDCWD, path.as_c_str(), &mut buffer)?;
    field(text, b"Pid:", 10)
        .and_then(|number| u32::try_from(number).ok())
        .filter(|number| *number != 0)
        .ok_or(OUTSIDE)
}

/// Where a link leads, as much as the buffer holds.
pub(super) fn read_link<'b>(path: &CStr, buffer: &'b mut [u8]) -> Sys<&'b [u8]> {
    let at = signed(libc::AT_FDCWD);
    read_link_at(at, path, buffer)
}

/// Where the link that a descriptor stands for leads.
pub(super) fn read_opened_link<'b>(link: &Fd, buffer: &'b mut [u8]) -> Sys<&'b [u8]> {
    read_link_at(signed(link.0), c"", buffer)
}

fn read_link_at<'b>(directory: usize, path: &CStr, buffer: &'b mut [u8]) -> Sys<&'b [u8]> {
    let (start, len) = (buffer.as_mut_ptr() as usize, buffer.len());
    let args = [directory, path.as_ptr() as usize, start, len];
    // SAFETY: `path` ends with NUL; the kernel writes at most `len` bytes to the borrowed buffer.
    let written = unsafe { sys::call(libc::SYS_readlinkat, args) }?;
    if written >= len {
        return Err(Errno(libc::ENAMETOOLONG));
    }
    Ok(buffer.get(..written).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_and_fields_are_put_together_and_taken_apart() {
        let path = ProcPath::new(b"/proc/").number(4_194_303).text(b"/fd/");
        assert_eq!(path.number(0).as_c_str(), c"/proc/4194303/fd/0");
        let long = ProcPath::new(&[b'x'; 90]).text(b"y").number(7);
        assert_eq!(long.as_c_str().to_bytes(), [b'x'; 63]);
        let text = b"pos:\t0\nflags:\t02004002\nmnt_id:\t9\n";
        assert_eq!(field(text, b"flags:", 8), Some(0o2_004_002));
        assert_eq!(field(text, b"pos:", 10), Some(0));
        assert_eq!(field(b"Pid:\t-1\n", b"Pid:", 10), None);
        assert_eq!(field(b"Pid:\n", b"Pid:", 10), None);
    }

    #[test]
    fn a_process_is_known_by_its_files() {
        let own = Target::stopped(std::process::id(), false).unwrap();
        let number = i32::try_from(std::process::id()).unwrap();
        for own_processes in [false, true] {
            assert_eq!(own.process(own_processes), Ok(number));
        }
        const PAGE_SIZE: u64 = 6;
        assert_eq!(own.auxiliary(PAGE_SIZE).unwrap() % PAGE, 0);
        assert_eq!(own.auxiliary(4242), Err(OUTSIDE));
        let mut buffer = [0; PATH];
        let path = own.string(own.auxiliary(31).unwrap(), &mut buffer).unwrap();
        assert!(!path.is_empty());
        let image = sys::file_id(own.link(b"exe").unwrap().0);
        let opened = sys::openat(libc::AT_FDCWD, c"/proc/self/exe", libc::O_PATH, 0);
        assert_eq!(image, sys::file_id(Fd(opened.unwrap()).0));
    }
}
