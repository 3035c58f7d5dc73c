//! Executing programs, for programs that have to ask.
//!
//! Nobody can execute on behalf of another, so the program makes the call itself, with a path in
//! memory that can have changed since it was read. What counts is therefore looked at afterwards:
//! the thread stops before the new program's first instruction ([`trace`]), and what the kernel
//! then says it executes must be the file that was asked about, which is held open since. Otherwise
//! everything is killed.
//!
//! Of a script the kernel executes the interpreter, which is asked about as well, and the
//! interpreter opens the script by a name that can lead elsewhere by then. So a script is told by its
//! own path only where that claims no more than the program can keep from being true: where it lies
//! in what the program may write to, or where the name is that path, which nothing of the program's
//! can change. Otherwise the name is told as it was given, relative if any of it is, and the kernel
//! must have given the same name to the interpreter. Arguments and variables are not looked at.
//!
//! # Invariants
//! - Of one process at most one thread makes such a call. The kernel makes whoever seizes a thread
//!   wait for one that executes in the same process, and that one can wait for long.
//! - A thread is let go on only when it is seized, and only with a call that is held then: its
//!   number can be a stranger's since it was killed. A stranger that was seized is released, and
//!   nothing waits for it.

#![expect(unsafe_code, reason = "system calls that take structures")]

use super::files::kind;
use super::listener::{self, Call};
use super::resolve::{descriptor_path, is_inside};
use super::rights::Rights;
use super::target::{PATH, Target, read_link};
use super::{Fd, HELD, OUTSIDE, Text, Verdict, is_same, low, name_of};
use crate::init::trace::{self, Reach, Stop};
use crate::plan::Mediation;
use crate::sys::{self, Errno, Sys, signed};
use std::ffi::CStr;
use std::os::fd::RawFd;

/// Bytes at the start of a script that the kernel looks at.
const HEAD: usize = 256;
/// Scripts whose interpreter is a script, one after the other.
const INTERPRETERS: u32 = 5;
/// `AT_EXECFN`: where the new program finds the path that was executed.
const EXECUTED: u64 = 31;

/// A prepared `execve`.
#[derive(Debug)]
pub(super) struct Ready {
    /// The number of the process whose thread calls.
    process: i32,
    /// What is asked about.
    file: Fd,
    script: Option<Script>,
}

/// What there is to a script.
#[derive(Debug)]
struct Script {
    /// What the kernel executes.
    interpreter: Fd,
    /// The name by which it is told, in a file of its own, where that is not its own path.
    given: Option<Fd>,
}

impl Script {
    fn new(interpreter: Fd, given: Option<&[u8]>) -> Sys<Self> {
        let given = given.map(keep).transpose()?;
        Ok(Self { interpreter, given })
    }

    /// Reads the name by which it is told, where that is not its own path.
    fn given<'b>(&self, buffer: &'b mut [u8]) -> Sys<Option<&'b [u8]>> {
        let Some(file) = &self.given else {
            return Ok(None);
        };
        let (start, len) = (buffer.as_mut_ptr() as usize, buffer.len());
        // SAFETY: the kernel writes at most the buffer's length to it.
        let read = unsafe { sys::call(libc::SYS_pread64, [signed(file.0), start, len, 0]) }?;
        Ok(buffer.get(..read))
    }

    fn is_given(&self, name: Option<&[u8]>) -> Sys<bool> {
        Ok(self.given(&mut [0; PATH])? == name)
    }
}

/// Keeps a name, for which the stack has no room, in memory that only a descriptor leads to.
fn keep(name: &[u8]) -> Sys<Fd> {
    let flags = usize::try_from(libc::MFD_CLOEXEC).unwrap_or(0);
    let args = [c"name".as_ptr() as usize, flags];
    // SAFETY: the name is a constant that ends with NUL.
    let file = unsafe { sys::call(libc::SYS_memfd_create, args) }?;
    let file = Fd(RawFd::try_from(file).map_err(|_range| OUTSIDE)?);
    let args = [signed(file.0), name.as_ptr() as usize, name.len()];
    // SAFETY: the kernel reads the name, which outlives the call.
    match unsafe { sys::call(libc::SYS_write, args) }? {
        written if written == name.len() => Ok(file),
        _ => Err(OUTSIDE),
    }
}

/// How a script is told that was executed by this path. `None`: by its own path. An empty path is a
/// descriptor's, which stays the same in the new program.
fn told<'p>(mediation: &Mediation, path: &'p CStr, file: &Fd) -> Sys<Option<&'p [u8]>> {
    let path = match descriptor_path(path) {
        Some((_, None)) => return Ok(None),
        Some((_, Some(rest))) => rest.to_bytes(),
        None => path.to_bytes(),
    };
    let mut buffer = [0; PATH];
    let own = read_link(name_of(file).as_c_str(), &mut buffer)?;
    let is_own = path.is_empty() || path == own || is_inside(mediation, own);
    Ok((!is_own).then(|| after_parents(path)))
}

/// A path without what a `..` makes meaningless, so that its start names where it begins.
fn after_parents(path: &[u8]) -> &[u8] {
    let mut start = 0_usize;
    let mut at = 0_usize;
    for name in path.split(|byte| *byte == b'/') {
        if name == b".." {
            start = at;
        }
        at = at.saturating_add(name.len()).saturating_add(1);
    }
    path.get(start..).unwrap_or_default()
}

/// Looks up what a call is to execute, as the program sees it.
pub(super) fn prepare(
    target: &Target,
    mediation: &Mediation,
    own_processes: bool,
    (number, args): (libc::c_long, &[u64; 6]),
) -> Sys<Ready> {
    let [a, b, _, _, e, _] = *args;
    let (directory, address, flags) = match number {
        libc::SYS_execve => (libc::AT_FDCWD, a, 0),
        libc::SYS_execveat => (low(a).cast_signed(), b, low(e).cast_signed()),
        _ => return Err(OUTSIDE),
    };
    if flags & !(libc::AT_EMPTY_PATH | libc::AT_SYMLINK_NOFOLLOW) != 0 {
        return Err(Errno(libc::EINVAL));
    }
    let mut buffer = [0; PATH];
    let path = target.string(address, &mut buffer)?;
    let file = if !path.is_empty() {
        let link = flags & libc::AT_SYMLINK_NOFOLLOW;
        let nofollow = if link == 0 { 0 } else { libc::O_NOFOLLOW };
        open(target, directory, path, nofollow)?
    } else if flags & libc::AT_EMPTY_PATH != 0 {
        target.object(directory)?
    } else {
        return Err(Errno(libc::ENOENT));
    };
    let script = match interpreter(target, &file)? {
        Some(interpreter) => {
            let given = told(mediation, path, &file)?;
            Some(Script::new(interpreter, given)?)
        }
        None => None,
    };
    let process = target.process(own_processes)?;
    target.check()?;
    Ok(Ready {
        process,
        file,
        script,
    })
}

/// Opens what a path means to the program, `O_PATH`. Of the links of `/proc` that lead where no
/// path does, those to the program's own descriptors and image are followed, and no other ones:
/// they would be those of this process.
fn open(target: &Target, directory: RawFd, path: &CStr, flags: i32) -> Sys<Fd> {
    let bytes = path.to_bytes();
    if matches!(bytes, b"/proc/self/exe" | b"/proc/thread-self/exe") && flags == 0 {
        return target.link(b"exe");
    }
    let (base, rest) = match descriptor_path(path) {
        Some((fd, None)) if flags == 0 => return target.object(fd),
        Some((fd, Some(rest))) => (Some(target.object(fd)?), rest),
        _ if bytes.starts_with(b"/") => (None, path),
        _ if directory == libc::AT_FDCWD => (Some(target.link(b"cwd")?), path),
        _ => (Some(target.object(directory)?), path),
    };
    let base = base.as_ref().map_or(libc::AT_FDCWD, |base| base.0);
    sys::openat2(base, rest, libc::O_PATH | flags, sys::NO_MAGICLINKS).map(Fd)
}

/// What the kernel executes for a file, if not the file itself.
fn interpreter(target: &Target, file: &Fd) -> Sys<Option<Fd>> {
    let mut interpreter = None;
    for _ in 0..=INTERPRETERS {
        let mut head = [0; HEAD];
        read_head(interpreter.as_ref().unwrap_or(file), &mut head)?;
        // One more, for the NUL.
        let mut name = [0; HEAD + 1];
        let Some(named) = interpreter_in(&head)? else {
            return Ok(interpreter);
        };
        for (slot, byte) in name.iter_mut().zip(named) {
            *slot = *byte;
        }
        let name = CStr::from_bytes_until_nul(&name).unwrap_or_default();
        interpreter = Some(open(target, libc::AT_FDCWD, name, 0)?);
    }
    Err(Errno(libc::ELOOP))
}

/// Reads the start of a file that the program may execute. It must be able to read it too: of any
/// other one the kernel would not say afterwards what it is.
fn read_head(file: &Fd, head: &mut [u8; HEAD]) -> Sys<()> {
    let refused = Errno(libc::EACCES);
    match kind(file)? {
        libc::S_IFREG => {}
        // It was not to be followed.
        libc::S_IFLNK => return Err(Errno(libc::ELOOP)),
        _ => return Err(refused),
    }
    let args = [
        signed(file.0),
        c"".as_ptr() as usize,
        signed(libc::X_OK),
        signed(libc::AT_EACCESS | libc::AT_EMPTY_PATH),
    ];
    // SAFETY: the path is a constant that ends with NUL.
    if unsafe { sys::call(libc::SYS_faccessat2, args) } == Err(refused) {
        return Err(refused);
    }
    let flags = libc::O_RDONLY | libc::O_NONBLOCK | libc::O_NOCTTY;
    let opened = Fd(sys::openat(
        libc::AT_FDCWD,
        name_of(file).as_c_str(),
        flags,
        0,
    )?);
    sys::read(opened.0, head).map(drop)
}

/// The interpreter that the first line names, as the kernel reads it. None: it is no script.
fn interpreter_in(head: &[u8; HEAD]) -> Sys<Option<&[u8]>> {
    let Some(rest) = head.strip_prefix(b"#!") else {
        return Ok(None);
    };
    let is_blank = |byte: &u8| matches!(byte, b' ' | b'\t');
    let end = rest.iter().position(|byte| *byte == b'\n');
    let line = rest.get(..end.unwrap_or(rest.len())).unwrap_or_default();
    let start = line.iter().position(|byte| !is_blank(byte));
    let name = start.and_then(|start| line.get(start..));
    let name = name.unwrap_or_default();
    let length = name.iter().position(|byte| is_blank(byte) || *byte == 0);
    match (length, end) {
        // It may be longer than what was read.
        (None, None) | (Some(0), _) => Err(Errno(libc::ENOEXEC)),
        (None, Some(_)) if name.is_empty() => Err(Errno(libc::ENOEXEC)),
        (length, _) => Ok(name.get(..length.unwrap_or(name.len()))),
    }
}

impl Ready {
    /// Writes down what is asked about, and the interpreter of a script.
    pub(super) fn describe(&self, text: &mut Text) -> Sys<()> {
        let Some(script) = &self.script else {
            return text.object(&self.file);
        };
        match script.given(&mut [0; PATH])? {
            Some(name) => text.push(name)?,
            None => text.object(&self.file)?,
        }
        text.divide();
        text.object(&script.interpreter)
    }

    /// Whether a stopped process is about to run this.
    fn is_what_runs(&self, target: &Target, mediation: &Mediation) -> Sys<bool> {
        let image = target.link(b"exe")?;
        let Some(asked) = &self.script else {
            return is_same(&image, &self.file);
        };
        let mut buffer = [0; PATH];
        let path = target.string(target.auxiliary(EXECUTED)?, &mut buffer)?;
        let script = open(target, libc::AT_FDCWD, path, 0)?;
        Ok(is_same(&image, &asked.interpreter)?
            && is_same(&script, &self.file)?
            && asked.is_given(told(mediation, path, &script)?)?)
    }
}

/// A thread that is seized.
#[derive(Debug)]
struct Seized {
    thread: i32,
    /// What it was let go on with. None: its number was another's by the time it was seized, and
    /// whoever has it is released as soon as the kernel lets it stop.
    ready: Option<Ready>,
}

impl Seized {
    fn is_of(&self, process: i32) -> bool {
        let ready = self.ready.as_ref();
        ready.is_some_and(|ready| ready.process == process)
    }
}

/// What became of a call.
#[derive(Debug)]
pub(super) enum Started {
    /// The thread makes it.
    Going,
    /// Another one of its process makes one, or too many others do.
    Later(Ready),
    /// It is not made.
    Refused(Errno),
}

/// The threads that are executing.
#[derive(Debug)]
pub(super) struct Executing {
    seized: [Option<Seized>; HELD],
    reach: Reach,
}

impl Executing {
    pub(super) const fn new(reach: Reach) -> Self {
        Self {
            seized: [const { None }; HELD],
            reach,
        }
    }

    /// Lets a thread make its call.
    pub(super) fn start(
        &mut self,
        listener: RawFd,
        call: &Call,
        ready: Ready,
        rights: &Rights,
    ) -> Started {
        let refused = Started::Refused(OUTSIDE);
        let Ok(thread) = i32::try_from(call.pid) else {
            return refused;
        };
        let Some(index) = self.room(thread, ready.process) else {
            return Started::Later(ready);
        };
        let check = || listener::is_valid(listener, call.id);
        if !self.seize(index, thread, rights, check) {
            return refused;
        }
        if let Some(slot) = self.seized.get_mut(index) {
            let ready = Some(ready);
            *slot = Some(Seized { thread, ready });
        }
        let gone_on = listener::go_on(listener, call.id);
        // Not before, when it would end the call on kernels before Linux 5.19.
        let _ = trace::interrupt(thread);
        gone_on.map_or(refused, |()| Started::Going)
    }

    /// Where a thread is noted, or can be.
    fn room(&mut self, thread: i32, process: i32) -> Option<usize> {
        for slot in &mut self.seized {
            // Whoever loses its number to a thread of its process that executes ends untold.
            let _ = slot.take_if(|seized| {
                seized.ready.is_none() && trace::interrupt(seized.thread).is_err()
            });
        }
        let mut others = self.seized.iter().flatten();
        if others.any(|seized| seized.thread != thread && seized.is_of(process)) {
            return None;
        }
        let is_it = |slot: &Option<Seized>| {
            let seized = slot.as_ref();
            seized.is_some_and(|seized| seized.thread == thread)
        };
        let mut slots = self.seized.iter();
        let known = slots.position(is_it);
        known.or_else(|| self.seized.iter().position(Option::is_none))
    }

    /// Seizes the thread whose call passes the check, and nobody else who has its number.
    ///
    /// A call that is still held after the seizure was held before it: its thread had the number
    /// all the time. Otherwise whoever was seized is let go.
    fn seize(
        &mut self,
        index: usize,
        thread: i32,
        rights: &Rights,
        check: impl Fn() -> Sys<()>,
    ) -> bool {
        if check().is_err() {
            return false;
        }
        let reach = self.reach;
        let is_new = rights.as_peer(|| trace::seize(thread, reach)).is_ok();
        // It may be seized already: its former call has failed, and it has not stopped yet.
        if !is_new && trace::interrupt(thread).is_err() {
            return false;
        }
        if check().is_ok() {
            return true;
        }
        if is_new && let Some(slot) = self.seized.get_mut(index) {
            let _ = trace::interrupt(thread);
            let ready = None;
            *slot = Some(Seized { thread, ready });
        }
        false
    }

    /// Whether somebody is seized who did not ask.
    pub(super) fn has_strangers(&self) -> bool {
        let mut seized = self.seized.iter().flatten();
        seized.any(|seized| seized.ready.is_none())
    }

    /// Forgets a thread that has stopped or ended. Whoever executes gets the number of its process.
    fn take(&mut self, number: i32, stop: Option<Stop>) -> Option<Seized> {
        let former = match stop {
            Some(Stop::Executed) => trace::executed_by(number).ok(),
            _ => Some(number),
        };
        let is_it = |seized: &Seized| match (&seized.ready, stop) {
            (Some(ready), Some(Stop::Executed)) => ready.process == number,
            (Some(ready), None) => seized.thread == number || ready.process == number,
            _ => Some(seized.thread) == former,
        };
        let mut slots = self.seized.iter_mut();
        slots.find_map(|slot| slot.take_if(|seized| is_it(seized)))
    }

    /// Takes note of a stop or an end. What has executed something else than it asked for is kept
    /// stopped until everything is killed.
    pub(super) fn changed(
        &mut self,
        number: i32,
        stop: Option<Stop>,
        mediation: &Mediation,
        look: impl FnOnce(&dyn Fn(&Target) -> Sys<bool>) -> Sys<bool>,
    ) -> Verdict {
        let seized = self.take(number, stop);
        let Some(stop) = stop else {
            return Verdict::GoOn;
        };
        let is_stranger = seized.as_ref().is_some_and(|seized| seized.ready.is_none());
        if stop == Stop::Executed && !is_stranger {
            let ready = seized.and_then(|seized| seized.ready);
            let same = ready.map(|ready| look(&|target| ready.is_what_runs(target, mediation)));
            if same != Some(Ok(true)) && trace::is_stopped(number) {
                return Verdict::KillAll;
            }
        }
        trace::release(number, stop);
        Verdict::GoOn
    }

    /// Takes note of a stop after the end: a stranger is released, whoever else is killed.
    pub(super) fn finish(&mut self, number: i32, stop: Option<Stop>) {
        let seized = self.take(number, stop);
        let Some(stop) = stop else {
            return;
        };
        if seized.is_some_and(|seized| seized.ready.is_none()) {
            trace::release(number, stop);
        } else {
            // Seized until its end is reaped, so that the number is nobody else's.
            let _ = sys::kill(number, libc::SIGKILL);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_said_of_where_a_parent_leads() {
        for (path, told) in [
            ("/usr/bin/a", "/usr/bin/a"),
            ("/usr/bin/../../workspace/a", "../workspace/a"),
            ("/usr/..a/b", "/usr/..a/b"),
            ("../a", "../a"),
            ("a/..", ".."),
            ("a", "a"),
        ] {
            assert_eq!(after_parents(path.as_bytes()), told.as_bytes());
        }
    }

    fn no_roots() -> Mediation {
        Mediation {
            own_filter: None,
            roots: Vec::new(),
            abstract_sockets: false,
            datagrams: false,
            supervision: None,
        }
    }

    #[test]
    fn interpreters_are_read_as_the_kernel_does() {
        let of = |text: &[u8]| {
            let mut head = [0; HEAD];
            for (slot, byte) in head.iter_mut().zip(text) {
                *slot = *byte;
            }
            interpreter_in(&head).map(|name| name.map(<[u8]>::to_vec))
        };
        let named = |name: &str| Ok(Some(name.as_bytes().to_vec()));
        let not_executable = Err(Errno(libc::ENOEXEC));
        assert_eq!(of(b"#!/bin/sh\nx"), named("/bin/sh"));
        assert_eq!(of(b"#! \t/bin/sh -e\n"), named("/bin/sh"));
        assert_eq!(of(b"#!/bin/sh"), named("/bin/sh"));
        assert_eq!(of(b"#!/bin/sh\t\n"), named("/bin/sh"));
        assert_eq!(of(b"#!sh\0x\n"), named("sh"));
        assert_eq!(of(b"\x7fELF"), Ok(None));
        assert_eq!(of(b"#"), Ok(None));
        for odd in [b"#!".as_slice(), b"#!\n", b"#!  \n", b"#!\0/bin/sh\n"] {
            assert_eq!(of(odd), not_executable, "{odd:?}");
        }
        let mut long = [b'a'; 300];
        long[..2].copy_from_slice(b"#!");
        assert_eq!(of(&long), not_executable);
    }

    /// A number that is another's by the time that it is seized.
    #[test]
    fn strangers_are_let_go() {
        use crate::init::trace::tests::{change, shell};
        use std::io::{Read as _, Write as _};
        for then in ["exec echo instead", "echo instead"] {
            let (mut child, thread) = shell(then);
            let mut executing = Executing::new(Reach::Host);
            let (rights, mediation) = (Rights::own(), no_roots());
            let ended = Err(Errno(libc::ENOENT));
            // Seen before anybody is seized.
            assert!(!executing.seize(0, thread, &rights, || ended));
            assert!(!executing.has_strangers());
            // Seen afterwards.
            let looks = std::cell::Cell::new(0);
            let check = || match looks.replace(1) {
                0 => Ok(()),
                _ => ended,
            };
            assert!(!executing.seize(0, thread, &rights, check));
            assert!(executing.has_strangers());
            assert_eq!(executing.room(thread, 1), Some(0));
            assert_eq!(executing.room(1, 1), Some(1));
            child.stdin.as_mut().unwrap().write_all(b"\n").unwrap();
            let stop = Stop::from_status(change(thread));
            assert!(stop.is_some());
            let verdict = executing.changed(thread, stop, &mediation, |_| unreachable!());
            assert_eq!(verdict, Verdict::GoOn);
            assert!(!executing.has_strangers());
            let mut said = String::new();
            let stdout = child.stdout.as_mut().unwrap();
            stdout.read_to_string(&mut said).unwrap();
            assert_eq!(said, "instead\n");
            assert!(child.wait().unwrap().success());
        }
    }
}
