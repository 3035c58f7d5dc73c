//! The interpreters that are kept ready for code.

use ringfence_sandbox::{Interpreter, Pool, PoolError, Running, Spec};
use std::io;
use std::sync::{Arc, Mutex, PoisonError};

/// At most one pool: that of the host's last wish.
#[derive(Debug, Default)]
pub struct Prewarmed(Mutex<Option<Arc<Pool>>>);

impl Prewarmed {
    /// Begins to keep so many Python interpreters for executions like `template`, in place of
    /// those that were kept. Blocks until those are dead.
    ///
    /// # Errors
    /// When the thread that starts them cannot be started.
    pub fn keep(&self, template: Spec, count: usize) -> io::Result<()> {
        // The old ones give way first: there is not memory for both.
        self.end();
        if count > 0 {
            let pool = Pool::new(Interpreter::PYTHON, template, count)?;
            self.replace(Some(Arc::new(pool)));
        }
        Ok(())
    }

    /// One that waits, if it is what this execution would be. Blocks while the code is handed over.
    #[must_use]
    pub fn take(&self, spec: &Spec) -> Option<Running> {
        self.pool()?.take(spec)
    }

    /// Blocks until all are ready.
    ///
    /// # Errors
    /// [`PoolError`] when they cannot be.
    pub fn wait(&self) -> Result<(), PoolError> {
        self.pool().map_or(Ok(()), |pool| pool.wait_until_full())
    }

    /// Keeps none any more. Blocks until they are dead.
    pub fn end(&self) {
        drop(self.replace(None));
    }

    fn replace(&self, pool: Option<Arc<Pool>>) -> Option<Arc<Pool>> {
        let mut current = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        std::mem::replace(&mut *current, pool)
    }

    fn pool(&self) -> Option<Arc<Pool>> {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }
}
