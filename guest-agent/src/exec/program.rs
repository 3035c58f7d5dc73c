//! Runs the program of a request and follows it to its end.

use super::collect;
use super::failure::End;
use super::input::{self, Program};
use super::output::{Budget, Outbox, Stream};
use super::questions;
use super::stdin::{self, Queue};
use super::streams::Streams;
use crate::executions::Slot;
use crate::frame_io::{FrameReader, FrameWriter};
use crate::prewarmed::Prewarmed;
use ringfence_protocol::{ByteBuf, Ended, Exec, FromAgent};
use ringfence_sandbox::{Finished, InputFile, Killer, Questions, Spec, Stdin, WaitError};
use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::sync::Arc;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// A started program.
struct Started {
    killer: Killer,
    streams: Streams,
    /// What it asks, if it is supervised.
    questions: Option<Questions>,
    /// Ends when everything is dead and cleaned up. It owns the slot, so that the slot stays taken
    /// that long, also when the session is over before.
    end: JoinHandle<Result<Finished, WaitError>>,
    /// Becomes true, or is dropped, at the same moment.
    dead: watch::Receiver<bool>,
}

/// Runs the program and sends everything up to its report.
pub(super) async fn run<R, W>(
    reader: &mut FrameReader<R>,
    writer: &mut FrameWriter<W>,
    mut request: Exec,
    files: Vec<InputFile>,
    slot: Slot,
    prewarmed: Arc<Prewarmed>,
) -> Result<(), End>
where
    R: AsyncRead + Unpin + Send,
    W: AsyncWrite + Unpin + Send,
{
    let patterns = collect::patterns(std::mem::take(&mut request.collect))?;
    let limits = request.limits.clone();
    let spec = spec(request, files, !patterns.is_empty());
    let started = start(spec, slot, prewarmed).await?;
    let answerer = started.questions.as_ref().map(Questions::answerer);
    let terminal = started.streams.terminal.clone();
    let program = Program {
        killer: started.killer.clone(),
        answerer,
        terminal,
    };
    let mut dead = started.dead.clone();
    let queue = Queue::default();
    let outbox = Outbox::new(writer);
    let delivery = Box::pin(async {
        let budget = Budget::new(limits.output);
        let finished = deliver(started, &queue, &outbox, &budget).await?;
        let report = if patterns.is_empty() {
            finished.report
        } else {
            collect::send(finished, patterns, limits.workspace, &outbox).await?
        };
        outbox.send(&FromAgent::Exited(Box::new(report))).await?;
        Ok(())
    });
    tokio::select! {
        biased;
        end = input::follow(reader, &queue, &program) => {
            program.killer.kill(Ended::Killed);
            // Nothing of the execution is left when the host hears that it failed.
            let _ended = dead.wait_for(|dead| *dead).await;
            Err(end)
        }
        delivered = delivery => delivered,
    }
}

/// What interpreters are to be kept ready for.
pub(crate) fn template(like: Exec) -> Spec {
    spec(like, Vec::new(), false)
}

fn spec(request: Exec, files: Vec<InputFile>, collect: bool) -> Spec {
    let text = |bytes: ByteBuf| OsString::from_vec(bytes.into_vec());
    let mut spec = Spec::new(text(request.program));
    spec.args = request.args.into_iter().map(text).collect();
    spec.env = request
        .env
        .into_iter()
        .map(|(name, value)| (text(name), text(value)))
        .collect();
    spec.files = files;
    spec.limits = request.limits;
    spec.network = request.network;
    spec.require = request.require;
    spec.supervision = request.supervision;
    spec.stdin = Stdin::Piped;
    spec.terminal = request.terminal;
    spec.collect = collect;
    spec
}

/// Starts the program. The sandbox blocks, so it gets a thread; so does the wait for its end.
async fn start(spec: Spec, mut slot: Slot, prewarmed: Arc<Prewarmed>) -> Result<Started, End> {
    let spawned = tokio::task::spawn_blocking(move || {
        let waiting = prewarmed.take(&spec).map(Ok);
        waiting.unwrap_or_else(|| ringfence_sandbox::spawn(spec))
    });
    let spawned = spawned.await;
    let mut running = spawned.map_err(|error| End::internal(error.to_string()))??;
    let killer = running.killer();
    slot.started(killer.clone());
    let streams = Streams::take(&mut running);
    let questions = running.questions.take();
    let (alive, dead) = watch::channel(false);
    let end = tokio::task::spawn_blocking(move || {
        let finished = running.wait();
        drop(slot);
        alive.send_replace(true);
        finished
    });
    match streams {
        Ok(streams) => Ok(Started {
            killer,
            streams,
            questions,
            end,
            dead,
        }),
        Err(error) => {
            killer.kill(Ended::Killed);
            Err(End::internal(format!(
                "cannot use the program's streams: {error}"
            )))
        }
    }
}

/// Moves the three streams until everything is dead and delivered.
async fn deliver<W: AsyncWrite + Unpin + Send>(
    started: Started,
    queue: &Queue,
    outbox: &Outbox<'_, W>,
    budget: &Budget,
) -> Result<Finished, End> {
    let Started {
        killer,
        streams,
        questions,
        end,
        dead,
    } = started;
    if let Err(error) = outbox.send(&FromAgent::Started).await {
        killer.kill(Ended::Killed);
        return Err(error.into());
    }
    let stream = |pipe, wrap| {
        let (killer, dead) = (&killer, dead.clone());
        Stream {
            pipe,
            wrap,
            outbox,
            budget,
            killer,
            dead,
        }
    };
    let Streams {
        stdin,
        stdout,
        stderr,
        terminal: _kept,
    } = streams;
    let stderr = async {
        match stderr {
            Some(stderr) => stream(stderr, FromAgent::Stderr).pump().await,
            None => Ok(()),
        }
    };
    let output = async {
        tokio::join!(
            stream(stdout, FromAgent::Stdout).pump(),
            stderr,
            questions::pump(questions, outbox, &killer),
            end,
        )
    };
    let input = async {
        match stdin::pump(queue, stdin, outbox).await {
            Ok(()) => std::future::pending().await,
            Err(end) => end,
        }
    };
    let (stdout, stderr, asked, finished) = tokio::select! {
        biased;
        ended = output => ended,
        end = input => {
            killer.kill(Ended::Killed);
            return Err(end);
        }
    };
    stdout?;
    stderr?;
    asked?;
    let mut finished = finished.map_err(|error| End::internal(error.to_string()))??;
    // The program may have ended by itself before the kill arrived; its output is cut all the same.
    if budget.exceeded()
        && matches!(
            finished.report.ended,
            Ended::Exited { .. } | Ended::Signaled { .. }
        )
    {
        finished.report.ended = Ended::OutputExceeded;
    }
    Ok(finished)
}
