//! Text for people's terminals. What a program named or printed may be in it, and must not control
//! them.

use anyhow::Context as _;
use std::io::{self, Write as _};

/// The text with control characters written out: those that begin sequences, their one-byte forms
/// in the range above ASCII, and the rest. Lines stay lines.
pub(crate) fn plain(text: &str) -> String {
    let mut plain = String::with_capacity(text.len());
    for character in text.chars() {
        if character.is_control() && character != '\n' {
            plain.extend(character.escape_default());
        } else {
            plain.push(character);
        }
    }
    plain
}

/// Writes the text to standard output. A reader who has heard enough is no error.
pub(crate) fn say(text: &str) -> anyhow::Result<()> {
    let mut stdout = io::stdout().lock();
    match stdout
        .write_all(text.as_bytes())
        .and_then(|()| stdout.flush())
    {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            Err(error).context("cannot write to standard output")
        }
        _ => Ok(()),
    }
}

/// Says a line on standard error, with what controls terminals written out. There is nobody left to
/// tell when that fails.
pub(crate) fn tell(line: &str) {
    let line = format!("ringfence: {}\n", plain(line));
    let _ = io::stderr().write_all(line.as_bytes());
}

/// One line of JSON. The format itself demands that of control characters only the ASCII ones below
/// the space are escaped; here all are.
pub(crate) fn json_line(value: &impl serde::Serialize) -> serde_json::Result<Vec<u8>> {
    let text = serde_json::to_string(value)?;
    let mut line = String::with_capacity(text.len().saturating_add(1));
    for character in text.chars() {
        if character.is_control() {
            // They stand in strings only, and all are below U+00A0.
            line.push_str(&format!("\\u{:04x}", u32::from(character)));
        } else {
            line.push(character);
        }
    }
    line.push('\n');
    Ok(line.into_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_characters_are_written_out() {
        assert_eq!(plain("two\nlines, ü"), "two\nlines, ü");
        assert_eq!(plain("\u{1b}[1m\u{9b}\r"), "\\u{1b}[1m\\u{9b}\\r");
    }

    #[test]
    fn json_means_the_same_without_them() {
        let value = serde_json::json!({"a\u{7f}": "\u{1b}\u{9b}\n\"ü"});
        let line = String::from_utf8(json_line(&value).unwrap()).unwrap();
        assert_eq!(line, "{\"a\\u007f\":\"\\u001b\\u009b\\n\\\"ü\"}\n");
        assert_eq!(
            serde_json::from_str::<serde_json::Value>(&line).unwrap(),
            value
        );
    }
}
