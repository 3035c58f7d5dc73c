//! A control connection: health, clock, metrics, shutdown.

use crate::exec::{End, Shared, greet, template};
use crate::executions::Executions;
use crate::frame_io::{FrameReader, FrameWriter};
use crate::prewarmed::Prewarmed;
use ringfence_protocol::{ControlReply, ControlRequest, Failure, FailureKind};
use rustix::time::{ClockId, Timespec};
use std::io;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};

/// How long the host may take to close the connection on which it asked for a shutdown. Until
/// then the machine stays on, so that the reply arrives.
const FAREWELL: Duration = Duration::from_millis(200);

/// How a control connection ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Served {
    /// The host closed it, or broke the protocol.
    Closed,
    /// The host asked for a shutdown; every execution has ended, and the reply was sent.
    ShutDown,
}

/// Serves one control connection to its end.
pub async fn serve<R, W>(reader: R, writer: W, shared: &Shared) -> Served
where
    R: AsyncRead + Unpin,
    W: AsyncWrite + Unpin,
{
    let mut reader = FrameReader::new(reader);
    let mut writer = FrameWriter::new(writer);
    let served = session(&mut reader, &mut writer, shared).await;
    if let Err(End::Failed(failure)) = &served {
        let _gone = writer.send(&ControlReply::Failed(failure.clone())).await;
    }
    let _gone = writer.shutdown().await;
    let served = served.unwrap_or(Served::Closed);
    if served == Served::ShutDown {
        let _closed_or_late = tokio::time::timeout(FAREWELL, reader.drain()).await;
    }
    served
}

async fn session<R, W>(
    reader: &mut FrameReader<R>,
    writer: &mut FrameWriter<W>,
    shared: &Shared,
) -> Result<Served, End>
where
    R: AsyncRead + Unpin,
    W: AsyncWrite + Unpin,
{
    greet(reader, writer).await?;
    while let Some(request) = reader.read().await? {
        let shut_down = request == ControlRequest::Shutdown;
        let reply = answer(request, shared).await;
        let sent = writer.send(&reply).await;
        if shut_down {
            // What was asked for happens, whether or not the host still listens.
            return Ok(Served::ShutDown);
        }
        sent?;
    }
    Ok(Served::Closed)
}

async fn answer(request: ControlRequest, shared: &Shared) -> ControlReply {
    let answered = match request {
        ControlRequest::Health => Ok(ControlReply::Ok),
        ControlRequest::SetClock(since_epoch) => set_clock(since_epoch).map(|()| ControlReply::Ok),
        ControlRequest::Metrics => metrics(&shared.executions),
        ControlRequest::Shutdown => {
            shared.executions.shut_down().await;
            blocking(shared, |prewarmed| {
                prewarmed.end();
                Ok(())
            })
            .await
        }
        ControlRequest::Prewarm { like, count } => {
            let count = usize::try_from(count).unwrap_or(usize::MAX);
            blocking(shared, move |prewarmed| {
                prewarmed.keep(template(*like), count)
            })
            .await
        }
        ControlRequest::AwaitPrewarmed => {
            blocking(shared, |prewarmed| {
                prewarmed.wait().map_err(io::Error::other)
            })
            .await
        }
        _ => Err(io::Error::new(
            io::ErrorKind::Unsupported,
            "the agent knows no such request",
        )),
    };
    answered.unwrap_or_else(|error| {
        ControlReply::Failed(Failure {
            kind: FailureKind::Internal,
            message: error.to_string(),
        })
    })
}

/// Does what may take a while in a thread of its own.
async fn blocking(
    shared: &Shared,
    what: impl FnOnce(&Prewarmed) -> io::Result<()> + Send + 'static,
) -> io::Result<ControlReply> {
    let prewarmed = Arc::clone(&shared.prewarmed);
    let done = tokio::task::spawn_blocking(move || what(&prewarmed)).await;
    done.map_err(io::Error::other)?.map(|()| ControlReply::Ok)
}

fn set_clock(since_epoch: Duration) -> io::Result<()> {
    let time = Timespec::try_from(since_epoch)
        .map_err(|_too_large| io::Error::other("the time lies beyond what the kernel can hold"))?;
    Ok(rustix::time::clock_settime(ClockId::Realtime, time)?)
}

fn metrics(executions: &Executions) -> io::Result<ControlReply> {
    let uptime = rustix::time::clock_gettime(ClockId::Boottime);
    let memory = std::fs::read_to_string("/proc/meminfo")?;
    Ok(ControlReply::Metrics {
        uptime: Duration::try_from(uptime).unwrap_or_default(),
        running: executions.running(),
        executions: executions.started(),
        available_memory: available(&memory)
            .ok_or_else(|| io::Error::other("/proc/meminfo has no MemAvailable"))?,
    })
}

/// `MemAvailable` of `/proc/meminfo`, in bytes.
fn available(meminfo: &str) -> Option<u64> {
    let line = meminfo
        .lines()
        .find_map(|line| line.strip_prefix("MemAvailable:"))?;
    let kibibytes: u64 = line.split_whitespace().next()?.parse().ok()?;
    kibibytes.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn available_memory_is_read() {
        let meminfo = "MemTotal:  100 kB\nMemFree: 5 kB\nMemAvailable:     42 kB\n";
        assert_eq!(available(meminfo), Some(42 << 10));
        assert_eq!(available("MemTotal: 1 kB\n"), None);
        assert_eq!(available("MemAvailable: 18446744073709551615 kB\n"), None);
    }
}
