//! The header of an arm64 `Image`: Linux, `Documentation/arch/arm64/booting.rst`.
//!
//! ```text
//!  0  u32  code0        8  u64  text_offset   24  u64  flags         56  u32  magic "ARM\x64"
//!  4  u32  code1       16  u64  image_size    32  3 × u64 reserved   60  u32  reserved
//! ```
//! All are little-endian. The file is the user's or came from a download: whatever it holds is
//! judged here and never trusted for an address that was not checked.

#![cfg_attr(
    not(test),
    deny(
        clippy::indexing_slicing,
        clippy::arithmetic_side_effects,
        clippy::panic,
        clippy::unwrap_used,
        clippy::expect_used
    )
)]

/// Length of the header, in bytes.
pub(crate) const HEADER: usize = 64;

/// The kernel is at this offset from a multiple of it.
pub(crate) const BASE_ALIGNMENT: u64 = 2 << 20;

const MAGIC: u32 = 0x644d_5241;
const BIG_ENDIAN: u64 = 1;

/// What the header says of where the kernel goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Header {
    /// Offset of the file's first byte from a multiple of [`BASE_ALIGNMENT`]; less than that.
    pub(crate) text_offset: u64,
    /// Bytes that the kernel uses from there, at least those of the file.
    pub(crate) image_size: u64,
}

/// Why a file is no kernel for a guest.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum KernelError {
    /// Fewer bytes than the header has.
    #[error("it has {len} bytes and the header of an arm64 Image alone has {HEADER}")]
    Short {
        /// Bytes of the file.
        len: u64,
    },
    /// Something that is known, and is not what is needed.
    #[error("it is {kind}, and an uncompressed arm64 Image is needed; {hint}")]
    Other {
        /// What it is.
        kind: &'static str,
        /// What to do.
        hint: &'static str,
    },
    /// Not a kernel at all.
    #[error(
        "its magic number at offset 56 is {found:#010x} instead of {MAGIC:#010x}; give the file \
         that the kernel's build calls arch/arm64/boot/Image"
    )]
    Magic {
        /// What is there instead.
        found: u32,
    },
    /// A field that contradicts the rest, or that no guest can have.
    #[error("its {field} is {value:#x}; {expected}")]
    Field {
        /// The field, as the kernel's documentation calls it.
        field: &'static str,
        /// Its value.
        value: u64,
        /// What it would have to be.
        expected: &'static str,
    },
}

impl Header {
    /// Reads the header of a file with `len` bytes. `bytes` are its first ones, [`HEADER`] of them
    /// or more if the file has as many.
    ///
    /// # Errors
    /// [`KernelError`].
    pub(crate) fn parse(bytes: &[u8], len: u64) -> Result<Self, KernelError> {
        let magic = number::<4>(bytes, 56).map(u32::from_le_bytes);
        if magic != Some(MAGIC)
            && let Some((kind, hint)) = recognize(bytes)
        {
            return Err(KernelError::Other { kind, hint });
        }
        let short = || KernelError::Short { len };
        let found = magic.ok_or_else(short)?;
        if found != MAGIC {
            return Err(KernelError::Magic { found });
        }
        let field = |at| number::<8>(bytes, at).map(u64::from_le_bytes);
        let header = Self {
            text_offset: field(8).ok_or_else(short)?,
            image_size: field(16).ok_or_else(short)?,
        };
        let flags = field(24).ok_or_else(short)?;
        header.check(flags, len)?;
        Ok(header)
    }

    fn check(&self, flags: u64, len: u64) -> Result<(), KernelError> {
        let wrong = |field, value, expected| {
            Err(KernelError::Field {
                field,
                value,
                expected,
            })
        };
        if flags & BIG_ENDIAN != 0 {
            return wrong(
                "flags",
                flags,
                "guests are little-endian, so bit 0 must be 0",
            );
        }
        if self.text_offset >= BASE_ALIGNMENT || !self.text_offset.is_multiple_of(4) {
            return wrong(
                "text_offset",
                self.text_offset,
                "it must be a multiple of 4 below 2 MiB",
            );
        }
        if self.image_size == 0 {
            return wrong("image_size", 0, "kernels before Linux 3.17 cannot be run");
        }
        if self.image_size < len {
            return wrong("image_size", self.image_size, "the file is longer");
        }
        Ok(())
    }
}

/// What files that are mistaken for a kernel begin with, and what to do with each.
fn recognize(bytes: &[u8]) -> Option<(&'static str, &'static str)> {
    const UNPACK: &str = "unpack it first";
    let is_zboot = bytes.starts_with(b"MZ") && bytes.get(4..8) == Some(b"zimg");
    let known: [(&[u8], &str, &str); 5] = [
        (b"\x1f\x8b", "compressed with gzip", "unpack it with gunzip"),
        (
            b"\x28\xb5\x2f\xfd",
            "compressed with zstd",
            "unpack it with unzstd",
        ),
        (b"\xfd7zXZ", "compressed with xz", "unpack it with unxz"),
        (b"BZh", "compressed with bzip2", UNPACK),
        (
            b"\x7fELF",
            "an ELF file such as vmlinux",
            "make an Image of it with objcopy -O binary",
        ),
    ];
    if is_zboot {
        return Some((
            "a compressed EFI program (zboot)",
            "build the kernel without EFI_ZBOOT",
        ));
    }
    let found = known
        .into_iter()
        .find(|(start, ..)| bytes.starts_with(start))?;
    Some((found.1, found.2))
}

fn number<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    let end = at.checked_add(N)?;
    bytes.get(at..end)?.try_into().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const LEN: u64 = 4096;

    fn image() -> Vec<u8> {
        let mut bytes = vec![0; 64];
        bytes[16..24].copy_from_slice(&0x6000_u64.to_le_bytes());
        bytes[24] = 0b1010;
        bytes[56..60].copy_from_slice(b"ARM\x64");
        bytes
    }

    /// A header whose field at `at` has another value, parsed.
    fn with(at: usize, value: u64) -> Result<Header, KernelError> {
        let mut bytes = image();
        bytes[at..at + 8].copy_from_slice(&value.to_le_bytes());
        Header::parse(&bytes, LEN)
    }

    fn field(result: Result<Header, KernelError>) -> (&'static str, u64) {
        match result {
            Err(KernelError::Field { field, value, .. }) => (field, value),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_good_one_is_read() {
        let expected = Header {
            text_offset: 0,
            image_size: 0x6000,
        };
        assert_eq!(Header::parse(&image(), LEN), Ok(expected));
        assert_eq!(with(8, 0x8_0000).unwrap().text_offset, 0x8_0000);
        assert_eq!(with(16, LEN).unwrap().image_size, LEN);
    }

    #[test]
    fn each_field_is_judged() {
        for offset in [BASE_ALIGNMENT, 2, u64::MAX] {
            assert_eq!(field(with(8, offset)), ("text_offset", offset));
        }
        for size in [0, LEN - 1] {
            assert_eq!(field(with(16, size)), ("image_size", size));
        }
        assert_eq!(field(with(24, 0b1011)), ("flags", 0b1011));
        let mut bytes = image();
        bytes[56] = b'X';
        let error = Header::parse(&bytes, LEN).unwrap_err();
        assert_eq!(error, KernelError::Magic { found: 0x644d_5258 });
    }

    #[test]
    fn a_short_one_is_none() {
        for len in 0..HEADER - 4 {
            let bytes = &image()[..len];
            let error = Header::parse(bytes, len as u64).unwrap_err();
            assert_eq!(error, KernelError::Short { len: len as u64 });
        }
    }

    #[test]
    fn what_is_mistaken_for_a_kernel_is_named() {
        for (start, word) in [
            (&b"\x1f\x8b\x08"[..], "gunzip"),
            (b"\x28\xb5\x2f\xfd", "unzstd"),
            (b"\x7fELF", "objcopy"),
            (b"MZ\0\0zimg", "EFI_ZBOOT"),
        ] {
            let said = Header::parse(start, LEN).unwrap_err().to_string();
            assert!(said.contains(word), "{said}");
        }
        // An EFI program that is an Image too.
        let mut bytes = image();
        bytes[..2].copy_from_slice(b"MZ");
        Header::parse(&bytes, LEN).unwrap();
    }

    proptest! {
        #[test]
        fn any_bytes_are_judged(bytes in prop::collection::vec(any::<u8>(), 0..128), len: u64) {
            if let Ok(header) = Header::parse(&bytes, len) {
                prop_assert!(header.image_size >= len && header.text_offset < BASE_ALIGNMENT);
            }
        }

        #[test]
        fn any_fields_are_judged(offset: u64, size: u64, flags: u64, len: u64) {
            let mut bytes = image();
            for (at, value) in [(8, offset), (16, size), (24, flags)] {
                bytes[at..at + 8].copy_from_slice(&value.to_le_bytes());
            }
            if let Ok(header) = Header::parse(&bytes, len) {
                prop_assert!(header.image_size >= len && header.text_offset < BASE_ALIGNMENT);
            }
        }
    }
}
