//! Programs that people really run do in the sandbox what they do outside of it.
//!
//! Each is a script in `programs/` that uses one of them thoroughly, ends with an error at the first
//! thing that does not work, and else prints `ok`. What is not installed here is skipped.

use ringfence_tests::{Isolation, Lab, PATH, Run, Scenario, process};
use std::path::{Path, PathBuf};
use std::process::Command;

/// Where there are semaphores by name, sockets by path, terminals, and a `/proc` of all processes:
/// each takes a mount namespace.
const WITH_MOUNTS: &[Isolation] = &[Isolation::Process, Isolation::ProcessUser, Isolation::Vm];

/// Likewise, and with what the guest does not have.
const WITH_MOUNTS_HERE: &[Isolation] = &[Isolation::Process, Isolation::ProcessUser];

/// As the user who started the tests, whose home holds the program.
const AS_MYSELF: &[Isolation] = &[Isolation::Process];

/// A scenario that is a script: its interpreter is that of its name's ending.
macro_rules! script {
    ($on:expr, $name:ident, $file:literal, [$($program:literal),*]) => {
        Scenario::on(stringify!($name), $on, |lab| {
            check(lab, $file, include_str!(concat!("programs/", $file)));
        })
        .unless(|| missing(&[$($program),*]))
    };
}

pub(crate) const SCENARIOS: &[Scenario] = &[
    script!(&Isolation::ALL, python_threads, "threads.py", ["python3"]),
    script!(
        &Isolation::ALL,
        python_subprocess,
        "subprocesses.py",
        ["python3"]
    ),
    script!(
        &Isolation::ALL,
        python_processes,
        "processes_by_pipe.py",
        ["python3"]
    ),
    script!(
        WITH_MOUNTS,
        python_multiprocessing,
        "multiprocess.py",
        ["python3"]
    ),
    script!(
        &Isolation::ALL,
        python_asyncio,
        "asynchronous.py",
        ["python3"]
    ),
    script!(
        &Isolation::ALL,
        python_unix_servers,
        "unix_servers.py",
        ["python3"]
    ),
    script!(
        WITH_MOUNTS,
        python_unix_sockets,
        "unix_streams.py",
        ["python3"]
    ),
    script!(
        &Isolation::ALL,
        python_databases,
        "databases.py",
        ["python3"]
    ),
    script!(
        &Isolation::ALL,
        python_system_interfaces,
        "system_interfaces.py",
        ["python3"]
    ),
    script!(WITH_MOUNTS, terminals, "terminal.py", ["python3"]),
    script!(
        &Isolation::ON_THIS_KERNEL,
        python_venv,
        "venv.sh",
        ["python3"]
    ),
    script!(
        &Isolation::ON_THIS_KERNEL,
        python_pip,
        "pip.sh",
        ["python3"]
    )
    .unless(no_pip),
    Scenario::on("python_numpy", &Isolation::ON_THIS_KERNEL, numpy).unless(no_numpy),
    script!(&Isolation::ON_THIS_KERNEL, node, "node.js", ["node"]),
    script!(&Isolation::ON_THIS_KERNEL, perl, "perl.pl", ["perl"]),
    script!(&Isolation::ON_THIS_KERNEL, git, "git.sh", ["git"]),
    script!(
        &Isolation::ON_THIS_KERNEL,
        gcc_and_make,
        "gcc_make.sh",
        ["gcc", "make"]
    ),
    Scenario::on("rustc_behind_rustup", AS_MYSELF, rustc).unless(no_rustup),
    Scenario::on("cargo_behind_rustup", AS_MYSELF, cargo).unless(no_rustup),
    script!(&Isolation::ALL, tools, "tools.sh", []),
    script!(&Isolation::ALL, bash, "shell.sh", ["bash"]),
    script!(WITH_MOUNTS_HERE, process_tools, "ps.sh", ["ps", "pgrep"]),
];

/// The first of these programs that the caller of ringfence would not find.
fn missing(programs: &[&str]) -> Option<String> {
    let found = |name: &str| std::env::split_paths(PATH).any(|place| place.join(name).is_file());
    let missing = programs.iter().find(|name| !found(name))?;
    Some(format!("no {missing} on {PATH}"))
}

fn check(lab: &Lab, name: &str, text: &str) {
    succeeds(script(lab, name, text));
}

/// A call of a script under its name, which says what interprets it.
fn script<'a>(lab: &'a Lab<'_>, name: &str, text: &str) -> Run<'a> {
    let interpreter = match Path::new(name).extension().and_then(|end| end.to_str()) {
        Some("py") => "python3",
        Some("js") => "node",
        Some("pl") => "perl",
        // What it does with job control off is bash's own.
        _ if name == "shell.sh" => "bash",
        _ => "sh",
    };
    let mut file = lab.file(name, text).into_os_string();
    file.push(format!(":{name}"));
    lab.run([interpreter, name]).option("--file", file)
}

#[track_caller]
fn succeeds(run: Run<'_>) {
    let outcome = run.option("--timeout", "80s").outcome();
    outcome.assert_code(0);
    assert_eq!(outcome.text().lines().last(), Some("ok"), "{outcome}");
}

/// What the system's Python says to a line of code, outside of every sandbox.
fn python_can(code: &str) -> bool {
    let mut python = Command::new("python3");
    let output = python.args(["-c", code]).env("PATH", PATH).output();
    output.is_ok_and(|output| output.status.success())
}

fn no_pip() -> Option<String> {
    (!python_can("import pip, venv")).then(|| "the system's python3 has no pip".into())
}

/// The wheel that `cargo xtask test` has got for the system's Python.
fn numpy_wheel() -> Option<PathBuf> {
    std::env::var_os("RINGFENCE_NUMPY_WHEEL").map(PathBuf::from)
}

fn no_numpy() -> Option<String> {
    let none = "RINGFENCE_NUMPY_WHEEL names no wheel; cargo xtask test gets one if pip can";
    no_pip().or_else(|| numpy_wheel().is_none().then(|| none.into()))
}

/// What most people install first: extension modules, linear algebra with threads of its own, and
/// 70 MB of files.
fn numpy(lab: &Lab) {
    let wheel = numpy_wheel().unwrap();
    // A copy, because the caller may be somebody who cannot enter the cache.
    let name = wheel.file_name().unwrap().to_str().unwrap();
    let wheel = lab.file(name, std::fs::read(&wheel).unwrap());
    let run = script(lab, "numpy.sh", include_str!("programs/numpy.sh"));
    succeeds(run.option("--ro", &wheel).more([&wheel]));
}

/// The home directory of whoever runs the tests, if rustup's shims are in it.
fn rustup() -> Option<PathBuf> {
    let home = PathBuf::from(std::env::var_os("HOME")?);
    let installed = home.join(".cargo/bin/rustup").is_file() && home.join(".rustup").is_dir();
    (installed && process::find_program("gcc").is_some()).then_some(home)
}

fn no_rustup() -> Option<String> {
    rustup()
        .is_none()
        .then(|| "this user has no rustup, or no gcc to link with".into())
}

const HELLO: &str = "fn main() { println!(\"{}\", std::thread::spawn(|| \"ok\").join().unwrap()); }\n\
                     #[test]\nfn adds() { assert_eq!(1 + 1, 2); }\n";

/// A call with the home directory that rustup is in.
fn with_rustup<'a>(lab: &'a Lab<'_>, program: &[&str]) -> Run<'a> {
    let home = rustup().unwrap();
    let path = format!("{}/.cargo/bin:{PATH}", home.display());
    let mut source = lab.file("main.rs", HELLO).into_os_string();
    source.push(":src/main.rs");
    let run = lab.run(program).option("--file", source);
    run.with("HOME", home).with("PATH", path)
}

fn rustc(lab: &Lab) {
    let run = with_rustup(lab, &["rustc", "-O", "src/main.rs"]);
    run.outcome().assert_code(0);
}

fn cargo(lab: &Lab) {
    let manifest = "[package]\nname = \"small\"\nversion = \"0.1.0\"\nedition = \"2021\"\n";
    let mut manifest = lab.file("Cargo.toml", manifest).into_os_string();
    manifest.push(":Cargo.toml");
    for program in [
        &["cargo", "run", "--offline"][..],
        &["cargo", "run", "--offline", "--release"],
    ] {
        succeeds(with_rustup(lab, program).option("--file", &manifest));
    }
    let run = with_rustup(lab, &["cargo", "test", "--offline"]).option("--file", &manifest);
    let outcome = run.option("--timeout", "80s").outcome();
    outcome.assert_code(0);
    assert!(outcome.text().contains("1 passed"), "{outcome}");
}
