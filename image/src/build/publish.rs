//! Puts a finished image in the place of the previous one.
//!
//! Files carry their digest in their name, so the new ones lie beside those in use. The rename of
//! the manifest is the change; files of the previous image are kept until the next one, for
//! whoever has read the old manifest and not yet opened its files.

use super::artefact::Artefact;
use super::files::{self, FileError, failed};
use crate::{Arch, Digest, Entry, FORMAT, Image, MANIFEST, Manifest};
use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io;
use std::path::Path;

/// One finished part of an image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Part {
    pub artefact: Artefact,
    pub made_from: Vec<String>,
}

/// All parts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Parts {
    pub kernel: Part,
    pub initramfs: Part,
    pub rootfs: Part,
}

/// Beginnings and endings of the files' names; between them is the digest.
const NAMES: [(&str, &str); 3] = [
    ("Image-", ""),
    ("initramfs-", ".cpio"),
    ("rootfs-", ".squashfs"),
];

/// Why an image cannot be put in its place.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PublishError {
    /// The file system refused.
    #[error(transparent)]
    File(#[from] FileError),
    /// A kept result changed while it was copied.
    #[error("a part of the image changed while it was copied: {found} in place of {expected}")]
    Changed {
        /// What it was.
        expected: Digest,
        /// What was copied.
        found: Digest,
    },
    /// The manifest cannot be written as JSON.
    #[error("the manifest cannot be written")]
    Manifest(#[from] serde_json::Error),
}

/// Copies the parts into `directory`, then exchanges the manifest.
pub(crate) fn publish(directory: &Path, arch: Arch, parts: &Parts) -> Result<(), PublishError> {
    let previous = Image::open(directory).ok();
    let [kernel, initramfs, rootfs] = NAMES;
    let manifest = Manifest {
        format: FORMAT,
        arch,
        kernel: place(directory, kernel, &parts.kernel)?,
        initramfs: place(directory, initramfs, &parts.initramfs)?,
        rootfs: place(directory, rootfs, &parts.rootfs)?,
    };
    files::write_bytes(&directory.join(MANIFEST), manifest.to_json()?.as_bytes())?;
    let mut used: BTreeSet<String> = names(&manifest);
    used.extend(previous.iter().flat_map(|image| names(image.manifest())));
    Ok(remove_others(directory, &used)?)
}

fn names(manifest: &Manifest) -> BTreeSet<String> {
    manifest.entries().map(|entry| entry.file.clone()).into()
}

fn place(
    directory: &Path,
    (prefix, suffix): (&str, &str),
    part: &Part,
) -> Result<Entry, PublishError> {
    let Artefact {
        path: source,
        sha256,
        size,
    } = &part.artefact;
    let file = format!("{prefix}{}{suffix}", sha256.short());
    let path = directory.join(&file);
    let is_there = Digest::of_file(&path).is_ok_and(|(found, _)| found == *sha256);
    if !is_there {
        files::write_atomically(&path, |target| {
            let mut reader = File::open(source).map_err(failed("read", source))?;
            io::copy(&mut reader, target).map_err(failed("write", &path))?;
            // The copy is what counts, so it is what is measured.
            io::Seek::rewind(target).map_err(failed("read", &path))?;
            let (found, _) = Digest::of_reader(target).map_err(failed("read", &path))?;
            match found == *sha256 {
                true => Ok(()),
                false => Err(PublishError::Changed {
                    expected: *sha256,
                    found,
                }),
            }
        })?;
    }
    Ok(Entry {
        file,
        size: *size,
        sha256: *sha256,
        made_from: part.made_from.clone(),
    })
}

/// Removes files that are named like an image's and are not used.
fn remove_others(directory: &Path, used: &BTreeSet<String>) -> Result<(), FileError> {
    let entries = fs::read_dir(directory).map_err(failed("read", directory))?;
    for entry in entries {
        let entry = entry.map_err(failed("read", directory))?;
        let name = entry.file_name().to_string_lossy().into_owned();
        let is_ours = NAMES.iter().any(|(prefix, suffix)| {
            let digest = name
                .strip_prefix(prefix)
                .and_then(|name| name.strip_suffix(suffix));
            digest.is_some_and(|it| it.len() == 16 && it.bytes().all(|c| c.is_ascii_hexdigit()))
        });
        if is_ours && !used.contains(&name) {
            fs::remove_file(entry.path()).map_err(failed("remove", &entry.path()))?;
        }
    }
    Ok(())
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// Puts some image into `directory`.
    pub(crate) fn publish_sample(directory: &Path, folder: &Path) {
        publish(directory, Arch::Aarch64, &parts(folder, "0")).unwrap();
    }

    fn part(folder: &Path, text: &str) -> Part {
        let path = folder.join(text);
        fs::write(&path, text).unwrap();
        let sha256 = Digest::of(text.as_bytes());
        let size = text.len().try_into().unwrap();
        Part {
            artefact: Artefact { path, sha256, size },
            made_from: vec!["a test".to_owned()],
        }
    }

    fn parts(folder: &Path, version: &str) -> Parts {
        let part = |kind: &str| part(folder, &format!("{kind}{version}"));
        Parts {
            kernel: part("k"),
            initramfs: part("i"),
            rootfs: part("r"),
        }
    }

    fn count(folder: &Path) -> usize {
        fs::read_dir(folder).unwrap().count()
    }

    #[test]
    fn one_previous_image_stays_whole() {
        let folder = tempfile::tempdir().unwrap();
        let (from, to) = (folder.path(), folder.path().join("image"));
        let mut opened = Vec::new();
        for version in ["1", "2", "3"] {
            publish(&to, Arch::Aarch64, &parts(from, version)).unwrap();
            opened.push(Image::open(&to).unwrap());
        }
        let verified: Vec<bool> = opened.iter().map(|image| image.verify().is_ok()).collect();
        assert_eq!(verified, [false, true, true]);
        assert_eq!(count(&to), 7);
    }

    #[test]
    fn the_same_image_changes_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let to = folder.path().join("image");
        for _ in 0..2 {
            publish(&to, Arch::Aarch64, &parts(folder.path(), "1")).unwrap();
        }
        Image::open(&to).unwrap().verify().unwrap();
        assert_eq!(count(&to), 4);
    }

    #[test]
    fn a_wrong_digest_leaves_the_previous_image() {
        let folder = tempfile::tempdir().unwrap();
        let to = folder.path().join("image");
        publish(&to, Arch::Aarch64, &parts(folder.path(), "1")).unwrap();
        let before = Image::open(&to).unwrap();
        let mut bad = parts(folder.path(), "2");
        bad.rootfs.artefact.sha256 = Digest::of(b"other");
        let error = publish(&to, Arch::Aarch64, &bad).unwrap_err();
        assert!(matches!(error, PublishError::Changed { .. }));
        let after = Image::open(&to).unwrap();
        assert_eq!(after, before);
        after.verify().unwrap();
    }

    #[test]
    fn other_files_are_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        let to = folder.path().join("image");
        fs::create_dir(&to).unwrap();
        for name in ["notes", "Image-mine", "rootfs-0123456789abcdef.squashfs"] {
            fs::write(to.join(name), "x").unwrap();
        }
        publish(&to, Arch::Aarch64, &parts(folder.path(), "1")).unwrap();
        assert_eq!(count(&to), 6);
    }
}
