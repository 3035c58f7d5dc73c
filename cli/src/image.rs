//! `image`: build, verify and list guest images.

use crate::status::Status;
use anyhow::Context as _;
use clap::{Args, Subcommand, ValueEnum};
use ringfence::image::{self, Arch, build};
use std::path::PathBuf;

#[derive(Debug, Args)]
pub(crate) struct Image {
    #[command(subcommand)]
    task: Task,
}

#[derive(Debug, Subcommand)]
enum Task {
    /// Build the image from Debian packages; a failure leaves the previous one as it was
    Build(Build),
    /// Verify the digests of an image
    Verify {
        /// Folder of the image instead of the one in the user's cache
        directory: Option<PathBuf>,
    },
    /// List the images in the user's cache
    List,
}

/// Where the guest's kernel comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Kernel {
    /// Compiled from Debian's source with ringfence's own options
    Source,
    /// Debian's package for clouds; needs no compiler
    Prebuilt,
}

#[derive(Debug, Args)]
struct Build {
    /// The agent's static program for the guest; otherwise the one beside this command
    #[arg(long, value_name = "FILE")]
    agent: Option<PathBuf>,
    /// Where the guest's kernel comes from: source on Linux, prebuilt elsewhere, unless said
    #[arg(long, value_enum)]
    kernel: Option<Kernel>,
    /// Fail when a pinned version has left the mirror instead of taking the current one
    #[arg(long)]
    locked: bool,
    /// Mirror of Debian's archive instead of $RINGFENCE_MIRROR or the one apt is configured with
    #[arg(long, value_name = "URL")]
    mirror: Option<String>,
    /// Keys of the archive instead of $RINGFENCE_KEYRING or the ones apt is configured with
    #[arg(long, value_name = "FILE")]
    keyring: Option<PathBuf>,
    /// Folder of the image instead of the one in the user's cache
    #[arg(long, value_name = "DIR")]
    output: Option<PathBuf>,
}

impl Build {
    fn execute(self) -> anyhow::Result<Status> {
        let agent = self.agent.map_or_else(agent_beside_command, Ok)?;
        let mut options = build::Options::new(agent);
        if let Some(kernel) = self.kernel {
            options.kernel = match kernel {
                Kernel::Source => build::Kernel::Source,
                Kernel::Prebuilt => build::Kernel::Prebuilt,
            };
        }
        if self.locked {
            options.lock = build::LockMode::Locked;
        }
        options.mirror = self.mirror;
        options.keyring = self.keyring;
        options.output = self.output;
        let image = build::run(&options)?;
        println!("{}", image.directory().display());
        print_parts(&image);
        Ok(Status::Success)
    }
}

/// Where a release puts the agent.
fn agent_beside_command() -> anyhow::Result<PathBuf> {
    let command = std::env::current_exe().context("cannot find this command's own file")?;
    let agent = command.with_file_name("ringfence-agent-aarch64");
    anyhow::ensure!(
        agent.is_file(),
        "there is no agent at {}; name one with --agent, or use `cargo xtask build-image` in a \
         checkout, which builds it",
        agent.display()
    );
    Ok(agent)
}

impl Image {
    pub(crate) fn execute(self) -> anyhow::Result<Status> {
        match self.task {
            Task::Build(build) => build.execute(),
            Task::Verify { directory } => verify(directory),
            Task::List => list(),
        }
    }
}

fn verify(directory: Option<PathBuf>) -> anyhow::Result<Status> {
    let image = match directory {
        Some(directory) => image::Image::open(directory)?,
        None => image::Image::find(Arch::Aarch64)?,
    };
    image.verify()?;
    println!("{}: every digest is right", image.directory().display());
    print_parts(&image);
    Ok(Status::Success)
}

fn list() -> anyhow::Result<Status> {
    for listed in image::list()? {
        match listed.image {
            Ok(image) => {
                println!("{}", listed.directory.display());
                print_parts(&image);
            }
            Err(error) => println!("{}: {error}", listed.directory.display()),
        }
    }
    Ok(Status::Success)
}

fn print_parts(image: &image::Image) {
    let manifest = image.manifest();
    let parts = [
        ("kernel", &manifest.kernel),
        ("initramfs", &manifest.initramfs),
        ("rootfs", &manifest.rootfs),
    ];
    for (name, entry) in parts {
        let size = bytesize::ByteSize::b(entry.size);
        println!(
            "  {name:<10} {:>10}  sha256:{}",
            size.display().iec().to_string(),
            entry.sha256
        );
    }
}
