//! Which packages a build uses: the lock's, or the suite's where the lock does not hold any more.

use super::archive::{ArchiveError, Remote};
use super::deb::{self, Content, DebError};
use super::fetch::FetchError;
use super::lock::{Lock, Pin, Role};
use super::packages::{Index, PackagesError};
use super::progress::Progress;
use super::signature::{Keys, SignatureError};
use super::sources::Keyring;
use super::tree::read_all;
use super::wanted::Wanted;
use super::{Arch, LockMode};
use crate::Digest;
use std::path::{Path, PathBuf};

/// Why no set of packages can be had.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PlanError {
    /// A package cannot be downloaded.
    #[error(transparent)]
    Fetch(#[from] FetchError),
    /// The suite's indices cannot be had.
    #[error(transparent)]
    Archive(#[from] ArchiveError),
    /// The suite does not have what is wanted.
    #[error(transparent)]
    Packages(#[from] PackagesError),
    /// The keys cannot be read.
    #[error(transparent)]
    Signature(#[from] SignatureError),
    /// The package with the keys cannot be unpacked.
    #[error(transparent)]
    Package(#[from] DebError),
    /// There is no key to verify the archive with.
    #[error(
        "no keyring to verify the archive with: none is installed and the pinned package {pin} \
         cannot be had; pass --keyring FILE or set RINGFENCE_KEYRING"
    )]
    NoKeyring {
        /// The package that would have it.
        pin: String,
        /// Why it cannot be had.
        source: Box<PlanError>,
    },
    /// The lock is empty of what is needed, or made for another list.
    #[error(
        "the lock file was not made for the present list of packages, and --locked forbids \
         others; run `cargo xtask build-image --update-lock`"
    )]
    Stale,
    /// The lock has no or several packages of a role that takes one.
    #[error("the lock file has not exactly one package of the role `{0}`; make it anew")]
    NotOne(String),
    /// A pinned version has left the mirror.
    #[error(
        "{pin} of the lock file has left the mirror, and --locked forbids another version; \
         run `cargo xtask build-image --update-lock`"
    )]
    Left {
        /// Name and version.
        pin: String,
        /// The mirror's answer.
        source: FetchError,
    },
}

/// What decides about packages.
#[derive(Debug)]
pub(crate) struct Planner<'a> {
    pub remote: Remote<'a>,
    pub wanted: &'a Wanted,
    /// The list of the lab's tools.
    pub tools: &'a Wanted,
    pub mode: LockMode,
    pub arch: Arch,
    /// What the flag, the environment or apt say; `None` where the machine has no keys.
    pub keyring: Option<Keyring>,
    pub progress: Progress,
    lock: Lock,
    index: Option<Index>,
}

impl<'a> Planner<'a> {
    /// A planner that begins with `lock`, for the lists of the image and of the lab's tools.
    pub(crate) fn new(
        remote: Remote<'a>,
        [wanted, tools]: [&'a Wanted; 2],
        lock: Lock,
        mode: LockMode,
        arch: Arch,
        keyring: Option<Keyring>,
    ) -> Result<Self, PlanError> {
        let progress = remote.progress;
        let mut planner = Self {
            remote,
            wanted,
            tools,
            mode,
            arch,
            keyring,
            progress,
            lock,
            index: None,
        };
        planner.check_list()?;
        Ok(planner)
    }

    /// A lock that was made for another list holds nothing but its keyring.
    fn check_list(&mut self) -> Result<(), PlanError> {
        if !self.is_stale(self.lock.list, self.wanted)? {
            return Ok(());
        }
        for role in [Role::KernelSource, Role::KernelPrebuilt, Role::Rootfs] {
            self.resolve(role)?;
        }
        self.resolve(Role::Keyring)?;
        self.lock.list = Some(self.wanted.digest());
        if self.mode == LockMode::Update {
            self.check_tools()?;
        }
        Ok(())
    }

    /// The same for the list of the lab's tools. Who needs no tools needs no such check.
    pub(crate) fn check_tools(&mut self) -> Result<(), PlanError> {
        if self.is_stale(self.lock.tools, self.tools)? {
            self.resolve(Role::LabTools)?;
            self.lock.tools = Some(self.tools.digest());
        }
        Ok(())
    }

    /// Whether the pins of a list have to be made anew, and may.
    fn is_stale(&self, made_for: Option<Digest>, list: &Wanted) -> Result<bool, PlanError> {
        match self.mode {
            LockMode::Update => return Ok(true),
            _ if made_for == Some(list.digest()) => return Ok(false),
            LockMode::Locked => return Err(PlanError::Stale),
            LockMode::Prefer => self.progress.warn(
                "the lock file was not made for the present list of packages: \
                 taking what the suite has now; --update-lock writes that down",
            ),
        }
        Ok(true)
    }

    /// The pins as they are now.
    pub(crate) const fn lock(&self) -> &Lock {
        &self.lock
    }

    /// The packages of a role and where they are on this machine. A version that has left the
    /// mirror is replaced by the suite's, along with all others of its role, because what it needs
    /// may have changed too.
    pub(crate) fn fetch(&mut self, role: Role) -> Result<Vec<(Pin, PathBuf)>, PlanError> {
        let pins = self.lock.role(role);
        if pins.is_empty() {
            self.resolve(role)?;
            return self.fetch_all(role);
        }
        match self.fetch_all(role) {
            Err(PlanError::Left { pin, source }) => {
                if self.mode == LockMode::Locked {
                    return Err(PlanError::Left { pin, source });
                }
                self.progress.warn(&format!(
                    "{pin} of the lock file has left the mirror: taking what the suite has now, \
                     verified by the archive's signature; --update-lock writes that down"
                ));
                self.resolve(role)?;
                self.tell_changes(&pins, role);
                self.fetch_all(role)
            }
            other => other,
        }
    }

    /// As [`Self::fetch`], for a role that has one package.
    pub(crate) fn fetch_one(&mut self, role: Role) -> Result<(Pin, PathBuf), PlanError> {
        let mut fetched = self.fetch(role)?;
        match (fetched.pop(), fetched.is_empty()) {
            (Some(package), true) => Ok(package),
            _ => Err(PlanError::NotOne(role.to_string())),
        }
    }

    fn fetch_all(&self, role: Role) -> Result<Vec<(Pin, PathBuf)>, PlanError> {
        let fetch = |pin: Pin| match self.remote.package(&pin) {
            Ok(path) => Ok((pin, path)),
            Err(source @ FetchError::Gone { .. }) => Err(PlanError::Left {
                pin: pin.label(),
                source,
            }),
            Err(other) => Err(other.into()),
        };
        self.lock.role(role).into_iter().map(fetch).collect()
    }

    fn tell_changes(&self, before: &[Pin], role: Role) {
        let after = self.lock.role(role);
        for pin in after.iter().filter(|pin| !before.contains(pin)) {
            let was = before.iter().find(|old| old.name == pin.name);
            let was = was.map_or("not in the lock file", |old| old.version.as_str());
            self.progress
                .warn(&format!("using {} ({was} before)", pin.label()));
        }
    }

    /// Pins what the suite has now.
    fn resolve(&mut self, role: Role) -> Result<(), PlanError> {
        let index = match self.index.take() {
            Some(index) => index,
            None => {
                self.progress
                    .step(&format!("reading the index of {}", self.wanted.suite));
                self.remote
                    .index(&self.wanted.suite, self.arch, &self.keys()?)?
            }
        };
        let (wanted, tools) = (self.wanted, self.tools);
        let packages = match role {
            Role::KernelSource => vec![index.get(&wanted.kernel_source)?],
            Role::KernelPrebuilt => vec![index.behind(&wanted.kernel_prebuilt, "linux-image-")?],
            Role::Keyring => vec![index.get(&wanted.keyring)?],
            Role::Rootfs => index.closure(&wanted.packages, &wanted.exclude, &wanted.prefer)?,
            Role::LabTools => index.closure(&tools.packages, &tools.exclude, &tools.prefer)?,
        };
        let pins: Vec<Pin> = packages
            .into_iter()
            .map(|package| Pin::new(role, package))
            .collect();
        self.lock.replace(role, &pins);
        self.index = Some(index);
        Ok(())
    }

    /// The archive's keys: the machine's, else those of the pinned package.
    fn keys(&self) -> Result<Keys, PlanError> {
        if let Some(keyring) = &self.keyring {
            return Ok(Keys::load(keyring)?);
        }
        self.packaged_keys().map_err(|source| {
            let pins = self.lock.role(Role::Keyring);
            let pin = pins
                .first()
                .map_or_else(|| self.wanted.keyring.clone(), Pin::label);
            PlanError::NoKeyring {
                pin,
                source: Box::new(source),
            }
        })
    }

    fn packaged_keys(&self) -> Result<Keys, PlanError> {
        for (_, package) in self.fetch_all(Role::Keyring)? {
            if let Some(keys) = keys_of(&package)? {
                return Ok(Keys::parse(&keys, &self.wanted.keyring)?);
            }
        }
        Err(PackagesError::Unknown(self.wanted.keyring.clone()).into())
    }
}

/// The keyring file of the package `debian-archive-keyring`.
fn keys_of(package: &Path) -> Result<Option<Vec<u8>>, DebError> {
    let mut keys = None;
    deb::visit(package, |member, reader| {
        let name = member.path.rsplit('/').next().unwrap_or_default();
        let is_keyring = matches!(
            name,
            "debian-archive-keyring.gpg" | "debian-archive-keyring.pgp"
        );
        if is_keyring && member.content == Content::File {
            let damaged = |source| DebError::Damaged {
                package: package.to_owned(),
                source,
            };
            keys = Some(read_all(reader).map_err(damaged)?);
        }
        Ok::<(), DebError>(())
    })?;
    Ok(keys)
}
