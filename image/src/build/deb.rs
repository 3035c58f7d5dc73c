//! Unpacking: `.deb` packages, `.xz` and `.gz` streams, tar archives.
//!
//! The digests of packages are checked before they come here. Their contents are handled with care
//! all the same: no path leaves the place it is unpacked to, and what ends early is an error.

use flate2::read::MultiGzDecoder;
use liblzma::read::XzDecoder;
use std::fs::File;
use std::io::{self, BufReader, Read};
use std::path::{Path, PathBuf};

/// Why a package cannot be unpacked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DebError {
    /// The file cannot be read, ends early or is damaged.
    #[error("the package {} is damaged or cut short", package.display())]
    Damaged {
        /// The package.
        package: PathBuf,
        /// What was met.
        source: io::Error,
    },
    /// The package has no part of this kind.
    #[error("the package {} has no {part}", package.display())]
    NoPart {
        /// The package.
        package: PathBuf,
        /// Which part.
        part: String,
    },
    /// The package is compressed in an unknown way.
    #[error("the package {} has a part `{part}`, compressed in an unknown way", package.display())]
    Compression {
        /// The package.
        package: PathBuf,
        /// The part.
        part: String,
    },
    /// A path of the package would leave the place that it is unpacked to.
    #[error("the package {} holds the path `{path}`, which is not allowed", package.display())]
    Path {
        /// The package.
        package: PathBuf,
        /// The path.
        path: String,
    },
}

/// What an entry of an archive is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Content {
    /// A folder.
    Folder,
    /// A regular file; its bytes are read from the reader.
    File,
    /// A symbolic link to any text.
    Symlink(String),
    /// Another name of the file at this path.
    Hardlink(String),
}

/// An entry of an archive, its path checked.
#[derive(Debug)]
pub(crate) struct Member {
    /// Relative, without `.` and `..`; empty for the root itself.
    pub path: String,
    /// Permissions.
    pub mode: u32,
    /// What it is.
    pub content: Content,
}

/// Calls `visit` with each file, folder and link of the package.
pub(crate) fn visit<E: From<DebError>>(
    package: &Path,
    mut visit: impl FnMut(Member, &mut dyn Read) -> Result<(), E>,
) -> Result<(), E> {
    let damaged = |source| DebError::Damaged {
        package: package.to_owned(),
        source,
    };
    let file = File::open(package).map_err(damaged)?;
    let mut archive = ar::Archive::new(BufReader::new(file));
    while let Some(part) = archive.next_entry() {
        let part = part.map_err(damaged)?;
        let name = String::from_utf8_lossy(part.header().identifier()).into_owned();
        if !name.starts_with("data.tar") {
            continue;
        }
        let reader = decompressor(&name, part).ok_or_else(|| DebError::Compression {
            package: package.to_owned(),
            part: name.clone(),
        })?;
        return visit_tar(package, reader, &mut visit);
    }
    let part = "data.tar".to_owned();
    Err(DebError::NoPart {
        package: package.to_owned(),
        part,
    }
    .into())
}

/// A reader of what is compressed, by the ending of its name.
pub(crate) fn decompressor<'a>(name: &str, data: impl Read + 'a) -> Option<Box<dyn Read + 'a>> {
    match name.rsplit('.').next() {
        Some("xz") => Some(Box::new(XzDecoder::new(BufReader::new(data)))),
        Some("gz") => Some(Box::new(MultiGzDecoder::new(BufReader::new(data)))),
        Some("tar" | "ko") => Some(Box::new(data)),
        _ => None,
    }
}

fn visit_tar<E: From<DebError>>(
    package: &Path,
    reader: impl Read,
    visit: &mut impl FnMut(Member, &mut dyn Read) -> Result<(), E>,
) -> Result<(), E> {
    let damaged = |source| DebError::Damaged {
        package: package.to_owned(),
        source,
    };
    let mut archive = tar::Archive::new(reader);
    for entry in archive.entries().map_err(damaged)? {
        let mut entry = entry.map_err(damaged)?;
        let Some(member) = member(package, &entry)? else {
            continue;
        };
        visit(member, &mut entry)?;
    }
    // Whatever follows the archive's end has to decompress too: this is where a stream that was
    // cut is noticed.
    io::copy(&mut archive.into_inner(), &mut io::sink()).map_err(damaged)?;
    Ok(())
}

/// Unpacks an archive below the folder `to`, but for the files that `take` refuses. No file is
/// written outside of `to`, not through a link of the archive either.
pub(crate) fn unpack_tar<E: From<DebError>>(
    package: &Path,
    reader: impl Read,
    to: &Path,
    mut take: impl FnMut(&str) -> bool,
) -> Result<(), E> {
    let damaged = |source| DebError::Damaged {
        package: package.to_owned(),
        source,
    };
    let mut archive = tar::Archive::new(reader);
    for entry in archive.entries().map_err(damaged)? {
        let mut entry = entry.map_err(damaged)?;
        let path = entry.path_bytes();
        let allowed = safe_path(&path).ok_or_else(|| forbidden(package, &path))?;
        if take(&allowed) && !entry.unpack_in(to).map_err(damaged)? {
            return Err(forbidden(package, allowed.as_bytes()).into());
        }
    }
    io::copy(&mut archive.into_inner(), &mut io::sink()).map_err(damaged)?;
    Ok(())
}

fn forbidden(package: &Path, path: &[u8]) -> DebError {
    let path = String::from_utf8_lossy(path).into_owned();
    DebError::Path {
        package: package.to_owned(),
        path,
    }
}

/// `None` for what a root file system has no use for: devices and the like.
fn member(package: &Path, entry: &tar::Entry<'_, impl Read>) -> Result<Option<Member>, DebError> {
    let damaged = |source| DebError::Damaged {
        package: package.to_owned(),
        source,
    };
    let forbidden = |path: &[u8]| forbidden(package, path);
    let path = entry.path_bytes();
    let path = safe_path(&path).ok_or_else(|| forbidden(&path))?;
    let target = entry.link_name_bytes();
    let target = target.as_deref().unwrap_or_default();
    let content = match entry.header().entry_type() {
        tar::EntryType::Directory => Content::Folder,
        tar::EntryType::Regular | tar::EntryType::Continuous => Content::File,
        tar::EntryType::Link => {
            Content::Hardlink(safe_path(target).ok_or_else(|| forbidden(target))?)
        }
        tar::EntryType::Symlink => {
            let target = String::from_utf8(target.to_vec());
            Content::Symlink(target.map_err(|error| forbidden(error.as_bytes()))?)
        }
        _ => return Ok(None),
    };
    let mode = entry.header().mode().map_err(damaged)?;
    Ok(Some(Member {
        path,
        mode,
        content,
    }))
}

/// The path without `.` and empty parts; `None` for one that is absolute, goes up or is no text.
fn safe_path(path: &[u8]) -> Option<String> {
    let path = std::str::from_utf8(path).ok()?;
    if path.starts_with('/') || path.contains('\0') {
        return None;
    }
    let parts: Vec<&str> = path
        .split('/')
        .filter(|part| !part.is_empty() && *part != ".")
        .collect();
    (!parts.contains(&"..")).then(|| parts.join("/"))
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use liblzma::write::XzEncoder;
    use std::io::Write as _;

    /// A tar archive; paths go in as they are.
    pub(crate) fn tar_of(files: &[(&str, tar::EntryType, &str)]) -> Vec<u8> {
        let mut builder = tar::Builder::new(Vec::new());
        for &(path, kind, content) in files {
            let mut header = tar::Header::new_gnu();
            // Written by hand: the crate refuses to build what is tested here.
            header.as_mut_bytes()[..path.len()].copy_from_slice(path.as_bytes());
            header.set_entry_type(kind);
            header.set_mode(0o755);
            let data = if kind == Regular { content } else { "" };
            if data.is_empty() && !content.is_empty() {
                header.set_link_name_literal(content).unwrap();
            }
            header.set_size(data.len().try_into().unwrap());
            header.set_cksum();
            builder.append(&header, data.as_bytes()).unwrap();
        }
        builder.into_inner().unwrap()
    }

    /// A package with these files.
    pub(crate) fn deb_of(files: &[(&str, tar::EntryType, &str)]) -> Vec<u8> {
        let mut data = XzEncoder::new(Vec::new(), 1);
        data.write_all(&tar_of(files)).unwrap();
        let data = data.finish().unwrap();
        let mut deb = ar::Builder::new(Vec::new());
        for (name, bytes) in [("debian-binary", &b"2.0\n"[..]), ("data.tar.xz", &data)] {
            let len = bytes.len().try_into().unwrap();
            deb.append(&ar::Header::new(name.as_bytes().to_vec(), len), bytes)
                .unwrap();
        }
        deb.into_inner().unwrap()
    }

    fn paths(deb: &[u8]) -> Result<Vec<(String, Content)>, DebError> {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), deb).unwrap();
        let mut paths = Vec::new();
        visit(file.path(), |member, reader| {
            let mut bytes = Vec::new();
            reader
                .read_to_end(&mut bytes)
                .map_err(|source| DebError::Damaged {
                    package: "".into(),
                    source,
                })?;
            paths.push((member.path, member.content));
            Ok::<(), DebError>(())
        })?;
        Ok(paths)
    }

    use tar::EntryType::{Directory, Link, Regular, Symlink};

    #[test]
    fn unpacking_does_not_follow_links_out() {
        let folder = tempfile::tempdir().unwrap();
        let (inside, outside) = (folder.path().join("in"), folder.path().join("out"));
        std::fs::create_dir(&inside).unwrap();
        std::fs::create_dir(&outside).unwrap();
        let target = outside.to_str().unwrap();
        let tar = tar_of(&[("link", Symlink, target), ("link/file", Regular, "x")]);
        let result = unpack_tar::<DebError>(&inside, &tar[..], &inside, |_| true);
        assert!(result.is_err());
        assert_eq!(std::fs::read_dir(&outside).unwrap().count(), 0);
        let tar = tar_of(&[("../file", Regular, "x")]);
        assert!(unpack_tar::<DebError>(&inside, &tar[..], &inside, |_| true).is_err());
    }

    #[test]
    fn members_are_visited_with_clean_paths() {
        let deb = deb_of(&[
            ("./", Directory, ""),
            ("./usr/bin/a", Regular, "program"),
            ("./usr/bin/b", Link, "./usr/bin/a"),
            ("./bin", Symlink, "/../usr/bin"),
        ]);
        let text = str::to_owned;
        assert_eq!(
            paths(&deb).unwrap(),
            [
                (text(""), Content::Folder),
                (text("usr/bin/a"), Content::File),
                (text("usr/bin/b"), Content::Hardlink(text("usr/bin/a"))),
                (text("bin"), Content::Symlink(text("/../usr/bin"))),
            ]
        );
    }

    #[test]
    fn paths_cannot_leave_the_root() {
        for path in ["../x", "/etc/passwd", "./a/../../x", "a/..", ".."] {
            let error = paths(&deb_of(&[(path, Regular, "x")])).unwrap_err();
            assert!(matches!(error, DebError::Path { path: found, .. } if found == path));
            let error = paths(&deb_of(&[("a", Link, path)])).unwrap_err();
            assert!(matches!(error, DebError::Path { .. }), "{path}");
        }
    }

    #[test]
    fn a_package_cut_short_anywhere_is_an_error() {
        let content: String = (0..20_000_u32).map(|number| format!("{number} ")).collect();
        let deb = deb_of(&[("a", Regular, &content), ("b", Regular, &content)]);
        for end in (0..deb.len() - 1).step_by(61) {
            assert!(paths(&deb[..end]).is_err(), "{end} of {}", deb.len());
        }
        assert!(paths(b"not a package").is_err());
    }

    #[test]
    fn a_flipped_byte_is_an_error() {
        let mut deb = deb_of(&[("a", Regular, &"text".repeat(5000))]);
        let middle = deb.len() - 40;
        deb[middle] ^= 1;
        assert!(matches!(paths(&deb), Err(DebError::Damaged { .. })));
    }
}
