//! What must be the same after a run as before it: processes, files, sockets, control groups and
//! mounts.

use crate::process::{self, Number};
use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Everything that ringfence makes has this in its name, where the place is shared with others.
const NAME: &str = "ringfence";

/// Shared places where names of ours may turn up.
const SHARED: [&str; 5] = ["/tmp", "/var/tmp", "/dev/shm", "/run", "/run/lock"];

/// How long the end of a caller may take to reach everything that it started.
const GRACE: Duration = Duration::from_secs(20);

/// The state before a run. It must be the same after it.
#[derive(Debug)]
pub struct Before {
    own_places: Vec<PathBuf>,
    children: BTreeSet<Number>,
    things: BTreeSet<String>,
}

impl Before {
    /// Looks at the state now. In `own_places` everything counts, elsewhere what has our name.
    #[must_use]
    pub fn look(own_places: &[PathBuf]) -> Self {
        Self {
            own_places: own_places.to_vec(),
            children: process::children(process::own()),
            things: things(own_places),
        }
    }

    /// Nothing is left, at this very moment.
    ///
    /// # Panics
    /// When something is.
    #[track_caller]
    pub fn assert_same(&self) {
        let alive: Vec<_> = self
            .new_children()
            .into_iter()
            .filter(|pid| process::is_alive(*pid))
            .collect();
        let left: Vec<_> = alive.iter().map(|pid| process::describe(*pid)).collect();
        self.clear();
        assert!(left.is_empty(), "processes are left behind: {left:#?}");
        self.assert_same_things();
    }

    /// Nothing is left once everything that is still running has ended, which it must do by itself.
    ///
    /// # Panics
    /// When something stays.
    #[track_caller]
    pub fn assert_same_soon(&self) {
        let deadline = Instant::now() + GRACE;
        // A process that ends may hand its own children to us: look again until there are none.
        while let Some(pid) = self.new_children().first().copied() {
            if !process::wait_for_end(pid, deadline) {
                let left = process::describe(pid);
                self.clear();
                panic!("a process does not end although its caller has: {left}");
            }
            process::reap(pid);
        }
        self.assert_same_things();
    }

    #[track_caller]
    fn assert_same_things(&self) {
        let now = things(&self.own_places);
        let left = now.difference(&self.things);
        let left: Vec<_> = left.filter(|thing| !is_of_another(thing)).collect();
        assert!(left.is_empty(), "things are left behind: {left:#?}");
    }

    fn new_children(&self) -> BTreeSet<Number> {
        let now = process::children(process::own());
        now.difference(&self.children).copied().collect()
    }

    /// Ends what is left, so that the next scenario does not suffer for this one.
    fn clear(&self) {
        while let Some(pid) = self.new_children().first().copied() {
            process::kill(pid);
            if !process::wait_for_end(pid, Instant::now() + GRACE) {
                return;
            }
            process::reap(pid);
        }
    }
}

/// Whether a thing is of a ringfence which somebody else runs on this machine meanwhile: its name
/// holds the number of a living process. A path may also be gone by now.
fn is_of_another(thing: &str) -> bool {
    let name = thing.rsplit([' ', '/', '@']).next().unwrap_or_default();
    let numbers = name.split('-').filter_map(|part| part.parse().ok());
    let numbers: Vec<Number> = numbers.collect();
    // User, process and a running number, or a part of these; the process is the last but one.
    let owner = numbers.get(numbers.len().saturating_sub(2));
    let lives = owner.is_some_and(|pid| *pid != process::own() && process::is_alive(*pid));
    lives || thing.starts_with('/') && !Path::new(thing).exists()
}

/// Everything by name that could be left behind.
fn things(own_places: &[PathBuf]) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for place in own_places {
        walk(place, &mut |path| found.insert(path.display().to_string()));
    }
    for place in SHARED {
        found.extend(names(Path::new(place)).filter(|name| name.contains(NAME)));
    }
    walk(Path::new("/sys/fs/cgroup"), &mut |path| {
        let own = path
            .file_name()
            .is_some_and(|name| name.to_string_lossy().contains(NAME));
        own && path.is_dir() && found.insert(path.display().to_string())
    });
    for table in ["/proc/self/mountinfo", "/proc/net/unix"] {
        let text = fs::read_to_string(table).unwrap_or_default();
        found.extend(
            text.lines()
                .filter(|line| line.contains(NAME))
                .map(str::to_owned),
        );
    }
    found
}

fn names(directory: &Path) -> impl Iterator<Item = String> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    entries.map(|entry| entry.path().display().to_string())
}

/// Shows every path below a directory; links are not followed.
fn walk(directory: &Path, show: &mut impl FnMut(&Path) -> bool) {
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        let path = entry.path();
        show(&path);
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            walk(&path, show);
        }
    }
}
