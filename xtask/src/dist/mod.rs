//! `cargo xtask dist`: the `ringfence` command for macOS, compiled, linked, signed and checked.
//!
//! On a Mac with Apple's own linker and `codesign`. Elsewhere with Zig as C compiler and linker
//! (it brings the interface of macOS's system library), stubs of ours for the two other libraries,
//! and an ad hoc signature of ours. The checks are the same, and only what passes them appears in
//! `target/dist`.

mod archive;
mod check;
mod entitlements;
mod layout;
mod signature;
#[cfg(test)]
mod tests;
mod zig;

use anyhow::Context as _;
use clap::Args;
use sha2::{Digest as _, Sha256};
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use xshell::{Shell, cmd};

const TARGET: &str = "aarch64-apple-darwin";

/// The oldest macOS that the command runs on: the first with an interrupt controller in the kernel.
const MACOS: (u32, u32) = (15, 0);

const IDENTIFIER: &str = "ringfence";
const ENTITLEMENTS: &str = include_str!("../../macos/ringfence.entitlements");

#[derive(Debug, Args)]
pub(crate) struct Dist {
    /// What to build for
    #[arg(long, default_value = TARGET, value_parser = [TARGET])]
    target: String,
}

impl Default for Dist {
    fn default() -> Self {
        Self {
            target: TARGET.to_owned(),
        }
    }
}

impl Dist {
    pub(crate) fn run(&self, shell: &Shell) -> anyhow::Result<()> {
        let folder = directory(shell)?;
        fs::create_dir_all(&folder)?;
        let linked = link(shell)?;
        let partial = folder.join(format!("ringfence.{}.partial", std::process::id()));
        let finished = finish(shell, &linked, &partial, &folder.join("ringfence"));
        if finished.is_err() {
            let _gone_or_never_there = fs::remove_file(&partial);
        }
        let checked =
            finished.with_context(|| format!("{} is not fit for a Mac", linked.display()))?;
        for (library, symbols) in &checked.libraries {
            eprintln!("  {symbols:>4} symbols of {library}");
        }
        let archive = archive::pack(&shell.current_dir(), &folder)?;
        for path in [folder.join("ringfence"), archive] {
            println!("{}  {}", digest(&path)?, path.display());
        }
        Ok(())
    }
}

/// Where the command goes; the archive goes beside this folder.
fn directory(shell: &Shell) -> anyhow::Result<PathBuf> {
    let dist = crate::demo::target_directory(shell)?.join("dist");
    Ok(dist.join(format!("ringfence-{TARGET}")))
}

/// The command that this task has made.
pub(crate) fn program(shell: &Shell) -> anyhow::Result<PathBuf> {
    Ok(directory(shell)?.join("ringfence"))
}

/// Compiles and links; returns the path of what came out.
fn link(shell: &Shell) -> anyhow::Result<PathBuf> {
    let mut environment = vec![(
        "MACOSX_DEPLOYMENT_TARGET".to_owned(),
        format!("{}.{}", MACOS.0, MACOS.1).into(),
    )];
    if !cfg!(target_os = "macos") {
        environment.extend(zig::environment(shell)?);
    }
    let remap = crate::build_image::remap_flags(shell, TARGET)?;
    let mut build = cmd!(
        shell,
        "cargo build --release --config {remap} --package ringfence-cli --target {TARGET}"
    );
    for (name, value) in environment {
        build = build.env(name, value);
    }
    build.quiet().run()?;
    let target = crate::demo::target_directory(shell)?;
    Ok(target.join(TARGET).join("release").join("ringfence"))
}

/// Signs what is `linked`, checks it, and puts it in its place.
fn finish(
    shell: &Shell,
    linked: &Path,
    partial: &Path,
    place: &Path,
) -> anyhow::Result<check::Checked> {
    if cfg!(target_os = "macos") {
        fs::copy(linked, partial)?;
        let entitlements = shell
            .current_dir()
            .join("xtask/macos/ringfence.entitlements");
        cmd!(
            shell,
            "/usr/bin/codesign --sign - --force --identifier {IDENTIFIER} --entitlements {entitlements} {partial}"
        )
        .quiet()
        .run()?;
    } else {
        let signed = signature::sign(fs::read(linked)?, IDENTIFIER, ENTITLEMENTS)?;
        fs::write(partial, signed)?;
        fs::set_permissions(partial, fs::Permissions::from_mode(0o755))?;
    }
    let checked = check::check(&fs::read(partial)?, ENTITLEMENTS)?;
    fs::rename(partial, place)?;
    Ok(checked)
}

fn digest(path: &Path) -> anyhow::Result<String> {
    let digest = Sha256::digest(fs::read(path)?);
    Ok(digest.iter().map(|byte| format!("{byte:02x}")).collect())
}
