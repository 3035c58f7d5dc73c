//! `cargo xtask build-image`: the agent, then the image around it.

use anyhow::Context as _;
use clap::{Args, ValueEnum};
use ringfence_image::build::{self, LockMode, Options};
use ringfence_image::{Arch, Image};
use std::env;
use std::path::PathBuf;
use xshell::{Shell, cmd};

/// Folder of the agent's profile below the target's.
const PROFILE: &str = "guest";

#[derive(Debug, Args)]
pub(crate) struct BuildImage {
    /// Architecture of the guest
    #[arg(long, default_value_t = Arch::Aarch64)]
    arch: Arch,
    /// Where the kernel comes from [default: source on Linux, prebuilt elsewhere]
    #[arg(long)]
    kernel: Option<Kernel>,
    /// Fail where a version of the lock file has left the mirror
    #[arg(long, conflicts_with = "update_lock")]
    locked: bool,
    /// Take the current versions and write them to the lock file
    #[arg(long)]
    update_lock: bool,
    /// Mirror of Debian's archive, MAIN or MAIN,SECURITY [default: that of apt's configuration]
    #[arg(long, value_name = "URL", env = build::ENV_MIRROR)]
    mirror: Option<String>,
    /// Keys of the archive [default: those of apt's configuration]
    #[arg(long, value_name = "FILE", env = build::ENV_KEYRING)]
    keyring: Option<PathBuf>,
    /// Folder of the image [default: the user's cache directory]
    #[arg(long, value_name = "DIR")]
    output: Option<PathBuf>,
    /// Make every part twice and demand the same bytes
    #[arg(long)]
    compare: bool,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Kernel {
    /// Compiled from Debian's source with our own options
    Source,
    /// Debian's build for clouds
    Prebuilt,
}

impl BuildImage {
    pub(crate) fn run(&self, shell: &Shell) -> anyhow::Result<()> {
        let mut options = options(shell, self.arch)?;
        options.kernel = match self.kernel {
            Some(Kernel::Source) => build::Kernel::Source,
            Some(Kernel::Prebuilt) => build::Kernel::Prebuilt,
            None => build::Kernel::default(),
        };
        options.lock = match (self.locked, self.update_lock) {
            (true, _) => LockMode::Locked,
            (_, true) => LockMode::Update,
            _ => LockMode::Prefer,
        };
        options.mirror.clone_from(&self.mirror);
        options.keyring.clone_from(&self.keyring);
        options.output = self
            .output
            .as_ref()
            .map(|output| shell.current_dir().join(output));
        options.compare = self.compare;
        describe(&build::run(&options)?);
        Ok(())
    }
}

/// Builds the image in the user's cache directory; quick where nothing has changed.
pub(crate) fn ensure(shell: &Shell) -> anyhow::Result<()> {
    describe(&build::run(&options(shell, Arch::Aarch64)?)?);
    Ok(())
}

/// Builds an image around Debian's packaged kernel in `output`, every part twice, and demands the
/// same bytes.
pub(crate) fn packaged_twice(shell: &Shell, output: PathBuf) -> anyhow::Result<()> {
    let mut options = options(shell, Arch::Aarch64)?;
    options.kernel = build::Kernel::Prebuilt;
    options.output = Some(output);
    options.compare = true;
    describe(&build::run(&options)?);
    Ok(())
}

fn options(shell: &Shell, arch: Arch) -> anyhow::Result<Options> {
    options_for(shell, arch, "guest-agent")
}

/// The options of a build whose initramfs starts the program of this package.
pub(crate) fn options_for(shell: &Shell, arch: Arch, package: &str) -> anyhow::Result<Options> {
    let mut options = Options::new(agent(shell, arch, package)?);
    options.arch = arch;
    options.lock_file = Some(shell.current_dir().join("initramfs/packages.lock"));
    Ok(options)
}

/// Compiles the program that is to be `/init` and returns its path. The same source gives the same bytes wherever it lies.
fn agent(shell: &Shell, arch: Arch, package: &str) -> anyhow::Result<PathBuf> {
    let target = format!("{arch}-unknown-linux-musl");
    let root = shell.current_dir();
    let flags = remap_flags(shell, &target)?;
    cmd!(
        shell,
        "cargo build --quiet --config {flags} --package {package} --profile {PROFILE} --target {target}"
    )
    .quiet()
    .run()?;
    let folder = env::var_os("CARGO_TARGET_DIR").map_or_else(|| root.join("target"), PathBuf::from);
    Ok(root.join(folder).join(target).join(PROFILE).join(package))
}

/// A setting for cargo that keeps this machine's paths out of what it builds for `target`.
pub(crate) fn remap_flags(shell: &Shell, target: &str) -> anyhow::Result<String> {
    let root = shell.current_dir();
    let cargo_home = env::var_os("CARGO_HOME")
        .map(PathBuf::from)
        .or_else(|| env::home_dir().map(|home| home.join(".cargo")))
        .context("neither CARGO_HOME nor a home directory is known")?;
    let sysroot = PathBuf::from(cmd!(shell, "rustc --print sysroot").quiet().read()?);
    let remap = [
        (&root, "/ringfence"),
        (&cargo_home, "/cargo"),
        (&sysroot, "/rust"),
    ]
    .map(|(from, to)| format!("--remap-path-prefix={}={to}", from.display()));
    Ok(format!("target.{target}.rustflags={remap:?}"))
}

/// What was built, and how large it is.
fn describe(image: &Image) {
    eprintln!("image: ready in {}", image.directory().display());
    for entry in image.manifest().entries() {
        let whole = entry.size / (1 << 20);
        let hundredths = entry.size % (1 << 20) * 100 / (1 << 20);
        eprintln!("  {} {whole}.{hundredths:02} MiB", entry.file);
    }
}
