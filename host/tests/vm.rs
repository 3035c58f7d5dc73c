//! VMs through the public API, on any system: what a Mac can run of the end-to-end tests, whose
//! fixtures need Linux. `cargo xtask test --hvf` runs them on a Mac.
//!
//! | variable | meaning |
//! |---|---|
//! | `RINGFENCE_TEST_ENGINE` | the engine; the system's own unless said |
//! | `RINGFENCE_WORKER` | the `ringfence` command |

#![expect(
    clippy::unwrap_used,
    clippy::cast_possible_truncation,
    reason = "a test fails by panicking, and a pattern is made of low bytes"
)]

use ringfence::{Ended, Engine, Error, Isolation, Sandbox, SandboxBuilder, Stdio};
use std::io::{Read, Write};
use std::time::{Duration, Instant};

fn builder(cpus: u8) -> SandboxBuilder {
    let engine = std::env::var("RINGFENCE_TEST_ENGINE");
    let engine = engine.map_or(Engine::Auto, |engine| engine.parse().unwrap());
    let builder = Sandbox::builder().isolation(Isolation::Vm).engine(engine);
    builder.cpus(cpus).timeout(Duration::from_secs(120))
}

fn sandbox() -> Sandbox {
    builder(1).build().unwrap()
}

#[test]
#[ignore = "needs the guest image and an engine: cargo xtask test --hvf on a Mac"]
fn programs_run_with_any_number_of_processors() {
    for cpus in [1, 2, 4] {
        let sandbox = builder(cpus).build().unwrap();
        let out = sandbox.command("nproc").output().unwrap();
        assert_eq!(out.stdout, format!("{cpus}\n").as_bytes(), "{out:?}");
        let code = "print(6 * 7)";
        let out = sandbox.command("python3").args(["-c", code]).output();
        assert_eq!(out.unwrap().stdout, b"42\n");
    }
}

#[test]
#[ignore = "needs the guest image and an engine: cargo xtask test --hvf on a Mac"]
fn statuses_files_and_input_arrive() {
    let code = "import sys; print(sys.stdin.read().upper() + open('x').read()); sys.exit(3)";
    let sandbox = sandbox();
    let command = sandbox.command("python3").args(["-c", code]);
    let out = command.file("x", "file").input("in").output().unwrap();
    assert_eq!(out.stdout, b"INfile\n");
    assert_eq!(out.report.ended, Ended::Exited { code: 3 });
    let out = sandbox.command("no-such-program").output();
    assert!(matches!(out, Err(Error::NotFound { .. })), "{out:?}");
}

/// A stream in which every place has bytes of its own.
fn pattern(mut at: usize, buffer: &mut [u8]) {
    for byte in buffer {
        *byte = (at ^ at >> 8 ^ at >> 16) as u8;
        at += 1;
    }
}

/// 64 MiB each way at once, compared byte for byte.
#[test]
#[ignore = "needs the guest image and an engine: cargo xtask test --hvf on a Mac"]
fn streams_are_whole() {
    const LEN: usize = 64 << 20;
    const PIECE: usize = 1 << 16;
    let sandbox = builder(2).max_output(2 * LEN as u64).build().unwrap();
    let command = sandbox.command("cat").stdin(Stdio::piped());
    let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
    let (mut stdin, mut stdout) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
    let writing = std::thread::spawn(move || {
        let mut buffer = vec![0; PIECE];
        for at in (0..LEN).step_by(PIECE) {
            pattern(at, &mut buffer);
            stdin.write_all(&buffer).unwrap();
        }
    });
    let (mut buffer, mut expected) = (vec![0; PIECE], vec![0; PIECE]);
    for at in (0..LEN).step_by(PIECE) {
        stdout.read_exact(&mut buffer).unwrap();
        pattern(at, &mut expected);
        assert!(buffer == expected, "other bytes from {at} on");
    }
    assert_eq!(stdout.read(&mut buffer).unwrap(), 0);
    writing.join().unwrap();
    assert!(child.wait().unwrap().success());
}

#[test]
#[ignore = "needs the guest image and an engine: cargo xtask test --hvf on a Mac"]
fn time_is_limited_and_programs_are_killed() {
    let sandbox = builder(1).timeout(Duration::from_secs(1)).build().unwrap();
    let out = sandbox.command("sleep").arg("300").output().unwrap();
    assert_eq!(out.report.ended, Ended::TimedOut);
    let sandbox = self::sandbox();
    let mut child = sandbox.command("sleep").arg("300").spawn().unwrap();
    let killer = child.killer();
    let other = std::thread::spawn(move || killer.kill());
    assert_eq!(child.wait().unwrap().ended, Ended::Killed);
    other.join().unwrap();
}

/// Time goes on in a guest that waits: its timer wakes it, neither late nor never.
#[test]
#[ignore = "needs the guest image and an engine: cargo xtask test --hvf on a Mac"]
fn a_pause_lasts_as_long_as_it_should() {
    let sandbox = sandbox();
    sandbox.command("true").output().unwrap();
    let started = Instant::now();
    let out = sandbox.command("sleep").arg("2").output().unwrap();
    assert!(out.report.success());
    let took = started.elapsed();
    let expected = Duration::from_secs(2)..Duration::from_secs(10);
    assert!(expected.contains(&took), "a pause of 2 s took {took:?}");
}

/// Descriptors of this process, which are the same after many machines as after some.
#[test]
#[ignore = "needs the guest image and an engine: cargo xtask test --hvf on a Mac"]
fn machines_come_and_go() {
    let boot = || {
        let out = sandbox().command("true").output().unwrap();
        assert!(out.report.success());
    };
    let descriptors = || std::fs::read_dir("/dev/fd").unwrap().count();
    (0..3).for_each(|_| boot());
    let before = descriptors();
    (0..30).for_each(|_| boot());
    assert_eq!(descriptors(), before);
}
