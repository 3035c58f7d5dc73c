//! The Power State Coordination Interface, 1.1 (Arm DEN 0022), and the version of its calling
//! convention (Arm DEN 0028): how a guest starts and stops its processors and the machine.
//!
//! ```text
//!            CPU_ON by another            its thread takes the request
//!     Off ───────────────────► OnPending ──────────────────────────────► On
//!      ▲                                                                 │
//!      └──────────────────────────── CPU_OFF ────────────────────────────┘
//! ```
//! Processor 0 begins On, the others Off. A switched-off processor's thread sleeps on its doorbell;
//! the state is stored before the bell is rung.

use super::doorbell::Doorbells;
use crate::vmm::board::layout::affinity;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

const SMCCC_VERSION: u32 = 0x8000_0000;
const SMCCC_ARCH_FEATURES: u32 = 0x8000_0001;
const VERSION: u32 = 0x8400_0000;
const CPU_OFF: u32 = 0x8400_0002;
const CPU_ON: u32 = 0x8400_0003;
const AFFINITY_INFO: u32 = 0x8400_0004;
const MIGRATE_INFO_TYPE: u32 = 0x8400_0006;
const SYSTEM_OFF: u32 = 0x8400_0008;
const SYSTEM_RESET: u32 = 0x8400_0009;
const FEATURES: u32 = 0x8400_000a;
/// Set in functions whose arguments have 64 bits.
const WIDE: u32 = 0x4000_0000;
const CPU_ON_64: u32 = CPU_ON | WIDE;
const AFFINITY_INFO_64: u32 = AFFINITY_INFO | WIDE;

/// Both versions have the major number in the upper half.
const ONE_POINT_ONE: i64 = 0x1_0001;
/// No trusted operating system that would have to migrate.
const NO_MIGRATION: i64 = 2;

const SUCCESS: i64 = 0;
const NOT_SUPPORTED: i64 = -1;
const INVALID_PARAMETERS: i64 = -2;
const ALREADY_ON: i64 = -4;
const ON_PENDING: i64 = -5;
const INVALID_ADDRESS: i64 = -9;

/// What a call does to its caller.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Outcome {
    /// This goes into `X0`.
    Return(u64),
    /// The caller is off.
    Off,
    /// The machine ends.
    PowerOff,
    /// The machine ends, and the guest would like it back.
    Reset,
}

/// Where a processor that was switched on begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Entry {
    /// Its first instruction.
    pub(super) address: u64,
    /// What it finds in `X0`.
    pub(super) context: u64,
}

/// Whether a processor runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum State {
    Off,
    /// Somebody switched it on, and its thread has not yet seen this.
    OnPending(Entry),
    On,
}

/// The states of a machine's processors.
pub(super) struct Power {
    states: Mutex<Vec<State>>,
    doorbells: Arc<Doorbells>,
}

impl std::fmt::Debug for Power {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Power").field(&*self.states()).finish()
    }
}

impl Power {
    /// For as many processors as there are bells, the first of them on.
    pub(super) fn new(doorbells: &Arc<Doorbells>) -> Arc<Self> {
        let state = |index| if index == 0 { State::On } else { State::Off };
        Arc::new(Self {
            states: Mutex::new((0..doorbells.count()).map(state).collect()),
            doorbells: Arc::clone(doorbells),
        })
    }

    fn states(&self) -> MutexGuard<'_, Vec<State>> {
        // Nothing panics while it holds the lock.
        self.states.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What processor `index` is to do; takes the request to begin, if there is one.
    pub(super) fn take(&self, index: u8) -> State {
        let mut states = self.states();
        let Some(state) = states.get_mut(usize::from(index)) else {
            return State::Off;
        };
        let was = *state;
        if matches!(was, State::OnPending(_)) {
            *state = State::On;
        }
        was
    }

    /// Its state, for people.
    pub(super) fn state(&self, index: u8) -> Option<State> {
        self.states().get(usize::from(index)).copied()
    }

    /// Whether no other processor than the caller can run.
    pub(super) fn is_alone(&self) -> bool {
        let states = self.states();
        let running = states.iter().filter(|&&state| state != State::Off);
        running.count() <= 1
    }

    /// Whoever is left looks for interrupts that this one may have sent last: from now on a
    /// processor may find itself alone, and sleep without a limit.
    fn set_off(&self, index: u8) {
        if let Some(state) = self.states().get_mut(usize::from(index)) {
            *state = State::Off;
        }
        self.doorbells.interrupt();
    }

    /// The processor with this affinity. Reserved bits must be zero.
    fn find(states: &[State], target: u64) -> Option<u8> {
        let count = u8::try_from(states.len()).unwrap_or(u8::MAX);
        (0..count).find(|&index| u64::from(affinity(index)) == target)
    }

    fn switch_on(&self, target: u64, entry: Entry, is_code: &dyn Fn(u64) -> bool) -> i64 {
        let mut states = self.states();
        let Some(index) = Self::find(&states, target) else {
            return INVALID_PARAMETERS;
        };
        let Some(state) = states.get_mut(usize::from(index)) else {
            return INVALID_PARAMETERS;
        };
        match *state {
            State::On => ALREADY_ON,
            State::OnPending(_) => ON_PENDING,
            State::Off if !is_code(entry.address) => INVALID_ADDRESS,
            State::Off => {
                *state = State::OnPending(entry);
                drop(states);
                self.doorbells.kick(index);
                SUCCESS
            }
        }
    }

    fn affinity_info(&self, target: u64, lowest_level: u64) -> i64 {
        let states = self.states();
        let index = Self::find(&states, target).filter(|_| lowest_level == 0);
        match index.and_then(|index| states.get(usize::from(index))) {
            None => INVALID_PARAMETERS,
            Some(State::On) => 0,
            Some(State::Off) => 1,
            Some(State::OnPending(_)) => 2,
        }
    }

    /// Answers a call of processor `caller`, whose `X0` to `X3` are given. `is_code` says whether a
    /// processor can begin at an address.
    pub(super) fn call(
        &self,
        caller: u8,
        registers: [u64; 4],
        is_code: &dyn Fn(u64) -> bool,
    ) -> Outcome {
        let function = low(registers[0]);
        let [_, first, second, third] = if function & WIDE == 0 {
            registers.map(|register| u64::from(low(register)))
        } else {
            registers
        };
        let result = match function {
            CPU_OFF => {
                self.set_off(caller);
                return Outcome::Off;
            }
            SYSTEM_OFF => return Outcome::PowerOff,
            SYSTEM_RESET => return Outcome::Reset,
            VERSION | SMCCC_VERSION => ONE_POINT_ONE,
            FEATURES => features(low(first)),
            SMCCC_ARCH_FEATURES => match low(first) {
                SMCCC_VERSION | SMCCC_ARCH_FEATURES => SUCCESS,
                _ => NOT_SUPPORTED,
            },
            CPU_ON | CPU_ON_64 => {
                let (address, context) = (second, third);
                self.switch_on(first, Entry { address, context }, is_code)
            }
            AFFINITY_INFO | AFFINITY_INFO_64 => self.affinity_info(first, second),
            MIGRATE_INFO_TYPE => NO_MIGRATION,
            _ => NOT_SUPPORTED,
        };
        Outcome::Return(result.cast_unsigned())
    }
}

fn features(function: u32) -> i64 {
    match function {
        SMCCC_VERSION | VERSION | CPU_OFF | CPU_ON | CPU_ON_64 | AFFINITY_INFO
        | AFFINITY_INFO_64 | MIGRATE_INFO_TYPE | SYSTEM_OFF | SYSTEM_RESET | FEATURES => SUCCESS,
        _ => NOT_SUPPORTED,
    }
}

fn low(register: u64) -> u32 {
    let [a, b, c, d, ..] = register.to_le_bytes();
    u32::from_le_bytes([a, b, c, d])
}

#[cfg(test)]
mod tests {
    use super::*;

    const ENTRY: u64 = 0x1_8000_0000;

    fn power(count: u8) -> Arc<Power> {
        Power::new(&Doorbells::new(count))
    }

    fn call(power: &Power, registers: [u64; 4]) -> i64 {
        let is_code = |address: u64| address.is_multiple_of(4);
        match power.call(0, registers, &is_code) {
            Outcome::Return(value) => value.cast_signed(),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn functions_without_effect() {
        let power = power(1);
        for (function, argument, expected) in [
            (0x8400_0000, 0, 0x1_0001),
            (0x8000_0000, 0, 0x1_0001),
            (0x8400_0006, 0, 2),
            // FEATURES of each function, then of some that are not there.
            (0x8400_000a, 0x8000_0000, 0),
            (0x8400_000a, 0x8400_0000, 0),
            (0x8400_000a, 0x8400_0002, 0),
            (0x8400_000a, 0x8400_0003, 0),
            (0x8400_000a, 0xc400_0003, 0),
            (0x8400_000a, 0x8400_0004, 0),
            (0x8400_000a, 0xc400_0004, 0),
            (0x8400_000a, 0x8400_0006, 0),
            (0x8400_000a, 0x8400_0008, 0),
            (0x8400_000a, 0x8400_0009, 0),
            (0x8400_000a, 0x8400_000a, 0),
            (0x8400_000a, 0x8400_0001, -1),
            (0x8400_000a, 0xc400_000e, -1),
            (0x8000_0001, 0x8000_0000, 0),
            (0x8000_0001, 0x8000_8000, -1),
            // CPU_SUSPEND, MIGRATE, an entropy service, KVM's own, nonsense.
            (0xc400_0001, 0, -1),
            (0x8400_0005, 0, -1),
            (0x8400_0050, 0, -1),
            (0x8600_0000, 0, -1),
            (0, 0, -1),
            (u64::from(u32::MAX), 0, -1),
        ] {
            let got = call(&power, [function, argument, 0, 0]);
            assert_eq!(got, expected, "{function:#x}({argument:#x})");
            // The upper half of X0 is no part of the function's number.
            let got = call(&power, [function | 0xdead_0000_0000_0000, argument, 0, 0]);
            assert_eq!(got, expected, "{function:#x}({argument:#x})");
        }
    }

    #[test]
    fn the_machines_end() {
        let power = power(1);
        let never = |_| false;
        let outcome = |function| power.call(0, [function, 0, 0, 0], &never);
        assert_eq!(outcome(0x8400_0008), Outcome::PowerOff);
        assert_eq!(outcome(0x8400_0009), Outcome::Reset);
        assert_eq!(outcome(0x8400_0002), Outcome::Off);
    }

    #[test]
    fn processors_go_on_and_off() {
        let power = power(3);
        let info = |target| call(&power, [0xc400_0004, target, 0, 0]);
        let on = |target| call(&power, [0xc400_0003, target, ENTRY, 7]);
        assert_eq!((info(0), info(1), info(2), info(3)), (0, 1, 1, -2));
        assert!(power.is_alone());
        assert_eq!((on(1), on(1), info(1)), (0, -5, 2));
        assert!(!power.is_alone());
        let entry = Entry {
            address: ENTRY,
            context: 7,
        };
        assert_eq!(power.take(1), State::OnPending(entry));
        assert_eq!(power.take(1), State::On);
        assert_eq!((on(1), on(0), info(1)), (-4, -4, 0));
        let is_code = |_| true;
        assert_eq!(
            power.call(1, [0x8400_0002, 0, 0, 0], &is_code),
            Outcome::Off
        );
        assert_eq!((info(1), power.take(1)), (1, State::Off));
        assert_eq!(on(1), 0);
    }

    #[test]
    fn wrong_arguments() {
        let power = power(2);
        for (registers, expected) in [
            // No such processor: one too many, its bit 31 as in MPIDR, another cluster.
            ([0xc400_0003, 2, ENTRY, 0], -2),
            ([0xc400_0003, 0x8000_0001, ENTRY, 0], -2),
            ([0xc400_0003, 0x100, ENTRY, 0], -2),
            ([0xc400_0003, 1 << 32 | 1, ENTRY, 0], -2),
            ([0xc400_0003, u64::MAX, ENTRY, 0], -2),
            ([0xc400_0003, 1, ENTRY + 2, 0], -9),
            // Levels above that of processors.
            ([0xc400_0004, 1, 1, 0], -2),
            ([0xc400_0004, 1, u64::MAX, 0], -2),
            ([0x8400_0004, 1, 1 << 32, 0], 1),
            // In 32 bits the upper halves do not count.
            ([0x8400_0003, 1 << 32 | 1, ENTRY, u64::MAX], 0),
        ] {
            assert_eq!(call(&power, registers), expected, "{registers:x?}");
        }
        let entry = Entry {
            address: 0x8000_0000,
            context: 0xffff_ffff,
        };
        assert_eq!(power.take(1), State::OnPending(entry));
    }

    #[test]
    fn affinities_are_by_sixteens() {
        assert_eq!(affinity(0), 0);
        assert_eq!(affinity(15), 15);
        assert_eq!(affinity(16), 0x100);
        assert_eq!(affinity(255), 0xf0f);
        let power = power(255);
        assert_eq!(call(&power, [0xc400_0003, 0xf0e, ENTRY, 0]), 0);
        assert!(matches!(power.take(254), State::OnPending(_)));
    }
}
