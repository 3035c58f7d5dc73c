//! Programs that are not the system's: what they were installed with works, and what lies beside
//! them stays hidden, whoever's it is.

#![cfg(target_os = "linux")]
#![expect(clippy::unwrap_used, reason = "a test stops where it is surprised")]

mod common;

use common::{MODES, run, spec};
use ringfence_sandbox::{Access, Grant, Namespaces};
use rustix::fs::{CWD, RenameFlags, renameat_with};
use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use tempfile::TempDir;

/// A directory that anybody may read.
struct Place {
    top: PathBuf,
    _folder: TempDir,
}

impl Place {
    fn path(&self) -> &Path {
        &self.top
    }
}

/// A directory with these files and what they hold, not right below a home.
fn place(files: &[(&str, &str)]) -> Place {
    let folder = tempfile::tempdir().unwrap();
    let top = folder.path().canonicalize().unwrap().join("top");
    fs::create_dir(&top).unwrap();
    for (name, content) in files {
        let path = top.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, content).unwrap();
    }
    let mut all = vec![folder.path().to_path_buf()];
    while let Some(path) = all.pop() {
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        if path.is_dir() {
            all.extend(
                fs::read_dir(path)
                    .unwrap()
                    .map(|entry| entry.unwrap().path()),
            );
        }
    }
    Place {
        top,
        _folder: folder,
    }
}

/// A script that reads all it is given and lists what is above it. Each file ends without a newline.
const READER: &str = "#!/bin/sh
top=$1; shift
for name; do echo \"$name: $(cat \"$top/$name\" 2>/dev/null || echo denied)\"; done
echo \"listed: $(ls -a \"$top\" 2>/dev/null | tr '\\n' ' ')\"
";

/// What the reader at `program` says of these names in `top`, in each mode.
fn check(top: &Path, program: &str, grants: &[&Path], expected: &[(&str, &str)]) {
    let program = top.join(program);
    let mut args = vec![top.to_str().unwrap()];
    args.extend(expected.iter().map(|(name, _)| *name));
    for mode in MODES {
        let mut spec = spec(program.to_str().unwrap(), &args, mode);
        spec.grants = grants.iter().map(|path| reading(path)).collect();
        let outcome = run(spec);
        let lines = expected
            .iter()
            .map(|(name, said)| format!("{name}: {said}"));
        let expected: Vec<String> = lines.collect();
        let text = outcome.text();
        let (said, listed) = text.rsplit_once("\nlisted:").unwrap();
        let said: Vec<&str> = said.lines().map(str::trim).collect();
        assert_eq!(said, expected, "{mode:?} {}", outcome.errors());
        hides(listed.split_whitespace(), mode);
    }
}

/// Without a private root nothing is listed. In one there is nothing but what was put there.
fn hides<'a>(listed: impl Iterator<Item = &'a str>, mode: Namespaces) {
    let known = [
        ".",
        "..",
        "bin",
        "lib",
        "lib64",
        "share",
        "include",
        ".venv",
        "pyvenv.cfg",
    ];
    for name in listed {
        let private = mode == Namespaces::Auto;
        assert!(private && known.contains(&name), "{mode:?} {name}");
    }
}

fn reading(path: &Path) -> Grant {
    Grant {
        path: path.into(),
        destination: None,
        access: Access::Read,
    }
}

#[test]
fn what_lies_beside_a_program_stays_hidden() {
    let place = place(&[
        ("bin/tool", READER),
        ("bin/other", "other"),
        ("lib/code", "code"),
        ("share/data", "data"),
        ("secret.conf", "secret"),
        ("src/main", "source"),
        ("data/.env", "secret"),
    ]);
    let hidden = [
        ("secret.conf", "denied"),
        ("src/main", "denied"),
        ("data/.env", "denied"),
        ("bin/../secret.conf", "denied"),
        ("lib/../data/.env", "denied"),
    ];
    let parts = [
        ("bin/other", "other"),
        ("lib/code", "code"),
        ("share/data", "data"),
    ];
    check(
        place.path(),
        "bin/tool",
        &[],
        &[&hidden[..], &parts].concat(),
    );
}

#[test]
fn of_somebody_s_own_work_a_program_reads_itself_alone() {
    for (sign, inside) in [(".env", ".env"), (".git", ".git/config")] {
        let place = place(&[
            ("bin/tool", READER),
            ("bin/other", "other"),
            ("lib/code", "code"),
            ("secret.conf", "secret"),
            (inside, "secret"),
        ]);
        let hidden = [
            (inside, "denied"),
            ("secret.conf", "denied"),
            ("bin/other", "denied"),
            ("lib/code", "denied"),
        ];
        check(place.path(), "bin/tool", &[], &hidden);
        // What the caller grants is shown, and nothing more.
        let granted = [(inside, "denied"), ("lib/code", "code")];
        let lib = place.path().join("lib");
        check(place.path(), "bin/tool", &[&lib], &granted);
        assert!(place.path().join(sign).exists());
    }
}

#[test]
fn a_link_in_place_of_a_part_shows_nothing() {
    let others = place(&[("key", "secret")]);
    for target in [".", "secret", others.path().to_str().unwrap()] {
        let place = place(&[("bin/tool", READER), ("secret/key", "secret")]);
        for part in ["lib", "share", "libexec"] {
            symlink(target, place.path().join(part)).unwrap();
        }
        let hidden = [
            ("secret/key", "denied"),
            ("lib/key", "denied"),
            ("share/key", "denied"),
            ("lib/secret/key", "denied"),
            ("libexec/../secret/key", "denied"),
        ];
        check(place.path(), "bin/tool", &[], &hidden);
    }
}

/// `lib64` is a link in many installations, and the loader looks there.
#[test]
fn a_link_from_part_to_part_leads_there() {
    let place = place(&[("bin/tool", READER), ("lib/code", "code")]);
    symlink("lib", place.path().join("lib64")).unwrap();
    let shown = [("lib/code", "code"), ("lib64/code", "code")];
    check(place.path(), "bin/tool", &[], &shown);
}

#[test]
fn an_interpreter_beside_the_program_runs_it() {
    let place = place(&[("lib/code", "code"), ("secret", "secret")]);
    let interpreter = place.path().join("bin/interpreter");
    fs::create_dir(place.path().join("bin")).unwrap();
    fs::set_permissions(place.path().join("bin"), fs::Permissions::from_mode(0o755)).unwrap();
    fs::copy("/bin/sh", &interpreter).unwrap();
    let script = READER.replacen("/bin/sh", interpreter.to_str().unwrap(), 1);
    let tool = place.path().join("lib/tool");
    fs::write(&tool, script).unwrap();
    fs::set_permissions(&tool, fs::Permissions::from_mode(0o755)).unwrap();
    symlink("../lib/tool", place.path().join("bin/tool")).unwrap();
    let shown = [("lib/code", "code"), ("secret", "denied")];
    check(place.path(), "bin/tool", &[], &shown);
}

/// A virtual environment of the system's Python, in somebody's work and as that work itself.
#[test]
fn a_virtual_environment_works_and_hides_the_work_around_it() {
    for inside in [".venv", ""] {
        let place = place(&[("notes", "secret"), (".env", "secret")]);
        let environment = place.path().join(inside);
        let mut make = std::process::Command::new("/usr/bin/python3");
        let made = make
            .args(["-m", "venv", "--without-pip"])
            .arg(&environment)
            .output()
            .unwrap();
        if !made.status.success() {
            return common::skipped(&String::from_utf8_lossy(&made.stderr));
        }
        let code = "
import os, sys, json
print(sys.prefix != sys.base_prefix, os.path.exists(sys.prefix + '/pyvenv.cfg'))
for name in '.env', 'notes':
    try: print(open(sys.argv[1] + '/' + name).read())
    except OSError: print('denied')
try: print(*os.listdir(sys.argv[1]))
except OSError: print()
";
        let python = environment.join("bin/python3");
        let args = ["-c", code, place.path().to_str().unwrap()];
        for mode in MODES {
            let outcome = run(spec(python.to_str().unwrap(), &args, mode));
            let text = outcome.text();
            let listed = text.strip_prefix("True True\ndenied\ndenied");
            let listed = listed.unwrap_or_else(|| panic!("{text} {}", outcome.errors()));
            hides(listed.split_whitespace(), mode);
        }
    }
}

#[test]
fn the_same_holds_unprivileged() {
    common::repeat_unprivileged(&["the_same_holds_unprivileged"]);
}

/// Whoever may write beside a program, as another sandbox may that was granted the directory, swaps
/// its parts for links all the time.
#[test]
fn a_part_that_is_swapped_for_a_link_shows_nothing_else() {
    let place = place(&[
        ("x/bin/tool", "#!/bin/sh\ncat \"$1\" || exit 3\n"),
        ("x/lib/code", "code"),
        ("private/code", "secret"),
    ]);
    let (part, link) = (place.path().join("x/lib"), place.path().join("x/link"));
    symlink("../private", &link).unwrap();
    let (program, code) = (place.path().join("x/bin/tool"), part.join("code"));
    let stop = AtomicBool::new(false);
    let mut texts = Vec::new();
    let mut refused = 0;
    thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                let _ = renameat_with(CWD, &part, CWD, &link, RenameFlags::EXCHANGE);
            }
        });
        for mode in MODES.into_iter().cycle().take(200) {
            let spec = spec(program.to_str().unwrap(), &[code.to_str().unwrap()], mode);
            match ringfence_sandbox::spawn(spec) {
                Ok(running) => texts.push(common::finish(running, Vec::new()).text()),
                // The part was a link by the time that it was opened.
                Err(_) => refused += 1,
            }
        }
        stop.store(true, Ordering::Relaxed);
    });
    assert!(
        texts.iter().all(|text| text.is_empty() || text == "code"),
        "{texts:?}"
    );
    let read = texts.iter().filter(|text| *text == "code").count();
    assert!(read > 0 && refused > 0, "{read} {refused}");
}
