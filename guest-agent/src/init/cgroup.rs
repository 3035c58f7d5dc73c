//! Control groups: version 2, with the agent in a group of its own, so that the root can hand its
//! controllers to the groups of executions.

use super::{InitError, step};
use std::fs;
use std::io;

/// The agent's group.
const AGENT: &str = "/sys/fs/cgroup/agent";

/// Where the controllers are that the kernel has.
const AVAILABLE: &str = "/sys/fs/cgroup/cgroup.controllers";
const ENABLED: &str = "/sys/fs/cgroup/cgroup.subtree_control";

/// What executions are limited by.
const CONTROLLERS: [&str; 3] = ["memory", "pids", "cpu"];

/// Puts this process, and so the agent, into its group and enables the controllers that the kernel
/// has. One that is missing is the sandbox's to report.
pub(super) fn prepare() -> Result<(), InitError> {
    fs::create_dir(AGENT).map_err(step(format!("make the control group {AGENT}")))?;
    write(&format!("{AGENT}/cgroup.procs"), "0")?;
    let available = fs::read_to_string(AVAILABLE).map_err(step(format!("read {AVAILABLE}")))?;
    match to_enable(&available) {
        wanted if wanted.is_empty() => Ok(()),
        wanted => write(ENABLED, &wanted),
    }
}

fn to_enable(available: &str) -> String {
    let has = |name: &str| available.split_whitespace().any(|one| one == name);
    let wanted: Vec<_> = CONTROLLERS.into_iter().filter(|name| has(name)).collect();
    wanted
        .iter()
        .map(|name| format!("+{name}"))
        .collect::<Vec<_>>()
        .join(" ")
}

fn write(path: &str, value: &str) -> Result<(), InitError> {
    let written: io::Result<()> = fs::write(path, value);
    written.map_err(step(format!("write {value:?} to {path}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_controllers_that_are_there_are_enabled() {
        assert_eq!(
            to_enable("cpuset cpu io memory pids\n"),
            "+memory +pids +cpu"
        );
        assert_eq!(to_enable("pids\n"), "+pids");
        assert_eq!(to_enable(""), "");
    }
}
