//! Where things are in a Mach-O file: what signing changes and what the checks look at.

use anyhow::{Context as _, ensure};
use object::LittleEndian;
use object::macho::{self, MachHeader64};
use object::read::macho::{MachHeader as _, Nlist as _, Segment as _};

const ENDIAN: LittleEndian = LittleEndian;
type Header = MachHeader64<LittleEndian>;

/// A segment's command and what it says.
#[derive(Debug)]
pub(super) struct Segment {
    /// Where the command begins in the file.
    pub(super) command: usize,
    pub(super) file_offset: u64,
    pub(super) file_size: u64,
    pub(super) memory_size: u64,
}

/// The command for the code signature and what it says.
#[derive(Debug)]
pub(super) struct CodeSignature {
    /// Where the command begins in the file.
    pub(super) command: usize,
    pub(super) offset: usize,
    pub(super) size: usize,
}

/// A symbol that another library has.
#[derive(Debug)]
pub(super) struct Undefined {
    pub(super) name: String,
    /// Number of the library, from 1 in the order of `libraries`, or one of the reserved numbers.
    pub(super) ordinal: u8,
}

/// A Mach-O file for arm64.
#[derive(Debug)]
pub(super) struct Layout {
    pub(super) header: Kind,
    pub(super) text: Segment,
    pub(super) linkedit: Segment,
    pub(super) signature: CodeSignature,
    /// Where the 16 bytes are that name this build.
    pub(super) uuid: usize,
    /// Platform and oldest version, one for each command that says so.
    pub(super) built_for: Vec<(u32, u32)>,
    pub(super) libraries: Vec<String>,
    pub(super) undefined: Vec<Undefined>,
}

/// What the header says.
#[derive(Debug)]
pub(super) struct Kind {
    pub(super) cpu: (u32, u32),
    pub(super) file_type: u32,
    pub(super) flags: u32,
}

impl Layout {
    /// Reads the load commands and the symbols of `file`.
    pub(super) fn read(file: &[u8]) -> anyhow::Result<Self> {
        let header = Header::parse(file, 0)?;
        ensure!(
            header.is_supported() && header.is_little_endian() && header.is_type_64(),
            "no 64-bit little-endian Mach-O; it begins with {:02x?}",
            file.get(..4).unwrap_or(file)
        );
        let mut text = None;
        let mut linkedit = None;
        let mut signature = None;
        let mut uuid = None;
        let mut built_for = Vec::new();
        let mut libraries = Vec::new();
        let mut undefined = Vec::new();
        let mut commands = header.load_commands(ENDIAN, file, 0)?;
        while let Some(command) = commands.next()? {
            let at = usize::try_from(command.offset())?;
            if let Some((segment, _)) = command.segment_64()? {
                let found = Segment {
                    command: at,
                    file_offset: segment.fileoff(ENDIAN),
                    file_size: segment.filesize(ENDIAN),
                    memory_size: segment.vmsize(ENDIAN),
                };
                match segment.name() {
                    b"__TEXT" => text = Some(found),
                    b"__LINKEDIT" => linkedit = Some(found),
                    _ => {}
                }
            } else if command.cmd() == macho::LC_CODE_SIGNATURE {
                let data: &macho::LinkeditDataCommand<LittleEndian> = command.data()?;
                signature = Some(CodeSignature {
                    command: at,
                    offset: usize::try_from(data.dataoff.get(ENDIAN))?,
                    size: usize::try_from(data.datasize.get(ENDIAN))?,
                });
            } else if command.cmd() == macho::LC_UUID {
                uuid = Some(at + 8);
            } else if let Some((version, _)) = command.build_version(ENDIAN)? {
                built_for.push((version.platform.get(ENDIAN).0, version.minos.get(ENDIAN).0));
            } else if let Some(dylib) = command.dylib()? {
                let name = command.string(ENDIAN, dylib.dylib.name)?;
                libraries.push(String::from_utf8_lossy(name).into_owned());
            } else if let Some(table) = command.symtab()? {
                undefined.extend(undefined_symbols(table, file)?);
            }
        }
        Ok(Self {
            header: Kind {
                cpu: (header.cputype(ENDIAN).0, header.cpusubtype(ENDIAN).0),
                file_type: header.filetype(ENDIAN).0,
                flags: header.flags(ENDIAN).0,
            },
            text: text.context("the file has no segment __TEXT")?,
            linkedit: linkedit.context("the file has no segment __LINKEDIT")?,
            signature: signature.context("the file has no code signature")?,
            uuid: uuid.context("the file has no UUID, which the system's loader demands")?,
            built_for,
            libraries,
            undefined,
        })
    }
}

fn undefined_symbols(
    table: &macho::SymtabCommand<LittleEndian>,
    file: &[u8],
) -> anyhow::Result<Vec<Undefined>> {
    let symbols = table.symbols::<Header, _>(ENDIAN, file)?;
    let undefined = symbols.iter().filter(|symbol| symbol.is_undefined());
    let named = undefined.map(|symbol| {
        let name = symbol.name(ENDIAN, symbols.strings())?;
        Ok(Undefined {
            name: String::from_utf8_lossy(name).into_owned(),
            ordinal: symbol.library_ordinal(ENDIAN).0,
        })
    });
    named.collect()
}
