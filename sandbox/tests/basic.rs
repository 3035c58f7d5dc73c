//! Real executions, with namespaces and without.
#![cfg(target_os = "linux")]

use ringfence_sandbox::{Ended, Namespaces, Spec, spawn};
use std::io::Read;

fn run(mut spec: Spec, namespaces: Namespaces) -> (Ended, String, String) {
    spec.namespaces = namespaces;
    let mut running = spawn(spec).unwrap();
    let mut out = String::new();
    let mut err = String::new();
    running
        .stdout
        .take()
        .unwrap()
        .read_to_string(&mut out)
        .unwrap();
    running
        .stderr
        .take()
        .unwrap()
        .read_to_string(&mut err)
        .unwrap();
    let finished = running.wait().unwrap();
    eprintln!("{:?}", finished.report);
    (finished.report.ended, out, err)
}

#[test]
fn hello() {
    for mode in [Namespaces::Auto, Namespaces::Off] {
        let mut spec = Spec::new("sh");
        spec.args = vec![
            "-c".into(),
            "echo hi; id; pwd; ls -la / $WORKSPACE /dev /proc/self/ns; env; cat /etc/passwd".into(),
        ];
        let (ended, out, err) = run(spec, mode);
        eprintln!("{ended:?}\n{out}\n{err}");
    }
}
