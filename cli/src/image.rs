//! `image`: build, verify and list guest images.

#[cfg(feature = "image-build")]
mod build;

use crate::status::Status;
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
