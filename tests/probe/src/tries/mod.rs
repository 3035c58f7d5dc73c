//! The tries by name, and how they are run and reported.

mod files;
mod ipc;
mod kernel;
mod network;
mod processes;
mod state;

use crate::sys::{self, Ended};
use std::io;
use std::process::ExitCode;

/// Something that must be refused. Success gives a detail for the report.
pub(crate) type Attempt = fn(&str) -> io::Result<String>;

/// Something that must be so: what is, or what is wrong with it.
pub(crate) type State = fn(&str) -> Result<String, String>;

/// What a name stands for.
#[derive(Clone, Copy)]
pub(crate) enum Try {
    Attempt(Attempt),
    State(State),
}

pub(crate) type Table = &'static [(&'static str, Try)];

const TABLES: [Table; 6] = [
    files::TRIES,
    ipc::TRIES,
    kernel::TRIES,
    network::TRIES,
    processes::TRIES,
    state::TRIES,
];

const REFUSED: u8 = 0;
const ALLOWED: u8 = 1;
const UNUSABLE: u8 = 2;

/// Runs every try and prints a line for each.
pub(crate) fn run(arguments: &[String]) -> ExitCode {
    let mut worst = if arguments.is_empty() {
        list()
    } else {
        REFUSED
    };
    for argument in arguments {
        let (name, value) = argument.split_once('=').unwrap_or((argument, ""));
        let Some(found) = find(name) else {
            println!("{name} is no try of this program");
            return ExitCode::from(UNUSABLE);
        };
        worst = worst.max(one(argument, value, found));
    }
    ExitCode::from(worst)
}

fn find(name: &str) -> Option<Try> {
    let mut all = TABLES.into_iter().flatten();
    all.find(|(each, _)| *each == name).map(|(_, found)| *found)
}

fn list() -> u8 {
    for (name, _) in TABLES.into_iter().flatten() {
        println!("{name}");
    }
    UNUSABLE
}

/// One try, in a child of its own. `name` is for the report.
fn one(name: &str, value: &str, what: Try) -> u8 {
    let child = sys::fork(|| {
        let (line, status) = match what {
            Try::Attempt(attempt) => match attempt(value) {
                Ok(detail) => (format!("ALLOWED {detail}"), ALLOWED),
                Err(error) => (format!("refused {}", error_name(&error)), REFUSED),
            },
            Try::State(state) => match state(value) {
                Ok(detail) => (format!("holds {detail}"), REFUSED),
                Err(detail) => (format!("ALLOWED {detail}"), ALLOWED),
            },
        };
        println!("{name} {line}");
        status
    });
    match child.and_then(sys::wait) {
        Ok(Ended::Exited(status)) => status,
        Ok(Ended::Signaled(signal)) => {
            println!("{name} killed {}", signal_name(signal));
            REFUSED
        }
        Err(error) => {
            println!("{name} could not be tried: {error}");
            UNUSABLE
        }
    }
}

fn signal_name(signal: libc::c_int) -> String {
    match signal {
        libc::SIGSYS => "SIGSYS".into(),
        libc::SIGKILL => "SIGKILL".into(),
        libc::SIGSEGV => "SIGSEGV".into(),
        libc::SIGILL => "SIGILL".into(),
        other => other.to_string(),
    }
}

/// The name of the error as the manual pages have it.
pub(crate) fn error_name(error: &io::Error) -> String {
    const NAMES: &[(i32, &str)] = &[
        (libc::EPERM, "EPERM"),
        (libc::ENOENT, "ENOENT"),
        (libc::ESRCH, "ESRCH"),
        (libc::EIO, "EIO"),
        (libc::ENXIO, "ENXIO"),
        (libc::EBADF, "EBADF"),
        (libc::EAGAIN, "EAGAIN"),
        (libc::ENOMEM, "ENOMEM"),
        (libc::EACCES, "EACCES"),
        (libc::EFAULT, "EFAULT"),
        (libc::EBUSY, "EBUSY"),
        (libc::EEXIST, "EEXIST"),
        (libc::EXDEV, "EXDEV"),
        (libc::ENODEV, "ENODEV"),
        (libc::ENOTDIR, "ENOTDIR"),
        (libc::EISDIR, "EISDIR"),
        (libc::EINVAL, "EINVAL"),
        (libc::EMFILE, "EMFILE"),
        (libc::ENOTTY, "ENOTTY"),
        (libc::EFBIG, "EFBIG"),
        (libc::ENOSPC, "ENOSPC"),
        (libc::EROFS, "EROFS"),
        (libc::ENOTSOCK, "ENOTSOCK"),
        (libc::ENOMSG, "ENOMSG"),
        (libc::EIDRM, "EIDRM"),
        (libc::ETXTBSY, "ETXTBSY"),
        (libc::ENOSYS, "ENOSYS"),
        (libc::ELOOP, "ELOOP"),
        (libc::ENOPROTOOPT, "ENOPROTOOPT"),
        (libc::EPROTONOSUPPORT, "EPROTONOSUPPORT"),
        (libc::ESOCKTNOSUPPORT, "ESOCKTNOSUPPORT"),
        (libc::EOPNOTSUPP, "EOPNOTSUPP"),
        (libc::EAFNOSUPPORT, "EAFNOSUPPORT"),
        (libc::EADDRNOTAVAIL, "EADDRNOTAVAIL"),
        (libc::ENETDOWN, "ENETDOWN"),
        (libc::ENETUNREACH, "ENETUNREACH"),
        (libc::EHOSTUNREACH, "EHOSTUNREACH"),
        (libc::ECONNREFUSED, "ECONNREFUSED"),
        (libc::ETIMEDOUT, "ETIMEDOUT"),
        (libc::EDQUOT, "EDQUOT"),
    ];
    let Some(code) = error.raw_os_error() else {
        return error.to_string();
    };
    let known = NAMES.iter().find(|(number, _)| *number == code);
    known.map_or_else(|| code.to_string(), |(_, name)| (*name).into())
}
