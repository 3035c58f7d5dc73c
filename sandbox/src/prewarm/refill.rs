//! The thread that keeps a pool full.

use super::interpreter::{Interpreter, READY};
use super::pool::PoolError;
use crate::sys;
use crate::{Ended, Running, Spec, spawn};
use std::collections::VecDeque;
use std::io::{PipeReader, PipeWriter, Read as _, Write as _};
use std::os::fd::{AsRawFd as _, RawFd};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

/// Bytes that are kept of the last words of an interpreter which could not start.
const LAST_WORDS: u64 = 2048;

/// What the pool and its thread share.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) interpreter: &'static Interpreter,
    pub(super) template: Spec,
    size: usize,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug)]
struct State {
    /// Interpreters that wait for code, the oldest first.
    ready: VecDeque<Running>,
    /// How many have been started and are not ready yet.
    starting: usize,
    /// How many serve an execution.
    busy: usize,
    /// How many wait for the pool to be full.
    waiters: usize,
    /// How many may be started before the next execution is asked for.
    budget: usize,
    /// Starts that failed, one after the other.
    failures: u32,
    /// Executions to let pass before the next try.
    pause: u32,
    /// Why the last start failed.
    why: Option<String>,
    stop: bool,
    wake: PipeWriter,
    /// A byte is in the pipe.
    woken: bool,
}

impl State {
    fn wake(&mut self) {
        if !self.woken {
            // One byte always fits. The thread holds the other end as long as it lives.
            self.woken = self.wake.write_all(&[0]).is_ok();
        }
    }
}

impl Shared {
    pub(super) fn new(
        interpreter: &'static Interpreter,
        template: Spec,
        size: usize,
        wake: PipeWriter,
    ) -> Self {
        let state = State {
            ready: VecDeque::with_capacity(size),
            starting: 0,
            busy: 0,
            waiters: 0,
            budget: budget(size),
            failures: 0,
            pause: 0,
            why: None,
            stop: false,
            wake,
            woken: false,
        };
        Self {
            interpreter,
            template,
            size,
            state: Mutex::new(state),
            changed: Condvar::new(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// An interpreter that waits, to serve an execution.
    pub(super) fn pop(self: &Arc<Self>) -> Option<(Running, Busy)> {
        let mut state = self.lock();
        let running = state.ready.pop_front()?;
        state.busy = state.busy.saturating_add(1);
        Some((running, Busy(Arc::clone(self))))
    }

    /// An execution was asked for: the pool may be refilled.
    pub(super) fn asked(&self) {
        let mut state = self.lock();
        if state.failures == 0 {
            state.budget = budget(self.size);
        } else {
            state.pause = state.pause.saturating_sub(1);
            if state.pause == 0 {
                state.budget = 1;
            }
        }
        state.wake();
    }

    pub(super) fn wait_until_full(&self) -> Result<(), PoolError> {
        let mut state = self.lock();
        if state.why.take().is_some() || state.budget == 0 {
            state.budget = budget(self.size);
        }
        state.waiters = state.waiters.saturating_add(1);
        state.wake();
        while state.ready.len() < self.size && state.why.is_none() {
            let waited = self.changed.wait(state);
            state = waited.unwrap_or_else(PoisonError::into_inner);
        }
        state.waiters = state.waiters.saturating_sub(1);
        if state.ready.len() >= self.size {
            return Ok(());
        }
        let why = state.why.clone().unwrap_or_default();
        let program = self.interpreter.program;
        Err(PoolError::NotStarted { program, why })
    }

    pub(super) fn stop(&self) {
        let mut state = self.lock();
        state.stop = true;
        state.wake();
    }

    /// Notes that an interpreter is not starting any more, and why it failed, if it did.
    fn started(&self, outcome: Result<Running, String>) {
        let mut state = self.lock();
        state.starting = state.starting.saturating_sub(1);
        match outcome {
            Ok(running) => {
                if state.failures > 0 {
                    state.failures = 0;
                    state.budget = budget(self.size);
                }
                state.why = None;
                state.ready.push_back(running);
            }
            Err(why) => {
                state.pause = 1 << state.failures.min(10);
                state.failures = state.failures.saturating_add(1);
                state.budget = 0;
                state.why = Some(why);
            }
        }
        self.changed.notify_all();
    }

    /// Removes those that died while they waited.
    fn remove_dead(&self) -> VecDeque<Running> {
        let mut state = self.lock();
        let all = std::mem::take(&mut state.ready);
        let (dead, ready) = all
            .into_iter()
            .partition(|running| readable(running.lifeline()));
        state.ready = ready;
        dead
    }
}

/// How many interpreters may be started for one execution: all of them, and once more what dies.
const fn budget(size: usize) -> usize {
    size.saturating_mul(2)
}

/// An execution from the pool, as long as it lives.
#[derive(Debug)]
pub(crate) struct Busy(Arc<Shared>);

impl Drop for Busy {
    fn drop(&mut self) {
        let mut state = self.0.lock();
        state.busy = state.busy.saturating_sub(1);
        if state.busy == 0 {
            state.wake();
        }
    }
}

/// What the thread is to do next.
struct Orders {
    start: bool,
    /// The lifelines of those that wait.
    watch: Vec<RawFd>,
}

/// The thread.
pub(super) fn run(shared: &Shared, mut woken: PipeReader) {
    let mut starting: Vec<Running> = Vec::new();
    while let Some(orders) = orders(shared) {
        if orders.start {
            match start(shared) {
                Ok(running) => starting.push(running),
                Err(why) => shared.started(Err(why)),
            }
        }
        wait(&woken, &orders, &starting);
        if readable(woken.as_raw_fd()) {
            let mut byte = [0];
            let mut state = shared.lock();
            state.woken = woken.read(&mut byte).is_err();
        }
        advance(shared, &mut starting);
        drop(shared.remove_dead());
    }
    let ready = std::mem::take(&mut shared.lock().ready);
    starting.extend(ready);
    // All at once, and then one after the other is waited for.
    for running in &starting {
        running.killer().kill(Ended::Killed);
    }
}

/// `None`: the end.
fn orders(shared: &Shared) -> Option<Orders> {
    let mut state = shared.lock();
    if state.stop {
        return None;
    }
    let present = state.ready.len().saturating_add(state.starting);
    let half = shared.size.div_ceil(2);
    let now = state.busy == 0 || state.waiters > 0 || present < half;
    let start = present < shared.size && state.budget > 0 && now;
    if start {
        state.budget = state.budget.saturating_sub(1);
        state.starting = state.starting.saturating_add(1);
    }
    if present < shared.size && state.budget == 0 && state.starting == 0 && state.why.is_none() {
        state.why = Some("those that waited have died, one after the other".into());
        shared.changed.notify_all();
    }
    let watch = state.ready.iter().map(Running::lifeline).collect();
    Some(Orders { start, watch })
}

fn start(shared: &Shared) -> Result<Running, String> {
    let text = |error: &dyn std::error::Error| ringfence_protocol::chain(error);
    let spec = shared.interpreter.waiting(&shared.template);
    let spec = spec.map_err(|error| text(&error))?;
    spawn(spec).map_err(|error| text(&error))
}

/// Waits for news, or only looks when there is more to start.
fn wait(woken: &PipeReader, orders: &Orders, starting: &[Running]) {
    let own = std::iter::once(woken.as_raw_fd());
    let starting = starting.iter().flat_map(|running| {
        let stdout = running.stdout.as_ref().map(|pipe| pipe.as_raw_fd());
        std::iter::once(running.lifeline()).chain(stdout)
    });
    // Those that wait may be taken meanwhile, and their descriptors be others': then this looks
    // once for nothing, and is woken by who took them.
    let all = own.chain(starting).chain(orders.watch.iter().copied());
    let mut fds: Vec<libc::pollfd> = all.map(interest).collect();
    let _ = sys::poll(&mut fds, orders.start.then_some(0));
}

/// Looks after those that are starting.
fn advance(shared: &Shared, starting: &mut Vec<Running>) {
    for mut running in std::mem::take(starting) {
        let stdout = running.stdout.as_ref().map(|pipe| pipe.as_raw_fd());
        if stdout.is_some_and(readable) {
            shared.started(first_byte(&mut running).map(|()| running));
        } else if readable(running.lifeline()) {
            shared.started(first_byte(&mut running).map(|()| running));
        } else {
            starting.push(running);
        }
    }
}

/// The byte that says that an interpreter waits, or why there is none.
fn first_byte(running: &mut Running) -> Result<(), String> {
    let mut byte = [0];
    let read = running
        .stdout
        .as_mut()
        .map(|stdout| stdout.read_exact(&mut byte));
    if matches!(read, Some(Ok(()))) && byte == [READY] {
        return running.idle().map_err(|error| error.to_string());
    }
    running.killer().kill(Ended::Killed);
    let mut words = Vec::new();
    if let Some(stderr) = running.stderr.take() {
        let _ = stderr.take(LAST_WORDS).read_to_end(&mut words);
    }
    let words = String::from_utf8_lossy(&words);
    Err(match words.trim() {
        "" => "it ended before it was ready".into(),
        words => format!("it ended before it was ready: {words}"),
    })
}

const fn interest(fd: RawFd) -> libc::pollfd {
    libc::pollfd {
        fd,
        events: libc::POLLIN,
        revents: 0,
    }
}

/// Whether something can be read now, the end included.
fn readable(fd: RawFd) -> bool {
    sys::poll(&mut [interest(fd)], Some(0)).is_ok_and(|ready| ready > 0)
}
