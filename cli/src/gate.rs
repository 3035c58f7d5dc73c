//! `--ask`: the program's output on its way to the terminal, which waits while a question is there.
//!
//! What a program shows below a question could pass for another one, and the answer to that would
//! be taken for the first. So nothing of its output moves from before a question is shown until it
//! is answered; the pipes fill, and the program waits.

use anyhow::Context as _;
use ringfence::{Child, Killer};
use std::fs::File;
use std::io::{self, IsTerminal as _, Read, Write};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};

/// Bytes that are moved at a time.
const BUFFER: usize = 16 << 10;

/// What a program sends when it writes to a pipe that nobody reads.
const SIGPIPE: u8 = 13;

/// What output passes, unless a question is open.
#[derive(Debug, Default)]
pub(crate) struct Gate {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    asking: bool,
    /// Writes to a terminal that are under way.
    writing: usize,
    /// Nothing is asked any more.
    over: bool,
}

/// Keeps output back until it is dropped.
#[derive(Debug)]
pub(crate) struct Closed<'a>(&'a Gate);

impl Gate {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait(&self, condition: impl FnMut(&mut State) -> bool) -> MutexGuard<'_, State> {
        let waited = self.changed.wait_while(self.state(), condition);
        waited.unwrap_or_else(PoisonError::into_inner)
    }

    /// Keeps output back; what is being written to a terminal is there before this returns. `None`:
    /// the program has ended, and there is nothing to be asked.
    pub(crate) fn close(&self) -> Option<Closed<'_>> {
        self.state().asking = true;
        let closed = Closed(self);
        let state = self.wait(|state| state.writing > 0 && !state.over);
        let over = state.over;
        // Dropping `closed` takes the lock.
        drop(state);
        (!over).then_some(closed)
    }

    /// Lets everything pass from now on. Says whether a question was open.
    fn end(&self) -> bool {
        let mut state = self.state();
        state.over = true;
        self.changed.notify_all();
        state.asking
    }

    /// Writes once no question is open. A question waits for what it could otherwise mix with; what
    /// goes elsewhere may wait for a reader for ever.
    fn pass(&self, to: &mut impl Write, bytes: &[u8], is_terminal: bool) -> io::Result<()> {
        {
            let mut state = self.wait(|state| state.asking && !state.over);
            state.writing += usize::from(is_terminal);
        }
        let written = to.write_all(bytes).and_then(|()| to.flush());
        self.state().writing -= usize::from(is_terminal);
        self.changed.notify_all();
        written
    }

    /// Copies a stream of the program's until it ends. When its reader has gone, the program hears
    /// of it as it would with a pipe of its own.
    fn copy(&self, mut from: impl Read, mut to: File, program: &Killer) -> io::Result<()> {
        let is_terminal = to.is_terminal();
        let mut buffer = vec![0; BUFFER];
        loop {
            let len = match from.read(&mut buffer) {
                Ok(0) => return Ok(()),
                Ok(len) => len,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(error),
            };
            let bytes = buffer.get(..len).unwrap_or_default();
            match self.pass(&mut to, bytes, is_terminal) {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {
                    // It may have ended by itself.
                    let _ = program.signal(SIGPIPE);
                    return Ok(());
                }
                Err(error) => {
                    program.kill();
                    return Err(error);
                }
            }
        }
    }
}

impl Drop for Closed<'_> {
    fn drop(&mut self) {
        self.0.state().asking = false;
        self.0.changed.notify_all();
    }
}

fn boxed(stream: impl Read + Send + 'static) -> Box<dyn Read + Send> {
    Box::new(stream)
}

/// A program's output while it runs.
#[derive(Debug)]
pub(crate) struct Shown {
    gate: Arc<Gate>,
    threads: Vec<JoinHandle<io::Result<()>>>,
}

impl Shown {
    /// Shows the piped streams of the program on the caller's own.
    pub(crate) fn start(child: &mut Child, gate: &Arc<Gate>) -> anyhow::Result<Self> {
        let mut shown = Self {
            gate: Arc::clone(gate),
            threads: Vec::new(),
        };
        let streams = [
            (child.stdout.take().map(boxed), rustix::stdio::stdout()),
            (child.stderr.take().map(boxed), rustix::stdio::stderr()),
        ];
        for (from, to) in streams {
            let Some(from) = from else { continue };
            let to = to.try_clone_to_owned();
            let to = File::from(to.context("cannot copy a standard stream's descriptor")?);
            let (gate, program) = (Arc::clone(gate), child.killer());
            let thread = thread::Builder::new().name("ringfence-shown".into());
            let thread = thread.spawn(move || gate.copy(from, to, &program));
            let thread = thread.context("cannot start a thread for the program's output")?;
            shown.threads.push(thread);
        }
        Ok(shown)
    }

    /// Shows what is left of a program that has ended. A question that is still open is void.
    pub(crate) fn end(self) -> anyhow::Result<()> {
        if self.gate.end() {
            // Below it. There is nobody left to tell when that fails.
            let _ = io::stderr().write_all(b"\n");
            crate::text::tell("the program has ended; there is nothing to be answered any more");
        }
        let mut written = Ok(());
        for thread in self.threads {
            // It does not panic; if it did, its stream is incomplete.
            let done = thread.join();
            written = written.and(done.unwrap_or_else(|_| Err(io::Error::other("it panicked"))));
        }
        written.context("cannot write the program's output")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc::{self, RecvTimeoutError};
    use std::time::Duration;

    /// Long enough for what is not kept back to be seen.
    const MOMENT: Duration = Duration::from_millis(100);

    struct Sent(mpsc::Sender<Vec<u8>>);

    impl Write for Sent {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.send(bytes.to_vec()).map_err(io::Error::other)?;
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn output_waits_for_an_answer_or_the_end() {
        let gate = Gate::default();
        for ended in [false, true] {
            let (sender, seen) = mpsc::channel();
            let closed = gate.close().unwrap();
            thread::scope(|scope| {
                let gate = &gate;
                scope.spawn(move || gate.pass(&mut Sent(sender), b"x", true).unwrap());
                assert_eq!(seen.recv_timeout(MOMENT), Err(RecvTimeoutError::Timeout));
                if ended {
                    assert!(gate.end());
                } else {
                    drop(closed);
                }
                assert_eq!(seen.recv().unwrap(), b"x");
            });
        }
        assert!(gate.close().is_none());
    }

    /// A terminal that has been stopped, and a pipe that nobody reads.
    #[test]
    fn a_write_that_waits_does_not_outlive_the_program() {
        struct Stuck(mpsc::Sender<()>, mpsc::Receiver<()>);
        impl Write for Stuck {
            fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
                self.0.send(()).map_err(io::Error::other)?;
                self.1.recv().map_err(io::Error::other)?;
                Ok(bytes.len())
            }

            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        for is_terminal in [true, false] {
            let gate = Gate::default();
            let (begun, begins) = mpsc::channel();
            let (go_on, gone_on) = mpsc::channel();
            thread::scope(|scope| {
                let gate = &gate;
                scope.spawn(move || gate.pass(&mut Stuck(begun, gone_on), b"x", is_terminal));
                begins.recv().unwrap();
                if is_terminal {
                    let asker = scope.spawn(|| gate.close().is_none());
                    while !gate.state().asking {
                        thread::yield_now();
                    }
                    gate.end();
                    assert!(asker.join().unwrap());
                } else {
                    assert!(gate.close().is_some());
                }
                go_on.send(()).unwrap();
            });
        }
    }
}
