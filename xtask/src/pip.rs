//! What pip gets for other tasks, pinned by version and digest.
//!
//! pip knows the machine's package index or its mirror, and checks the digests.

use anyhow::{Context as _, bail};
use std::fs;
use std::path::Path;
use xshell::{Shell, cmd};

/// What pip does with what the requirements demand.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Form {
    /// Unpacks it.
    Installed,
    /// Keeps the wheels as they are.
    Wheels,
}

/// How pip fared.
#[derive(Debug)]
pub(crate) enum Got {
    All,
    /// The index cannot be reached, it has nothing for this Python, or there is no pip: its words.
    Nothing(String),
}

/// The version of a package that requirements pin.
pub(crate) fn version<'a>(requirements: &'a str, package: &str) -> anyhow::Result<&'a str> {
    let mut lines = requirements.lines();
    let pinned = lines.find_map(|line| line.strip_prefix(package)?.strip_prefix("=="));
    let version = pinned.and_then(|pin| pin.split_whitespace().next());
    version.with_context(|| format!("no version of {package} is pinned"))
}

/// Has an interpreter's pip fill `folder`, which appears whole or not at all.
pub(crate) fn fill(
    shell: &Shell,
    python: &Path,
    form: Form,
    requirements: &Path,
    folder: &Path,
) -> anyhow::Result<Got> {
    let mut partial = folder.as_os_str().to_owned();
    partial.push(format!(".{}.partial", std::process::id()));
    fs::create_dir_all(&partial)?;
    let words = match form {
        Form::Installed => ["install", "--target"],
        Form::Wheels => ["download", "--dest"],
    };
    let options = [
        "--quiet",
        "--no-deps",
        "--require-hashes",
        "--only-binary=:all:",
        "--no-cache-dir",
    ];
    let pip = cmd!(
        shell,
        "{python} -m pip {words...} {partial} {options...} --requirement {requirements}"
    );
    let pip = pip
        .env("PIP_ROOT_USER_ACTION", "ignore")
        .env("PIP_DISABLE_PIP_VERSION_CHECK", "1");
    let output = pip.quiet().ignore_status().output();
    let filled =
        output
            .map_err(anyhow::Error::from)
            .and_then(|output| match output.status.success() {
                true => Ok(fs::rename(&partial, folder).map(|()| Got::All)?),
                false => refusal(&String::from_utf8_lossy(&output.stderr)),
            });
    if !matches!(filled, Ok(Got::All)) {
        let _gone_or_never_there = fs::remove_dir_all(&partial);
    }
    // Another task may have been quicker.
    if folder.exists() {
        Ok(Got::All)
    } else {
        filled
    }
}

/// What pip ended with: other content than was pinned is never a matter of the machine.
fn refusal(words: &str) -> anyhow::Result<Got> {
    let words = words.trim();
    if words.contains("DO NOT MATCH THE HASHES") {
        bail!("{words}");
    }
    Ok(Got::Nothing(words.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pinned_version_is_found() {
        let text = "# about\nother==1\nname==2.3.5 \\\n    --hash=sha256:00\n";
        assert_eq!(version(text, "name").unwrap(), "2.3.5");
        assert!(version(text, "nam").is_err());
    }

    #[test]
    fn other_content_than_was_pinned_is_an_error() {
        assert!(refusal("ERROR: THESE PACKAGES DO NOT MATCH THE HASHES FROM …").is_err());
        let absent = refusal("ERROR: No matching distribution found for name==2.3.5\n").unwrap();
        assert!(matches!(absent, Got::Nothing(words) if words.ends_with("2.3.5")));
    }
}
