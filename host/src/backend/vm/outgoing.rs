//! The sending side of an execution's connection.
//!
//! A guest that was taken over need not read, so that whoever sends may wait until the execution is
//! over. A kill waits for nobody: where somebody else is sending, he sends it for whoever asked.

use super::connection::{ReceiveError, Sender};
use ringfence_protocol::ToAgent;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError, TryLockError};

const SIGKILL: u8 = 9;

/// Sends messages of several threads, one after the other.
#[derive(Debug)]
pub(super) struct Outgoing {
    sender: Mutex<Sender>,
    /// The program is to be killed, and the agent has not been told.
    kill: AtomicBool,
}

impl Outgoing {
    pub(super) fn new(sender: Sender) -> Self {
        Self {
            sender: Mutex::new(sender),
            kill: AtomicBool::new(false),
        }
    }

    /// Sends a message. Waits for as long as the guest does not read and the execution lasts.
    pub(super) fn send(&self, message: &ToAgent) -> Result<(), ReceiveError> {
        let sent = self
            .sender
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .send(message);
        // Whoever wanted to kill meanwhile has seen the lock taken.
        self.send_kill()?;
        sent
    }

    /// Has the program killed. Does not wait for other messages on their way.
    pub(super) fn kill(&self) -> Result<(), ReceiveError> {
        self.kill.store(true, Ordering::SeqCst);
        self.send_kill()
    }

    fn send_kill(&self) -> Result<(), ReceiveError> {
        while self.kill.load(Ordering::SeqCst) {
            let mut sender = match self.sender.try_lock() {
                Ok(sender) => sender,
                Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
                // He looks when he is done.
                Err(TryLockError::WouldBlock) => return Ok(()),
            };
            if self.kill.swap(false, Ordering::SeqCst) {
                sender.send(&ToAgent::Signal(SIGKILL))?;
            }
        }
        Ok(())
    }
}
