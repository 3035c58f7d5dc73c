//! `/init` of the lab.

#[cfg(target_os = "linux")]
mod machine;
#[cfg(target_os = "linux")]
mod program;

use std::process::ExitCode;

#[cfg(target_os = "linux")]
fn main() -> ExitCode {
    if std::process::id() == 1 {
        return machine::run();
    }
    misplaced()
}

#[cfg(not(target_os = "linux"))]
fn main() -> ExitCode {
    misplaced()
}

fn misplaced() -> ExitCode {
    eprintln!("ringfence-lab-init: this is /init of the lab; run `cargo xtask lab`");
    ExitCode::from(125)
}
