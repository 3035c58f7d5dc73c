//! `cargo xtask demo`: the main job, once in each isolation.

use anyhow::{Context as _, ensure};
use serde_json::Value;
use std::path::PathBuf;
use xshell::{Shell, cmd};

/// Says where it runs, and shows that files, other processes and the network are out of reach.
const PROGRAM: &str = r#"
import os, socket, sys

print("6 * 7 =", 6 * 7)
print("kernel:", *[getattr(os.uname(), name) for name in ("sysname", "release", "machine")])
print("python:", sys.version.split()[0], " user:", os.getuid(), " folder:", os.getcwd())

def attempt(what, action):
    try:
        action()
        print(f"{what}: ALLOWED")
    except OSError as error:
        print(f"{what}: refused ({error.strerror})")

attempt("read /etc/shadow", lambda: open("/etc/shadow").read())
attempt("signal every other process", lambda: os.kill(-1, 0))
attempt("open a TCP socket", lambda: socket.socket(socket.AF_INET, socket.SOCK_STREAM))
attempt("write to /usr", lambda: open("/usr/bin/planted", "w"))
open("answer.txt", "w").write("42")
print("workspace:", os.listdir("."))
"#;

/// Sets up, builds, and runs the same program in both isolations.
pub(crate) fn run(shell: &Shell) -> anyhow::Result<()> {
    crate::setup::run(shell)?;
    crate::build_image::ensure(shell)?;
    cmd!(shell, "cargo build --release --package ringfence-cli")
        .quiet()
        .run()?;
    let binary = release_binary(shell)?;
    let isolations: &[&[&str]] = if cfg!(target_os = "linux") {
        &[
            &["--isolation", "process"],
            &["--isolation", "vm", "--engine", "qemu"],
        ]
    } else {
        &[&["--isolation", "vm"]]
    };
    let mut costs = Vec::new();
    for isolation in isolations.iter().copied() {
        println!("\n$ ringfence eval {} python …", isolation.join(" "));
        let started = std::time::Instant::now();
        let run = cmd!(
            shell,
            "{binary} eval {isolation...} --timeout 60s --json python {PROGRAM}"
        );
        let report = run.quiet().ignore_status().read()?;
        let whole = started.elapsed();
        let report: Value = serde_json::from_str(&report).context("ringfence printed no report")?;
        print!("{}", text(&report, "stdout"));
        eprint!("{}", text(&report, "stderr"));
        ensure!(report["exit_code"] == 0, "the program failed: {report}");
        costs.push((isolation.join(" "), report, whole));
    }
    println!(
        "\n{:<34} {:>10} {:>10} {:>12} {:>10}",
        "", "wall", "CPU", "peak memory", "in all"
    );
    for (isolation, report, whole) in costs {
        println!(
            "{isolation:<34} {:>7.1} ms {:>7.1} ms {:>8.1} MiB {:>7} ms",
            number(&report, "wall_ms"),
            number(&report, "cpu_ms"),
            number(&report, "peak_memory_bytes") / f64::from(1 << 20),
            whole.as_millis(),
        );
        println!("  layers: {}", report["isolation"]["layers"]);
    }
    println!(
        "\n\"in all\" includes ringfence's own start and, with vm, booting the VM for this one run."
    );
    Ok(())
}

/// Where cargo puts what it builds.
pub(crate) fn target_directory(shell: &Shell) -> anyhow::Result<PathBuf> {
    let metadata = cmd!(shell, "cargo metadata --no-deps --format-version 1")
        .quiet()
        .read()?;
    let metadata: Value = serde_json::from_str(&metadata)?;
    let target = metadata["target_directory"]
        .as_str()
        .context("cargo names no target folder")?;
    Ok(PathBuf::from(target))
}

/// Where cargo has put the command.
pub(crate) fn release_binary(shell: &Shell) -> anyhow::Result<PathBuf> {
    Ok(target_directory(shell)?.join("release").join("ringfence"))
}

fn text<'a>(report: &'a Value, name: &str) -> &'a str {
    report[name].as_str().unwrap_or_default()
}

fn number(report: &Value, name: &str) -> f64 {
    report[name].as_f64().unwrap_or_default()
}
