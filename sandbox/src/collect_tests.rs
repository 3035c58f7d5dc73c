//! Tests of [`super`].

use super::*;
use std::fs;
use std::io::Read as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{PermissionsExt, chown, symlink};
use std::path::Path;

fn patterns(all: &[&str]) -> Patterns {
    Patterns::new(all.iter().map(|&one| one.into()).collect()).unwrap()
}

fn text(path: &WorkspacePath) -> String {
    String::from_utf8_lossy(path.as_bytes()).into_owned()
}

/// What is collected, with its bytes, and what is not.
type Outcome = (Vec<(String, u32, Vec<u8>)>, Vec<(String, Uncollected)>);

fn collected(directory: &Path, wanted: &[&str], limit: u64) -> Result<Outcome, String> {
    let workspace = rustix::fs::open(directory, OFlags::PATH, Mode::empty()).unwrap();
    let found = collect(
        workspace.as_fd(),
        &patterns(wanted),
        &[b"granted".to_vec()],
        limit,
    );
    let found = found.map_err(|error| error.to_string())?;
    let read = |file: &Found| {
        let mut bytes = Vec::new();
        let opened = found.open(file).unwrap();
        opened.take(file.size).read_to_end(&mut bytes).unwrap();
        assert_eq!(bytes.len() as u64, file.size);
        (text(&file.path), file.mode, bytes)
    };
    let skipped = found.skipped.iter().map(|(path, why)| (text(path), *why));
    Ok((found.files.iter().map(read).collect(), skipped.collect()))
}

fn set_mode(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

#[test]
fn regular_files_come_in_order_and_everything_else_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    let big = vec![7; 200_000];
    fs::create_dir_all(at("out/deep")).unwrap();
    fs::create_dir_all(at("granted")).unwrap();
    fs::create_dir_all(at("closed")).unwrap();
    fs::write(at("out/deep/b.txt"), &big).unwrap();
    fs::write(at("out/a.txt"), b"").unwrap();
    fs::hard_link(at("out/a.txt"), at("out/again.txt")).unwrap();
    fs::write(at("granted/x.txt"), b"of the host").unwrap();
    fs::write(at("closed/x.txt"), b"").unwrap();
    fs::write(at("other"), b"x").unwrap();
    fs::write(at("secret.txt"), b"x").unwrap();
    set_mode(&at("out/a.txt"), 0o640);
    set_mode(&at("secret.txt"), 0o000);
    set_mode(&at("closed"), 0o300);
    symlink("/etc/passwd", at("out/link.txt")).unwrap();
    symlink("/etc", at("out/etc.txt")).unwrap();
    symlink("a.txt", at("out/inside.txt")).unwrap();
    let fifo = at("out/fifo.txt");
    rustix::fs::mknodat(rustix::fs::CWD, &fifo, FileType::Fifo, Mode::RWXU, 0).unwrap();
    let _socket = std::os::unix::net::UnixListener::bind(at("out/socket.txt")).unwrap();
    let (files, skipped) = collected(dir.path(), &["**/*.txt"], 1 << 20).unwrap();
    let names: Vec<&str> = files.iter().map(|(name, ..)| name.as_str()).collect();
    assert_eq!(names, ["out/a.txt", "out/again.txt", "out/deep/b.txt"]);
    assert_eq!((files[0].1, &files[2].2), (0o640, &big));
    let expected = [
        ("closed", Uncollected::Unreadable),
        ("out/etc.txt", Uncollected::Link),
        ("out/fifo.txt", Uncollected::Special),
        ("out/inside.txt", Uncollected::Link),
        ("out/link.txt", Uncollected::Link),
        ("out/socket.txt", Uncollected::Special),
        ("secret.txt", Uncollected::Unreadable),
    ];
    let expected = expected.map(|(name, why)| (name.to_owned(), why));
    assert_eq!(skipped, expected);
    set_mode(&at("closed"), 0o700);
}

#[test]
fn files_of_others_are_not_read() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("theirs"), b"secret").unwrap();
    if chown(dir.path().join("theirs"), Some(4321), None).is_err() {
        eprintln!("SKIPPED: only root can give a file away");
        return;
    }
    let (files, skipped) = collected(dir.path(), &["*"], 1 << 20).unwrap();
    assert!(files.is_empty());
    assert_eq!(skipped, [("theirs".to_owned(), Uncollected::Foreign)]);
}

#[test]
fn names_are_bytes() {
    let dir = tempfile::tempdir().unwrap();
    let names: [&[u8]; 4] = [b"\xff\xfe", b"a\nb", b"\x1b[2J", b" "];
    for name in names {
        fs::write(dir.path().join(std::ffi::OsStr::from_bytes(name)), name).unwrap();
    }
    let workspace = rustix::fs::open(dir.path(), OFlags::PATH, Mode::empty()).unwrap();
    let found = collect(workspace.as_fd(), &patterns(&["*"]), &[], 99).unwrap();
    let mut found: Vec<&[u8]> = found
        .files
        .iter()
        .map(|file| file.path.as_bytes())
        .collect();
    found.sort_unstable();
    let mut names = names;
    names.sort_unstable();
    assert_eq!(found, names);
}

#[test]
fn a_sparse_giant_is_refused_by_name() {
    let dir = tempfile::tempdir().unwrap();
    let giant = File::create(dir.path().join("giant")).unwrap();
    giant.set_len(1 << 40).unwrap();
    let message = collected(dir.path(), &["*"], 1 << 20).unwrap_err();
    assert!(
        message.contains("\"giant\" has 1099511627776 bytes"),
        "{message}"
    );
}

#[test]
fn too_many_files_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    for number in 0..=COLLECT_FILES {
        fs::write(dir.path().join(number.to_string()), b"").unwrap();
    }
    let message = collected(dir.path(), &["*"], 1 << 20).unwrap_err();
    assert!(message.contains("more than 4096 files"), "{message}");
    let (files, _) = collected(dir.path(), &["1"], 1 << 20).unwrap();
    assert_eq!(files.len(), 1);
}

#[test]
fn deep_trees_are_named_and_not_followed() {
    let dir = tempfile::tempdir().unwrap();
    let mut parent = rustix::fs::open(dir.path(), OFlags::PATH, Mode::empty()).unwrap();
    // Deeper than any path can say, built as a program builds it.
    for _ in 0..200 {
        rustix::fs::mkdirat(&parent, "d".repeat(60), Mode::RWXU).unwrap();
        parent = rustix::fs::openat(&parent, "d".repeat(60), OFlags::PATH, Mode::empty()).unwrap();
    }
    let (files, skipped) = collected(dir.path(), &["**"], 1 << 20).unwrap();
    assert!(files.is_empty());
    assert_eq!(skipped.len(), 1, "{skipped:?}");
    assert_eq!(skipped[0].1, Uncollected::TooDeep);
}

#[test]
fn patterns_are_checked() {
    for bad in [
        "a[",
        "{a",
        "a\\",
        "",
        "!a",
        "/etc/passwd",
        "../x",
        "a/../b",
        "a//b",
        "a/",
        "./a",
    ] {
        assert!(Patterns::new(vec![bad.into()]).is_err(), "{bad}");
    }
    assert!(Patterns::new(vec!["x".repeat(MAX_PATTERN + 1)]).is_err());
    assert!(Patterns::new(vec!["x".into(); MAX_PATTERNS + 1]).is_err());
    assert!(Patterns::new(vec!["\\!x".into(), "a/**".into(), "*.{a,b}".into()]).is_ok());
}
