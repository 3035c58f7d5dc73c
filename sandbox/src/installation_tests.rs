use super::*;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use tempfile::TempDir;

/// A directory without links in its path, and what a test put there.
struct Tree {
    root: PathBuf,
    _folder: TempDir,
}

impl Tree {
    /// Names that end with a slash are directories, and "a -> b" is a link.
    fn new(names: &[&str]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().canonicalize().unwrap();
        for name in names {
            let (name, target) = name.split_once(" -> ").unwrap_or((name, ""));
            let path = root.join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            if !target.is_empty() {
                symlink(target, path).unwrap();
            } else if name.ends_with('/') {
                fs::create_dir_all(path).unwrap();
            } else {
                fs::write(&path, "").unwrap();
                fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
            }
        }
        let _folder = folder;
        Self { root, _folder }
    }

    fn host(&self) -> Host {
        Host {
            variables: vec![("HOME".into(), self.root.join("home").into())],
            ..Host::default()
        }
    }

    /// What is shown of the tree for a program in it.
    fn shown_on(&self, host: &Host, program: &str) -> Vec<String> {
        let path = self.root.join(program);
        let file = path.canonicalize().unwrap();
        let shown = shown(&path, &file, host);
        let names = shown.iter().map(|part| {
            assert_eq!(part.real.canonicalize().unwrap(), part.real);
            assert_eq!(part.at.canonicalize().unwrap(), part.real);
            let part = part.at.strip_prefix(&self.root).unwrap();
            part.to_str().unwrap().to_owned()
        });
        let mut names: Vec<String> = names.collect();
        names.sort();
        names
    }

    fn shown(&self, program: &str) -> Vec<String> {
        self.shown_on(&self.host(), program)
    }
}

#[test]
fn of_an_installation_its_parts_are_shown_and_nothing_else() {
    let tree = Tree::new(&[
        "x/bin/tool",
        "x/sbin/daemon",
        "x/lib/code",
        "x/lib64 -> lib",
        "x/share/doc/",
        "x/include",
        "x/secret.conf",
        "x/src/",
        "x/etc/",
        "x/.hidden/",
        "x/release",
        "x/VERSION",
    ]);
    // "include" is a file here.
    let parts = ["x/bin", "x/lib", "x/lib64", "x/sbin", "x/share"];
    assert_eq!(tree.shown("x/bin/tool"), parts);
    assert_eq!(tree.shown("x/sbin/daemon"), parts);
    assert_eq!(tree.shown("x/lib/code"), ["x/lib/code"]);
}

#[test]
fn of_somebody_s_own_work_the_program_alone_is_shown() {
    for sign in [
        ".git/",
        ".git",
        ".hg/",
        ".svn/",
        ".jj/",
        ".env",
        ".env -> nowhere",
    ] {
        let sign = format!("home/work/{sign}");
        let tree = Tree::new(&["home/work/bin/tool", "home/work/lib/code", &sign]);
        assert_eq!(
            tree.shown("home/work/bin/tool"),
            ["home/work/bin/tool"],
            "{sign}"
        );
    }
    let tree = Tree::new(&["work/bin/tool", "work/lib/code", "work/part/"]);
    let mut host = tree.host();
    for (directory, expected) in [
        ("work", &["work/bin/tool"] as &[_]),
        ("work/part", &["work/bin", "work/lib"]),
    ] {
        host.directory = Some(tree.root.join(directory));
        assert_eq!(tree.shown_on(&host, "work/bin/tool"), expected);
    }
}

#[test]
fn a_part_that_is_a_link_leads_to_another_part_or_is_not_shown() {
    for target in [
        ".", "..", "../home", "/", "/etc", "secret", ".hidden", "nowhere", "lib", "../x", "bin/..",
        "bin/out",
    ] {
        let link = format!("x/lib -> {target}");
        let tree = Tree::new(&[
            "x/bin/tool",
            "x/bin/out -> ../secret",
            "x/secret/key",
            "x/.hidden/",
            "home/key",
            &link,
        ]);
        assert_eq!(tree.shown("x/bin/tool"), ["x/bin"], "{target}");
    }
    let tree = Tree::new(&["x/bin/tool", "x/lib -> lib64", "x/lib64/python/"]);
    assert_eq!(tree.shown("x/bin/tool"), ["x/bin", "x/lib", "x/lib64"]);
}

#[test]
fn jdks_go_and_conda_have_parts_of_their_own() {
    let usual = ["x/bin/tool", "x/lib/", "x/src/", "x/legal/", "x/secret"];
    let kinds: [(&[&str], &[&str]); 8] = [
        (
            &["x/release", "x/lib/modules", "x/conf/", "x/jmods/"],
            &["conf", "jmods", "release"],
        ),
        (&["x/release", "x/jre/lib/", "x/conf/"], &["jre", "release"]),
        (&["x/release", "x/conf/", "x/jmods/"], &[]),
        (
            &["x/VERSION", "x/go.env", "x/pkg/tool/"],
            &["VERSION", "go.env", "pkg", "src"],
        ),
        (&["x/VERSION", "x/pkg/mine/"], &[]),
        (&["x/conda-meta/", "x/ssl/", "x/etc/"], &["ssl"]),
        (&["x/ssl/"], &[]),
        // A part that is a link out stays away here, too.
        (
            &[
                "x/release -> /etc/passwd",
                "x/lib/modules",
                "x/conf -> /etc",
            ],
            &[],
        ),
    ];
    for (names, more) in kinds {
        let tree = Tree::new(&[&usual, names].concat());
        let mut expected: Vec<String> = ["bin", "lib"]
            .iter()
            .chain(more)
            .map(|name| format!("x/{name}"))
            .collect();
        expected.sort();
        assert_eq!(tree.shown("x/bin/tool"), expected, "{names:?}");
    }
}

#[test]
fn an_installation_of_a_version_manager_is_shown_as_a_whole_without_its_shim_too() {
    for (prefix, manager) in [
        ("home/.pyenv/versions/3.1", "home/.pyenv/shims/"),
        ("home/.asdf/installs/node/1.2", "home/.asdf/shims/"),
        (
            "home/.local/share/mise/installs/node/1.2",
            "home/.local/share/mise/shims/",
        ),
        (
            "home/.rustup/toolchains/stable",
            "home/.rustup/settings.toml",
        ),
    ] {
        let program = format!("{prefix}/bin/tool");
        let openssl = format!("{prefix}/openssl/");
        let tree = Tree::new(&[&program, &openssl, manager]);
        assert_eq!(tree.shown(&program), [prefix]);
        // What is only called alike is an installation like others.
        if manager.ends_with("shims/") {
            let tree = Tree::new(&[&program, &openssl]);
            assert_eq!(tree.shown(&program), [format!("{prefix}/bin")]);
        }
    }
    let tree = Tree::new(&[
        "home/.pyenv/shims/",
        "home/.pyenv/versions/linked -> ../../work",
        "home/work/bin/tool",
        "home/work/secret",
    ]);
    let shown = tree.shown("home/.pyenv/versions/linked/bin/tool");
    assert_eq!(shown, ["home/.pyenv/versions/linked/bin", "home/work/bin"]);
}

#[test]
fn a_link_within_an_installation_shows_that_installation() {
    let npm = "lib/node_modules/npm/bin/npm-cli.js";
    let tree = Tree::new(&[
        "home/node/v20/bin/node",
        &format!("home/node/v20/{npm}"),
        &format!("home/node/v20/bin/npm -> ../{npm}"),
        "home/node/v20/README",
        "home/node/current -> v20",
        "home/.local/bin/npm -> ../../node/v20/bin/npm",
    ]);
    let parts = ["home/node/v20/bin", "home/node/v20/lib"];
    assert_eq!(tree.shown("home/node/v20/bin/npm"), parts);
    assert_eq!(tree.shown("home/.local/bin/npm"), parts);
    let both = ["home/node/current/bin", "home/node/current/lib"];
    let both = [both, parts].concat();
    assert_eq!(tree.shown("home/node/current/bin/npm"), both);

    let round = Tree::new(&["x/bin/tool", "x/bin/round -> round"]);
    let path = round.root.join("x/bin/round");
    assert_eq!(
        shown(&path, &path, &round.host()),
        [Part::of(round.root.join("x/bin"))]
    );
}

#[test]
fn the_base_of_a_virtual_environment_keeps_the_name_by_which_it_is_linked() {
    let tree = Tree::new(&["home/uv/3.12.1/bin/python3.12", "home/uv/3.12.1/lib/os.py"]);
    let at = |name: &str| tree.root.join(name);
    symlink("3.12.1", at("home/uv/3.12")).unwrap();
    fs::create_dir_all(at("home/work/.venv/bin")).unwrap();
    fs::write(at("home/work/.venv/pyvenv.cfg"), "").unwrap();
    let python = at("home/work/.venv/bin/python");
    symlink(at("home/uv/3.12/bin/python3.12"), python).unwrap();
    let expected = [
        "home/uv/3.12.1/bin",
        "home/uv/3.12.1/lib",
        "home/uv/3.12/bin",
        "home/uv/3.12/lib",
        "home/work/.venv",
    ];
    assert_eq!(tree.shown("home/work/.venv/bin/python"), expected);
}

#[test]
fn a_virtual_environment_that_is_somebody_s_work_shows_its_parts() {
    let tree = Tree::new(&[
        "work/bin/python -> /usr/bin/env",
        "work/bin/tool",
        "work/lib/python3/",
        "work/lib64 -> lib",
        "work/pyvenv.cfg",
        "work/.env",
        "work/notes",
        "home/.local/bin/tool -> ../../../work/bin/tool",
    ]);
    let parts = ["work/bin", "work/lib", "work/lib64", "work/pyvenv.cfg"];
    for program in ["work/bin/python", "work/bin/tool", "home/.local/bin/tool"] {
        assert_eq!(tree.shown(program), parts, "{program}");
    }
}

#[test]
fn a_home_is_never_shown() {
    let host = Host {
        variables: vec![("HOME".into(), "/home/u".into())],
        ..Host::default()
    };
    let homes = Homes::of(&host);
    for (prefix, wide) in [
        ("/", true),
        ("/opt", true),
        ("/opt/x", false),
        ("/home", true),
        ("/home/u", true),
        ("/home/u/.local", true),
        ("/home/u/.cargo", true),
        ("/home/u/miniconda3", false),
        ("/home/u/.nvm/versions/node/v20", false),
        ("/home/other", true),
        ("/home/other/.local", true),
        ("/home/other/work", false),
        ("/root", true),
        ("/root/.local", true),
        ("/root/work", false),
    ] {
        assert_eq!(homes.too_wide(Path::new(prefix)), wide, "{prefix}");
    }
}

#[test]
fn a_home_that_is_a_link_is_one_under_both_names() {
    let tree = Tree::new(&[
        "disk/bin/tool",
        "disk/lib/key",
        "disk/.local/bin/tool",
        "disk/.local/share/key",
        "disk/pyvenv.cfg",
        "home -> disk",
    ]);
    for home in ["home", "disk"] {
        for program in ["bin/tool", ".local/bin/tool"] {
            let shown = tree.shown(&format!("{home}/{program}"));
            assert_eq!(shown, [format!("disk/{program}")]);
        }
    }
}
