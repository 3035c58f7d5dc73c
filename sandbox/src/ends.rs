//! The pipes, terminals and sockets between the caller, the supervisor and the program.

use crate::terminal::Terminal;
use crate::{Layer, SpawnError, Spec, Stdin, TerminalSize, confine};
use std::fs::File;
use std::io::{self, PipeReader, PipeWriter};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

/// The caller's ends of what a plan connects.
#[derive(Debug)]
pub(crate) struct Ends {
    pub(crate) streams: Streams,
    pub(crate) control: OwnedFd,
    pub(crate) questions: Option<OwnedFd>,
}

/// The caller's ends of the program's standard streams.
#[derive(Debug, Default)]
pub(crate) struct Streams {
    pub(crate) stdin: Option<PipeWriter>,
    pub(crate) stdout: Option<PipeReader>,
    pub(crate) stderr: Option<PipeReader>,
    pub(crate) terminal: Option<Terminal>,
}

/// The descriptors in the order of [`Descriptors`](crate::plan::Descriptors), and the caller's ends.
pub(crate) fn descriptors(spec: &Spec) -> Result<([OwnedFd; 7], Ends), SpawnError> {
    let failed = |step| move |source| SpawnError::Prepare { step, source };
    let null = File::options().read(true).write(true).open("/dev/null");
    let null = OwnedFd::from(null.map_err(failed("open /dev/null"))?);
    let ([stdin, stdout, stderr], streams) = match spec.terminal {
        Some(size) => terminal(size).map_err(failed("open a terminal"))?,
        None => pipes(spec.stdin, &null).map_err(failed("make a pipe"))?,
    };
    let (control, control_end) = socket_pair().map_err(failed("make a socket pair"))?;
    let ruleset = confine::ruleset().map_err(|why| SpawnError::LayerUnavailable {
        layer: Layer::Landlock,
        why,
    })?;
    let caller = own_process().map_err(failed("open this process"))?;
    let kept = [stdin, stdout, stderr, null, control, caller, ruleset];
    let ends = Ends {
        streams,
        control: control_end,
        questions: None,
    };
    Ok((
        above_streams(kept).map_err(failed("move a descriptor"))?,
        ends,
    ))
}

/// A pipe for each stream, or the null device.
fn pipes(input: Stdin, null: &OwnedFd) -> io::Result<([OwnedFd; 3], Streams)> {
    let (stdin, stdin_end) = match input {
        Stdin::Null => (null.try_clone()?, None),
        Stdin::Piped => {
            let (reader, writer) = io::pipe()?;
            (reader.into(), Some(writer))
        }
    };
    let (stdout_end, stdout) = io::pipe()?;
    let (stderr_end, stderr) = io::pipe()?;
    let streams = Streams {
        stdin: stdin_end,
        stdout: Some(stdout_end),
        stderr: Some(stderr_end),
        terminal: None,
    };
    Ok(([stdin, stdout.into(), stderr.into()], streams))
}

/// A terminal for all three.
fn terminal(size: TerminalSize) -> io::Result<([OwnedFd; 3], Streams)> {
    let (terminal, stdin) = Terminal::open(size)?;
    let (stdout, stderr) = (stdin.try_clone()?, stdin.try_clone()?);
    let streams = Streams {
        terminal: Some(terminal),
        ..Streams::default()
    };
    Ok(([stdin, stdout, stderr], streams))
}

/// A process that has closed its own standard streams gets their numbers for new descriptors; the
/// supervisor needs those three numbers.
fn above_streams(kept: [OwnedFd; 7]) -> io::Result<[OwnedFd; 7]> {
    let mut failed = None;
    let moved = kept.map(|fd| {
        if fd.as_raw_fd() > 2 {
            return fd;
        }
        // `try_clone` never gives one of the three.
        fd.try_clone().unwrap_or_else(|error| {
            failed = Some(error);
            fd
        })
    });
    failed.map_or(Ok(moved), Err)
}

#[expect(unsafe_code, reason = "the standard library has no such sockets")]
fn socket_pair() -> io::Result<(OwnedFd, OwnedFd)> {
    let mut fds = [-1; 2];
    let kind = libc::SOCK_SEQPACKET | libc::SOCK_CLOEXEC;
    // SAFETY: the call writes two descriptors to the array.
    if unsafe { libc::socketpair(libc::AF_UNIX, kind, 0, fds.as_mut_ptr()) } != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: both are open and nobody else's.
    Ok(unsafe { (OwnedFd::from_raw_fd(fds[0]), OwnedFd::from_raw_fd(fds[1])) })
}

#[expect(
    unsafe_code,
    reason = "the standard library has no process descriptors of oneself"
)]
fn own_process() -> io::Result<OwnedFd> {
    // SAFETY: takes no pointers.
    let fd = unsafe { crate::sys::call(libc::SYS_pidfd_open, [std::process::id() as usize, 0]) }?;
    let fd = i32::try_from(fd).map_err(|_range| io::ErrorKind::InvalidData)?;
    // SAFETY: the descriptor is open and nobody else's.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// The socket for questions, where the program is supervised: the supervisor's end, which is none of
/// the standard streams, and the caller's.
pub(crate) fn questions(spec: &Spec) -> Result<(Option<OwnedFd>, Option<OwnedFd>), SpawnError> {
    if spec.supervision.is_none() {
        return Ok((None, None));
    }
    let failed = |source| SpawnError::Prepare {
        step: "make a socket pair",
        source,
    };
    let (mut near, far) = socket_pair().map_err(failed)?;
    if near.as_raw_fd() <= 2 {
        near = near.try_clone().map_err(failed)?;
    }
    Ok((Some(near), Some(far)))
}
