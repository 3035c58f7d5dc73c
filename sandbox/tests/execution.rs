//! Programs run: streams, files, environment, exit status, and how they are found.
#![cfg(target_os = "linux")]

mod common;

use common::{MODES, file, finish, python, run, run_with, shell, skipped, spec};
use ringfence_sandbox::{
    Access, Content, Ended, Grant, InputFile, Layer, Namespaces, SpawnError, Spec, WorkspacePath,
    probe, spawn,
};
use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;

#[test]
fn output_and_exit_status_come_back() {
    for mode in MODES {
        let outcome = run(shell("echo out; echo err >&2; exit 7", mode));
        assert_eq!(outcome.code(), 7);
        assert_eq!(outcome.text(), "out");
        assert_eq!(outcome.errors(), "err\n");
        let outcome = run(shell("kill -TERM $$", mode));
        assert_eq!(outcome.report.ended, Ended::Signaled { signal: 15 });
        assert!(outcome.report.wall.as_nanos() > 0 && outcome.report.peak_memory > 0);
    }
}

#[test]
fn the_required_layers_are_active_in_every_report() {
    for mode in MODES {
        let report = run(shell("true", mode)).report;
        for layer in Layer::REQUIRED {
            assert!(
                report
                    .layers
                    .iter()
                    .any(|state| state.layer == layer && state.is_active())
            );
        }
        for layer in Layer::ALL.into_iter().filter(|layer| *layer != Layer::Vm) {
            assert_eq!(
                report
                    .layers
                    .iter()
                    .filter(|state| state.layer == layer)
                    .count(),
                1
            );
        }
    }
    let probed = probe();
    assert_eq!(probed.len(), Layer::ALL.len());
    assert!(
        probed
            .iter()
            .any(|state| state.layer == Layer::Landlock && state.is_active())
    );
}

#[test]
fn large_input_and_output_flow_at_once() {
    let input: Vec<u8> = (0..32_u32 << 20)
        .map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8)
        .collect();
    for mode in MODES {
        let outcome = run_with(spec("cat", &[], mode), input.clone());
        assert_eq!(outcome.code(), 0);
        assert!(
            outcome.stdout == input,
            "{} bytes came back",
            outcome.stdout.len()
        );
    }
}

#[test]
fn a_program_that_reads_nothing_ends_all_the_same() {
    for mode in MODES {
        assert_eq!(run_with(shell("exit 3", mode), vec![0; 4 << 20]).code(), 3);
        // Without a pipe, standard input is empty.
        assert_eq!(run(shell("cat; echo done", mode)).text(), "done");
    }
}

#[test]
fn files_are_in_the_workspace() {
    let mut large = tempfile::tempfile().unwrap();
    large.write_all(&vec![b'z'; 3 << 20]).unwrap();
    for mode in MODES {
        let mut spec = shell(
            "cat a.txt deep/er/b.txt && wc -c <large && ./run.sh && pwd && stat -c %a run.sh",
            mode,
        );
        spec.files = vec![
            file("a.txt", 0o644, b"one\n"),
            file("deep/er/b.txt", 0o600, b"two\n"),
            file("run.sh", 0o4755, b"#!/bin/sh\necho three\n"),
            InputFile {
                path: WorkspacePath::try_from("large").unwrap(),
                mode: 0o644,
                content: Content::File(large.try_clone().unwrap()),
            },
        ];
        let outcome = run(spec);
        assert_eq!(outcome.code(), 0, "{}", outcome.errors());
        let text = outcome.text();
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines[..4], ["one", "two", "3145728", "three"]);
        assert!(lines[4].ends_with("/workspace"));
        assert_eq!(lines[5], "755");
    }
}

#[test]
fn an_input_file_can_be_the_program() {
    for mode in MODES {
        let mut script = spec("./bin/run", &["x y"], mode);
        script.files = vec![file("bin/run", 0o755, b"#!/bin/sh\necho \"$1\" from $0\n")];
        assert_eq!(run(script).text(), "x y from ./bin/run");
        let mut broken = spec("./run", &[], mode);
        broken.files = vec![file("run", 0o755, b"#!/does/not/exist\n")];
        assert!(matches!(
            spawn(broken),
            Err(SpawnError::NotExecutable { .. })
        ));
        let mut broken = spec("./run", &[], mode);
        broken.files = vec![file("run", 0o755, b"neither\n")];
        assert!(matches!(
            spawn(broken),
            Err(SpawnError::NotExecutable { .. })
        ));
    }
}

#[test]
fn only_the_named_environment_is_passed() {
    for mode in MODES {
        let mut spec = shell("env", mode);
        spec.env = vec![
            ("ANSWER".into(), "42".into()),
            ("TERM".into(), "mine".into()),
        ];
        let text = run(spec).text();
        let names: Vec<&str> = text
            .lines()
            .filter_map(|line| line.split('=').next())
            .collect();
        for name in names {
            let known = [
                "PATH",
                "HOME",
                "TMPDIR",
                "WORKSPACE",
                "GIT_CONFIG_NOSYSTEM",
                "USER",
                "LANG",
                "TERM",
                "ANSWER",
            ];
            assert!(
                known.contains(&name) || ["PWD", "SHLVL", "_", "OLDPWD"].contains(&name),
                "{name}"
            );
        }
        assert!(text.contains("ANSWER=42") && text.contains("TERM=mine"));
    }
}

#[test]
fn home_and_temporary_files_are_private_and_writable() {
    for mode in MODES {
        let script = "cd && pwd && f=$(mktemp) && echo x >$f && cat $f && mkdir -p a/b && mv a/b c \
                      && ln -s c d && ls -l >/dev/null && chmod 700 c && touch c/t && rm -r a c d";
        let outcome = run(shell(script, mode));
        assert_eq!(outcome.code(), 0, "{}", outcome.errors());
    }
}

#[test]
fn python_does_its_usual_work() {
    if !common::exists("/usr/bin/python3") {
        return skipped("/usr/bin/python3 is not installed");
    }
    let code = "
import os, json, subprocess, tempfile, threading, socket, getpass, platform, hashlib, ssl
a, b = socket.socketpair()
a.sendall(b'x'); assert b.recv(1) == b'x'
assert subprocess.run(['sh', '-c', 'exit 5']).returncode == 5
with tempfile.TemporaryDirectory() as d: open(os.path.join(d, 'f'), 'w').write('y')
t = threading.Thread(target=lambda: None); t.start(); t.join()
os.umask(0o22); os.setpgid(0, 0) if os.getpgrp() != os.getpid() else None
print(json.dumps({'answer': 6 * 7}), platform.machine())
";
    for mode in MODES {
        let outcome = run(python(code, mode));
        assert_eq!(outcome.code(), 0, "{}", outcome.errors());
        assert!(outcome.text().starts_with("{\"answer\": 42}"));
    }
}

#[test]
fn the_python_on_path_works_also_behind_a_shim() {
    let outcome = run(spec(
        "python3",
        &["-c", "import ssl, sys; print(6 * 7)"],
        Namespaces::Auto,
    ));
    assert_eq!(outcome.code(), 0, "{}", outcome.errors());
    assert_eq!(outcome.text(), "42");
}

#[test]
fn node_works() {
    if !common::exists("/usr/bin/node") {
        return skipped("/usr/bin/node is not installed");
    }
    for mode in MODES {
        let code = "setTimeout(() => console.log(6 * 7), 1); require('fs').writeFileSync('f', 'x')";
        let outcome = run(spec("/usr/bin/node", &["-e", code], mode));
        assert_eq!(outcome.code(), 0, "{}", outcome.errors());
        assert_eq!(outcome.text(), "42");
    }
}

#[test]
fn what_cannot_be_run_is_said_by_name() {
    for mode in MODES {
        let error = |program: &str| spawn(spec(program, &[], mode)).unwrap_err();
        assert!(matches!(
            error("no-such-program"),
            SpawnError::NotFound { .. }
        ));
        assert!(matches!(
            error("/no/such/program"),
            SpawnError::NotFound { .. }
        ));
        assert!(matches!(error("./none"), SpawnError::NotFound { .. }));
        assert!(matches!(error("/usr"), SpawnError::IsDirectory { .. }));
        assert!(matches!(
            error("/etc/hosts"),
            SpawnError::NotExecutable { .. }
        ));
        assert!(matches!(error(""), SpawnError::InvalidInput { .. }));
        let mut long = spec("true", &[], mode);
        long.args = vec!["x".repeat(2 << 20).into()];
        let text = spawn(long).unwrap_err().to_string();
        assert!(
            text.contains("2097152 bytes") && text.contains("131071"),
            "{text}"
        );
        let mut nul = spec("true", &[], mode);
        nul.args = vec!["a\0b".into()];
        assert!(matches!(spawn(nul), Err(SpawnError::InvalidInput { .. })));
        let mut many = spec("true", &[], mode);
        many.args = vec!["x".repeat(60 << 10).into(); 200];
        assert!(matches!(spawn(many), Err(SpawnError::InvalidInput { .. })));
    }
}

#[test]
fn a_required_layer_that_is_missing_fails_closed() {
    let mut spec = shell("true", Namespaces::Off);
    spec.require = vec![Layer::NetNs];
    match spawn(spec) {
        Err(SpawnError::LayerUnavailable {
            layer: Layer::NetNs,
            why,
        }) => assert!(!why.is_empty()),
        other => panic!("{other:?}"),
    }
    let mut spec = shell("true", Namespaces::Auto);
    spec.require = vec![Layer::Vm];
    assert!(matches!(
        spawn(spec),
        Err(SpawnError::LayerUnavailable {
            layer: Layer::Vm,
            ..
        })
    ));
}

#[test]
fn the_workspace_can_be_collected() {
    for mode in MODES {
        let mut spec = shell("echo result >out.txt; mkdir d; echo more >d/x", mode);
        spec.collect = true;
        let running = spawn(spec).unwrap();
        let killer = running.killer();
        let finished = running.wait().unwrap();
        killer.kill(Ended::Killed);
        let workspace = finished.workspace.as_ref().unwrap();
        let path = format!(
            "/proc/self/fd/{}",
            std::os::fd::AsRawFd::as_raw_fd(workspace)
        );
        assert_eq!(
            fs::read_to_string(format!("{path}/out.txt")).unwrap(),
            "result\n"
        );
        assert_eq!(fs::read_to_string(format!("{path}/d/x")).unwrap(), "more\n");
        let host = fs::read_link(&path).unwrap();
        drop(finished);
        assert!(mode == Namespaces::Auto || !host.exists());
    }
}

#[test]
fn grants_open_what_they_name_and_no_more() {
    let base = tempfile::Builder::new()
        .prefix("grant")
        .tempdir_in("/var/tmp")
        .unwrap();
    let base = base.path();
    fs::set_permissions(base, fs::Permissions::from_mode(0o755)).unwrap();
    for name in ["read", "write", "closed"] {
        fs::create_dir(base.join(name)).unwrap();
        fs::write(base.join(name).join("file"), name).unwrap();
        fs::set_permissions(base.join(name), fs::Permissions::from_mode(0o777)).unwrap();
    }
    for mode in MODES {
        let at = base.display();
        let script = format!(
            "cat {at}/read/file; echo x >{at}/read/new; cat {at}/closed/file; echo x >{at}/write/new"
        );
        let mut spec = shell(&script, mode);
        let grant = |name: &str, access| Grant {
            path: base.join(name),
            destination: None,
            access,
        };
        spec.grants = vec![
            grant("read", Access::Read),
            grant("write", Access::ReadWrite),
        ];
        let outcome = run(spec);
        assert_eq!(outcome.text(), "read", "{}", outcome.errors());
        assert!(!base.join("read/new").exists());
        assert_eq!(fs::read_to_string(base.join("write/new")).unwrap(), "x\n");
        fs::remove_file(base.join("write/new")).unwrap();
    }
}

#[test]
fn signals_reach_the_first_process() {
    for mode in MODES {
        let script = "trap 'echo got; exit 4' USR1; echo ready; while :; do sleep 1; done";
        let mut running = spawn(shell(script, mode)).unwrap();
        let mut ready = [0; 6];
        running
            .stdout
            .as_mut()
            .unwrap()
            .read_exact(&mut ready)
            .unwrap();
        let killer = running.killer();
        killer.signal(libc_sigusr1()).unwrap();
        assert!(killer.signal(0).is_err() && killer.signal(65).is_err());
        let outcome = finish(running, Vec::new());
        assert_eq!((outcome.code(), outcome.text().as_str()), (4, "got"));
        assert!(killer.signal(10).is_err());
        killer.kill(Ended::Killed);
    }
}

const fn libc_sigusr1() -> i32 {
    10
}

#[test]
fn the_first_cause_of_a_kill_wins() {
    for mode in MODES {
        let running = spawn(spec("sleep", &["60"], mode)).unwrap();
        let killer = running.killer();
        killer.kill(Ended::OutputExceeded);
        killer.kill(Ended::Killed);
        assert_eq!(
            finish(running, Vec::new()).report.ended,
            Ended::OutputExceeded
        );
    }
}

#[test]
fn everything_works_for_an_unprivileged_caller() {
    common::repeat_unprivileged(&["everything_works", "the_python_on_path"]);
}

#[test]
fn defaults_are_what_they_say() {
    let spec = Spec::new("x");
    assert_eq!(spec.namespaces, Namespaces::Auto);
    assert!(!spec.collect && spec.grants.is_empty());
}
