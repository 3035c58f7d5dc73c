//! `cargo xtask test`: everything that CI runs, in the order of what fails fastest.

use clap::Args;
use std::time::Instant;
use xshell::{Shell, cmd};

/// Programs of the tests that run inside the sandbox, and the environment variables that tell the
/// tests where they are.
const PROBES: [(&str, &str); 2] = [
    ("x86_64-unknown-linux-musl", "RINGFENCE_PROBE_X86_64"),
    ("aarch64-unknown-linux-musl", "RINGFENCE_PROBE_AARCH64"),
];

#[derive(Debug, Args)]
pub(crate) struct Test {
    /// Leave out what needs the guest image and QEMU
    #[arg(long)]
    without_vm: bool,
    /// Leave out formatting, lints and documentation
    #[arg(long)]
    only_tests: bool,
    /// On a Mac: sign the command and run VMs under Hypervisor.framework, and nothing else
    #[arg(long)]
    hvf: bool,
}

impl Test {
    pub(crate) fn run(&self, shell: &Shell) -> anyhow::Result<()> {
        if self.hvf {
            return hvf(shell);
        }
        step("setup", || crate::setup::run(shell))?;
        if !self.only_tests {
            step("format", || {
                Ok(cmd!(shell, "cargo fmt --all --check").quiet().run()?)
            })?;
            step("lints", || lints(shell))?;
            step("dependencies", || dependencies(shell))?;
            step("documentation", || documentation(shell))?;
        }
        if !self.without_vm {
            step("image", || crate::build_image::ensure(shell))?;
        }
        step("fuzz corpora", || fuzz(shell))?;
        step("command", || command(shell))?;
        step("command for macOS", || {
            crate::dist::Dist::default().run(shell)
        })?;
        if !self.without_vm {
            step("packaged kernel", || packaged_kernel(shell))?;
        }
        step("tests", || self.tests(shell))?;
        #[cfg(target_os = "linux")]
        if !self.without_vm {
            step("lab", || lab(shell))?;
        }
        Ok(())
    }

    fn tests(&self, shell: &Shell) -> anyhow::Result<()> {
        let _variables = PROBES
            .iter()
            .map(|(target, variable)| {
                cmd!(
                    shell,
                    "cargo build --package ringfence-probe --target {target}"
                )
                .quiet()
                .run()?;
                let directory = crate::demo::target_directory(shell)?;
                let probe = directory.join(target).join("debug").join("ringfence-probe");
                Ok(shell.push_env(variable, probe))
            })
            .collect::<anyhow::Result<Vec<_>>>()?;
        // The tests drive the command that users get.
        let binary = crate::demo::release_binary(shell)?;
        let _binary = shell.push_env("RINGFENCE_BIN", binary);
        let _numpy =
            crate::numpy::wheel(shell)?.map(|wheel| shell.push_env("RINGFENCE_NUMPY_WHEEL", wheel));
        // No change is refused for what chance finds elsewhere; without this, every run tries others.
        let _seed = shell.push_env("PROPTEST_RNG_SEED", "1");
        let others = std::env::var("NO_PROXY").unwrap_or_default();
        let _proxy = shell.push_env("NO_PROXY", format!("localhost,127.0.0.1,{others}"));
        let _vm = (!self.without_vm).then(|| shell.push_env("RINGFENCE_TEST_REQUIRE_VM", "1"));
        let _namespaces = namespaces(shell)
            .map(|whose| shell.push_env("RINGFENCE_TEST_REQUIRE_NAMESPACES", whose));
        // `cargo test` and not nextest: a fresh machine has it, and doc tests belong to it.
        Ok(cmd!(shell, "cargo test --workspace --no-fail-fast")
            .quiet()
            .run()?)
    }
}

/// For whom this machine can have namespaces, so that a sandbox without them is a failure: whoever
/// runs the tests and, where that is root, an ordinary user too, or root alone.
fn namespaces(shell: &Shell) -> Option<&'static str> {
    const USER: &str = "54321";
    const BY_USER: [&str; 4] = ["unshare", "--user", "--mount", "true"];
    let works = |words: &[&str]| {
        let command = cmd!(shell, "env {words...}").quiet();
        let command = command.ignore_stdout().ignore_stderr();
        command.run().is_ok()
    };
    let as_user = [
        "setpriv",
        "--reuid",
        USER,
        "--regid",
        USER,
        "--clear-groups",
    ];
    if !works(&["unshare", "--mount", "true"]) {
        let can = works(&BY_USER);
        if !can {
            eprintln!("skipped: whether namespaces are in force; this machine refuses them");
        }
        can.then_some("1")
    } else if works(&[&as_user[..], &BY_USER].concat()) {
        Some("1")
    } else {
        eprintln!("skipped: whether namespaces are in force for an ordinary user, who is refused");
        Some("root")
    }
}

/// What a Mac alone can show.
fn hvf(shell: &Shell) -> anyhow::Result<()> {
    anyhow::ensure!(
        cfg!(all(target_os = "macos", target_arch = "aarch64")),
        "Hypervisor.framework is on Macs with Apple silicon; here cargo xtask lab test \
         --engines hvf runs the engine's loop over KVM"
    );
    step("setup", || crate::setup::run(shell))?;
    step("image", || crate::build_image::ensure(shell))?;
    step("command", || crate::dist::Dist::default().run(shell))?;
    let _worker = shell.push_env("RINGFENCE_WORKER", crate::dist::program(shell)?);
    let _engine = shell.push_env("RINGFENCE_TEST_ENGINE", "hvf");
    step("tests", || {
        let test = cmd!(
            shell,
            "cargo test --package ringfence --test vm -- --ignored --test-threads 1"
        );
        Ok(test.quiet().run()?)
    })
}

fn command(shell: &Shell) -> anyhow::Result<()> {
    let build = cmd!(shell, "cargo build --release --package ringfence-cli");
    Ok(build.quiet().run()?)
}

/// What a Mac gets by default: Debian's kernel with a few modules. Built twice, compared, booted.
fn packaged_kernel(shell: &Shell) -> anyhow::Result<()> {
    let image = crate::demo::target_directory(shell)?.join("image-packaged-kernel");
    crate::build_image::packaged_twice(shell, image.clone())?;
    let binary = crate::demo::release_binary(shell)?;
    let run = cmd!(
        shell,
        "{binary} run --isolation vm --engine qemu --image {image} uname -r"
    );
    let release = run.quiet().read()?;
    anyhow::ensure!(
        release.contains("cloud"),
        "the packaged kernel calls itself {release}"
    );
    eprintln!("booted Debian's {release}");
    Ok(())
}

/// What is about the sandbox in the guest and not about the engine that runs it: tested with the
/// engine qemu already.
#[cfg(target_os = "linux")]
const SANDBOX: &[&str] = &[
    "vm::collect::",
    "vm::escapes::",
    "vm::files::",
    "vm::programs::",
    "vm::refusals::",
];

/// The sandbox on a kernel with control groups of version 2 alone, and VMs under our own engines:
/// with two processors all tests that an engine has a part in, and with other numbers what shows
/// that they boot, run and end. `cargo xtask lab test` does all with each.
#[cfg(target_os = "linux")]
fn lab(shell: &Shell) -> anyhow::Result<()> {
    use crate::lab::{Engine, Test};
    crate::lab::sandbox(shell)?;
    for engine in [Engine::Kvm, Engine::Hvf] {
        Test::some(engine, 2, "vm::", SANDBOX).run(shell)?;
        for cpus in [1, 4] {
            Test::some(engine, cpus, "vm::basics::", &[]).run(shell)?;
        }
    }
    Ok(())
}

fn lints(shell: &Shell) -> anyhow::Result<()> {
    let deny = ["-D", "warnings"];
    cmd!(
        shell,
        "cargo clippy --workspace --all-targets --all-features -- {deny...}"
    )
    .quiet()
    .run()?;
    // The agent and the sandbox as the guest gets them.
    let target = "aarch64-unknown-linux-musl";
    cmd!(
        shell,
        "cargo clippy --package guest-agent --target {target} -- {deny...}"
    )
    .quiet()
    .run()?;
    // The engines, which are each for one system.
    let over_kvm = ["--features", "hvf-over-kvm"];
    for (target, features) in [
        (target, &[][..]),
        (target, &over_kvm),
        ("aarch64-apple-darwin", &[]),
    ] {
        cmd!(
            shell,
            "cargo clippy --package ringfence --target {target} {features...} -- {deny...}"
        )
        .quiet()
        .run()?;
    }
    Ok(())
}

/// Licences, sources and bans; advisories where their database can be reached.
fn dependencies(shell: &Shell) -> anyhow::Result<()> {
    if cmd!(shell, "cargo deny --version")
        .quiet()
        .ignore_stdout()
        .ignore_stderr()
        .run()
        .is_err()
    {
        eprintln!("installing cargo-deny (some minutes, once)");
        cmd!(shell, "cargo install --quiet --locked cargo-deny")
            .quiet()
            .run()?;
    }
    cmd!(
        shell,
        "cargo deny --log-level error check bans licenses sources"
    )
    .quiet()
    .run()?;
    let advisories = cmd!(shell, "cargo deny --log-level error check advisories").quiet();
    let output = advisories.ignore_status().output()?;
    let said = String::from_utf8_lossy(&output.stderr);
    if said.contains("failed to fetch advisory database") {
        eprintln!("skipped: the advisory database cannot be reached from this machine");
    } else if !output.status.success() {
        anyhow::bail!("advisories: {said}");
    }
    Ok(())
}

fn documentation(shell: &Shell) -> anyhow::Result<()> {
    let _flags = shell.push_env("RUSTDOCFLAGS", "-D warnings");
    Ok(cmd!(
        shell,
        "cargo doc --workspace --no-deps --document-private-items"
    )
    .quiet()
    .run()?)
}

/// Replays the corpora and a bounded number of mutations of them, in a workspace of its own.
fn fuzz(shell: &Shell) -> anyhow::Result<()> {
    let manifest = ["--manifest-path", "fuzz/Cargo.toml"];
    cmd!(shell, "cargo fmt {manifest...} --check")
        .quiet()
        .run()?;
    cmd!(
        shell,
        "cargo clippy --quiet {manifest...} --all-targets -- -D warnings"
    )
    .quiet()
    .run()?;
    cmd!(shell, "cargo test --quiet {manifest...}")
        .quiet()
        .run()?;
    Ok(())
}

fn step(name: &str, work: impl FnOnce() -> anyhow::Result<()>) -> anyhow::Result<()> {
    eprintln!("== {name}");
    let started = Instant::now();
    work()?;
    eprintln!(
        "== {name}: done in {:.1} s",
        started.elapsed().as_secs_f64()
    );
    Ok(())
}
