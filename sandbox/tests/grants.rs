//! Granted paths: where they appear, what can be done with them, and that a grant never makes the
//! sandbox touch anything else of the host.

#![cfg(target_os = "linux")]
#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test stops where it is surprised"
)]

mod common;

use common::{MODES, Outcome, file, run, shell};
use ringfence_sandbox::{Access, Ended, Grant, Layer, Namespaces, SpawnError, Spec, spawn};
use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use tempfile::TempDir;

/// A directory that anybody may use, with directories in it.
fn place(names: &[&str]) -> TempDir {
    let place = tempfile::tempdir().unwrap();
    let open = |path: &Path| {
        fs::set_permissions(path, fs::Permissions::from_mode(0o777)).unwrap();
    };
    open(place.path());
    for name in names {
        fs::create_dir_all(place.path().join(name)).unwrap();
        fs::write(place.path().join(name).join("file"), name).unwrap();
        open(&place.path().join(name));
        open(&place.path().join(name).join("file"));
    }
    place
}

fn grant(path: PathBuf, destination: &str, access: Access) -> Grant {
    Grant {
        path,
        destination: Some(destination.into()).filter(|path: &PathBuf| !path.as_os_str().is_empty()),
        access,
    }
}

/// Runs where there is a mount namespace; `None` where there is none.
fn run_moved(spec: Spec) -> Option<Outcome> {
    match spawn(spec) {
        Ok(running) => Some(common::finish(running, Vec::new())),
        Err(SpawnError::LayerUnavailable { layer, why }) => {
            assert_eq!(layer, Layer::MountNs);
            common::skipped(&why);
            None
        }
        Err(other) => panic!("{other}"),
    }
}

#[test]
fn a_grant_appears_at_its_destination() {
    let place = place(&["one", "two"]);
    let script = "cat /data/deep/file; cat in/side/file; cat /opt/single; echo new > in/side/new; \
                  echo x > /data/deep/new; echo x >> /opt/single; echo mine > in/mine; \
                  ls in | tr '\\n' ' '";
    let mut spec = shell(script, Namespaces::Auto);
    let (one, two) = (place.path().join("one"), place.path().join("two"));
    spec.grants = vec![
        grant(one.clone(), "/data/deep", Access::Read),
        grant(two.clone(), "in/side", Access::ReadWrite),
        grant(one.join("file"), "/opt/single", Access::Read),
    ];
    spec.files = vec![file("in/input", 0o644, b"")];
    let Some(outcome) = run_moved(spec) else {
        return;
    };
    let seen: Vec<String> = outcome.text().split_whitespace().map(Into::into).collect();
    let expected = ["onetwooneinput", "mine", "side"];
    assert_eq!(seen, expected, "{}", outcome.errors());
    assert_eq!(fs::read_to_string(two.join("new")).unwrap(), "new\n");
    assert!(!one.join("new").exists());
    assert_eq!(fs::read_to_string(one.join("file")).unwrap(), "one");
}

#[test]
fn without_a_mount_namespace_nothing_moves() {
    let place = place(&["one"]);
    let mut spec = shell("true", Namespaces::Off);
    spec.grants = vec![grant(place.path().join("one"), "data", Access::Read)];
    let error = spawn(spec).unwrap_err();
    assert!(
        matches!(
            error,
            SpawnError::LayerUnavailable {
                layer: Layer::MountNs,
                ..
            }
        ),
        "{error}"
    );
    assert!(
        error.to_string().contains("without a destination"),
        "{error}"
    );
}

#[test]
fn a_read_only_part_of_something_writable_stays_read_only() {
    let place = place(&["all/part"]);
    let (all, part) = (place.path().join("all"), place.path().join("all/part"));
    fs::set_permissions(&all, fs::Permissions::from_mode(0o777)).unwrap();
    for mode in MODES {
        let script = format!(
            "echo x > {0}/new; echo x > {1}/new; echo x >> {1}/file",
            all.display(),
            part.display()
        );
        let mut spec = shell(&script, mode);
        spec.grants = vec![
            grant(part.clone(), "", Access::Read),
            grant(all.clone(), "", Access::ReadWrite),
        ];
        let Some(outcome) = run_moved(spec) else {
            assert!(!all.join("new").exists());
            continue;
        };
        assert!(matches!(outcome.report.ended, Ended::Exited { .. }));
        assert!(all.join("new").exists(), "{}", outcome.errors());
        fs::remove_file(all.join("new")).unwrap();
        assert!(!part.join("new").exists());
        assert_eq!(fs::read(part.join("file")).unwrap(), b"all/part");
    }
}

/// What a program left in a directory that was granted for writing must not lead the next sandbox
/// out of it when that makes the place for another grant.
#[test]
fn links_in_a_granted_directory_lead_nowhere() {
    let place = place(&["open", "other", "victim"]);
    let [open, other, victim] = ["open", "other", "victim"].map(|name| place.path().join(name));
    symlink(&victim, open.join("link")).unwrap();
    for destination in ["link/new", "link", "new"] {
        let mut spec = shell("true", Namespaces::Auto);
        spec.grants = vec![
            grant(open.clone(), "/data", Access::ReadWrite),
            grant(other.clone(), &format!("/data/{destination}"), Access::Read),
        ];
        match spawn(spec) {
            Err(SpawnError::InvalidInput { what }) => {
                assert!(what.contains("exclude each other"), "{what}");
            }
            Err(SpawnError::LayerUnavailable { .. }) => {}
            other => panic!("{other:?}"),
        }
        assert_eq!(fs::read_dir(&victim).unwrap().count(), 1);
        assert!(!open.join("new").exists());
    }
    // The same by links of the caller's own: they are followed once, by the caller.
    let link = place.path().join("to-other");
    symlink(&other, &link).unwrap();
    for mode in MODES {
        let mut spec = shell(&format!("cat {}/file", link.display()), mode);
        spec.grants = vec![grant(link.clone(), "", Access::Read)];
        let outcome = run(spec);
        assert_eq!(outcome.text(), "other", "{mode:?} {}", outcome.errors());
    }
}

/// A path that becomes another file between the judgement and the mount is not mounted.
#[test]
fn a_source_that_is_exchanged_meanwhile_is_never_seen() {
    let place = place(&["good", "secret"]);
    let [good, secret] = ["good", "secret"].map(|name| place.path().join(name));
    let path = place.path().join("path");
    symlink(&good, &path).unwrap();
    let stop = std::sync::atomic::AtomicBool::new(false);
    let (mut seen, mut refused) = (0, 0);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let order = std::sync::atomic::Ordering::Relaxed;
            while !stop.load(order) {
                // The directory itself is exchanged, under the name that was judged.
                let flags = rustix::fs::RenameFlags::EXCHANGE;
                let here = rustix::fs::CWD;
                rustix::fs::renameat_with(here, &good, here, &secret, flags).unwrap();
                rustix::fs::renameat_with(here, &good, here, &secret, flags).unwrap();
            }
        });
        for _ in 0..60 {
            let mut spec = shell("cat /data/file", Namespaces::Auto);
            spec.grants = vec![grant(path.clone(), "/data", Access::Read)];
            match spawn(spec) {
                Ok(running) => {
                    common::finish(running, Vec::new());
                    seen += 1;
                }
                Err(SpawnError::Setup { step, source, .. }) => {
                    assert_eq!(step, "open a granted path again");
                    assert_eq!(source.raw_os_error(), Some(116), "{source}");
                    refused += 1;
                }
                Err(SpawnError::LayerUnavailable { why, .. }) => {
                    common::skipped(&why);
                    break;
                }
                Err(other) => panic!("{other}"),
            }
        }
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
    });
    eprintln!("{seen} ran, {refused} were refused");
    // Whatever happened to grants, namespaces are not taken for refused because of it.
    let mut spec = shell("pwd", Namespaces::Auto);
    spec.grants = vec![grant(good, "/data", Access::Read)];
    if let Some(outcome) = run_moved(spec) {
        assert_eq!(outcome.text(), "/workspace");
    }
}

#[test]
fn as_another_user() {
    common::repeat_unprivileged(&["as_another_user"]);
}
