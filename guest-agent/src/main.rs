//! `/init` of the ringfence guest.

use std::process::ExitCode;

#[cfg(target_os = "linux")]
fn main() -> ExitCode {
    if std::process::id() == 1 {
        return guest_agent::init::run();
    }
    eprintln!("guest-agent: this is /init of the ringfence guest; it runs as process 1 only");
    ExitCode::from(125)
}

#[cfg(not(target_os = "linux"))]
fn main() -> ExitCode {
    eprintln!("guest-agent: this is /init of the ringfence guest; build it for Linux");
    ExitCode::from(125)
}
