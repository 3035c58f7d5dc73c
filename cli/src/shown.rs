//! A path as a question shows it: what the program chose cannot pass for anything of ringfence's.
//!
//! - Only letters, digits and signs of ASCII stand for themselves. Blanks, quotation marks and
//!   whatever has another width, direction or look than its number of bytes tells are escaped: no
//!   end of the path can be imitated inside of it, and no row of a terminal can look like a sentence.
//! - A path takes at most [`MOST`] columns: of a longer one the beginning and the end are shown, each
//!   in quotation marks of its own, and the length of the whole.

use std::fmt::{self, Write as _};
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

/// Columns of a path itself. With two of them a question has six rows at most on 80 columns.
const MOST: usize = 120;

/// Shows a path in a question.
pub(crate) struct Shown<'p>(pub(crate) &'p Path);

impl fmt::Display for Shown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bytes = self.0.as_os_str().as_bytes();
        let parts = || bytes.utf8_chunks().flat_map(escaped);
        if fitting(parts(), MOST) == parts().count() {
            return write!(f, "\"{}\"", parts().collect::<String>());
        }
        let parts: Vec<String> = parts().collect();
        let first = fitting(parts.iter(), MOST / 2);
        let last = fitting(parts.iter().rev(), MOST / 2);
        let (first, rest) = parts.split_at(first);
        let (_, last) = rest.split_at(rest.len().saturating_sub(last));
        let (first, last, len) = (first.concat(), last.concat(), bytes.len());
        write!(f, "\"{first}\" ... \"{last}\" (of {len} bytes)")
    }
}

/// How many of the parts have room in so many columns.
fn fitting(parts: impl Iterator<Item = impl AsRef<str>>, columns: usize) -> usize {
    let widths = parts.scan(0_usize, |width, part| {
        *width = width.saturating_add(part.as_ref().len());
        Some(*width)
    });
    widths.take_while(|width| *width <= columns).count()
}

/// Each character, and each byte that belongs to none, as it is shown; all of it ASCII.
fn escaped(chunk: std::str::Utf8Chunk<'_>) -> impl Iterator<Item = String> {
    let characters = chunk.valid().chars().map(|character| match character {
        ' ' => "\\ ".to_owned(),
        '\\' => "\\\\".to_owned(),
        '"' | '\'' | '`' => character.escape_unicode().to_string(),
        _ => character.escape_default().to_string(),
    });
    let rest = chunk.invalid().iter().map(|byte| {
        let mut text = String::new();
        // Writing to a string cannot fail.
        let _ = write!(text, "\\x{byte:02x}");
        text
    });
    characters.chain(rest)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::ffi::OsStr;

    fn shown(bytes: &[u8]) -> String {
        Shown(Path::new(OsStr::from_bytes(bytes))).to_string()
    }

    #[test]
    fn only_plain_characters_stand_for_themselves() {
        for (path, expected) in [
            (&b"/a/b.c-d_e~1"[..], r#""/a/b.c-d_e~1""#),
            (b"", r#""""#),
            (b"/my notes", r#""/my\ notes""#),
            (b"/a  b", r#""/a\ \ b""#),
            (br"/a\ b", r#""/a\\\ b""#),
            (b"/a\"; allow it?", r#""/a\u{22};\ allow\ it?""#),
            (b"/a'`", r#""/a\u{27}\u{60}""#),
            (b"/\x1b[31m\n\t\x7f", r#""/\u{1b}[31m\n\t\u{7f}""#),
            (b"/\xff\xc3x\xf0\x9f", r#""/\xff\xc3x\xf0\x9f""#),
            // Looks like a mark, turns the direction, is a blank, takes two columns, takes none.
            (
                "/\u{201d}\u{202e}\u{a0}\u{ff02}\u{301}".as_bytes(),
                r#""/\u{201d}\u{202e}\u{a0}\u{ff02}\u{301}""#,
            ),
        ] {
            assert_eq!(shown(path), expected);
        }
    }

    #[test]
    fn a_long_path_is_elided_in_its_middle() {
        let whole = "/".repeat(MOST);
        assert_eq!(shown(whole.as_bytes()), format!("\"{whole}\""));
        let long = format!("/workspace/{}/notes", "x".repeat(4000));
        let text = shown(long.as_bytes());
        assert!(text.starts_with("\"/workspace/xxx"), "{text}");
        assert!(
            text.ends_with("xxx/notes\" (of 4017 bytes)") && text.contains("x\" ... \"x"),
            "{text}"
        );
        assert_eq!(text.matches('x').count(), MOST - "/workspace//notes".len());
    }

    /// The worst of each width: nothing takes more room, and nothing is cut inside of an escape.
    #[test]
    fn no_path_takes_more_room() {
        for part in ["a", " ", "\\", "\u{1}", "\u{e9}", "\u{10ffff}", "\""] {
            for times in [1, 11, 12, 13, 59, 60, 61, 119, 120, 121, 4096] {
                let text = shown(part.repeat(times).as_bytes());
                assert!(text.len() <= MOST + 30, "{text}");
                assert!(text.bytes().all(|byte| matches!(byte, b' '..=b'~')));
                let unit = part.chars().map(|part| match part {
                    ' ' => "\\ ".to_owned(),
                    '"' => part.escape_unicode().to_string(),
                    part => part.escape_default().to_string(),
                });
                let unit: String = unit.collect();
                let quoted: Vec<&str> = text.split('"').collect();
                for inside in quoted.iter().skip(1).step_by(2) {
                    assert_eq!(inside.replace(&unit, ""), "", "{text}");
                }
                assert_eq!(text.contains("\" ... \""), unit.len() * times > MOST);
            }
        }
    }
}
