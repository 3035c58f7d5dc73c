//! A tree of files in memory, and how it becomes squashfs or cpio.
//!
//! The same tree gives the same bytes: entries are sorted, all belong to root, all times are zero.

use backhand::compression::{CompressionOptions, Compressor, Lz4};
use backhand::{FilesystemCompressor, FilesystemWriter, NodeHeader};
use cpio::newc;
use std::collections::BTreeMap;
use std::io::{self, Cursor, Read, Seek, Write};
use std::sync::Arc;

/// One entry of a tree.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Node {
    /// A folder.
    Folder { mode: u16 },
    /// A regular file.
    File { mode: u16, data: Arc<[u8]> },
    /// A symbolic link.
    Symlink { target: String },
    /// A character device.
    CharDevice { mode: u16, major: u32, minor: u32 },
}

/// Why a tree cannot be built or written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TreeError {
    /// Two entries claim one path, or something lies below a path that is no folder.
    #[error("two packages disagree about `{0}`")]
    Conflict(String),
    /// A hard link names a file that does not exist.
    #[error("`{path}` is another name of `{target}`, which does not exist")]
    Dangling {
        /// The link.
        path: String,
        /// What it names.
        target: String,
    },
    /// A path is missing that has to be there.
    #[error("the root file system lacks `{0}`")]
    Missing(&'static str),
    /// squashfs cannot hold the tree.
    #[error("the squashfs image cannot be written")]
    Squashfs(#[source] Box<backhand::BackhandError>),
    /// The output cannot be written.
    #[error("the archive cannot be written")]
    Write(#[from] io::Error),
}

/// Files by path. Every parent of an entry is a folder of the tree.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Tree {
    nodes: BTreeMap<String, Node>,
}

impl Tree {
    /// Adds an entry, and folders above it where they are missing. A folder may come twice.
    pub(crate) fn insert(&mut self, path: &str, node: Node) -> Result<(), TreeError> {
        for (end, _) in path.match_indices('/') {
            let parent = path.get(..end).unwrap_or_default();
            match self.nodes.get(parent) {
                Some(Node::Folder { .. }) => {}
                Some(_) => return Err(TreeError::Conflict(path.to_owned())),
                None => {
                    self.nodes
                        .insert(parent.to_owned(), Node::Folder { mode: 0o755 });
                }
            }
        }
        match (self.nodes.get(path), &node) {
            (None, _) => {
                self.nodes.insert(path.to_owned(), node);
                Ok(())
            }
            (Some(Node::Folder { .. }), Node::Folder { .. }) => Ok(()),
            (Some(_), _) => Err(TreeError::Conflict(path.to_owned())),
        }
    }

    /// Adds an empty folder.
    pub(crate) fn folder(&mut self, path: &str, mode: u16) -> Result<(), TreeError> {
        self.insert(path, Node::Folder { mode })
    }

    /// Adds a file.
    pub(crate) fn file(&mut self, path: &str, mode: u16, data: &[u8]) -> Result<(), TreeError> {
        self.insert(
            path,
            Node::File {
                mode,
                data: data.into(),
            },
        )
    }

    /// Adds a symbolic link.
    pub(crate) fn symlink(&mut self, path: &str, target: &str) -> Result<(), TreeError> {
        self.insert(
            path,
            Node::Symlink {
                target: target.to_owned(),
            },
        )
    }

    /// The entry at a path; links are not followed.
    pub(crate) fn get(&self, path: &str) -> Option<&Node> {
        self.nodes.get(path)
    }

    /// Removes folders that nothing lies in, but for those in `keep`.
    pub(crate) fn prune(&mut self, keep: &[&str]) {
        let mut used: std::collections::BTreeSet<String> =
            keep.iter().map(|&path| path.to_owned()).collect();
        // Children sort behind their folders, so that walking backwards meets them first.
        let paths: Vec<String> = self.nodes.keys().rev().cloned().collect();
        for path in paths {
            let is_folder = matches!(self.nodes.get(&path), Some(Node::Folder { .. }));
            if is_folder && !used.contains(&path) {
                self.nodes.remove(&path);
            } else if let Some((parent, _)) = path.rsplit_once('/') {
                used.insert(parent.to_owned());
            }
        }
    }

    /// Writes the tree as squashfs, compressed with LZ4: a third more bytes than with zstd, but the
    /// first start of a program in the guest takes half the time.
    pub(crate) fn write_squashfs(&self, output: impl Write + Seek) -> Result<(), TreeError> {
        let failed = |error| TreeError::Squashfs(Box::new(error));
        // The kernel demands that these are written down.
        let options = CompressionOptions::Lz4(Lz4 {
            version: 1,
            flags: 0,
        });
        let compressor = FilesystemCompressor::new(Compressor::Lz4, Some(options));
        let mut writer = FilesystemWriter::default();
        writer.set_compressor(compressor.map_err(failed)?);
        writer.set_time(0);
        writer.set_root_mode(0o755);
        writer.set_only_root_id();
        let header = |permissions| NodeHeader {
            permissions,
            uid: 0,
            gid: 0,
            mtime: 0,
        };
        for (path, node) in &self.nodes {
            match node {
                Node::Folder { mode } => writer.push_dir(path, header(*mode)),
                Node::File { mode, data } => {
                    writer.push_file(Cursor::new(Arc::clone(data)), path, header(*mode))
                }
                Node::Symlink { target } => writer.push_symlink(target, path, header(0o777)),
                Node::CharDevice { mode, major, minor } => {
                    writer.push_char_device(major << 8 | minor, path, header(*mode))
                }
            }
            .map_err(failed)?;
        }
        writer.write(output).map_err(failed)?;
        Ok(())
    }

    /// Writes the tree as a `newc` archive, as the kernel unpacks it.
    pub(crate) fn write_cpio(&self, mut output: impl Write) -> Result<(), TreeError> {
        for (inode, (path, node)) in (1..).zip(&self.nodes) {
            let entry = newc::Builder::new(path).ino(inode);
            let (entry, data) = match node {
                Node::Folder { mode } => {
                    (kind(entry, *mode, newc::ModeFileType::Directory), &[][..])
                }
                Node::File { mode, data } => {
                    (kind(entry, *mode, newc::ModeFileType::Regular), &data[..])
                }
                Node::Symlink { target } => (
                    kind(entry, 0o777, newc::ModeFileType::Symlink),
                    target.as_bytes(),
                ),
                Node::CharDevice { mode, major, minor } => {
                    let entry = entry.rdev_major(*major).rdev_minor(*minor);
                    (kind(entry, *mode, newc::ModeFileType::Char), &[][..])
                }
            };
            let size = u32::try_from(data.len()).map_err(io::Error::other)?;
            let mut writer = entry.write(&mut output, size);
            writer.write_all(data)?;
            writer.finish()?;
        }
        newc::trailer(output)?;
        Ok(())
    }
}

fn kind(entry: newc::Builder, mode: u16, kind: newc::ModeFileType) -> newc::Builder {
    entry.mode(u32::from(mode)).set_mode_file_type(kind)
}

/// All bytes of a reader.
pub(crate) fn read_all(reader: &mut dyn Read) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    reader.read_to_end(&mut bytes)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Tree {
        let mut tree = Tree::default();
        tree.file("usr/bin/program", 0o755, &[7; 300_000]).unwrap();
        tree.file("etc/text", 0o644, b"text").unwrap();
        tree.file("etc/empty", 0o600, b"").unwrap();
        tree.symlink("bin", "usr/bin").unwrap();
        tree.folder("tmp", 0o1777).unwrap();
        tree.insert(
            "dev/console",
            Node::CharDevice {
                mode: 0o600,
                major: 5,
                minor: 1,
            },
        )
        .unwrap();
        tree
    }

    fn squashfs(tree: &Tree) -> Vec<u8> {
        let mut bytes = Cursor::new(Vec::new());
        tree.write_squashfs(&mut bytes).unwrap();
        bytes.into_inner()
    }

    fn cpio(tree: &Tree) -> Vec<u8> {
        let mut bytes = Vec::new();
        tree.write_cpio(&mut bytes).unwrap();
        bytes
    }

    #[test]
    fn the_order_of_insertion_does_not_matter() {
        let mut tree = Tree::default();
        for (path, node) in sample().nodes.into_iter().rev() {
            if !matches!(node, Node::Folder { mode: 0o755 }) {
                tree.insert(&path, node).unwrap();
            }
        }
        assert_eq!(squashfs(&tree), squashfs(&sample()));
        assert_eq!(cpio(&tree), cpio(&sample()));
    }

    #[test]
    fn squashfs_holds_what_was_put_in() {
        let bytes = squashfs(&sample());
        let reader = backhand::FilesystemReader::from_reader(Cursor::new(bytes)).unwrap();
        let found: Vec<_> = reader
            .files()
            .map(|node| (node.fullpath.display().to_string(), node.header.permissions))
            .collect();
        let expected: Vec<_> = [
            ("/", 0o755),
            ("/bin", 0o777),
            ("/dev", 0o755),
            ("/dev/console", 0o600),
            ("/etc", 0o755),
            ("/etc/empty", 0o600),
            ("/etc/text", 0o644),
            ("/tmp", 0o1777),
            ("/usr", 0o755),
            ("/usr/bin", 0o755),
            ("/usr/bin/program", 0o755),
        ]
        .map(|(path, mode)| (path.to_owned(), mode))
        .into();
        assert_eq!(found, expected);
    }

    #[test]
    fn cpio_holds_what_was_put_in() {
        let bytes = cpio(&sample());
        let mut rest = &bytes[..];
        let mut found = Vec::new();
        loop {
            let entry = newc::Reader::new(rest).unwrap();
            let header = entry.entry().clone();
            if header.is_trailer() {
                break;
            }
            found.push((header.name().to_owned(), header.mode(), header.file_size()));
            rest = entry.finish().unwrap();
        }
        assert!(found.contains(&("dev/console".to_owned(), 0o020_600, 0)));
        assert!(found.contains(&("usr/bin/program".to_owned(), 0o100_755, 300_000)));
        assert!(found.contains(&("bin".to_owned(), 0o120_777, 7)));
        assert_eq!(found.len(), 10);
    }

    #[test]
    fn one_path_holds_one_thing() {
        let mut tree = sample();
        assert!(matches!(
            tree.file("etc/text", 0o644, b""),
            Err(TreeError::Conflict(_))
        ));
        assert!(matches!(
            tree.file("bin/x", 0o644, b""),
            Err(TreeError::Conflict(_))
        ));
        assert!(matches!(
            tree.folder("etc/text", 0o755),
            Err(TreeError::Conflict(_))
        ));
        tree.folder("etc", 0o700).unwrap();
        assert_eq!(tree.get("etc"), Some(&Node::Folder { mode: 0o755 }));
    }

    #[test]
    fn empty_folders_go_but_for_those_named() {
        let mut tree = sample();
        tree.folder("a/b/c", 0o755).unwrap();
        tree.folder("usr/share", 0o755).unwrap();
        tree.prune(&["tmp"]);
        assert_eq!(tree, sample());
    }
}
