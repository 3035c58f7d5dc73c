//! What to do when the guest waits and the hypervisor lets us know.
//!
//! WFI and WFE need not exit. Where they do, the thread sleeps, but never past what would have
//! woken the processor:
//!
//! * a device's interrupt, and a kick, by the doorbell;
//! * the virtual timer, and the limit of a WFIT, by their time;
//! * an interrupt from another processor: nothing tells us, for the interrupt controller is the
//!   framework's and the sender does not exit. As long as another processor is switched on, a sleep
//!   therefore has a limit, after which the guest looks for itself: [`SHORTEST`] after anything
//!   that happened, then twice as long each time that nothing did, up to [`LONGEST`]. A processor
//!   that is alone sleeps without this limit, since only it could switch another one on.
//!
//! WFE returns at once: it waits for what other processors do next, and no such event is seen here.
//! Architecturally all of these may return at any time.

use super::contract::{HvError, HvVcpu, SystemRegister};
use super::doorbell::Woken;
use super::run::{CTL_ENABLE, CTL_IMASK, HvfVcpu};
use super::syndrome::Wait;
use std::time::Duration;

/// First limit of a sleep that an interrupt of another processor could end.
const SHORTEST: Duration = Duration::from_micros(50);
/// Last limit of such a sleep: what an interrupt between processors can be late by.
const LONGEST: Duration = Duration::from_millis(2);
/// No sleep is longer: far more than any timer of a guest, far less than overflows anything.
const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// How long to sleep when another processor might send an interrupt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Patience(Duration);

impl Default for Patience {
    fn default() -> Self {
        Self(SHORTEST)
    }
}

impl Patience {
    /// Nothing had happened.
    fn grow(&mut self) {
        self.0 = self.0.saturating_mul(2).min(LONGEST);
    }
}

impl<V: HvVcpu> HvfVcpu<V> {
    /// Sleeps as the guest's instruction says, or less.
    pub(super) fn sleep(&mut self, wait: Wait) -> Result<(), HvError> {
        let limit = match wait {
            Wait::Wfe | Wait::Wfet | Wait::Wfit(None) => {
                std::thread::yield_now();
                return Ok(());
            }
            Wait::Wfi => self.until_timer()?,
            Wait::Wfit(Some(rt)) => {
                let limit = self.until(self.rt(rt)?)?;
                Some(self.until_timer()?.unwrap_or(limit).min(limit))
            }
        };
        if limit == Some(Duration::ZERO) {
            return Ok(());
        }
        let is_alone = self.shared.power.is_alone();
        let (limit, is_guess) = match limit {
            limit if is_alone => (limit, false),
            Some(limit) if limit <= self.patience.0 => (Some(limit), false),
            _ => (Some(self.patience.0), true),
        };
        match self.shared.doorbells.wait_for_interrupt(self.index, limit) {
            Woken::ByTime if is_guess => self.patience.grow(),
            _ => self.patience = Patience::default(),
        }
        Ok(())
    }

    /// How long until the virtual timer expires, if it can interrupt.
    fn until_timer(&self) -> Result<Option<Duration>, HvError> {
        let control = self.vcpu.system_register(SystemRegister::CntvCtlEl0)?;
        if control & (CTL_ENABLE | CTL_IMASK) != CTL_ENABLE {
            return Ok(None);
        }
        let comparand = self.vcpu.system_register(SystemRegister::CntvCvalEl0)?;
        Ok(Some(self.until(comparand)?))
    }

    /// How long until the virtual counter reaches `value`.
    fn until(&self, value: u64) -> Result<Duration, HvError> {
        let now = self.vcpu.counter().wrapping_sub(self.vcpu.vtimer_offset()?);
        let ticks = value.saturating_sub(now);
        Ok(duration(ticks, self.vcpu.counter_frequency()))
    }
}

/// `ticks` of a counter, rounded up so that they have passed afterwards, but at most a [`DAY`].
fn duration(ticks: u64, frequency: u64) -> Duration {
    let nanoseconds = u128::from(ticks)
        .saturating_mul(1_000_000_000)
        .checked_next_multiple_of(frequency.into())
        .and_then(|product| product.checked_div(frequency.into()))
        .unwrap_or_default();
    let nanoseconds = u64::try_from(nanoseconds).unwrap_or(u64::MAX);
    Duration::from_nanos(nanoseconds).min(DAY)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_become_time() {
        for (ticks, frequency, expected) in [
            (0, 24_000_000, Duration::ZERO),
            (1, 24_000_000, Duration::from_nanos(42)),
            (24, 24_000_000, Duration::from_micros(1)),
            (1, 1_000_000_000, Duration::from_nanos(1)),
            (62_500_000, 62_500_000, Duration::from_secs(1)),
            (u64::MAX, 24_000_000, DAY),
            (u64::MAX, 1, DAY),
            (7, 0, Duration::ZERO),
        ] {
            assert_eq!(duration(ticks, frequency), expected, "{ticks}/{frequency}");
        }
    }

    #[test]
    fn patience_has_an_end() {
        let mut patience = Patience::default();
        for expected in [50, 100, 200, 400, 800, 1600, 2000, 2000] {
            assert_eq!(patience.0, Duration::from_micros(expected));
            patience.grow();
        }
    }
}
