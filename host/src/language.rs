//! One-line helpers: code in, result out.

use crate::{Command, Sandbox};
use std::fmt;
use std::str::FromStr;

/// A language whose code can be run without naming an interpreter.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Language {
    /// Python 3.
    Python,
    /// The POSIX shell.
    Shell,
    /// JavaScript by Node.js.
    Node,
}

/// Interpreter and the file that the code is put into. A file, because an argument is limited to
/// 128 KiB and because a traceback can then show the line.
struct Row {
    language: Language,
    name: &'static str,
    program: &'static str,
    file: &'static str,
}

const TABLE: [Row; 3] = [
    Row {
        language: Language::Python,
        name: "python",
        program: "python3",
        file: "main.py",
    },
    Row {
        language: Language::Shell,
        name: "shell",
        program: "sh",
        file: "main.sh",
    },
    Row {
        language: Language::Node,
        name: "node",
        program: "node",
        file: "main.js",
    },
];

impl Language {
    /// Every language.
    pub const ALL: [Self; 3] = [Self::Python, Self::Shell, Self::Node];

    const fn row(self) -> &'static Row {
        match self {
            Self::Python => &TABLE[0],
            Self::Shell => &TABLE[1],
            Self::Node => &TABLE[2],
        }
    }

    /// A command that runs `code` in `sandbox`.
    pub fn command(self, sandbox: &Sandbox, code: impl Into<Vec<u8>>) -> Command {
        let row = self.row();
        sandbox
            .command(row.program)
            .arg(row.file)
            .file(row.file, code)
    }
}

impl fmt::Display for Language {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.row().name)
    }
}

/// The text names no language that ringfence knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("no such language; there are python, shell and node")]
pub struct UnknownLanguage;

impl FromStr for Language {
    type Err = UnknownLanguage;

    fn from_str(text: &str) -> Result<Self, UnknownLanguage> {
        TABLE
            .iter()
            .find(|row| row.name == text)
            .map(|row| row.language)
            .ok_or(UnknownLanguage)
    }
}

impl Sandbox {
    /// A command that runs Python code. With [`prewarm`](crate::SandboxBuilder::prewarm) its
    /// interpreter is running already.
    pub fn python(&self, code: impl Into<Vec<u8>>) -> Command {
        Language::Python.command(self, code)
    }

    /// A command that runs a shell script.
    pub fn shell(&self, code: impl Into<Vec<u8>>) -> Command {
        Language::Shell.command(self, code)
    }

    /// A command that runs JavaScript.
    pub fn node(&self, code: impl Into<Vec<u8>>) -> Command {
        Language::Node.command(self, code)
    }
}

/// Runs Python code in the default sandbox.
pub fn python(code: impl Into<Vec<u8>>) -> Command {
    Language::Python.command(&Sandbox::default(), code)
}

/// Runs a shell script in the default sandbox.
pub fn shell(code: impl Into<Vec<u8>>) -> Command {
    Language::Shell.command(&Sandbox::default(), code)
}

/// Runs JavaScript in the default sandbox.
pub fn node(code: impl Into<Vec<u8>>) -> Command {
    Language::Node.command(&Sandbox::default(), code)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_in_the_order_of_the_languages() {
        for (language, row) in Language::ALL.into_iter().zip(&TABLE) {
            assert_eq!(row.language, language);
            assert_eq!(language.to_string().parse(), Ok(language));
        }
        assert_eq!("cobol".parse::<Language>(), Err(UnknownLanguage));
    }
}
