//! Files outside stay as long as they are also where Landlock, before Linux 6.2, has no say in who cuts
//! them off.
#![cfg(target_os = "linux")]

mod common;

use common::{MODES, python, run, skipped};
use ringfence_sandbox::{Access, Grant};
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::process::Command;

/// The version of Landlock's interface that Linux 5.19 to 6.1 have.
const OLDER: (&str, &str) = ("RINGFENCE_TEST_LANDLOCK", "2");

const CODE: &str = "
import errno, os, sys
def attempt(name, function):
    try: function(); print(name, 'ok')
    except OSError as error: print(name, errno.errorcode[error.errno])
for path in sys.argv[1:]:
    attempt('truncate', lambda: os.truncate(path, 0))
    attempt('read', lambda: os.open(path, os.O_RDONLY | os.O_TRUNC))
    attempt('neither', lambda: os.open(path, 3 | os.O_TRUNC))
    attempt('write', lambda: os.open(path, os.O_WRONLY | os.O_TRUNC))
open('own', 'w').write('abc')
open('own', 'w').write('d')
with open('own', 'r+') as file: file.truncate(0)
print('own', os.path.getsize('own'))
";

#[test]
fn files_outside_are_not_cut_off() {
    let place = common::open_directory(&std::env::temp_dir());
    for mode in MODES {
        let files = ["granted", "other"].map(|name| place.path().join(name));
        for file in &files {
            fs::write(file, "content").unwrap();
            fs::set_permissions(file, fs::Permissions::from_mode(0o666)).unwrap();
        }
        let mut spec = python(CODE, mode);
        spec.args
            .extend(files.iter().map(|file| file.clone().into()));
        spec.grants.push(Grant {
            path: files[0].clone(),
            destination: None,
            access: Access::Read,
        });
        let outcome = run(spec);
        let text = outcome.text();
        assert_eq!(text.lines().count(), 9, "{text}{}", outcome.errors());
        assert!(text.ends_with("own 0"), "{text}");
        assert!(!text.contains("ok"), "{mode:?} {text}");
        for file in &files {
            assert_eq!(fs::read(file).unwrap(), b"content", "{mode:?} {text}");
        }
    }
}

#[test]
fn the_same_holds_for_an_older_landlock() {
    if std::env::var_os(OLDER.0).is_some() {
        return skipped("this is the older one");
    }
    if !cfg!(debug_assertions) {
        return skipped("only with debug assertions an older Landlock can be had");
    }
    let output = Command::new(std::env::current_exe().unwrap())
        .env(OLDER.0, OLDER.1)
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{text}");
}

#[test]
fn the_same_holds_unprivileged() {
    common::repeat_unprivileged(&["unprivileged"]);
}
