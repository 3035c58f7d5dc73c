//! PID 1 of the guest.
//!
//! Mounts the root file system, prepares control groups, starts the agent by `fork` and from then
//! on only reaps. When the agent ends, or a step fails, one line on the console says so and the
//! machine powers off, so that the host sees it at once.
//!
//! The agent is forked, not executed: nothing needs the binary once the initramfs is gone, and the
//! pages are shared. This is sound because PID 1 never has a second thread.
//!
//! Rejected: a supervisor that restarts the agent. An agent that died is a bug or an attack; a
//! fresh machine costs tens of milliseconds and has no such past.

#![expect(
    unsafe_code,
    reason = "fork and the environment of a process with one thread"
)]

mod cgroup;
mod console;
mod modules;
mod mounts;
mod root_device;

use console::{Console, Stopwatch};
use ringfence_protocol::chain;
use rustix::process::{Pid, Resource, Rlimit, WaitOptions, WaitStatus};
use rustix::system::RebootCommand;
use std::io;
use std::process::ExitCode;

/// What the agent exits with after it was asked to shut the machine down. Any other end of the
/// agent is a failure.
pub const SHUTDOWN: u8 = 0;

/// Open files that the agent may have: some ten for each execution, and room.
const OPEN_FILES: u64 = 16 << 10;

/// The environment of the agent, and so of programs in the sandbox.
const ENVIRONMENT: [(&str, &str); 2] = [
    (
        "PATH",
        "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    ),
    ("LANG", "C.UTF-8"),
];

/// A step of the start that failed.
#[derive(Debug, thiserror::Error)]
pub enum InitError {
    /// A system call failed.
    #[error("cannot {step}")]
    System {
        /// What was tried, with its object.
        step: String,
        /// The kernel's reason.
        #[source]
        source: io::Error,
    },
    /// The root device did not appear.
    #[error(
        "{device} did not appear within {seconds} s; \
         attach the root file system as the first virtio-blk device"
    )]
    NoRootDevice {
        /// The device.
        device: &'static str,
        /// How long it was waited for.
        seconds: u64,
    },
}

/// Names the step of a failed system call.
fn step<E: Into<io::Error>>(step: impl Into<String>) -> impl FnOnce(E) -> InitError {
    move |source| InitError::System {
        step: step.into(),
        source: source.into(),
    }
}

/// Runs the guest until the agent ends. Returns only when the machine cannot be powered off.
#[must_use]
pub fn run() -> ExitCode {
    let mut console = Console::new();
    match start(&mut console) {
        Ok(agent) => reap_until(agent, &mut console),
        Err(error) => console.say(&format!("cannot start: {}", chain(&error))),
    }
    rustix::fs::sync();
    if let Err(error) = rustix::system::reboot(RebootCommand::PowerOff) {
        console.say(&format!("cannot power off: {error}"));
    }
    // The kernel panics when PID 1 ends, which is what is left.
    ExitCode::FAILURE
}

/// Everything up to the agent's start.
fn start(console: &mut Console) -> Result<Pid, InitError> {
    let mut watch = Stopwatch::new();
    mounts::early()?;
    console.reopen();
    watch.tell_uptime(console);
    watch.lap(console, "devices");
    modules::load()?;
    watch.lap(console, "modules");
    root_device::wait()?;
    watch.lap(console, "root device");
    let initramfs = mounts::root()?;
    watch.lap(console, "root file system");
    cgroup::prepare()?;
    rustix::system::sethostname(b"ringfence").map_err(step("set the host name"))?;
    let files = Rlimit {
        current: Some(OPEN_FILES),
        maximum: Some(OPEN_FILES),
    };
    rustix::process::setrlimit(Resource::Nofile, files).map_err(step("raise RLIMIT_NOFILE"))?;
    overcommit();
    watch.lap(console, "control groups");
    match fork()? {
        Some(agent) => {
            initramfs.empty();
            Ok(agent)
        }
        None => {
            drop(initramfs);
            become_agent()
        }
    }
}

/// Has the kernel promise more memory than there is, so that a program which asks for too much hits
/// its limit and that is reported, rather than an allocation that fails because the guest is small.
/// A kernel without this setting keeps its own judgement, which is good enough.
fn overcommit() {
    let _unchanged = std::fs::write("/proc/sys/vm/overcommit_memory", "1");
}

/// Forks. `None` in the child.
fn fork() -> Result<Option<Pid>, InitError> {
    // SAFETY: PID 1 has one thread, so the child may do whatever the parent may.
    let child = unsafe { libc::fork() };
    if child < 0 {
        return Err(step("fork the agent")(io::Error::last_os_error()));
    }
    Ok(Pid::from_raw(child))
}

/// Makes this process the agent.
fn become_agent() -> ! {
    for (name, value) in ENVIRONMENT {
        // SAFETY: this process has one thread, so nobody reads the environment meanwhile.
        unsafe { std::env::set_var(name, value) };
    }
    let _kept = rustix::thread::set_name(c"agent");
    std::process::exit(i32::from(crate::agent::run()))
}

/// Reaps whatever ends until the agent does, and says how it ended.
fn reap_until(agent: Pid, console: &mut Console) {
    loop {
        match rustix::process::wait(WaitOptions::empty()) {
            Ok(Some((pid, status))) if pid == agent => {
                return console.say(&how_agent_ended(status));
            }
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return console.say(&format!("cannot wait for the agent: {error}")),
        }
    }
}

fn how_agent_ended(status: WaitStatus) -> String {
    if status.exit_status() == Some(i32::from(SHUTDOWN)) {
        return "powering off as asked".into();
    }
    let how = match (status.exit_status(), status.terminating_signal()) {
        (Some(code), _) => format!("exited with status {code}"),
        (None, Some(signal)) => format!("was killed by signal {signal}"),
        (None, None) => "ended".into(),
    };
    format!("the agent {how}; powering off")
}
