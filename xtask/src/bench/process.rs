//! The rows of `process` isolation: starts, a program's own work, and many sandboxes at once.
//!
//! The plain side is `std::process::Command`, and bubblewrap where it is installed.

use super::{Times, interleaved};
use anyhow::{Context as _, ensure};
use ringfence::{Isolation, Sandbox};
use ringfence_sandbox::{Ended, Namespaces, Spec};
use std::fmt::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

/// What bubblewrap needs to show a program about what ringfence shows.
const BUBBLEWRAP: &[&str] = &[
    "--unshare-all",
    "--die-with-parent",
    "--new-session",
    "--cap-drop",
    "ALL",
    "--ro-bind",
    "/usr",
    "/usr",
    "--ro-bind",
    "/etc/ld.so.cache",
    "/etc/ld.so.cache",
    "--symlink",
    "usr/bin",
    "/bin",
    "--symlink",
    "usr/lib",
    "/lib",
    "--symlink",
    "usr/lib64",
    "/lib64",
    "--proc",
    "/proc",
    "--dev",
    "/dev",
    "--tmpfs",
    "/tmp",
    "--",
];

/// All rows.
pub(super) fn rows(runs: usize) -> anyhow::Result<()> {
    println!("\n| what | p50 | p99 | p50 against plain |\n|---|---|---|---|");
    starts("`true`", &["true"], 0, runs)?;
    let fewer = runs.min(50);
    starts("`true`, the caller holds 1 GiB", &["true"], 1 << 30, fewer)?;
    // Not by its name alone: that may be a version manager's shim, a program of its own.
    let python = ["/usr/bin/python3", "-c", "print(6*7)"];
    starts("`/usr/bin/python3 -c 'print(6*7)'`", &python, 0, fewer)?;
    prewarmed(runs)?;
    println!("\n| a program's own work | plain | in the sandbox | ratio |\n|---|---|---|---|");
    work()?;
    println!("\n| sandboxes alive at once | starts a second | memory of each |\n|---|---|---|");
    for count in [1, 10, 100, 1000] {
        alive(count)?;
    }
    thousand()
}

fn sandbox() -> Result<Sandbox, ringfence::Error> {
    Sandbox::builder().isolation(Isolation::Process).build()
}

/// From create to reaped, of each way to start a program.
fn starts(what: &str, words: &[&str], held: usize, runs: usize) -> anyhow::Result<()> {
    let (program, args) = words.split_first().context("no program")?;
    // Touched, so that its page tables exist.
    let held = vec![1_u8; held];
    let whole = sandbox()?;
    let mut ways: Vec<(&str, super::Run<'_>)> = vec![
        (
            "plain",
            Box::new(|| plain(Command::new(program).args(args))),
        ),
        (
            "ringfence, every layer there is",
            Box::new(|| {
                let output = whole.command(*program).args(args.to_vec()).output()?;
                ensure!(output.report.success(), "{program} failed: {output:?}");
                Ok(())
            }),
        ),
        (
            "ringfence, the required layers",
            Box::new(|| required_layers(program, args)),
        ),
    ];
    if Command::new("bwrap").arg("--version").output().is_ok() {
        ways.push((
            "bubblewrap",
            Box::new(|| plain(Command::new("bwrap").args(BUBBLEWRAP).args(words))),
        ));
    }
    let names: Vec<&str> = ways.iter().map(|(name, _)| *name).collect();
    let ways = ways.into_iter().map(|(_, way)| way).collect();
    let times = interleaved(runs, ways)?;
    drop(held);
    let reference = times.first().map_or(Duration::ZERO, Times::median);
    for (name, times) in names.iter().zip(&times) {
        println!(
            "| {what}: {name} | {} | {} | {:.2}× |",
            super::show(times.median()),
            super::show(times.at(99)),
            times.median().as_secs_f64() / reference.as_secs_f64()
        );
    }
    Ok(())
}

/// Code given to an interpreter that was started ahead, against that interpreter's plain start, from
/// request to reaped. The pool is full whenever either begins; refilling it is in neither time.
fn prewarmed(runs: usize) -> anyhow::Result<()> {
    let code = "print(6*7)";
    let pool = Sandbox::builder()
        .isolation(Isolation::Process)
        .prewarm(4)
        .build()?;
    let which = pool.python("import sys; print(sys.executable)").output()?;
    let python = String::from_utf8(which.stdout)?;
    let python = python.trim();
    let mut times = [Vec::new(), Vec::new()];
    for run in 0..=runs {
        pool.wait_prewarmed()?;
        let begin = Instant::now();
        let output = pool.python(code).output()?;
        let warm = begin.elapsed();
        ensure!(output.stdout == b"42\n", "prewarmed: {output:?}");
        pool.wait_prewarmed()?;
        let begin = Instant::now();
        plain(Command::new(python).args(["-c", code]))?;
        let cold = begin.elapsed();
        if run > 0 {
            for (times, time) in times.iter_mut().zip([cold, warm]) {
                times.push(time);
            }
        }
    }
    let [plain, warm] = times.map(|mut times| {
        times.sort_unstable();
        Times(times)
    });
    for (name, times) in [("plain", &plain), ("ringfence, prewarmed", &warm)] {
        println!(
            "| `print(6*7)` by {python}: {name} | {} | {} | {:.2}× |",
            super::show(times.median()),
            super::show(times.at(99)),
            times.median().as_secs_f64() / plain.median().as_secs_f64()
        );
    }
    Ok(())
}

fn plain(command: &mut Command) -> anyhow::Result<()> {
    let output = command.stdin(Stdio::null()).output()?;
    ensure!(output.status.success(), "{command:?} failed: {output:?}");
    Ok(())
}

/// Without namespaces, which the public interface always asks for.
fn required_layers(program: &str, args: &[&str]) -> anyhow::Result<()> {
    let mut spec = Spec::new(program);
    spec.args = args.iter().map(Into::into).collect();
    spec.namespaces = Namespaces::Off;
    let mut running = ringfence_sandbox::spawn(spec)?;
    let mut stdout = running.stdout.take().context("no standard output")?;
    std::io::copy(&mut stdout, &mut std::io::sink())?;
    let report = running.wait()?.report;
    let ended = &report.ended;
    ensure!(
        *ended == Ended::Exited { code: 0 },
        "{program} failed: {report:?}"
    );
    Ok(())
}

/// Programs that work for a second or so, outside and inside.
fn work() -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    let source = folder.path().join("many.c");
    std::fs::write(&source, many_functions()?)?;
    let c_file = source
        .to_str()
        .context("the temporary folder's name is no text")?;
    let open = "
for _ in range(200000):
    open('/usr/bin/env').close()
";
    let jobs: [(&str, Vec<&str>, bool); 3] = [
        (
            "200,000 times open and close",
            vec!["/usr/bin/python3", "-c", open],
            false,
        ),
        (
            "`find /usr/lib /usr/include`",
            vec!["find", "/usr/lib", "/usr/include", "-size", "+9999999k"],
            false,
        ),
        (
            "`gcc -O1` of 2,000 functions",
            vec!["gcc", "-O1", "-c", "many.c", "-o", "/dev/null"],
            true,
        ),
    ];
    let whole = sandbox()?;
    for (what, words, needs_source) in jobs {
        let (program, args) = words.split_first().context("no program")?;
        if !is_installed(program) {
            println!("| {what} | {program} is not installed | | |");
            continue;
        }
        let run: Vec<super::Run<'_>> = vec![
            Box::new(|| plain(Command::new(program).args(args).current_dir(folder.path()))),
            Box::new(|| {
                let mut command = whole.command(*program).args(args.to_vec());
                if needs_source {
                    command = command.file_from("many.c", c_file);
                }
                let output = command.output()?;
                ensure!(output.report.success(), "{program} failed: {output:?}");
                Ok(())
            }),
        ];
        let times = interleaved(7, run)?;
        let [plain, confined] = times.as_slice() else {
            anyhow::bail!("two ways were measured");
        };
        let (plain, confined) = (plain.median(), confined.median());
        println!(
            "| {what} | {} | {} | {:.3}× |",
            super::show(plain),
            super::show(confined),
            confined.as_secs_f64() / plain.as_secs_f64()
        );
    }
    Ok(())
}

fn is_installed(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|folder| folder.join(program).exists())
}

fn many_functions() -> Result<String, std::fmt::Error> {
    let mut text = String::new();
    for number in 0..2000 {
        writeln!(
            text,
            "int f{number}(int x) {{ int s = {number}; \
             for (int i = 0; i < x; i++) s = s * 31 + (i ^ x); return s; }}"
        )?;
    }
    Ok(text)
}

/// Starts so many programs that wait, then ends them.
fn alive(count: usize) -> anyhow::Result<()> {
    let whole = sandbox()?;
    let before = available_memory()?;
    let begin = Instant::now();
    let mut children = Vec::with_capacity(count);
    for _ in 0..count {
        let command = whole.command("cat").stdin(ringfence::Stdio::piped());
        children.push(command.spawn()?);
    }
    let time = begin.elapsed();
    let used = before.saturating_sub(available_memory()?);
    for mut child in children {
        drop(child.stdin.take());
        let report = child.wait()?;
        ensure!(report.success(), "cat failed: {report:?}");
    }
    println!(
        "| {count} | {:.0} | {} KiB |",
        f64::from(u32::try_from(count)?) / time.as_secs_f64(),
        used / u64::try_from(count)?
    );
    Ok(())
}

/// KiB that the system could give.
fn available_memory() -> anyhow::Result<u64> {
    let text = std::fs::read_to_string("/proc/meminfo")?;
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix("MemAvailable:"));
    let number = line.and_then(|line| line.split_whitespace().next());
    Ok(number
        .context("no MemAvailable in /proc/meminfo")?
        .parse()?)
}

/// A thousand runs, 64 at a time: none fails, nothing is left.
fn thousand() -> anyhow::Result<()> {
    let whole = sandbox()?;
    let left = AtomicUsize::new(1000);
    let failed = AtomicUsize::new(0);
    let take = || {
        let taken = left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| {
            left.checked_sub(1)
        });
        taken.is_ok()
    };
    let begin = Instant::now();
    std::thread::scope(|scope| {
        for _ in 0..64 {
            scope.spawn(|| {
                while take() {
                    let output = whole.command("true").output();
                    if !output.is_ok_and(|output| output.report.success()) {
                        failed.fetch_add(1, Ordering::Relaxed);
                    }
                }
            });
        }
    });
    let time = begin.elapsed();
    let failed = failed.into_inner();
    println!(
        "\n1,000 runs of `true`, 64 at a time: {failed} failed, {:.0} a second, {} left behind.",
        1000.0 / time.as_secs_f64(),
        left_behind()?
    );
    ensure!(failed == 0, "{failed} of 1,000 runs failed");
    Ok(())
}

/// Processes of this one's, and folders of sandboxes.
fn left_behind() -> anyhow::Result<usize> {
    let own = std::process::id();
    let children = std::fs::read_to_string(format!("/proc/{own}/task/{own}/children"))?;
    let folders = std::fs::read_dir(Path::new("/tmp"))?
        .flatten()
        .filter(|entry| {
            let name = entry.file_name();
            name.to_string_lossy().contains(&format!("-{own}-"))
        });
    Ok(children.split_whitespace().count() + folders.count())
}
