//! Development tasks: `cargo xtask TASK`. One file per task.

mod bench;
mod build_image;
mod demo;
mod dist;
#[cfg(target_os = "linux")]
mod lab;
mod numpy;
mod pip;
mod setup;
mod test;

use clap::{Parser, Subcommand};
use std::process::ExitCode;
use xshell::Shell;

#[derive(Debug, Parser)]
#[command(name = "cargo xtask", about = "Development tasks of ringfence")]
struct Arguments {
    #[command(subcommand)]
    task: Task,
}

#[derive(Debug, Subcommand)]
enum Task {
    /// Install what is missing: Rust targets and, on Debian as root, packages
    Setup,
    /// Set up, build the image, and run one Python program in both isolations
    Demo,
    /// Set up and run everything that CI runs
    Test(test::Test),
    /// Measure what the README claims
    Bench(bench::Bench),
    /// Build the guest image
    BuildImage(build_image::BuildImage),
    /// Run a program in an emulated arm64 machine that has KVM
    #[cfg(target_os = "linux")]
    Lab(lab::Arguments),
    /// Build, sign and check the command for macOS
    Dist(dist::Dist),
}

fn main() -> anyhow::Result<ExitCode> {
    let shell = Shell::new()?;
    // Tasks work from any folder of the checkout.
    let manifest = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
    shell.change_dir(manifest.parent().unwrap_or(manifest));
    match Arguments::parse().task {
        Task::Setup => setup::run(&shell)?,
        Task::Demo => demo::run(&shell)?,
        Task::Test(test) => test.run(&shell)?,
        Task::Bench(bench) => bench.run(&shell)?,
        Task::BuildImage(build) => build.run(&shell)?,
        #[cfg(target_os = "linux")]
        Task::Lab(lab) => return Ok(lab.run(&shell)),
        Task::Dist(dist) => dist.run(&shell)?,
    }
    Ok(ExitCode::SUCCESS)
}
