//! The emulated machine: QEMU without a network, a monitor or a disk to write to.
//!
//! # Choices
//! - `virtualization=on` with `-cpu max`: EL2 with its host extensions, as on the machines that the
//!   KVM engine is for. `pauth-impdef=on` because QEMU computes the architected pointer
//!   authentication very slowly; SVE and SME only cost time, as no guest gets them.
//! - PCI and not virtio-mmio: Debian's kernel has the one built in and the other as a module.
//! - The console goes to a file in memory without a path: nothing has to read it while the machine
//!   runs, and nothing is left of it.

#![expect(
    unsafe_code,
    reason = "pre_exec: what must happen between fork and exec"
)]

use super::{Lab, Machine};
use anyhow::{Context as _, bail};
use ringfence_lab_init::{Message, PORT, receive};
use rustix::io::{FdFlags, fcntl_setfd};
use rustix::process::{Signal, getpid, getppid, set_parent_process_death_signal};
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, Read, Seek as _, SeekFrom};
use std::os::fd::{AsRawFd as _, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt as _;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

const PROGRAM: &str = "qemu-system-aarch64";

/// What the kernel is told: the only security module is the one that the sandbox uses. `panic=-1` with `-no-reboot` turns a panic into QEMU's end.
const KERNEL_ARGS: &str = "console=ttyAMA0 panic=-1 lsm=landlock nokaslr";

/// Bytes of the console that are shown.
const TAIL: u64 = 8 << 10;

/// A running machine, killed when this is dropped.
#[derive(Debug)]
pub(super) struct Qemu {
    child: Child,
    port: UnixStream,
    end: Instant,
    console: File,
    stderr: File,
}

/// A message in time.
#[derive(Debug)]
pub(super) enum Timed {
    Message(Message),
    Out,
}

impl Qemu {
    /// Starts the machine.
    pub(super) fn start(lab: &Lab, initrd: &File, machine: &Machine) -> anyhow::Result<Self> {
        let (port, theirs) = UnixStream::pair().context("cannot make a pair of sockets")?;
        let inherited = [initrd.as_raw_fd(), theirs.as_raw_fd()];
        let file = || tempfile::tempfile().context("cannot make a temporary file");
        let (console, stderr) = (file()?, file()?);
        let mut command = command(lab, inherited, machine);
        command
            .stdin(Stdio::null())
            .stdout(console.try_clone()?)
            .stderr(stderr.try_clone()?);
        let parent = getpid();
        let prepare = move || {
            set_parent_process_death_signal(Some(Signal::KILL))?;
            // The parent may have died before the line above.
            if getppid() != Some(parent) {
                return Err(rustix::io::Errno::SRCH.into());
            }
            for fd in inherited {
                // SAFETY: `start` holds both open until after the spawn, and the child has a copy.
                let fd = unsafe { BorrowedFd::borrow_raw(fd) };
                fcntl_setfd(fd, FdFlags::empty())?;
            }
            Ok(())
        };
        // SAFETY: between fork and exec only async-signal-safe things may be done. `prepare` makes
        // three kinds of system calls and reads memory that was allocated before.
        unsafe { command.pre_exec(prepare) };
        let child = command
            .spawn()
            .with_context(|| format!("cannot start {PROGRAM}; `cargo xtask setup` gets it"))?;
        drop(OwnedFd::from(theirs));
        Ok(Self {
            child,
            port,
            end: Instant::now() + machine.timeout,
            console,
            stderr,
        })
    }

    /// The next message.
    pub(super) fn receive(&mut self) -> anyhow::Result<Timed> {
        let reader = UntilThen {
            stream: &self.port,
            end: self.end,
        };
        match receive(reader) {
            Ok(Some(message)) => Ok(Timed::Message(message)),
            Ok(None) => bail!("the machine ended before its program did"),
            Err(error) if is_timeout(&error) => Ok(Timed::Out),
            Err(error) => Err(error).context("cannot understand what the machine says"),
        }
    }

    /// Ends the machine.
    pub(super) fn kill(&mut self) -> anyhow::Result<()> {
        // It may have ended already.
        let _ended = self.child.kill();
        self.child.wait().context("cannot wait for QEMU")?;
        Ok(())
    }

    /// The end of the console.
    pub(super) fn console(&self) -> String {
        tail(&self.console).unwrap_or_else(|error| format!("(unreadable: {error})"))
    }

    /// An error with all that is known of a machine that failed.
    pub(super) fn failure(&self, why: &str) -> anyhow::Error {
        let stderr = tail(&self.stderr).unwrap_or_default();
        let mut text = why.to_owned();
        for (what, said) in [("the console", self.console()), (PROGRAM, stderr)] {
            if !said.is_empty() {
                text = format!("{text}; the last lines of {what}:\n{said}");
            }
        }
        anyhow::anyhow!(text)
    }
}

impl Drop for Qemu {
    fn drop(&mut self) {
        let _reaped = self.kill();
    }
}

/// Reads until a moment.
struct UntilThen<'a> {
    stream: &'a UnixStream,
    end: Instant,
}

impl Read for UntilThen<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let left = self.end.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(io::ErrorKind::TimedOut.into());
        }
        // The shortest time-out that does not mean none.
        let left = left.max(Duration::from_micros(1));
        self.stream.set_read_timeout(Some(left))?;
        self.stream.read(buffer)
    }
}

fn is_timeout(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::TimedOut | io::ErrorKind::WouldBlock
    )
}

/// The last lines of a file, with nothing in them that a terminal would obey.
fn tail(mut file: &File) -> io::Result<String> {
    let length = file.seek(SeekFrom::End(0))?;
    file.seek(SeekFrom::Start(length.saturating_sub(TAIL)))?;
    let mut bytes = Vec::new();
    file.take(TAIL).read_to_end(&mut bytes)?;
    let text = String::from_utf8_lossy(&bytes);
    Ok(text
        .chars()
        .filter(|&char| char == '\n' || !char.is_control())
        .collect())
}

fn command(lab: &Lab, [initrd, port]: [RawFd; 2], machine: &Machine) -> Command {
    let loudness = if machine.verbose {
        "ignore_loglevel"
    } else {
        "loglevel=4"
    };
    let mut command = Command::new(PROGRAM);
    command.env_clear().env("LC_ALL", "C");
    if let Some(path) = std::env::var_os("PATH") {
        command.env("PATH", path);
    }
    command.args(["-no-user-config", "-nodefaults", "-no-reboot"]);
    command.args(["-display", "none"]);
    command.args(["-machine", "virt,virtualization=on,gic-version=3,its=off"]);
    command.args(["-accel", "tcg,thread=multi"]);
    command.args(["-cpu", "max,pauth-impdef=on,sve=off,sme=off"]);
    command.args(["-smp", &machine.cpus.to_string()]);
    command.args(["-m", &format!("{}M", machine.memory)]);
    command.arg("-kernel").arg(&lab.parts.kernel);
    command.args(["-initrd", &format!("/proc/self/fd/{initrd}")]);
    command.args(["-append", &format!("{KERNEL_ARGS} {loudness}")]);
    command.args(["-chardev", "stdio,id=console,signal=off"]);
    command.args(["-serial", "chardev:console"]);
    command.args(["-device", "virtio-serial-pci"]);
    command.args(["-chardev", &format!("socket,id=port,fd={port}")]);
    command.args([
        "-device",
        &format!("virtserialport,chardev=port,name={PORT}"),
    ]);
    // The lab names its disks in the order of their devices here.
    let tools = lab.tools.as_deref().map(|tools| ("tools", tools));
    let rootfs = lab.image.rootfs();
    for (name, path) in [("root", rootfs.as_path())].into_iter().chain(tools) {
        let keys =
            format!("driver=raw,node-name={name},read-only=on,file.driver=file,file.filename=");
        let disk = option(&keys, path.as_os_str());
        command.arg("-blockdev").arg(disk);
        command.args(["-device", &format!("virtio-blk-pci,drive={name}")]);
    }
    command
}

/// A value at the end of an option of QEMU's, in which commas are doubled.
fn option(keys: &str, value: &OsStr) -> OsString {
    let mut bytes = keys.as_bytes().to_vec();
    for &byte in value.as_bytes() {
        bytes.push(byte);
        if byte == b',' {
            bytes.push(byte);
        }
    }
    OsString::from_vec(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use ringfence_lab_init::{Ended, send};
    use std::io::Write as _;

    #[test]
    fn commas_of_paths_are_doubled() {
        assert_eq!(option("file=", OsStr::new("/a,b")), "file=/a,,b");
    }

    #[test]
    fn the_end_of_a_file_is_made_harmless() {
        let mut file = tempfile::tempfile().unwrap();
        write!(file, "{}last\x1b[1m words\r\n", "x".repeat(9 << 10)).unwrap();
        let text = tail(&file).unwrap();
        assert!(text.ends_with("xlast[1m words\n"), "{text}");
        assert!(text.len() <= 8 << 10);
    }

    #[test]
    fn reading_ends_in_time() {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        let read = |end| receive(UntilThen { stream: &ours, end });
        let message = Message::Ended(Ended::Exited(0));
        send(&mut theirs, &message).unwrap();
        let later = Instant::now() + Duration::from_secs(60);
        assert_eq!(read(later).unwrap(), Some(message));
        // Half a message, and then nothing.
        theirs.write_all(&[9, 0]).unwrap();
        let soon = Instant::now() + Duration::from_millis(5);
        assert!(is_timeout(&read(soon).unwrap_err()));
        drop(theirs);
        assert_eq!(read(later).unwrap(), None);
    }
}
