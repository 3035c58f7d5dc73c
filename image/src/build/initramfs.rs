//! The initramfs: the agent as `/init`, the console, mount points, and the kernel's modules where
//! it has any.
//!
//! Not compressed: the boot would spend more time unpacking than it saves reading.

use super::tree::{Node, Tree, TreeError};
use std::path::PathBuf;

/// What this module does is an input of the image.
pub(crate) const RECIPE: [&str; 2] = [include_str!("initramfs.rs"), include_str!("tree.rs")];

/// Where the agent finds which modules to load: one path per line, in order.
const MODULES: &str = "modules/load";

/// Folders that the agent mounts on before it has a root file system.
const MOUNT_POINTS: [&str; 4] = ["dev", "proc", "root", "sys"];

/// A module of the kernel, not compressed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Module {
    /// Its file name, ending in `.ko`.
    pub file: String,
    pub data: Vec<u8>,
}

/// Why the agent cannot be taken.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AgentError {
    /// It is no program for the guest.
    #[error(
        "{} is no static program for {arch}; build it with \
         `cargo build -p guest-agent --profile guest --target {arch}-unknown-linux-musl`",
        path.display()
    )]
    NotStatic {
        /// The file.
        path: PathBuf,
        /// The architecture of the guest.
        arch: crate::Arch,
    },
}

/// The initramfs with this agent and these modules, in the order in which they are to be loaded.
pub(crate) fn assemble(agent: &[u8], modules: &[Module]) -> Result<Tree, TreeError> {
    let mut tree = Tree::default();
    for path in MOUNT_POINTS {
        tree.folder(path, 0o755)?;
    }
    tree.insert(
        "dev/console",
        Node::CharDevice {
            mode: 0o600,
            major: 5,
            minor: 1,
        },
    )?;
    tree.file("init", 0o755, agent)?;
    if !modules.is_empty() {
        let mut order = String::new();
        for module in modules {
            let path = format!("modules/{}", module.file);
            tree.file(&path, 0o644, &module.data)?;
            order.push_str(&format!("/{path}\n"));
        }
        tree.file(MODULES, 0o644, order.as_bytes())?;
    }
    Ok(tree)
}

/// Whether `agent` runs as `/init` of the guest: an ELF program of its architecture that needs no
/// interpreter.
pub(crate) fn check_agent(
    agent: &[u8],
    path: &std::path::Path,
    arch: crate::Arch,
) -> Result<(), AgentError> {
    use object::read::elf::{ElfFile64, FileHeader as _, ProgramHeader as _};
    let machine = match arch {
        crate::Arch::Aarch64 => object::elf::EM_AARCH64,
    };
    let is_static = || {
        let file = ElfFile64::<object::Endianness>::parse(agent).ok()?;
        let endian = file.endian();
        let interpreted = file
            .elf_program_headers()
            .iter()
            .any(|part| part.p_type(endian) == object::elf::PT_INTERP);
        Some(file.elf_header().e_machine(endian) == machine && !interpreted)
    };
    match is_static() {
        Some(true) => Ok(()),
        _ => Err(AgentError::NotStatic {
            path: path.to_owned(),
            arch,
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modules_are_listed_in_the_order_of_loading() {
        let module = |file: &str| Module {
            file: file.to_owned(),
            data: vec![1],
        };
        let tree = assemble(b"agent", &[module("z.ko"), module("a.ko")]).unwrap();
        let order = Node::File {
            mode: 0o644,
            data: (*b"/modules/z.ko\n/modules/a.ko\n").into(),
        };
        assert_eq!(tree.get("modules/load"), Some(&order));
        assert!(assemble(b"agent", &[]).unwrap().get("modules").is_none());
    }

    #[test]
    fn only_static_programs_of_the_guest_are_taken() {
        let path = std::path::Path::new("agent");
        for bytes in [
            &b""[..],
            b"#!/bin/sh\n",
            &std::fs::read("/proc/self/exe").unwrap_or_default(),
        ] {
            assert!(check_agent(bytes, path, crate::Arch::Aarch64).is_err());
        }
    }
}
