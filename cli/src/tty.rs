//! `--tty`: the program's terminal is shown on the caller's.

use anyhow::Context as _;
use ringfence::{Killer, TerminalSize};
use rustix::stdio::{stdin, stdout};
use rustix::termios::{OptionalActions, Termios, isatty, tcgetattr, tcgetwinsize, tcsetattr};
use signal_hook::consts::{SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGWINCH};
use signal_hook::iterator::{Handle, Signals};
use std::sync::Arc;
use std::sync::atomic::{AtomicI32, Ordering};
use std::thread::{self, JoinHandle};

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

/// The caller's terminal while it passes everything on. Dropping it puts things back as they were.
#[derive(Debug)]
pub(crate) struct Connected {
    saved: Termios,
    signals: Handle,
    thread: Option<JoinHandle<()>>,
    /// The signal that is to end this command, once the terminal is as it was.
    fatal: Arc<AtomicI32>,
}

impl Connected {
    /// Every key goes to the program from now on, and every new size.
    pub(crate) fn new(program: Killer) -> anyhow::Result<Self> {
        let mut signals = Signals::new([SIGWINCH, SIGTERM, SIGHUP, SIGINT, SIGQUIT])
            .context("cannot watch for signals")?;
        let handle = signals.handle();
        let fatal = Arc::new(AtomicI32::new(0));
        let noted = Arc::clone(&fatal);
        let thread = thread::Builder::new().name("ringfence-terminal".into());
        let spawned = thread.spawn(move || {
            for signal in signals.forever() {
                if signal == SIGWINCH {
                    // The program may have ended meanwhile.
                    let _ = current().map(|size| program.resize(size));
                } else {
                    noted.store(signal, Ordering::Release);
                    program.kill();
                }
            }
        });
        let thread = spawned.context("cannot start a thread for the terminal")?;
        let saved = tcgetattr(stdin()).context("cannot read the terminal's settings")?;
        let connected = Self {
            saved,
            signals: handle,
            thread: Some(thread),
            fatal,
        };
        let mut raw = connected.saved.clone();
        raw.make_raw();
        tcsetattr(stdin(), OptionalActions::Drain, &raw)
            .context("cannot change the terminal's settings")?;
        Ok(connected)
    }
}

impl Drop for Connected {
    fn drop(&mut self) {
        // What the program made the terminal itself say, and did not read, is nobody else's input.
        let _ = tcsetattr(stdin(), OptionalActions::Flush, &self.saved);
        self.signals.close();
        // It does not panic.
        let _ = self.thread.take().map(JoinHandle::join);
        let fatal = self.fatal.load(Ordering::Acquire);
        if fatal != 0 {
            let _ = signal_hook::low_level::emulate_default_handler(fatal);
        }
    }
}
