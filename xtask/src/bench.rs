//! `cargo xtask bench`: the table of the README, measured on this machine.
//!
//! Each row compares two ways to do the same thing, run in turn so that a machine which slows down
//! slows both. What counts is the ratio of the medians.

use anyhow::{Context as _, ensure};
use clap::Args;
use ringfence::{Engine, Isolation, Sandbox};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};
use xshell::Shell;

#[derive(Debug, Args)]
pub(crate) struct Bench {
    /// Counted runs of each side
    #[arg(long, default_value_t = 50)]
    runs: usize,
    /// Counted boots of a VM
    #[arg(long, default_value_t = 10)]
    boots: usize,
    /// Leave out what needs the guest image and QEMU
    #[arg(long)]
    without_vm: bool,
    /// Measure VMs on the engines that run in the lab, and nothing else
    #[cfg(target_os = "linux")]
    #[arg(long)]
    lab: bool,
}

impl Bench {
    pub(crate) fn run(&self, shell: &Shell) -> anyhow::Result<()> {
        crate::setup::run(shell)?;
        #[cfg(target_os = "linux")]
        if self.lab {
            crate::build_image::ensure(shell)?;
            return crate::lab::bench(shell, self.boots);
        }
        println!("| what | median | against | ratio |\n|---|---|---|---|");
        self.spawn("`true` in a `process` sandbox", &["true"], 0)?;
        self.spawn("`true`, caller holds 1 GiB", &["true"], 1 << 30)?;
        self.spawn(
            "`python3 -c 'print(6*7)'` in a `process` sandbox",
            &["python3", "-c", "print(6*7)"],
            0,
        )?;
        if !self.without_vm {
            crate::build_image::ensure(shell)?;
            self.vm()?;
            sizes()?;
        }
        Ok(())
    }

    /// A program in the sandbox against the same program by `std::process`.
    fn spawn(&self, what: &str, words: &[&str], held: usize) -> anyhow::Result<()> {
        let (program, args) = words.split_first().context("no program")?;
        // Touched, so that its page tables exist.
        let held = vec![1_u8; held];
        let sandbox = Sandbox::builder().isolation(Isolation::Process).build()?;
        let mut confined = || -> anyhow::Result<()> {
            let output = sandbox.command(*program).args(args.to_vec()).output()?;
            ensure!(
                output.report.success(),
                "{program} failed in the sandbox: {output:?}"
            );
            Ok(())
        };
        let mut plain = || -> anyhow::Result<()> {
            let output = Command::new(program)
                .args(args)
                .stdin(Stdio::null())
                .output()?;
            ensure!(output.status.success(), "{program} failed: {output:?}");
            Ok(())
        };
        let (confined, plain) = pair(self.runs, &mut confined, &mut plain)?;
        drop(held);
        row(
            what,
            confined,
            &format!("plain: {}", show(plain)),
            Some((confined, plain)),
        );
        Ok(())
    }

    /// Booting a VM, and a program in one that runs already.
    fn vm(&self) -> anyhow::Result<()> {
        let machine = || {
            let builder = Sandbox::builder()
                .isolation(Isolation::Vm)
                .engine(Engine::Qemu);
            builder.timeout(Duration::from_secs(60)).build()
        };
        let run = |sandbox: &Sandbox| -> anyhow::Result<Duration> {
            let started = Instant::now();
            let output = sandbox.command("true").output()?;
            ensure!(output.report.success(), "true failed in the VM: {output:?}");
            Ok(started.elapsed())
        };
        let mut boots = Vec::new();
        let mut warm = Vec::new();
        for _ in 0..self.boots {
            let sandbox = machine()?;
            let cold = run(&sandbox)?;
            let second = run(&sandbox)?;
            boots.push(cold.saturating_sub(second));
            warm.push(second);
        }
        row(
            "boot to agent ready (qemu, emulated)",
            median(boots),
            "first run less second run",
            None,
        );
        row(
            "`true` in a running VM (qemu, emulated)",
            median(warm),
            "",
            None,
        );
        Ok(())
    }
}

fn sizes() -> anyhow::Result<()> {
    let image = ringfence::image::Image::find(ringfence::image::Arch::Aarch64)?;
    for (what, path, most) in [
        ("kernel `Image`", image.kernel(), Some(5_u32)),
        ("initramfs", image.initramfs(), Some(3)),
        ("root file system", image.rootfs(), None),
    ] {
        let bytes = std::fs::metadata(&path)?.len();
        #[expect(clippy::cast_precision_loss, reason = "a size for people")]
        let size = bytes as f64 / f64::from(1 << 20);
        let limit = most
            .map(|most| format!("aim: {most} MiB"))
            .unwrap_or_default();
        println!("| {what} | {size:.2} MiB | {limit} | |");
    }
    Ok(())
}

/// Runs two things in turn, after one warm-up of each, and gives their medians.
fn pair(
    runs: usize,
    first: &mut dyn FnMut() -> anyhow::Result<()>,
    second: &mut dyn FnMut() -> anyhow::Result<()>,
) -> anyhow::Result<(Duration, Duration)> {
    first()?;
    second()?;
    let mut times = (Vec::new(), Vec::new());
    for _ in 0..runs {
        let started = Instant::now();
        first()?;
        times.0.push(started.elapsed());
        let started = Instant::now();
        second()?;
        times.1.push(started.elapsed());
    }
    Ok((median(times.0), median(times.1)))
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort_unstable();
    times.get(times.len() / 2).copied().unwrap_or_default()
}

fn row(what: &str, time: Duration, against: &str, ratio: Option<(Duration, Duration)>) {
    let ratio = ratio.map(|(a, b)| format!("{:.2}×", a.as_secs_f64() / b.as_secs_f64()));
    println!(
        "| {what} | {} | {against} | {} |",
        show(time),
        ratio.unwrap_or_default()
    );
}

fn show(time: Duration) -> String {
    format!("{:.2} ms", time.as_secs_f64() * 1e3)
}
