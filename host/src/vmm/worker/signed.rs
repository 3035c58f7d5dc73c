//! A copy of the worker's program that is signed so that macOS lets it have virtual machines.
//!
//! Hypervisor.framework serves only programs whose signature has the entitlement, and whatever
//! links a program anew drops that. A worker that is refused says so by its exit status
//! ([`Status::Denied`]); then a copy is made in the user's cache and signed, ad hoc and without any
//! identity, and from then on that copy is what is started: macOS checks a new file at length when
//! it first runs, so the copy is made once for each program.
//!
//! A copy is found by what names its original: path, length, inode, time of change. It lies in a
//! folder that only the user may enter, appears by a rename and is complete from the start.

use super::{MachineError, Status};
use ringfence_image::Digest;
use std::fs::{self, DirBuilder, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// What the copy is to be allowed.
const ENTITLEMENTS: &str = include_str!("../../../../xtask/macos/ringfence.entitlements");

/// Signs a file in place, with the entitlements of a second file.
type Sign = fn(&Path, &Path) -> Result<(), SignError>;

/// Why there is no signed copy.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub(crate) enum SignError {
    /// The user has no place for it.
    #[cfg(target_os = "macos")]
    #[error("no folder for a signed copy of ringfence is known; set HOME")]
    NoDirectory(#[source] ringfence_image::Error),
    /// A file could not be made.
    #[error(
        "macOS demands a signature with the hypervisor's entitlement, and a signed copy of {} \
         cannot be made in {}",
        program.display(),
        directory.display()
    )]
    Copy {
        /// The program to be copied.
        program: PathBuf,
        /// The folder of the copies.
        directory: PathBuf,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// The system's program for it did not start.
    #[cfg(target_os = "macos")]
    #[error("cannot start {program}, which signs programs; xcode-select --install brings it")]
    Tool {
        /// The system's program.
        program: &'static str,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// It failed.
    #[error("{program} cannot sign {}: {said}", path.display())]
    Refused {
        /// The system's program.
        program: &'static str,
        /// What was to be signed.
        path: PathBuf,
        /// What it printed.
        said: String,
    },
}

/// The user's signed copies.
#[derive(Debug)]
pub(super) struct Copies {
    directory: PathBuf,
    sign: Sign,
}

impl Copies {
    /// Those in the user's cache, signed by the system's `codesign`.
    #[cfg(target_os = "macos")]
    pub(super) fn of_user() -> Result<Self, SignError> {
        let cache = ringfence_image::cache_directory().map_err(SignError::NoDirectory)?;
        Ok(Self {
            directory: cache.join("worker"),
            sign: codesign,
        })
    }

    /// Starts `program` by `start`, or its signed copy where the hypervisor wants one.
    pub(super) fn start<T>(
        &self,
        program: &Path,
        start: impl Fn(&Path) -> Result<T, MachineError>,
    ) -> Result<T, MachineError> {
        let failed = |source| SignError::Copy {
            program: program.to_owned(),
            directory: self.directory.clone(),
            source,
        };
        let copy = self.path_for(program).map_err(failed)?;
        if self.is_ours(&copy) {
            return start(&copy);
        }
        match start(program) {
            Err(MachineError::Exited { exit }) if exit.in_worker() == Some(Status::Denied) => {
                self.make(program, &copy, failed)?;
                start(&copy)
            }
            other => other,
        }
    }

    /// Where the copy of a program is, if there is one.
    fn path_for(&self, program: &Path) -> io::Result<PathBuf> {
        let program = program.canonicalize()?;
        let metadata = program.metadata()?;
        let version = format!(
            "{} {} {} {} {ENTITLEMENTS}",
            metadata.len(),
            metadata.ino(),
            metadata.mtime(),
            metadata.mtime_nsec()
        );
        let (program, version) = (
            short(program.as_os_str().as_encoded_bytes()),
            short(version.as_bytes()),
        );
        Ok(self
            .directory
            .join(format!("ringfence-{program}-{version}")))
    }

    /// Whether there is a copy that nobody else can have put there.
    fn is_ours(&self, copy: &Path) -> bool {
        let own = rustix::process::geteuid().as_raw();
        let private = |path: &Path, mask| {
            let metadata = fs::symlink_metadata(path);
            metadata.is_ok_and(|it| it.uid() == own && it.mode() & mask == 0)
        };
        private(&self.directory, 0o077) && private(copy, 0o022) && super::is_executable(copy)
    }

    fn make(
        &self,
        program: &Path,
        copy: &Path,
        failed: impl Fn(io::Error) -> SignError,
    ) -> Result<(), SignError> {
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&self.directory)
            .map_err(&failed)?;
        let name = |suffix: &str| {
            let own = std::process::id();
            copy.with_extension(format!("{own}.{suffix}"))
        };
        // Removed on every way out; the second one is gone by then if all went well.
        let files = [name("entitlements"), name("new")].map(Temporary);
        let [entitlements, new] = &files;
        fs::write(&entitlements.0, ENTITLEMENTS).map_err(&failed)?;
        fs::copy(program, &new.0).map_err(&failed)?;
        fs::set_permissions(&new.0, Permissions::from_mode(0o700)).map_err(&failed)?;
        (self.sign)(&new.0, &entitlements.0)?;
        fs::rename(&new.0, copy).map_err(&failed)?;
        self.forget_others(copy);
        Ok(())
    }

    /// Removes the copies of what the program was before. One that runs goes on running.
    fn forget_others(&self, copy: &Path) {
        let name = copy.file_name().and_then(|name| name.to_str());
        let Some((program, _)) = name.and_then(|name| name.rsplit_once('-')) else {
            return;
        };
        for entry in fs::read_dir(&self.directory)
            .into_iter()
            .flatten()
            .flatten()
        {
            let path = entry.path();
            let same = entry.file_name().to_str().is_some_and(|name| {
                name.rsplit_once('-').is_some_and(|(its, _)| its == program) && !name.contains('.')
            });
            if same && path != copy {
                // What cannot be removed costs space and nothing else.
                let _ = fs::remove_file(path);
            }
        }
    }
}

/// A file that goes when this does.
struct Temporary(PathBuf);

impl Drop for Temporary {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

/// The beginning of a digest: enough for a name.
fn short(bytes: &[u8]) -> String {
    let mut digest = Digest::of(bytes).to_string();
    digest.truncate(16);
    digest
}

#[cfg(target_os = "macos")]
fn codesign(file: &Path, entitlements: &Path) -> Result<(), SignError> {
    const PROGRAM: &str = "/usr/bin/codesign";
    let output = std::process::Command::new(PROGRAM)
        .args(["--sign", "-", "--force", "--identifier", "ringfence"])
        .arg("--entitlements")
        .args([entitlements, file])
        .stdin(std::process::Stdio::null())
        .output()
        .map_err(|source| SignError::Tool {
            program: PROGRAM,
            source,
        })?;
    if output.status.success() {
        return Ok(());
    }
    Err(SignError::Refused {
        program: PROGRAM,
        path: file.to_owned(),
        said: String::from_utf8_lossy(&output.stderr).trim().to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vmm::Exit;
    use std::cell::RefCell;
    use std::os::unix::process::ExitStatusExt;
    use std::process::ExitStatus;
    use tempfile::TempDir;

    const SIGNED: &str = "signed: ";

    struct Place {
        directory: TempDir,
        copies: Copies,
        /// What was started, in order.
        started: RefCell<Vec<PathBuf>>,
    }

    fn sign(file: &Path, entitlements: &Path) -> Result<(), SignError> {
        let said = fs::read_to_string(entitlements).unwrap();
        assert!(said.contains("com.apple.security.hypervisor"));
        let content = fs::read_to_string(file).unwrap();
        fs::write(file, format!("{SIGNED}{content}")).unwrap();
        Ok(())
    }

    fn refuse(file: &Path, _entitlements: &Path) -> Result<(), SignError> {
        Err(SignError::Refused {
            program: "codesign",
            path: file.to_owned(),
            said: "no".into(),
        })
    }

    fn place(sign: Sign) -> Place {
        let directory = tempfile::tempdir().unwrap();
        let copies = Copies {
            directory: directory.path().join("cache/worker"),
            sign,
        };
        Place {
            directory,
            copies,
            started: RefCell::default(),
        }
    }

    impl Place {
        fn program(&self, content: &str) -> PathBuf {
            let path = self.directory.path().join("ringfence");
            let _ = fs::remove_file(&path);
            fs::write(&path, content).unwrap();
            fs::set_permissions(&path, Permissions::from_mode(0o755)).unwrap();
            path
        }

        /// Only what is signed gets a machine.
        fn start(&self, program: &Path) -> Result<String, MachineError> {
            self.copies.start(program, |program| {
                self.started.borrow_mut().push(program.to_owned());
                let content = fs::read_to_string(program).unwrap();
                if content.starts_with(SIGNED) {
                    return Ok(content);
                }
                Err(MachineError::Exited {
                    exit: Box::new(Exit {
                        status: Some(ExitStatus::from_raw((Status::Denied as i32) << 8)),
                        stopped: false,
                        stderr: String::new(),
                        console: String::new(),
                    }),
                })
            })
        }

        fn copies(&self) -> Vec<PathBuf> {
            let entries = fs::read_dir(&self.copies.directory).into_iter().flatten();
            entries.map(|entry| entry.unwrap().path()).collect()
        }
    }

    #[test]
    fn a_refused_program_is_copied_once() {
        let place = place(sign);
        let program = place.program("one");
        assert_eq!(place.start(&program).unwrap(), "signed: one");
        assert_eq!(place.start(&program).unwrap(), "signed: one");
        let copies = place.copies();
        let [copy] = &copies[..] else {
            panic!("{copies:?}")
        };
        let expected = [&program, copy, copy].map(Clone::clone);
        assert_eq!(place.started.take(), expected);
        assert_eq!(fs::read_to_string(&program).unwrap(), "one");
        let mode = |path: &Path| path.metadata().unwrap().mode() & 0o777;
        assert_eq!((mode(copy), mode(&place.copies.directory)), (0o700, 0o700));
    }

    #[test]
    fn another_program_replaces_the_copy() {
        let place = place(sign);
        place.start(&place.program("one")).unwrap();
        let said = place.start(&place.program("another")).unwrap();
        assert_eq!(said, "signed: another");
        assert_eq!(place.copies().len(), 1);
    }

    #[test]
    fn a_program_that_is_signed_is_not_copied() {
        let place = place(sign);
        place.start(&place.program("signed: itself")).unwrap();
        assert!(place.copies().is_empty());
    }

    #[test]
    fn nothing_is_left_of_a_failure() {
        let place = place(refuse);
        let error = place.start(&place.program("one")).unwrap_err();
        assert!(
            error.to_string().contains("codesign cannot sign"),
            "{error}"
        );
        assert!(place.copies().is_empty());
    }

    /// Somebody who may write there could have us start anything.
    #[test]
    fn a_folder_of_everybodys_is_not_trusted() {
        let place = place(sign);
        let program = place.program("one");
        place.start(&program).unwrap();
        place.started.take();
        let open = Permissions::from_mode(0o777);
        fs::set_permissions(&place.copies.directory, open).unwrap();
        let _ = place.start(&program);
        assert_eq!(place.started.take()[0], program);
    }
}
