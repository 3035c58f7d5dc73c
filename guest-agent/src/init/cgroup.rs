//! Control groups: version 2, with the controllers that limit executions.
//!
//! The agent stays in the root group, which may hand its controllers on although it has processes;
//! executions get groups beside it, directly below the root. Moving the agent into a group of its
//! own would cost the boot one or two RCU grace periods, that is tens of milliseconds, and buy
//! nothing: the root group cannot be limited, and the sandbox of a program cannot see it.

use super::{InitError, step};
use std::fs;

/// Where the controllers are that the kernel has.
const AVAILABLE: &str = "/sys/fs/cgroup/cgroup.controllers";
const ENABLED: &str = "/sys/fs/cgroup/cgroup.subtree_control";

/// What executions are limited by.
const CONTROLLERS: [&str; 3] = ["memory", "pids", "cpu"];

/// Enables the controllers that the kernel has. One that is missing is the sandbox's to report.
///
/// This comes before there is any other group with a process in it: that makes it cheap.
pub(super) fn prepare() -> Result<(), InitError> {
    let available = fs::read_to_string(AVAILABLE).map_err(step(format!("read {AVAILABLE}")))?;
    match to_enable(&available) {
        wanted if wanted.is_empty() => Ok(()),
        wanted => {
            fs::write(ENABLED, &wanted).map_err(step(format!("write {wanted:?} to {ENABLED}")))
        }
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
