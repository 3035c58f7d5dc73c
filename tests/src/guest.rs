//! Images of guests that misbehave.

use crate::Lab;
use crate::isolation::image_directory;
use serde_json::{Value, json};
use std::fs;
use std::io::Read as _;
use std::path::{Path, PathBuf};

/// The parts of an image, as its manifest names them.
const PARTS: [&str; 3] = ["kernel", "initramfs", "rootfs"];

/// What the guest's own `/init` is called beside ours.
const OWN_INIT: &str = "init.own";

/// An image whose kernel is this file and which has nothing else.
///
/// # Panics
/// When it cannot be written.
#[must_use]
pub fn bare_metal(lab: &Lab<'_>, kernel: &[u8]) -> PathBuf {
    let directory = directory(lab);
    let mut manifest = manifest();
    // The disk is a sector of zeros.
    for (part, bytes) in PARTS.iter().zip([kernel, &[0; 4], &[0; 512]]) {
        put(&directory, &mut manifest, part, bytes);
    }
    finish(directory, &manifest)
}

/// The image of this machine, with the probe as process 1 until it makes way.
///
/// # Panics
/// When it cannot be made.
#[must_use]
pub fn with_probe(lab: &Lab<'_>) -> PathBuf {
    let (directory, source) = (directory(lab), image_directory());
    let mut manifest = manifest();
    for part in ["kernel", "rootfs"] {
        let name = manifest[part]["file"].as_str().unwrap().to_owned();
        fs::copy(source.join(&name), directory.join(&name)).unwrap();
    }
    let own = fs::read(source.join(manifest["initramfs"]["file"].as_str().unwrap())).unwrap();
    let probe = fs::read(lab.bench.probe("aarch64")).unwrap();
    put(
        &directory,
        &mut manifest,
        "initramfs",
        &beside(&own, &probe),
    );
    finish(directory, &manifest)
}

/// An archive, and behind it a second one with another `/init`: the kernel unpacks both, and the
/// later file replaces the earlier.
fn beside(archive: &[u8], init: &[u8]) -> Vec<u8> {
    let own = file(archive, "init");
    let mut both = archive.to_vec();
    // A trailer of zeros is skipped; archives begin at multiples of 4.
    both.resize(both.len().next_multiple_of(4), 0);
    for (name, content) in [(OWN_INIT, own.as_slice()), ("init", init)] {
        let entry = cpio::NewcBuilder::new(name).mode(0o100_755);
        let len = u32::try_from(content.len()).unwrap();
        let mut writer = entry.write(both, len);
        std::io::Write::write_all(&mut writer, content).unwrap();
        both = writer.finish().unwrap();
    }
    cpio::newc::trailer(both).unwrap()
}

/// The content of a file in an archive.
fn file(archive: &[u8], name: &str) -> Vec<u8> {
    let mut rest = archive;
    loop {
        let mut entry = cpio::NewcReader::new(rest).unwrap();
        assert!(!entry.entry().is_trailer(), "no {name} in the initramfs");
        if entry.entry().name().trim_start_matches('/') == name {
            let mut content = Vec::new();
            entry.read_to_end(&mut content).unwrap();
            return content;
        }
        rest = entry.finish().unwrap();
    }
}

fn directory(lab: &Lab<'_>) -> PathBuf {
    let directory = lab.path("image");
    fs::create_dir_all(&directory).unwrap();
    directory
}

fn manifest() -> Value {
    let text = fs::read(image_directory().join("manifest.json")).unwrap();
    serde_json::from_slice(&text).unwrap()
}

fn put(directory: &Path, manifest: &mut Value, part: &str, bytes: &[u8]) {
    fs::write(directory.join(part), bytes).unwrap();
    let digest = ringfence_probe::digest(bytes).unwrap();
    let (_len, sha256) = digest.split_once(' ').unwrap();
    manifest[part] = json!({
        "file": part,
        "size": bytes.len(),
        "sha256": sha256,
        "made_from": ["a test"],
    });
}

fn finish(directory: PathBuf, manifest: &Value) -> PathBuf {
    fs::write(directory.join("manifest.json"), manifest.to_string()).unwrap();
    directory
}
