//! Results of steps, kept by the digest of their inputs, so that no step is done twice.

use super::files::{self, FileError, failed};
use crate::Digest;
use sha2::Digest as _;
use std::fs::{self, File};
use std::path::{Path, PathBuf};

/// Collects the inputs of a step. Each is preceded by its length, so that no two lists of inputs
/// look alike.
#[derive(Debug, Clone, Default)]
pub(crate) struct Inputs(sha2::Sha256);

impl Inputs {
    /// The inputs of a step of this name.
    pub(crate) fn of(step: &str) -> Self {
        Self::default().with(step)
    }

    /// One more input.
    #[must_use]
    pub(crate) fn with(mut self, input: impl AsRef<[u8]>) -> Self {
        let input = input.as_ref();
        self.0.update(input.len().to_le_bytes());
        self.0.update(input);
        self
    }

    /// More inputs.
    #[must_use]
    pub(crate) fn with_all(self, inputs: impl IntoIterator<Item = impl AsRef<[u8]>>) -> Self {
        inputs.into_iter().fold(self, Self::with)
    }

    fn key(self) -> String {
        self.0
            .finalize()
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect()
    }
}

/// A file made by a step, with its measure.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Artefact {
    pub path: PathBuf,
    pub sha256: Digest,
    pub size: u64,
}

/// Where results are kept.
#[derive(Debug, Clone)]
pub(crate) struct Store {
    folder: PathBuf,
}

impl Store {
    pub(crate) const fn new(folder: PathBuf) -> Self {
        Self { folder }
    }

    /// The result of a step, if it is kept for these inputs.
    pub(crate) fn get(&self, inputs: Inputs) -> Option<Artefact> {
        let (path, note) = self.paths(&inputs.key());
        kept(&path, &note)
    }

    fn paths(&self, key: &str) -> (PathBuf, PathBuf) {
        (
            self.folder.join(key),
            self.folder.join(format!("{key}.sha256")),
        )
    }

    /// The result of a step: the one that is kept for these inputs, else what `make` writes.
    /// Nothing is kept when `make` fails.
    pub(crate) fn get_or_make<E: From<FileError>>(
        &self,
        inputs: Inputs,
        make: impl FnOnce(&mut File) -> Result<(), E>,
    ) -> Result<Artefact, E> {
        let (path, note) = self.paths(&inputs.key());
        if let Some(artefact) = kept(&path, &note) {
            return Ok(artefact);
        }
        files::write_atomically(&path, make)?;
        let (sha256, size) = Digest::of_file(&path).map_err(failed("read", &path))?;
        files::write_bytes(&note, sha256.to_string().as_bytes())?;
        Ok(Artefact { path, sha256, size })
    }
}

/// The kept result, if it is there and still has the digest that was noted.
fn kept(path: &Path, note: &Path) -> Option<Artefact> {
    let noted: Digest = fs::read_to_string(note).ok()?.parse().ok()?;
    let (sha256, size) = Digest::of_file(path).ok()?;
    if sha256 != noted {
        return None;
    }
    files::mark_used(path);
    files::mark_used(note);
    Some(Artefact {
        path: path.to_owned(),
        sha256,
        size,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write as _;

    fn make(store: &Store, input: &str, text: &str) -> (Artefact, bool) {
        let mut made = false;
        let artefact = store.get_or_make(Inputs::of("step").with(input), |file| {
            made = true;
            file.write_all(text.as_bytes())
                .map_err(failed("write", Path::new("x")))
        });
        (artefact.unwrap(), made)
    }

    #[test]
    fn a_step_is_done_once_for_the_same_inputs() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::new(folder.path().join("a"));
        let (first, made) = make(&store, "1", "one");
        assert!(made);
        assert_eq!(make(&store, "1", "other"), (first.clone(), false));
        assert!(make(&store, "2", "two").1);
        fs::write(&first.path, "changed").unwrap();
        assert!(make(&store, "1", "one").1);
    }

    #[test]
    fn lists_of_inputs_differ() {
        let key = |inputs: &[&str]| Inputs::of("x").with_all(inputs).key();
        assert_ne!(key(&["ab", "c"]), key(&["a", "bc"]));
        assert_ne!(key(&["a", ""]), key(&["a"]));
    }
}
