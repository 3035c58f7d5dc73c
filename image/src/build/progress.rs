//! What a build tells the person who waits for it: bars on a terminal, plain lines elsewhere.

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::io::{IsTerminal as _, Write as _};

/// Where a build reports to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum Progress {
    /// Standard error: bars when it is a terminal, lines when it is not.
    #[default]
    Standard,
    /// Nowhere; warnings are dropped too.
    Silent,
}

impl Progress {
    fn line(self, text: &str) {
        if self == Self::Standard {
            // Nobody is left to be told when standard error is closed.
            let _closed = writeln!(std::io::stderr(), "{text}");
        }
    }

    /// One step begins.
    pub(crate) fn step(self, text: &str) {
        self.line(&format!("image: {text}"));
    }

    /// Something that the person should act upon, though the build goes on.
    pub(crate) fn warn(self, text: &str) {
        self.line(&format!("image: WARNING: {text}"));
    }

    /// A transfer of `total` bytes, of unknown size when `None`.
    pub(crate) fn transfer(self, name: &str, total: Option<u64>) -> Meter {
        self.meter(
            name,
            total,
            "{msg} {wide_bar} {bytes}/{total_bytes} {bytes_per_sec}",
        )
    }

    /// Work of unknown length, counted in `unit`s.
    pub(crate) fn count(self, name: &str) -> Meter {
        self.meter(name, None, "{spinner} {msg}: {pos} {elapsed}")
    }

    fn meter(self, name: &str, total: Option<u64>, template: &str) -> Meter {
        let on_terminal = self == Self::Standard && std::io::stderr().is_terminal();
        let target = if on_terminal {
            ProgressDrawTarget::stderr()
        } else {
            ProgressDrawTarget::hidden()
        };
        if !on_terminal {
            self.step(name);
        }
        let bar = ProgressBar::with_draw_target(total, target).with_message(name.to_owned());
        if let Ok(style) = ProgressStyle::with_template(template) {
            bar.set_style(style);
        }
        Meter {
            bar,
            progress: (!on_terminal).then_some(self),
        }
    }
}

/// The progress of one long step; its display ends with it.
#[derive(Debug)]
pub(crate) struct Meter {
    bar: ProgressBar,
    /// Set where lines take the place of the bar.
    progress: Option<Progress>,
}

/// Without a terminal, a count is told once per this many.
const LINE_EVERY: u64 = 250;

impl Meter {
    /// `amount` more is done.
    pub(crate) fn advance(&self, amount: u64) {
        self.bar.inc(amount);
    }

    /// One more thing is done; says so from time to time where there is no bar.
    pub(crate) fn tick(&self) {
        self.bar.inc(1);
        let done = self.bar.position();
        if let Some(progress) = self.progress.filter(|_| done.is_multiple_of(LINE_EVERY)) {
            progress.step(&format!("{}: {done}", self.bar.message()));
        }
    }
}

impl Drop for Meter {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}
