//! What a suite's `InRelease` says: the digests of its indices. The text has been verified before.

use crate::Digest;
use deb822_fast::Deb822;
use std::collections::HashMap;
use std::time::SystemTime;

/// The part of a `Release` file that matters here.
#[derive(Debug)]
pub(crate) struct Release {
    /// Whether indices can be had under their digest, which never race with a mirror's update.
    pub by_hash: bool,
    /// When the archive wants this text to be forgotten.
    pub valid_until: Option<SystemTime>,
    files: HashMap<String, (Digest, u64)>,
}

/// Why a `Release` file is of no use.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ReleaseError {
    /// It is not of the form of one.
    #[error("it is not of the form of a Release file")]
    Form,
    /// It is another suite's, though validly signed.
    #[error("it is of the suite `{found}` where `{wanted}` was asked for")]
    Suite {
        /// What was asked for.
        wanted: String,
        /// What it says of itself.
        found: String,
    },
    /// It does not list an index.
    #[error("it does not list {0}")]
    NotListed(String),
}

impl Release {
    /// Reads the text, which has to be that of `suite`.
    pub(crate) fn parse(text: &str, suite: &str) -> Result<Self, ReleaseError> {
        let parsed: Deb822 = text.parse().map_err(|_form| ReleaseError::Form)?;
        let fields = parsed.iter().next().ok_or(ReleaseError::Form)?;
        let field = |name: &str| fields.get(name).unwrap_or_default().trim();
        if ![field("Codename"), field("Suite")].contains(&suite) {
            let (wanted, found) = (suite.to_owned(), field("Codename").to_owned());
            return Err(ReleaseError::Suite { wanted, found });
        }
        let listed = |line: &str| {
            let mut words = line.split_whitespace();
            let (digest, size, path) = (words.next()?, words.next()?, words.next()?);
            Some((path.to_owned(), (digest.parse().ok()?, size.parse().ok()?)))
        };
        Ok(Self {
            by_hash: field("Acquire-By-Hash") == "yes",
            // The same form as HTTP's dates but for the name of the zone.
            valid_until: httpdate::parse_http_date(&field("Valid-Until").replace("UTC", "GMT"))
                .ok(),
            files: field("SHA256").lines().filter_map(listed).collect(),
        })
    }

    /// Digest and length of an index.
    pub(crate) fn index(&self, path: &str) -> Result<(Digest, u64), ReleaseError> {
        self.files
            .get(path)
            .copied()
            .ok_or_else(|| ReleaseError::NotListed(path.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "\
Origin: Debian
Suite: oldstable-security
Codename: bookworm-security
Date: Wed, 18 Nov 2026 22:17:41 UTC
Valid-Until: Wed, 25 Nov 2026 22:17:41 UTC
Acquire-By-Hash: yes
MD5Sum:
 d41d8cd98f00b204e9800998ecf8427e 0 main/binary-arm64/Packages
SHA256:
 ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad 3 main/binary-arm64/Packages.xz
 nonsense
";

    #[test]
    fn digests_are_found_by_path() {
        let release = Release::parse(TEXT, "bookworm-security").unwrap();
        assert!(release.by_hash);
        assert!(release.valid_until.is_some());
        let abc = (Digest::of(b"abc"), 3);
        assert_eq!(release.index("main/binary-arm64/Packages.xz").unwrap(), abc);
        assert!(matches!(
            release.index("main/binary-arm64/Packages"),
            Err(ReleaseError::NotListed(_))
        ));
    }

    #[test]
    fn another_suite_is_refused() {
        let error = Release::parse(TEXT, "bookworm").unwrap_err();
        assert!(matches!(error, ReleaseError::Suite { found, .. } if found == "bookworm-security"));
        assert!(Release::parse("", "bookworm").is_err());
    }
}
