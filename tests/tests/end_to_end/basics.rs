//! The main job: a program runs, in the place that the design promises, and the answer comes out.

use ringfence_tests::{Isolation, Lab, Scenario, engine, process};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

pub(crate) const SCENARIOS: &[Scenario] = &[
    Scenario::everywhere("the_answer_is_42", the_answer_is_42),
    Scenario::everywhere("code_is_evaluated", code_is_evaluated),
    Scenario::everywhere(
        "the_machine_is_the_isolations",
        the_machine_is_the_isolations,
    ),
    Scenario::everywhere("the_report_has_its_shape", the_report_has_its_shape),
    Scenario::everywhere("a_long_program_works", a_long_program_works),
    Scenario::everywhere("the_workspace_is_private", the_workspace_is_private),
    Scenario::everywhere("the_environment_is_clean", the_environment_is_clean),
    Scenario::everywhere("variables_are_passed_on", variables_are_passed_on),
    Scenario::everywhere("files_arrive_as_they_are", files_arrive_as_they_are),
    Scenario::on(
        "sockets_in_the_workspace_work",
        &Isolation::ALL,
        sockets_in_the_workspace_work,
    ),
    Scenario::on("pyenv_works", &[Isolation::Process], pyenv_works).unless(no_pyenv),
    Scenario::on("auto_is_process", &[Isolation::Process], auto_is_process),
];

/// The sentence that the project is about: Python computes in the sandbox and prints.
fn the_answer_is_42(lab: &Lab) {
    lab.run(["python3", "-c", "print(6*7)"])
        .outcome()
        .assert_code(0)
        .assert_stdout("42\n");
}

/// `eval` takes code as an argument, from standard input by `-`, and in each language.
fn code_is_evaluated(lab: &Lab) {
    let eval = || lab.command("eval").options(lab.isolation.options());
    eval()
        .options(["python", "print(6*7)"])
        .outcome()
        .assert_code(0)
        .assert_stdout("42\n");
    eval()
        .options(["shell", "echo $((6*7))"])
        .outcome()
        .assert_code(0)
        .assert_stdout("42\n");
    let from_stdin = eval()
        .options(["python", "-"])
        .input("import sys\nprint(6*7)\nsys.exit(4)");
    from_stdin.outcome().assert_code(4).assert_stdout("42\n");
    eval()
        .options(["cobol", "x"])
        .outcome()
        .assert_error(125, &["cobol", "python"]);
}

/// In the VM a program sees an arm64 kernel, otherwise this machine's.
fn the_machine_is_the_isolations(lab: &Lab) {
    let expected = format!("{}\n", lab.isolation.machine());
    lab.run(["uname", "-m"])
        .outcome()
        .assert_code(0)
        .assert_stdout(&expected);
}

/// The type of every value of a JSON document, by its path. Elements of a list share a path.
fn shape(value: &Value, path: &str, found: &mut BTreeMap<String, BTreeSet<&'static str>>) {
    let kind = match value {
        Value::Null => "null",
        Value::Bool(_) => "bool",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    };
    found.entry(path.to_owned()).or_default().insert(kind);
    match value {
        Value::Array(elements) => {
            elements
                .iter()
                .for_each(|each| shape(each, &format!("{path}[]"), found));
        }
        Value::Object(members) => {
            members
                .iter()
                .for_each(|(name, each)| shape(each, &format!("{path}.{name}"), found));
        }
        _ => {}
    }
}

/// The JSON object has the members and types of the design, the same ones in every isolation: every
/// member of one is a member of the other, because both are compared with one list.
fn the_report_has_its_shape(lab: &Lab) {
    const ALWAYS: [(&str, &[&str]); 15] = [
        (".status", &["string"]),
        (".exit_code", &["number", "null"]),
        (".signal", &["number", "null"]),
        (".stdout", &["string"]),
        (".stderr", &["string"]),
        (".stdout_truncated", &["bool"]),
        (".wall_ms", &["number"]),
        (".cpu_ms", &["number"]),
        (".peak_memory_bytes", &["number"]),
        (".isolation", &["object"]),
        (".isolation.kind", &["string"]),
        (".isolation.engine", &["string", "null"]),
        (".isolation.layers", &["array"]),
        (".isolation.missing", &["array"]),
        (".violations", &["array"]),
    ];
    const IN_LISTS: [(&str, &[&str]); 7] = [
        (".isolation.layers[]", &["string"]),
        (".isolation.missing[]", &["object"]),
        (".isolation.missing[].layer", &["string"]),
        (".isolation.missing[].why", &["string"]),
        (".violations[]", &["object"]),
        (".violations[].layer", &["string"]),
        (".violations[].operation", &["string"]),
    ];
    for words in [["true", "x"], ["sh", "-c"]] {
        let (_, report) = lab.run(words).json();
        let mut found = BTreeMap::new();
        shape(&report, "", &mut found);
        found.remove("");
        for (path, kinds) in ALWAYS {
            let kind = found
                .remove(path)
                .unwrap_or_else(|| panic!("no {path} in {report:#}"));
            assert!(
                kind.iter().all(|each| kinds.contains(each)),
                "{path} is {kind:?}: {report:#}"
            );
        }
        for (path, kinds) in IN_LISTS {
            let kind = found.remove(path).unwrap_or_default();
            assert!(
                kind.iter().all(|each| kinds.contains(each)),
                "{path} is {kind:?}: {report:#}"
            );
        }
        found.remove(".violations[].target");
        assert!(
            found.is_empty(),
            "members that the design does not have: {found:?}"
        );
    }

    let (_, report) = lab
        .run(["sh", "-c", "echo out; echo err >&2; exit 5"])
        .json();
    assert_eq!(report["status"], "exited");
    assert_eq!(report["exit_code"], 5);
    assert_eq!(report["signal"], Value::Null);
    assert_eq!(report["stdout"], "out\n");
    assert_eq!(report["stderr"], "err\n");
    assert_eq!(report["stdout_truncated"], false);
    assert_eq!(report["violations"], json!([]));
    assert_eq!(report["isolation"]["kind"], lab.isolation.kind());
    let engine = if lab.isolation == Isolation::Vm {
        json!(engine())
    } else {
        Value::Null
    };
    assert_eq!(report["isolation"]["engine"], engine);
    layers_are_accounted_for(lab, &report);
    for number in ["wall_ms", "cpu_ms", "peak_memory_bytes"] {
        assert!(
            report[number].as_f64().unwrap() > 0.0,
            "{number} in {report:#}"
        );
    }
}

/// Every layer of the design is either in force or missing with a reason, and the required ones are
/// in force.
fn layers_are_accounted_for(lab: &Lab, report: &Value) {
    let active: Vec<_> = report["isolation"]["layers"]
        .as_array()
        .unwrap()
        .iter()
        .collect();
    for required in [
        "landlock",
        "seccomp",
        "no_new_privs",
        "capabilities",
        "rlimits",
    ] {
        assert!(
            active.iter().any(|layer| *layer == required),
            "{required}: {report:#}"
        );
    }
    let missing = report["isolation"]["missing"].as_array().unwrap();
    assert!(
        missing
            .iter()
            .all(|each| each["why"].as_str().unwrap().len() > 10),
        "{report:#}"
    );
    for layer in [
        "cgroup", "user_ns", "mount_ns", "pid_ns", "net_ns", "ipc_ns", "vm",
    ] {
        let is_active = active.iter().any(|each| *each == layer);
        let is_missing = missing.iter().any(|each| each["layer"] == layer);
        assert!(
            is_active != is_missing,
            "{layer} is not accounted for once: {report:#}"
        );
    }
    let in_vm = active.iter().any(|layer| *layer == "vm");
    assert_eq!(in_vm, lab.isolation == Isolation::Vm, "{report:#}");
    if lab.isolation == Isolation::Vm {
        // The guest's kernel is ours: nothing is missing there but the user namespace, which root
        // does not need.
        for layer in ["cgroup", "mount_ns", "pid_ns", "net_ns", "ipc_ns"] {
            assert!(
                active.iter().any(|each| *each == layer),
                "{layer}: {report:#}"
            );
        }
    }
}

/// A program of some two hundred lines with files, standard input, threads, a child process and a
/// good part of the standard library gives byte for byte what it gives outside.
fn a_long_program_works(lab: &Lab) {
    let folder = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/programs"));
    let source = |name: &str| std::fs::read(folder.join(name)).unwrap();
    let mut run = lab.run(["python3", "ledger.py", "data/accounts.json", "bookings.csv"]);
    for (name, destination) in [
        ("ledger.py", "ledger.py"),
        ("accounts.json", "data/accounts.json"),
        ("bookings.csv", "bookings.csv"),
    ] {
        let mut file = lab.file(name, source(name)).into_os_string();
        file.push(":");
        file.push(destination);
        run = run.option("--file", file);
    }
    let outcome = run.input("USD = 0.92\nGBP=1.17\nnonsense\n").outcome();
    let expected = String::from_utf8(source("report.txt")).unwrap();
    outcome.assert_code(3).assert_stdout(&expected);
}

/// The working directory, `HOME` and `TMPDIR` are the sandbox's own, writable, and empty at first;
/// a second run sees nothing of the first.
fn the_workspace_is_private(lab: &Lab) {
    const SCRIPT: &str = r#"
        set -e
        test "$(pwd -P)" = "$(cd "$WORKSPACE" && pwd -P)"
        test -z "$(ls -A "$WORKSPACE")"
        echo one > file; mkdir -p a/b; mv file a/b/; ln -s a/b/file link; cat link
        echo two > "$HOME/.config"; cat "$HOME/.config"
        echo three > "$TMPDIR/x"; cat "$TMPDIR/x"
        chmod 700 a; touch -d 2001-01-01 a; rm -r a
        echo "$WORKSPACE"
    "#;
    for _ in 0..2 {
        let outcome = lab.run(["sh", "-c", SCRIPT]).outcome();
        outcome.assert_code(0);
        let text = outcome.text();
        let workspace = text
            .strip_prefix("one\ntwo\nthree\n")
            .unwrap()
            .trim_end()
            .to_owned();
        let private = workspace == "/workspace";
        assert!(private || lab.isolation.is_bare(), "{outcome}");
    }
}

/// Nothing of the caller's environment reaches the program but what the design names.
fn the_environment_is_clean(lab: &Lab) {
    let run = lab
        .helper(["environment"])
        .with("HOST_SECRET", "s3cr3t")
        .with("LD_PRELOAD", "");
    let outcome = run
        .with("PYTHONPATH", "/evil")
        .with("TERM", "vt100")
        .outcome();
    outcome.assert_code(0);
    let text = outcome.text();
    let names: BTreeSet<_> = text
        .split_terminator('\0')
        .map(|variable| variable.split_once('=').unwrap().0)
        .collect();
    let allowed = BTreeSet::from([
        "HOME",
        "LANG",
        "PATH",
        "TERM",
        "TMPDIR",
        "USER",
        "WORKSPACE",
        "GIT_CONFIG_NOSYSTEM",
    ]);
    let extra: Vec<_> = names.difference(&allowed).collect();
    assert!(extra.is_empty(), "{extra:?} {outcome}");
    for name in ["HOME", "PATH", "TMPDIR", "WORKSPACE"] {
        assert!(names.contains(name), "no {name} {outcome}");
    }
    assert!(!text.contains("s3cr3t"), "{outcome}");
    // Directories of the caller's are nobody's business either.
    assert!(
        !text.contains(lab.path("home").to_str().unwrap()),
        "{outcome}"
    );
}

/// `--env K=V` sets, `--env K` passes the caller's value on or nothing, the last one wins, and a
/// value may contain anything but NUL.
fn variables_are_passed_on(lab: &Lab) {
    let run = lab.helper(["environment"]).with("GIVEN", "from the caller");
    let run = run
        .option("--env", "ONE=first")
        .option("--env", "ONE=a=b\nc")
        .option("--env", "GIVEN")
        .option("--env", "EMPTY=")
        .option("--env", "SURELY_UNSET")
        .option("--env", "TMPDIR=/elsewhere");
    let outcome = run.outcome();
    outcome.assert_code(0);
    let text = outcome.text();
    let variables: Vec<_> = text.split_terminator('\0').collect();
    for expected in [
        "ONE=a=b\nc",
        "GIVEN=from the caller",
        "EMPTY=",
        "TMPDIR=/elsewhere",
    ] {
        let count = variables.iter().filter(|each| **each == expected).count();
        assert_eq!(count, 1, "{expected:?} {outcome}");
    }
    let named = |name: &str| {
        variables
            .iter()
            .filter(|each| each.starts_with(name))
            .count()
    };
    assert_eq!(
        (named("ONE="), named("TMPDIR="), named("SURELY_UNSET")),
        (1, 1, 0),
        "{outcome}"
    );
    lab.run(["true"])
        .option("--env", "=x")
        .outcome()
        .assert_error(125, &["variable"]);
}

/// Contents, names and modes of files arrive: empty ones, large ones, in directories that do not
/// exist yet, executable ones. The program may change its copy; the caller's file stays.
fn files_arrive_as_they_are(lab: &Lab) {
    let large: Vec<u8> = (0_u32..3 << 20)
        .map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8)
        .collect();
    let digest = ringfence_probe::digest(large.as_slice()).unwrap();
    let empty = lab.file("empty", "");
    let data = lab.file("data", &large);
    let odd = lab.file("a b:c ü", "odd\n");
    let pair = |source: &PathBuf, destination: &str| format!("{}:{destination}", source.display());
    let script = "test ! -s empty && test -x probe && ./probe do digest < d/e/e/p/data && \
                  cat 'sp ace/ü' && echo more >> d/e/e/p/data && ls -A | sort | tr '\\n' ' '";
    let outcome = lab
        .probe([""; 0])
        .program(["sh", "-c", script])
        .option("--file", &empty)
        .option("--file", pair(&data, "d/e/e/p/data"))
        .option("--file", pair(&odd, "sp ace/ü"))
        .outcome();
    outcome
        .assert_code(0)
        .assert_stdout(&format!("{digest}\nodd\nd empty probe sp ace "));
    assert!(
        std::fs::read(data).unwrap() == large,
        "the caller's own file was changed"
    );
}

/// Processes of one sandbox can talk over a socket with a path: what language servers and
/// `multiprocessing` do. Where namespaces are refused the supervisor binds and connects them.
fn sockets_in_the_workspace_work(lab: &Lab) {
    lab.helper(["unix-pair", "socket"])
        .outcome()
        .assert_code(0)
        .assert_stdout("hello\n");
}

fn pyenv() -> Option<PathBuf> {
    let home = || std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".pyenv"));
    let root = std::env::var_os("PYENV_ROOT")
        .map(PathBuf::from)
        .or_else(home)?;
    root.join("shims/python3").is_file().then_some(root)
}

fn no_pyenv() -> Option<String> {
    pyenv()
        .is_none()
        .then(|| "this user has no pyenv with a python3".into())
}

/// Where `python3` is a shim of pyenv in a home directory, the real interpreter behind it runs, with
/// its libraries; the rest of the home stays out of reach.
fn pyenv_works(lab: &Lab) {
    let root = pyenv().unwrap();
    let home = root.parent().unwrap();
    let path = format!(
        "{}/shims:{}/bin:/usr/bin:/bin",
        root.display(),
        root.display()
    );
    let script = format!(
        "import ctypes, json, sqlite3, ssl, sys\nprint(sys.prefix)\nprint(6*7)\n\
         import os\ntry:\n    print(os.listdir({home:?}))\nexcept OSError as e:\n    print('refused')\n\
         try:\n    print(open({:?}).read())\nexcept OSError as e:\n    print('refused')\n",
        home.join(".gitconfig"),
    );
    let run = lab.run(["python3", "-c", &script]);
    let outcome = run
        .with("PATH", path)
        .with("HOME", home)
        .with("PYENV_ROOT", &root)
        .outcome();
    outcome.assert_code(0);
    let text = outcome.text();
    let mut lines = text.lines();
    let prefix = lines.next().unwrap();
    let versions = root.join("versions");
    assert!(
        prefix.starts_with(versions.to_str().unwrap()),
        "not pyenv's: {outcome}"
    );
    assert_eq!(
        lines.collect::<Vec<_>>(),
        ["42", "refused", "refused"],
        "{outcome}"
    );
}

/// Without an option, Linux means `process`.
fn auto_is_process(lab: &Lab) {
    let run = lab.command("run").program(["true"]);
    let (_, report) = run.json();
    assert_eq!(report["isolation"]["kind"], "process");
    assert!(
        process::children(process::own())
            .iter()
            .all(|pid| !process::is_alive(*pid))
    );
}
