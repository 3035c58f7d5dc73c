use super::*;
use crate::WorkspacePath;

fn files(paths: &[&str]) -> Spec {
    let mut spec = Spec::new("sh");
    for path in paths {
        spec.files.push(InputFile {
            path: WorkspacePath::try_from(*path).unwrap(),
            mode: 0o4755,
            content: Content::Bytes(b"0123456789".to_vec()),
        });
    }
    spec
}

fn refused<T>(result: Result<T, SpawnError>, part: &str) {
    match result {
        Err(SpawnError::InvalidInput { what }) => assert!(what.contains(part), "{what}"),
        Err(other) => panic!("{other}"),
        Ok(_) => panic!("accepted: {part}"),
    }
}

#[test]
fn input_files_are_checked_together() {
    let spec = files(&["a/b/c", "a/d"]);
    let planned = plan_files(&spec).unwrap();
    let parents: Vec<_> = planned[0]
        .parents
        .iter()
        .map(|path| path.to_str().unwrap())
        .collect();
    assert_eq!(parents, ["a", "a/b"]);
    assert_eq!(planned[0].mode, 0o755);
    refused(plan_files(&files(&["a", "a"])), "twice");
    refused(plan_files(&files(&["a/b", "a"])), "directory");
    let mut spec = files(&["a", "b"]);
    spec.limits.workspace = Some(19);
    refused(plan_files(&spec), "20 bytes");
}

#[test]
fn strings_are_bounded_with_the_numbers() {
    assert!(string(vec![b'x'; MAX_STRING - 1], "an argument").is_ok());
    refused(string(vec![b'x'; 2 << 20], "an argument"), "2097152 bytes");
    refused(string(b"a\0b".to_vec(), "an argument"), "NUL byte at 1");
    let mut spec = Spec::new("sh");
    spec.args = vec!["x".repeat(100 << 10).into(); 100];
    let resolved = Resolved::of_system("/bin/sh".into());
    refused(
        execution(&spec, &resolved, Vec::new()),
        "arguments and environment take",
    );
}
