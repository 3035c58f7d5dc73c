//! What the host sends while the program runs.

use super::failure::End;
use super::stdin::Queue;
use crate::frame_io::FrameReader;
use ringfence_protocol::ToAgent;
use ringfence_sandbox::{Answerer, Killer, Terminal};
use std::sync::Arc;
use tokio::io::AsyncRead;

/// The largest signal number of Linux, `SIGRTMAX`.
const MAX_SIGNAL: u8 = 64;

/// What of the program the host can reach.
pub(super) struct Program {
    pub(super) killer: Killer,
    pub(super) answerer: Option<Answerer>,
    pub(super) terminal: Option<Arc<Terminal>>,
}

/// Reads the connection until it ends or breaks the protocol, and says which. It never waits for
/// the program.
pub(super) async fn follow<R: AsyncRead + Unpin>(
    reader: &mut FrameReader<R>,
    stdin: &Queue,
    program: &Program,
) -> End {
    loop {
        let message = match reader.read().await {
            Ok(Some(message)) => message,
            Ok(None) => return End::Gone,
            Err(error) => return error.into(),
        };
        if let Err(end) = handle(message, stdin, program) {
            return end;
        }
    }
}

fn handle(message: ToAgent, stdin: &Queue, program: &Program) -> Result<(), End> {
    match message {
        ToAgent::Stdin(data) => stdin.push(&data),
        ToAgent::StdinEnd => {
            stdin.end();
            Ok(())
        }
        ToAgent::Signal(signal @ 1..=MAX_SIGNAL) => {
            // The program may have ended meanwhile, as with every `kill`.
            let _ended = program.killer.signal(i32::from(signal));
            Ok(())
        }
        ToAgent::Signal(signal) => Err(End::invalid(format!(
            "{signal} is no signal; signals are 1 to {MAX_SIGNAL}"
        ))),
        ToAgent::Answer { token, decision } => match &program.answerer {
            Some(answerer) => {
                answerer.answer(token, decision);
                Ok(())
            }
            None => Err(End::invalid("an answer came, but nothing is asked")),
        },
        ToAgent::Resize(size) => match &program.terminal {
            Some(terminal) => {
                // The program may have ended meanwhile.
                let _ended = terminal.resize(size);
                Ok(())
            }
            None => Err(End::invalid("a size came, but the program has no terminal")),
        },
        ToAgent::Exec(_) => Err(End::invalid("a second request came on an exec connection")),
        ToAgent::FileData(_) => Err(End::invalid("file data came after the files were complete")),
        _ => Err(End::invalid("a message came that has no meaning here")),
    }
}
