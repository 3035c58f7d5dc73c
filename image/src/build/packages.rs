//! `Packages`: the index of a suite, and which packages a set of names needs.

use crate::Digest;
use deb822_fast::{Deb822, Paragraph};
use debversion::Version;
use std::collections::{BTreeMap, BTreeSet};
use std::io::BufRead;

/// Which archive of a mirror a package is in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Archive {
    /// Releases and their updates.
    Main,
    /// Security updates.
    Security,
}

/// A package as the index describes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Package {
    pub name: String,
    pub version: Version,
    pub archive: Archive,
    /// Below the archive's address.
    pub path: String,
    pub size: u64,
    pub sha256: Digest,
    /// `Pre-Depends` and `Depends`: of each group, one name is needed.
    needs: Vec<Vec<String>>,
}

/// All packages of one or more suites, the newest version of each.
#[derive(Debug, Default)]
pub(crate) struct Index {
    packages: BTreeMap<String, Package>,
    /// Virtual names and who provides them.
    providers: BTreeMap<String, BTreeSet<String>>,
}

/// Why an index is of no use, or a set of packages cannot be completed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PackagesError {
    /// An index is damaged, though its digest was right.
    #[error("the index of packages is damaged near `{0}`")]
    Damaged(String),
    /// A wanted package does not exist.
    #[error("the suite has no package `{0}`")]
    Unknown(String),
    /// Nothing satisfies a dependency.
    #[error("`{package}` needs `{dependency}`, which is neither in the suite nor excluded")]
    Unsatisfied {
        /// Who needs it.
        package: String,
        /// The alternatives.
        dependency: String,
    },
}

impl Index {
    /// Adds the packages of an index.
    pub(crate) fn add(
        &mut self,
        text: impl BufRead,
        archive: Archive,
    ) -> Result<(), PackagesError> {
        for paragraph in Deb822::iter_paragraphs_from_reader(text) {
            let paragraph = paragraph.map_err(|error| PackagesError::Damaged(error.to_string()))?;
            if paragraph.is_empty() {
                continue;
            }
            let name = paragraph.get("Package").unwrap_or_default();
            let (package, provides) = parse(&paragraph, archive)
                .ok_or_else(|| PackagesError::Damaged(name.to_owned()))?;
            let known = self.packages.get(&package.name);
            if known.is_some_and(|known| known.version >= package.version) {
                continue;
            }
            for virtual_name in provides {
                self.providers
                    .entry(virtual_name)
                    .or_default()
                    .insert(package.name.clone());
            }
            self.packages.insert(package.name.clone(), package);
        }
        Ok(())
    }

    /// The newest version of a package.
    pub(crate) fn get(&self, name: &str) -> Result<&Package, PackagesError> {
        self.packages
            .get(name)
            .ok_or_else(|| PackagesError::Unknown(name.to_owned()))
    }

    /// The one real package that a meta package such as `linux-image-cloud-arm64` needs, by the
    /// beginning of its name; the package itself when it needs none such.
    pub(crate) fn behind(&self, name: &str, prefix: &str) -> Result<&Package, PackagesError> {
        let package = self.get(name)?;
        let mut needed = package.needs.iter().flatten();
        match needed.find(|needed| needed.starts_with(prefix)) {
            Some(needed) => self.get(needed),
            None => Ok(package),
        }
    }

    /// `wanted` and all that they need, without `excluded` and what only those need. Where
    /// alternatives are open, a name that is already chosen wins, then one of `preferred`, then
    /// the first that exists.
    pub(crate) fn closure(
        &self,
        wanted: &[String],
        excluded: &BTreeSet<String>,
        preferred: &BTreeSet<String>,
    ) -> Result<Vec<&Package>, PackagesError> {
        let mut chosen: BTreeMap<&str, &Package> = BTreeMap::new();
        let mut open: Vec<&Package> = Vec::new();
        for name in wanted {
            let package = self.get(name)?;
            if chosen.insert(&package.name, package).is_none() {
                open.push(package);
            }
        }
        while let Some(package) = open.pop() {
            for group in &package.needs {
                if group.iter().any(|name| excluded.contains(name)) {
                    continue;
                }
                let candidates: Vec<&Package> = group
                    .iter()
                    .flat_map(|name| self.candidates(name))
                    .collect();
                if candidates
                    .iter()
                    .any(|it| chosen.contains_key(it.name.as_str()))
                {
                    continue;
                }
                let usable = || candidates.iter().filter(|it| !excluded.contains(&it.name));
                let Some(&choice) = usable()
                    .find(|it| preferred.contains(&it.name))
                    .or_else(|| usable().next())
                else {
                    let (package, dependency) = (package.name.clone(), group.join(" | "));
                    return Err(PackagesError::Unsatisfied {
                        package,
                        dependency,
                    });
                };
                chosen.insert(&choice.name, choice);
                open.push(choice);
            }
        }
        Ok(chosen.into_values().collect())
    }

    /// The package of this name and those that provide it.
    fn candidates(&self, name: &str) -> impl Iterator<Item = &Package> {
        let providers = self.providers.get(name).into_iter().flatten();
        let provided = providers.filter_map(|provider| self.packages.get(provider));
        self.packages.get(name).into_iter().chain(provided)
    }
}

/// A package and the virtual names that it provides.
fn parse(paragraph: &Paragraph, archive: Archive) -> Option<(Package, Vec<String>)> {
    let field = |name: &str| paragraph.get(name);
    let groups = |name: &str| {
        let groups = field(name).unwrap_or_default().split(',');
        let groups = groups.map(|group| group.split('|').filter_map(bare_name).collect::<Vec<_>>());
        groups.filter(|group| !group.is_empty()).collect::<Vec<_>>()
    };
    let path = field("Filename")?;
    if !is_plain_path(path) {
        return None;
    }
    let package = Package {
        name: bare_name(field("Package")?)?,
        version: field("Version")?.parse().ok()?,
        archive,
        path: path.to_owned(),
        size: field("Size")?.parse().ok()?,
        sha256: field("SHA256")?.parse().ok()?,
        needs: groups("Pre-Depends")
            .into_iter()
            .chain(groups("Depends"))
            .collect(),
    };
    Some((package, groups("Provides").into_iter().flatten().collect()))
}

/// `name:arch (>= version) [arch]` without all but the name. Versions are not compared: one suite
/// is consistent in itself.
fn bare_name(dependency: &str) -> Option<String> {
    let end = |c: char| c.is_whitespace() || matches!(c, ':' | '(' | '[' | '<');
    let name = dependency.trim().split(end).next()?;
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"+-.".contains(&byte);
    (!name.is_empty() && name.bytes().all(allowed)).then(|| name.to_owned())
}

/// Whether a path can be appended to an address as it is: no `..`, no query, no other host.
pub(crate) fn is_plain_path(path: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"/._+-~:%".contains(&byte);
    path.bytes().all(allowed)
        && path
            .split('/')
            .all(|part| !part.is_empty() && part != "." && part != "..")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn paragraph(name: &str, version: &str, more: &str) -> String {
        let digest = Digest::of(name.as_bytes());
        format!(
            "Package: {name}\nVersion: {version}\nFilename: pool/{name}.deb\nSize: 5\n\
             SHA256: {digest}\n{more}\n"
        )
    }

    fn index(text: &str) -> Index {
        let mut index = Index::default();
        index.add(text.as_bytes(), Archive::Main).unwrap();
        index
    }

    fn names(packages: &[&Package]) -> Vec<String> {
        packages
            .iter()
            .map(|package| package.name.clone())
            .collect()
    }

    fn set(names: &[&str]) -> BTreeSet<String> {
        names.iter().map(|&name| name.to_owned()).collect()
    }

    fn closure(index: &Index, excluded: &[&str], preferred: &[&str]) -> Vec<String> {
        let wanted = ["a".to_owned()];
        names(
            &index
                .closure(&wanted, &set(excluded), &set(preferred))
                .unwrap(),
        )
    }

    #[test]
    fn dependencies_are_followed_even_in_circles() {
        let text = paragraph("a", "1", "Pre-Depends: b (>= 1~)\nDepends: c:any, d | e\n")
            + &paragraph("b", "1", "Depends: a\n")
            + &paragraph("c", "1", "")
            + &paragraph("e", "1", "");
        assert_eq!(closure(&index(&text), &[], &[]), ["a", "b", "c", "e"]);
        assert_eq!(closure(&index(&text), &["b"], &[]), ["a", "c", "e"]);
    }

    #[test]
    fn virtual_packages_are_provided_as_preferred() {
        let text = paragraph("a", "1", "Depends: awk\n")
            + &paragraph("gawk", "1", "Provides: awk\n")
            + &paragraph("mawk", "1", "Provides: awk (= 1)\n");
        assert_eq!(closure(&index(&text), &[], &[]), ["a", "gawk"]);
        assert_eq!(closure(&index(&text), &[], &["mawk"]), ["a", "mawk"]);
        assert_eq!(closure(&index(&text), &["gawk"], &[]), ["a", "mawk"]);
        assert_eq!(closure(&index(&text), &["awk"], &[]), ["a"]);
    }

    #[test]
    fn what_cannot_be_had_is_named() {
        let index = index(&paragraph("a", "1", "Depends: x | y\n"));
        let error = index
            .closure(&["a".to_owned()], &set(&[]), &set(&[]))
            .unwrap_err();
        assert_eq!(
            error.to_string(),
            "`a` needs `x | y`, which is neither in the suite nor excluded"
        );
        let error = index
            .closure(&["z".to_owned()], &set(&[]), &set(&[]))
            .unwrap_err();
        assert!(matches!(error, PackagesError::Unknown(name) if name == "z"));
    }

    #[test]
    fn the_newest_version_wins_whatever_the_order() {
        let versions = ["6.12.9-1", "6.12.117-1~deb12u1", "6.12.117-1", "1:1.0"];
        for (older, newer) in versions.iter().zip(&versions[1..]) {
            for (first, second) in [(older, newer), (newer, older)] {
                let text = paragraph("a", first, "") + &paragraph("a", second, "");
                assert_eq!(index(&text).get("a").unwrap().version.to_string(), **newer);
            }
        }
    }

    #[test]
    fn a_meta_package_leads_to_the_real_one() {
        let text = paragraph(
            "linux-image-x",
            "1",
            "Depends: linux-image-6.12-x (= 1), foo\n",
        ) + &paragraph("linux-image-6.12-x", "1", "Depends: kmod\n");
        let index = index(&text);
        for name in ["linux-image-x", "linux-image-6.12-x"] {
            assert_eq!(
                index.behind(name, "linux-image-").unwrap().name,
                "linux-image-6.12-x"
            );
        }
    }

    #[test]
    fn a_damaged_paragraph_is_an_error() {
        let good = paragraph("a", "1", "");
        for (from, to) in [
            ("Size: 5", "Size: five"),
            ("pool/a.deb", "../../a.deb"),
            ("pool/a.deb", "//evil.test/a.deb"),
            ("SHA256: ", "SHA256: zz"),
            ("Version: 1\n", ""),
        ] {
            let text = good.replace(from, to);
            let error = Index::default()
                .add(text.as_bytes(), Archive::Main)
                .unwrap_err();
            assert!(matches!(error, PackagesError::Damaged(_)), "{to}");
        }
    }
}
