//! The virtual processors of a machine: a thread each, one common end, and what they last did.
//!
//! An engine makes its processors by [`VcpuThreads::start`]. Each is created on the thread that
//! runs it, in the order of the numbers and one at a time, as Hypervisor.framework demands; none
//! runs before all are there. Then each thread repeats [`Vcpu::step`] until somebody, a step or
//! another thread, says how the machine ends. The first [`End`] counts.
//!
//! # No lost stop
//! [`Vcpus::finish`] stores the end *before* it kicks, and a thread looks at it *before* each step.
//! A kick that arrives between look and step must make that step return at once; engines promise
//! this in [`Kick`]. A kick that another exit swallows is harmless: that exit ends the step.

use super::rarely::Rarely;
use std::collections::{BTreeMap, VecDeque};
use std::fmt::{self, Write};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

/// Exits remembered of each processor.
const REMEMBERED: usize = 16;

/// How a machine came to its end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum End {
    /// Somebody on this side stopped it.
    Stopped,
    /// The guest switched itself off.
    PowerOff,
    /// The guest asked for a reset: it rebooted, or its kernel panicked.
    Reset,
    /// The guest did what no machine can go on from, or the hypervisor failed. With the reason.
    Fault(String),
}

impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Stopped => f.write_str("it was stopped"),
            Self::PowerOff => f.write_str("it powered off"),
            Self::Reset => f.write_str("it asked for a reset"),
            Self::Fault(why) => f.write_str(why),
        }
    }
}

/// One virtual processor, on the thread that created it.
pub(crate) trait Vcpu {
    /// Runs the guest until it exits, and handles the exit.
    ///
    /// # Errors
    /// How the machine ends by this.
    fn step(&mut self, vcpus: &Vcpus) -> Result<(), End>;

    /// Makes a step in progress, or the next one, return soon.
    fn kick(&self) -> Box<dyn Kick>;

    /// Program counter and the like, for people.
    fn describe(&mut self) -> String;
}

/// Interrupts a processor's step from another thread.
pub(crate) trait Kick: Send + Sync {
    /// A step in progress returns soon. If none is, the next one does. The processor and its thread
    /// are there while this is called.
    fn kick(&self);
}

/// Why a processor came back from the guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum ExitKind {
    /// Read of a device's register.
    MmioRead,
    /// Write of a device's register.
    MmioWrite,
    /// A call by HVC or SMC.
    Call,
    /// Access to a system register.
    SystemRegister,
    /// WFI or WFE.
    Wait,
    /// The virtual timer.
    Timer,
    /// A kick.
    Kicked,
    /// Anything else.
    Other,
}

/// One exit: what, in which device if any, and a detail such as an address or a function.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ExitRecord {
    pub(crate) kind: ExitKind,
    /// The device's name, or empty.
    pub(crate) place: &'static str,
    pub(crate) detail: u64,
}

/// What the processors of a machine share.
pub(crate) struct Vcpus {
    ending: AtomicBool,
    state: Mutex<State>,
    histories: Vec<Mutex<History>>,
    /// For lines of log that the guest can cause.
    pub(crate) oddities: Rarely,
}

#[derive(Default)]
struct State {
    end: Option<End>,
    /// Of the threads that run.
    kicks: BTreeMap<u8, Box<dyn Kick>>,
}

#[derive(Debug, Default)]
struct History {
    last: VecDeque<ExitRecord>,
    counts: BTreeMap<(ExitKind, &'static str), u64>,
    /// Filled when the processor's thread ends.
    description: String,
}

impl fmt::Debug for Vcpus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Vcpus")
            .field("count", &self.histories.len())
            .field("end", &self.end())
            .finish_non_exhaustive()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Nothing panics while it holds one of these locks.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Vcpus {
    /// For `count` processors.
    pub(crate) fn new(count: u8) -> Arc<Self> {
        Arc::new(Self {
            ending: AtomicBool::new(false),
            state: Mutex::default(),
            histories: (0..count).map(|_| Mutex::default()).collect(),
            oddities: Rarely::new(),
        })
    }

    /// Ends the machine; a second end is ignored. Returns at once: the threads end soon.
    pub(crate) fn finish(&self, end: End) {
        let mut state = lock(&self.state);
        if state.end.is_none() {
            state.end = Some(end);
            self.ending.store(true, Ordering::SeqCst);
            for kick in state.kicks.values() {
                kick.kick();
            }
        }
    }

    /// Whether the machine ends.
    pub(crate) fn is_ending(&self) -> bool {
        self.ending.load(Ordering::SeqCst)
    }

    /// How the machine ended, if it has.
    pub(crate) fn end(&self) -> Option<End> {
        lock(&self.state).end.clone()
    }

    /// From now on [`finish`](Self::finish) kicks this one too.
    fn add_kick(&self, index: u8, kick: Box<dyn Kick>) {
        lock(&self.state).kicks.insert(index, kick);
    }

    /// Once this returns, nobody kicks this one any more: its thread may end.
    fn remove_kick(&self, index: u8) {
        lock(&self.state).kicks.remove(&index);
    }

    /// Remembers an exit of processor `index`.
    pub(crate) fn record(&self, index: u8, exit: ExitRecord) {
        if let Some(history) = self.histories.get(usize::from(index)) {
            let mut history = lock(history);
            if history.last.len() == REMEMBERED {
                history.last.pop_front();
            }
            history.last.push_back(exit);
            let count = history.counts.entry((exit.kind, exit.place)).or_default();
            *count = count.saturating_add(1);
        }
    }

    /// Exits of all processors so far, the most frequent first.
    pub(crate) fn exit_counts(&self) -> Vec<(String, u64)> {
        let mut sum = BTreeMap::<_, u64>::new();
        for history in &self.histories {
            for (&key, &count) in &lock(history).counts {
                let total = sum.entry(key).or_default();
                *total = total.saturating_add(count);
            }
        }
        let mut counts: Vec<_> = sum
            .into_iter()
            .map(|((kind, place), count)| (format!("{kind:?} {place}").trim_end().into(), count))
            .collect();
        counts.sort_by_key(|&(_, count)| std::cmp::Reverse(count));
        counts
    }

    /// The state of each processor and its last exits, one line each.
    pub(crate) fn last_words(&self) -> String {
        let mut text = String::new();
        for (index, history) in self.histories.iter().enumerate() {
            let history = lock(history);
            let _ = write!(text, "vcpu {index}: {}; last exits:", history.description);
            for exit in &history.last {
                let _ = write!(text, " {:?}", exit.kind);
                if !exit.place.is_empty() {
                    let _ = write!(text, "@{}", exit.place);
                }
                let _ = write!(text, "({:#x})", exit.detail);
            }
            text.push('\n');
        }
        text
    }

    fn run(&self, index: u8, mut vcpu: impl Vcpu) {
        while !self.is_ending() {
            if let Err(end) = vcpu.step(self) {
                self.finish(end);
            }
        }
        self.remove_kick(index);
        let description = vcpu.describe();
        if let Some(history) = self.histories.get(usize::from(index)) {
            lock(history).description = description;
        }
    }
}

/// The running threads. Dropped, they are stopped and joined.
#[derive(Debug)]
pub(crate) struct VcpuThreads {
    vcpus: Arc<Vcpus>,
    threads: Vec<JoinHandle<()>>,
}

impl VcpuThreads {
    /// Creates every processor with `create`, on its thread, then calls `complete`, then lets them
    /// run.
    ///
    /// # Errors
    /// The first of `create` or `complete`, or of the operating system. No thread is left.
    pub(crate) fn start<V: Vcpu, E: Send + 'static + From<std::io::Error>>(
        vcpus: &Arc<Vcpus>,
        create: impl Fn(u8) -> Result<V, E> + Send + Sync + 'static,
        complete: impl FnOnce() -> Result<(), E>,
    ) -> Result<Self, E> {
        let create = Arc::new(create);
        let count = u8::try_from(vcpus.histories.len()).unwrap_or(u8::MAX);
        let mut this = Self {
            vcpus: Arc::clone(vcpus),
            threads: Vec::new(),
        };
        // Dropped on every way out, which lets the threads go: to their end, or to their work.
        let mut gates = Vec::new();
        for index in 0..count {
            let (created, creation) = sync_channel(1);
            let (gate, go) = sync_channel::<()>(0);
            let theirs = Arc::clone(vcpus);
            let create = Arc::clone(&create);
            let thread = std::thread::Builder::new()
                .name(format!("vcpu-{index}"))
                .spawn(move || enter(&theirs, index, &*create, created, &go))
                .map_err(|error| this.give_up(error))?;
            this.threads.push(thread);
            gates.push(gate);
            match creation.recv() {
                Ok(Ok(())) => {}
                Ok(Err(error)) => return Err(this.give_up(error)),
                Err(_) => {
                    let error = std::io::Error::other("a processor's thread ended at once");
                    return Err(this.give_up(error.into()));
                }
            }
        }
        if let Err(error) = complete() {
            return Err(this.give_up(error));
        }
        drop(gates);
        Ok(this)
    }

    /// The end is stored before the gates open, so nobody runs.
    fn give_up<E>(&self, error: E) -> E {
        self.vcpus.finish(End::Stopped);
        error
    }

    /// Waits until the machine has ended and no thread is left.
    pub(crate) fn join(&mut self) {
        for thread in self.threads.drain(..) {
            if thread.join().is_err() {
                // Not reachable: the lints forbid panics. The others must end all the same.
                let why = "a processor's thread panicked";
                self.vcpus.finish(End::Fault(why.into()));
            }
        }
    }
}

impl Drop for VcpuThreads {
    fn drop(&mut self) {
        self.vcpus.finish(End::Stopped);
        self.join();
    }
}

fn enter<V: Vcpu, E>(
    vcpus: &Vcpus,
    index: u8,
    create: &(impl Fn(u8) -> Result<V, E> + ?Sized),
    created: SyncSender<Result<(), E>>,
    go: &Receiver<()>,
) {
    let vcpu = match create(index) {
        Ok(vcpu) => vcpu,
        Err(error) => {
            let _ = created.send(Err(error));
            return;
        }
    };
    vcpus.add_kick(index, vcpu.kick());
    let _ = created.send(Ok(()));
    drop(created);
    // Nothing is ever sent: the gate opens by its sender's end.
    let _ = go.recv();
    vcpus.run(index, vcpu);
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Condvar;

    /// Waits in each step for a kick, unless its script says something else.
    struct Scripted {
        index: u8,
        bell: Arc<Bell>,
        script: Vec<Result<(), End>>,
    }

    #[derive(Default)]
    struct Bell {
        rung: Mutex<bool>,
        ring: Condvar,
    }

    impl Kick for Arc<Bell> {
        fn kick(&self) {
            *self.rung.lock().unwrap() = true;
            self.ring.notify_all();
        }
    }

    impl Vcpu for Scripted {
        fn step(&mut self, vcpus: &Vcpus) -> Result<(), End> {
            let exit = ExitRecord {
                kind: ExitKind::MmioRead,
                place: "pl011",
                detail: 0x18,
            };
            vcpus.record(self.index, exit);
            if let Some(result) = self.script.pop() {
                return result;
            }
            let mut rung = self.bell.rung.lock().unwrap();
            while !*rung {
                rung = self.bell.ring.wait(rung).unwrap();
            }
            Ok(())
        }

        fn kick(&self) -> Box<dyn Kick> {
            Box::new(Arc::clone(&self.bell))
        }

        fn describe(&mut self) -> String {
            format!("scripted {}", self.index)
        }
    }

    fn start(
        vcpus: &Arc<Vcpus>,
        script: impl Fn(u8) -> Vec<Result<(), End>> + Send + Sync + 'static,
    ) -> VcpuThreads {
        let create = move |index| {
            Ok::<_, std::io::Error>(Scripted {
                index,
                bell: Arc::default(),
                script: script(index),
            })
        };
        VcpuThreads::start(vcpus, create, || Ok(())).unwrap()
    }

    #[test]
    fn the_first_end_counts_and_all_threads_end() {
        let vcpus = Vcpus::new(4);
        let mut threads = start(&vcpus, |index| match index {
            2 => vec![Err(End::PowerOff), Ok(()), Ok(())],
            _ => vec![Ok(())],
        });
        threads.join();
        vcpus.finish(End::Stopped);
        assert_eq!(vcpus.end(), Some(End::PowerOff));
        let words = vcpus.last_words();
        assert_eq!(words.lines().count(), 4);
        assert!(words.contains("vcpu 2: scripted 2; last exits: MmioRead@pl011(0x18)"));
        assert!(vcpus.exit_counts()[0].1 >= 3);
    }

    #[test]
    fn a_stop_from_outside_wakes_everybody() {
        for _ in 0..200 {
            let vcpus = Vcpus::new(3);
            let threads = start(&vcpus, |_| Vec::new());
            drop(threads);
            assert_eq!(vcpus.end(), Some(End::Stopped));
        }
    }

    #[test]
    fn a_failed_creation_leaves_nobody() {
        let vcpus = Vcpus::new(3);
        let create = |index| match index {
            2 => Err(std::io::Error::other("no third one")),
            _ => Ok(Scripted {
                index,
                bell: Arc::default(),
                script: Vec::new(),
            }),
        };
        let error = VcpuThreads::start(&vcpus, create, || Ok(())).unwrap_err();
        assert_eq!(error.to_string(), "no third one");
        // Nobody but the test holds it any more.
        assert_eq!(Arc::strong_count(&vcpus), 1);
    }

    #[test]
    fn histories_are_bounded() {
        let vcpus = Vcpus::new(1);
        for detail in 0..1000 {
            let exit = ExitRecord {
                kind: ExitKind::Call,
                place: "",
                detail,
            };
            vcpus.record(0, exit);
        }
        let words = vcpus.last_words();
        assert!(words.contains("Call(0x3e7)") && !words.contains("Call(0x100)"));
        assert_eq!(vcpus.exit_counts(), [("Call".to_owned(), 1000)]);
    }
}
