//! At most so many processors' worth of time.
//!
//! A bound on the time of all descendants together is the control group's to hold. A mask of
//! processors would not do: a program can widen its own as far as the machine goes. For the same
//! reason the caller's mask says nothing about what a program gets; what counts is how many
//! processors a mask can have here at all.

use crate::plan::Cgroup;
use crate::{SpawnError, cgroup};
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
use std::io;
use std::thread;

/// Sees to it that a program gets at most `count` processors' worth of time: by its control group,
/// which may be missing for a reason, unless there is no more to be had anyway.
pub(crate) fn bound(count: u8, group: Result<&Cgroup, &str>) -> Result<(), SpawnError> {
    if count == 0 {
        return Err(SpawnError::InvalidInput {
            what: "a limit of 0 processors leaves none to run on; give it at least 1".into(),
        });
    }
    if reachable().is_some_and(|all| all <= count.into()) {
        return Ok(());
    }
    let why = match group.map(|group| cgroup::bound_processors(group, count)) {
        Ok(Ok(())) => return Ok(()),
        Ok(Err(error)) if error.kind() == io::ErrorKind::NotFound => {
            "control groups have no cpu controller here; run under a service manager that \
             delegates it (systemd-run --user --scope -p Delegate=yes)"
                .into()
        }
        Ok(Err(error)) => format!("cpu.max of its control group cannot be written: {error}"),
        Err(why) => why.to_owned(),
    };
    if cgroup::quota().is_some_and(|all| all <= count.into()) {
        return Ok(());
    }
    Err(SpawnError::ProcessorsUnbounded { count, why })
}

/// How many processors a program could run on at one time, if that can be found out. Only a mask
/// that asks for all of them shows what the kernel grants; a thread of its own has it.
fn reachable() -> Option<usize> {
    let count = || {
        let mut all = CpuSet::new();
        for processor in 0..CpuSet::MAX_CPU {
            all.set(processor);
        }
        // Where this is forbidden the program, which inherits that, cannot do it either.
        let _ = sched_setaffinity(None, &all);
        let granted = sched_getaffinity(None).ok()?;
        usize::try_from(granted.count()).ok()
    };
    let counting = thread::Builder::new().spawn(count).ok()?;
    counting.join().ok()?
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(count: u8) -> String {
        bound(count, Err("there is none")).unwrap_err().to_string()
    }

    #[test]
    fn no_processor_at_all_is_refused() {
        assert!(refusal(0).contains("at least 1"));
    }

    #[test]
    fn as_many_as_there_are_need_no_bound() {
        let all = reachable().unwrap();
        let own = thread::available_parallelism().unwrap();
        assert!(all >= own.get(), "{all} {own}");
        assert!(bound(u8::MAX, Err("there is none")).is_ok());
        let quota = cgroup::quota().map_or(all, |quota| usize::try_from(quota).unwrap());
        if let Ok(all) = u8::try_from(all.min(quota)) {
            bound(all, Err("there is none")).unwrap();
        }
        if let Some(less) = u8::try_from(all.min(quota) - 1)
            .ok()
            .filter(|less| *less > 0)
        {
            let text = refusal(less);
            assert!(text.contains("there is none"), "{text}");
        }
    }

    #[test]
    fn a_narrow_mask_of_the_caller_does_not_count() {
        let all = reachable();
        let narrowed = thread::spawn(|| {
            let mut one = CpuSet::new();
            let own = sched_getaffinity(None).unwrap();
            let first = (0..CpuSet::MAX_CPU).find(|processor| own.is_set(*processor));
            one.set(first.unwrap());
            sched_setaffinity(None, &one).unwrap();
            assert_eq!(sched_getaffinity(None).unwrap().count(), 1);
            reachable()
        });
        assert_eq!(narrowed.join().unwrap(), all);
    }
}
