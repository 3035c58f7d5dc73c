//! One execution, before it starts.

use crate::collect::Collecting;
use crate::stdio::{Kind, Stdio};
use crate::{Child, Error, Output, Policy, Report, Sandbox, TerminalSize};
use std::collections::BTreeSet;
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::PathBuf;
use std::sync::Arc;

/// The longest single argument or environment variable: Linux's `MAX_ARG_STRLEN`, the final NUL
/// included.
const MAX_ARGUMENT: usize = 128 << 10;

/// All arguments and environment variables together. The same in both isolations, so that a
/// command which works in one works in the other; in the VM they share a frame with the files.
pub(crate) const MAX_ARGUMENTS: usize = 512 << 10;

/// Content of a workspace file.
#[derive(Debug)]
pub(crate) enum Content {
    Bytes(Vec<u8>),
    File(PathBuf),
}

#[derive(Debug)]
pub(crate) struct InputFile {
    pub(crate) path: OsString,
    pub(crate) content: Content,
}

/// What a backend needs to know about one execution.
#[derive(Debug)]
pub(crate) struct Request {
    pub(crate) program: OsString,
    pub(crate) args: Vec<OsString>,
    pub(crate) env: Vec<(OsString, OsString)>,
    pub(crate) files: Vec<InputFile>,
    pub(crate) stdin: bool,
    pub(crate) terminal: Option<TerminalSize>,
    pub(crate) collecting: Option<Arc<Collecting>>,
    pub(crate) policy: Option<Arc<Policy>>,
}

/// A program to be run in a [`Sandbox`], as [`std::process::Command`] is one to be run outside.
///
/// Nothing happens before [`spawn`](Self::spawn), [`output`](Self::output) or
/// [`status`](Self::status), which also report what was wrong with the values given here.
#[derive(Debug)]
#[must_use]
pub struct Command {
    sandbox: Sandbox,
    request: Request,
    input: Option<Vec<u8>>,
    patterns: Vec<String>,
    out: Option<PathBuf>,
    stdin: Option<Stdio>,
    stdout: Option<Stdio>,
    stderr: Option<Stdio>,
}

impl Command {
    pub(crate) fn new(sandbox: Sandbox, program: OsString) -> Self {
        let env = sandbox.inner.config.env.clone();
        let request = Request {
            program,
            args: Vec::new(),
            env,
            files: Vec::new(),
            stdin: false,
            terminal: None,
            collecting: None,
            policy: sandbox.policy.clone(),
        };
        Self {
            sandbox,
            request,
            input: None,
            patterns: Vec::new(),
            out: None,
            stdin: None,
            stdout: None,
            stderr: None,
        }
    }

    /// One more argument.
    pub fn arg(mut self, arg: impl Into<OsString>) -> Self {
        self.request.args.push(arg.into());
        self
    }

    /// More arguments.
    pub fn args<A: Into<OsString>>(mut self, args: impl IntoIterator<Item = A>) -> Self {
        self.request.args.extend(args.into_iter().map(Into::into));
        self
    }

    /// An environment variable. A later value for the same name replaces the earlier one.
    pub fn env(mut self, name: impl Into<OsString>, value: impl Into<OsString>) -> Self {
        self.request.env.push((name.into(), value.into()));
        self
    }

    /// A file in the workspace: its path there and its content.
    pub fn file(mut self, path: impl Into<OsString>, content: impl Into<Vec<u8>>) -> Self {
        let content = Content::Bytes(content.into());
        self.request.files.push(InputFile {
            path: path.into(),
            content,
        });
        self
    }

    /// A copy of a file of the caller's in the workspace: its path there and its path here.
    pub fn file_from(mut self, path: impl Into<OsString>, source: impl Into<PathBuf>) -> Self {
        let content = Content::File(source.into());
        self.request.files.push(InputFile {
            path: path.into(),
            content,
        });
        self
    }

    /// Copies the files of the workspace that match a pattern to [`collect_into`](Self::collect_into)'s
    /// directory when everything of the program has ended, however it ended. `*` and `?` stop at a
    /// slash and `**` does not; `[a-z]` and `{a,b}` are known. Patterns add up.
    ///
    /// Only regular files are collected, with the owner's permissions alone; links, devices and the
    /// like are named in [`Collected::skipped`](crate::Collected::skipped). More than 4096 files,
    /// or more bytes than the workspace may hold, are an error.
    pub fn collect(mut self, pattern: impl Into<String>) -> Self {
        self.patterns.push(pattern.into());
        self
    }

    /// The directory for collected files, which keep their relative paths. It is made if it is not
    /// there. Files that have the same names are replaced, links are not followed.
    pub fn collect_into(mut self, directory: impl Into<PathBuf>) -> Self {
        self.out = Some(directory.into());
        self
    }

    /// Bytes for standard input.
    pub fn input(mut self, bytes: impl Into<Vec<u8>>) -> Self {
        self.input = Some(bytes.into());
        self
    }

    /// Where standard input comes from: nothing for [`output`](Self::output), the caller's own
    /// otherwise, unless said.
    pub fn stdin(mut self, stdio: impl Into<Stdio>) -> Self {
        self.stdin = Some(stdio.into());
        self
    }

    /// Where standard output goes: a pipe for [`output`](Self::output), the caller's own
    /// otherwise, unless said.
    pub fn stdout(mut self, stdio: impl Into<Stdio>) -> Self {
        self.stdout = Some(stdio.into());
        self
    }

    /// Where standard error goes, as [`stdout`](Self::stdout).
    pub fn stderr(mut self, stdio: impl Into<Stdio>) -> Self {
        self.stderr = Some(stdio.into());
        self
    }

    /// Gives the program a terminal of its own and of this size, as its three standard streams and
    /// as what controls its session: programs draw, prompt, and take control characters (`\x03`
    /// interrupts) as at any other. What it shows is its standard output, in which lines end with
    /// `\r\n`; standard error is empty. Input does not end there: write `\x04` for that.
    /// [`Child::resize`] changes the size.
    ///
    /// Whoever shows the output on a terminal of his own lets the program draw there as well.
    pub fn terminal(mut self, size: TerminalSize) -> Self {
        self.request.terminal = Some(size);
        self
    }

    /// Starts the program.
    ///
    /// # Errors
    /// [`Error`] when it did not start; nothing is left behind then.
    pub fn spawn(self) -> Result<Child, Error> {
        self.start(Stdio::inherit, Stdio::inherit)
    }

    /// Runs the program to its end and collects its output. Standard input, given by
    /// [`input`](Self::input), is written at the same time, so neither side waits for the other.
    ///
    /// # Errors
    /// [`Error`] when it did not start or could not be followed to its end.
    pub fn output(self) -> Result<Output, Error> {
        self.start(Stdio::null, Stdio::piped)?.wait_with_output()
    }

    /// Runs the program to its end with the caller's own streams.
    ///
    /// # Errors
    /// As [`output`](Self::output), and [`Error::Collect`].
    pub fn status(self) -> Result<Report, Error> {
        let mut child = self.spawn()?;
        let report = child.wait()?;
        child.collected()?;
        Ok(report)
    }

    fn start(mut self, stdin: fn() -> Stdio, output: fn() -> Stdio) -> Result<Child, Error> {
        check(&self.request)?;
        let stdin = self.stdin.take().unwrap_or_else(stdin);
        self.request.stdin = self.input.is_some() || !matches!(stdin.0, Kind::Null);
        let stdout = self.stdout.take().unwrap_or_else(output);
        let stderr = self.stderr.take().unwrap_or_else(output);
        let collecting = self.collecting()?;
        self.request.collecting = collecting.clone();
        let session = self.sandbox.inner.start(self.request)?;
        let streams = [stdin, stdout, stderr];
        Child::new(session, &self.sandbox, self.input, streams, collecting)
    }
}

impl Command {
    fn collecting(&mut self) -> Result<Option<Arc<Collecting>>, Error> {
        let patterns = std::mem::take(&mut self.patterns);
        match (patterns.is_empty(), &self.out) {
            (true, None) => Ok(None),
            (false, Some(out)) => {
                let limits = &self.sandbox.inner.config.limits;
                Collecting::open(patterns, out, limits).map(|collecting| Some(Arc::new(collecting)))
            }
            (false, None) => Err(Error::invalid(
                "files are to be collected, but no directory was given to put them into",
            )),
            (true, Some(out)) => Err(Error::invalid(format!(
                "nothing is to be collected into {}: no pattern was given",
                out.display()
            ))),
        }
    }
}

fn check(request: &Request) -> Result<(), Error> {
    if request.program.is_empty() {
        return Err(Error::invalid("the program's name is empty"));
    }
    let mut total = 0_usize;
    let words = std::iter::once(&request.program).chain(&request.args);
    for (index, word) in words.enumerate() {
        let name = || {
            if index == 0 {
                "the program's name".into()
            } else {
                format!("argument {index}")
            }
        };
        total = total.saturating_add(check_word(word, word.len(), &name)?);
    }
    for (name, value) in &request.env {
        let bytes = name.as_bytes();
        if bytes.is_empty() || bytes.contains(&b'=') {
            return Err(Error::invalid(format!(
                "{name:?} is no name for an environment variable"
            )));
        }
        let what = || format!("environment variable {}", name.to_string_lossy());
        check_word(name, 0, &what)?;
        let len = name.len().saturating_add(value.len()).saturating_add(1);
        total = total.saturating_add(check_word(value, len, &what)?);
    }
    if total > MAX_ARGUMENTS {
        return Err(Error::invalid(format!(
            "the arguments and environment variables take {total} bytes, {MAX_ARGUMENTS} are \
             allowed; pass large values as a file or on standard input"
        )));
    }
    check_files(&request.files)
}

fn check_word(word: &OsStr, len: usize, what: &dyn Fn() -> String) -> Result<usize, Error> {
    if word.as_bytes().contains(&0) {
        return Err(Error::invalid(format!("{} contains a NUL byte", what())));
    }
    if len >= MAX_ARGUMENT {
        return Err(Error::invalid(format!(
            "{} has {len} bytes, Linux takes at most {}; pass large values as a file or on \
             standard input",
            what(),
            MAX_ARGUMENT.saturating_sub(1),
        )));
    }
    Ok(len.saturating_add(1))
}

fn check_files(files: &[InputFile]) -> Result<(), Error> {
    let mut seen = BTreeSet::new();
    for file in files {
        let path = file.path.as_bytes();
        let shown = file.path.to_string_lossy();
        let escapes = path
            .split(|byte| *byte == b'/')
            .any(|part| matches!(part, b"" | b"." | b".."));
        if path.contains(&0) || escapes {
            return Err(Error::invalid(format!(
                "{shown:?} is no place for a file in the workspace; give a relative path without \
                 \".\" and \"..\""
            )));
        }
        if !seen.insert(path) {
            return Err(Error::invalid(format!("two files are to become {shown:?}")));
        }
    }
    Ok(())
}

impl InputFile {
    /// Opens or takes the content, with its permission bits and size.
    pub(crate) fn open(self) -> Result<OpenFile, Error> {
        let (bytes, mode) = match self.content {
            Content::Bytes(bytes) => (Source::Bytes(bytes), 0o644),
            Content::File(path) => {
                let input = |source| Error::input(&path, source);
                // A FIFO or a device is refused below instead of waited for.
                let file = File::options()
                    .read(true)
                    .custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY)
                    .open(&path)
                    .map_err(input)?;
                let metadata = file.metadata().map_err(input)?;
                if !metadata.is_file() {
                    return Err(Error::invalid(format!(
                        "{} is not a regular file",
                        path.display()
                    )));
                }
                let mode = std::os::unix::fs::PermissionsExt::mode(&metadata.permissions());
                (Source::File(file, metadata.len()), mode & 0o777)
            }
        };
        Ok(OpenFile {
            path: self.path,
            mode,
            source: bytes,
        })
    }
}

/// A workspace file whose content is at hand.
#[derive(Debug)]
pub(crate) struct OpenFile {
    pub(crate) path: OsString,
    pub(crate) mode: u32,
    pub(crate) source: Source,
}

/// Bytes in memory, or an open file with its size.
#[derive(Debug)]
pub(crate) enum Source {
    Bytes(Vec<u8>),
    File(File, u64),
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request() -> Request {
        let program = "true".into();
        Request {
            program,
            args: vec![],
            env: vec![],
            files: vec![],
            stdin: false,
            terminal: None,
            collecting: None,
            policy: None,
        }
    }

    #[track_caller]
    fn refused(request: &Request, expected: &str) {
        let message = check(request).unwrap_err().to_string();
        assert!(message.contains(expected), "{message}");
    }

    #[test]
    fn values_that_cannot_work_are_refused_with_their_name() {
        check(&request()).unwrap();
        refused(
            &Request {
                program: "".into(),
                ..request()
            },
            "name is empty",
        );
        refused(
            &Request {
                args: vec!["a\0b".into()],
                ..request()
            },
            "argument 1 contains a NUL",
        );
        let long = vec!["x".into(), "y".repeat(2 << 20).into()];
        refused(
            &Request {
                args: long,
                ..request()
            },
            "argument 2 has 2097152 bytes",
        );
        let many = vec!["x".repeat(100_000).into(); 6];
        refused(
            &Request {
                args: many,
                ..request()
            },
            "take 600011 bytes",
        );
        let env = vec![("A=B".into(), "".into())];
        refused(
            &Request { env, ..request() },
            "no name for an environment variable",
        );
    }

    #[test]
    fn files_stay_in_the_workspace() {
        let at = |path: &str| InputFile {
            path: path.into(),
            content: Content::Bytes(vec![]),
        };
        for path in [
            "../x",
            "/etc/passwd",
            "a/../../b",
            "",
            "a//b",
            "./a",
            "a/",
            "a\0b",
        ] {
            refused(
                &Request {
                    files: vec![at(path)],
                    ..request()
                },
                "no place for a file",
            );
        }
        let files = vec![at("a/b"), at("a/b")];
        refused(&Request { files, ..request() }, "two files are to become");
        check(&Request {
            files: vec![at("a/b..c"), at(".x")],
            ..request()
        })
        .unwrap();
    }
}
