//! Version managers whose files and variables say what bytes say, for property tests and for
//! fuzzing.
//!
//! Whatever they say, what is found behind a shim is the program of an installed version, at the
//! place where that manager has it, and never anything else that is called alike.

#![expect(clippy::unwrap_used, reason = "tests may fail")]

use super::*;
use std::ffi::OsStr;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Component;

/// The folder of a home directory with three managers.
struct Home(tempfile::TempDir);

/// Installed, beside other files of the same name all around.
const INSTALLED: [&str; 5] = [
    ".pyenv/versions/1.2.3/bin/tool",
    ".pyenv/versions/1.10.0/bin/tool",
    ".asdf/installs/plugin/1.2.3/bin/tool",
    ".asdf/installs/plugin/1.10.0/tool",
    ".rustup/toolchains/stable-any/bin/tool",
];
const DECOYS: [&str; 9] = [
    "tool",
    "bin/tool",
    ".pyenv/bin/tool",
    ".pyenv/versions/bin/tool",
    ".asdf/bin/tool",
    ".asdf/installs/bin/tool",
    ".asdf/installs/plugin/bin/tool",
    ".rustup/bin/tool",
    ".rustup/toolchains/bin/tool",
];
const SHIMS: [&str; 4] = [
    ".pyenv/shims/tool",
    ".asdf/shims/tool",
    ".cargo/bin/rustup",
    ".cargo/bin/tool",
];

impl Home {
    fn new() -> Self {
        let home = tempfile::tempdir().unwrap();
        let [.., rustup, proxy] = SHIMS;
        for name in INSTALLED.iter().chain(&DECOYS).chain(&SHIMS) {
            let file = home.path().join(name);
            fs::create_dir_all(file.parent().unwrap()).unwrap();
            if *name == proxy {
                fs::hard_link(home.path().join(rustup), file).unwrap();
            } else {
                fs::write(&file, "#!/bin/sh\n").unwrap();
                fs::set_permissions(&file, fs::Permissions::from_mode(0o755)).unwrap();
            }
        }
        Self(home)
    }

    fn write(&self, name: &str, bytes: &[u8]) {
        fs::write(self.0.path().join(name), bytes).unwrap();
    }

    /// What is found behind a shim lies below `versions`, and is called so from there.
    fn check(&self, shim: &str, host: &Host, versions: &str, always: bool) {
        let found = behind(&self.0.path().join(shim), host);
        let Behind::File(file) = &found else {
            assert!(!always && found == Behind::Nothing, "{shim}: {found:?}");
            return;
        };
        let below = file.strip_prefix(self.0.path().join(versions)).unwrap();
        let plain = below
            .components()
            .all(|part| matches!(part, Component::Normal(_)));
        let name = file.strip_prefix(self.0.path()).unwrap();
        assert!(
            plain && INSTALLED.iter().any(|known| name == Path::new(known)),
            "{file:?}"
        );
    }
}

/// Version files, scripts and variables with these bytes.
pub(crate) fn versions(bytes: &[u8]) {
    thread_local! {
        static HOME: Home = Home::new();
    }
    HOME.with(|home| {
        home.write(".pyenv/version", bytes);
        home.write(".rustup/settings.toml", bytes);
        home.write(".asdf/shims/tool", &[b"#!/bin/sh asdf\n", bytes].concat());
        let named = ["PYENV_VERSION", "RUSTUP_TOOLCHAIN"];
        let named = named.map(|name| (name.into(), OsStr::from_bytes(bytes).into()));
        let folder = ("HOME".into(), home.0.path().into());
        for variables in [vec![folder.clone()], [&named[..], &[folder]].concat()] {
            let host = Host {
                variables,
                ..Host::default()
            };
            home.check(".pyenv/shims/tool", &host, ".pyenv/versions", true);
            home.check(".asdf/shims/tool", &host, ".asdf/installs", false);
            home.check(".cargo/bin/tool", &host, ".rustup/toolchains", true);
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const PIECES: &[&[u8]] = &[
        b"1.2.3",
        b"1",
        b"..",
        b".",
        b"/",
        b"\n",
        b":",
        b"# asdf-plugin: plugin ",
        b"default_toolchain = \"",
        b"stable",
        b"\0",
        b" ",
        b"\xff",
    ];

    proptest! {
        #[test]
        fn any_version_leads_to_one_that_is_installed(bytes in prop::collection::vec(
            prop::sample::select(PIECES),
            0..12,
        )) {
            versions(&bytes.concat());
        }
    }

    /// A file in the working directory may come from a stranger.
    #[test]
    fn only_the_beginning_of_a_regular_file_is_read() {
        let folder = tempfile::tempdir().unwrap();
        let endless = folder.path().join("endless");
        std::os::unix::fs::symlink("/dev/zero", &endless).unwrap();
        assert!(lines(&endless).is_empty());
        let pipe = folder.path().join("pipe");
        let name = std::ffi::CString::new(pipe.as_os_str().as_bytes()).unwrap();
        #[expect(unsafe_code, reason = "the standard library makes no FIFOs")]
        // SAFETY: the name outlives the call.
        let made = unsafe { libc::mkfifo(name.as_ptr(), 0o600) };
        assert_eq!(made, 0);
        assert!(lines(&pipe).is_empty());
        let long = folder.path().join("long");
        fs::write(&long, "1.2.3\n".repeat(1 << 20)).unwrap();
        assert!(lines(&long).len() < 1 << 15);
    }
}
