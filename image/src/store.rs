//! Where images are, and whether they are whole.

use crate::manifest::{Entry, MANIFEST, Manifest};
use crate::{Arch, Digest, Error};
use std::env;
use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};

/// The environment variable that names the directory of the image to use.
pub const ENV_DIRECTORY: &str = "RINGFENCE_IMAGE";

/// No manifest is larger; a larger file is not read.
const MANIFEST_LIMIT: u64 = 1 << 20;

/// An image whose manifest has been read and found valid.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Image {
    directory: PathBuf,
    manifest: Manifest,
}

/// One directory of [`list`].
#[derive(Debug)]
pub struct Listed {
    /// The directory.
    pub directory: PathBuf,
    /// The image in it, or what is wrong with it.
    pub image: Result<Image, Error>,
}

impl Image {
    /// Reads the manifest in `directory`. The files are not looked at: see [`Image::verify`].
    ///
    /// # Errors
    /// [`Error::Missing`] when there is no manifest; the manifest's own errors; [`Error::Read`].
    pub fn open(directory: impl Into<PathBuf>) -> Result<Self, Error> {
        let directory = directory.into();
        let path = directory.join(MANIFEST);
        let file = match File::open(&path) {
            Ok(file) => file,
            Err(error) if is_absent(&error) => return Err(Error::Missing { directory }),
            Err(source) => return Err(Error::Read { path, source }),
        };
        let mut text = Vec::new();
        let read = file.take(MANIFEST_LIMIT + 1).read_to_end(&mut text);
        if let Err(source) = read {
            return Err(Error::Read { path, source });
        }
        if u64::try_from(text.len()).unwrap_or(u64::MAX) > MANIFEST_LIMIT {
            return Err(Error::ManifestSize {
                path,
                limit: MANIFEST_LIMIT,
            });
        }
        let manifest = Manifest::parse(&text, &path)?;
        Ok(Self {
            directory,
            manifest,
        })
    }

    /// Opens the image to use: the one in the directory that `RINGFENCE_IMAGE` names, else the one
    /// in the user's cache directory.
    ///
    /// # Errors
    /// As [`Image::open`], and [`Error::NoDirectory`].
    pub fn find(arch: Arch) -> Result<Self, Error> {
        Self::open(default_directory(arch)?)
    }

    /// Reads every file and compares length and digest with the manifest, in parallel.
    ///
    /// # Errors
    /// [`Error::FileMissing`], [`Error::Size`] and [`Error::Digest`] name the file and both values;
    /// [`Error::Read`] when a file cannot be read.
    pub fn verify(&self) -> Result<(), Error> {
        std::thread::scope(|scope| {
            let checks = self
                .manifest
                .entries()
                .map(|entry| scope.spawn(|| self.check(entry)));
            checks.into_iter().try_for_each(|check| {
                check
                    .join()
                    .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
            })
        })
    }

    fn check(&self, entry: &Entry) -> Result<(), Error> {
        let path = self.directory.join(&entry.file);
        let metadata = match fs::symlink_metadata(&path) {
            Ok(metadata) if metadata.is_file() => metadata,
            Ok(_) => return Err(Error::FileMissing { path }),
            Err(error) if is_absent(&error) => return Err(Error::FileMissing { path }),
            Err(source) => return Err(Error::Read { path, source }),
        };
        if metadata.len() != entry.size {
            return Err(Error::Size {
                path,
                expected: entry.size,
                found: metadata.len(),
            });
        }
        match Digest::of_file(&path) {
            Ok((found, _)) if found != entry.sha256 => Err(Error::Digest {
                path,
                expected: entry.sha256,
                found,
            }),
            Ok(_) => Ok(()),
            Err(source) => Err(Error::Read { path, source }),
        }
    }

    /// The directory of the image.
    #[must_use]
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// What the image consists of.
    #[must_use]
    pub const fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// The path of the kernel, an uncompressed `Image`.
    #[must_use]
    pub fn kernel(&self) -> PathBuf {
        self.directory.join(&self.manifest.kernel.file)
    }

    /// The path of the initramfs.
    #[must_use]
    pub fn initramfs(&self) -> PathBuf {
        self.directory.join(&self.manifest.initramfs.file)
    }

    /// The path of the root file system.
    #[must_use]
    pub fn rootfs(&self) -> PathBuf {
        self.directory.join(&self.manifest.rootfs.file)
    }
}

/// The directory of the image that [`Image::find`] opens.
///
/// # Errors
/// [`Error::NoDirectory`] when the environment names neither an image nor a home.
pub fn default_directory(arch: Arch) -> Result<PathBuf, Error> {
    if let Some(directory) = variable(ENV_DIRECTORY) {
        return Ok(directory.into());
    }
    Ok(cache_directory()?.join("image").join(arch.name()))
}

/// The images of the user: one directory for each architecture that has something, and the one
/// that `RINGFENCE_IMAGE` names. Manifests are read, files are not.
///
/// # Errors
/// [`Error::NoDirectory`] when the environment names neither an image nor a home.
pub fn list() -> Result<Vec<Listed>, Error> {
    let mut directories = Vec::new();
    if let Some(directory) = variable(ENV_DIRECTORY) {
        directories.push(PathBuf::from(directory));
    }
    match cache_directory() {
        Ok(cache) => directories.extend(
            Arch::ALL
                .into_iter()
                .map(|arch| cache.join("image").join(arch.name())),
        ),
        Err(error) if directories.is_empty() => return Err(error),
        Err(_no_cache) => {}
    }
    let listed = directories
        .into_iter()
        .map(|directory| Listed {
            image: Image::open(&directory),
            directory,
        })
        .filter(|listed| !matches!(listed.image, Err(Error::Missing { .. })));
    Ok(listed.collect())
}

/// The directory of this project in the user's cache.
///
/// # Errors
/// [`Error::NoDirectory`] when neither `HOME` nor another variable names one.
pub fn cache_directory() -> Result<PathBuf, Error> {
    let home = |path: &str| variable("HOME").map(|home| PathBuf::from(home).join(path));
    let base = if cfg!(target_os = "macos") {
        home("Library/Caches")
    } else {
        // The XDG specification: a relative path is to be ignored.
        variable("XDG_CACHE_HOME")
            .map(PathBuf::from)
            .filter(|path| path.is_absolute())
            .or_else(|| home(".cache"))
    };
    base.map(|base| base.join("ringfence"))
        .ok_or(Error::NoDirectory)
}

/// A variable of the environment; an empty one counts as none.
fn variable(name: &str) -> Option<OsString> {
    env::var_os(name).filter(|value| !value.is_empty())
}

fn is_absent(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::FORMAT;

    /// A directory of its own for a test, gone afterwards.
    struct Directory(PathBuf);

    impl Directory {
        fn new(name: &str) -> Self {
            let path = env::temp_dir().join(format!("ringfence-{name}-{}", std::process::id()));
            fs::create_dir_all(&path).unwrap();
            Self(path)
        }
    }

    impl Drop for Directory {
        fn drop(&mut self) {
            fs::remove_dir_all(&self.0).unwrap();
        }
    }

    fn write(directory: &Path, file: &str, bytes: &[u8]) -> Entry {
        fs::write(directory.join(file), bytes).unwrap();
        Entry {
            file: file.to_owned(),
            size: bytes.len().try_into().unwrap(),
            sha256: Digest::of(bytes),
            made_from: vec!["a test".to_owned()],
        }
    }

    fn sample(name: &str) -> (Directory, Image) {
        let directory = Directory::new(name);
        let manifest = Manifest {
            format: FORMAT,
            arch: Arch::Aarch64,
            kernel: write(&directory.0, "Image", b"kernel"),
            initramfs: write(&directory.0, "initramfs.cpio", b"initramfs"),
            rootfs: write(&directory.0, "rootfs.squashfs", b"root"),
        };
        fs::write(directory.0.join(MANIFEST), manifest.to_json().unwrap()).unwrap();
        let image = Image::open(&directory.0).unwrap();
        (directory, image)
    }

    #[test]
    fn a_whole_image_is_verified() {
        let (directory, image) = sample("whole");
        image.verify().unwrap();
        assert_eq!(image.rootfs(), directory.0.join("rootfs.squashfs"));
    }

    #[test]
    fn a_changed_file_is_named_with_both_digests() {
        let (directory, image) = sample("changed");
        fs::write(directory.0.join("rootfs.squashfs"), b"toor").unwrap();
        let error = image.verify().unwrap_err();
        let text = error.to_string();
        assert!(matches!(error, Error::Digest { .. }));
        for part in ["rootfs.squashfs", &Digest::of(b"root").to_string()] {
            assert!(text.contains(part), "{text}");
        }
        assert!(text.contains(&Digest::of(b"toor").to_string()), "{text}");
    }

    #[test]
    fn a_short_and_an_absent_file_are_named() {
        let (directory, image) = sample("short");
        fs::write(directory.0.join("Image"), b"kern").unwrap();
        assert!(matches!(
            image.verify(),
            Err(Error::Size {
                expected: 6,
                found: 4,
                ..
            })
        ));
        fs::remove_file(directory.0.join("Image")).unwrap();
        assert!(matches!(image.verify(), Err(Error::FileMissing { .. })));
    }

    #[test]
    fn a_link_is_not_followed() {
        let (directory, image) = sample("link");
        fs::remove_file(directory.0.join("Image")).unwrap();
        std::os::unix::fs::symlink("rootfs.squashfs", directory.0.join("Image")).unwrap();
        assert!(matches!(image.verify(), Err(Error::FileMissing { .. })));
    }

    #[test]
    fn no_image_and_a_huge_manifest_are_errors() {
        let directory = Directory::new("none");
        assert!(matches!(
            Image::open(&directory.0),
            Err(Error::Missing { .. })
        ));
        assert!(matches!(
            Image::open(directory.0.join("x/y")),
            Err(Error::Missing { .. })
        ));
        File::create(directory.0.join(MANIFEST))
            .unwrap()
            .set_len(1 << 32)
            .unwrap();
        assert!(matches!(
            Image::open(&directory.0),
            Err(Error::ManifestSize { .. })
        ));
    }
}
