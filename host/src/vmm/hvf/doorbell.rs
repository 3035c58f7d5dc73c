//! What a processor sleeps on while the guest waits or has switched it off.
//!
//! A bell rung while nobody sleeps stays rung for the next sleeper, so that no wake-up is lost
//! between an exit and the sleep. At worst a sleep is skipped, and the guest waits once more.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// A bell for each processor of a machine.
pub(crate) struct Doorbells {
    bells: Vec<Bell>,
}

#[derive(Default)]
struct Bell {
    rung: Mutex<Rung>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct Rung {
    /// Some device raised its line since the last wait for one.
    interrupt: bool,
    /// Somebody wants the step to end.
    kick: bool,
}

/// What ended a wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Woken {
    /// An interrupt or a kick.
    ByBell,
    /// The limit.
    ByTime,
}

impl std::fmt::Debug for Doorbells {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let rung = self.bells.iter().map(|bell| &bell.rung);
        f.debug_list().entries(rung).finish()
    }
}

impl Bell {
    fn rung(&self) -> MutexGuard<'_, Rung> {
        // Nothing panics while it holds the lock.
        self.rung.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Doorbells {
    /// For `count` processors.
    pub(crate) fn new(count: u8) -> Arc<Self> {
        let bells = (0..count).map(|_| Bell::default()).collect();
        Arc::new(Self { bells })
    }

    pub(super) fn count(&self) -> u8 {
        u8::try_from(self.bells.len()).unwrap_or(u8::MAX)
    }

    /// A device's line was raised. Wakes everybody who waits for an interrupt: which processor gets
    /// it is between the guest and the interrupt controller.
    pub(crate) fn interrupt(&self) {
        for bell in &self.bells {
            bell.rung().interrupt = true;
            bell.changed.notify_all();
        }
    }

    /// Ends a sleep of processor `index`, or keeps it from the next one.
    pub(super) fn kick(&self, index: u8) {
        if let Some(bell) = self.bells.get(usize::from(index)) {
            bell.rung().kick = true;
            bell.changed.notify_all();
        }
    }

    /// Whether somebody has kicked, since this was last asked or slept on.
    pub(super) fn take_kick(&self, index: u8) -> bool {
        let bell = self.bells.get(usize::from(index));
        bell.is_some_and(|bell| std::mem::take(&mut bell.rung().kick))
    }

    /// Sleeps until an interrupt, a kick, or the limit.
    pub(super) fn wait_for_interrupt(&self, index: u8, limit: Option<Duration>) -> Woken {
        let Some(bell) = self.bells.get(usize::from(index)) else {
            return Woken::ByTime;
        };
        let sleeps = |rung: &mut Rung| !rung.interrupt && !rung.kick;
        let rung = bell.rung();
        let mut rung = match limit {
            None => bell
                .changed
                .wait_while(rung, sleeps)
                .unwrap_or_else(PoisonError::into_inner),
            Some(limit) => {
                bell.changed
                    .wait_timeout_while(rung, limit, sleeps)
                    .unwrap_or_else(PoisonError::into_inner)
                    .0
            }
        };
        let was = std::mem::take(&mut *rung);
        if was.interrupt || was.kick {
            Woken::ByBell
        } else {
            Woken::ByTime
        }
    }

    /// Sleeps until a kick.
    pub(super) fn wait_for_kick(&self, index: u8) {
        if let Some(bell) = self.bells.get(usize::from(index)) {
            let mut rung = bell
                .changed
                .wait_while(bell.rung(), |rung| !rung.kick)
                .unwrap_or_else(PoisonError::into_inner);
            rung.kick = false;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHORT: Option<Duration> = Some(Duration::from_millis(1));

    #[test]
    fn a_bell_stays_rung_until_somebody_sleeps() {
        let bells = Doorbells::new(2);
        bells.interrupt();
        for index in [0, 1] {
            assert_eq!(bells.wait_for_interrupt(index, None), Woken::ByBell);
            assert_eq!(bells.wait_for_interrupt(index, SHORT), Woken::ByTime);
        }
        bells.kick(1);
        assert_eq!(bells.wait_for_interrupt(0, SHORT), Woken::ByTime);
        assert_eq!(bells.wait_for_interrupt(1, None), Woken::ByBell);
        assert!(!bells.take_kick(1));
        bells.kick(1);
        bells.wait_for_kick(1);
        bells.kick(0);
        assert!(bells.take_kick(0) && !bells.take_kick(0));
    }

    #[test]
    fn processors_that_are_not_there_do_nothing() {
        let bells = Doorbells::new(0);
        bells.interrupt();
        bells.kick(3);
        bells.wait_for_kick(3);
        assert!(!bells.take_kick(3));
        assert_eq!(bells.wait_for_interrupt(3, None), Woken::ByTime);
    }

    #[test]
    fn no_wakeup_is_lost() {
        let bells = Doorbells::new(1);
        for round in 0..200 {
            std::thread::scope(|scope| {
                scope.spawn(|| match round % 2 {
                    0 => bells.interrupt(),
                    _ => bells.kick(0),
                });
                assert_eq!(bells.wait_for_interrupt(0, None), Woken::ByBell);
            });
        }
    }
}
