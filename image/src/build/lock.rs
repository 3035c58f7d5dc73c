//! `initramfs/packages.lock`: which version of each package, and its digest.
//!
//! A digest of the lock is trusted as much as the repository that it is in; it was taken from a
//! verified index. One line per package, sorted, so that a change reads well in a review.

use super::packages::{Archive, Package, is_plain_path};
use super::wanted::meaningful;
use crate::Digest;
use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;

/// The lock of this repository.
pub(crate) const REPOSITORY: &str = include_str!("../../../initramfs/packages.lock");

/// What a package is used for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Role {
    /// The kernel's source.
    KernelSource,
    /// Debian's build of the kernel.
    KernelPrebuilt,
    /// The archive's keys.
    Keyring,
    /// A part of the root file system.
    Rootfs,
    /// A part of the lab's tools; none of the image.
    LabTools,
}

impl Role {
    const ALL: [Self; 5] = [
        Self::KernelSource,
        Self::KernelPrebuilt,
        Self::Keyring,
        Self::Rootfs,
        Self::LabTools,
    ];

    const fn name(self) -> &'static str {
        match self {
            Self::KernelSource => "kernel-source",
            Self::KernelPrebuilt => "kernel-prebuilt",
            Self::Keyring => "keyring",
            Self::Rootfs => "rootfs",
            Self::LabTools => "lab-tools",
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// One package, pinned.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Pin {
    pub role: Role,
    pub name: String,
    pub version: String,
    pub archive: Archive,
    /// Below the archive's address.
    pub path: String,
    pub size: u64,
    pub sha256: Digest,
}

impl Pin {
    /// Pins the version that the index has.
    pub(crate) fn new(role: Role, package: &Package) -> Self {
        Self {
            role,
            name: package.name.clone(),
            version: package.version.to_string(),
            archive: package.archive,
            path: package.path.clone(),
            size: package.size,
            sha256: package.sha256,
        }
    }

    /// Name and version, for people.
    pub(crate) fn label(&self) -> String {
        format!("{} {}", self.name, self.version)
    }
}

/// All pins.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Lock {
    /// The digest of the list that the lock was made for; `None` in an empty lock.
    pub list: Option<Digest>,
    /// The same of the lab's tools.
    pub tools: Option<Digest>,
    /// The pins.
    pub pins: BTreeSet<Pin>,
}

/// A line of a lock that cannot be understood.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("the lock file is damaged at `{0}`; restore it or make it anew with --update-lock")]
pub struct LockError(String);

impl Lock {
    /// The pins of one role.
    pub(crate) fn role(&self, role: Role) -> Vec<Pin> {
        self.pins
            .iter()
            .filter(|pin| pin.role == role)
            .cloned()
            .collect()
    }

    /// Puts `pins` in place of those of the same role.
    pub(crate) fn replace(&mut self, role: Role, pins: &[Pin]) {
        self.pins.retain(|pin| pin.role != role);
        self.pins.extend(pins.iter().cloned());
    }
}

impl FromStr for Lock {
    type Err = LockError;

    fn from_str(text: &str) -> Result<Self, LockError> {
        let mut lock = Self::default();
        for line in meaningful(text) {
            let damaged = || LockError(line.to_owned());
            let digest = |text: &str| text.trim().parse().map_err(|_digest| damaged());
            if let Some(text) = line.strip_prefix("list ") {
                lock.list = Some(digest(text)?);
            } else if let Some(text) = line.strip_prefix("lab-tools-list ") {
                lock.tools = Some(digest(text)?);
            } else {
                lock.pins.insert(pin(line).ok_or_else(damaged)?);
            }
        }
        Ok(lock)
    }
}

fn pin(line: &str) -> Option<Pin> {
    let words: Vec<&str> = line.split_whitespace().collect();
    let [role, name, version, archive, size, sha256, path] = words[..] else {
        return None;
    };
    Some(Pin {
        role: Role::ALL.into_iter().find(|known| known.name() == role)?,
        name: name.to_owned(),
        version: version.to_owned(),
        archive: match archive {
            "main" => Archive::Main,
            "security" => Archive::Security,
            _ => return None,
        },
        path: Some(path.to_owned()).filter(|path| is_plain_path(path))?,
        size: size.parse().ok()?,
        sha256: sha256.parse().ok()?,
    })
}

impl fmt::Display for Lock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "# Written by `cargo xtask build-image --update-lock`.")?;
        writeln!(
            f,
            "# Role, package, version, archive, bytes, SHA-256, path in the archive."
        )?;
        if let Some(list) = self.list {
            writeln!(f, "list {list}")?;
        }
        if let Some(list) = self.tools {
            writeln!(f, "lab-tools-list {list}")?;
        }
        self.pins.iter().try_for_each(|pin| {
            let archive = match pin.archive {
                Archive::Main => "main",
                Archive::Security => "security",
            };
            let Pin {
                role,
                name,
                version,
                size,
                sha256,
                path,
                ..
            } = pin;
            writeln!(
                f,
                "{role} {name} {version} {archive} {size} {sha256} {path}"
            )
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Lock {
        let pin = |role, name: &str, archive| Pin {
            role,
            name: name.to_owned(),
            version: "1:2.0~rc1-1+b2".to_owned(),
            archive,
            path: format!("pool/main/{name}_2.0~rc1-1+b2_arm64.deb"),
            size: 7,
            sha256: Digest::of(name.as_bytes()),
        };
        Lock {
            list: Some(Digest::of(b"list")),
            tools: Some(Digest::of(b"tools")),
            pins: [
                pin(Role::Rootfs, "bash", Archive::Main),
                pin(Role::Rootfs, "libc6", Archive::Security),
                pin(Role::KernelSource, "linux-source", Archive::Security),
                pin(Role::LabTools, "libc6", Archive::Main),
            ]
            .into(),
        }
    }

    #[test]
    fn what_is_written_is_read_back() {
        let lock = sample();
        assert_eq!(lock.to_string().parse(), Ok(lock));
    }

    #[test]
    fn the_lock_of_this_repository_is_understood() {
        let lock: Lock = REPOSITORY.parse().unwrap();
        assert_eq!(lock.to_string(), REPOSITORY);
    }

    #[test]
    fn roles_are_replaced_whole() {
        let mut lock = sample();
        let kernel = lock.role(Role::KernelSource);
        lock.replace(Role::Rootfs, &[]);
        assert!(lock.role(Role::Rootfs).is_empty());
        assert_eq!(lock.role(Role::KernelSource), kernel);
    }

    #[test]
    fn damaged_lines_are_named() {
        let good = sample().to_string();
        for (from, to) in [
            ("rootfs bash", "root bash"),
            (" main ", " elsewhere "),
            (" 7 ", " seven "),
            ("pool/main/bash", "../../bash"),
            ("\nlist ", "\nlist x"),
            ("lab-tools-list ", "lab-tools-list x"),
            (&Digest::of(b"bash").to_string(), "00"),
        ] {
            assert!(good.contains(from));
            let text = good.replacen(from, to, 1);
            assert!(text.parse::<Lock>().is_err(), "{to}");
        }
    }
}
