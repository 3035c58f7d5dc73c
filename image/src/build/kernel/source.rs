//! Compiles the guest's kernel from Debian's `linux-source` package.
//!
//! The same source, options and compiler give the same bytes: time, user and host of the build are
//! fixed, and paths are relative to the source.

use super::super::deb::{self, Content, DebError};
use super::super::files::{FileError, failed};
use super::super::progress::{Meter, Progress};
use super::config::{self, ConfigError};
use super::is_image;
use crate::Arch;
use std::env;
use std::fs::{self, File};
use std::io::{self, BufRead as _, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// What this module does is an input of the image.
pub(crate) const RECIPE: &str = include_str!("source.rs");

/// Programs that the build calls, and the Debian packages that have them.
const TOOLS: [(&str, &str); 5] = [
    ("make", "make"),
    ("gcc", "gcc"),
    ("flex", "flex"),
    ("bison", "bison"),
    ("bc", "bc"),
];

/// The Debian packages with all that compiling the kernel needs.
pub const KERNEL_BUILD_PACKAGES: &[&str] = &[
    "bc",
    "bison",
    "flex",
    "gcc",
    "gcc-aarch64-linux-gnu",
    "libc6-dev",
    "make",
];

/// Folders of the source of which only the build's own files are needed: nothing in them is
/// compiled, but all of them are read for options.
const SKELETON: [&str; 14] = [
    "Documentation/",
    "drivers/gpu/",
    "drivers/infiniband/",
    "drivers/media/",
    "drivers/net/ethernet/",
    "drivers/net/wireless/",
    "drivers/scsi/",
    "drivers/staging/",
    "samples/",
    "sound/",
    "tools/perf/",
    "tools/testing/",
    "fs/xfs/",
    "fs/btrfs/",
];

/// Why the kernel could not be compiled.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SourceError {
    /// Programs are missing.
    #[error(
        "compiling the kernel needs {}; install the Debian packages {}, or use --kernel prebuilt",
        tools.join(", "), packages.join(" ")
    )]
    Tools {
        /// The programs.
        tools: Vec<String>,
        /// Where they are.
        packages: Vec<&'static str>,
    },
    /// The package cannot be unpacked.
    #[error(transparent)]
    Package(#[from] DebError),
    /// A file cannot be written.
    #[error(transparent)]
    File(#[from] FileError),
    /// The kernel did not take an option.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// A program could not be started.
    #[error("cannot run `{command}`")]
    Start {
        /// The program.
        command: String,
        /// What the system said.
        source: io::Error,
    },
    /// A program failed.
    #[error("`{command}` failed with {status}; it said:\n{tail}")]
    Failed {
        /// The program.
        command: String,
        /// How it ended.
        status: std::process::ExitStatus,
        /// The last lines of its standard error.
        tail: String,
    },
    /// What came out is no kernel.
    #[error("{} is no arm64 kernel image", .0.display())]
    NoImage(PathBuf),
}

/// A compiler for the guest.
#[derive(Debug, Clone)]
pub(crate) struct Toolchain {
    arch: Arch,
    /// What is put before `gcc` and `ld`; empty where the machine is of the guest's architecture.
    prefix: &'static str,
    /// What compiler and linker call themselves: an input of the kernel.
    pub versions: [String; 2],
}

impl Toolchain {
    /// Looks for all programs that the build needs.
    pub(crate) fn find(arch: Arch) -> Result<Self, SourceError> {
        let (prefix, package) = match arch {
            Arch::Aarch64 if cfg!(all(target_os = "linux", target_arch = "aarch64")) => ("", "gcc"),
            Arch::Aarch64 => ("aarch64-linux-gnu-", "gcc-aarch64-linux-gnu"),
        };
        let compiler = format!("{prefix}gcc");
        let linker = format!("{prefix}ld");
        let needed = TOOLS
            .into_iter()
            .chain([(&*compiler, package), (&*linker, package)]);
        let missing: Vec<_> = needed.filter(|(tool, _)| !is_on_path(tool)).collect();
        if !missing.is_empty() {
            let tools = missing.iter().map(|(tool, _)| (*tool).to_owned()).collect();
            let mut packages: Vec<_> = missing.into_iter().map(|(_, package)| package).collect();
            packages.dedup();
            return Err(SourceError::Tools { tools, packages });
        }
        let versions = [version(&compiler)?, version(&linker)?];
        Ok(Self {
            arch,
            prefix,
            versions,
        })
    }
}

fn is_on_path(tool: &str) -> bool {
    env::split_paths(&env::var_os("PATH").unwrap_or_default()).any(|dir| dir.join(tool).is_file())
}

/// The first line that a program says of its version.
fn version(program: &str) -> Result<String, SourceError> {
    let command = || program.to_owned();
    let output = Command::new(program)
        .arg("--version")
        .env("LC_ALL", "C")
        .output()
        .map_err(|source| SourceError::Start {
            command: command(),
            source,
        })?;
    let text = String::from_utf8_lossy(&output.stdout);
    Ok(text.lines().next().unwrap_or_default().trim().to_owned())
}

/// Compiles the kernel in the empty folder `work` and returns the path of its `Image`.
pub(crate) fn build(
    package: &Path,
    toolchain: &Toolchain,
    work: &Path,
    progress: Progress,
) -> Result<PathBuf, SourceError> {
    let fragment = config::fragment(toolchain.arch);
    unpack(package, work, progress)?;
    let tree = only_folder(work)?;
    let make = Make {
        toolchain,
        tree: &tree,
        log: work.join("log"),
        progress,
    };
    make.progress.step("setting the kernel's options");
    make.run(None, &["tinyconfig"])?;
    let path = tree.join("ringfence.config");
    fs::write(&path, fragment).map_err(failed("write", &path))?;
    make.script(
        "scripts/kconfig/merge_config.sh",
        &["-m", ".config", "ringfence.config"],
    )?;
    make.run(None, &["olddefconfig"])?;
    let path = tree.join(".config");
    let config = fs::read_to_string(&path).map_err(failed("read", &path))?;
    config::check(fragment, &config)?;
    let meter = progress.count("compiling the kernel, files");
    make.run(Some(&meter), &["Image"])?;
    drop(meter);
    let image = tree.join("arch/arm64/boot/Image");
    let mut head = [0; 64];
    let read = File::open(&image).and_then(|mut file| file.read_exact(&mut head));
    read.map_err(failed("read", &image))?;
    if is_image(&head) {
        Ok(image)
    } else {
        Err(SourceError::NoImage(image))
    }
}

/// Unpacks the archive of sources that the package holds.
fn unpack(package: &Path, work: &Path, progress: Progress) -> Result<(), SourceError> {
    let mut found = false;
    deb::visit(package, |member, reader| {
        let file = member.path.rsplit('/').next().unwrap_or_default();
        if member.content != Content::File || !file.contains(".tar.") {
            return Ok(());
        }
        found = true;
        let meter = progress.count("unpacking the kernel's source, files");
        let reader = deb::decompressor(file, reader).ok_or_else(|| DebError::Compression {
            package: package.to_owned(),
            part: file.to_owned(),
        })?;
        deb::unpack_tar::<DebError>(package, reader, work, |path| {
            meter.advance(1);
            is_needed(path)
        })
    })?;
    if found {
        Ok(())
    } else {
        let part = "archive of sources".to_owned();
        Err(DebError::NoPart {
            package: package.to_owned(),
            part,
        }
        .into())
    }
}

/// Whether a file of the source takes part in the build. The first folder is the source's own.
fn is_needed(path: &str) -> bool {
    let path = path.split_once('/').map_or("", |(_, path)| path);
    let file = path.rsplit('/').next().unwrap_or_default();
    let describes = ["Kconfig", "Makefile", "Kbuild"]
        .iter()
        .any(|name| file.starts_with(name));
    let of_other_arch = || {
        let other = path
            .strip_prefix("arch/")
            .and_then(|path| path.split_once('/'));
        other.is_some_and(|(arch, _)| !["arm", "arm64"].contains(&arch))
    };
    describes || !(of_other_arch() || SKELETON.iter().any(|folder| path.starts_with(folder)))
}

/// The one folder in a folder.
fn only_folder(work: &Path) -> Result<PathBuf, SourceError> {
    let mut entries = fs::read_dir(work).map_err(failed("read", work))?;
    let first = entries.next().transpose().map_err(failed("read", work))?;
    // An archive without any folder leads to an error of the first program run in it.
    Ok(first.map_or_else(|| work.to_owned(), |entry| entry.path()))
}

/// Calls of the kernel's build.
#[derive(Debug)]
struct Make<'a> {
    toolchain: &'a Toolchain,
    tree: &'a Path,
    log: PathBuf,
    progress: Progress,
}

impl Make<'_> {
    fn run(&self, meter: Option<&Meter>, targets: &[&str]) -> Result<(), SourceError> {
        let jobs = std::thread::available_parallelism().map_or(1, usize::from);
        let mut command = Command::new("make");
        command.arg(format!("-j{jobs}"));
        // No byte of the result depends on where the source lies.
        command.arg(format!(
            "KCFLAGS=-ffile-prefix-map={}=.",
            self.tree.display()
        ));
        command.args(targets);
        self.call(command, meter)
    }

    fn script(&self, script: &str, arguments: &[&str]) -> Result<(), SourceError> {
        let mut command = Command::new(self.tree.join(script));
        command.args(arguments);
        self.call(command, None)
    }

    fn call(&self, mut command: Command, meter: Option<&Meter>) -> Result<(), SourceError> {
        let name = command.get_program().to_string_lossy().into_owned();
        let log = File::create(&self.log).map_err(failed("write", &self.log))?;
        command
            .current_dir(self.tree)
            // Variables such as CFLAGS or MAKEFLAGS would change the result.
            .env_clear()
            .env("PATH", env::var_os("PATH").unwrap_or_default())
            .envs([("ARCH", "arm64"), ("CROSS_COMPILE", self.toolchain.prefix)])
            .envs([("LC_ALL", "C"), ("TZ", "UTC")])
            .envs([
                ("KBUILD_BUILD_TIMESTAMP", "Thu Jan  1 00:00:00 UTC 1970"),
                ("KBUILD_BUILD_USER", "ringfence"),
                ("KBUILD_BUILD_HOST", "ringfence"),
                ("KBUILD_BUILD_VERSION", "1"),
            ])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(log);
        let not_started = |source| SourceError::Start {
            command: name.clone(),
            source,
        };
        let mut child = command.spawn().map_err(not_started)?;
        let lines = child
            .stdout
            .take()
            .map(|stdout| BufReader::new(stdout).lines());
        for _line in lines.into_iter().flatten().map_while(Result::ok) {
            meter.inspect(|meter| meter.tick());
        }
        let status = child.wait().map_err(not_started)?;
        if status.success() {
            return Ok(());
        }
        let said = fs::read(&self.log).map_err(failed("read", &self.log))?;
        Err(SourceError::Failed {
            command: name,
            status,
            tail: last_lines(&said),
        })
    }
}

/// The last lines of a text.
fn last_lines(text: &[u8]) -> String {
    let text = String::from_utf8_lossy(text);
    let lines: Vec<&str> = text.trim_end().lines().collect();
    lines
        .get(lines.len().saturating_sub(20)..)
        .unwrap_or_default()
        .join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_takes_part_in_the_build_is_unpacked() {
        for (path, needed) in [
            ("linux/", true),
            ("linux/Makefile", true),
            ("linux/arch/Kconfig", true),
            ("linux/arch/arm64/kernel/head.S", true),
            ("linux/arch/x86/ras/Kconfig", true),
            ("linux/arch/x86/kernel/head_64.S", false),
            ("linux/sound/Kconfig", true),
            ("linux/sound/core/sound.c", false),
            ("linux/drivers/net/loopback.c", true),
            ("linux/drivers/net/ethernet/intel/e1000.c", false),
        ] {
            assert_eq!(is_needed(path), needed, "{path}");
        }
    }

    #[test]
    fn packages_are_published_for_every_tool() {
        for (_, package) in TOOLS {
            assert!(KERNEL_BUILD_PACKAGES.contains(&package));
        }
    }
}
