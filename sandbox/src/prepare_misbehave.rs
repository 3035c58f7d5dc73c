//! Executions that are what bytes say, for property tests and for fuzzing. Nothing is started.
//!
//! Whatever the bytes say, an execution is refused with an error of its kind, or what was prepared
//! is what was asked for, within what the kernel takes and without a word of another meaning.

#![expect(clippy::panic, clippy::unwrap_used, reason = "tests may fail")]

use super::*;
use crate::decisions::Decisions;
use crate::{Grant, LayerStatus, Limits, WorkspacePath, grants};
use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Component, PathBuf};

/// Words of all parts of an execution, most of which are refused somewhere.
const WORDS: &[&str] = &[
    "sh",
    "",
    ".",
    "..",
    "/",
    "a",
    "a/b",
    "a/b/c",
    "./a",
    "./../a",
    "A",
    "A=B",
    "HOME",
    "PATH",
    "LANG",
    "/bin/sh",
    "/usr/bin/../bin/sh",
    "/usr",
    "/usr/..",
    "/usr/./bin",
    "//usr//bin",
    "/bin:/usr/bin",
    ":",
    "/etc/passwd",
    "/dev/null",
    "/nowhere/at/all",
    "/workspace/a",
    "/workspace/../etc/passwd",
    "/proc/self/exe",
    "/home",
    "nul\0",
];

/// Below a temporary directory.
const FILES: &[&str] = &[
    "home/pyvenv.cfg",
    "home/bin/tool",
    "home/.local/bin/tool",
    "home/venv/pyvenv.cfg",
    "home/venv/bin/tool",
    "home/installed/bin/tool",
    "home/installed/lib/code",
    "home/installed/secret",
];
const PROGRAMS: &[&str] = &[
    "home/bin/tool",
    "home/.local/bin/tool",
    "home/venv/bin/tool",
    "home/venv/bin/../bin/tool",
    "home/venv/../bin/tool",
    "home/installed/bin/../../bin/tool",
    "home/installed/bin/tool",
    "home",
];

struct Tree(tempfile::TempDir);

impl Tree {
    fn new() -> Self {
        let tree = tempfile::tempdir().unwrap();
        for name in FILES {
            let path = tree.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(&path, "").unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        }
        Self(tree)
    }

    fn home(&self) -> PathBuf {
        self.0.path().join("home")
    }

    fn word(&self, decisions: &mut Decisions<'_>) -> Vec<u8> {
        match decisions.below(8) {
            0 => {
                let len = decisions.below(64);
                decisions.slice(len).to_vec()
            }
            1 => {
                let program = decisions.one(PROGRAMS).unwrap();
                self.0.path().join(program).into_os_string().into_vec()
            }
            2 => vec![b'x'; usize::try_from(decisions.word() % 140_000).unwrap()],
            _ => decisions.one(WORDS).unwrap().as_bytes().to_vec(),
        }
    }

    fn string(&self, decisions: &mut Decisions<'_>) -> OsString {
        OsString::from_vec(self.word(decisions))
    }

    fn spec(&self, decisions: &mut Decisions<'_>) -> Spec {
        let mut spec = Spec::new(self.string(decisions));
        spec.limits = limits(decisions);
        for _ in 0..decisions.below(4) {
            let path = self.string(decisions).into();
            let kind = decisions.below(4);
            let access = *[Access::Read, Access::ReadWrite].get(kind % 2).unwrap();
            let destination = (kind > 1).then(|| self.string(decisions).into());
            spec.grants.push(Grant {
                path,
                destination,
                access,
            });
        }
        for _ in 0..decisions.below(6) {
            let Ok(path) = WorkspacePath::parse(&self.word(decisions)) else {
                continue;
            };
            let mode = decisions.word();
            let len = decisions.below(64);
            let content = Content::Bytes(decisions.slice(len).to_vec());
            spec.files.push(InputFile {
                path,
                mode,
                content,
            });
        }
        for _ in 0..decisions.below(6) {
            let variable = (self.string(decisions), self.string(decisions));
            spec.env.push(variable);
        }
        for _ in 0..decisions.below(4) {
            let many = if decisions.below(8) == 0 { 50 } else { 1 };
            let argument = self.string(decisions);
            spec.args.extend(std::iter::repeat_n(argument, many));
        }
        spec
    }

    fn host(&self, decisions: &mut Decisions<'_>) -> Host {
        let mut variables = vec![("HOME".into(), self.home().into())];
        for name in ["PATH", "LANG", "TERM"] {
            if decisions.below(2) == 1 {
                variables.push((name.into(), self.string(decisions)));
            }
        }
        Host {
            variables,
            ..Host::default()
        }
    }
}

/// Nothing, everything, the edges, and what the bytes say.
fn number(decisions: &mut Decisions<'_>) -> Option<u64> {
    match decisions.below(8) {
        0..3 => None,
        3 => Some(0),
        4 => Some(1),
        5 => Some(u64::MAX >> decisions.below(64)),
        6 => Some(1 << decisions.below(64)),
        _ => Some(decisions.value()),
    }
}

fn limits(decisions: &mut Decisions<'_>) -> Limits {
    let time = |decisions: &mut Decisions<'_>| {
        let seconds = number(decisions)?;
        let nanos = u32::try_from(decisions.below(3)).ok()?;
        Some(Duration::from_secs(seconds).saturating_add(Duration::from_nanos(nanos.into())))
    };
    Limits {
        wall: time(decisions),
        cpu: time(decisions),
        memory: number(decisions),
        processes: number(decisions),
        open_files: number(decisions),
        file_size: number(decisions),
        workspace: number(decisions),
        output: number(decisions),
        processors: number(decisions).and_then(|count| u8::try_from(count).ok()),
    }
}

/// An execution, part by part.
pub(crate) fn configuration(bytes: &[u8]) {
    thread_local! {
        static TREE: Tree = Tree::new();
    }
    TREE.with(|tree| {
        let mut decisions = Decisions(bytes);
        let spec = tree.spec(&mut decisions);
        let host = tree.host(&mut decisions);
        let open = decisions.below(4) != 0;
        let resolved = program(&spec, &host, &tree.home(), open);
        let resolved = resolved.unwrap_or_else(|| Resolved {
            path: "/bin/sh".into(),
            parts: Vec::new(),
            search: "/bin".into(),
        });
        input_files(&spec);
        strings(&spec, &host, &resolved);
        places(&spec, &resolved);
        numbers(&spec.limits);
        layers(spec, &mut decisions);
    });
}

/// What does not refer to the program itself is refused as input that makes no sense.
fn accepted<T>(result: Result<T, SpawnError>) -> Option<T> {
    match result {
        Ok(value) => Some(value),
        Err(SpawnError::InvalidInput { what }) => {
            assert!((10..2_000_000).contains(&what.len()), "{what}");
            None
        }
        Err(other) => panic!("{other:?}"),
    }
}

/// A program is found or refused, and no home is shown for it, nor what lies beside an installation.
fn program(spec: &Spec, host: &Host, home: &Path, open: bool) -> Option<Resolved> {
    let found = match resolve(&spec.program, &spec.files, host, &|_| open) {
        Ok(found) => found,
        Err(
            error @ (SpawnError::NotFound { .. }
            | SpawnError::NotExecutable { .. }
            | SpawnError::IsDirectory { .. }),
        ) => {
            assert!(error.failure().message.len() > 10);
            return None;
        }
        Err(error) => return accepted(Err(error)),
    };
    let plain = |path: &Path| !path.components().any(|part| part == Component::ParentDir);
    assert!(plain(&found.path), "{found:?}");
    match found.path.strip_prefix("./") {
        Ok(inside) => {
            let file = spec
                .files
                .iter()
                .find(|file| file.path.as_os_str() == inside);
            assert!(file.is_some_and(|file| file.mode & 0o111 != 0), "{found:?}");
        }
        Err(_) => assert!(found.path.is_absolute(), "{found:?}"),
    }
    for part in &found.parts {
        let prefix = &part.at;
        assert_eq!(part.real.canonicalize().ok().as_ref(), Some(&part.real));
        assert!(prefix.is_absolute() && plain(prefix), "{found:?}");
        assert!(
            !home.starts_with(prefix)
                && *prefix != home.join(".local")
                && !home.join("installed/secret").starts_with(prefix),
            "{found:?}"
        );
    }
    Some(found)
}

/// Input files are refused together, or planned with the directories that they need.
fn input_files(spec: &Spec) {
    let total: usize = spec
        .files
        .iter()
        .map(|file| match &file.content {
            Content::Bytes(bytes) => bytes.len(),
            Content::File(_) => 0,
        })
        .sum();
    let below = |one: &InputFile, other: &InputFile| {
        let rest = one.path.as_bytes().strip_prefix(other.path.as_bytes());
        rest.is_some_and(|rest| rest.is_empty() || rest.starts_with(b"/"))
    };
    let clash = spec.files.iter().enumerate().any(|(at, file)| {
        let mut others = spec.files.iter().enumerate();
        others.any(|(other_at, other)| at != other_at && below(file, other))
    });
    let too_much = spec
        .limits
        .workspace
        .is_some_and(|most| total as u64 > most);
    let planned = accepted(plan_files(spec));
    assert_eq!(planned.is_none(), clash || too_much, "{spec:?}");
    for (planned, file) in planned.iter().flatten().zip(&spec.files) {
        assert_eq!(planned.path.as_bytes(), file.path.as_bytes());
        assert_eq!(planned.mode & !0o777, 0);
        assert_eq!(planned.mode, file.mode & 0o777 | 0o600);
        let parts: Vec<&[u8]> = file.path.components().collect();
        let parents = (1..parts.len()).map(|len| parts.get(..len).unwrap().join(&b'/'));
        assert!(
            parents.eq(planned
                .parents
                .iter()
                .map(|parent| parent.as_bytes().to_vec()))
        );
    }
}

/// Arguments and environment are refused, or passed as they are and within what the kernel takes.
fn strings(spec: &Spec, host: &Host, resolved: &Resolved) {
    let place = Place {
        root: None,
        host: None,
        rules: Vec::new(),
        workspace: "/workspace".into(),
        temporary: "/tmp".into(),
        writable: Vec::new(),
    };
    let Some(environment) = accepted(environment(spec, host, resolved, &place)) else {
        return;
    };
    let mut variables = BTreeMap::new();
    for variable in &environment {
        let mut parts = variable.as_bytes().splitn(2, |byte| *byte == b'=');
        let (name, value) = (parts.next().unwrap(), parts.next().unwrap());
        assert!(!name.is_empty());
        assert!(
            variables.insert(name, value).is_none(),
            "{variable:?} comes twice"
        );
    }
    // The last one counts.
    let asked: BTreeMap<_, _> = spec.env.iter().map(|(name, value)| (name, value)).collect();
    for (name, value) in asked {
        assert_eq!(variables.get(name.as_bytes()), Some(&value.as_bytes()));
    }
    for name in ["PATH", "HOME", "TMPDIR", "WORKSPACE", "USER"] {
        assert!(variables.contains_key(name.as_bytes()));
    }
    let Some(execution) = accepted(execution(spec, resolved, environment)) else {
        return;
    };
    let arguments = execution.argv.strings();
    let asked = std::iter::once(&spec.program).chain(&spec.args);
    assert!(
        asked
            .map(|argument| argument.as_bytes())
            .eq(arguments.iter().map(|a| a.as_bytes()))
    );
    let all = arguments.iter().chain(execution.envp.strings());
    let sizes = all.map(|string| string.as_bytes_with_nul().len());
    assert!(sizes.clone().all(|size| size <= 128 << 10));
    assert!(sizes.sum::<usize>() <= 6 << 20);
}

/// Granted paths are refused, or bound at places within the private root.
fn places(spec: &Spec, resolved: &Resolved) {
    let Some(grants) = accepted(grants::open(&spec.grants, &spec.files)) else {
        return;
    };
    let plain = |path: &Path| {
        let mut parts = path.components();
        path.parent().is_some() && parts.all(|part| matches!(part, Component::Normal(_)))
    };
    let targets: Vec<(PathBuf, bool)> = grants
        .iter()
        .map(|grant| {
            let target = grant.target.strip_prefix("/").unwrap();
            assert!(plain(target) && grant.source.is_absolute(), "{grant:?}");
            (target.to_path_buf(), grant.access == Access::ReadWrite)
        })
        .collect();
    let Some(root) = accepted(view::private_root(resolved, grants, &spec.limits)) else {
        return;
    };
    let path = |string: &'_ CString| PathBuf::from(OsStr::from_bytes(string.as_bytes()));
    for bind in &root.binds {
        let target = path(&bind.target);
        assert!(plain(&target), "{bind:?}");
        for parent in &bind.parents {
            let parent = path(parent);
            assert!(plain(&parent) && target.starts_with(&parent), "{bind:?}");
            assert_ne!(parent, target, "{bind:?}");
        }
    }
    for (target, writable) in targets {
        // What is nearest to it counts.
        let binds = root
            .binds
            .iter()
            .filter(|bind| target.starts_with(path(&bind.target)));
        let bind = binds
            .max_by_key(|bind| bind.target.as_bytes().len())
            .unwrap();
        assert_eq!(bind.writable, writable, "{target:?} in {bind:?}");
    }
    let options = root.scratch.into_string().unwrap();
    let size = options
        .split(',')
        .find_map(|option| option.strip_prefix("size="));
    let size: u64 = size.unwrap().parse().unwrap();
    let most = spec.limits.workspace.unwrap_or(u64::MAX);
    assert!(
        size == most.max(1) || (size == 0 && most >= 1 << 62),
        "{options}"
    );
    assert_eq!(root.no_room, most == 0);
}

/// Limits are never raised, and what is zero is spent.
fn numbers(limits: &Limits) {
    let identities = [
        Identity::Own { base: 1, span: 1 },
        Identity::Same { uid: 0, gid: 0 },
        Identity::Mapped {
            uid: 1,
            gid: 1,
            uid_map: Vec::new(),
            gid_map: Vec::new(),
        },
    ];
    for bounded in [false, true] {
        let bounded = Bounded {
            memory: bounded,
            processes: bounded,
            workspace: bounded,
        };
        for identity in &identities {
            // The number of the user's processes is counted only where it matters.
            if matches!(identity, Identity::Same { .. }) && limits.processes.is_some() {
                continue;
            }
            let mut seen = BTreeSet::new();
            for limit in rlimits(limits, bounded, identity, false) {
                assert!(limit.soft <= limit.hard, "{limit:?}");
                assert!(seen.insert(limit.resource), "{limit:?} comes twice");
            }
        }
        let zero = limits.wall == Some(Duration::ZERO)
            || limits.cpu == Some(Duration::ZERO)
            || limits.memory == Some(0)
            || limits.processes == Some(0);
        let least = if bounded.memory { 1 << 20 } else { 128 << 10 };
        let little = limits.memory.is_some_and(|bytes| bytes < least);
        assert_eq!(
            spent(limits, bounded).is_some(),
            zero || little,
            "{limits:?}"
        );
    }
}

/// A layer that is required is there, or nothing is.
fn layers(mut spec: Spec, decisions: &mut Decisions<'_>) {
    let all = [Layer::Cgroup, Layer::UserNs, Layer::MountNs, Layer::NetNs];
    let choice = |decisions: &mut Decisions<'_>| {
        let bits = decisions.below(1 << all.len());
        let chosen = all.into_iter().enumerate();
        chosen
            .filter(move |(at, _)| bits >> at & 1 != 0)
            .map(|(_, layer)| layer)
    };
    spec.require = choice(decisions).collect();
    let missing: Vec<Layer> = choice(decisions).collect();
    let states = all.map(|layer| match missing.contains(&layer) {
        true => LayerState::missing(layer, "it is not there"),
        false => LayerState::active(layer),
    });
    match require(&spec, &states) {
        Ok(()) => assert!(!missing.iter().any(|layer| spec.require.contains(layer))),
        Err(SpawnError::LayerUnavailable { layer, .. }) => {
            assert!(spec.require.contains(&layer) && missing.contains(&layer));
            let state = states.iter().find(|state| state.layer == layer).unwrap();
            assert!(matches!(state.status, LayerStatus::Missing { .. }));
        }
        Err(other) => panic!("{other:?}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn any_execution_is_prepared_or_refused(
            bytes in prop::collection::vec(any::<u8>(), 0..200),
        ) {
            configuration(&bytes);
        }
    }
}
