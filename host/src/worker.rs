//! The process that a VM runs in.
//!
//! A VM of ringfence's own never runs inside the application that asks for it but in a process of
//! the `ringfence` command, started for the purpose and ended with its [`Sandbox`](crate::Sandbox).
//! Where to find the command can be said by the variable `RINGFENCE_WORKER`.

use std::process::ExitCode;

/// For the `ringfence` command: if this process was started as a worker, works, and returns the
/// status to exit with.
///
/// Call it before anything else; an application has no use for it.
#[must_use]
pub fn serve_if_asked() -> Option<ExitCode> {
    let mut arguments = std::env::args_os().skip(1);
    (arguments.next()? == crate::vmm::WORKER).then(|| crate::vmm::work(arguments))
}
