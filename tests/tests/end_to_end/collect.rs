//! Files that come back from the workspace, and whatever a program can put in their place.

use base64::Engine as _;
use ringfence_tests::{Isolation, Lab, Outcome, Run, Scenario};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{MetadataExt as _, symlink};
use std::path::Path;

pub(crate) const SCENARIOS: &[Scenario] = &[
    Scenario::everywhere("files_come_back", files_come_back),
    Scenario::everywhere("names_are_bytes", names_are_bytes),
    Scenario::everywhere("what_is_no_file_is_named", what_is_no_file_is_named),
    Scenario::everywhere("what_is_too_much_is_named", what_is_too_much_is_named),
    Scenario::everywhere("links_in_the_directory_stay", links_in_the_directory_stay),
    Scenario::everywhere("files_come_back_from_a_kill", files_come_back_from_a_kill),
    Scenario::everywhere("survivors_cannot_swap_files", survivors_cannot_swap_files),
    Scenario::everywhere("requests_are_checked", requests_are_checked),
];

fn python<'a>(lab: &'a Lab<'a>, code: &str) -> Run<'a> {
    lab.run(["python3", "-c", code]).option("--timeout", "120s")
}

/// With `--json`, all that matches `pattern`, into a directory of its own.
fn collect(run: Run<'_>, lab: &Lab, pattern: &str) -> (Outcome, Value) {
    run.option("--collect", pattern)
        .option("--out", lab.path("out"))
        .json()
}

/// Every path below a directory, with a file's bytes.
fn tree(directory: &Path) -> BTreeMap<Vec<u8>, Option<Vec<u8>>> {
    let mut found = BTreeMap::new();
    let mut left = vec![directory.to_owned()];
    while let Some(next) = left.pop() {
        for entry in fs::read_dir(next).into_iter().flatten().flatten() {
            let path = entry.path();
            let kind = entry.file_type().unwrap();
            let name = path.strip_prefix(directory).unwrap().as_os_str();
            let bytes = kind.is_file().then(|| fs::read(&path).unwrap());
            found.insert(name.as_bytes().to_vec(), bytes);
            if kind.is_dir() {
                left.push(path);
            }
        }
    }
    found
}

/// Files keep their paths and bytes, and of their modes what the owner may do.
fn files_come_back(lab: &Lab) {
    let script = "mkdir -p dist/deep; echo one > dist/a.txt; head -c 3000000 /dev/zero > dist/deep/b; \
                  echo no > other; cp dist/a.txt dist/run; chmod 755 dist/run; chmod 4755 dist/run 2>&1; \
                  ln dist/a.txt dist/c.txt; \
                  : > dist/empty; cat in >> dist/a.txt; exit 3";
    let input = lab.file("in", "from outside\n");
    let run = lab.run(["sh", "-c", script]).option("--file", input);
    let run = run.option("--collect", "nothing/**");
    let (outcome, value) = collect(run, lab, "dist/**");
    outcome.assert_code(3);
    let expected = json!([
        {"path": "dist/a.txt", "bytes": 17},
        {"path": "dist/c.txt", "bytes": 17},
        {"path": "dist/deep/b", "bytes": 3_000_000},
        {"path": "dist/empty", "bytes": 0},
        {"path": "dist/run", "bytes": 4},
    ]);
    assert_eq!(value["collected"], expected, "{outcome}");
    assert_eq!(value["not_collected"], json!([]), "{outcome}");
    assert_eq!(value["unmatched"], json!(["nothing/**"]), "{outcome}");
    assert_eq!(value["collect_error"], Value::Null, "{outcome}");
    let out = lab.path("out");
    let found = tree(&out);
    assert_eq!(
        found[&b"dist/c.txt"[..]].as_deref(),
        Some(&b"one\nfrom outside\n"[..])
    );
    assert_eq!(found[&b"dist/deep/b"[..]], Some(vec![0; 3_000_000]));
    assert_eq!(found.len(), 7, "{:?}", found.keys());
    let mode = |name: &str| fs::metadata(out.join(name)).unwrap().mode() & 0o7777;
    assert_eq!((mode("dist/run"), mode("dist/a.txt")), (0o700, 0o600));
    let owner = |path: &Path| fs::metadata(path).unwrap().uid();
    assert_eq!(owner(&out.join("dist/a.txt")), owner(&lab.path("home")));

    // Once more into the same directory, for people.
    let run = lab.run(["sh", "-c", "mkdir dist; echo two > dist/a.txt"]);
    let run = run.option("--collect", "dist/*.txt").option("--out", &out);
    run.outcome().assert_code(0).assert_stdout("");
    assert_eq!(fs::read(out.join("dist/a.txt")).unwrap(), b"two\n");
}

/// Names that are no text, or text that a terminal would obey.
fn names_are_bytes(lab: &Lab) {
    let code = r"
import os
os.mkdir('o')
for name in (b'\xff\xfe', b'a\nb', b'\x1b[2J', b' ', b'-rf', b'*', b'\xe2\x80\xae'):
    open(b'o/' + name, 'w').write('x')
os.symlink('x', b'o/\x1b[31m\n')
";
    let (outcome, value) = collect(python(lab, code), lab, "o/*");
    outcome.assert_code(0);
    let found = tree(&lab.path("out/o"));
    let names: [&[u8]; 7] = [
        b"\xff\xfe",
        b"a\nb",
        b"\x1b[2J",
        b" ",
        b"-rf",
        b"*",
        b"\xe2\x80\xae",
    ];
    assert_eq!(found.len(), names.len(), "{found:?}");
    for name in names {
        assert_eq!(found[name].as_deref(), Some(&b"x"[..]), "{name:?}");
    }
    let encoded = base64::engine::general_purpose::STANDARD.encode(b"o/\xff\xfe");
    let files = value["collected"].as_array().unwrap();
    let raw = json!({"path_base64": encoded, "bytes": 1});
    assert!(files.contains(&raw), "{value}");
    // On a terminal no name does anything.
    let run = python(lab, code).option("--collect", "o/*");
    let shown = run.option("--out", lab.path("out")).outcome();
    let errors = shown.errors();
    assert!(
        errors.contains(r#""o/\u{1b}[31m\n": a symbolic link"#),
        "{shown}"
    );
    assert!(
        !errors.contains('\u{1b}') && errors.lines().count() == 1,
        "{shown}"
    );
}

/// Links to secrets, FIFOs, sockets, unreadable files and directories: named, never opened.
fn what_is_no_file_is_named(lab: &Lab) {
    let secret = lab.file("home/secret", "s3cr3t");
    let code = format!(
        "
import os, socket
os.mkdir('o'); os.mkdir('o/closed'); os.mkdir('o/real')
open('o/real/file', 'w').write('fine')
open('o/unreadable', 'w').write('x'); os.chmod('o/unreadable', 0)
open('o/closed/file', 'w').write('x')
os.symlink({secret:?}, 'o/secret')
os.symlink({home:?}, 'o/home')
os.symlink('real', 'o/inner')
os.symlink('o/inner', 'again')
os.mkfifo('o/fifo')
try: socket.socket(socket.AF_UNIX).bind('o/socket')
except PermissionError: os.mkfifo('o/socket')
try: os.mknod('o/device', 0o020666, os.makedev(1, 5))
except PermissionError: os.mkfifo('o/device')
os.chmod('o/closed', 0)
",
        home = lab.path("home"),
    );
    let (outcome, value) = collect(python(lab, &code), lab, "**");
    outcome.assert_code(0);
    assert_eq!(
        value["collected"],
        json!([{"path": "o/real/file", "bytes": 4}]),
        "{outcome}"
    );
    let named = |path: &str, why: &str| json!({"path": path, "why": why});
    let expected = json!([
        named("again", "a symbolic link"),
        named("o/closed", "unreadable for its owner"),
        named("o/device", "a device, socket or FIFO"),
        named("o/fifo", "a device, socket or FIFO"),
        named("o/home", "a symbolic link"),
        named("o/inner", "a symbolic link"),
        named("o/secret", "a symbolic link"),
        named("o/socket", "a device, socket or FIFO"),
        named("o/unreadable", "unreadable for its owner"),
    ]);
    assert_eq!(value["not_collected"], expected, "{outcome}");
    let found = tree(&lab.path("out"));
    assert_eq!(found.len(), 3, "{found:?}");
    fs::remove_file(secret).unwrap();
}

/// Giants, masses and depths are a bounded, named error beside the report, and nothing is written.
fn what_is_too_much_is_named(lab: &Lab) {
    let deep = r"
import os
for _ in range(300):
    os.mkdir('d' * 50); os.chdir('d' * 50)
open('file', 'w').write('x')
";
    let (outcome, value) = collect(python(lab, deep), lab, "**");
    outcome.assert_code(0);
    assert_eq!(value["collected"], json!([]), "{outcome}");
    let skipped = value["not_collected"].as_array().unwrap();
    let [skipped] = &skipped[..] else {
        panic!("{outcome}")
    };
    assert_eq!(skipped["why"], "too deep or too long a path");
    for (pattern, code, words) in [
        (
            "*",
            "import os; open('giant', 'w').truncate(1 << 40); open('a', 'w').write('x')",
            ["\"giant\" has 1099511627776 bytes", "collect less"],
        ),
        (
            "*",
            "[open(f'{n}', 'w').write('x') for n in range(5000)]",
            ["more than 4096 files", "collect less"],
        ),
        (
            "out/*",
            "[open(f'{n}', 'w').close() for n in range(100001)]",
            ["more than 100000 files and directories", "collect less"],
        ),
    ] {
        let mut run = python(lab, code);
        if lab.isolation.is_bare() {
            // Without a mount namespace it limits the size of each file.
            run = run.option("--workspace-size", "2TiB");
        }
        let (outcome, value) = collect(run, lab, pattern);
        outcome.assert_code(125);
        assert_eq!(
            (&value["status"], &value["exit_code"]),
            (&json!("exited"), &json!(0))
        );
        let error = value["collect_error"].as_str().unwrap();
        for word in words {
            assert!(error.contains(word), "{error}");
        }
        assert_eq!(value["collected"], json!([]), "{outcome}");
        let found = tree(&lab.path("out"));
        assert!(found.is_empty(), "{found:?}");
    }
}

/// Links that somebody has put into the directory are replaced, or refused on the way.
fn links_in_the_directory_stay(lab: &Lab) {
    let out = lab.open_directory("out");
    let victim = lab.open_directory("victim");
    let file = lab.file("victim/file", "before");
    symlink(&file, out.join("a")).unwrap();
    symlink(&victim, out.join("d")).unwrap();
    let script = "echo x > a; mkdir d; echo x > d/file; echo x > d/new";
    let (outcome, value) = collect(lab.run(["sh", "-c", script]), lab, "**");
    outcome.assert_code(125);
    assert_eq!(
        value["collected"],
        json!([{"path": "a", "bytes": 2}]),
        "{outcome}"
    );
    let error = value["collect_error"].as_str().unwrap();
    assert!(error.contains("cannot write \"d/file\""), "{error}");
    assert_eq!(fs::read(&file).unwrap(), b"before");
    assert_eq!(fs::read_dir(&victim).unwrap().count(), 1);
    assert!(!out.join("a").is_symlink());
    assert_eq!(fs::read_dir(&out).unwrap().count(), 2);
}

/// What was there when a limit ended the program comes back, too.
fn files_come_back_from_a_kill(lab: &Lab) {
    let run = lab.run(["sh", "-c", "echo x > a; sleep 300"]);
    let (outcome, value) = collect(run.option("--timeout", "3s"), lab, "*");
    outcome.assert_code(124);
    assert_eq!(value["status"], "timed_out");
    assert_eq!(
        value["collected"],
        json!([{"path": "a", "bytes": 2}]),
        "{outcome}"
    );
}

/// A process that outlives the first one and swaps the output for a link to a secret all the time is
/// dead before anything is looked at.
fn survivors_cannot_swap_files(lab: &Lab) {
    let secret = lab.file("home/secret", "s3cr3t");
    let code = format!(
        "
import os
os.mkdir('o')
ready, told = os.pipe()
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        open('good', 'w').write('good')
        for number in range(1 << 60):
            os.symlink({secret:?}, 'new'); os.rename('new', 'o/file')
            os.link('good', 'new'); os.rename('new', 'o/file')
            os.rename('o', 'p'); os.symlink({home:?}, 'o'); os.unlink('o'); os.rename('p', 'o')
            if number == 3: os.write(told, b'x')
    os._exit(0)
os.read(ready, 1)
",
        home = lab.path("home"),
    );
    let rounds = if lab.isolation == Isolation::Vm {
        1
    } else {
        10
    };
    for _ in 0..rounds {
        let (outcome, value) = collect(python(lab, &code), lab, "{o,p}/**");
        outcome.assert_code(0);
        for (name, bytes) in tree(&lab.path("out")) {
            let name = OsStr::from_bytes(&name).to_owned();
            assert!(
                bytes.is_none_or(|bytes| bytes == b"good"),
                "{name:?} {value}"
            );
        }
    }
    fs::remove_file(secret).unwrap();
}

/// Patterns and directories that make no sense are refused before anything runs.
fn requests_are_checked(lab: &Lab) {
    let touched = lab.open_directory("touched");
    let run = || lab.run(["true"]);
    run()
        .option("--collect", "x")
        .outcome()
        .assert_error(125, &["--out"]);
    run()
        .option("--out", &touched)
        .outcome()
        .assert_error(125, &["--collect"]);
    for (pattern, word) in [
        ("../x", "plain path"),
        ("/etc/passwd", "plain path"),
        ("a/../b", "plain path"),
        ("", "plain path"),
        ("!x", "plain path"),
        ("a[", "not valid"),
        ("{a", "not valid"),
    ] {
        let run = run().option("--collect", pattern).option("--out", &touched);
        run.outcome().assert_error(125, &[word]);
    }
    let file = lab.file("file", "");
    let run = run().option("--collect", "x").option("--out", &file);
    run.outcome()
        .assert_error(125, &["cannot write to", "name a directory"]);
}
