//! What must hold of the command before anybody gets it.

use super::layout::Layout;
use super::{MACOS, signature};
use anyhow::{Context as _, bail, ensure};
use object::macho;

const SYSTEM: &str = "/usr/lib/libSystem.B.dylib";
const ICONV: &str = "/usr/lib/libiconv.2.dylib";
const HYPERVISOR: &str = "/System/Library/Frameworks/Hypervisor.framework/Versions/A/Hypervisor";

/// What the checks saw, to be shown.
#[derive(Debug)]
pub(super) struct Checked {
    /// Each library and how many symbols are taken from it.
    pub(super) libraries: Vec<(String, usize)>,
}

/// Checks a signed file.
pub(super) fn check(file: &[u8], entitlements: &str) -> anyhow::Result<Checked> {
    let layout = Layout::read(file)?;
    kind(&layout)?;
    let libraries = libraries(&layout)?;
    signature::verify(file, &layout, entitlements).context("the signature does not hold")?;
    Ok(Checked { libraries })
}

fn kind(layout: &Layout) -> anyhow::Result<()> {
    let arm64 = (macho::CPU_TYPE_ARM64.0, macho::CPU_SUBTYPE_ARM64_ALL.0);
    let kind = &layout.header;
    ensure!(
        kind.cpu == arm64,
        "it is for the processor {:#x?}, not for arm64, {arm64:#x?}",
        kind.cpu
    );
    ensure!(
        kind.file_type == macho::MH_EXECUTE.0,
        "its file type is {:#x}, not that of a program",
        kind.file_type
    );
    for (flag, name) in [
        (macho::MH_PIE, "PIE"),
        (macho::MH_TWOLEVEL, "TWOLEVEL"),
        (macho::MH_NOUNDEFS, "NOUNDEFS"),
    ] {
        ensure!(
            kind.flags & flag.0 != 0,
            "its flags {:#x} lack {name}",
            kind.flags
        );
    }
    let wanted = (macho::PLATFORM_MACOS.0, MACOS.0 << 16 | MACOS.1 << 8);
    ensure!(
        layout.built_for == [wanted],
        "it is built for (platform, oldest version) {:#x?}, not for {wanted:#x?}",
        layout.built_for
    );
    Ok(())
}

/// Each library that may be used, and how the names of the symbols that may come from it begin.
fn prefixes(library: &str) -> Option<&'static [&'static str]> {
    match library {
        SYSTEM => Some(&["_", "dyld_stub_binder"]),
        ICONV => Some(&["_iconv", "_libiconv"]),
        HYPERVISOR => Some(&["_hv_"]),
        _ => None,
    }
}

fn libraries(layout: &Layout) -> anyhow::Result<Vec<(String, usize)>> {
    let mut used = Vec::new();
    for library in &layout.libraries {
        ensure!(
            prefixes(library).is_some(),
            "it is linked with {library}, which is none of {SYSTEM}, {ICONV} and {HYPERVISOR}; \
             `cargo tree --target aarch64-apple-darwin` tells whose it is"
        );
        used.push((library.clone(), 0));
    }
    let has = |library| layout.libraries.iter().any(|used| used == library);
    ensure!(has(SYSTEM), "it is not linked with {SYSTEM}");
    ensure!(
        has(HYPERVISOR),
        "it is not linked with {HYPERVISOR}, so there is no VMM in it"
    );
    for symbol in &layout.undefined {
        let name = &symbol.name;
        // From 1; the reserved numbers are beyond any list of three.
        let index = usize::from(symbol.ordinal).checked_sub(1);
        let Some((library, count)) = index.and_then(|index| used.get_mut(index)) else {
            bail!(
                "the symbol {name} is from library number {}, which is none of {:?}",
                symbol.ordinal,
                layout.libraries
            );
        };
        ensure!(
            prefixes(library)
                .is_some_and(|prefixes| prefixes.iter().any(|prefix| name.starts_with(prefix))),
            "the symbol {name} is to come from {library}, which has none of that kind"
        );
        ensure!(
            !name.starts_with("_hv_") || library == HYPERVISOR,
            "the symbol {name} is to come from {library} instead of {HYPERVISOR}"
        );
        *count += 1;
    }
    Ok(used)
}
