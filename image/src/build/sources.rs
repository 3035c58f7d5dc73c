//! Which mirror to use: a flag, the environment, or this machine's own apt configuration.
//!
//! No host name is known here. What a mirror serves is checked against signatures and digests, so
//! a wrong one can fail a build but not change it.

use super::files::{FileError, failed};
use deb822_fast::Deb822;
use std::path::{Path, PathBuf};
use std::{env, fs, io};

/// The environment variable that names the mirror.
pub const ENV_MIRROR: &str = "RINGFENCE_MIRROR";

/// The environment variable that names a file with the archive's keys.
pub const ENV_KEYRING: &str = "RINGFENCE_KEYRING";

/// Names of Debian releases: what tells Debian's own archive from others in apt's configuration.
const RELEASES: [&str; 11] = [
    "bullseye",
    "bookworm",
    "trixie",
    "forky",
    "duke",
    "sid",
    "oldoldstable",
    "oldstable",
    "stable",
    "testing",
    "unstable",
];

/// Where apt keeps Debian's keys.
const KEYRINGS: [&str; 2] = [
    "/usr/share/keyrings/debian-archive-keyring.pgp",
    "/usr/share/keyrings/debian-archive-keyring.gpg",
];

/// The keys that sign an archive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Keyring {
    /// In a file, armored or not.
    File(PathBuf),
    /// Written into the configuration itself.
    Inline(String),
}

/// A mirror of Debian's archive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Mirror {
    /// The archive of releases, without a final slash.
    pub main: String,
    /// The archive of security updates, without a final slash.
    pub security: String,
    /// The keys that the machine says sign it.
    pub keyring: Option<Keyring>,
}

/// Why no mirror is known.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SourcesError {
    /// Neither flag, nor environment, nor apt's configuration name one.
    #[error(
        "no mirror of Debian's archive is known: apt's configuration names none; \
         pass --mirror URL or set {ENV_MIRROR}"
    )]
    NoMirror,
    /// The address cannot be used.
    #[error("`{0}` is no mirror's address; it has to begin with http:// or https://")]
    Address(String),
    /// A file of the configuration cannot be read.
    #[error(transparent)]
    Read(#[from] FileError),
}

/// One entry of apt's configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Source {
    uri: String,
    suite: String,
    keyring: Option<Keyring>,
}

impl Mirror {
    /// The mirror that `flag`, the environment or `apt` (usually `/etc/apt`) names, in this order.
    pub(crate) fn find(flag: Option<&str>, apt: &Path) -> Result<Self, SourcesError> {
        let variable = env::var(ENV_MIRROR).ok().filter(|value| !value.is_empty());
        match flag.or(variable.as_deref()) {
            Some(address) => Self::parse(address),
            None => Self::choose(&configuration(apt)?).ok_or(SourcesError::NoMirror),
        }
    }

    /// `MAIN` or `MAIN,SECURITY`; where the second is not given it is the first with `-security`
    /// behind it, as on Debian's own mirrors.
    fn parse(text: &str) -> Result<Self, SourcesError> {
        let (main, security) = match text.split_once(',') {
            Some((main, security)) => (address(main)?, address(security)?),
            None => {
                let main = address(text)?;
                (main.clone(), main + "-security")
            }
        };
        Ok(Self {
            main,
            security,
            keyring: None,
        })
    }

    fn choose(sources: &[Source]) -> Option<Self> {
        let by_debian = |source: &&Source| match &source.keyring {
            Some(Keyring::File(path)) => path.to_string_lossy().contains("debian-archive"),
            _ => source.uri.ends_with("/debian") || source.uri.ends_with("/debian-security"),
        };
        let is_main = |source: &&Source| RELEASES.contains(&source.suite.as_str());
        let is_security = |source: &&Source| {
            let release = source.suite.strip_suffix("-security");
            release.is_some_and(|release| RELEASES.contains(&release))
        };
        let main = sources.iter().filter(is_main).find(by_debian)?;
        let security = sources.iter().filter(is_security).find(by_debian);
        Some(Self {
            main: main.uri.clone(),
            security: security.map_or_else(
                || format!("{}-security", main.uri),
                |source| source.uri.clone(),
            ),
            keyring: main.keyring.clone(),
        })
    }

    /// The keys that sign the archive, most explicit first; `None` when this machine has none.
    pub(crate) fn keyring(&self, flag: Option<&Path>) -> Option<Keyring> {
        let variable = || env::var_os(ENV_KEYRING).filter(|value| !value.is_empty());
        flag.map(Path::to_owned)
            .or_else(|| variable().map(PathBuf::from))
            .map(Keyring::File)
            .or_else(|| self.keyring.clone())
            .or_else(|| {
                let known = KEYRINGS.iter().map(Path::new).find(|path| path.exists());
                known.map(|path| Keyring::File(path.to_owned()))
            })
    }
}

fn address(text: &str) -> Result<String, SourcesError> {
    let text = text.trim().trim_end_matches('/');
    if text.starts_with("http://") || text.starts_with("https://") {
        Ok(text.to_owned())
    } else {
        Err(SourcesError::Address(text.to_owned()))
    }
}

/// All entries of `sources.list` and `sources.list.d` that name binary packages of `main`.
fn configuration(apt: &Path) -> Result<Vec<Source>, SourcesError> {
    let mut files = vec![apt.join("sources.list")];
    let folder = apt.join("sources.list.d");
    match fs::read_dir(&folder) {
        Ok(entries) => {
            let mut found = entries
                .map(|entry| entry.map(|entry| entry.path()))
                .collect::<io::Result<Vec<_>>>()
                .map_err(failed("read", &folder))?;
            found.sort();
            files.extend(found);
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(failed("read", &folder)(error).into()),
    }
    let mut sources = Vec::new();
    for file in files {
        let parse = match file.extension().and_then(|extension| extension.to_str()) {
            Some("list") => one_line_style,
            Some("sources") => deb822_style,
            _ => continue,
        };
        match fs::read_to_string(&file) {
            Ok(text) => sources.extend(parse(&text)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(failed("read", &file)(error).into()),
        }
    }
    Ok(sources)
}

/// `deb [option=value …] URI SUITE COMPONENT…`
fn one_line_style(text: &str) -> Vec<Source> {
    let parse = |line: &str| {
        let line = line.split('#').next()?.trim().strip_prefix("deb")?;
        let line = line.strip_prefix([' ', '\t'])?.trim();
        let (options, rest) = match line.strip_prefix('[') {
            Some(line) => line.split_once(']')?,
            None => ("", line),
        };
        let keyring = options
            .split_whitespace()
            .find_map(|option| option.strip_prefix("signed-by="))
            .map(|path| Keyring::File(path.into()));
        let mut words = rest.split_whitespace();
        let (uri, suite) = (words.next()?, words.next()?.to_owned());
        words.find(|&component| component == "main")?;
        Some(Source {
            uri: address(uri).ok()?,
            suite,
            keyring,
        })
    };
    text.lines().filter_map(parse).collect()
}

/// Paragraphs with `Types`, `URIs`, `Suites`, `Components`. A file that is not of this form, or an
/// entry that is switched off, gives nothing: apt is the one to complain about it.
fn deb822_style(text: &str) -> Vec<Source> {
    let Ok(paragraphs) = text.parse::<Deb822>() else {
        return Vec::new();
    };
    let mut sources = Vec::new();
    for paragraph in paragraphs.iter() {
        let field = |name: &str| paragraph.get(name).unwrap_or_default();
        let has = |name: &str, word: &str| field(name).split_whitespace().any(|it| it == word);
        if has("Enabled", "no") || !has("Types", "deb") || !has("Components", "main") {
            continue;
        }
        let keyring = signed_by(field("Signed-By"));
        for uri in field("URIs")
            .split_whitespace()
            .filter_map(|uri| address(uri).ok())
        {
            for suite in field("Suites").split_whitespace() {
                let (uri, suite) = (uri.clone(), suite.to_owned());
                sources.push(Source {
                    uri,
                    suite,
                    keyring: keyring.clone(),
                });
            }
        }
    }
    sources
}

/// A path, or a whole key: its lines are indented, and a dot stands for an empty one.
fn signed_by(value: &str) -> Option<Keyring> {
    if !value.contains("BEGIN PGP") {
        return value
            .split_whitespace()
            .next()
            .map(|path| Keyring::File(path.into()));
    }
    let lines = value
        .lines()
        .map(str::trim)
        .skip_while(|line| line.is_empty());
    let lines = lines.map(|line| if line == "." { "" } else { line });
    Some(Keyring::Inline(lines.collect::<Vec<_>>().join("\n") + "\n"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEB822: &str = "\
Types: deb deb-src
# a comment
URIs: http://mirror.test/debian/
Suites: trixie trixie-updates
Components: main contrib
Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg

Types: deb
URIs: http://mirror.test/security
Suites: trixie-security
Components: main
Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg
";

    fn file(path: &str) -> Option<Keyring> {
        Some(Keyring::File(path.into()))
    }

    #[test]
    fn deb822_files_are_understood() {
        let mirror = Mirror::choose(&deb822_style(DEB822)).unwrap();
        assert_eq!(
            mirror,
            Mirror {
                main: "http://mirror.test/debian".to_owned(),
                security: "http://mirror.test/security".to_owned(),
                keyring: file("/usr/share/keyrings/debian-archive-keyring.gpg"),
            }
        );
    }

    #[test]
    fn list_files_are_understood() {
        let text = "\
# deb http://commented.test/debian bookworm main
deb-src http://source.test/debian bookworm main
deb cdrom:[Debian]/ bookworm main
deb [ arch=arm64 signed-by=/k.gpg ] https://other.test/linux bookworm stable
deb [arch=amd64] http://mirror.test/debian bookworm main # the one
";
        let mirror = Mirror::choose(&one_line_style(text)).unwrap();
        assert_eq!(mirror.main, "http://mirror.test/debian");
        assert_eq!(mirror.security, "http://mirror.test/debian-security");
        assert_eq!(mirror.keyring, None);
    }

    #[test]
    fn other_archives_and_disabled_entries_are_not_taken() {
        let text = "\
Types: deb
URIs: http://vendor.test/prod
Suites: bookworm
Components: main
Signed-By: /usr/share/keyrings/vendor.gpg

Enabled: no
Types: deb
URIs: http://mirror.test/debian
Suites: bookworm
Components: main
";
        assert_eq!(Mirror::choose(&deb822_style(text)), None);
    }

    #[test]
    fn a_key_may_be_inline() {
        let text = "\
Types: deb
URIs: http://mirror.test/debian
Suites: bookworm
Components: main
Signed-By:
 -----BEGIN PGP PUBLIC KEY BLOCK-----
 .
 mDME
 -----END PGP PUBLIC KEY BLOCK-----
";
        let mirror = Mirror::choose(&deb822_style(text)).unwrap();
        let key =
            "-----BEGIN PGP PUBLIC KEY BLOCK-----\n\nmDME\n-----END PGP PUBLIC KEY BLOCK-----\n";
        assert_eq!(mirror.keyring, Some(Keyring::Inline(key.to_owned())));
    }

    #[test]
    fn folders_are_read_in_order_and_may_be_absent() {
        let apt = tempfile::tempdir().unwrap();
        assert!(configuration(apt.path()).unwrap().is_empty());
        let folder = apt.path().join("sources.list.d");
        fs::create_dir(&folder).unwrap();
        fs::write(folder.join("debian.sources"), DEB822).unwrap();
        fs::write(folder.join("debian.sources.disabled"), "nonsense").unwrap();
        assert_eq!(configuration(apt.path()).unwrap().len(), 3);
    }

    #[test]
    fn an_address_is_checked() {
        let mirror = Mirror::parse("https://a.test/debian/,http://b.test/sec/").unwrap();
        assert_eq!(
            (mirror.main.as_str(), mirror.security.as_str()),
            ("https://a.test/debian", "http://b.test/sec")
        );
        assert!(matches!(
            Mirror::parse("ftp://a.test"),
            Err(SourcesError::Address(_))
        ));
        assert!(matches!(Mirror::parse(""), Err(SourcesError::Address(_))));
    }
}
