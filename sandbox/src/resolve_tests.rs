use super::*;
use crate::Content;
use std::os::unix::fs::symlink;

fn host(home: &Path, path: &[&Path]) -> Host {
    let path = std::env::join_paths(path).unwrap();
    Host {
        variables: vec![("HOME".into(), home.into()), ("PATH".into(), path)],
        ..Host::default()
    }
}

fn executable(path: &Path, content: &str) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, content).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
}

/// Where what is shown for a program is.
fn shown(found: &Resolved) -> Vec<PathBuf> {
    found.parts.iter().map(|part| part.at.clone()).collect()
}

fn find(name: &str, host: &Host) -> Result<Resolved, SpawnError> {
    resolve(OsStr::new(name), &[], host, &|_| true)
}

#[test]
fn a_system_program_needs_nothing_more() {
    let host = host(Path::new("/home/u"), &[Path::new("/usr/bin")]);
    let found = find("sh", &host).unwrap();
    assert_eq!(found.path, Path::new("/usr/bin/sh"));
    assert!(shown(&found).is_empty());
    assert_eq!(found.search, "/usr/bin");
}

#[test]
fn a_pyenv_shim_leads_to_the_chosen_version() {
    let home = tempfile::tempdir().unwrap();
    let root = home.path().join(".pyenv");
    executable(
        &root.join("shims/python3"),
        "#!/usr/bin/env bash\nexec pyenv exec\n",
    );
    executable(&root.join("versions/3.9.1/bin/python3"), "");
    executable(&root.join("versions/3.11.7/bin/python3"), "");
    executable(&root.join("versions/3.10.2/bin/only310"), "");
    executable(&root.join("shims/only310"), "#!/usr/bin/env bash\n");
    executable(&root.join("shims/gone"), "#!/usr/bin/env bash\n");
    fs::write(root.join("version"), "3.9.1\n").unwrap();
    let mut host = host(home.path(), &[&root.join("shims")]);

    let found = find("python3", &host).unwrap();
    assert_eq!(found.path, root.join("versions/3.9.1/bin/python3"));
    assert_eq!(shown(&found), [root.join("versions/3.9.1")]);
    let first = std::env::split_paths(&found.search).next().unwrap();
    assert_eq!(first, root.join("versions/3.9.1/bin"));

    host.variables.push(("PYENV_VERSION".into(), "3.11".into()));
    let found = find("python3", &host).unwrap();
    assert_eq!(found.path, root.join("versions/3.11.7/bin/python3"));
    assert_eq!(
        shown(&find("only310", &host).unwrap()),
        [root.join("versions/3.10.2")]
    );
    assert!(matches!(
        find("gone", &host),
        Err(SpawnError::NotFound { .. })
    ));

    // A version that tries to leave the directory is no version.
    host.variables.retain(|(name, _)| name != "PYENV_VERSION");
    fs::write(root.join("version"), "../../etc\n").unwrap();
    let found = find("python3", &host).unwrap();
    assert_eq!(found.path, root.join("versions/3.11.7/bin/python3"));
}

#[test]
fn a_rustup_proxy_leads_to_the_default_toolchain() {
    let home = tempfile::tempdir().unwrap();
    let bin = home.path().join(".cargo/bin");
    executable(&bin.join("rustup"), "binary");
    symlink("rustup", bin.join("rustc")).unwrap();
    fs::hard_link(bin.join("rustup"), bin.join("cargo")).unwrap();
    let root = home.path().join(".rustup");
    for toolchain in ["1.80-x86_64", "stable-x86_64"] {
        executable(
            &root.join("toolchains").join(toolchain).join("bin/rustc"),
            "",
        );
        executable(
            &root.join("toolchains").join(toolchain).join("bin/cargo"),
            "",
        );
    }
    fs::write(
        root.join("settings.toml"),
        "version = \"12\"\ndefault_toolchain = \"stable-x86_64\"\n",
    )
    .unwrap();
    let host = host(home.path(), &[&bin]);
    for tool in ["rustc", "cargo"] {
        let found = find(tool, &host).unwrap();
        assert_eq!(
            found.path,
            root.join("toolchains/stable-x86_64/bin").join(tool)
        );
        assert_eq!(shown(&found), [root.join("toolchains/stable-x86_64")]);
    }
    // rustup itself is a file of a directory that holds more than it.
    assert_eq!(shown(&find("rustup", &host).unwrap()), [bin.join("rustup")]);
}

#[test]
fn a_virtual_environment_keeps_its_own_name_and_shows_both_prefixes() {
    let home = tempfile::tempdir().unwrap();
    let python = home
        .path()
        .join(".local/share/uv/python/cpython-3.12/bin/python3.12");
    executable(&python, "");
    let environment = home.path().join("project/.venv");
    fs::create_dir_all(environment.join("bin")).unwrap();
    fs::write(environment.join("pyvenv.cfg"), "").unwrap();
    symlink(&python, environment.join("bin/python")).unwrap();
    let host = host(home.path(), &[&environment.join("bin")]);
    let found = find("python", &host).unwrap();
    assert_eq!(found.path, environment.join("bin/python"));
    let base = home.path().join(".local/share/uv/python/cpython-3.12/bin");
    assert_eq!(shown(&found), [environment, base]);
}

#[test]
fn asdf_and_mise_shims_lead_to_their_installs() {
    let home = tempfile::tempdir().unwrap();
    let asdf = home.path().join(".asdf");
    executable(
        &asdf.join("shims/node"),
        "#!/usr/bin/env bash\n# asdf-plugin: nodejs 20.1.0\nexec asdf exec \"node\"\n",
    );
    executable(&asdf.join("installs/nodejs/20.1.0/bin/node"), "");
    let found = find("node", &host(home.path(), &[&asdf.join("shims")])).unwrap();
    assert_eq!(shown(&found), [asdf.join("installs/nodejs/20.1.0")]);

    let mise = home.path().join(".local/share/mise");
    executable(&home.path().join(".local/bin/mise"), "binary");
    fs::create_dir_all(mise.join("shims")).unwrap();
    symlink(home.path().join(".local/bin/mise"), mise.join("shims/node")).unwrap();
    executable(&mise.join("installs/node/9.0.0/bin/node"), "");
    executable(&mise.join("installs/node/20.1.0/bin/node"), "");
    let found = find("node", &host(home.path(), &[&mise.join("shims")])).unwrap();
    assert_eq!(shown(&found), [mise.join("installs/node/20.1.0")]);
}

#[test]
fn a_relative_path_names_an_input_file() {
    let file = |path: &str, mode| InputFile {
        path: WorkspacePath::try_from(path).unwrap(),
        mode,
        content: Content::Bytes(Vec::new()),
    };
    let files = [file("run.sh", 0o755), file("data/text", 0o644)];
    let host = Host::default();
    let find = |name: &str| resolve(OsStr::new(name), &files, &host, &|_| true);
    assert_eq!(find("./run.sh").unwrap().path, Path::new("./run.sh"));
    assert_eq!(
        find("/workspace/run.sh").unwrap().path,
        Path::new("./run.sh")
    );
    assert!(matches!(
        find("./data"),
        Err(SpawnError::IsDirectory { .. })
    ));
    assert!(matches!(
        find("data/text"),
        Err(SpawnError::NotExecutable { .. })
    ));
    assert!(matches!(find("./none"), Err(SpawnError::NotFound { .. })));
    assert!(matches!(
        find("../run.sh"),
        Err(SpawnError::InvalidInput { .. })
    ));
    assert!(matches!(find(""), Err(SpawnError::InvalidInput { .. })));
    assert!(matches!(find("/usr"), Err(SpawnError::IsDirectory { .. })));
    assert!(matches!(
        find("/etc/passwd"),
        Err(SpawnError::NotExecutable { .. })
    ));
}

#[test]
fn what_the_sandbox_s_user_cannot_reach_is_passed_over() {
    let home = tempfile::tempdir().unwrap();
    let closed = home.path().join("closed");
    executable(&closed.join("sh"), "");
    let host = host(home.path(), &[&closed, Path::new("/usr/bin")]);
    let found = resolve(OsStr::new("sh"), &[], &host, &|path| {
        !path.starts_with(&closed)
    });
    assert_eq!(found.unwrap().path, Path::new("/usr/bin/sh"));
}

/// Found by the fuzz target `sandbox_configuration`: both became a prefix with ".." in it.
#[test]
fn parent_directories_in_a_path_are_followed_first() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().canonicalize().unwrap();
    for file in ["home/pyvenv.cfg", "home/venv/pyvenv.cfg"] {
        executable(&root.join(file), "");
    }
    for file in ["home/bin/tool", "home/venv/bin/tool"] {
        executable(&root.join(file), "");
    }
    let home = root.join("home");
    let host = host(&home, &[Path::new("/usr/bin")]);
    let found = |path: &str| find(home.join(path).to_str().unwrap(), &host).unwrap();
    let venv = found("venv/bin/../bin/tool");
    assert_eq!(venv.path, home.join("venv/bin/tool"));
    assert_eq!(shown(&venv), [home.join("venv")]);
    // A home is never shown, whatever lies in it.
    for path in ["bin/tool", "venv/../bin/tool"] {
        let tool = found(path);
        assert_eq!(tool.path, home.join("bin/tool"));
        assert_eq!(shown(&tool), [home.join("bin/tool")]);
    }
}

/// The program's own directory comes first inside, where `env node` looks.
#[test]
fn a_program_that_is_a_link_within_its_installation_keeps_its_name() {
    let home = tempfile::tempdir().unwrap();
    let node = home.path().join(".nvm/versions/node/v20");
    let npm = "lib/node_modules/npm/bin/npm-cli.js";
    executable(&node.join("bin/node"), "");
    executable(&node.join(npm), "");
    symlink(Path::new("..").join(npm), node.join("bin/npm")).unwrap();
    let found = find("npm", &host(home.path(), &[&node.join("bin")])).unwrap();
    assert_eq!(found.path, node.join("bin/npm"));
    assert_eq!(shown(&found), [node.join("bin"), node.join("lib")]);
    let first = std::env::split_paths(&found.search).next();
    assert_eq!(first, Some(node.join("bin")));
}
