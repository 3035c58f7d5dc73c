//! A wheel of numpy, for the test that installs it in the sandbox.

use crate::pip::{self, Form, Got};
use anyhow::Context as _;
use std::fs;
use std::path::{Path, PathBuf};
use xshell::{Shell, cmd};

const REQUIREMENTS: &str = include_str!("../numpy.txt");

/// Where the tests' programs are looked for: its first Python is the one that runs in the sandbox.
const PLACES: [&str; 6] = [
    "/usr/local/sbin",
    "/usr/local/bin",
    "/usr/sbin",
    "/usr/bin",
    "/sbin",
    "/bin",
];

/// The wheel for the Python of the tests. Where it cannot be had, the reason is told and the test is
/// skipped.
pub(crate) fn wheel(shell: &Shell) -> anyhow::Result<Option<PathBuf>> {
    let version = pip::version(REQUIREMENTS, "numpy")?;
    let skipped = |why: &str| {
        eprintln!("skipped: no wheel of numpy {version}: {why}");
        Ok(None)
    };
    let pythons = PLACES.map(|place| Path::new(place).join("python3"));
    let Some(python) = pythons.iter().find(|path| path.is_file()) else {
        return skipped("the system has no python3");
    };
    let code = "import sys, sysconfig; print(sys.implementation.cache_tag, sysconfig.get_platform(), sep='-')";
    let tag = cmd!(shell, "{python} -c {code}").quiet().read()?;
    let folder = ringfence_image::build::cache()?.join(format!("numpy-{version}-{tag}"));
    if !folder.exists() {
        eprintln!("downloading numpy {version} (17 MB, once)");
        let requirements = shell.current_dir().join("xtask/numpy.txt");
        let got = pip::fill(shell, python, Form::Wheels, &requirements, &folder)?;
        if let Got::Nothing(why) = got {
            return skipped(&why);
        }
    }
    let entry = fs::read_dir(&folder)?.next();
    let entry = entry.with_context(|| format!("{} is empty; remove it", folder.display()))?;
    Ok(Some(entry?.path()))
}
