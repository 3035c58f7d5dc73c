//! What the agent is asked to run, as messages.

use super::connection::Sender;
use crate::Error;
use crate::command::{MAX_ARGUMENTS, OpenFile, Source};
use crate::sandbox::Config;
use ringfence_protocol::frame::MAX_FRAME;
use ringfence_protocol::{ByteBuf, CHUNK, Exec, FileEntry, INLINE_FILES, Layer, Network, ToAgent};
use std::ffi::OsString;
use std::io::{self, Read};
use std::os::unix::ffi::OsStringExt;

// Arguments and inline files together stay well inside one frame.
const _: () = assert!(MAX_ARGUMENTS + INLINE_FILES <= MAX_FRAME);

/// What every execution of this sandbox is like, but for program, arguments, files and input.
pub(super) fn like(config: &Config) -> Result<Exec, Error> {
    let (program, args, files) = (OsString::new(), Vec::new(), Vec::new());
    let inputs = exec_message(config, program, args, config.env.clone(), files)?;
    Ok(inputs.exec)
}

/// The message, and what of the files does not fit into it.
pub(super) struct Inputs {
    pub(super) exec: Exec,
    rest: Vec<(Source, u64)>,
}

pub(super) fn exec_message(
    config: &Config,
    program: OsString,
    args: Vec<OsString>,
    env: Vec<(OsString, OsString)>,
    files: Vec<OpenFile>,
) -> Result<Inputs, Error> {
    let bytes = |text: OsString| ByteBuf::from(text.into_vec());
    // What is left of the frame after arguments and the files' own names.
    let names = files
        .iter()
        .map(|file| file.path.len().saturating_add(64))
        .sum::<usize>();
    let mut space = INLINE_FILES.saturating_sub(names).saturating_sub(CHUNK);
    let mut entries = Vec::new();
    let mut rest = Vec::new();
    for file in files {
        let (size, content, source) = match file.source {
            Source::Bytes(mut all) => {
                let size = u64::try_from(all.len()).unwrap_or(u64::MAX);
                let inline = if rest.is_empty() {
                    all.len().min(space)
                } else {
                    0
                };
                let left = all.split_off(inline);
                (size, all, Source::Bytes(left))
            }
            Source::File(mut file, size) => {
                let mut inline = Vec::new();
                if rest.is_empty() {
                    let most = u64::try_from(space).unwrap_or(u64::MAX).min(size);
                    let read = Read::by_ref(&mut file).take(most).read_to_end(&mut inline);
                    read.map_err(Error::system("cannot read a file for the workspace"))?;
                }
                (size, inline, Source::File(file, size))
            }
        };
        space = space.saturating_sub(content.len());
        let left = size.saturating_sub(u64::try_from(content.len()).unwrap_or(u64::MAX));
        if left > 0 {
            rest.push((source, left));
        }
        entries.push(FileEntry {
            path: bytes(file.path),
            mode: file.mode,
            size,
            content: content.into(),
        });
    }
    let exec = Exec {
        program: bytes(program),
        args: args.into_iter().map(bytes).collect(),
        // As in process isolation; a later value replaces it.
        env: std::env::var_os("TERM")
            .map(|term| ("TERM".into(), term))
            .into_iter()
            .chain(env)
            .map(|(name, value)| (bytes(name), bytes(value)))
            .collect(),
        files: entries,
        collect: Vec::new(),
        limits: config.limits.clone(),
        network: Network::None,
        require: config
            .require
            .iter()
            .copied()
            .filter(|layer| *layer != Layer::Vm)
            .collect(),
        supervision: None,
        terminal: None,
    };
    Ok(Inputs { exec, rest })
}

pub(super) fn send_exec(sender: &mut Sender, inputs: Inputs) -> Result<(), Error> {
    sender.send(&ToAgent::Exec(Box::new(inputs.exec)))?;
    for (source, left) in inputs.rest {
        let mut reader: Box<dyn Read> = match source {
            Source::Bytes(bytes) => Box::new(io::Cursor::new(bytes)),
            Source::File(file, _) => Box::new(file),
        };
        let mut left = usize::try_from(left).unwrap_or(usize::MAX);
        while left > 0 {
            let mut chunk = vec![0; left.min(CHUNK)];
            // A file that shrank while it was read cannot be delivered as announced.
            let read = reader.read_exact(&mut chunk);
            read.map_err(Error::system("cannot read a file for the workspace"))?;
            left = left.saturating_sub(chunk.len());
            sender.send(&ToAgent::FileData(chunk.into()))?;
        }
    }
    Ok(())
}
