//! The engine around QEMU: with scripts in its place, and with QEMU and a kernel of nine
//! instructions. That a whole guest boots is for the end-to-end tests.

use super::*;
use rustix::process::{Pid, PidfdFlags, Signal, kill_process, pidfd_open};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::PermissionsExt;
use std::process::Stdio;
use std::time::Instant;
use tempfile::TempDir;

/// Tells a test that was started again what to do.
const ROLE: &str = "RINGFENCE_TEST_ROLE";

/// Prints "hi" on the PL011 and switches the machine off.
const KERNEL: [u32; 9] = [
    0xd2a1_2001, // mov  x1, #0x9000000
    0x5280_0d00, // mov  w0, #'h'
    0xb900_0020, // str  w0, [x1]
    0x5280_0d20, // mov  w0, #'i'
    0xb900_0020, // str  w0, [x1]
    0x5280_0100, // mov  w0, #0x8
    0x72b0_8000, // movk w0, #0x8400, lsl #16: PSCI SYSTEM_OFF
    0xd400_0002, // hvc  #0
    0x1400_0000, // b    .
];

fn config(dir: &TempDir) -> MachineConfig {
    let part = |name: &str, bytes: &[u8]| {
        let path = dir.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        path
    };
    let kernel: Vec<u8> = KERNEL.iter().flat_map(|word| word.to_le_bytes()).collect();
    MachineConfig {
        kernel: part("kernel,with comma", &kernel),
        initramfs: part("initramfs", &[0; 512]),
        rootfs: part("root,fs,", &[0; 4096]),
        memory: 64 << 20,
        cpus: 1,
        console_log: None,
        boot_timeout: Duration::from_secs(30),
        ready_port: 1024,
        kernel_args: Vec::new(),
    }
}

/// A program in QEMU's place.
fn script(dir: &TempDir, text: &str) -> PathBuf {
    let path = dir.path().join("engine");
    let mut file = File::create(&path).unwrap();
    writeln!(file, "#!/bin/sh\n{text}").unwrap();
    file.set_permissions(PermissionsExt::from_mode(0o700))
        .unwrap();
    path
}

fn exited(result: Result<Booted, MachineError>) -> Exit {
    match result.unwrap_err() {
        MachineError::Exited { exit } => *exit,
        other => panic!("{other}"),
    }
}

#[test]
fn an_early_end_says_why() {
    let dir = TempDir::new().unwrap();
    let engine = script(
        &dir,
        "echo no such machine >&2; printf 'last\\033words\\n'; exit 3",
    );
    let exit = exited(attempt(&config(&dir), &engine, true));
    assert_eq!(exit.status.unwrap().code(), Some(3));
    assert!(!exit.stopped);
    assert_eq!(
        (exit.stderr.as_str(), exit.console.as_str()),
        ("no such machine\n", "lastwords\n")
    );
    let text = exit.to_string();
    assert!(
        text.contains("exit status: 3") && text.contains("no such machine"),
        "{text}"
    );
}

#[test]
fn a_guest_that_is_never_ready_is_ended() {
    let dir = TempDir::new().unwrap();
    let engine = script(&dir, "echo $$; exec sleep 1000");
    let log = tempfile::NamedTempFile::new().unwrap();
    let mut config = config(&dir);
    config.boot_timeout = Duration::from_millis(300);
    config.console_log = Some(log.reopen().unwrap());
    let started = Instant::now();
    let error = attempt(&config, &engine, true).unwrap_err();
    assert!(matches!(error, MachineError::BootTimeout { .. }), "{error}");
    assert!(started.elapsed() < Duration::from_secs(10));
    let pid = std::fs::read_to_string(log.path()).unwrap();
    assert!(
        !Path::new("/proc").join(pid.trim()).exists(),
        "{pid} still runs"
    );
}

#[test]
fn what_cannot_start_leaves_nothing() {
    let dir = TempDir::new().unwrap();
    let error = attempt(&config(&dir), &dir.path().join("nothing"), true).unwrap_err();
    assert!(
        matches!(
            error,
            MachineError::System {
                step: "start QEMU",
                ..
            }
        ),
        "{error}"
    );
}

#[test]
fn wrong_configurations_are_refused() {
    let dir = TempDir::new().unwrap();
    let mut missing = config(&dir);
    missing.initramfs = dir.path().join("absent");
    let error = boot(missing).unwrap_err();
    assert!(
        matches!(
            error,
            MachineError::Part {
                part: "initramfs",
                ..
            }
        ),
        "{error}"
    );
    for (cpus, memory) in [
        (0, 1 << 30),
        (200, 1 << 30),
        (1, 0),
        (1, 1 << 20),
        (1, u64::MAX),
    ] {
        let config = MachineConfig {
            cpus,
            memory,
            ..config(&dir)
        };
        let error = boot(config).unwrap_err();
        assert!(matches!(error, MachineError::Config { .. }), "{error}");
    }
}

#[test]
fn a_missing_engine_is_named() {
    for path in [
        None,
        Some(OsStr::new("")),
        Some(OsStr::new("/nowhere:/dev/null")),
    ] {
        let text = find_in(path).unwrap_err().to_string();
        assert!(text.contains("apt-get install qemu-system-arm"), "{text}");
    }
}

/// QEMU, or `None` with a loud word.
fn real() -> Option<PathBuf> {
    let found = find();
    if let Err(error) = &found {
        eprintln!("SKIPPED: {error}");
    }
    found.ok()
}

#[test]
fn qemu_takes_the_command_line_and_the_device() {
    if real().is_none() {
        return;
    }
    let dir = TempDir::new().unwrap();
    let exit = exited(boot(config(&dir)));
    assert_eq!(exit.stderr, "");
    assert_eq!(exit.console, "hi");
    assert!(exit.status.unwrap().success());
}

#[test]
fn nothing_is_left_after_many() {
    // In a process of its own: other tests' threads and files come and go.
    let status = again("count").stdout(Stdio::null()).status().unwrap();
    assert!(status.success());
}

#[test]
fn the_engine_dies_with_its_caller() {
    let mut caller = again("hold").stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(caller.stdout.take().unwrap()).lines();
    let pid = lines
        .find_map(|line| Some(line.unwrap().split_once("engine=")?.1.to_owned()))
        .unwrap();
    let engine = Pid::from_raw(pid.parse().unwrap()).unwrap();
    let engine = pidfd_open(engine, PidfdFlags::empty()).unwrap();
    kill_process(Pid::from_child(&caller), Signal::KILL).unwrap();
    caller.wait().unwrap();
    let mut fds = [rustix::event::PollFd::new(
        &engine,
        rustix::event::PollFlags::IN,
    )];
    let limit = rustix::event::Timespec {
        tv_sec: 10,
        tv_nsec: 0,
    };
    assert_eq!(
        rustix::event::poll(&mut fds, Some(&limit)).unwrap(),
        1,
        "it still runs"
    );
}

/// This test program once more, in a role.
fn again(role: &str) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    let module = module_path!().split_once("::").unwrap().1;
    command
        .args([
            &format!("{module}::in_a_role"),
            "--exact",
            "--nocapture",
            "--test-threads=1",
        ])
        .env(ROLE, role);
    command
}

/// Not a test of its own: what [`again`] starts. Without a role it does nothing.
#[test]
fn in_a_role() {
    let Some(role) = std::env::var_os(ROLE) else {
        return;
    };
    let dir = TempDir::new().unwrap();
    if role == "hold" {
        // Prints its number where the other process reads, and nothing after that.
        let engine = script(&dir, "echo engine=$$ > /proc/$PPID/fd/1; exec sleep 1000");
        let error = attempt(&config(&dir), &engine, true).unwrap_err();
        panic!("{error}");
    }
    let count = |of: &str| {
        std::fs::read_dir(format!("/proc/self/{of}"))
            .unwrap()
            .count()
    };
    let engine = script(&dir, "exit 0");
    exited(attempt(&config(&dir), &engine, true));
    let before = (count("fd"), count("task"));
    for _ in 0..20 {
        exited(attempt(&config(&dir), &engine, true));
    }
    assert_eq!((count("fd"), count("task")), before);
}
