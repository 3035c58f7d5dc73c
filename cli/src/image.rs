//! `image`: build, verify and list guest images.

#[cfg(feature = "image-build")]
mod build;

use crate::status::Status;
use crate::text::say;
use clap::{Args, Subcommand};
use ringfence::image::{self, Arch};
use std::path::PathBuf;

#[derive(Debug, Args)]
pub(crate) struct Image {
    #[command(subcommand)]
    task: Task,
}

#[derive(Debug, Subcommand)]
enum Task {
    /// Build the image from Debian packages; a failure leaves the previous one as it was
    #[cfg(feature = "image-build")]
    Build(build::Build),
    /// Verify the digests of an image
    Verify {
        /// Folder of the image instead of the one in the user's cache
        directory: Option<PathBuf>,
    },
    /// List the images in the user's cache
    List,
}

impl Image {
    pub(crate) fn execute(self) -> anyhow::Result<Status> {
        match self.task {
            #[cfg(feature = "image-build")]
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
    let directory = image.directory().display();
    say(&format!(
        "{directory}: every digest is right\n{}",
        parts(&image)
    ))?;
    Ok(Status::Success)
}

fn list() -> anyhow::Result<Status> {
    let listed = image::list()?.into_iter().map(|listed| {
        let directory = listed.directory.display();
        match listed.image {
            Ok(image) => format!("{directory}\n{}", parts(&image)),
            Err(error) => format!("{directory}: {error}\n"),
        }
    });
    say(&listed.collect::<String>())?;
    Ok(Status::Success)
}

/// A line for each part.
fn parts(image: &image::Image) -> String {
    let manifest = image.manifest();
    let parts = [
        ("kernel", &manifest.kernel),
        ("initramfs", &manifest.initramfs),
        ("rootfs", &manifest.rootfs),
    ];
    let lines = parts.map(|(name, entry)| {
        let size = bytesize::ByteSize::b(entry.size).display().iec();
        let digest = &entry.sha256;
        format!("  {name:<10} {:>10}  sha256:{digest}\n", size.to_string())
    });
    lines.concat()
}
