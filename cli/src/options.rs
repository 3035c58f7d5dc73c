//! The options that `run` and `eval` share, and how their values are read.

use crate::gate::Gate;
use anyhow::Context as _;
use bytesize::ByteSize;
use clap::{Args, ValueEnum};
use ringfence::{Command, Engine, Isolation, Layer, Limits, Operation, Sandbox, Stdio};
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, IsTerminal as _};
use std::os::fd::AsFd as _;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::FileExt as _;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

/// What the program reaches of the network.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Net {
    /// Nothing at all, loopback of the host included
    None,
}

#[derive(Debug, Args)]
pub(crate) struct Options {
    /// Where to run: process (Linux sandbox), vm (the same inside a VM) or auto
    #[arg(long, value_name = "WHERE", default_value_t = Isolation::Auto)]
    isolation: Isolation,
    /// What runs the VM: hvf, kvm, qemu or auto
    #[arg(long, value_name = "ENGINE", default_value_t = Engine::Auto)]
    engine: Engine,
    /// Kill everything after this much time, e.g. 500ms, 30s, 5m
    #[arg(long, allow_negative_numbers = true, value_name = "TIME", default_value = "30s", value_parser = duration)]
    timeout: Duration,
    /// Kill everything after this much CPU time
    #[arg(long, allow_negative_numbers = true, value_name = "TIME", value_parser = duration)]
    cpu_time: Option<Duration>,
    /// Memory of the program and its descendants, e.g. 256MiB
    #[arg(long, allow_negative_numbers = true, value_name = "SIZE", default_value = "512MiB", value_parser = size)]
    memory: u64,
    /// Processes and threads at one time
    #[arg(long, allow_negative_numbers = true, value_name = "N", default_value_t = 128, value_parser = processes)]
    pids: u64,
    /// Processors' worth of time; a VM has just as many processors [default: no limit, in a VM 1]
    #[arg(long, allow_negative_numbers = true, value_name = "N", value_parser = processors)]
    cpus: Option<u8>,
    /// Open files of a process
    #[arg(long, allow_negative_numbers = true, value_name = "N", default_value_t = 1024, value_parser = files)]
    open_files: u64,
    /// Largest file the program may write
    #[arg(long, allow_negative_numbers = true, value_name = "SIZE", value_parser = size)]
    file_size: Option<u64>,
    /// Everything in the workspace together
    #[arg(long, allow_negative_numbers = true, value_name = "SIZE", default_value = "256MiB", value_parser = size)]
    workspace_size: u64,
    /// Standard output and standard error together
    #[arg(long, allow_negative_numbers = true, value_name = "SIZE", default_value = "16MiB", value_parser = size)]
    max_output: u64,
    /// Copy a file into the workspace, under its own name unless DST is given
    #[arg(long = "file", value_name = "SRC[:DST]")]
    files: Vec<OsString>,
    /// Let the program read a file or directory of this machine, at DST if given: an absolute
    /// path, or one below the workspace
    #[arg(long = "ro", value_name = "PATH[:DST]")]
    read_only: Vec<OsString>,
    /// Let the program read and change a file or directory of this machine, at DST if given
    #[arg(long = "rw", value_name = "PATH[:DST]")]
    read_write: Vec<OsString>,
    /// When everything has ended, copy the files of the workspace that match to --out's directory;
    /// `*` stops at a slash, `**` does not; may be repeated
    #[arg(long, value_name = "GLOB", requires = "out")]
    collect: Vec<String>,
    /// Where collected files go, under their paths in the workspace; made if it is not there
    #[arg(long, value_name = "DIR", requires = "collect")]
    out: Option<PathBuf>,
    /// Set an environment variable, or pass on the caller's own
    #[arg(long = "env", value_name = "NAME[=VALUE]")]
    env: Vec<OsString>,
    /// Read standard input from a file instead of the caller's
    #[arg(long, value_name = "FILE")]
    stdin: Option<PathBuf>,
    /// What the program reaches of the network
    #[arg(long, value_enum, default_value_t = Net::None)]
    net: Net,
    /// Run nothing unless this layer is in force; may be repeated
    #[arg(long, value_name = "LAYER")]
    require: Vec<Layer>,
    /// Ask on the terminal before the program does these: write, delete, rename, connect, exec
    #[arg(long, value_name = "OPERATIONS", value_delimiter = ',')]
    ask: Vec<Operation>,
    /// Give the program a terminal of its own, connected to this one
    #[arg(short, long, conflicts_with_all = ["json", "ask", "stdin"])]
    pub(crate) tty: bool,
    /// Folder of the guest image instead of $RINGFENCE_IMAGE or the one in the user's cache
    #[arg(long, value_name = "DIR")]
    image: Option<PathBuf>,
    /// End a VM that is not ready after this much time [default: 60s]
    #[arg(long, value_name = "TIME", value_parser = duration)]
    boot_timeout: Option<Duration>,
    /// Keep the guest's console in a file
    #[arg(long, value_name = "FILE")]
    vm_log: Option<PathBuf>,
    /// Print one JSON object on standard output instead of the program's own output
    #[arg(long)]
    pub(crate) json: bool,
    /// What keeps the program's output back while a question is open.
    #[arg(skip)]
    gate: Arc<Gate>,
}

impl Options {
    pub(crate) fn sandbox(&self) -> anyhow::Result<Sandbox> {
        let Net::None = self.net;
        let limits = Limits {
            wall: Some(self.timeout),
            cpu: self.cpu_time,
            memory: Some(self.memory),
            processes: Some(self.pids),
            open_files: Some(self.open_files),
            file_size: self.file_size,
            workspace: Some(self.workspace_size),
            output: Some(self.max_output),
            processors: self.cpus,
        };
        let mut builder = Sandbox::builder()
            .isolation(self.isolation)
            .engine(self.engine)
            .limits(limits);
        for layer in &self.require {
            builder = builder.require(*layer);
        }
        for grant in &self.read_only {
            builder = match grant_argument("--ro", grant)? {
                (path, None) => builder.read_only(path),
                (path, Some(destination)) => builder.read_only_at(path, destination),
            };
        }
        for grant in &self.read_write {
            builder = match grant_argument("--rw", grant)? {
                (path, None) => builder.read_write(path),
                (path, Some(destination)) => builder.read_write_at(path, destination),
            };
        }
        if let Some(image) = &self.image {
            builder = builder.image(image);
        }
        if let Some(time) = self.boot_timeout {
            builder = builder.boot_timeout(time);
        }
        if let Some(path) = &self.vm_log {
            let file = File::create(path)
                .with_context(|| format!("cannot write the console to {}", path.display()))?;
            builder = builder.vm_log(file);
        }
        let sandbox = builder.build()?;
        if self.ask.is_empty() {
            return Ok(sandbox);
        }
        let policy = crate::ask::policy(self.ask.iter().copied(), &self.gate)?;
        Ok(sandbox.supervise(policy.limit(self.timeout)))
    }

    /// What keeps the program's output back, where questions are asked.
    pub(crate) fn gate(&self) -> Option<&Arc<Gate>> {
        (!self.ask.is_empty()).then_some(&self.gate)
    }

    /// Whether the size of files is limited, beyond that of the workspace.
    pub(crate) fn limits_files(&self) -> bool {
        self.file_size.is_some()
    }

    /// Whether files are to be collected.
    pub(crate) fn collects(&self) -> bool {
        self.out.is_some()
    }

    /// Adds files, variables and standard input. With `--json` input comes from a file or nothing
    /// but still from the caller's own where that is asked for by redirection.
    pub(crate) fn apply(&self, mut command: Command) -> anyhow::Result<Command> {
        if self.tty {
            command = command.terminal(crate::tty::size()?);
        }
        for file in &self.files {
            let (source, destination) = file_argument(file)?;
            command = command.file_from(destination, source);
        }
        for pattern in &self.collect {
            command = command.collect(pattern);
        }
        if let Some(directory) = &self.out {
            command = command.collect_into(directory);
        }
        for variable in &self.env {
            if let Some((name, value)) = variable_argument(variable) {
                command = command.env(name, value);
            }
        }
        let stdin = match &self.stdin {
            Some(path) => {
                let file = File::open(path).and_then(readable);
                Stdio::from(file.with_context(|| {
                    format!("cannot read standard input from {}", path.display())
                })?)
            }
            // The terminal is where the answers come from.
            None if !self.ask.is_empty() && io::stdin().is_terminal() => Stdio::null(),
            None => {
                let own = io::stdin().as_fd().try_clone_to_owned();
                let checked = own.map(File::from).and_then(|file| no_directory(&file));
                checked.context("cannot read standard input")?;
                Stdio::inherit()
            }
        };
        Ok(command.stdin(stdin))
    }
}

/// The file, unless it is clear already that nothing can be read from it. Takes nothing out of it.
fn readable(file: File) -> io::Result<File> {
    no_directory(&file)?;
    if file.metadata()?.is_file() {
        file.read_at(&mut [0], 0)?;
    }
    Ok(file)
}

fn no_directory(file: &File) -> io::Result<()> {
    if file.metadata()?.is_dir() {
        let why = "it is a directory; give a file, or /dev/null for nothing";
        return Err(io::Error::new(io::ErrorKind::IsADirectory, why));
    }
    Ok(())
}

/// `SRC` or `SRC:DST`. A source whose own name contains a colon is given as `./a:b:name`: the last
/// colon divides.
fn file_argument(argument: &OsStr) -> anyhow::Result<(PathBuf, OsString)> {
    let (source, destination) = grant_argument("--file", argument)?;
    if let Some(destination) = destination {
        return Ok((source, destination.into_os_string()));
    }
    let name = source.file_name();
    let name = name
        .with_context(|| format!("--file {argument:?} names no file"))?
        .to_owned();
    Ok((source, name))
}

/// `PATH` or `PATH:DST`, divided by the last colon.
fn grant_argument(option: &str, argument: &OsStr) -> anyhow::Result<(PathBuf, Option<PathBuf>)> {
    let path = |bytes: &[u8]| PathBuf::from(OsStr::from_bytes(bytes));
    let bytes = argument.as_bytes();
    let Some(at) = bytes.iter().rposition(|byte| *byte == b':') else {
        anyhow::ensure!(!bytes.is_empty(), "{option} names no path");
        return Ok((path(bytes), None));
    };
    let source = bytes.get(..at).unwrap_or_default();
    let destination = bytes.get(at + 1..).unwrap_or_default();
    anyhow::ensure!(
        !source.is_empty(),
        "{option} {argument:?} names no path before the colon"
    );
    anyhow::ensure!(
        !destination.is_empty(),
        "{option} {argument:?} names no place after the colon"
    );
    Ok((path(source), Some(path(destination))))
}

/// `NAME=VALUE`, or `NAME` with the caller's own value; nothing where the caller has none.
fn variable_argument(argument: &OsStr) -> Option<(OsString, OsString)> {
    let bytes = argument.as_bytes();
    match bytes.iter().position(|byte| *byte == b'=') {
        Some(at) => Some((
            OsString::from_vec(bytes.get(..at).unwrap_or_default().to_vec()),
            OsString::from_vec(bytes.get(at + 1..).unwrap_or_default().to_vec()),
        )),
        None => Some((argument.to_owned(), std::env::var_os(argument)?)),
    }
}

/// A number of processes.
fn processes(text: &str) -> Result<u64, String> {
    let wrong = |_| format!("{text:?} is not a number of processes; give 1 or more");
    text.parse().map_err(wrong)
}

/// A number of open files.
fn files(text: &str) -> Result<u64, String> {
    let wrong = |_| format!("{text:?} is not a number of files; give 3 or more");
    text.parse().map_err(wrong)
}

/// A number of processors.
fn processors(text: &str) -> Result<u8, String> {
    let count = text.parse().ok().filter(|count| *count > 0);
    count.ok_or_else(|| format!("{text:?} is not a number of processors; give 1 to 255"))
}

/// A time span, or a plain number of seconds.
fn duration(text: &str) -> Result<Duration, String> {
    if let Ok(seconds) = text.parse() {
        return Ok(Duration::from_secs(seconds));
    }
    humantime::parse_duration(text)
        .map_err(|error| format!("{text:?} is not a time ({error}); write 500ms, 30s or 5m"))
}

/// A size in bytes, or with a unit.
fn size(text: &str) -> Result<u64, String> {
    // Plain numbers go past the crate: it reads them as floating point and rounds large ones.
    if let Ok(bytes) = text.parse() {
        return Ok(bytes);
    }
    let size: ByteSize = text
        .parse()
        .map_err(|_why| format!("{text:?} is not a size; write 4096, 64KiB or 1GiB"))?;
    Ok(size.as_u64())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_and_times() {
        assert_eq!(size("18446744073709551615"), Ok(u64::MAX));
        assert_eq!(size("0"), Ok(0));
        assert_eq!(size("256MiB"), Ok(256 << 20));
        assert!(size("much").is_err());
        assert_eq!(
            duration("18446744073709551615"),
            Ok(Duration::from_secs(u64::MAX))
        );
        assert_eq!(duration("1500ms"), Ok(Duration::from_millis(1500)));
        assert!(duration("soon").is_err());
    }

    #[test]
    fn numbers() {
        assert_eq!((processes("0"), processes("7")), (Ok(0), Ok(7)));
        let wrong = processes("-1").unwrap_err();
        assert_eq!(wrong, "\"-1\" is not a number of processes; give 1 or more");
        assert_eq!(files("1024"), Ok(1024));
        assert!(files("-1").is_err());
        assert_eq!((processors("255"), processors("1")), (Ok(255), Ok(1)));
        assert!(
            ["0", "256", "-1"]
                .into_iter()
                .all(|text| processors(text).is_err())
        );
    }

    #[test]
    fn file_arguments() {
        let read = |text: &str| {
            file_argument(OsStr::new(text))
                .map(|(a, b)| (a.into_os_string(), b))
                .ok()
        };
        assert_eq!(read("a/b.py"), Some(("a/b.py".into(), "b.py".into())));
        assert_eq!(
            read("a/b.py:c/d.py"),
            Some(("a/b.py".into(), "c/d.py".into()))
        );
        assert_eq!(read("./x:y:z"), Some(("./x:y".into(), "z".into())));
        assert_eq!(read("a:"), None);
        assert_eq!(read(".."), None);
    }

    #[test]
    fn grant_arguments() {
        let read = |text: &str| grant_argument("--ro", OsStr::new(text)).ok();
        assert_eq!(read("/a"), Some(("/a".into(), None)));
        assert_eq!(read("a:/b"), Some(("a".into(), Some("/b".into()))));
        assert_eq!(read("/a:b:b"), Some(("/a:b".into(), Some("b".into()))));
        assert_eq!(read(":b"), None);
        assert_eq!(read("a:"), None);
        assert_eq!(read(""), None);
    }

    #[test]
    fn variables() {
        assert_eq!(
            variable_argument(OsStr::new("A=b=c")),
            Some(("A".into(), "b=c".into()))
        );
        assert_eq!(
            variable_argument(OsStr::new("RINGFENCE_SURELY_UNSET")),
            None
        );
    }
}
