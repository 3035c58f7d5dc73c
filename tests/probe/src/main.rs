//! A hostile program. Each argument `NAME` or `NAME=VALUE` is one thing to try; each prints one
//! line that says how it went:
//!
//! | line | meaning |
//! |---|---|
//! | `NAME refused ERRNO` | the kernel said no, in this way |
//! | `NAME killed SIGNAL` | the process that tried was killed |
//! | `NAME holds DETAIL` | a state that must hold does hold |
//! | `NAME ALLOWED DETAIL` | the try succeeded, or the state does not hold |
//!
//! The exit status is 0 only when nothing was allowed, 2 when a name is unknown. Each try runs in a
//! child of its own, so that one that is killed does not take the others along. `do NAME ARGUMENTS`
//! runs a helper instead: something that behaves in a way that a test needs.
//!
//! As process 1 of a guest it is something else again, see `guest`.
//!
//! Nothing here may depend on what the sandbox is expected to do: the tests decide that. Run
//! outside of a sandbox, most tries are allowed, which shows that they can succeed at all.

#[cfg(all(target_os = "linux", target_arch = "aarch64"))]
mod guest;
#[cfg(target_os = "linux")]
mod helpers;
#[cfg(target_os = "linux")]
mod objects;
#[cfg(target_os = "linux")]
mod sys;
#[cfg(target_os = "linux")]
mod tries;

#[cfg(target_os = "linux")]
fn main() -> std::process::ExitCode {
    #[cfg(target_arch = "aarch64")]
    if std::process::id() == 1 && std::env::args().next().as_deref() == Some("/init") {
        return guest::run();
    }
    let arguments: Vec<_> = std::env::args().skip(1).collect();
    match arguments.split_first() {
        Some((first, rest)) if first == "do" => helpers::run(rest),
        _ => tries::run(&arguments),
    }
}

#[cfg(not(target_os = "linux"))]
fn main() {
    eprintln!("ringfence-probe tries Linux's system calls and runs on Linux only");
    std::process::exit(2);
}
