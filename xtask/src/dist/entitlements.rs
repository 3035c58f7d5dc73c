//! What a signed program asks the system for, in the two encodings that a signature holds.
//!
//! Only what is granted by `true` is known here: it is all that ringfence needs.

use anyhow::{Context as _, bail};

/// Application 16 of Apple's dictionaries in DER, constructed.
const DER_PLIST: u8 = 0x70;
/// Context 16: the dictionary itself.
const DER_DICTIONARY: u8 = 0xb0;
const DER_SEQUENCE: u8 = 0x30;
const DER_UTF8: u8 = 0x0c;
/// The version that comes first: the integer 1.
const DER_VERSION: [u8; 3] = [0x02, 0x01, 0x01];
const DER_TRUE: [u8; 3] = [0x01, 0x01, 0xff];

/// The names that a property list sets to `true`, sorted; whatever else it holds is refused.
pub(super) fn names(xml: &str) -> anyhow::Result<Vec<String>> {
    let (_, body) = xml.split_once("<dict>").context("no <dict>")?;
    let (mut rest, _) = body.split_once("</dict>").context("no </dict>")?;
    let mut names = Vec::new();
    while !rest.trim().is_empty() {
        let key = rest.trim_start().strip_prefix("<key>");
        let (name, after) = key
            .and_then(|key| key.split_once("</key>"))
            .with_context(|| format!("not a key: {}", rest.trim()))?;
        rest = after
            .trim_start()
            .strip_prefix("<true/>")
            .with_context(|| format!("{name} is not followed by <true/>"))?;
        names.push(name.to_owned());
    }
    names.sort();
    Ok(names)
}

/// The same in DER, as the kernel reads it.
pub(super) fn der(names: &[String]) -> anyhow::Result<Vec<u8>> {
    let mut entries = Vec::new();
    for name in names {
        let mut entry = element(DER_UTF8, name.as_bytes())?;
        entry.extend(DER_TRUE);
        entries.extend(element(DER_SEQUENCE, &entry)?);
    }
    let mut plist = DER_VERSION.to_vec();
    plist.extend(element(DER_DICTIONARY, &entries)?);
    element(DER_PLIST, &plist)
}

fn element(tag: u8, content: &[u8]) -> anyhow::Result<Vec<u8>> {
    let mut element = vec![tag];
    match content.len() {
        length @ 0..0x80 => element.push(u8::try_from(length)?),
        length @ 0x80..0x100 => element.extend([0x81, u8::try_from(length)?]),
        length @ 0x100..0x1_0000 => {
            element.push(0x82);
            element.extend(u16::try_from(length)?.to_be_bytes());
        }
        length => bail!("entitlements of {length} bytes are too long"),
    }
    element.extend(content);
    Ok(element)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_true_is_taken() {
        let plist = |body: &str| format!("<?xml?>\n<plist>\n<dict>{body}</dict>\n</plist>\n");
        assert_eq!(names(&plist("")).unwrap(), Vec::<String>::new());
        let two = plist("\n\t<key>b</key>\n\t<true/>\n<key>a</key><true/>\n");
        assert_eq!(names(&two).unwrap(), ["a", "b"]);
        assert!(names(&plist("<key>a</key><false/>")).is_err());
        assert!(names(&plist("<key>a</key>")).is_err());
        assert!(names(&plist("<true/>")).is_err());
        assert!(names("<plist/>").is_err());
    }

    #[test]
    fn der_is_what_codesign_makes() {
        // As Apple's codesign encodes a dictionary of "key" and true.
        let encoded = der(&["key".to_owned()]).unwrap();
        assert_eq!(
            encoded,
            b"\x70\x0f\x02\x01\x01\xb0\x0a\x30\x08\x0c\x03key\x01\x01\xff"
        );
        assert_eq!(der(&[]).unwrap(), b"\x70\x05\x02\x01\x01\xb0\x00");
    }
}
