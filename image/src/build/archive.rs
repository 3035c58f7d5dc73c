//! A Debian archive behind a mirror: from the keyring to the digest of every package.
//!
//! The chain of trust: the keyring signs `InRelease`, which has the digest of `Packages.xz`, which
//! has the digest of each package.

use super::fetch::{FetchError, Fetcher, Wanted as Download};
use super::files::{FileError, failed};
use super::lock::Pin;
use super::packages::{Archive, Index, PackagesError};
use super::progress::Progress;
use super::release::{Release, ReleaseError};
use super::signature::{Keys, SignatureError};
use super::sources::Mirror;
use crate::Arch;
use liblzma::read::XzDecoder;
use std::fs::File;
use std::io::BufReader;
use std::path::PathBuf;
use std::time::SystemTime;

/// No `InRelease` is larger.
const RELEASE_LIMIT: u64 = 16 << 20;

/// Why an archive's indices cannot be had.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ArchiveError {
    /// A download failed.
    #[error(transparent)]
    Fetch(#[from] FetchError),
    /// A file of the cache cannot be read.
    #[error(transparent)]
    File(#[from] FileError),
    /// The signature of `InRelease` is not good.
    #[error("{url} is not to be trusted")]
    Signature {
        /// The address.
        url: String,
        /// What is wrong with it.
        source: SignatureError,
    },
    /// `InRelease` is signed, but of no use.
    #[error("{url} cannot be used")]
    Release {
        /// The address.
        url: String,
        /// What is wrong with it.
        source: ReleaseError,
    },
    /// The index of packages is of no use.
    #[error("the index of packages {url} cannot be used")]
    Packages {
        /// The address.
        url: String,
        /// What is wrong with it.
        source: PackagesError,
    },
}

/// A mirror, with what is needed to download from it.
#[derive(Debug)]
pub(crate) struct Remote<'a> {
    pub mirror: &'a Mirror,
    pub fetcher: &'a Fetcher,
    pub progress: Progress,
}

impl Remote<'_> {
    /// The address of the archive.
    fn base(&self, archive: Archive) -> &str {
        match archive {
            Archive::Main => &self.mirror.main,
            Archive::Security => &self.mirror.security,
        }
    }

    /// Downloads a pinned package.
    pub(crate) fn package(&self, pin: &Pin) -> Result<PathBuf, FetchError> {
        let url = format!("{}/{}", self.base(pin.archive), pin.path);
        let Pin { size, sha256, .. } = *pin;
        self.fetcher.fetch(&Download {
            name: &pin.label(),
            url: &url,
            size,
            sha256,
        })
    }

    /// All packages of a release, its updates and its security updates.
    pub(crate) fn index(
        &self,
        suite: &str,
        arch: Arch,
        keys: &Keys,
    ) -> Result<Index, ArchiveError> {
        let suites = [
            (Archive::Main, suite.to_owned()),
            (Archive::Main, format!("{suite}-updates")),
            (Archive::Security, format!("{suite}-security")),
        ];
        let mut index = Index::default();
        for (archive, suite) in suites {
            self.add_suite(&mut index, archive, &suite, arch, keys)?;
        }
        Ok(index)
    }

    fn add_suite(
        &self,
        index: &mut Index,
        archive: Archive,
        suite: &str,
        arch: Arch,
        keys: &Keys,
    ) -> Result<(), ArchiveError> {
        let folder = format!("{}/dists/{suite}", self.base(archive));
        let release = self.release(&format!("{folder}/InRelease"), suite, keys)?;
        let path = format!("main/binary-{}/Packages.xz", arch.debian());
        let mut url = format!("{folder}/{path}");
        let (sha256, size) = release
            .index(&path)
            .map_err(|source| ArchiveError::Release {
                url: url.clone(),
                source,
            })?;
        if release.by_hash {
            url = format!(
                "{folder}/main/binary-{}/by-hash/SHA256/{sha256}",
                arch.debian()
            );
        }
        let name = format!("packages of {suite}");
        let file = self.fetcher.fetch(&Download {
            name: &name,
            url: &url,
            size,
            sha256,
        })?;
        let text = XzDecoder::new(BufReader::new(
            File::open(&file).map_err(failed("read", &file))?,
        ));
        index
            .add(BufReader::new(text), archive)
            .map_err(|source| ArchiveError::Packages { url, source })
    }

    fn release(&self, url: &str, suite: &str, keys: &Keys) -> Result<Release, ArchiveError> {
        let signed = self.fetcher.fetch_text(url, RELEASE_LIMIT)?;
        let text = keys
            .verify(&signed)
            .map_err(|source| ArchiveError::Signature {
                url: url.to_owned(),
                source,
            })?;
        let release = Release::parse(&text, suite).map_err(|source| ArchiveError::Release {
            url: url.to_owned(),
            source,
        })?;
        if release
            .valid_until
            .is_some_and(|until| until < SystemTime::now())
        {
            // Old, but genuine: a mirror that stopped following the archive still works.
            self.progress.warn(&format!(
                "{url} is older than the archive wants it to be used; is the mirror up to date?"
            ));
        }
        Ok(release)
    }
}
