//! Lines on the guest's console, for whoever reads it after something went wrong.

use std::fs::File;
use std::io::Write;
use std::time::Instant;

/// Before each line, to tell it from the kernel's.
const PREFIX: &str = "ringfence: ";

/// Where lines go.
#[derive(Debug)]
pub(super) struct Console {
    /// `/dev/console`, once it could be opened; standard error until then.
    file: Option<File>,
}

impl Console {
    pub(super) const fn new() -> Self {
        Self { file: None }
    }

    /// Takes the console from the mounted `/dev`. Without one, lines keep going to standard error.
    pub(super) fn reopen(&mut self) {
        self.file = File::options().write(true).open("/dev/console").ok();
    }

    /// Writes one line. A console that cannot be written to cannot be told about.
    pub(super) fn say(&mut self, line: &str) {
        let line = format!("{PREFIX}{line}\n");
        let _lost = match &mut self.file {
            Some(file) => file.write_all(line.as_bytes()),
            None => std::io::stderr().write_all(line.as_bytes()),
        };
    }
}

/// Says how long each step took, when the kernel's command line has `RINGFENCE_DEBUG=1`, which
/// the kernel puts into the environment of PID 1.
#[derive(Debug)]
pub(super) struct Stopwatch(Option<Instant>);

impl Stopwatch {
    pub(super) fn new() -> Self {
        Self(std::env::var_os("RINGFENCE_DEBUG").map(|_| Instant::now()))
    }

    /// Says how long the kernel has been counting time, which it does soon after its start.
    pub(super) fn tell_uptime(&self, console: &mut Console) {
        if self.0.is_some() {
            let uptime = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
            let micros = uptime.tv_sec * 1_000_000 + uptime.tv_nsec / 1000;
            console.say(&format!("since the kernel's start: {micros} us"));
        }
    }

    pub(super) fn lap(&mut self, console: &mut Console, step: &str) {
        if let Some(since) = &mut self.0 {
            console.say(&format!("{step}: {} us", since.elapsed().as_micros()));
            *since = Instant::now();
        }
    }
}
