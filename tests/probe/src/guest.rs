//! As process 1 of a guest: makes way for the guest's own `/init`, and leaves a process behind that
//! does to the guest what it sees a sandboxed program named after, with the rights of root and
//! outside of the sandbox. So a test brings about what no sandboxed program can.
//!
//! | name of a program | what happens |
//! |---|---|
//! | `do-reboot`, `do-poweroff` | the system call `reboot` |
//! | `do-panic` | process 1 jumps to an address without memory, so that the kernel panics |
//! | `do-kill-agent` | SIGKILL to the agent |

#![expect(unsafe_code, reason = "fork, reboot and ptrace as process 1 does them")]

use std::ffi::CString;
use std::fs;
use std::io::{self, Read as _, Write as _};
use std::os::unix::process::CommandExt as _;
use std::process::{Command, ExitCode};
use std::time::Duration;

/// The guest's own `/init`.
const INIT: &str = "/init.own";

/// Where `/proc` is for a moment.
const PLACE: &str = "/deeds";

/// Between two looks at the processes. No event tells a process of the start of another.
const PAUSE: Duration = Duration::from_millis(5);

/// Becomes the guest's `/init`.
pub(crate) fn run() -> ExitCode {
    let error = prepare().err().unwrap_or_else(|| {
        // Process 1 must be the one that was; this one keeps its number.
        Command::new(INIT).exec()
    });
    // The kernel panics when this process ends, which the test sees.
    eprintln!("the probe cannot be /init: {error}");
    ExitCode::FAILURE
}

fn prepare() -> io::Result<()> {
    fs::create_dir(PLACE)?;
    let place = CString::new(PLACE)?;
    let kind = c"proc".as_ptr();
    // SAFETY: strings that live, and no data.
    check(unsafe { libc::mount(kind, place.as_ptr(), kind, 0, std::ptr::null()) })?;
    let (mut ready, told) = io::pipe()?;
    // SAFETY: one thread.
    if check(unsafe { libc::fork() })? == 0 {
        if let Err(error) = watch(told) {
            eprintln!("the probe in the guest: {error}");
        }
        std::process::exit(1);
    }
    drop(told);
    ready.read_exact(&mut [0])?;
    // SAFETY: a string that lives.
    check(unsafe { libc::umount2(place.as_ptr(), libc::MNT_DETACH) })?;
    fs::remove_dir(PLACE)
}

/// Looks for programs of the known names, for as long as the guest lives.
fn watch(mut told: io::PipeWriter) -> io::Result<()> {
    std::env::set_current_dir(PLACE)?;
    told.write_all(&[0])?;
    drop(told);
    loop {
        for (_, name) in processes()? {
            match name.as_str() {
                "do-reboot" => reboot(libc::RB_AUTOBOOT)?,
                "do-poweroff" => reboot(libc::RB_POWER_OFF)?,
                "do-panic" => return derail_init(),
                "do-kill-agent" => return kill_agent(),
                _ => {}
            }
        }
        std::thread::sleep(PAUSE);
    }
}

/// Numbers and names of all processes. The working directory is `/proc`.
fn processes() -> io::Result<Vec<(libc::pid_t, String)>> {
    let names = fs::read_dir(".")?.flatten().filter_map(|entry| {
        let pid = entry.file_name().to_str()?.parse().ok()?;
        // One that has just ended has no name.
        let name = fs::read_to_string(entry.path().join("comm")).ok()?;
        Some((pid, name.trim_end().to_owned()))
    });
    Ok(names.collect())
}

fn reboot(how: libc::c_int) -> io::Result<()> {
    // SAFETY: it ends the machine, and nothing is to be kept.
    check(unsafe { libc::reboot(how) }).map(drop)
}

fn kill_agent() -> io::Result<()> {
    let agents = processes()?.into_iter().filter(|(_, name)| name == "agent");
    for (pid, _) in agents {
        // SAFETY: a number.
        check(unsafe { libc::kill(pid, libc::SIGKILL) })?;
    }
    Ok(())
}

/// Has process 1 go on at an address where no memory is. SIGKILL would not reach it.
fn derail_init() -> io::Result<()> {
    const INIT: libc::pid_t = 1;
    /// The set of general registers.
    const NT_PRSTATUS: usize = 1;
    let none = std::ptr::null_mut::<libc::c_void>();
    // SAFETY: all-zero bytes are a value of this structure of numbers.
    let mut registers: libc::user_regs_struct = unsafe { std::mem::zeroed() };
    let len = size_of_val(&registers);
    let registers = &raw mut registers;
    let mut area = libc::iovec {
        iov_base: registers.cast(),
        iov_len: len,
    };
    // SAFETY: process 1 is no part of this one, and `area` describes `registers`, which lives.
    unsafe {
        check(libc::ptrace(libc::PTRACE_SEIZE, INIT, none, none))?;
        check(libc::ptrace(libc::PTRACE_INTERRUPT, INIT, none, none))?;
        check(libc::waitpid(INIT, std::ptr::null_mut(), libc::__WALL))?;
        let area = &raw mut area;
        check(libc::ptrace(
            libc::PTRACE_GETREGSET,
            INIT,
            NT_PRSTATUS,
            area,
        ))?;
        (*registers).pc = 8;
        check(libc::ptrace(
            libc::PTRACE_SETREGSET,
            INIT,
            NT_PRSTATUS,
            area,
        ))?;
        check(libc::ptrace(libc::PTRACE_DETACH, INIT, none, none))?;
    }
    Ok(())
}

fn check<T: Copy + Into<i64>>(result: T) -> io::Result<T> {
    if result.into() < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(result)
}
