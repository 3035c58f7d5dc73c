//! What the lab's memory holds at boot: the initramfs of the builder, then an archive with the job
//! and its files.
//!
//! It lies in memory without a path, so that nothing is left of it whatever ends this process.

use super::{Job, Lab, arguments, check_program};
use anyhow::{Context as _, ensure};
use cpio::newc::{self, ModeFileType};
use ringfence_lab_init::{Copied, JOB, PLACED, PLACES, STAGED, encode};
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

/// The variable that tells `ringfence` where the image is, and the image's place in the lab.
const IMAGE: (&str, &str) = ("RINGFENCE_IMAGE", "/image");

/// Archives begin at multiples of this.
const ALIGNMENT: usize = 4;

/// Writes the initramfs and returns the file.
pub(super) fn write(job: &Job, lab: &Lab) -> anyhow::Result<File> {
    let memory = rustix::fs::memfd_create("lab-initrd", rustix::fs::MemfdFlags::CLOEXEC)
        .context("cannot make a file in memory")?;
    let file = File::from(memory);
    let archive = archive(job, lab)?;
    let mut output = BufWriter::new(&file);
    let base = &lab.parts.initramfs;
    let mut base = File::open(base).with_context(|| format!("cannot read {}", base.display()))?;
    let length = io::copy(&mut base, &mut output).context("cannot copy the initramfs")?;
    let padding = length.next_multiple_of(ALIGNMENT as u64) - length;
    io::copy(&mut io::Read::take(io::repeat(0), padding), &mut output)?;
    archive.write(&mut output)?;
    output.flush()?;
    drop(output);
    Ok(file)
}

fn archive(job: &Job, lab: &Lab) -> anyhow::Result<Archive> {
    let mut archive = Archive::default();
    for path in [STAGED, PLACED] {
        archive.folder(path, 0o755);
    }
    for (name, mode) in PLACES {
        archive.folder(&format!("{PLACED}/{name}"), mode);
    }
    let mut copied = Vec::new();
    let mut program = job.program.clone();
    if program.contains('/') {
        let source = Path::new(&job.program);
        program = arguments::default_destination(source)?;
        let (bytes, mode) = read(source)?;
        check_program(&bytes, source)?;
        archive.place(&program, mode | 0o111, bytes, &mut copied)?;
    }
    for file in &job.files {
        let (bytes, mode) = read(&file.source)?;
        archive.place(&file.destination, mode, bytes, &mut copied)?;
    }
    let image = &lab.image;
    let entries = [image.kernel(), image.initramfs(), image.rootfs()];
    let manifest = image.directory().join(ringfence_image::MANIFEST);
    for path in entries.iter().chain([&manifest]) {
        let name = path.file_name().and_then(|name| name.to_str());
        let name = name.with_context(|| format!("{} has no name", path.display()))?;
        let (bytes, mode) = read(path)?;
        archive.place(&format!("{}/{name}", IMAGE.1), mode, bytes, &mut copied)?;
    }
    let mut env = vec![(IMAGE.0.to_owned(), IMAGE.1.to_owned())];
    env.extend(job.env.iter().cloned());
    let job = ringfence_lab_init::Job {
        program,
        args: job.args.clone(),
        env,
        ordinary_user: job.ordinary_user,
        tools: lab.tools.is_some(),
        files: copied,
    };
    archive.file(JOB, 0o644, encode(&job)?)?;
    Ok(archive)
}

/// A file's bytes and mode; everybody may read it in the lab.
fn read(path: &Path) -> anyhow::Result<(Vec<u8>, u16)> {
    let bytes = fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
    let mode = fs::metadata(path)?.permissions().mode();
    Ok((bytes, if mode & 0o111 == 0 { 0o644 } else { 0o755 }))
}

/// Folders and files by path. A folder sorts before what it holds.
#[derive(Debug, Default)]
struct Archive(BTreeMap<String, Entry>);

#[derive(Debug)]
enum Entry {
    Folder { mode: u16 },
    File { mode: u16, bytes: Vec<u8> },
}

impl Archive {
    fn folder(&mut self, path: &str, mode: u16) {
        self.parents(path);
        let entry = Entry::Folder { mode };
        self.0.entry(path.to_owned()).or_insert(entry);
    }

    fn file(&mut self, path: &str, mode: u16, bytes: Vec<u8>) -> anyhow::Result<()> {
        self.parents(path);
        let before = self.0.insert(path.to_owned(), Entry::File { mode, bytes });
        ensure!(before.is_none(), "two files go to {path} of the lab");
        Ok(())
    }

    fn parents(&mut self, path: &str) {
        for (end, _) in path.match_indices('/') {
            let entry = Entry::Folder { mode: 0o755 };
            let parent = path.get(..end).unwrap_or_default();
            self.0.entry(parent.to_owned()).or_insert(entry);
        }
    }

    /// Adds a file at its path of the lab: directly where that is a place, else to be copied.
    fn place(
        &mut self,
        path: &str,
        mode: u16,
        bytes: Vec<u8>,
        copied: &mut Vec<Copied>,
    ) -> anyhow::Result<()> {
        let inner = path.trim_start_matches('/');
        ensure!(
            inner
                .split('/')
                .all(|part| !["", ".", ".."].contains(&part)),
            "{path} is no plain path of the lab"
        );
        let folder = inner.split_once('/').map(|(folder, _)| folder);
        if PLACES.iter().any(|(name, _)| Some(*name) == folder) {
            return self.file(&format!("{PLACED}/{inner}"), mode, bytes);
        }
        let staged = copied.len().to_string();
        self.file(&format!("{STAGED}/{staged}"), mode, bytes)?;
        copied.push(Copied {
            staged,
            path: format!("/{inner}"),
        });
        Ok(())
    }

    fn write(&self, mut output: impl Write) -> anyhow::Result<()> {
        for (inode, (path, entry)) in (1_000_000..).zip(&self.0) {
            let (kind, mode, bytes) = match entry {
                Entry::Folder { mode } => (ModeFileType::Directory, *mode, &[][..]),
                Entry::File { mode, bytes } => (ModeFileType::Regular, *mode, &bytes[..]),
            };
            let entry = newc::Builder::new(path)
                .ino(inode)
                .mode(u32::from(mode))
                .set_mode_file_type(kind);
            let size = u32::try_from(bytes.len())
                .with_context(|| format!("{path} is larger than an archive may hold"))?;
            let mut writer = entry.write(&mut output, size);
            writer.write_all(bytes)?;
            writer.finish()?;
        }
        newc::trailer(output)?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_go_to_places_or_are_copied() {
        let mut archive = Archive::default();
        let mut copied = Vec::new();
        for path in ["/lab/program", "/etc/file", "/tmp/a/b", "/lab-not/x"] {
            archive.place(path, 0o644, vec![1], &mut copied).unwrap();
        }
        let paths: Vec<&str> = archive.0.keys().map(String::as_str).collect();
        assert_eq!(
            paths,
            [
                "lab",
                "lab/places",
                "lab/places/lab",
                "lab/places/lab/program",
                "lab/places/tmp",
                "lab/places/tmp/a",
                "lab/places/tmp/a/b",
                "lab/staged",
                "lab/staged/0",
                "lab/staged/1",
            ]
        );
        let copies: Vec<_> = copied.iter().map(|file| file.path.as_str()).collect();
        assert_eq!(copies, ["/etc/file", "/lab-not/x"]);
    }

    #[test]
    fn paths_stay_inside_and_apart() {
        let mut archive = Archive::default();
        let mut copied = Vec::new();
        let mut place = |path: &str| archive.place(path, 0o644, vec![], &mut copied);
        place("/lab/x").unwrap();
        for path in ["/lab/x", "/lab/../etc/x", "/lab//x", "/", "/lab/."] {
            assert!(place(path).is_err(), "{path}");
        }
    }

    #[test]
    fn the_kernel_meets_folders_before_their_files() {
        let mut archive = Archive::default();
        archive.file("a/b/c", 0o755, b"text".to_vec()).unwrap();
        archive.folder("a/t", 0o1777);
        let mut bytes = Vec::new();
        archive.write(&mut bytes).unwrap();
        let mut rest = &bytes[..];
        let mut found = Vec::new();
        loop {
            let reader = newc::Reader::new(rest).unwrap();
            if reader.entry().is_trailer() {
                break;
            }
            found.push((reader.entry().name().to_owned(), reader.entry().mode()));
            rest = reader.finish().unwrap();
        }
        let expected = [
            ("a", 0o040_755),
            ("a/b", 0o040_755),
            ("a/b/c", 0o100_755),
            ("a/t", 0o041_777),
        ];
        assert_eq!(found, expected.map(|(name, mode)| (name.to_owned(), mode)));
    }
}
