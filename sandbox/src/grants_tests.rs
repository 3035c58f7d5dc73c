//! Tests of [`super`].

use super::*;
use crate::{Content, WorkspacePath};

fn grant(path: &str, destination: Option<&str>) -> Grant {
    Grant {
        path: path.into(),
        destination: destination.map(Into::into),
        access: Access::Read,
    }
}

#[track_caller]
fn refused(grants: &[Grant], files: &[InputFile], expected: &str) {
    let message = open(grants, files).unwrap_err().to_string();
    assert!(message.contains(expected), "{message}");
}

#[test]
fn sensitive_sources_are_refused_under_any_path() {
    for (path, expected) in [
        ("relative", "absolute"),
        ("/", "the whole tree"),
        ("/usr/..", "the whole tree"),
        ("/proc", "/proc is the kernel's"),
        ("/proc/self/status", "/proc is the kernel's"),
        ("/sys", "/sys is the kernel's"),
        ("/dev", "/dev is the kernel's"),
        ("/dev/null", "a device"),
        ("/proc/self/cwd", "link of /proc"),
        ("/proc/self/root/usr", "link of /proc"),
        (
            "/does/not/exist",
            "No such file or directory (os error 2); name a file",
        ),
    ] {
        refused(&[grant(path, None)], &[], expected);
    }
    let place = tempfile::tempdir().unwrap();
    let link = place.path().join("link");
    std::os::unix::fs::symlink("/proc/self", &link).unwrap();
    refused(
        &[grant(link.to_str().unwrap(), None)],
        &[],
        "/proc is the kernel's",
    );
    let fifo = place.path().join("fifo");
    rustix::fs::mknodat(CWD, &fifo, FileType::Fifo, Mode::RWXU, 0).unwrap();
    refused(&[grant(fifo.to_str().unwrap(), None)], &[], "a FIFO");
    let temporary = std::env::temp_dir();
    refused(
        &[grant(temporary.to_str().unwrap(), Some("/data"))],
        &[],
        "private directories of sandboxes",
    );
}

#[test]
fn directories_of_sandboxes_are_known_by_their_names() {
    for (name, expected) in [
        ("ringfence-0-17-3", true),
        ("ringfence-1000-1-0", true),
        ("ringfence-0-17", false),
        ("ringfence-0-17-3-4", false),
        ("ringfence-data-of-mine", false),
        ("ringfence---", false),
        ("other", false),
    ] {
        assert_eq!(is_private_directory(OsStr::new(name)), expected, "{name}");
    }
}

#[test]
fn destinations_hide_nothing_of_the_sandbox() {
    let place = tempfile::tempdir().unwrap();
    let path = place.path().to_str().unwrap();
    for destination in [
        "/",
        "",
        ".",
        "/workspace",
        "/workspace/",
        "/tmp",
        "/etc",
        "/usr",
        "/proc",
        "/proc/1",
        "/dev",
        "/dev/shm/x",
        "/sys/x",
        "/usr/bin",
        "/usr/new",
        "/lib/x",
        "..",
        "a/../..",
        "/a/..",
        "../workspace",
    ] {
        let granted = [grant(path, Some(destination))];
        refused(&granted, &[], "is no place for a granted path");
    }
    for (destination, expected) in [
        ("/data", "/data"),
        ("data", "/workspace/data"),
        ("./a//b/", "/workspace/a/b"),
        ("/tmp/x", "/tmp/x"),
        ("/etc/x", "/etc/x"),
    ] {
        let opened = open(&[grant(path, Some(destination))], &[]).unwrap();
        assert_eq!(opened[0].target, Path::new(expected));
        assert!(opened[0].moved);
    }
    let opened = open(&[grant(path, Some(path))], &[]).unwrap();
    assert!(!opened[0].moved);
}

#[test]
fn grants_and_input_files_keep_clear_of_each_other() {
    let place = tempfile::tempdir().unwrap();
    let (one, two) = (place.path().join("one"), place.path().join("two"));
    for path in [&one, &two] {
        fs::create_dir(path).unwrap();
    }
    let (one, two) = (one.to_str().unwrap(), two.to_str().unwrap());
    let same = [grant(one, Some("/data")), grant(two, Some("/data"))];
    refused(&same, &[], "is granted twice");
    let again = [grant(one, None), grant(one, None)];
    assert_eq!(open(&again, &[]).unwrap().len(), 1);
    for (path, clash) in [
        ("data", true),
        ("data/a", true),
        ("data/a/b", true),
        ("data/file", false),
        ("dat", false),
    ] {
        let files = [InputFile {
            path: WorkspacePath::try_from(path).unwrap(),
            mode: 0o644,
            content: Content::Bytes(Vec::new()),
        }];
        let granted = [grant(one, Some("data/a"))];
        if clash {
            refused(&granted, &files, "exclude each other");
        } else {
            open(&granted, &files).unwrap();
        }
    }
}

#[test]
fn without_mounts_nothing_moves_and_nothing_within_the_writable_is_read_only() {
    let place = tempfile::tempdir().unwrap();
    let inner = place.path().join("inner");
    fs::create_dir(&inner).unwrap();
    let (outer, inner) = (place.path().to_str().unwrap(), inner.to_str().unwrap());
    let moved = open(&[grant(outer, Some("data"))], &[]).unwrap();
    let error = without_mounts(&moved, "there is none").unwrap_err();
    assert!(
        error
            .to_string()
            .contains("there is none; grant it without")
    );
    let writable = Grant {
        access: Access::ReadWrite,
        ..grant(outer, None)
    };
    let nested = open(&[writable, grant(inner, None)], &[]).unwrap();
    let error = without_mounts(&nested, "there is none").unwrap_err();
    assert!(error.to_string().contains("do not contain each other"));
    without_mounts(&open(&[grant(outer, None)], &[]).unwrap(), "").unwrap();
}

#[test]
fn directories_with_an_interface_of_the_kernel_in_them_are_refused() {
    let mounts = [(PathBuf::from("/chroot/inner/proc"), "proc".to_owned())];
    for source in ["/chroot", "/chroot/inner", "/chroot/inner/proc"] {
        let error = keep_out(Path::new(source), &mounts)
            .unwrap_err()
            .to_string();
        assert!(error.contains("/chroot/inner/proc") && error.contains(source));
    }
    for source in ["/chroot/other", "/chr", "/chroot/inner/proc2"] {
        keep_out(Path::new(source), &mounts).unwrap();
    }
    let found = mounted_interfaces();
    assert!(
        found.contains(&("/proc".into(), "proc".into())),
        "{found:?}"
    );
}

#[test]
fn places_of_mounts_are_read_as_the_kernel_writes_them() {
    for (written, meant) in [
        ("/a", "/a"),
        ("/a\\040b", "/a b"),
        ("/a\\134b\\", "/a\\b\\"),
        ("/a\\04", "/a\\04"),
        ("/a\\779", "/a\\779"),
        ("\\777", "\\777"),
    ] {
        assert_eq!(unescape(written.as_bytes()), Path::new(meant), "{written}");
    }
}
