//! The place of a scenario: directories of its own, and the programs under test.

use crate::isolation::image_directory;
use crate::{Isolation, Run, process};
use std::ffi::OsStr;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use tempfile::TempDir;

/// `PATH` of whoever calls ringfence in the tests.
pub const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// The programs under test, where every user can execute them.
#[derive(Debug)]
pub struct Bench {
    directory: TempDir,
}

impl Bench {
    /// Finds the programs and copies them out of directories that only their builder may enter.
    ///
    /// # Errors
    /// When one of them has not been built; the message says how.
    pub fn new(isolations: &[Isolation]) -> anyhow::Result<Self> {
        let directory = tempfile::Builder::new().prefix("rf-bench-").tempdir()?;
        fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o755))?;
        let bench = Self { directory };
        fs::copy(find_command()?, bench.command())?;
        for isolation in isolations.iter().chain(&[Isolation::Process]) {
            let machine = isolation.machine();
            if !bench.probe(machine).exists() {
                fs::copy(find_probe(machine)?, bench.probe(machine))?;
            }
        }
        Ok(bench)
    }

    /// The `ringfence` command.
    #[must_use]
    pub fn command(&self) -> PathBuf {
        self.directory.path().join("ringfence")
    }

    /// The probe for a machine.
    #[must_use]
    pub fn probe(&self, machine: &str) -> PathBuf {
        self.directory.path().join(format!("probe-{machine}"))
    }
}

/// The directory into which cargo builds: this executable is in `target/PROFILE/deps`.
fn target() -> anyhow::Result<PathBuf> {
    let own = std::env::current_exe()?;
    let target = own.ancestors().nth(3).map(Path::to_path_buf);
    target.ok_or_else(|| anyhow::anyhow!("{} is not in a build directory", own.display()))
}

fn first_file(candidates: &[PathBuf], what: &str, how: &str) -> anyhow::Result<PathBuf> {
    let found = candidates.iter().find(|path| path.is_file());
    found
        .cloned()
        .ok_or_else(|| anyhow::anyhow!("no {what} at {candidates:?}; {how}"))
}

fn find_command() -> anyhow::Result<PathBuf> {
    if let Some(path) = std::env::var_os("RINGFENCE_BIN") {
        let how = "RINGFENCE_BIN names it";
        return first_file(&[path.into()], "command", how);
    }
    let target = target()?;
    let candidates = ["debug", "release"].map(|profile| target.join(profile).join("ringfence"));
    first_file(
        &candidates,
        "command",
        "run cargo build --package ringfence-cli",
    )
}

fn find_probe(machine: &str) -> anyhow::Result<PathBuf> {
    let variable = format!("RINGFENCE_PROBE_{}", machine.to_uppercase());
    if let Some(path) = std::env::var_os(&variable) {
        return first_file(&[path.into()], "probe", &format!("{variable} names it"));
    }
    let triple = format!("{machine}-unknown-linux-musl");
    let target = target()?.join(&triple);
    let candidates =
        ["release", "debug"].map(|profile| target.join(profile).join("ringfence-probe"));
    let how = format!("run cargo build --package ringfence-probe --target {triple}");
    first_file(&candidates, "probe", &how)
}

/// The place of one scenario.
#[derive(Debug)]
pub struct Lab<'a> {
    /// Where the scenario runs.
    pub isolation: Isolation,
    /// The programs under test.
    pub bench: &'a Bench,
    directory: TempDir,
}

impl<'a> Lab<'a> {
    /// A new place.
    ///
    /// # Panics
    /// When it cannot be made.
    #[must_use]
    pub fn new(bench: &'a Bench, isolation: Isolation) -> Self {
        let directory = tempfile::Builder::new()
            .prefix("rf-lab-")
            .tempdir()
            .unwrap();
        let lab = Self {
            isolation,
            bench,
            directory,
        };
        lab.give(lab.directory.path(), 0o755);
        for place in lab.callers_places() {
            fs::create_dir(&place).unwrap();
            lab.give(&place, 0o700);
        }
        // The workspace is there under its own name, and not root's: as in `/tmp`, its user may pass.
        if isolation == Isolation::ProcessBareRoot {
            let [_, temporary, _] = lab.callers_places();
            lab.give(&temporary, 0o711);
        }
        lab
    }

    /// Makes the caller of ringfence the owner.
    fn give(&self, path: &Path, mode: u32) {
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
        if let Some(user) = self.isolation.user() {
            std::os::unix::fs::chown(path, Some(user), Some(user)).unwrap();
        }
    }

    /// The directories that the caller's environment names: home, temporary files, sockets.
    pub(crate) fn callers_places(&self) -> [PathBuf; 3] {
        ["home", "tmp", "run"].map(|name| self.directory.path().join(name))
    }

    /// A path in the scenario's directory, which is outside of every sandbox.
    #[must_use]
    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// A file in the scenario's directory that belongs to the caller.
    ///
    /// # Panics
    /// When it cannot be written.
    pub fn file(&self, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
        let path = self.path(name);
        fs::write(&path, content).unwrap();
        self.give(&path, 0o644);
        path
    }

    /// A directory in the scenario's directory that belongs to the caller and where anybody may do
    /// anything.
    ///
    /// # Panics
    /// When it cannot be made.
    #[must_use]
    pub fn open_directory(&self, name: &str) -> PathBuf {
        let path = self.path(name);
        fs::create_dir(&path).unwrap();
        self.give(&path, 0o777);
        path
    }

    /// `ringfence run` of a program with its arguments.
    pub fn run<S: AsRef<OsStr>>(&self, program: impl IntoIterator<Item = S>) -> Run<'_> {
        Run::new(self, "run")
            .options(self.isolation.options())
            .program(program)
    }

    /// `ringfence run` of the probe with arguments.
    pub fn probe<S: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = S>) -> Run<'_> {
        let mut file = self.bench.probe(self.isolation.machine()).into_os_string();
        file.push(":probe");
        self.run(["./probe"]).option("--file", file).more(arguments)
    }

    /// `ringfence run` of the probe's helper with arguments.
    pub fn helper<S: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = S>) -> Run<'_> {
        self.probe(["do"]).more(arguments)
    }

    /// Any other subcommand.
    pub fn command(&self, subcommand: &str) -> Run<'_> {
        Run::new(self, subcommand)
    }

    /// The probe on this machine, outside of every sandbox.
    #[must_use]
    pub fn outside_probe(&self) -> PathBuf {
        self.bench.probe(std::env::consts::ARCH)
    }

    /// What the caller's environment is.
    pub(crate) fn environment(&self) -> Vec<(&'static str, PathBuf)> {
        let [home, temporary, sockets] = self.callers_places();
        let mut variables = vec![
            ("PATH", PATH.into()),
            ("HOME", home),
            ("TMPDIR", temporary),
            ("XDG_RUNTIME_DIR", sockets),
            ("LANG", "C.UTF-8".into()),
        ];
        if self.isolation == Isolation::Vm {
            variables.push(("RINGFENCE_IMAGE", image_directory()));
        }
        if std::env::var_os("RUST_BACKTRACE").is_some() {
            variables.push(("RUST_BACKTRACE", "1".into()));
        }
        variables
    }

    /// Whether this scenario's caller is root.
    #[must_use]
    pub fn caller_is_root(&self) -> bool {
        process::is_root() && self.isolation.user().is_none()
    }
}
