//! Ad hoc code signatures: made, and verified byte by byte.
//!
//! A signature is a table of blobs at the end of the file. The *code directory* holds a digest of
//! every page before it and of every other blob; "ad hoc" means that nobody signs that directory.
//! All numbers are big-endian. The format is that of `cs_blobs.h` in Apple's XNU, and what is made
//! here has the parts that `codesign --sign -` makes.
//!
//! Zig's linker signs ad hoc too, but without entitlements when it is run as a C compiler; the
//! crates that could do it either leave the entitlements' DER form out or bring hundreds of others.

use super::entitlements;
use super::layout::Layout;
use anyhow::{Context as _, bail, ensure};
use sha2::{Digest as _, Sha256};
use std::collections::BTreeMap;

const MAGIC_SIGNATURE: u32 = 0xfade_0cc0;
const MAGIC_DIRECTORY: u32 = 0xfade_0c02;
const MAGIC_REQUIREMENTS: u32 = 0xfade_0c01;
const MAGIC_ENTITLEMENTS: u32 = 0xfade_7171;
const MAGIC_ENTITLEMENTS_DER: u32 = 0xfade_7172;
/// Holds the signature by a certificate: empty where there is none.
const MAGIC_WRAPPER: u32 = 0xfade_0b01;

const SLOT_DIRECTORY: u32 = 0;
const SLOT_REQUIREMENTS: u32 = 2;
const SLOT_ENTITLEMENTS: u32 = 5;
const SLOT_ENTITLEMENTS_DER: u32 = 7;
const SLOT_WRAPPER: u32 = 0x1_0000;

/// The code directory's version that tells where the program's segment is, and its header's size.
const VERSION: u32 = 0x2_0400;
const HEADER: u32 = 88;
const FLAG_AD_HOC: u32 = 0x2;
const FLAG_LINKER_SIGNED: u32 = 0x2_0000;
const SHA256: u8 = 2;
const DIGEST: usize = 32;
/// Pages are of 4 KiB for this purpose, on arm64 too.
const PAGE_SHIFT: u8 = 12;
const MAIN_BINARY: u64 = 1;

/// Segments end on the boundary of a page of arm64.
const SEGMENT_PAGE: u64 = 0x4000;

type Blobs = BTreeMap<u32, Vec<u8>>;

/// Puts an ad hoc signature with `entitlements`, a property list, in the place of that in `file`.
pub(super) fn sign(
    mut file: Vec<u8>,
    identifier: &str,
    entitlements: &str,
) -> anyhow::Result<Vec<u8>> {
    let layout = Layout::read(&file)?;
    let code = layout.signature.offset;
    ensure!(
        code.is_multiple_of(16) && at_the_end(&layout, file.len()),
        "the present signature is not at the file's end: {layout:#x?}"
    );
    let names = entitlements::names(entitlements)?;
    let mut blobs = Blobs::from([
        (SLOT_REQUIREMENTS, blob(MAGIC_REQUIREMENTS, &[0; 4])?),
        (
            SLOT_ENTITLEMENTS,
            blob(MAGIC_ENTITLEMENTS, entitlements.as_bytes())?,
        ),
        (
            SLOT_ENTITLEMENTS_DER,
            blob(MAGIC_ENTITLEMENTS_DER, &entitlements::der(&names)?)?,
        ),
        (SLOT_WRAPPER, blob(MAGIC_WRAPPER, &[])?),
    ]);
    // The directory's size does not depend on what is in the file, but the commands that it covers
    // depend on its size.
    let mut size = 0;
    for _ in ["measure", "sign"] {
        set_size(&mut file, &layout, size)?;
        set_uuid(&mut file, &layout)?;
        let pages = file.get(..code).context("the code ends beyond the file")?;
        blobs.insert(
            SLOT_DIRECTORY,
            directory(pages, &layout, identifier, &blobs)?,
        );
        size = table(&blobs)?.len().next_multiple_of(16);
    }
    let table = table(&blobs)?;
    file.truncate(code);
    file.extend(table);
    file.resize(code + size, 0);
    Ok(file)
}

fn at_the_end(layout: &Layout, length: usize) -> bool {
    let end = layout.signature.offset.checked_add(layout.signature.size);
    let segment = layout
        .linkedit
        .file_offset
        .checked_add(layout.linkedit.file_size);
    end == Some(length) && segment == u64::try_from(length).ok()
}

/// Writes the signature's size into the two commands that say it.
fn set_size(file: &mut [u8], layout: &Layout, size: usize) -> anyhow::Result<()> {
    let end = u64::try_from(layout.signature.offset + size)?;
    let file_size = end
        .checked_sub(layout.linkedit.file_offset)
        .context("the signature is outside of __LINKEDIT")?;
    let memory_size = file_size.next_multiple_of(SEGMENT_PAGE);
    // The places of `datasize`, and of `vmsize` and `filesize`, in <mach-o/loader.h>.
    put(
        file,
        layout.signature.command + 12,
        &u32::try_from(size)?.to_le_bytes(),
    )?;
    put(
        file,
        layout.linkedit.command + 32,
        &memory_size.to_le_bytes(),
    )?;
    put(file, layout.linkedit.command + 48, &file_size.to_le_bytes())
}

/// Names the build by its content. The linker hashes symbols for debuggers, too, that are gone by
/// now and hold the names of temporary files.
fn set_uuid(file: &mut [u8], layout: &Layout) -> anyhow::Result<()> {
    put(file, layout.uuid, &[0; 16])?;
    let code = file.get(..layout.signature.offset);
    let digest = Sha256::digest(code.context("the code ends beyond the file")?);
    let mut uuid = bytes_at::<16>(&digest, 0)?;
    // Version 8, for what everybody makes in his own way, and the variant of RFC 9562.
    uuid[6] = uuid[6] & 0x0f | 0x80;
    uuid[8] = uuid[8] & 0x3f | 0x80;
    put(file, layout.uuid, &uuid)
}

fn put(file: &mut [u8], at: usize, bytes: &[u8]) -> anyhow::Result<()> {
    let place = file.get_mut(at..at + bytes.len());
    place
        .context("a command ends beyond the file")?
        .copy_from_slice(bytes);
    Ok(())
}

fn blob(magic: u32, content: &[u8]) -> anyhow::Result<Vec<u8>> {
    let length = u32::try_from(content.len() + 8)?;
    Ok([&magic.to_be_bytes()[..], &length.to_be_bytes(), content].concat())
}

/// The directory of the pages in `code` and of `blobs`.
fn directory(
    code: &[u8],
    layout: &Layout,
    identifier: &str,
    blobs: &Blobs,
) -> anyhow::Result<Vec<u8>> {
    let pages: Vec<_> = code.chunks(1 << PAGE_SHIFT).map(Sha256::digest).collect();
    let identifier_end = HEADER + u32::try_from(identifier.len())? + 1;
    let digests = identifier_end + SLOT_ENTITLEMENTS_DER * u32::try_from(DIGEST)?;
    let mut content = Vec::new();
    for number in [
        VERSION,
        FLAG_AD_HOC,
        digests,
        HEADER,
        SLOT_ENTITLEMENTS_DER,
        u32::try_from(pages.len())?,
        u32::try_from(code.len())?,
    ] {
        content.extend(number.to_be_bytes());
    }
    content.extend([u8::try_from(DIGEST)?, SHA256, 0, PAGE_SHIFT]);
    // No spare, scatter, team, spare again; no limit beyond 4 GiB.
    content.extend([0; 4 * 4 + 8]);
    for number in [layout.text.file_offset, layout.text.file_size, MAIN_BINARY] {
        content.extend(number.to_be_bytes());
    }
    content.extend(identifier.as_bytes());
    content.push(0);
    // The other blobs' digests stand before those of the pages, the last slot first.
    for slot in (1..=SLOT_ENTITLEMENTS_DER).rev() {
        content.extend(digest_of_slot(blobs, slot));
    }
    content.extend(pages.iter().flatten());
    blob(MAGIC_DIRECTORY, &content)
}

fn digest_of_slot(blobs: &Blobs, slot: u32) -> [u8; DIGEST] {
    blobs
        .get(&slot)
        .map_or([0; DIGEST], |blob| Sha256::digest(blob).into())
}

fn table(blobs: &Blobs) -> anyhow::Result<Vec<u8>> {
    let count = u32::try_from(blobs.len())?;
    let mut index = count.to_be_bytes().to_vec();
    let mut content = Vec::new();
    for (slot, blob) in blobs {
        let offset = 12 + 8 * count + u32::try_from(content.len())?;
        index.extend(slot.to_be_bytes());
        index.extend(offset.to_be_bytes());
        content.extend_from_slice(blob);
    }
    index.extend(content);
    blob(MAGIC_SIGNATURE, &index)
}

/// Checks that `file` has an ad hoc signature that covers all of it and asks for `entitlements`.
pub(super) fn verify(file: &[u8], layout: &Layout, entitlements: &str) -> anyhow::Result<()> {
    ensure!(
        at_the_end(layout, file.len()) && layout.linkedit.memory_size >= layout.linkedit.file_size,
        "it is not at the end of the file and of its segment: {layout:#x?}"
    );
    let signature = file.get(layout.signature.offset..).unwrap_or_default();
    let blobs = read_table(signature)?;
    verify_directory(file, layout, &blobs)?;
    if let Some(wrapper) = blobs.get(&SLOT_WRAPPER) {
        ensure!(
            wrapper[..] == blob(MAGIC_WRAPPER, &[])?,
            "it is not ad hoc: {} bytes of a certificate's signature",
            wrapper.len()
        );
    }
    verify_entitlements(&blobs, entitlements)
}

fn read_table(signature: &[u8]) -> anyhow::Result<Blobs> {
    let whole = read_blob(signature, 0)?;
    let magic = u32_at(whole, 0)?;
    ensure!(
        magic == MAGIC_SIGNATURE,
        "its magic number is {magic:#x}, not {MAGIC_SIGNATURE:#x}"
    );
    let mut blobs = Blobs::new();
    for entry in 0..usize::try_from(u32_at(whole, 8)?)? {
        let slot = u32_at(whole, 12 + 8 * entry)?;
        let wanted = match slot {
            SLOT_DIRECTORY => MAGIC_DIRECTORY,
            SLOT_REQUIREMENTS => MAGIC_REQUIREMENTS,
            SLOT_ENTITLEMENTS => MAGIC_ENTITLEMENTS,
            SLOT_ENTITLEMENTS_DER => MAGIC_ENTITLEMENTS_DER,
            SLOT_WRAPPER => MAGIC_WRAPPER,
            _ => bail!("it has a part of unknown kind, slot {slot:#x}"),
        };
        let blob = read_blob(whole, usize::try_from(u32_at(whole, 16 + 8 * entry)?)?)?;
        let magic = u32_at(blob, 0)?;
        ensure!(
            magic == wanted,
            "slot {slot:#x} has the magic number {magic:#x}, not {wanted:#x}"
        );
        let before = blobs.insert(slot, blob.to_vec());
        ensure!(before.is_none(), "slot {slot:#x} is there twice");
    }
    Ok(blobs)
}

fn verify_directory(file: &[u8], layout: &Layout, blobs: &Blobs) -> anyhow::Result<()> {
    let directory = blobs
        .get(&SLOT_DIRECTORY)
        .context("it has no code directory")?;
    let [version, flags, digests, _identifier, special, count, limit] =
        [8, 12, 16, 20, 24, 28, 32].map(|at| u32_at(directory, at));
    let (version, flags) = (version?, flags?);
    ensure!(
        version >= VERSION,
        "its code directory is of version {version:#x}, not {VERSION:#x}"
    );
    ensure!(
        flags & FLAG_AD_HOC != 0 && flags & FLAG_LINKER_SIGNED == 0,
        "its flags are {flags:#x}: not ad hoc, or a linker's"
    );
    let kind = directory
        .get(36..40)
        .context("its code directory is cut off")?;
    let (size, hash, shift) = (kind[0], kind[1], kind[3]);
    ensure!(
        usize::from(size) == DIGEST && hash == SHA256 && (12..=14).contains(&shift),
        "its digests are of kind {hash} and {size} bytes, for pages of 2^{shift}"
    );
    let limit = usize::try_from(limit?)?;
    ensure!(
        limit == layout.signature.offset,
        "it covers {limit} bytes; the code has {}",
        layout.signature.offset
    );
    let segment = [
        u64_at(directory, 64)?,
        u64_at(directory, 72)?,
        u64_at(directory, 80)?,
    ];
    let wanted = [layout.text.file_offset, layout.text.file_size, MAIN_BINARY];
    ensure!(
        segment == wanted,
        "its executable segment is {segment:#x?}, not {wanted:#x?}"
    );

    let digests = usize::try_from(digests?)?;
    let code = file.get(..limit).context("it covers more than the file")?;
    let pages = code.chunks(1 << shift);
    let count = usize::try_from(count?)?;
    ensure!(
        count == pages.len(),
        "it has digests of {count} pages; the code has {}",
        pages.len()
    );
    for (page, content) in pages.enumerate() {
        let found = digest_at(directory, Some(digests + page * DIGEST))?;
        ensure!(
            found[..] == Sha256::digest(content)[..],
            "the digest of the page at {:#x} is not that of its bytes",
            page << shift
        );
    }
    let special = special?;
    for slot in blobs.keys().filter(|slot| (1..SLOT_WRAPPER).contains(slot)) {
        ensure!(*slot <= special, "slot {slot:#x} has no digest");
    }
    for slot in 1..=special {
        let back = usize::try_from(slot)? * DIGEST;
        let found = digest_at(directory, digests.checked_sub(back))?;
        ensure!(
            found == digest_of_slot(blobs, slot),
            "the digest of slot {slot:#x} is not that of its bytes"
        );
    }
    Ok(())
}

fn verify_entitlements(blobs: &Blobs, wanted: &str) -> anyhow::Result<()> {
    let wanted = entitlements::names(wanted)?;
    let xml = blobs
        .get(&SLOT_ENTITLEMENTS)
        .context("it has no entitlements")?;
    let xml = String::from_utf8_lossy(xml.get(8..).unwrap_or_default());
    let found = entitlements::names(&xml).with_context(|| format!("its entitlements: {xml}"))?;
    ensure!(
        found == wanted,
        "its entitlements are {found:?}, not {wanted:?}"
    );
    let der = blobs.get(&SLOT_ENTITLEMENTS_DER);
    let der = der.context("its entitlements are not there in DER")?;
    ensure!(
        *der == blob(MAGIC_ENTITLEMENTS_DER, &entitlements::der(&wanted)?)?,
        "its entitlements in DER are not {wanted:?}: {der:02x?}"
    );
    Ok(())
}

/// The blob at `at`, its header included.
fn read_blob(bytes: &[u8], at: usize) -> anyhow::Result<&[u8]> {
    let length = usize::try_from(u32_at(bytes, at + 4)?)?;
    ensure!(length >= 8, "a part at {at:#x} has the length {length}");
    bytes
        .get(at..at + length)
        .with_context(|| format!("a part at {at:#x} of {length} bytes ends beyond the signature"))
}

fn bytes_at<const N: usize>(bytes: &[u8], at: usize) -> anyhow::Result<[u8; N]> {
    let found = bytes.get(at..).and_then(<[u8]>::first_chunk);
    found
        .copied()
        .with_context(|| format!("it is cut off at {at:#x}"))
}

fn u32_at(bytes: &[u8], at: usize) -> anyhow::Result<u32> {
    Ok(u32::from_be_bytes(bytes_at(bytes, at)?))
}

fn u64_at(bytes: &[u8], at: usize) -> anyhow::Result<u64> {
    Ok(u64::from_be_bytes(bytes_at(bytes, at)?))
}

fn digest_at(directory: &[u8], at: Option<usize>) -> anyhow::Result<[u8; DIGEST]> {
    bytes_at(
        directory,
        at.context("its digests begin before the code directory")?,
    )
}
