//! What is handed on: the command with its licences in one compressed archive.

use anyhow::Context as _;
use flate2::Compression;
use flate2::write::GzEncoder;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use tar::{Builder, Header};

/// What goes with the command, by its path in the repository.
const BESIDE: [&str; 4] = [
    "README.md",
    "LICENSE-APACHE",
    "LICENSE-MIT",
    "xtask/macos/ringfence.entitlements",
];

/// Packs `folder/ringfence` and what goes with it into `folder.tar.gz`, whose path it returns. The
/// same files give the same bytes.
pub(super) fn pack(root: &Path, folder: &Path) -> anyhow::Result<PathBuf> {
    let archive = folder.with_extension("tar.gz");
    let partial = folder.with_extension(format!("tar.gz.{}.partial", std::process::id()));
    let name = folder.file_name().context("the folder has no name")?;
    let mut files = vec![(folder.join("ringfence"), 0o755)];
    files.extend(BESIDE.map(|path| (root.join(path), 0o644)));
    let packed =
        write(&partial, Path::new(name), &files).and_then(|()| Ok(fs::rename(&partial, &archive)?));
    if packed.is_err() {
        let _gone_or_never_there = fs::remove_file(&partial);
    }
    packed.with_context(|| format!("cannot write {}", archive.display()))?;
    Ok(archive)
}

fn write(archive: &Path, name: &Path, files: &[(PathBuf, u32)]) -> anyhow::Result<()> {
    let compressed = GzEncoder::new(File::create(archive)?, Compression::best());
    let mut archive = Builder::new(compressed);
    for (path, mode) in files {
        let content = fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
        let mut header = Header::new_gnu();
        header.set_size(u64::try_from(content.len())?);
        header.set_mode(*mode);
        header.set_mtime(0);
        let file = path.file_name().context("a file has no name")?;
        archive.append_data(&mut header, name.join(file), &content[..])?;
    }
    archive.into_inner()?.finish()?;
    Ok(())
}
