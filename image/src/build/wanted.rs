//! `initramfs/rootfs.list`: what the image is to be made of; `tests/lab-init/tools.list`: what the
//! lab has besides.

use crate::Digest;
use std::collections::{BTreeMap, BTreeSet};

/// The list of this repository.
const LIST: &str = include_str!("../../../initramfs/rootfs.list");

/// The lab's tools, packages of the same suite.
const TOOLS: &str = include_str!("../../../tests/lab-init/tools.list");

/// What the image is to be made of.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Wanted {
    /// The Debian release.
    pub suite: String,
    /// The package with the kernel's source.
    pub kernel_source: String,
    /// The meta package of the packaged kernel.
    pub kernel_prebuilt: String,
    /// The package with the archive's keys.
    pub keyring: String,
    /// Packages of the root file system, without what they need.
    pub packages: Vec<String>,
    /// Who is taken where a dependency is open.
    pub prefer: BTreeSet<String>,
    /// Dependencies that are left out.
    pub exclude: BTreeSet<String>,
    /// Files and folders that are left out.
    pub drop: BTreeSet<String>,
    /// Packages of which only some files are taken.
    pub only: BTreeMap<String, BTreeSet<String>>,
}

/// A line of the list that cannot be understood, or one that is missing.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("the list of wanted packages is wrong at `{0}`")]
pub struct WantedError(String);

impl Wanted {
    /// The list of this repository.
    pub(crate) fn of_repository() -> Result<Self, WantedError> {
        Self::parse(LIST)
    }

    /// The lab's tools, from the suite of `self`.
    pub(crate) fn lab_tools(&self) -> Result<Self, WantedError> {
        let mut tools = Self::default();
        tools.suite.clone_from(&self.suite);
        tools.add(TOOLS)?;
        Ok(tools)
    }

    fn parse(text: &str) -> Result<Self, WantedError> {
        let mut wanted = Self::default();
        wanted.add(text)?;
        let required = [
            &wanted.suite,
            &wanted.kernel_source,
            &wanted.kernel_prebuilt,
            &wanted.keyring,
        ];
        if required.into_iter().any(String::is_empty) {
            let missing = "suite, kernel-source, kernel-prebuilt, keyring";
            return Err(WantedError(missing.to_owned()));
        }
        Ok(wanted)
    }

    /// Adds what the lines say.
    fn add(&mut self, text: &str) -> Result<(), WantedError> {
        for line in meaningful(text) {
            let words: Vec<&str> = line.split_whitespace().collect();
            match words[..] {
                ["suite", word] => self.suite = word.to_owned(),
                ["kernel-source", word] => self.kernel_source = word.to_owned(),
                ["kernel-prebuilt", word] => self.kernel_prebuilt = word.to_owned(),
                ["keyring", word] => self.keyring = word.to_owned(),
                ["package", word] => self.packages.push(word.to_owned()),
                ["prefer", word] => _ = self.prefer.insert(word.to_owned()),
                ["exclude", word] => _ = self.exclude.insert(word.to_owned()),
                ["drop", path] => _ = self.drop.insert(path.to_owned()),
                ["only", package, path] => {
                    _ = self
                        .only
                        .entry(package.to_owned())
                        .or_default()
                        .insert(path.to_owned());
                }
                _ => return Err(WantedError(line.to_owned())),
            }
        }
        Ok(())
    }

    /// The digest of what decides which packages are needed. The lock file carries it, so that a
    /// lock that was made for another list is noticed.
    pub(crate) fn digest(&self) -> Digest {
        let (source, prebuilt) = (&self.kernel_source, &self.kernel_prebuilt);
        let Self {
            suite,
            keyring,
            packages,
            prefer,
            exclude,
            ..
        } = self;
        let text =
            format!("{suite} {source} {prebuilt} {keyring} {packages:?} {prefer:?} {exclude:?}");
        Digest::of(text.as_bytes())
    }

    /// Whether a file of a package belongs into the root file system.
    pub(crate) fn takes(&self, package: &str, path: &str) -> bool {
        if let Some(only) = self.only.get(package)
            && !only.contains(path)
        {
            return false;
        }
        let mut parents = path
            .match_indices('/')
            .filter_map(|(end, _)| path.get(..end));
        !self.drop.contains(path) && !parents.any(|parent| self.drop.contains(parent))
    }
}

/// The lines that are neither empty nor comments.
pub(super) fn meaningful(text: &str) -> impl Iterator<Item = &str> {
    text.lines()
        .map(str::trim)
        .filter(|line| !line.is_empty() && !line.starts_with('#'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lists_of_this_repository_are_understood() {
        let wanted = Wanted::of_repository().unwrap();
        assert!(wanted.packages.contains(&"python3".to_owned()));
        let tools = wanted.lab_tools().unwrap();
        assert_eq!(tools.packages, ["qemu-system-arm"]);
        assert_eq!(tools.suite, wanted.suite);
    }

    #[test]
    fn wrong_lines_are_named() {
        assert_eq!(
            Wanted::parse("pakage x"),
            Err(WantedError("pakage x".to_owned()))
        );
        assert!(Wanted::parse("suite bookworm").is_err());
    }

    #[test]
    fn folders_are_dropped_whole_and_only_by_whole_names() {
        let wanted = Wanted {
            drop: ["usr/share/doc".to_owned()].into(),
            only: [("b".to_owned(), ["usr/bin/b".to_owned()].into())].into(),
            ..Wanted::default()
        };
        assert!(!wanted.takes("a", "usr/share/doc"));
        assert!(!wanted.takes("a", "usr/share/doc/a/copyright"));
        assert!(wanted.takes("a", "usr/share/docs"));
        assert!(wanted.takes("b", "usr/bin/b"));
        assert!(!wanted.takes("b", "usr/bin/c"));
    }
}
