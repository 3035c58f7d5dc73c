//! The agent: listens on vsock, announces that it is ready, and serves connections.
//!
//! Everything runs on one thread, but for what blocks in the sandbox: a guest has few processors,
//! and they are the programs'.

use crate::control::{self, Served};
use crate::exec::{self, End, Shared, greet};
use crate::executions::Executions;
use crate::frame_io::{FrameReader, FrameWriter};
use crate::init::SHUTDOWN;
use ringfence_protocol::{Failure, FailureKind, FromAgent, Hello, chain, port};
use std::io::{self, ErrorKind};
use std::path::PathBuf;
use std::sync::Arc;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};
use tokio_vsock::{VMADDR_CID_ANY, VMADDR_CID_HOST, VsockAddr, VsockListener, VsockStream};

/// Where nameless files of requests live; in memory.
const SPOOL: &str = "/run";

/// Connections at one time, of each kind. One that is waiting for a slot counts.
const EXEC_CONNECTIONS: usize = 1024;
const CONTROL_CONNECTIONS: usize = 16;

/// Connections that may wait to be accepted. The kernel refuses further ones, and one that the
/// agent accepts only a moment later costs less than one that the host has to try again.
const BACKLOG: i32 = 1024;

/// Threads for what blocks: up to three for each execution, and some that receive or send files.
const BLOCKING_THREADS: usize = crate::executions::SLOTS * 4;

/// Why the agent could not serve.
#[derive(Debug, thiserror::Error)]
enum AgentError {
    /// The runtime failed.
    #[error("cannot start the runtime")]
    Runtime(#[source] io::Error),
    /// A port could not be listened on.
    #[error("cannot listen on vsock port {port}; does the machine have a virtio-vsock device?")]
    Listen { port: u32, source: io::Error },
    /// The host does not take the announcement.
    #[error("cannot connect to the host on vsock port {}", port::READY)]
    Announce(#[source] io::Error),
    /// The host is of another kind or version.
    #[error("the host refused the agent: {0}")]
    Refused(String),
    /// The host closed the connection instead of greeting.
    #[error("the host closed the connection on which the agent announced itself")]
    HostGone,
    /// A listening socket failed.
    #[error("cannot accept a connection")]
    Accept(#[source] io::Error),
}

/// Serves until the host asks for a shutdown. Returns the exit status for PID 1.
#[must_use]
pub fn run() -> u8 {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .max_blocking_threads(BLOCKING_THREADS)
        .build();
    let served = runtime
        .map_err(AgentError::Runtime)
        .and_then(|runtime| runtime.block_on(serve()));
    match served {
        Ok(()) => SHUTDOWN,
        Err(error) => {
            eprintln!("ringfence: {}", chain(&error));
            1
        }
    }
}

async fn serve() -> Result<(), AgentError> {
    let exec = listen(port::EXEC)?;
    let control = listen(port::CONTROL)?;
    // Its end tells the host that the agent died.
    let _announcement = announce().await?;
    let shared = Arc::new(Shared {
        executions: Arc::new(Executions::default()),
        prewarmed: Arc::default(),
        spool: PathBuf::from(SPOOL),
    });
    let shut_down = Arc::new(Notify::new());
    tokio::select! {
        error = accept_exec(exec, &shared) => Err(error),
        error = accept_control(control, &shared, &shut_down) => Err(error),
        () = shut_down.notified() => Ok(()),
    }
}

fn listen(port: u32) -> Result<VsockListener, AgentError> {
    let failed = |source| AgentError::Listen { port, source };
    let listener = VsockListener::bind(VsockAddr::new(VMADDR_CID_ANY, port)).map_err(failed)?;
    // The crate's own backlog is 128; listening again sets it anew.
    rustix::net::listen(&listener, BACKLOG).map_err(|error| failed(error.into()))?;
    Ok(listener)
}

/// Tells the host that connections are accepted, and returns the connection, which must stay open.
async fn announce() -> Result<impl Send, AgentError> {
    let address = VsockAddr::new(VMADDR_CID_HOST, port::READY);
    let stream = VsockStream::connect(address)
        .await
        .map_err(AgentError::Announce)?;
    let (reader, writer) = stream.into_split();
    let (mut reader, mut writer) = (FrameReader::new(reader), FrameWriter::new(writer));
    match greet(&mut reader, &mut writer).await {
        Ok(()) => Ok((reader, writer)),
        Err(End::Gone) => Err(AgentError::HostGone),
        Err(End::Failed(failure)) => Err(AgentError::Refused(failure.message)),
    }
}

async fn accept_exec(listener: VsockListener, shared: &Arc<Shared>) -> AgentError {
    let room = Arc::new(Semaphore::new(EXEC_CONNECTIONS));
    loop {
        let (stream, permit) = match accept(&listener, &room).await {
            Ok(accepted) => accepted,
            Err(error) => return AgentError::Accept(error),
        };
        let Some(permit) = permit else {
            tokio::spawn(refuse(stream));
            continue;
        };
        let shared = Arc::clone(shared);
        tokio::spawn(async move {
            let (reader, writer) = stream.into_split();
            exec::serve(reader, writer, &shared).await;
            drop(permit);
        });
    }
}

async fn accept_control(
    listener: VsockListener,
    shared: &Arc<Shared>,
    shut_down: &Arc<Notify>,
) -> AgentError {
    let room = Arc::new(Semaphore::new(CONTROL_CONNECTIONS));
    loop {
        let (stream, permit) = match accept(&listener, &room).await {
            Ok(accepted) => accepted,
            Err(error) => return AgentError::Accept(error),
        };
        // A host with so many control connections has lost count; it sees this one close.
        let Some(permit) = permit else { continue };
        let (shared, shut_down) = (Arc::clone(shared), Arc::clone(shut_down));
        tokio::spawn(async move {
            let (reader, writer) = stream.into_split();
            if control::serve(reader, writer, &shared).await == Served::ShutDown {
                shut_down.notify_one();
            }
            drop(permit);
        });
    }
}

/// Says that there is no room for another connection. A new connection's buffer takes the two small
/// frames at once, so that this does not wait for the host.
async fn refuse(stream: VsockStream) {
    let mut writer = FrameWriter::new(stream);
    let message = format!("the guest serves no more than {EXEC_CONNECTIONS} connections at once");
    let failure = Failure {
        kind: FailureKind::Internal,
        message,
    };
    if writer.send(&Hello::ours()).await.is_ok() {
        let _gone = writer.send(&FromAgent::Failed(failure)).await;
    }
}

/// The next connection of the host, and room for it, if there is any. Others than the host, that
/// is programs in this very machine, are turned away.
async fn accept(
    listener: &VsockListener,
    room: &Arc<Semaphore>,
) -> io::Result<(VsockStream, Option<OwnedSemaphorePermit>)> {
    loop {
        match listener.accept().await {
            Ok((stream, peer)) if peer.cid() == VMADDR_CID_HOST => {
                return Ok((stream, Arc::clone(room).try_acquire_owned().ok()));
            }
            Ok(_) => {}
            // The host gave up before its connection was accepted.
            Err(error)
                if matches!(
                    error.kind(),
                    ErrorKind::ConnectionAborted
                        | ErrorKind::ConnectionReset
                        | ErrorKind::Interrupted
                ) => {}
            Err(error) => return Err(error),
        }
    }
}
