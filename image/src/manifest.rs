//! `manifest.json`: what an image consists of, and what it was made from.

use crate::{Arch, Digest, Error};
use serde::{Deserialize, Serialize};
use std::path::Path;

/// The name of the manifest inside an image's directory.
pub const MANIFEST: &str = "manifest.json";

/// Version of the manifest's format.
pub const FORMAT: u32 = 1;

/// One file of an image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// Its name inside the image's directory; a plain name, never a path.
    pub file: String,
    /// Its length in bytes.
    pub size: u64,
    /// Its digest.
    pub sha256: Digest,
    /// What it was made from, for people: packages with their versions, digests, compilers.
    pub made_from: Vec<String>,
}

/// The description of an image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    /// Version of this format, [`FORMAT`].
    pub format: u32,
    /// Architecture of the guest.
    pub arch: Arch,
    /// The kernel: an uncompressed `Image`.
    pub kernel: Entry,
    /// The initramfs: an uncompressed `newc` archive with the agent as `/init`.
    pub initramfs: Entry,
    /// The read-only root file system: squashfs.
    pub rootfs: Entry,
}

/// The version alone, read first: another format need not have the other fields.
#[derive(Deserialize)]
struct Version {
    format: u32,
}

impl Manifest {
    /// Reads and checks a manifest. `path` is where it came from, for errors.
    ///
    /// # Errors
    /// [`Error::Manifest`], [`Error::Format`] and [`Error::FileName`].
    pub fn parse(text: &[u8], path: &Path) -> Result<Self, Error> {
        let damaged = |source| Error::Manifest {
            path: path.to_owned(),
            source,
        };
        let version: Version = serde_json::from_slice(text).map_err(damaged)?;
        if version.format != FORMAT {
            return Err(Error::Format {
                path: path.to_owned(),
                found: version.format,
            });
        }
        let manifest: Self = serde_json::from_slice(text).map_err(damaged)?;
        for entry in manifest.entries() {
            if !is_plain_name(&entry.file) {
                return Err(Error::FileName {
                    path: path.to_owned(),
                    name: entry.file.clone(),
                });
            }
        }
        Ok(manifest)
    }

    /// The manifest as JSON text with a final line break; the same manifest gives the same bytes.
    ///
    /// # Errors
    /// None that a manifest can cause.
    pub fn to_json(&self) -> serde_json::Result<String> {
        serde_json::to_string_pretty(self).map(|text| text + "\n")
    }

    /// Kernel, initramfs and root file system.
    #[must_use]
    pub const fn entries(&self) -> [&Entry; 3] {
        [&self.kernel, &self.initramfs, &self.rootfs]
    }
}

/// Letters, digits, `.`, `_`, `+` and `-`, not beginning with a dot: no separator, no `..`, nothing
/// that any file system treats in a special way.
fn is_plain_name(name: &str) -> bool {
    !name.is_empty()
        && name.len() <= 255
        && !name.starts_with('.')
        && name
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"._+-".contains(&byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(file: &str) -> Entry {
        Entry {
            file: file.to_owned(),
            size: 3,
            sha256: Digest::of(b"abc"),
            made_from: vec![],
        }
    }

    fn sample(kernel: &str) -> Manifest {
        Manifest {
            format: FORMAT,
            arch: Arch::Aarch64,
            kernel: entry(kernel),
            initramfs: entry("initramfs-1.cpio"),
            rootfs: entry("rootfs-1.squashfs"),
        }
    }

    fn parse(text: &str) -> Result<Manifest, Error> {
        Manifest::parse(text.as_bytes(), Path::new("manifest.json"))
    }

    #[test]
    fn what_is_written_is_read_back() {
        let manifest = sample("Image-0123");
        assert_eq!(parse(&manifest.to_json().unwrap()).unwrap(), manifest);
    }

    #[test]
    fn names_cannot_leave_the_directory() {
        for name in [
            "",
            ".",
            "..",
            "../x",
            "/etc/passwd",
            "a/b",
            "a\\b",
            ".hidden",
            "a\0b",
            "é",
        ] {
            let text = sample(name).to_json().unwrap();
            assert!(
                matches!(parse(&text), Err(Error::FileName { .. })),
                "{name:?}"
            );
        }
        let long = sample(&"a".repeat(256)).to_json().unwrap();
        assert!(matches!(parse(&long), Err(Error::FileName { .. })));
    }

    #[test]
    fn another_format_is_named() {
        assert!(matches!(
            parse(r#"{"format": 7}"#),
            Err(Error::Format { found: 7, .. })
        ));
    }

    #[test]
    fn a_manifest_cut_short_anywhere_is_damaged() {
        let text = sample("Image").to_json().unwrap();
        for end in 0..text.len() - 2 {
            assert!(
                matches!(parse(&text[..end]), Err(Error::Manifest { .. })),
                "{end}"
            );
        }
    }

    #[test]
    fn wrong_kinds_are_damaged() {
        let good = sample("Image").to_json().unwrap();
        for (from, to) in [
            ("\"size\": 3", "\"size\": -3"),
            ("\"size\": 3", "\"size\": 99999999999999999999"),
            ("aarch64", "pdp11"),
            ("\"sha256\": \"ba", "\"sha256\": \"zz"),
            ("\"rootfs\"", "\"root\""),
            ("\"format\": 1", "\"format\": \"1\""),
        ] {
            assert!(good.contains(from));
            let text = good.replacen(from, to, 1);
            assert!(matches!(parse(&text), Err(Error::Manifest { .. })), "{to}");
        }
    }
}
