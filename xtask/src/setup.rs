//! `cargo xtask setup`: what a fresh machine lacks.
//!
//! Rust targets are added by rustup. Debian packages are installed where this is Debian and the
//! caller is root; otherwise they are named and nothing is done behind anybody's back.

use anyhow::{Context as _, bail};
use std::fs;
use std::path::Path;
use xshell::{Shell, cmd};

/// The guest and the programs that tests put into the sandbox are static musl binaries; `dist` makes
/// the command for Macs.
const TARGETS: [&str; 3] = [
    "aarch64-unknown-linux-musl",
    "x86_64-unknown-linux-musl",
    "aarch64-apple-darwin",
];

/// The emulator of the `qemu` engine.
const QEMU: &str = "qemu-system-arm";

/// What tests run in the sandbox beyond what the other packages bring, and what installs the linker
/// for macOS.
const TESTS: [&str; 2] = ["python3", "python3-pip"];

/// Installs what is missing, or names it.
pub(crate) fn run(shell: &Shell) -> anyhow::Result<()> {
    rust_targets(shell)?;
    if !cfg!(target_os = "linux") {
        return Ok(());
    }
    let mut wanted = vec![QEMU];
    wanted.extend(TESTS);
    wanted.extend(ringfence_image::build::KERNEL_BUILD_PACKAGES);
    debian_packages(shell, &wanted)
}

fn rust_targets(shell: &Shell) -> anyhow::Result<()> {
    let Ok(installed) = cmd!(shell, "rustup target list --installed").quiet().read() else {
        eprintln!("setup: no rustup; make sure that the targets {TARGETS:?} are installed");
        return Ok(());
    };
    for target in TARGETS {
        if !installed.lines().any(|line| line == target) {
            eprintln!("setup: adding the Rust target {target}");
            cmd!(shell, "rustup target add {target}").quiet().run()?;
        }
    }
    Ok(())
}

fn debian_packages(shell: &Shell, wanted: &[&str]) -> anyhow::Result<()> {
    let mut missing = Vec::new();
    for package in wanted {
        let format = "--showformat=${Status}";
        let state = cmd!(shell, "dpkg-query --show {format} {package}")
            .quiet()
            .ignore_stderr();
        match state.ignore_status().read() {
            Ok(state) if state.ends_with(" installed") => {}
            Ok(_) => missing.push(*package),
            Err(_) => bail!(
                "this is no Debian; install the equivalents of: {}",
                wanted.join(" ")
            ),
        }
    }
    if missing.is_empty() {
        return Ok(());
    }
    let names = missing.join(" ");
    if !is_root() {
        bail!(
            "these packages are missing; run: sudo apt-get install --no-install-recommends {names}"
        );
    }
    eprintln!("setup: installing {names}");
    cmd!(shell, "apt-get update -qq").quiet().run()?;
    // QEMU may have to come from the backports suite: where a part of it is already installed from
    // there, the stable version conflicts.
    if missing.contains(&QEMU) && !installable(shell, QEMU) {
        add_backports(shell)?;
    }
    let install = cmd!(
        shell,
        "apt-get install --yes --no-install-recommends {missing...}"
    );
    install
        .env("DEBIAN_FRONTEND", "noninteractive")
        .quiet()
        .run()?;
    Ok(())
}

fn is_root() -> bool {
    // The owner of a process's own folder below /proc is its effective user.
    fs::metadata("/proc/self").is_ok_and(|own| std::os::unix::fs::MetadataExt::uid(&own) == 0)
}

fn installable(shell: &Shell, package: &str) -> bool {
    let simulated = cmd!(
        shell,
        "apt-get install --simulate --no-install-recommends {package}"
    );
    simulated
        .quiet()
        .ignore_stdout()
        .ignore_stderr()
        .run()
        .is_ok()
}

/// Adds the release's backports suite beside the configured one: same mirror, same keyring.
fn add_backports(shell: &Shell) -> anyhow::Result<()> {
    let release = fs::read_to_string("/etc/os-release").context("cannot read /etc/os-release")?;
    let codename = release
        .lines()
        .find_map(|line| line.strip_prefix("VERSION_CODENAME="));
    let codename = codename.context("/etc/os-release names no release (VERSION_CODENAME)")?;
    let entry = backports_entry(codename)?;
    let (name, text) = entry;
    let path = Path::new("/etc/apt/sources.list.d").join(name);
    eprintln!("setup: adding {codename}-backports in {}", path.display());
    fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
    cmd!(shell, "apt-get update -qq").quiet().run()?;
    Ok(())
}

fn backports_entry(codename: &str) -> anyhow::Result<(&'static str, String)> {
    let mut files: Vec<_> = fs::read_dir("/etc/apt/sources.list.d")
        .map(|entries| {
            entries
                .filter_map(Result::ok)
                .map(|entry| entry.path())
                .collect()
        })
        .unwrap_or_default();
    files.push("/etc/apt/sources.list".into());
    for path in files {
        let Ok(text) = fs::read_to_string(&path) else {
            continue;
        };
        if path
            .extension()
            .is_some_and(|extension| extension == "sources")
        {
            if let Some(stanza) = deb822_backports(&text, codename) {
                return Ok(("ringfence-backports.sources", stanza));
            }
        } else if let Some(line) = one_line_backports(&text, codename) {
            return Ok(("ringfence-backports.list", line));
        }
    }
    bail!(
        "found no apt source of {codename} to put its backports suite beside; install {QEMU} by hand"
    )
}

/// The stanza that holds the release, for its backports instead.
fn deb822_backports(text: &str, codename: &str) -> Option<String> {
    let holds = |line: &str| {
        line.strip_prefix("Suites:")
            .is_some_and(|suites| suites.split_whitespace().any(|suite| suite == codename))
    };
    let stanza = text
        .split("\n\n")
        .find(|stanza| stanza.lines().any(holds))?;
    let lines = stanza.lines().map(|line| {
        if holds(line) {
            format!("Suites: {codename}-backports\n")
        } else {
            format!("{line}\n")
        }
    });
    Some(lines.collect())
}

/// The `deb` line that holds the release, for its backports instead.
fn one_line_backports(text: &str, codename: &str) -> Option<String> {
    let is_release = |line: &&str| {
        line.starts_with("deb ") && line.split_whitespace().any(|word| word == codename)
    };
    let line = text.lines().find(is_release)?;
    let words = line.split_whitespace().map(|word| {
        if word == codename {
            format!("{codename}-backports")
        } else {
            word.to_owned()
        }
    });
    Some(words.collect::<Vec<_>>().join(" ") + "\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn backports_stand_beside_the_release() {
        let text = "Types: deb\nURIs: http://mirror.example/security\nSuites: tweety-security\n\n\
                    Types: deb\nURIs: http://mirror.example/debian\nSuites: tweety tweety-updates\n\
                    Components: main\nSigned-By: /keyring.gpg\n";
        assert_eq!(
            deb822_backports(text, "tweety").unwrap(),
            "Types: deb\nURIs: http://mirror.example/debian\nSuites: tweety-backports\n\
             Components: main\nSigned-By: /keyring.gpg\n"
        );
        assert_eq!(deb822_backports(text, "sylvester"), None);
        let text = "# deb http://x tweety main\ndeb [signed-by=/k] http://mirror.example/debian tweety main\n";
        assert_eq!(
            one_line_backports(text, "tweety").unwrap(),
            "deb [signed-by=/k] http://mirror.example/debian tweety-backports main\n"
        );
    }
}
