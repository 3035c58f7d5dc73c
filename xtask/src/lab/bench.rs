//! `cargo xtask bench --lab`: what VMs cost on the engines that run on the lab's KVM.
//!
//! All in one lab, so that the figures can be compared with one another; with those of another
//! machine they cannot.

use super::test::{Engine, FEATURES, TARGET, placed, print};
use super::{Job, Lab, Machine};
use anyhow::ensure;
use std::time::Duration;
use xshell::{Shell, cmd};

/// Until the lab is killed.
const PATIENCE: Duration = Duration::from_secs(30 * 60);

/// Runs the example `vm_costs` with so many boots of each engine.
pub(crate) fn bench(shell: &Shell, boots: usize) -> anyhow::Result<()> {
    let lab = Lab::prepare(shell, None)?.with_tools()?;
    cmd!(
        shell,
        "cargo build --quiet --release --package ringfence --features {FEATURES} --example vm_costs --target {TARGET}"
    )
    .quiet()
    .run()?;
    cmd!(
        shell,
        "cargo build --quiet --release --package ringfence-cli --no-default-features --features {FEATURES} --target {TARGET}"
    )
    .quiet()
    .run()?;
    let built = crate::demo::target_directory(shell)?.join(TARGET);
    let program = built.join("release/examples/vm_costs");
    // QEMU has KVM there, so that it is a monitor that others can be compared with.
    let engines = [Engine::Kvm.name(), Engine::Hvf.name(), "qemu"];
    let mut args = vec![boots.to_string()];
    args.extend(engines.map(String::from));
    let job = Job {
        program: program.display().to_string(),
        args,
        env: vec![("RINGFENCE_WORKER".into(), "/lab/ringfence".into())],
        files: vec![placed(built.join("release/ringfence"))?],
        ordinary_user: false,
    };
    let machine = Machine {
        timeout: PATIENCE,
        ..Machine::default()
    };
    let report = lab.run(&job, &machine, print)?;
    ensure!(
        report.outcome.code() == 0,
        "the measurement in the lab failed: {:?}",
        report.outcome
    );
    Ok(())
}
