//! `--tty`: the program's terminal is shown on the caller's.

use anyhow::Context as _;
use ringfence::{Killer, TerminalSize};
use rustix::stdio::{stdin, stdout};
use rustix::termios::{
    OptionalActions, QueueSelector, Termios, isatty, tcflush, tcgetattr, tcgetwinsize, tcsetattr,
};
use signal_hook::consts::{SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGWINCH};
use signal_hook::iterator::{Handle, Signals};
use std::sync::Arc;
use std::sync::atomic::{AtomicI32, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

/// The size of the caller's terminal.
pub(crate) fn size() -> anyhow::Result<TerminalSize> {
    anyhow::ensure!(
        isatty(stdin()) && isatty(stdout()),
        "--tty connects this terminal with the program's, but standard input or output is none; \
         leave it away"
    );
    current().context("cannot tell the terminal's size")
}

fn current() -> anyhow::Result<TerminalSize> {
    let size = tcgetwinsize(stdout())?;
    Ok(TerminalSize {
        rows: size.ws_row,
        columns: size.ws_col,
    })
}

/// How long everything may take to end after a signal that is to end this command. What is shown
/// may wait for a terminal that nobody reads.
const GRACE: Duration = Duration::from_secs(2);

/// The caller's terminal while it passes everything on. Dropping it puts things back as they were.
#[derive(Debug)]
pub(crate) struct Connected {
    shared: Arc<Shared>,
    signals: Handle,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct Shared {
    saved: Termios,
    /// The signal that is to end this command, once the terminal is as it was.
    fatal: AtomicI32,
}

impl Shared {
    /// Puts the terminal back as it was.
    fn restore(&self) {
        // At once: a terminal that nobody reads never gets through with what it is to show.
        let _ = tcsetattr(stdin(), OptionalActions::Now, &self.saved);
        // What the program made the terminal itself say, and did not read, is nobody else's input.
        let _ = tcflush(stdin(), QueueSelector::IFlush);
    }

    /// Ends this command by the signal that was to end it. Everything of the program dies with it.
    fn leave(&self) {
        self.restore();
        let fatal = self.fatal.load(Ordering::Acquire);
        let _ = signal_hook::low_level::emulate_default_handler(fatal);
    }
}

impl Connected {
    /// Every key goes to the program from now on, and every new size.
    pub(crate) fn new(program: Killer) -> anyhow::Result<Self> {
        let mut signals = Signals::new([SIGWINCH, SIGTERM, SIGHUP, SIGINT, SIGQUIT])
            .context("cannot watch for signals")?;
        let handle = signals.handle();
        let shared = Arc::new(Shared {
            saved: tcgetattr(stdin()).context("cannot read the terminal's settings")?,
            fatal: AtomicI32::new(0),
        });
        let own = Arc::clone(&shared);
        let thread = thread::Builder::new().name("ringfence-terminal".into());
        let spawned = thread.spawn(move || {
            for signal in signals.forever() {
                if signal == SIGWINCH {
                    // The program may have ended meanwhile.
                    let _ = current().map(|size| program.resize(size));
                } else if own.fatal.swap(signal, Ordering::AcqRel) == 0 {
                    program.kill();
                    leave_soon(Arc::clone(&own));
                } else {
                    own.leave();
                }
            }
        });
        let thread = spawned.context("cannot start a thread for the terminal")?;
        let connected = Self {
            shared,
            signals: handle,
            thread: Some(thread),
        };
        let mut raw = connected.shared.saved.clone();
        raw.make_raw();
        tcsetattr(stdin(), OptionalActions::Now, &raw)
            .context("cannot change the terminal's settings")?;
        Ok(connected)
    }
}

/// Leaves after a while, if this command has not ended by then.
fn leave_soon(shared: Arc<Shared>) {
    let thread = thread::Builder::new().name("ringfence-grace".into());
    // Without the thread a second signal does the same.
    let _ = thread.spawn(move || {
        thread::sleep(GRACE);
        shared.leave();
    });
}

/// A signal that is to end this command.
#[derive(Debug)]
pub(crate) struct Fatal(Arc<Shared>);

impl Fatal {
    /// Ends it.
    pub(crate) fn leave(self) {
        self.0.leave();
    }
}

impl Connected {
    /// Puts things back as they were. What is returned is for when nothing is left of the program.
    pub(crate) fn end(self) -> Option<Fatal> {
        let shared = Arc::clone(&self.shared);
        drop(self);
        (shared.fatal.load(Ordering::Acquire) != 0).then_some(Fatal(shared))
    }
}

impl Drop for Connected {
    fn drop(&mut self) {
        self.shared.restore();
        self.signals.close();
        // It does not panic.
        let _ = self.thread.take().map(JoinHandle::join);
    }
}
