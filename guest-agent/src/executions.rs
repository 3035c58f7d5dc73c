//! All executions under way: how many there may be, how many there were, and how to end them all.

use ringfence_sandbox::{Ended, Killer};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};

/// Executions at one time. Further ones wait for a slot.
pub const SLOTS: usize = 64;

/// The executions of one agent.
#[derive(Debug)]
pub struct Executions {
    slots: Arc<Semaphore>,
    state: Mutex<State>,
    running: watch::Sender<u32>,
}

#[derive(Debug, Default)]
struct State {
    /// The next number, and so how many there have been.
    next: u64,
    killers: BTreeMap<u64, Killer>,
    closed: bool,
}

/// The agent shuts down and starts nothing any more.
#[derive(Debug, thiserror::Error)]
#[error("the guest is shutting down")]
pub struct Closed;

impl Default for Executions {
    fn default() -> Self {
        Self::new(SLOTS)
    }
}

impl Executions {
    /// At most `slots` at one time.
    #[must_use]
    pub fn new(slots: usize) -> Self {
        Self {
            slots: Arc::new(Semaphore::new(slots)),
            state: Mutex::default(),
            running: watch::Sender::new(0),
        }
    }

    /// Waits for a slot.
    ///
    /// # Errors
    /// [`Closed`] once the agent shuts down.
    pub async fn slot(self: &Arc<Self>) -> Result<Slot, Closed> {
        let permit = Arc::clone(&self.slots)
            .acquire_owned()
            .await
            .map_err(|_closed| Closed)?;
        self.running
            .send_modify(|running| *running = running.saturating_add(1));
        Ok(Slot {
            executions: Arc::clone(self),
            number: None,
            permit: Arc::new(permit),
        })
    }

    /// Slots that are taken.
    #[must_use]
    pub fn running(&self) -> u32 {
        *self.running.borrow()
    }

    /// Programs that were started so far.
    #[must_use]
    pub fn started(&self) -> u64 {
        self.state().next
    }

    /// Refuses what is new, kills what runs, and returns when all of it is dead.
    pub async fn shut_down(&self) {
        self.slots.close();
        {
            let mut state = self.state();
            state.closed = true;
            for killer in state.killers.values() {
                killer.kill(Ended::Killed);
            }
        }
        self.idle().await;
    }

    /// Returns when nothing runs.
    pub async fn idle(&self) {
        let mut running = self.running.subscribe();
        // The sender lives as long as `self`, so this cannot fail.
        let _all_ended = running.wait_for(|running| *running == 0).await;
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The right to run one program. It is given back when this and all that [`Slot::hold`] returned
/// are dropped; the program counts as running until this is.
#[derive(Debug)]
pub struct Slot {
    executions: Arc<Executions>,
    number: Option<u64>,
    permit: Arc<OwnedSemaphorePermit>,
}

impl Slot {
    /// Keeps the slot taken, though nothing may run in it any more.
    #[must_use]
    pub fn hold(&self) -> impl Send + use<> {
        Arc::clone(&self.permit)
    }

    /// Counts the program that was started, and has it killed when the agent shuts down.
    pub fn started(&mut self, killer: Killer) {
        let mut state = self.executions.state();
        let number = state.next;
        state.next = state.next.saturating_add(1);
        self.number = Some(number);
        if state.closed {
            killer.kill(Ended::Killed);
        }
        state.killers.insert(number, killer);
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        if let Some(number) = self.number {
            self.executions.state().killers.remove(&number);
        }
        self.executions
            .running
            .send_modify(|running| *running = running.saturating_sub(1));
    }
}
