//! Compiler and linker for macOS where there is no Mac: Zig's, from its package for Python.
//!
//! pip knows the machine's mirror of the package index, and checks the digests of `zig.txt`.

use anyhow::{Context as _, ensure};
use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use xshell::{Shell, cmd};

use super::{MACOS, TARGET};

const REQUIREMENTS: &str = include_str!("../../macos/zig.txt");

/// What cargo, the C compiler's callers and the linker's wrapper are to find in the environment.
pub(super) fn environment(shell: &Shell) -> anyhow::Result<Vec<(String, PathBuf)>> {
    let zig = ensure_installed(shell)?;
    let macos = shell.current_dir().join("xtask/macos");
    let (wrapper, sdk) = (macos.join("cc"), macos.join("sdk"));
    let name = TARGET.replace('-', "_");
    let cache = super::directory(shell)?.join("zig");
    let archiver = format!("{} ar", zig.display());
    let version = format!("{}.{}", MACOS.0, MACOS.1);
    Ok([
        (format!("CC_{name}"), wrapper.clone()),
        (format!("AR_{name}"), archiver.into()),
        (
            format!("CARGO_TARGET_{}_LINKER", name.to_uppercase()),
            wrapper,
        ),
        // The compiler asks for the SDK with a program of macOS otherwise.
        ("SDKROOT".to_owned(), sdk.clone()),
        ("RINGFENCE_SDK".to_owned(), sdk),
        ("RINGFENCE_ZIG".to_owned(), zig),
        ("RINGFENCE_MACOS".to_owned(), version.into()),
        ("ZIG_GLOBAL_CACHE_DIR".to_owned(), cache.clone()),
        ("ZIG_LOCAL_CACHE_DIR".to_owned(), cache),
    ]
    .into())
}

/// Where Zig is, after having it installed if need be.
fn ensure_installed(shell: &Shell) -> anyhow::Result<PathBuf> {
    let pinned = REQUIREMENTS
        .lines()
        .find_map(|line| line.strip_prefix("ziglang=="));
    let version = pinned.and_then(|pin| pin.split_whitespace().next());
    let version = version.context("xtask/macos/zig.txt pins no version of ziglang")?;
    let cache = cache()?;
    let folder = cache.join(format!("zig-{version}"));
    let zig = folder.join("ziglang").join("zig");
    if !zig.exists() {
        install(shell, &cache, &folder).with_context(|| {
            format!(
                "cannot get Zig {version}, without which there is no linking for macOS; it needs \
                 python3 with pip (`cargo xtask setup`) and the Python package index or a mirror"
            )
        })?;
    }
    let found = cmd!(shell, "{zig} version").quiet().read()?;
    ensure!(
        found == version,
        "{} says that it is version {found}, not {version}; remove {}",
        zig.display(),
        folder.display()
    );
    Ok(zig)
}

/// Installs what `zig.txt` demands in `folder`, which appears whole or not at all.
fn install(shell: &Shell, cache: &Path, folder: &Path) -> anyhow::Result<()> {
    fs::create_dir_all(cache)?;
    let partial = cache.join(format!("zig.{}.partial", std::process::id()));
    let requirements = shell.current_dir().join("xtask/macos/zig.txt");
    eprintln!("installing Zig in {} (90 MB, once)", folder.display());
    let options = [
        "--quiet",
        "--no-deps",
        "--require-hashes",
        "--only-binary=:all:",
    ];
    let install = cmd!(
        shell,
        "python3 -m pip install {options...} --no-cache-dir --target {partial} --requirement {requirements}"
    );
    let installed = install
        .env("PIP_ROOT_USER_ACTION", "ignore")
        .env("PIP_DISABLE_PIP_VERSION_CHECK", "1")
        .quiet()
        .run();
    let moved = installed
        .map_err(anyhow::Error::from)
        .and_then(|()| Ok(fs::rename(&partial, folder)?));
    // Another task may have been quicker.
    if moved.is_err() {
        let _gone_or_never_there = fs::remove_dir_all(&partial);
    }
    if folder.exists() { Ok(()) } else { moved }
}

/// The folder in which the image's builder keeps its downloads, too.
fn cache() -> anyhow::Result<PathBuf> {
    let absolute = |name: &str| {
        env::var_os(name)
            .map(PathBuf::from)
            .filter(|path| path.is_absolute())
    };
    if let Some(cache) = absolute(ringfence_image::build::ENV_CACHE) {
        return Ok(cache);
    }
    absolute("XDG_CACHE_HOME")
        .or_else(|| env::home_dir().map(|home| home.join(".cache")))
        .map(|base| base.join("ringfence").join("build"))
        .context("neither RINGFENCE_CACHE nor a home directory is known")
}
