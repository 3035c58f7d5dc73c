//! `cargo xtask lab`: runs a program in an emulated arm64 machine that has EL2, and so `/dev/kvm`.
//!
//! The machine is QEMU's `virt` with Debian's kernel, an initramfs of our own (`tests/lab-init`),
//! and the guest image's root file system below an overlay in memory. It has no network and no
//! disk that it could write to. What the program prints and how it ends come out of one
//! virtio-serial port; the console is for diagnosis. The machine is killed when the last message is
//! there, when time is over, or when this process ends, whatever ended it.
//!
//! ```text
//! Lab::prepare(shell, image)         compiles PID 1, takes the kernel out of its package
//!     .with_tools()                  puts an arm64 QEMU into every lab, for who asks
//!     └─ run(&Job, &Machine, output) one machine, one program, one Outcome
//! ```

mod arguments;
mod bench;
mod initrd;
mod qemu;
mod test;

pub(crate) use arguments::Arguments;
pub(crate) use bench::bench;
pub(crate) use test::{Engine, Test, sandbox};

use anyhow::{Context as _, bail};
use qemu::{Qemu, Timed};
use ringfence_image::build::{self, LabParts, Options};
use ringfence_image::{Arch, Image};
use ringfence_lab_init::{Ended, Message};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use xshell::Shell;

/// What is needed to boot labs.
#[derive(Debug)]
pub(crate) struct Lab {
    options: Options,
    parts: LabParts,
    image: Image,
    /// The squashfs of the tools, for a lab that has them.
    tools: Option<PathBuf>,
}

/// What a lab runs.
#[derive(Debug, Clone, Default)]
pub(crate) struct Job {
    /// A name without a slash is found on the lab's `PATH`; a path is one of this machine.
    pub(crate) program: String,
    pub(crate) args: Vec<String>,
    pub(crate) env: Vec<(String, String)>,
    pub(crate) files: Vec<Placed>,
    /// Runs as the lab's ordinary user, not as root.
    pub(crate) ordinary_user: bool,
}

/// A file of this machine and where it goes in the lab, an absolute path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Placed {
    pub(crate) source: PathBuf,
    pub(crate) destination: String,
}

/// The emulated machine.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Machine {
    pub(crate) cpus: u8,
    /// In MiB.
    pub(crate) memory: u32,
    /// After which the machine is killed.
    pub(crate) timeout: Duration,
    /// Prints how long each phase took, and has the kernel say everything on the console.
    pub(crate) verbose: bool,
}

impl Default for Machine {
    fn default() -> Self {
        Self {
            cpus: 2,
            memory: 2048,
            timeout: Duration::from_secs(600),
            verbose: false,
        }
    }
}

/// Which of the program's streams.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stream {
    Stdout,
    Stderr,
}

/// How a run ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// The program ended.
    Ended(Ended),
    /// It did not in time, and the machine was killed.
    TimedOut,
}

impl Outcome {
    /// The exit status for a shell.
    pub(crate) const fn code(self) -> u8 {
        match self {
            Self::Ended(ended) => ended.code(),
            Self::TimedOut => 124,
        }
    }
}

/// How long the parts of a run took.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Phases {
    /// From the start of QEMU until the lab's PID 1 had its modules and could tell.
    pub(crate) init: Duration,
    /// What the lab's kernel says of that: the rest is QEMU's own start.
    pub(crate) kernel: Duration,
    /// From there to the start of the program.
    pub(crate) program: Duration,
    /// From there to its end.
    pub(crate) end: Duration,
}

/// What a run told.
#[derive(Debug, Clone)]
pub(crate) struct Report {
    pub(crate) outcome: Outcome,
    pub(crate) phases: Phases,
    /// The last lines of the console.
    pub(crate) console: String,
}

impl Lab {
    /// Makes what labs are booted from; quick where nothing has changed.
    pub(crate) fn prepare(shell: &Shell, image: Option<&Path>) -> anyhow::Result<Self> {
        let options = crate::build_image::options_for(shell, Arch::Aarch64, "ringfence-lab-init")?;
        let parts = build::lab(&options).context("cannot make the lab's kernel and initramfs")?;
        let image = match image {
            Some(folder) => Image::open(folder),
            None => Image::find(Arch::Aarch64),
        };
        let image = image.context("the lab's root is that of the guest image")?;
        Ok(Self {
            options,
            parts,
            image,
            tools: None,
        })
    }

    /// The same with the tools of `tests/lab-init/tools.list`: an arm64 QEMU.
    pub(crate) fn with_tools(mut self) -> anyhow::Result<Self> {
        let tools = build::lab_tools(&self.options).context("cannot make the lab's tools")?;
        self.tools = Some(tools);
        Ok(self)
    }

    /// Boots a machine, runs the program in it, and hands what it prints to `output` as it comes.
    ///
    /// Call it from a thread that lives as long as it takes: the machine ends with the thread.
    pub(crate) fn run(
        &self,
        job: &Job,
        machine: &Machine,
        mut output: impl FnMut(Stream, &[u8]) -> anyhow::Result<()>,
    ) -> anyhow::Result<Report> {
        let initrd = initrd::write(job, self)?;
        let mut qemu = Qemu::start(self, &initrd, machine)?;
        let mut phases = Phases::default();
        let mut last = Instant::now();
        let mut lap = || std::mem::replace(&mut last, Instant::now()).elapsed();
        loop {
            let message = match qemu.receive() {
                Ok(Timed::Message(message)) => message,
                Ok(Timed::Out) => {
                    qemu.kill()?;
                    phases.end = lap();
                    return Ok(report(Outcome::TimedOut, phases, &qemu));
                }
                Err(error) => {
                    qemu.kill()?;
                    return Err(qemu.failure(&format!("{error:#}")));
                }
            };
            match message {
                Message::Init(uptime) => {
                    phases.init = lap();
                    phases.kernel = uptime;
                }
                Message::Started(_) => phases.program = lap(),
                Message::Stdout(bytes) => output(Stream::Stdout, &bytes)?,
                Message::Stderr(bytes) => output(Stream::Stderr, &bytes)?,
                Message::Ended(ended) => {
                    phases.end = lap();
                    qemu.kill()?;
                    return Ok(report(Outcome::Ended(ended), phases, &qemu));
                }
                Message::Failed(why) => {
                    qemu.kill()?;
                    return Err(qemu.failure(&why));
                }
            }
        }
    }
}

fn report(outcome: Outcome, phases: Phases, qemu: &Qemu) -> Report {
    Report {
        outcome,
        phases,
        console: qemu.console(),
    }
}

/// The ELF file of a program, if it is one that the lab can run: static, for arm64.
fn check_program(bytes: &[u8], path: &Path) -> anyhow::Result<()> {
    const MACHINE: usize = 18;
    const AARCH64: [u8; 2] = [183, 0];
    if bytes.starts_with(b"#!") {
        return Ok(());
    }
    let machine = bytes.get(MACHINE..MACHINE + 2);
    if !bytes.starts_with(b"\x7fELF") || machine != Some(&AARCH64) {
        bail!(
            "{} is no arm64 program; build it with --target aarch64-unknown-linux-musl",
            path.display()
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_of_other_machines_are_refused() {
        let path = Path::new("program");
        let mut elf = b"\x7fELF\x02\x01\x01".to_vec();
        elf.resize(18, 0);
        let with = |machine: u8| [&elf[..], &[machine, 0]].concat();
        check_program(&with(183), path).unwrap();
        check_program(b"#!/bin/sh\n", path).unwrap();
        assert!(check_program(&with(62), path).is_err());
        assert!(check_program(b"\x7fELF", path).is_err());
        assert!(check_program(b"", path).is_err());
    }

    #[test]
    fn statuses_are_those_of_a_shell() {
        assert_eq!(Outcome::Ended(Ended::Exited(7)).code(), 7);
        assert_eq!(Outcome::Ended(Ended::Signaled(9)).code(), 137);
        assert_eq!(Outcome::TimedOut.code(), 124);
    }
}
