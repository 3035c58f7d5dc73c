//! What a VM costs on this machine: `vm_costs BOOTS ENGINE…`, with the command `ringfence` named by
//! `RINGFENCE_WORKER`. Prints rows of a Markdown table. `cargo xtask bench --lab` runs it in the lab.
//!
//! Engines take turns, so that a machine which slows down slows all of them.

#![cfg(target_os = "linux")]
#![expect(clippy::unwrap_used, reason = "a measurement that fails is none")]
#![expect(clippy::cast_precision_loss, reason = "sizes and counts for people")]

use ringfence::{Engine, Isolation, Sandbox, Stdio};
use std::collections::BTreeMap;
use std::fs;
use std::io::{Read as _, Write as _};
use std::process::Command;
use std::time::{Duration, Instant};

/// Bytes that go through vsock in one direction.
const BULK: usize = 128 << 20;

const MIB: f64 = (1 << 20) as f64;

fn main() {
    let mut words = std::env::args().skip(1);
    let boots: usize = words.next().unwrap().parse().unwrap();
    let engines: Vec<Engine> = words.map(|word| word.parse().unwrap()).collect();
    println!("| what | engine | measured |\n|---|---|---|");
    times(boots, &engines);
    for &engine in &engines {
        prewarmed(engine);
        streams(engine);
        if engine != Engine::Qemu {
            memory(engine);
            exits(engine);
        }
    }
}

fn row(what: &str, engine: Engine, measured: &str) {
    println!("| {what} | {engine} | {measured} |");
}

fn sandbox(engine: Engine) -> Sandbox {
    let builder = Sandbox::builder().isolation(Isolation::Vm).engine(engine);
    let builder = builder.timeout(Duration::from_secs(300));
    builder.max_output(2 * BULK as u64).build().unwrap()
}

fn run(sandbox: &Sandbox) -> Duration {
    let started = Instant::now();
    let output = sandbox.command("true").output().unwrap();
    assert!(output.report.success(), "{output:?}");
    started.elapsed()
}

/// The first run of a sandbox boots; its second does the rest.
fn times(boots: usize, engines: &[Engine]) {
    let mut booting: BTreeMap<usize, Vec<Duration>> = BTreeMap::new();
    let mut warm: BTreeMap<usize, Vec<Duration>> = BTreeMap::new();
    for _ in 0..boots {
        for (index, &engine) in engines.iter().enumerate() {
            let sandbox = sandbox(engine);
            let first = run(&sandbox);
            let second = run(&sandbox);
            booting
                .entry(index)
                .or_default()
                .push(first.saturating_sub(second));
            warm.entry(index).or_default().push(second);
        }
    }
    for (what, times) in [
        ("boot to agent ready", booting),
        ("`true` in a running VM", warm),
    ] {
        for (index, times) in times {
            row(what, engines[index], &show(times));
        }
    }
}

fn show(mut times: Vec<Duration>) -> String {
    times.sort_unstable();
    let at = |index: usize| times[index].as_secs_f64() * 1e3;
    let (count, last) = (times.len(), times.len() - 1);
    format!(
        "{:.1} ms (of {count}: {:.1} to {:.1})",
        at(count / 2),
        at(0),
        at(last)
    )
}

/// Code for an interpreter that the agent has started ahead, against its start.
fn prewarmed(engine: Engine) {
    const RUNS: usize = 50;
    let builder = Sandbox::builder().isolation(Isolation::Vm).engine(engine);
    let sandbox = builder.prewarm(2).build().unwrap();
    let mut times = [Vec::new(), Vec::new()];
    for _ in 0..RUNS {
        let ordinary = sandbox.python("print(6*7)").env("ORDINARY", "1");
        for (command, times) in [sandbox.python("print(6*7)"), ordinary]
            .into_iter()
            .zip(&mut times)
        {
            sandbox.wait_prewarmed().unwrap();
            let started = Instant::now();
            let output = command.output().unwrap();
            times.push(started.elapsed());
            assert_eq!(output.stdout, b"42\n");
        }
    }
    let [ahead, ordinary] = times;
    for (what, times) in [
        ("`print(6*7)` by Python in a running VM", ordinary),
        ("the same, prewarmed", ahead),
    ] {
        row(what, engine, &show(times));
    }
}

/// Bulk through vsock, with agent and sandbox in between, one direction at a time.
fn streams(engine: Engine) {
    let sandbox = sandbox(engine);
    run(&sandbox);
    let script = format!("head -c {BULK} /dev/zero");
    let command = sandbox.command("sh").args(["-c", &script]);
    let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
    let mut stdout = child.stdout.take().unwrap();
    let mut buffer = vec![0; 1 << 20];
    let (mut count, started) = (0, Instant::now());
    loop {
        match stdout.read(&mut buffer).unwrap() {
            0 => break,
            read => count += read,
        }
    }
    let out = started.elapsed();
    assert_eq!(count, BULK);
    assert!(child.wait().unwrap().success());
    let command = sandbox.command("sh").args(["-c", "cat > /dev/null"]);
    let mut child = command.stdin(Stdio::piped()).spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let started = Instant::now();
    for _ in 0..BULK / buffer.len() {
        stdin.write_all(&buffer).unwrap();
    }
    drop(stdin);
    assert!(child.wait().unwrap().success());
    let into = started.elapsed();
    for (what, time) in [("stdout of a program", out), ("stdin of a program", into)] {
        let rate = BULK as f64 / MIB / time.as_secs_f64();
        row(what, engine, &format!("{rate:.0} MiB/s"));
    }
}

/// What the worker has in memory besides the guest's.
fn memory(engine: Engine) {
    let sandbox = sandbox(engine);
    run(&sandbox);
    // The worker is the child of one of this process's threads.
    let tasks = fs::read_dir("/proc/self/task").unwrap();
    let children: String = tasks
        .flatten()
        .filter_map(|task| fs::read_to_string(task.path().join("children")).ok())
        .collect();
    let worker = children.split_whitespace().next().unwrap();
    let smaps = fs::read_to_string(format!("/proc/{worker}/smaps")).unwrap();
    let (mut guest, mut rest, mut size) = (0, 0, 0);
    for line in smaps.lines() {
        let mut words = line.split_whitespace();
        let (name, value) = (words.next(), words.next());
        let kib = || value.unwrap().parse::<u64>().unwrap();
        match name {
            Some("Size:") => size = kib(),
            // No mapping of the monitor's own is this large.
            Some("Rss:") if size >= 64 << 10 => guest += kib(),
            Some("Rss:") => rest += kib(),
            _ => {}
        }
    }
    let text = format!("{:.1} MiB", rest as f64 / 1024.0);
    row(
        "resident memory of the monitor, without the guest's",
        engine,
        &text,
    );
    let text = format!("{:.1} MiB", guest as f64 / 1024.0);
    row("resident memory of the guest after `true`", engine, &text);
}

/// How often the guest left to the monitor until it was ready, and for what.
fn exits(engine: Engine) {
    let program = std::env::var_os("RINGFENCE_WORKER").unwrap();
    let output = Command::new(program)
        .args(["run", "--isolation", "vm", "--engine", &engine.to_string()])
        .args(["--", "true"])
        .env("RINGFENCE_DEBUG", "1")
        .output()
        .unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success(), "{said}");
    let mut lines = said
        .lines()
        .skip_while(|line| !line.starts_with("ready after"));
    let total = lines.next().unwrap();
    let largest: Vec<_> = lines.take(3).map(str::trim).collect();
    row(
        "until ready",
        engine,
        &format!("{total} {}", largest.join(", ")),
    );
}
