//! `cargo xtask bench`: the table of the README, measured on this machine.
//!
//! Each row compares two ways to do the same thing, run in turn so that a machine which slows down
//! slows both. What counts is the ratio of the medians.

#[cfg(target_os = "linux")]
mod process;

use anyhow::ensure;
use clap::Args;
use ringfence::{Engine, Isolation, Sandbox};
use std::time::{Duration, Instant};
use xshell::Shell;

#[derive(Debug, Args)]
pub(crate) struct Bench {
    /// Counted runs of each side
    #[arg(long, default_value_t = 200)]
    runs: usize,
    /// Counted boots of a VM
    #[arg(long, default_value_t = 10)]
    boots: usize,
    /// Measure `process` isolation and nothing else
    #[arg(long)]
    processes: bool,
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
        #[cfg(target_os = "linux")]
        if cfg!(debug_assertions) {
            let runs = self.runs.to_string();
            xshell::cmd!(
                shell,
                "cargo run --quiet --release --package xtask -- bench --processes --runs {runs}"
            )
            .run()?;
        } else {
            process::rows(self.runs)?;
        }
        if self.processes {
            return Ok(());
        }
        crate::build_image::ensure(shell)?;
        println!("\n| what | median | against |\n|---|---|---|");
        self.vm()?;
        sizes()
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
        );
        row("`true` in a running VM (qemu, emulated)", median(warm), "");
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
        println!("| {what} | {size:.2} MiB | {limit} |");
    }
    Ok(())
}

/// One way to do a thing.
type Run<'a> = Box<dyn FnMut() -> anyhow::Result<()> + 'a>;

/// What runs took, in ascending order.
struct Times(Vec<Duration>);

impl Times {
    fn median(&self) -> Duration {
        self.at(50)
    }

    /// A percentile.
    fn at(&self, percent: usize) -> Duration {
        let index = (self.0.len() * percent / 100).min(self.0.len().saturating_sub(1));
        self.0.get(index).copied().unwrap_or_default()
    }
}

/// Runs several ways to do the same thing in turn, after one warm-up of each.
fn interleaved(runs: usize, mut ways: Vec<Run<'_>>) -> anyhow::Result<Vec<Times>> {
    let mut times: Vec<Times> = ways.iter().map(|_| Times(Vec::new())).collect();
    for run in 0..=runs {
        for (way, times) in ways.iter_mut().zip(&mut times) {
            let started = Instant::now();
            way()?;
            if run > 0 {
                times.0.push(started.elapsed());
            }
        }
    }
    for times in &mut times {
        times.0.sort_unstable();
    }
    Ok(times)
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort_unstable();
    Times(times).median()
}

fn row(what: &str, time: Duration, against: &str) {
    println!("| {what} | {} | {against} |", show(time));
}

fn show(time: Duration) -> String {
    format!("{:.2} ms", time.as_secs_f64() * 1e3)
}
