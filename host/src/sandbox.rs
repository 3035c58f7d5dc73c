//! What is the same for every execution: where it runs, what it may use, what it may reach.

use crate::backend::{Machines, Prewarmed};
use crate::{Command, Error, Policy};
use ringfence_protocol::{Layer, Limits};
use std::ffi::OsString;
use std::fmt;
use std::fs::File;
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

/// Where a program runs.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Isolation {
    /// [`Isolation::Process`] on Linux, [`Isolation::Vm`] on macOS.
    #[default]
    Auto,
    /// In the Linux sandbox on this kernel.
    Process,
    /// In the same sandbox inside a VM.
    Vm,
}

/// What runs the VM.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Engine {
    /// The best one this machine has.
    #[default]
    Auto,
    /// Apple's Hypervisor.framework.
    Hvf,
    /// Linux's KVM.
    Kvm,
    /// Software emulation by QEMU.
    Qemu,
}

/// The text names no isolation or engine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("there are only {0}")]
pub struct UnknownName(&'static str);

impl Isolation {
    const NAMES: [(Self, &'static str); 3] = [
        (Self::Auto, "auto"),
        (Self::Process, "process"),
        (Self::Vm, "vm"),
    ];

    /// What [`Isolation::Auto`] stands for on this system.
    #[must_use]
    pub const fn resolve(self) -> Self {
        match self {
            Self::Auto if cfg!(target_os = "linux") => Self::Process,
            Self::Auto => Self::Vm,
            chosen => chosen,
        }
    }
}

impl Engine {
    const NAMES: [(Self, &'static str); 4] = [
        (Self::Auto, "auto"),
        (Self::Hvf, "hvf"),
        (Self::Kvm, "kvm"),
        (Self::Qemu, "qemu"),
    ];
}

fn name_of<T: PartialEq>(names: &[(T, &'static str)], value: &T) -> &'static str {
    names
        .iter()
        .find(|(each, _)| each == value)
        .map_or("", |(_, name)| name)
}

impl fmt::Display for Isolation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(name_of(&Self::NAMES, self))
    }
}

impl fmt::Display for Engine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(name_of(&Self::NAMES, self))
    }
}

impl FromStr for Isolation {
    type Err = UnknownName;

    fn from_str(text: &str) -> Result<Self, UnknownName> {
        let found = Self::NAMES.iter().find(|(_, name)| *name == text);
        found
            .map(|(value, _)| *value)
            .ok_or(UnknownName("auto, process and vm"))
    }
}

impl FromStr for Engine {
    type Err = UnknownName;

    fn from_str(text: &str) -> Result<Self, UnknownName> {
        let found = Self::NAMES.iter().find(|(_, name)| *name == text);
        found
            .map(|(value, _)| *value)
            .ok_or(UnknownName("auto, hvf, kvm and qemu"))
    }
}

/// A host path that the program may reach.
#[derive(Debug, Clone)]
pub(crate) struct Grant {
    pub(crate) path: PathBuf,
    /// Where the program finds it; `None` for the same place.
    #[cfg_attr(
        not(target_os = "linux"),
        expect(
            dead_code,
            reason = "programs reach host paths in process isolation only"
        )
    )]
    pub(crate) destination: Option<PathBuf>,
    #[cfg_attr(
        not(target_os = "linux"),
        expect(
            dead_code,
            reason = "programs reach host paths in process isolation only"
        )
    )]
    pub(crate) writable: bool,
}

#[derive(Debug, Default)]
pub(crate) struct Config {
    pub(crate) isolation: Isolation,
    pub(crate) engine: Engine,
    pub(crate) limits: Limits,
    pub(crate) require: Vec<Layer>,
    pub(crate) env: Vec<(OsString, OsString)>,
    pub(crate) grants: Vec<Grant>,
    pub(crate) image: Option<PathBuf>,
    pub(crate) vm_log: Option<File>,
    pub(crate) boot_timeout: Option<Duration>,
    pub(crate) prewarm: usize,
}

#[derive(Debug)]
pub(crate) struct Inner {
    pub(crate) config: Config,
    pub(crate) machines: Machines,
    pub(crate) prewarmed: Prewarmed,
}

/// Makes [`Command`]s that share an isolation, limits and what may be reached.
///
/// Each command gets a fresh workspace of its own. With [`Isolation::Vm`] the commands of one
/// sandbox share a VM, which boots with the first of them and ends with the last clone of the
/// sandbox and the last of its children.
#[derive(Debug, Clone)]
pub struct Sandbox {
    pub(crate) inner: Arc<Inner>,
    pub(crate) policy: Option<Arc<Policy>>,
}

impl Default for Sandbox {
    /// The system's own isolation with the default [`Limits`].
    fn default() -> Self {
        Self::new(Config::default(), Prewarmed::default())
    }
}

impl Sandbox {
    /// Begins with the defaults.
    pub fn builder() -> SandboxBuilder {
        SandboxBuilder {
            config: Config::default(),
        }
    }

    /// A command that runs `program`: a name to be found on `PATH`, an absolute path, or a path
    /// relative to the workspace.
    pub fn command(&self, program: impl Into<OsString>) -> Command {
        Command::new(self.clone(), program.into())
    }

    /// Waits until as many interpreters are ready as [`SandboxBuilder::prewarm`] asked for; boots
    /// the VM for it where there is one. There is nothing to wait for without it.
    ///
    /// # Errors
    /// [`Error::Sandbox`] with the reason why they cannot be started. Commands work all the same.
    pub fn wait_prewarmed(&self) -> Result<(), Error> {
        self.inner.wait_prewarmed()
    }

    fn new(config: Config, prewarmed: Prewarmed) -> Self {
        Self {
            inner: Arc::new(Inner {
                config,
                machines: Machines::default(),
                prewarmed,
            }),
            policy: None,
        }
    }
}

/// Configures a [`Sandbox`].
#[derive(Debug)]
#[must_use]
pub struct SandboxBuilder {
    config: Config,
}

impl SandboxBuilder {
    /// Where programs run; [`Isolation::Auto`] unless said.
    pub const fn isolation(mut self, isolation: Isolation) -> Self {
        self.config.isolation = isolation;
        self
    }

    /// What runs the VM, if there is one; [`Engine::Auto`] unless said.
    pub const fn engine(mut self, engine: Engine) -> Self {
        self.config.engine = engine;
        self
    }

    /// All limits at once.
    pub fn limits(mut self, limits: Limits) -> Self {
        self.config.limits = limits;
        self
    }

    /// Wall-clock time, after which everything the program started is killed.
    pub const fn timeout(mut self, wall: Duration) -> Self {
        self.config.limits.wall = Some(wall);
        self
    }

    /// CPU time of the program and its descendants.
    pub const fn cpu_time(mut self, cpu: Duration) -> Self {
        self.config.limits.cpu = Some(cpu);
        self
    }

    /// Memory in bytes.
    pub const fn memory(mut self, bytes: u64) -> Self {
        self.config.limits.memory = Some(bytes);
        self
    }

    /// Processes and threads at one time.
    pub const fn pids(mut self, processes: u64) -> Self {
        self.config.limits.processes = Some(processes);
        self
    }

    /// Processors' worth of time for a program and its descendants together, at least one.
    ///
    /// On the host's own kernel a control group holds it, and there is no limit unless said. Where
    /// no such group can be had, programs start only if the machine has no more processors than
    /// that anyway; the error says how to get one. A VM has just as many virtual processors, which
    /// the programs of a sandbox share; one unless said.
    pub const fn cpus(mut self, count: u8) -> Self {
        self.config.limits.processors = Some(count);
        self
    }

    /// Bytes of standard output and standard error together.
    pub const fn max_output(mut self, bytes: u64) -> Self {
        self.config.limits.output = Some(bytes);
        self
    }

    /// A layer that must be in force, beyond [`Layer::REQUIRED`].
    pub fn require(mut self, layer: Layer) -> Self {
        self.config.require.push(layer);
        self
    }

    /// An environment variable for every command.
    pub fn env(mut self, name: impl Into<OsString>, value: impl Into<OsString>) -> Self {
        self.config.env.push((name.into(), value.into()));
        self
    }

    /// A file or directory of the host that programs may read, at the same place.
    pub fn read_only(self, path: impl Into<PathBuf>) -> Self {
        self.grant(path.into(), None, false)
    }

    /// The same at another place: absolute, or below the workspace. That takes
    /// [`Layer::MountNs`]; where it is missing, programs do not start.
    pub fn read_only_at(self, path: impl Into<PathBuf>, destination: impl Into<PathBuf>) -> Self {
        self.grant(path.into(), Some(destination.into()), false)
    }

    /// A file or directory of the host that programs may read and change, at the same place, as
    /// far as its modes permit: where the caller is root, programs are not.
    pub fn read_write(self, path: impl Into<PathBuf>) -> Self {
        self.grant(path.into(), None, true)
    }

    /// The same at another place, as [`read_only_at`](Self::read_only_at).
    pub fn read_write_at(self, path: impl Into<PathBuf>, destination: impl Into<PathBuf>) -> Self {
        self.grant(path.into(), Some(destination.into()), true)
    }

    fn grant(mut self, path: PathBuf, destination: Option<PathBuf>, writable: bool) -> Self {
        // Against the directory that the caller is in now. An empty path is refused later.
        let path = std::path::absolute(&path).unwrap_or(path);
        self.config.grants.push(Grant {
            path,
            destination,
            writable,
        });
        self
    }

    /// The folder of the guest image; the user's cache unless said.
    pub fn image(mut self, directory: impl Into<PathBuf>) -> Self {
        self.config.image = Some(directory.into());
        self
    }

    /// How long a VM may take until it is ready; a minute unless said. One that takes longer is
    /// ended, and the error says what it did last.
    pub const fn boot_timeout(mut self, time: Duration) -> Self {
        self.config.boot_timeout = Some(time);
        self
    }

    /// A file that keeps the guest's console.
    pub fn vm_log(mut self, file: File) -> Self {
        self.config.vm_log = Some(file);
        self
    }

    /// Keeps so many Python interpreters ready (at most 64; none unless said), each in a sandbox of
    /// its own, started and locked down before its code is known. Each serves one command and dies
    /// with it; a thread that lives as long as the sandbox starts the next. In a VM the agent does
    /// that, from the boot on. Results, limits and the report are the same as without, and count
    /// from the moment the code is handed over.
    ///
    /// Served so are commands of [`Language::Python`](crate::Language::Python) (`python3 main.py`
    /// with the file `main.py`), with any arguments, input and further files given as bytes, up to
    /// 1 MiB together, as long as the command sets no environment variable of its own and the
    /// limits on the workspace and on the size of a file are 4 MiB or more. Any other command, and
    /// one that finds none ready, is started as ever.
    ///
    /// One that waits holds 3 to 7 MiB of memory of its own and five to seven descriptors of this
    /// process. The caller's environment (`PATH`, `LANG`, `TERM`) counts as it was when the
    /// interpreter was started. What code attaches to modules that Python loads by itself is not
    /// finalized at the end, and `gc` does not list what was there before the code.
    pub const fn prewarm(mut self, count: usize) -> Self {
        self.config.prewarm = count;
        self
    }

    /// The sandbox. Nothing is started by it, unless [`prewarm`](Self::prewarm) was asked for in
    /// process isolation.
    ///
    /// # Errors
    /// [`Error::Unsupported`] for an isolation or engine that this system cannot have, and for
    /// options that the chosen isolation does not know.
    pub fn build(self) -> Result<Sandbox, Error> {
        crate::backend::check(&self.config)?;
        let prewarmed = Prewarmed::new(&self.config)?;
        Ok(Sandbox::new(self.config, prewarmed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_back() {
        for (isolation, _) in Isolation::NAMES {
            assert_eq!(isolation.to_string().parse(), Ok(isolation));
        }
        for (engine, _) in Engine::NAMES {
            assert_eq!(engine.to_string().parse(), Ok(engine));
        }
        assert!("docker".parse::<Isolation>().is_err());
        assert!("xen".parse::<Engine>().is_err());
    }
}
