//! Takes kernel and modules out of Debian's `linux-image` package.

use super::super::deb::{self, Content, DebError};
use super::super::initramfs::Module;
use super::super::tree::read_all;
use super::super::wanted::meaningful;
use super::is_image;
use flate2::read::GzDecoder;
use object::{Object as _, ObjectSection as _};
use std::collections::{BTreeMap, HashSet};
use std::io::{self, Read};
use std::path::{Path, PathBuf};

/// What this module does is an input of the image.
pub(crate) const RECIPE: [&str; 2] = [include_str!("prebuilt.rs"), include_str!("../deb.rs")];

/// The modules that the guest needs.
pub(crate) const GUEST_MODULES: &str = include_str!("../../../../kernel/modules.list");

/// The modules that the lab needs.
pub(crate) const LAB_MODULES: &str = include_str!("../../../../kernel/lab-modules.list");

/// No kernel is larger.
const KERNEL_LIMIT: u64 = 256 << 20;

/// Why the packaged kernel cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PrebuiltError {
    /// The package cannot be unpacked.
    #[error(transparent)]
    Package(#[from] DebError),
    /// The package holds no kernel.
    #[error("the package {} holds no kernel", .0.display())]
    NoKernel(PathBuf),
    /// The kernel is of a form that cannot be used.
    #[error("the kernel of {} is neither an arm64 `Image` nor one compressed with gzip", .0.display())]
    Form(PathBuf),
    /// A module is missing.
    #[error("the kernel of {} has no module `{module}`, built in or not", package.display())]
    NoModule {
        /// The package.
        package: PathBuf,
        /// The module.
        module: String,
    },
    /// A module is damaged.
    #[error("the module `{module}` of {} is damaged", package.display())]
    Module {
        /// The package.
        package: PathBuf,
        /// The module.
        module: String,
    },
}

/// A kernel and the modules it needs, in the order of loading.
#[derive(Debug)]
pub(crate) struct Prebuilt {
    pub kernel: Vec<u8>,
    pub modules: Vec<Module>,
}

/// What a package holds of interest.
#[derive(Debug, Default)]
struct Contents {
    kernel: Option<Vec<u8>>,
    /// Modules by name, as they are in the package.
    modules: BTreeMap<String, (String, Vec<u8>)>,
    built_in: HashSet<String>,
}

/// Takes the kernel and the modules of a list out of the package.
pub(crate) fn extract(package: &Path, modules: &str) -> Result<Prebuilt, PrebuiltError> {
    let contents = read(package)?;
    let kernel = contents
        .kernel
        .as_deref()
        .ok_or_else(|| PrebuiltError::NoKernel(package.to_owned()))?;
    let kernel = uncompressed(kernel).ok_or_else(|| PrebuiltError::Form(package.to_owned()))?;
    let mut order = Order {
        package,
        contents: &contents,
        seen: HashSet::new(),
        modules: vec![],
    };
    for module in meaningful(modules) {
        order.add(module)?;
    }
    Ok(Prebuilt {
        kernel,
        modules: order.modules,
    })
}

fn read(package: &Path) -> Result<Contents, DebError> {
    let mut contents = Contents::default();
    deb::visit(package, |member, reader| {
        if member.content != Content::File {
            return Ok(());
        }
        let damaged = |source| DebError::Damaged {
            package: package.to_owned(),
            source,
        };
        let file = member.path.rsplit('/').next().unwrap_or_default();
        if member.path.starts_with("boot/vmlinuz") {
            contents.kernel = Some(read_all(reader).map_err(damaged)?);
        } else if file == "modules.builtin" {
            let list = read_all(reader).map_err(damaged)?;
            let list = String::from_utf8_lossy(&list);
            contents
                .built_in
                .extend(list.lines().filter_map(module_name));
        } else if let Some(name) = module_name(file) {
            contents
                .modules
                .insert(name, (file.to_owned(), read_all(reader).map_err(damaged)?));
        }
        Ok::<(), DebError>(())
    })?;
    Ok(contents)
}

/// The name of the module in a file: `a/virtio-rng.ko.xz` holds `virtio_rng`.
fn module_name(path: &str) -> Option<String> {
    let file = path.rsplit('/').next()?;
    let (name, ending) = file.split_once(".ko")?;
    ["", ".xz", ".gz"]
        .contains(&ending)
        .then(|| name.replace('-', "_"))
}

/// Modules in the order of loading, while they are put together.
struct Order<'a> {
    package: &'a Path,
    contents: &'a Contents,
    seen: HashSet<String>,
    modules: Vec<Module>,
}

impl Order<'_> {
    /// Adds a module behind those that it depends on.
    fn add(&mut self, name: &str) -> Result<(), PrebuiltError> {
        if self.contents.built_in.contains(name) || !self.seen.insert(name.to_owned()) {
            return Ok(());
        }
        let failed = || (self.package.to_owned(), name.to_owned());
        let Some((file, data)) = self.contents.modules.get(name) else {
            let (package, module) = failed();
            return Err(PrebuiltError::NoModule { package, module });
        };
        let damaged = || {
            let (package, module) = failed();
            PrebuiltError::Module { package, module }
        };
        let mut reader = deb::decompressor(file, &data[..]).ok_or_else(damaged)?;
        let data = read_all(&mut reader).map_err(|_error| damaged())?;
        for dependency in depends(&data).ok_or_else(damaged)? {
            self.add(&dependency)?;
        }
        let file = format!("{name}.ko");
        self.modules.push(Module { file, data });
        Ok(())
    }
}

/// The modules that a module says it depends on.
fn depends(module: &[u8]) -> Option<Vec<String>> {
    let module = object::File::parse(module).ok()?;
    let info = module.section_by_name(".modinfo")?.data().ok()?;
    let mut fields = info
        .split(|&byte| byte == 0)
        .filter_map(|it| std::str::from_utf8(it).ok());
    let names = fields.find_map(|field| field.strip_prefix("depends="))?;
    Some(
        names
            .split(',')
            .filter(|it| !it.is_empty())
            .map(|it| it.replace('-', "_"))
            .collect(),
    )
}

/// The kernel as a boot loader puts it into memory: plain, from gzip, or from the program that
/// unpacks itself under EFI (`zimg`), if that holds gzip.
fn uncompressed(kernel: &[u8]) -> Option<Vec<u8>> {
    if is_image(kernel) {
        return Some(kernel.to_vec());
    }
    let packed = match kernel.get(4..8) {
        Some(b"zimg") => {
            let word = |at: usize| {
                let bytes = kernel.get(at..at.checked_add(4)?)?;
                usize::try_from(u32::from_le_bytes(bytes.try_into().ok()?)).ok()
            };
            let start = word(8)?;
            kernel.get(start..start.checked_add(word(12)?)?)?
        }
        _ => kernel,
    };
    unzipped(packed).ok().filter(|kernel| is_image(kernel))
}

fn unzipped(packed: &[u8]) -> io::Result<Vec<u8>> {
    let mut kernel = Vec::new();
    GzDecoder::new(packed)
        .take(KERNEL_LIMIT)
        .read_to_end(&mut kernel)?;
    Ok(kernel)
}

#[cfg(test)]
mod tests {
    use super::*;
    use flate2::{Compression, write::GzEncoder};
    use std::io::Write as _;

    fn image() -> Vec<u8> {
        let mut image = vec![1; 4096];
        image[0x38..0x3c].copy_from_slice(b"ARM\x64");
        image
    }

    fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    #[test]
    fn kernels_are_unpacked() {
        let packed = gzip(&image());
        let mut zboot = b"MZ\0\0zimg".to_vec();
        zboot.extend(64_u32.to_le_bytes());
        zboot.extend(u32::try_from(packed.len()).unwrap().to_le_bytes());
        zboot.resize(64, 0);
        zboot.extend(&packed);
        for kernel in [&image(), &packed, &zboot] {
            assert_eq!(uncompressed(kernel), Some(image()));
        }
    }

    #[test]
    fn what_is_no_kernel_is_refused() {
        let mut lying = b"MZ\0\0zimg".to_vec();
        lying.extend([0xff; 56]);
        for kernel in [
            &b""[..],
            b"MZ",
            &gzip(b"text"),
            &lying,
            &gzip(&image())[..40],
        ] {
            assert_eq!(uncompressed(kernel), None);
        }
    }

    #[test]
    fn modules_are_known_by_their_names() {
        assert_eq!(
            module_name("kernel/a/virtio-rng.ko.xz").as_deref(),
            Some("virtio_rng")
        );
        assert_eq!(module_name("vsock.ko").as_deref(), Some("vsock"));
        assert_eq!(module_name("modules.order"), None);
        assert_eq!(module_name("a.konfig"), None);
    }
}
