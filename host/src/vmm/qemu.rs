//! Engine `qemu`: software emulation by `qemu-system-aarch64`, on any Linux machine.
//!
//! QEMU gets the guest's parts, a serial line that ends in a pipe, and our vsock device over a
//! socket that it inherits. It has no monitor, no display, no network and no default devices, runs
//! under its own seccomp filter, and dies with this process.
//!
//! # Choices
//! - `-cpu neoverse-n1`: a server's processor of Armv8.2 with its atomics. Measured against `max`,
//!   boot is a tenth and bulk transfer a third faster: pointer authentication, SVE and their
//!   registers cost emulation dearly, and no program needs them.
//! - `its=off`: message-signalled interrupts are for PCI, which the guest does not have.
//! - `mttcg`: one host thread per virtual processor.
//! - `console=ttyAMA0` with `quiet`: every printed character is an exit; a kernel that says nothing
//!   but its last words costs nothing.

use super::process::{Logs, Process};
use super::vsock::{GuestCid, Refused, VhostUser, VsockHost};
use super::worker::is_executable;
use super::{Booted, Exit, Machine, MachineConfig, MachineError};
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, sync_channel};
use std::time::Duration;

/// The program.
const PROGRAM: &str = "qemu-system-aarch64";

/// What the kernel is told besides what the caller adds. `panic=-1` with `-no-reboot` turns a panic
/// into QEMU's end.
const KERNEL_ARGS: &str = "console=ttyAMA0 quiet loglevel=3 panic=-1";

/// Confinement of QEMU by itself. Nothing of it is needed once a guest runs.
const SANDBOX: &str = "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny";

/// What QEMU says when it was built without libseccomp.
const NO_SANDBOX: [&str; 2] = ["seccomp is not compiled", "invalid option: -sandbox"];

/// Most virtual processors of QEMU's `virt` machine with GICv3.
const MOST_CPUS: u8 = 123;

/// Finds QEMU on `PATH`.
///
/// # Errors
/// [`MachineError::EngineMissing`], which says how to get it.
pub(crate) fn find() -> Result<PathBuf, MachineError> {
    find_in(std::env::var_os("PATH").as_deref())
}

fn find_in(path: Option<&OsStr>) -> Result<PathBuf, MachineError> {
    path.iter()
        .flat_map(std::env::split_paths)
        .map(|dir| dir.join(PROGRAM))
        .find(|path| is_executable(path))
        .ok_or(MachineError::EngineMissing { program: PROGRAM })
}

/// Boots a guest and waits until it reports itself ready.
///
/// # Errors
/// [`MachineError`]; whatever was started is gone by then.
pub(crate) fn boot(config: MachineConfig) -> Result<Booted, MachineError> {
    check(&config)?;
    let qemu = find()?;
    match attempt(&config, &qemu, true) {
        Err(MachineError::Exited { exit })
            if NO_SANDBOX.iter().any(|words| exit.stderr.contains(words)) =>
        {
            tracing::warn!("this QEMU was built without seccomp; it runs unconfined");
            attempt(&config, &qemu, false)
        }
        result => result,
    }
}

fn check(config: &MachineConfig) -> Result<(), MachineError> {
    let parts = [
        ("kernel", &config.kernel),
        ("initramfs", &config.initramfs),
        ("root file system", &config.rootfs),
    ];
    for (part, path) in parts {
        File::open(path).map_err(|source| MachineError::Part {
            part,
            path: path.clone(),
            source,
        })?;
    }
    if config.cpus == 0 || config.cpus > MOST_CPUS {
        return Err(MachineError::Config {
            what: "the number of processors",
            value: config.cpus.to_string(),
            expected: "take one from 1 to 123",
        });
    }
    if !(MIB * 32..=MIB << 20).contains(&config.memory) {
        return Err(MachineError::Config {
            what: "the guest's memory",
            value: format!("{} bytes", config.memory),
            expected: "take 32 MiB to 1 TiB",
        });
    }
    Ok(())
}

const MIB: u64 = 1 << 20;

/// What ends the wait for a guest.
enum Event {
    Ready(UnixStream),
    Ended,
}

fn attempt(config: &MachineConfig, qemu: &Path, sandbox: bool) -> Result<Booted, MachineError> {
    let system = |step| move |source| MachineError::System { step, source };
    let (vsock, door, socket) = VhostUser::start(GuestCid::SOLE).map_err(MachineError::device)?;
    // One place: whichever comes first is what counts.
    let (events, event) = sync_channel(1);
    let ready = events.clone();
    let listening = door
        .listen(
            config.ready_port,
            Box::new(move |stream| ready.try_send(Event::Ready(stream)).map_err(|_| Refused)),
        )
        .map_err(system("listen for the guest"))?;
    let command = command(config, qemu, &socket, sandbox);
    let console_log = config
        .console_log
        .as_ref()
        .map(File::try_clone)
        .transpose()
        .map_err(system("share the console's log file"))?;
    let logs = Logs {
        console: console_log,
        errors: None,
    };
    let process = Process::spawn(command, vec![socket], logs, move || {
        // The guest is gone and says so: now its streams end, and whoever waits for one is told.
        drop(vsock);
        let _ = events.try_send(Event::Ended);
    })
    .map_err(system("start QEMU"))?;
    let machine = Qemu { process, door };
    let ready = machine.wait_ready(&event, config.boot_timeout)?;
    drop(listening);
    Ok(Booted {
        machine: Arc::new(machine),
        ready,
    })
}

fn command(config: &MachineConfig, qemu: &Path, vsock: &OwnedFd, sandbox: bool) -> Command {
    let memory = config.memory.div_ceil(MIB);
    let mut kernel_args = KERNEL_ARGS.to_owned();
    for arg in &config.kernel_args {
        kernel_args.push(' ');
        kernel_args.push_str(arg);
    }
    let mut command = Command::new(qemu);
    command.stdin(Stdio::null()).env_clear().env("LC_ALL", "C");
    command.args([
        "-no-user-config",
        "-nodefaults",
        "-no-reboot",
        "-display",
        "none",
    ]);
    command.args(["-machine", "virt,gic-version=3,its=off,memory-backend=mem"]);
    let (accelerator, processor) = match super::kvm_problem() {
        None => ("kvm", "host"),
        Some(_) => ("tcg,thread=multi", "neoverse-n1"),
    };
    command.args(["-accel", accelerator]);
    command.args(["-cpu", processor]);
    command.args(["-smp", &config.cpus.to_string()]);
    command.args(["-m", &format!("{memory}M")]);
    command.args([
        "-object",
        &format!("memory-backend-memfd,id=mem,share=on,size={memory}M"),
    ]);
    command.arg("-kernel").arg(&config.kernel);
    command.arg("-initrd").arg(&config.initramfs);
    command.args(["-append", &kernel_args]);
    command.args([
        "-chardev",
        "stdio,id=console,signal=off",
        "-serial",
        "chardev:console",
    ]);
    command.args(["-global", "virtio-mmio.force-legacy=false"]);
    command.arg("-blockdev").arg(option(
        "driver=raw,node-name=root,read-only=on,file.driver=file,file.filename=",
        config.rootfs.as_os_str(),
    ));
    command.args(["-device", "virtio-blk-device,drive=root"]);
    command.args(["-device", "virtio-rng-device"]);
    command.args([
        "-chardev",
        &format!("socket,id=vsock,fd={}", vsock.as_raw_fd()),
    ]);
    command.args(["-device", "vhost-user-vsock-device,chardev=vsock"]);
    if sandbox {
        command.args(["-sandbox", SANDBOX]);
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

/// A guest in QEMU. The order of the fields is the order in which they end.
struct Qemu {
    process: Process,
    door: VsockHost,
}

impl Qemu {
    fn wait_ready(
        &self,
        event: &Receiver<Event>,
        timeout: Duration,
    ) -> Result<UnixStream, MachineError> {
        match event.recv_timeout(timeout) {
            Ok(Event::Ready(stream)) => Ok(stream),
            Ok(Event::Ended) | Err(RecvTimeoutError::Disconnected) => Err(self.ended()),
            Err(RecvTimeoutError::Timeout) => {
                self.process.stop();
                Err(MachineError::BootTimeout {
                    after: timeout,
                    exit: self.outcome(),
                })
            }
        }
    }

    fn ended(&self) -> MachineError {
        MachineError::Exited {
            exit: self.outcome(),
        }
    }

    fn outcome(&self) -> Box<Exit> {
        Box::new(self.process.outcome())
    }
}

impl Machine for Qemu {
    fn connect(&self, port: u32, timeout: Duration) -> Result<UnixStream, MachineError> {
        self.door
            .connect(port, timeout)
            .map_err(|source| match source.kind() {
                std::io::ErrorKind::ConnectionRefused => MachineError::Refused { port },
                std::io::ErrorKind::NotConnected => self.ended(),
                _ => MachineError::Connect { port, source },
            })
    }

    fn stop(&self) {
        self.process.stop();
    }

    fn exit(&self) -> Option<Exit> {
        self.process.exit()
    }

    fn exit_within(&self, patience: Duration) -> Option<Exit> {
        self.process.exit_within(patience)
    }

    fn console_tail(&self) -> String {
        self.process.console()
    }
}

#[cfg(test)]
mod tests;
