//! A host for the agent's sessions, without a machine in between: a pair of Unix sockets, the
//! session on one end and a blocking client on the other, and the real sandbox.

use guest_agent::exec::{self, Shared};
use guest_agent::executions::{Executions, SLOTS};
use ringfence_protocol::frame::{self, HEADER};
use ringfence_protocol::{
    ByteBuf, Ended, Exec, Failure, FailureKind, FromAgent, Hello, Limits, Network, Report, ToAgent,
    Uncollected,
};
use serde::{Serialize, de::DeserializeOwned};
use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::Duration;
use tokio::runtime::Runtime;

/// A client that waits longer for a frame has found a bug.
const PATIENCE: Duration = Duration::from_secs(60);

/// An agent without vsock.
pub(crate) struct Agent {
    pub(crate) runtime: Runtime,
    pub(crate) shared: Arc<Shared>,
}

impl Agent {
    pub(crate) fn new() -> Self {
        Self::with_slots(SLOTS)
    }

    pub(crate) fn with_slots(slots: usize) -> Self {
        let executions = Arc::new(Executions::new(slots));
        let shared = Shared {
            executions,
            prewarmed: Arc::default(),
            spool: std::env::temp_dir(),
        };
        // One worker, as in the guest, but on a thread of its own.
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        Self {
            runtime,
            shared: Arc::new(shared),
        }
    }

    /// A connection, and the session on its other end.
    pub(crate) fn connect(&self) -> Client {
        let (client, served) = UnixStream::pair().unwrap();
        served.set_nonblocking(true).unwrap();
        client.set_read_timeout(Some(PATIENCE)).unwrap();
        client.set_write_timeout(Some(PATIENCE)).unwrap();
        let shared = Arc::clone(&self.shared);
        self.runtime.spawn(async move {
            let stream = tokio::net::UnixStream::from_std(served).unwrap();
            let (reader, writer) = stream.into_split();
            exec::serve(reader, writer, &shared).await;
        });
        Client { stream: client }
    }

    /// A connection after the greetings.
    pub(crate) fn greeted(&self) -> Client {
        let mut client = self.connect();
        client.send(&Hello::ours());
        assert_eq!(client.receive::<Hello>(), Hello::ours());
        client
    }

    /// Runs a shell command without input.
    pub(crate) fn shell(&self, command: &str) -> Outcome {
        self.run(request("sh", &["-c", command]))
    }

    /// Runs a request without input.
    pub(crate) fn run(&self, request: Exec) -> Outcome {
        let mut client = self.greeted();
        client.exec(request);
        client.send(&ToAgent::StdinEnd);
        client.outcome()
    }

    /// Returns when everything that ran is dead; panics if that takes too long.
    pub(crate) fn idle(&self) {
        let idle = async { tokio::time::timeout(PATIENCE, self.shared.executions.idle()).await };
        self.runtime.block_on(idle).expect("something still runs");
    }
}

/// The host's end of a connection.
pub(crate) struct Client {
    pub(crate) stream: UnixStream,
}

impl Client {
    pub(crate) fn send<T: Serialize>(&mut self, message: &T) {
        self.try_send(message).unwrap();
    }

    pub(crate) fn try_send<T: Serialize>(&mut self, message: &T) -> io::Result<()> {
        self.stream.write_all(&frame::encode(message).unwrap())
    }

    pub(crate) fn exec(&mut self, request: Exec) {
        self.send(&ToAgent::Exec(Box::new(request)));
    }

    pub(crate) fn receive<T: DeserializeOwned>(&mut self) -> T {
        let mut header = [0; HEADER];
        self.stream.read_exact(&mut header).unwrap();
        let mut body = vec![0; frame::body_len(header).unwrap()];
        self.stream.read_exact(&mut body).unwrap();
        frame::decode(&body).unwrap()
    }

    /// Reads messages until `wanted` is one of them.
    pub(crate) fn until(&mut self, wanted: &FromAgent) {
        loop {
            match self.receive::<FromAgent>() {
                message if message == *wanted => return,
                message @ (FromAgent::Exited(_) | FromAgent::Failed(_)) => panic!("{message:?}"),
                _ => {}
            }
        }
    }

    /// Reads everything to the end.
    pub(crate) fn outcome(&mut self) -> Outcome {
        let mut outcome = Outcome::default();
        loop {
            match self.receive() {
                FromAgent::Started => outcome.started = true,
                FromAgent::StdinTaken(count) => outcome.taken += u64::from(count),
                FromAgent::Stdout(data) => outcome.stdout.extend_from_slice(&data),
                FromAgent::Stderr(data) => outcome.stderr.extend_from_slice(&data),
                FromAgent::File { path, mode, size } => {
                    outcome
                        .files
                        .push((path.into_vec(), mode, size, Vec::new()));
                }
                FromAgent::FileData(data) => {
                    outcome.files.last_mut().unwrap().3.extend_from_slice(&data);
                }
                FromAgent::Exited(report) => outcome.report = Some(*report),
                FromAgent::Failed(failure) => outcome.failure = Some(failure),
                FromAgent::NotCollected { path, why } => {
                    outcome.skipped.push((path.into_vec(), why));
                }
                FromAgent::CollectFailed(why) => outcome.collect_failure = Some(why),
                other => panic!("{other:?}"),
            }
            if outcome.report.is_some() || outcome.failure.is_some() {
                let after = self.stream.read(&mut [0]);
                // The kernel says so when what we sent last was not read.
                let reset = |error: &io::Error| error.kind() == io::ErrorKind::ConnectionReset;
                assert!(
                    after.as_ref().map_or_else(reset, |&count| count == 0),
                    "{after:?}"
                );
                return outcome;
            }
        }
    }

    /// Expects a refusal.
    pub(crate) fn refused(&mut self, kind: FailureKind, part: &str) {
        let outcome = self.outcome();
        let Failure { kind: got, message } = outcome.failure.expect("it was not refused");
        assert_eq!(got, kind, "{message}");
        assert!(message.contains(part), "{message:?} does not say {part:?}");
    }

    pub(crate) fn close_sending(&self) {
        self.stream.shutdown(Shutdown::Write).unwrap();
    }
}

/// Everything that came back.
#[derive(Debug, Default)]
pub(crate) struct Outcome {
    pub(crate) started: bool,
    pub(crate) taken: u64,
    pub(crate) stdout: Vec<u8>,
    pub(crate) stderr: Vec<u8>,
    pub(crate) files: Vec<(Vec<u8>, u32, u64, Vec<u8>)>,
    pub(crate) skipped: Vec<(Vec<u8>, Uncollected)>,
    pub(crate) collect_failure: Option<String>,
    pub(crate) report: Option<Report>,
    pub(crate) failure: Option<Failure>,
}

impl Outcome {
    pub(crate) fn ended(&self) -> Ended {
        match &self.report {
            Some(report) => report.ended,
            None => panic!("{:?}", self.failure),
        }
    }

    pub(crate) fn text(&self) -> String {
        assert_eq!(self.ended(), Ended::Exited { code: 0 }, "{self:?}");
        String::from_utf8(self.stdout.clone()).unwrap()
    }
}

/// A request with the default limits, but for the memory of a busy test machine.
pub(crate) fn request(program: &str, args: &[&str]) -> Exec {
    let bytes = |text: &str| ByteBuf::from(text.as_bytes().to_vec());
    Exec {
        program: bytes(program),
        args: args.iter().map(|arg| bytes(arg)).collect(),
        env: Vec::new(),
        files: Vec::new(),
        collect: Vec::new(),
        limits: Limits {
            wall: Some(PATIENCE),
            ..Limits::default()
        },
        network: Network::None,
        require: Vec::new(),
        supervision: None,
        terminal: None,
    }
}
