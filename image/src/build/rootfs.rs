//! The root file system: files of packages, without what no program needs, and the few things that
//! the packages' own scripts would have made. No script is run.

use super::deb::{self, Content, DebError, Member};
use super::tree::{Node, Tree, TreeError, read_all};
use super::wanted::Wanted;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// What this module does is an input of the image: whoever changes it changes the image.
pub(crate) const RECIPE: [&str; 3] = [
    include_str!("rootfs.rs"),
    include_str!("tree.rs"),
    include_str!("deb.rs"),
];

/// `/bin` and the like are links into `/usr`; packages of older releases still name them.
const MERGED: [&str; 3] = ["bin", "sbin", "lib"];

/// Empty folders that something is mounted on, and their modes.
const MOUNT_POINTS: [(&str, u16); 10] = [
    ("dev", 0o755),
    ("home", 0o755),
    ("mnt", 0o755),
    ("proc", 0o555),
    ("root", 0o700),
    ("run", 0o755),
    ("sys", 0o555),
    ("tmp", 0o1777),
    ("var/tmp", 0o1777),
    ("workspace", 0o755),
];

/// Files that installation scripts or an administrator would have written.
const FILES: [(&str, &str); 6] = [
    (
        "etc/passwd",
        "root:x:0:0:root:/root:/bin/sh\nsandbox:x:1000:1000::/workspace:/bin/sh\nnobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin\n",
    ),
    (
        "etc/group",
        "root:x:0:\ntty:x:5:\nsandbox:x:1000:\nnogroup:x:65534:\n",
    ),
    (
        "etc/nsswitch.conf",
        "passwd: files\ngroup: files\nhosts: files dns\nservices: files\nprotocols: files\n",
    ),
    ("etc/hosts", "127.0.0.1 localhost\n"),
    ("etc/hostname", "ringfence\n"),
    ("etc/shells", "/bin/sh\n/bin/bash\n"),
];

/// Links that `update-alternatives` or a script would have made; those already there stay.
const LINKS: [(&str, &str); 4] = [
    ("usr/bin/awk", "mawk"),
    ("usr/bin/sh", "dash"),
    ("usr/bin/which", "which.debianutils"),
    ("etc/mtab", "../proc/self/mounts"),
];

/// What has to be there at the end.
const REQUIRED: [&str; 6] = [
    "usr/bin/python3",
    "usr/bin/sh",
    "usr/bin/bash",
    "usr/bin/ls",
    "usr/bin/grep",
    "usr/lib/os-release",
];

/// What has to be there of the lab's tools.
const REQUIRED_TOOLS: [&str; 1] = ["usr/bin/qemu-system-aarch64"];

/// Why the root file system cannot be made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RootfsError {
    /// A package cannot be unpacked.
    #[error(transparent)]
    Package(#[from] DebError),
    /// The files do not fit together.
    #[error(transparent)]
    Tree(#[from] TreeError),
}

/// A package to be unpacked.
#[derive(Debug)]
pub(crate) struct Source {
    pub name: String,
    pub path: PathBuf,
}

/// Puts the packages of the lab's tools together. What they need of the C library is the root file
/// system's.
pub(crate) fn assemble_tools(packages: &[Source], wanted: &Wanted) -> Result<Tree, RootfsError> {
    let mut tree = unpacked(packages, wanted)?;
    tree.prune(&[]);
    check(tree, &REQUIRED_TOOLS)
}

/// Puts the packages together.
pub(crate) fn assemble(packages: &[Source], wanted: &Wanted) -> Result<Tree, RootfsError> {
    let mut tree = unpacked(packages, wanted)?;
    for (path, text) in FILES {
        if tree.get(path).is_none() {
            tree.file(path, 0o644, text.as_bytes())?;
        }
    }
    for (path, target) in LINKS {
        if tree.get(path).is_none() {
            tree.symlink(path, target)?;
        }
    }
    tree.prune(&[]);
    for (path, mode) in MOUNT_POINTS {
        tree.folder(path, mode)?;
    }
    check(tree, &REQUIRED)
}

/// The tree, if all that is required is there.
fn check(tree: Tree, required: &[&'static str]) -> Result<Tree, RootfsError> {
    match required.iter().find(|path| tree.get(path).is_none()) {
        Some(missing) => Err(TreeError::Missing(missing).into()),
        None => Ok(tree),
    }
}

/// The files of the packages, and nothing else.
fn unpacked(packages: &[Source], wanted: &Wanted) -> Result<Tree, RootfsError> {
    let mut tree = Tree::default();
    for directory in MERGED {
        tree.symlink(directory, &format!("usr/{directory}"))?;
    }
    for package in packages {
        unpack(&mut tree, package, wanted)?;
    }
    Ok(tree)
}

fn unpack(tree: &mut Tree, package: &Source, wanted: &Wanted) -> Result<(), RootfsError> {
    deb::visit(&package.path, |member, reader| {
        let path = merged(&member.path);
        if path.is_empty() || !wanted.takes(&package.name, &path) {
            return Ok(());
        }
        let node = match node(&package.path, &member, tree, reader)? {
            Some(node) => node,
            None => return Ok(()),
        };
        Ok(tree.insert(&path, node)?)
    })
}

fn node(
    package: &Path,
    member: &Member,
    tree: &Tree,
    reader: &mut dyn std::io::Read,
) -> Result<Option<Node>, RootfsError> {
    // Without the bits that give a program its owner's rights.
    let mode = u16::try_from(member.mode & 0o777).unwrap_or(0o755);
    Ok(Some(match &member.content {
        // `/bin` itself is a link here.
        Content::Folder if MERGED.contains(&member.path.as_str()) => return Ok(None),
        Content::Folder => Node::Folder { mode: 0o755 },
        Content::File => {
            let damaged = |source| DebError::Damaged {
                package: package.to_owned(),
                source,
            };
            Node::File {
                mode,
                data: Arc::from(read_all(reader).map_err(damaged)?),
            }
        }
        Content::Symlink(_) if MERGED.contains(&member.path.as_str()) => return Ok(None),
        Content::Symlink(target) => Node::Symlink {
            target: target.clone(),
        },
        Content::Hardlink(target) => match tree.get(&merged(target)) {
            Some(file @ Node::File { .. }) => file.clone(),
            _ => {
                let (path, target) = (member.path.clone(), target.clone());
                return Err(TreeError::Dangling { path, target }.into());
            }
        },
    }))
}

/// The path below `/usr` of what lies in `/bin`, `/sbin` or `/lib`.
fn merged(path: &str) -> String {
    let first = path.split('/').next().unwrap_or_default();
    if MERGED.contains(&first) {
        format!("usr/{path}")
    } else {
        path.to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::super::deb::tests::deb_of;
    use super::*;
    use tar::EntryType::{Directory, Link, Regular, Symlink};

    /// Two packages that have all that is required, unpacked from files.
    fn packages(folder: &Path) -> Vec<Source> {
        let shell = deb_of(&[
            ("./", Directory, ""),
            ("./bin/", Directory, ""),
            ("./bin/dash", Regular, "dash"),
            ("./bin/sh", Symlink, "dash"),
            ("./bin/bash", Regular, "bash"),
            ("./bin/grep", Regular, "grep"),
            ("./usr/bin/grep2", Link, "./bin/grep"),
            ("./usr/share/doc/", Directory, ""),
            ("./usr/share/doc/readme", Regular, "text"),
            ("./usr/lib/os-release", Regular, "NAME=x"),
        ]);
        let python = deb_of(&[
            ("./usr/bin/python3.11", Regular, "python"),
            ("./usr/bin/python3", Symlink, "python3.11"),
            ("./usr/bin/ls", Regular, "ls"),
            ("./usr/bin/dropped", Regular, "x"),
        ]);
        [("shell", shell), ("python", python)]
            .map(|(name, bytes)| {
                let path = folder.join(name);
                std::fs::write(&path, bytes).unwrap();
                Source {
                    name: name.to_owned(),
                    path,
                }
            })
            .into()
    }

    fn wanted() -> Wanted {
        Wanted {
            drop: ["usr/share/doc".to_owned(), "usr/bin/dropped".to_owned()].into(),
            ..Wanted::default()
        }
    }

    #[test]
    fn packages_become_one_merged_tree() {
        let folder = tempfile::tempdir().unwrap();
        let tree = assemble(&packages(folder.path()), &wanted()).unwrap();
        let link = |target: &str| {
            Some(Node::Symlink {
                target: target.to_owned(),
            })
        };
        assert_eq!(tree.get("bin").cloned(), link("usr/bin"));
        assert_eq!(tree.get("usr/bin/sh").cloned(), link("dash"));
        assert_eq!(tree.get("usr/bin/grep"), tree.get("usr/bin/grep2"));
        assert_eq!(tree.get("tmp"), Some(&Node::Folder { mode: 0o1777 }));
        for path in ["usr/share", "usr/bin/dropped", "bin/dash"] {
            assert_eq!(tree.get(path), None, "{path}");
        }
    }

    #[test]
    fn the_same_packages_give_the_same_bytes() {
        let image = || {
            let folder = tempfile::tempdir().unwrap();
            let tree = assemble(&packages(folder.path()), &wanted()).unwrap();
            let mut bytes = std::io::Cursor::new(Vec::new());
            tree.write_squashfs(&mut bytes).unwrap();
            bytes.into_inner()
        };
        assert_eq!(image(), image());
    }

    #[test]
    fn what_is_required_is_checked() {
        let folder = tempfile::tempdir().unwrap();
        let packages = packages(folder.path());
        let error = assemble(&packages[..1], &wanted()).unwrap_err();
        assert_eq!(
            error.to_string(),
            "the root file system lacks `usr/bin/python3`"
        );
    }
}
