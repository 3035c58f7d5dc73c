//! Version managers: what really runs behind their shims.
//!
//! A shim is a small script or link on `PATH` that looks up the wanted version and executes it. In
//! the sandbox neither the manager nor its configuration is visible, so the lookup is done here, by
//! reading the managers' own files. Nothing of them is executed.
//!
//! Versions are chosen as the managers do, less what depends on the caller's working directory
//! above it, which the program does not see: an environment variable, the working directory's
//! version file, the global one; then the first version that has the program.

use crate::resolve::Host;
use std::fs;
use std::io::Read as _;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

/// What is behind a path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Behind {
    /// It is no shim.
    NoShim,
    /// This file.
    File(PathBuf),
    /// It is a shim, and no installed version has the program.
    Nothing,
}

/// Bytes of a script that are read to recognise it.
const LOOK: u64 = 4096;
/// Bytes of a file with versions that are read.
const MOST: u64 = 64 << 10;

/// Looks behind a path that can be executed.
pub(crate) fn behind(path: &Path, host: &Host) -> Behind {
    let (Some(directory), Some(name)) = (path.parent(), path.file_name()) else {
        return Behind::NoShim;
    };
    let name = Path::new(name);
    let found = if let Some(root) = rustup(path, directory, host) {
        rust_tool(&root, name, host)
    } else if directory.file_name().is_some_and(|name| name == "shims") {
        let Some(root) = directory.parent() else {
            return Behind::NoShim;
        };
        let script = head(path);
        if root.join("versions").is_dir() {
            environment_tool(root, name, host)
        } else if script.contains("asdf") {
            asdf_tool(root, name, &script)
        } else if root.join("installs").is_dir() {
            newest_install(&root.join("installs"), name)
        } else {
            return Behind::NoShim;
        }
    } else {
        return Behind::NoShim;
    };
    found.map_or(Behind::Nothing, Behind::File)
}

/// Whether one of the managers keeps an installation in this directory, which has no links in its
/// path. Whatever else somebody calls alike is none: the manager's shims are beside it.
pub(crate) fn is_installation(directory: &Path, host: &Host) -> bool {
    let manages = |root: &Path| root.join("shims").is_dir();
    let above = directory.parent();
    let Some((above, root)) = above.and_then(|above| Some((above, above.parent()?))) else {
        return false;
    };
    match above.file_name().map(OsStrExt::as_bytes) {
        Some(b"versions") => manages(root),
        Some(b"toolchains") => rustup_home(host)
            .and_then(|home| home.canonicalize().ok())
            .is_some_and(|home| home == root),
        _ => {
            root.file_name().is_some_and(|name| name == "installs")
                && root.parent().is_some_and(manages)
        }
    }
}

/// The beginning of a script; nothing of a binary.
fn head(path: &Path) -> String {
    beginning(path, LOOK)
        .filter(|bytes| bytes.starts_with(b"#!"))
        .map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
        .unwrap_or_default()
}

/// The first bytes of a regular file. Of anything else nothing is read and nothing waited for: a
/// version file in the working directory may be a stranger's.
fn beginning(path: &Path, most: u64) -> Option<Vec<u8>> {
    let regular = |metadata: fs::Metadata| metadata.is_file().then_some(());
    regular(fs::metadata(path).ok()?)?;
    let mut options = fs::File::options();
    let options = options.read(true).custom_flags(libc::O_NONBLOCK);
    let file = options.open(path).ok()?;
    regular(file.metadata().ok()?)?;
    let mut bytes = Vec::new();
    file.take(most).read_to_end(&mut bytes).ok()?;
    Some(bytes)
}

/// The lines of a file that say something.
fn lines(path: &Path) -> Vec<String> {
    let bytes = beginning(path, MOST).unwrap_or_default();
    let text = String::from_utf8_lossy(&bytes);
    let lines = text
        .lines()
        .map(|line| line.split('#').next().unwrap_or_default().trim());
    lines
        .filter(|line| !line.is_empty())
        .map(str::to_owned)
        .collect()
}

/// A version's name must be one component: it comes from a file and becomes part of a path.
fn plain(version: &str) -> bool {
    !version.is_empty() && version != "." && version != ".." && !version.contains('/')
}

/// pyenv, and rbenv and nodenv, which are built alike: `versions/NAME/bin/PROGRAM`.
fn environment_tool(root: &Path, program: &Path, host: &Host) -> Option<PathBuf> {
    let (variable, file) = match root.file_name()?.as_bytes() {
        b".rbenv" | b"rbenv" => ("RBENV_VERSION", ".ruby-version"),
        b".nodenv" | b"nodenv" => ("NODENV_VERSION", ".node-version"),
        _ => ("PYENV_VERSION", ".python-version"),
    };
    let versions = root.join("versions");
    let chosen = host
        .variable(variable)
        .and_then(|value| value.to_str())
        .map(|value| value.split(':').map(str::to_owned).collect())
        .or_else(|| Some(lines(Path::new(file))).filter(|lines| !lines.is_empty()))
        .unwrap_or_else(|| lines(&root.join("version")));
    let in_version = |version: &Path| {
        let file = versions.join(version).join("bin").join(program);
        file.is_file().then_some(file)
    };
    let chosen = chosen
        .iter()
        .filter(|version| plain(version))
        .find_map(|version| {
            if version == "system" {
                return None;
            }
            // "3.11" stands for the newest 3.11.
            in_version(Path::new(version)).or_else(|| {
                let prefix = format!("{version}.");
                newest(&versions, |name| name.starts_with(&prefix))
                    .find_map(|path| in_version(&path))
            })
        });
    chosen.or_else(|| newest(&versions, |_| true).find_map(|path| in_version(&path)))
}

/// Subdirectories, the highest version first.
fn newest(directory: &Path, wanted: impl Fn(&str) -> bool) -> impl Iterator<Item = PathBuf> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    let mut found: Vec<(Vec<u64>, PathBuf)> = entries
        .filter_map(|entry| {
            let name = entry.file_name();
            let name = name.to_str()?;
            let numbers = name
                .split(|c: char| !c.is_ascii_digit())
                .filter_map(|n| n.parse().ok());
            wanted(name).then(|| (numbers.collect(), entry.path()))
        })
        .collect();
    found.sort();
    found.into_iter().rev().map(|(_, path)| path)
}

/// rustup's home, when the path is one of its proxies.
fn rustup(path: &Path, directory: &Path, host: &Host) -> Option<PathBuf> {
    let manager = directory.join("rustup");
    if path == manager {
        return None;
    }
    let same = |a: &Path, b: &Path| {
        use std::os::unix::fs::MetadataExt as _;
        let (a, b) = (fs::metadata(a).ok()?, fs::metadata(b).ok()?);
        Some(a.dev() == b.dev() && a.ino() == b.ino())
    };
    let linked = path
        .canonicalize()
        .ok()?
        .file_name()
        .is_some_and(|name| name == "rustup");
    if !linked && !same(path, &manager).unwrap_or(false) {
        return None;
    }
    rustup_home(host)
}

fn rustup_home(host: &Host) -> Option<PathBuf> {
    let home = host.variable("RUSTUP_HOME").map(PathBuf::from);
    home.or_else(|| host.home().map(|home| home.join(".rustup")))
}

fn rust_tool(root: &Path, program: &Path, host: &Host) -> Option<PathBuf> {
    let toolchains = root.join("toolchains");
    let settings = lines(&root.join("settings.toml"));
    let default = settings.iter().find_map(|line| {
        let value = line
            .strip_prefix("default_toolchain")?
            .trim_start()
            .strip_prefix('=')?;
        Some(value.trim().trim_matches('"').to_owned())
    });
    let chosen = host
        .variable("RUSTUP_TOOLCHAIN")
        .and_then(|value| value.to_str())
        .map(str::to_owned)
        .or(default)
        .filter(|version| plain(version));
    let in_toolchain = |toolchain: &Path| {
        let file = toolchains.join(toolchain).join("bin").join(program);
        file.is_file().then_some(file)
    };
    let chosen = chosen.and_then(|chosen| {
        in_toolchain(Path::new(&chosen)).or_else(|| {
            // "stable" stands for "stable-x86_64-unknown-linux-gnu".
            let prefix = format!("{chosen}-");
            let mut named = newest(&toolchains, |name| name.starts_with(&prefix));
            named.find_map(|path| in_toolchain(&path))
        })
    });
    chosen.or_else(|| newest(&toolchains, |_| true).find_map(|path| in_toolchain(&path)))
}

/// asdf's shims name the plug-in and the versions that have the program.
fn asdf_tool(root: &Path, program: &Path, script: &str) -> Option<PathBuf> {
    script.lines().find_map(|line| {
        let mut words = line.strip_prefix("# asdf-plugin:")?.split_whitespace();
        let (plugin, version) = (words.next()?, words.next()?);
        if !plain(plugin) || !plain(version) {
            return None;
        }
        let install = root.join("installs").join(plugin).join(version);
        let places = [install.join("bin").join(program), install.join(program)];
        places.into_iter().find(|file| file.is_file())
    })
}

/// mise's shims are links to mise itself: `installs/TOOL/VERSION/bin/PROGRAM`.
fn newest_install(installs: &Path, program: &Path) -> Option<PathBuf> {
    let tools = fs::read_dir(installs).ok()?.flatten();
    let mut tools: Vec<PathBuf> = tools.map(|entry| entry.path()).collect();
    tools.sort();
    tools.iter().find_map(|tool| {
        newest(tool, |_| true).find_map(|version| {
            let file = version.join("bin").join(program);
            file.is_file().then_some(file)
        })
    })
}

#[cfg(any(test, feature = "fuzzing"))]
#[path = "shim_misbehave.rs"]
pub(crate) mod misbehave;
