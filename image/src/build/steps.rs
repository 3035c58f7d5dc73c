//! The order of a build's steps, and what each of them depends on.

use super::archive::Remote;
use super::artefact::{Artefact, Inputs, Store};
use super::fetch::Fetcher;
use super::files::{self, FileError, failed};
use super::initramfs::{self, Module};
use super::kernel::{config, prebuilt, source};
use super::lock::{self, Lock, Pin, Role};
use super::plan::Planner;
use super::publish::{self, Part, Parts};
use super::rootfs;
use super::sources::Mirror;
use super::tree::TreeError;
use super::wanted::Wanted;
use super::{Error, Kernel, LabParts, LockMode, Options, cache};
use crate::store::default_directory;
use crate::{Digest, Image};
use std::fs::{self, File};
use std::io;
use std::io::{BufWriter, Write as _};
use std::path::{Path, PathBuf};

/// Where apt is configured.
const APT: &str = "/etc/apt";

pub(super) fn run(options: &Options) -> Result<Image, Error> {
    let output = match &options.output {
        Some(output) => output.clone(),
        None => default_directory(options.arch)?,
    };
    with_build(options, prebuilt::GUEST_MODULES, |build, store| {
        let parts = build.parts(store)?;
        if options.compare {
            let again = temporary(build.work)?;
            compare(&parts, &build.parts(&Store::new(again.path().to_owned()))?)?;
        }
        publish::publish(&output, options.arch, &parts)?;
        if options.lock == LockMode::Update
            && let Some(path) = &options.lock_file
        {
            files::write_bytes(path, build.planner.lock().to_string().as_bytes())?;
        }
        Ok(())
    })?;
    let image = Image::open(output)?;
    image.verify()?;
    Ok(image)
}

/// The kernel of the lab, and an initramfs of its modules and of the agent of the options.
pub(super) fn lab(options: &Options) -> Result<LabParts, Error> {
    with_build(options, prebuilt::LAB_MODULES, |build, store| {
        let (kernel, initramfs) = build.packaged(store)?;
        Ok(LabParts {
            kernel: kernel.artefact.path,
            initramfs: initramfs.artefact.path,
        })
    })
}

/// The squashfs of the lab's tools.
pub(super) fn lab_tools(options: &Options) -> Result<PathBuf, Error> {
    with_build(options, prebuilt::LAB_MODULES, |build, store| {
        Ok(build.tools(store)?.path)
    })
}

/// Prepares a build, does some of its steps, and clears the cache of what nobody uses.
fn with_build<T>(
    options: &Options,
    modules: &'static str,
    steps: impl FnOnce(&mut Build<'_>, &Store) -> Result<T, Error>,
) -> Result<T, Error> {
    let agent = fs::read(&options.agent).map_err(failed("read the agent", &options.agent))?;
    initramfs::check_agent(&agent, &options.agent, options.arch)?;
    let wanted = Wanted::of_repository()?;
    let tools = wanted.lab_tools()?;
    let mirror = Mirror::find(options.mirror.as_deref(), Path::new(APT))?;
    let cache = Cache::open(options)?;
    let fetcher = Fetcher::new(cache.downloads.clone(), options.progress);
    let remote = Remote {
        mirror: &mirror,
        fetcher: &fetcher,
        progress: options.progress,
    };
    let keyring = mirror.keyring(options.keyring.as_deref());
    let lock = read_lock(options)?;
    let lists = [&wanted, &tools];
    let planner = Planner::new(remote, lists, lock, options.lock, options.arch, keyring)?;
    let mut build = Build {
        options,
        agent,
        modules,
        wanted: &wanted,
        tools: &tools,
        planner,
        work: &cache.work,
    };

    let made = steps(&mut build, &Store::new(cache.results.clone()))?;
    for folder in [&cache.downloads, &cache.results] {
        files::remove_unused(folder)?;
    }
    Ok(made)
}

/// The lock to begin with.
fn read_lock(options: &Options) -> Result<Lock, Error> {
    let Some(path) = &options.lock_file else {
        return match options.lock {
            LockMode::Update => Err(Error::NoLockFile),
            LockMode::Prefer | LockMode::Locked => Ok(lock::REPOSITORY.parse()?),
        };
    };
    match fs::read_to_string(path) {
        Ok(text) => Ok(text.parse()?),
        // The first lock of all is made by an update.
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Lock::default()),
        Err(error) => Err(failed("read", path)(error).into()),
    }
}

/// Folders of the cache.
#[derive(Debug)]
struct Cache {
    downloads: PathBuf,
    results: PathBuf,
    work: PathBuf,
    /// Held while a build goes on: a second one would do the same work at the same time.
    _lock: File,
}

impl Cache {
    fn open(options: &Options) -> Result<Self, Error> {
        let folder = match &options.cache {
            Some(folder) => folder.clone(),
            None => cache()?,
        };
        files::create_directory(&folder)?;
        let path = folder.join("lock");
        let lock = File::create(&path).map_err(failed("write", &path))?;
        if lock.try_lock().is_err() {
            options.progress.step("waiting for another build to end");
            lock.lock().map_err(failed("lock", &path))?;
        }
        let work = folder.join("work");
        if work.exists() {
            // What a build that was killed has left.
            fs::remove_dir_all(&work).map_err(failed("remove", &work))?;
        }
        files::create_directory(&work)?;
        let (downloads, results) = (folder.join("downloads"), folder.join("results"));
        Ok(Self {
            downloads,
            results,
            work,
            _lock: lock,
        })
    }
}

fn temporary(work: &Path) -> Result<tempfile::TempDir, FileError> {
    tempfile::tempdir_in(work).map_err(failed("create a folder in", work))
}

/// A build, with all that its steps share.
#[derive(Debug)]
struct Build<'a> {
    options: &'a Options,
    agent: Vec<u8>,
    /// Which modules of a packaged kernel go into the initramfs.
    modules: &'static str,
    wanted: &'a Wanted,
    tools: &'a Wanted,
    planner: Planner<'a>,
    work: &'a Path,
}

impl Build<'_> {
    /// All parts, each taken from `store` where its inputs are those of an earlier build.
    fn parts(&mut self, store: &Store) -> Result<Parts, Error> {
        let (kernel, initramfs) = match self.options.kernel {
            Kernel::Source => (self.compiled(store)?, self.initramfs(store, None, &[])?),
            Kernel::Prebuilt => self.packaged(store)?,
        };
        let rootfs = self.rootfs(store)?;
        Ok(Parts {
            kernel,
            initramfs,
            rootfs,
        })
    }

    /// The kernel, compiled.
    fn compiled(&mut self, store: &Store) -> Result<Part, Error> {
        let arch = self.options.arch;
        let toolchain = source::Toolchain::find(arch)?;
        let fragment = config::fragment(arch);
        let inputs = |pins: &[Pin]| {
            Inputs::of("kernel from source")
                .with(source::RECIPE)
                .with(fragment)
                .with_all(&toolchain.versions)
                .with_all(digests(pins))
        };
        let mut made_from = vec![
            format!("kernel/{arch}.config {}", Digest::of(fragment.as_bytes())),
            format!("ringfence-image {}", env!("CARGO_PKG_VERSION")),
        ];
        made_from.extend(toolchain.versions.iter().cloned());
        if let Some(artefact) = store.get(inputs(&self.planner.lock().role(Role::KernelSource))) {
            let pins = self.planner.lock().role(Role::KernelSource);
            return Ok(Part {
                artefact,
                made_from: labels(&pins, made_from),
            });
        }
        let (pin, package) = self.planner.fetch_one(Role::KernelSource)?;
        let pins = [pin];
        let artefact = store.get_or_make(inputs(&pins), |file| {
            let folder = temporary(self.work)?;
            let progress = self.options.progress;
            let image = source::build(&package, &toolchain, folder.path(), progress)?;
            let mut reader = File::open(&image).map_err(failed("read", &image))?;
            io::copy(&mut reader, file).map_err(failed("copy", &image))?;
            Ok::<(), Error>(())
        })?;
        Ok(Part {
            artefact,
            made_from: labels(&pins, made_from),
        })
    }

    /// Debian's kernel, and the initramfs with its modules, both of one version.
    fn packaged(&mut self, store: &Store) -> Result<(Part, Part), Error> {
        if let [pin] = &self.planner.lock().role(Role::KernelPrebuilt)[..]
            && let Some(kernel) = store.get(prebuilt_inputs(pin))
            && let Some(initramfs) = store.get(self.initramfs_inputs(Some(pin)))
        {
            let kernel = Part {
                artefact: kernel,
                made_from: vec![pin.label()],
            };
            let made_from = self.initramfs_labels(Some(pin));
            return Ok((
                kernel,
                Part {
                    artefact: initramfs,
                    made_from,
                },
            ));
        }
        let (pin, package) = self.planner.fetch_one(Role::KernelPrebuilt)?;
        self.options
            .progress
            .step("taking kernel and modules out of their package");
        let prebuilt = prebuilt::extract(&package, self.modules)?;
        let artefact = store.get_or_make(prebuilt_inputs(&pin), |file| {
            file.write_all(&prebuilt.kernel)
                .map_err(failed("write the kernel of", &package))
        })?;
        let kernel = Part {
            artefact,
            made_from: vec![pin.label()],
        };
        let initramfs = self.initramfs(store, Some(&pin), &prebuilt.modules)?;
        Ok((kernel, initramfs))
    }

    /// The root file system.
    fn rootfs(&mut self, store: &Store) -> Result<Part, Error> {
        let wanted = self.wanted;
        let inputs = |pins: &[Pin]| {
            Inputs::of("rootfs")
                .with_all(rootfs::RECIPE)
                .with(format!("{:?} {:?}", wanted.drop, wanted.only))
                .with_all(digests(pins))
        };
        let pins = self.planner.lock().role(Role::Rootfs);
        if let Some(artefact) = store.get(inputs(&pins)) {
            return Ok(Part {
                artefact,
                made_from: labels(&pins, vec![]),
            });
        }
        let (pins, sources) = self.sources(Role::Rootfs)?;
        let artefact = store.get_or_make(inputs(&pins), |file| {
            self.options
                .progress
                .step("putting the root file system together");
            let tree = rootfs::assemble(&sources, wanted)?;
            tree.write_squashfs(BufWriter::new(file))
                .map_err(rootfs::RootfsError::from)?;
            Ok::<(), Error>(())
        })?;
        Ok(Part {
            artefact,
            made_from: labels(&pins, vec![]),
        })
    }

    /// The lab's tools.
    fn tools(&mut self, store: &Store) -> Result<Artefact, Error> {
        let tools = self.tools;
        let inputs = |pins: &[Pin]| {
            Inputs::of("lab tools")
                .with_all(rootfs::RECIPE)
                .with(format!("{:?} {:?}", tools.drop, tools.only))
                .with_all(digests(pins))
        };
        self.planner.check_tools()?;
        let pins = self.planner.lock().role(Role::LabTools);
        if let Some(artefact) = store.get(inputs(&pins)) {
            return Ok(artefact);
        }
        let (pins, sources) = self.sources(Role::LabTools)?;
        store.get_or_make(inputs(&pins), |file| {
            self.options
                .progress
                .step("putting the lab's tools together");
            let tree = rootfs::assemble_tools(&sources, tools)?;
            tree.write_squashfs(BufWriter::new(file))
                .map_err(rootfs::RootfsError::from)?;
            Ok::<(), Error>(())
        })
    }

    /// The packages of a role, on this machine.
    fn sources(&mut self, role: Role) -> Result<(Vec<Pin>, Vec<rootfs::Source>), Error> {
        let fetched = self.planner.fetch(role)?;
        let source = |(pin, path): (Pin, PathBuf)| {
            let name = pin.name.clone();
            (pin, rootfs::Source { name, path })
        };
        Ok(fetched.into_iter().map(source).unzip())
    }

    /// The initramfs; `modules` are those of the package `kernel`.
    fn initramfs(
        &self,
        store: &Store,
        kernel: Option<&Pin>,
        modules: &[Module],
    ) -> Result<Part, Error> {
        let artefact = store.get_or_make(self.initramfs_inputs(kernel), |file| {
            self.options.progress.step("putting the initramfs together");
            let write = || {
                let mut output = BufWriter::new(file);
                initramfs::assemble(&self.agent, modules)?.write_cpio(&mut output)?;
                Ok::<(), TreeError>(output.flush()?)
            };
            write().map_err(Error::Initramfs)
        })?;
        Ok(Part {
            artefact,
            made_from: self.initramfs_labels(kernel),
        })
    }

    fn initramfs_inputs(&self, kernel: Option<&Pin>) -> Inputs {
        Inputs::of("initramfs")
            .with_all(initramfs::RECIPE)
            .with_all(prebuilt::RECIPE)
            .with(self.modules)
            .with(&self.agent)
            .with_all(kernel.map(|pin| pin.sha256.to_string()))
    }

    fn initramfs_labels(&self, kernel: Option<&Pin>) -> Vec<String> {
        let agent = format!("guest-agent {}", Digest::of(&self.agent));
        let modules = kernel.map(|pin| format!("modules of {}", pin.label()));
        [agent].into_iter().chain(modules).collect()
    }
}

/// What the packaged kernel is made of.
fn prebuilt_inputs(pin: &Pin) -> Inputs {
    Inputs::of("kernel prebuilt")
        .with_all(prebuilt::RECIPE)
        .with(pin.sha256.to_string())
}

/// Digests of packages, as inputs of a step.
fn digests(pins: &[Pin]) -> Vec<String> {
    pins.iter().map(|pin| pin.sha256.to_string()).collect()
}

/// Names and versions of packages, then `more`.
fn labels(pins: &[Pin], more: Vec<String>) -> Vec<String> {
    pins.iter().map(Pin::label).chain(more).collect()
}

fn compare(first: &Parts, second: &Parts) -> Result<(), Error> {
    let pairs = [
        ("kernel", &first.kernel, &second.kernel),
        ("initramfs", &first.initramfs, &second.initramfs),
        ("root file system", &first.rootfs, &second.rootfs),
    ];
    for (part, first, second) in pairs {
        let (first, second) = (first.artefact.sha256, second.artefact.sha256);
        if first != second {
            return Err(Error::Differs {
                part,
                first,
                second,
            });
        }
    }
    Ok(())
}
