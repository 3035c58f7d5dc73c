//! Compiler and linker for macOS where there is no Mac: Zig's, from its package for Python, which
//! `zig.txt` pins.

use anyhow::{Context as _, bail, ensure};
use std::path::{Path, PathBuf};
use xshell::{Shell, cmd};

use super::{MACOS, TARGET};
use crate::pip;

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
    let version = pip::version(REQUIREMENTS, "ziglang")?;
    let folder = ringfence_image::build::cache()?.join(format!("zig-{version}"));
    let zig = folder.join("ziglang").join("zig");
    if !zig.exists() {
        install(shell, &folder).with_context(|| {
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

fn install(shell: &Shell, folder: &Path) -> anyhow::Result<()> {
    let requirements = shell.current_dir().join("xtask/macos/zig.txt");
    eprintln!("installing Zig in {} (90 MB, once)", folder.display());
    let python = Path::new("python3");
    match pip::fill(shell, python, pip::Form::Installed, &requirements, folder)? {
        pip::Got::All => Ok(()),
        pip::Got::Nothing(why) => bail!("pip says: {why}"),
    }
}
