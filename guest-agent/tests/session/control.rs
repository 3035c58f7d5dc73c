//! Control connections.

use crate::host::{Agent, Client, request};
use guest_agent::control::{self, Served};
use ringfence_protocol::{
    ControlReply, ControlRequest, Ended, FailureKind, FromAgent, Hello, ToAgent,
};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use tokio::task::JoinHandle;

pub(crate) fn connect(agent: &Agent) -> (Client, JoinHandle<Served>) {
    let (client, served) = UnixStream::pair().unwrap();
    served.set_nonblocking(true).unwrap();
    let shared = Arc::clone(&agent.shared);
    let session = agent.runtime.spawn(async move {
        let stream = tokio::net::UnixStream::from_std(served).unwrap();
        let (reader, writer) = stream.into_split();
        control::serve(reader, writer, &shared).await
    });
    let mut client = Client { stream: client };
    client.send(&Hello::ours());
    assert_eq!(client.receive::<Hello>(), Hello::ours());
    (client, session)
}

pub(crate) fn ask(client: &mut Client, request: &ControlRequest) -> ControlReply {
    client.send(request);
    client.receive()
}

#[test]
fn health_and_metrics_are_told() {
    let agent = Agent::new();
    let (mut client, session) = connect(&agent);
    assert_eq!(ask(&mut client, &ControlRequest::Health), ControlReply::Ok);
    agent.shell("true");
    agent.idle();
    let mut running = agent.greeted();
    running.exec(request("cat", &[]));
    running.until(&FromAgent::Started);
    match ask(&mut client, &ControlRequest::Metrics) {
        ControlReply::Metrics {
            running,
            executions,
            available_memory,
            uptime,
        } => {
            assert_eq!((running, executions), (1, 2));
            assert!(available_memory > 1 << 20 && !uptime.is_zero());
        }
        other => panic!("{other:?}"),
    }
    running.send(&ToAgent::StdinEnd);
    drop(client);
    assert_eq!(agent.runtime.block_on(session).unwrap(), Served::Closed);
}

#[test]
fn a_clock_beyond_time_is_refused() {
    let agent = Agent::new();
    let (mut client, _session) = connect(&agent);
    let reply = ask(
        &mut client,
        &ControlRequest::SetClock(std::time::Duration::MAX),
    );
    let ControlReply::Failed(failure) = reply else {
        panic!("{reply:?}")
    };
    assert!(failure.message.contains("beyond"), "{failure:?}");
    assert_eq!(ask(&mut client, &ControlRequest::Health), ControlReply::Ok);
}

#[test]
fn garbage_is_refused() {
    let agent = Agent::new();
    let (mut client, session) = connect(&agent);
    std::io::Write::write_all(&mut client.stream, &[1, 0, 0, 0, 0xff]).unwrap();
    match client.receive() {
        ControlReply::Failed(failure) => assert_eq!(failure.kind, FailureKind::InvalidInput),
        other => panic!("{other:?}"),
    }
    assert_eq!(agent.runtime.block_on(session).unwrap(), Served::Closed);
}

#[test]
fn a_shutdown_kills_what_runs_and_refuses_what_is_new() {
    let agent = Agent::with_slots(1);
    let mut running = agent.greeted();
    running.exec(request("sleep", &["1000"]));
    running.until(&FromAgent::Started);
    let mut waiting = agent.greeted();
    let (mut client, session) = connect(&agent);
    assert_eq!(
        ask(&mut client, &ControlRequest::Shutdown),
        ControlReply::Ok
    );
    assert_eq!(agent.shared.executions.running(), 0);
    drop(client);
    assert_eq!(running.outcome().ended(), Ended::Killed);
    waiting.refused(FailureKind::Internal, "shutting down");
    assert_eq!(agent.runtime.block_on(session).unwrap(), Served::ShutDown);
}
