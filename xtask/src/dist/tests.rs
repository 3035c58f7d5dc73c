//! The signer and the checks on programs of a few pages, made here byte by byte.

use super::{ENTITLEMENTS, MACOS, check, signature};

const SYSTEM: &str = "/usr/lib/libSystem.B.dylib";
const ICONV: &str = "/usr/lib/libiconv.2.dylib";
const HYPERVISOR: &str = "/System/Library/Frameworks/Hypervisor.framework/Versions/A/Hypervisor";
const LINKEDIT: u32 = 0x4000;

/// A program for macOS that does nothing, and what is to be wrong with it.
#[derive(Debug, Clone)]
struct Program {
    cpu: u32,
    file_type: u32,
    flags: u32,
    oldest: u32,
    libraries: Vec<&'static str>,
    /// Symbols and the numbers of their libraries.
    undefined: Vec<(&'static str, u16)>,
}

impl Program {
    fn good() -> Self {
        Self {
            cpu: 0x0100_000c,
            file_type: 2,
            flags: 0x20_0085,
            oldest: MACOS.0 << 16 | MACOS.1 << 8,
            libraries: vec![SYSTEM, HYPERVISOR, ICONV],
            undefined: vec![("_open", 1), ("_hv_vm_create", 2), ("dyld_stub_binder", 1)],
        }
    }

    /// The file as a linker leaves it, with an empty signature.
    fn bytes(&self) -> Vec<u8> {
        let mut symbols = Vec::new();
        let mut strings = vec![0];
        for (name, library) in &self.undefined {
            // External and undefined, in no section, without a value.
            symbols.extend(u32::try_from(strings.len()).unwrap().to_le_bytes());
            symbols.extend([1, 0]);
            symbols.extend((library << 8).to_le_bytes());
            symbols.extend([0; 8]);
            strings.extend(name.bytes().chain([0]));
        }
        let [count, at, length] = [self.undefined.len(), symbols.len(), strings.len()]
            .map(|number| u32::try_from(number).unwrap());
        let mut linkedit = [symbols, strings].concat();
        linkedit.resize(linkedit.len().next_multiple_of(16), 0);
        let signature = LINKEDIT + u32::try_from(linkedit.len()).unwrap();

        let mut commands = vec![
            segment(b"__TEXT", 0, LINKEDIT),
            segment(b"__LINKEDIT", LINKEDIT, signature + 16 - LINKEDIT),
            numbers(&[0x32, 24, 1, self.oldest, self.oldest, 0]),
            numbers(&[0x2, 24, LINKEDIT, count, LINKEDIT + at, length]),
            numbers(&[0x1b, 24, 1, 2, 3, 4]),
        ];
        for library in &self.libraries {
            let size = (24 + library.len() + 1).next_multiple_of(8);
            let mut command = numbers(&[0xc, u32::try_from(size).unwrap(), 24, 2, 0, 0]);
            command.extend(library.bytes());
            command.resize(size, 0);
            commands.push(command);
        }
        commands.push(numbers(&[0x1d, 16, signature, 16]));
        let (count, commands) = (commands.len(), commands.concat());
        let [count, size] = [count, commands.len()].map(|number| u32::try_from(number).unwrap());
        let header = [
            0xfeed_facf,
            self.cpu,
            0,
            self.file_type,
            count,
            size,
            self.flags,
            0,
        ];
        let mut file = [numbers(&header), commands].concat();
        file.resize(usize::try_from(LINKEDIT).unwrap(), 0x5a);
        file.extend(linkedit);
        file.extend([0; 16]);
        file
    }

    fn signed(&self) -> Vec<u8> {
        signature::sign(self.bytes(), "program", ENTITLEMENTS).unwrap()
    }
}

fn numbers(numbers: &[u32]) -> Vec<u8> {
    numbers
        .iter()
        .flat_map(|number| number.to_le_bytes())
        .collect()
}

fn segment(name: &[u8], offset: u32, size: u32) -> Vec<u8> {
    let mut command = numbers(&[0x19, 72]);
    command.extend(name);
    command.resize(24, 0);
    for number in [offset, size.next_multiple_of(0x4000), offset, size] {
        command.extend(u64::from(number).to_le_bytes());
    }
    command.resize(72, 0);
    command
}

/// The whole chain of causes.
fn refusal(file: &[u8]) -> String {
    format!("{:#}", check::check(file, ENTITLEMENTS).unwrap_err())
}

#[test]
fn what_is_signed_passes() {
    let signed = Program::good().signed();
    let checked = check::check(&signed, ENTITLEMENTS).unwrap();
    let counts: Vec<_> = checked.libraries.iter().map(|(_, count)| *count).collect();
    assert_eq!(counts, [2, 1, 0]);
    // Signing anew replaces what was there.
    let again = signature::sign(signed.clone(), "program", ENTITLEMENTS).unwrap();
    assert!(again == signed, "a second signature differs");
}

#[test]
fn each_fault_of_the_program_is_named() {
    type Fault = fn(&mut Program);
    let faults: [(Fault, &str); 10] = [
        (|program| program.cpu = 0x0100_0007, "0x1000007"),
        (|program| program.file_type = 6, "file type is 0x6"),
        (|program| program.flags &= !0x20_0000, "lack PIE"),
        (|program| program.flags &= !0x80, "lack TWOLEVEL"),
        (|program| program.oldest = 11 << 16, "0xb0000"),
        (
            |program| {
                program
                    .libraries
                    .push("/System/Library/Frameworks/Security");
            },
            "linked with /System/Library/Frameworks/Security",
        ),
        (
            |program| {
                program.libraries.remove(0);
                program.undefined.clear();
            },
            "not linked with /usr/lib/libSystem",
        ),
        (
            |program| program.undefined.push(("_x", 4)),
            "_x is from library number 4",
        ),
        // Looked up in whatever happens to be loaded.
        (
            |program| program.undefined.push(("_x", 0xfe)),
            "_x is from library number 254",
        ),
        (
            |program| program.undefined.push(("_hv_vm_map", 1)),
            "_hv_vm_map is to come from",
        ),
    ];
    for (fault, named) in faults {
        let mut program = Program::good();
        fault(&mut program);
        let refusal = refusal(&program.signed());
        assert!(refusal.contains(named), "{named}: {refusal}");
    }
}

#[test]
fn each_fault_of_the_signature_is_named() {
    let unsigned = refusal(&Program::good().bytes());
    assert!(
        unsigned.contains("the signature does not hold"),
        "{unsigned}"
    );
    let signed = Program::good().signed();
    let code = Program::good().bytes().len() - 16;
    // Behind the header of the table and its five entries.
    let directory = code + 12 + 5 * 8;
    let faults = [
        (code, "magic number"),
        (directory + 15, "not ad hoc, or a linker's"),
        (directory + 9, "version"),
        (directory + 35, "it covers"),
        (directory + 37, "digests are of kind"),
        (directory + 80, "executable segment"),
        (0x2000, "the page at 0x2000"),
        (code - 1, "the page at 0x4000"),
    ];
    for (at, named) in faults {
        let mut changed = signed.clone();
        changed[at] ^= 0x02;
        let refusal = refusal(&changed);
        assert!(refusal.contains(named), "{at:#x}, {named}: {refusal}");
    }
    let mut longer = signed.clone();
    longer.push(0);
    assert!(refusal(&longer).contains("not at the end"));
    let mut shorter = signed;
    shorter.truncate(code + 64);
    assert!(refusal(&shorter).contains("not at the end"));
}

#[test]
fn other_entitlements_are_refused() {
    let wanted = "com.apple.security.hypervisor";
    for other in [
        "com.apple.security.get-task-allow",
        "com.apple.security.hypervisoR",
    ] {
        let entitlements = ENTITLEMENTS.replace(wanted, other);
        let signed = signature::sign(Program::good().bytes(), "program", &entitlements).unwrap();
        let refusal = refusal(&signed);
        assert!(
            refusal.contains(other) && refusal.contains(wanted),
            "{refusal}"
        );
    }
}
