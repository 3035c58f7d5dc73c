//! `image build`.

use crate::status::Status;
use anyhow::Context as _;
use clap::{Args, ValueEnum};
use ringfence::image::build;
use std::path::PathBuf;

/// Where the guest's kernel comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Kernel {
    /// Compiled from Debian's source with ringfence's own options
    Source,
    /// Debian's package for clouds; needs no compiler
    Prebuilt,
}

#[derive(Debug, Args)]
pub(super) struct Build {
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
    pub(super) fn execute(self) -> anyhow::Result<Status> {
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
        let directory = image.directory().display();
        crate::text::say(&format!("{directory}\n{}", super::parts(&image)))?;
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
