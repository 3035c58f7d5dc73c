//! Programs with a terminal, through a session.

use crate::host::{Agent, Client, request};
use ringfence_protocol::{
    ByteBuf, Ended, FailureKind, FromAgent, STDIN_WINDOW, TerminalSize, ToAgent,
};
use std::time::{Duration, Instant};

/// Reads what is shown until this is.
fn until(client: &mut Client, mark: &str) {
    let mut shown = Vec::new();
    while !String::from_utf8_lossy(&shown).contains(mark) {
        match client.receive() {
            FromAgent::Stdout(bytes) => shown.extend_from_slice(&bytes),
            FromAgent::Started | FromAgent::StdinTaken(_) => {}
            other => panic!("{other:?} before {mark:?}"),
        }
    }
}

#[test]
fn keys_sizes_and_the_end_arrive() {
    let agent = Agent::new();
    let mut client = agent.greeted();
    let code = "
import os, signal, sys
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGWINCH, signal.SIGINT])
print(sys.stdin.isatty(), sys.stderr.isatty(), os.get_terminal_size(), flush=True)
signal.sigwait([signal.SIGWINCH])
print(os.get_terminal_size(), flush=True)
print('got', input(), file=sys.stderr, flush=True)
signal.sigwait([signal.SIGINT])
print('interrupted')
sys.exit(9)
";
    let mut request = request("python3", &["-c", code]);
    let (rows, columns) = (33, 101);
    request.terminal = Some(TerminalSize { rows, columns });
    client.exec(request);
    until(
        &mut client,
        "True True os.terminal_size(columns=101, lines=33)",
    );
    let (rows, columns) = (7, 300);
    client.send(&ToAgent::Resize(TerminalSize { rows, columns }));
    until(&mut client, "columns=300, lines=7)");
    client.send(&ToAgent::Stdin(ByteBuf::from(b"word\n".to_vec())));
    until(&mut client, "got word");
    client.send(&ToAgent::Stdin(ByteBuf::from(b"\x03".to_vec())));
    until(&mut client, "interrupted");
    assert_eq!(client.outcome().ended(), Ended::Exited { code: 9 });
    agent.idle();
}

#[test]
fn a_flood_and_a_host_that_goes_end_it() {
    let agent = Agent::new();
    let flood = || {
        let mut request = request("sh", &["-c", "while :; do echo x; done"]);
        request.terminal = Some(TerminalSize::default());
        request.limits.output = Some(1 << 20);
        request
    };
    let outcome = agent.run(flood());
    assert_eq!(outcome.ended(), Ended::OutputExceeded);
    assert_eq!(outcome.stdout.len(), 1 << 20);
    let mut client = agent.greeted();
    client.exec(flood());
    client.until(&FromAgent::Started);
    drop(client);
    agent.idle();
}

#[test]
fn a_size_for_no_terminal_is_refused() {
    let agent = Agent::new();
    let mut client = agent.greeted();
    client.exec(request("sleep", &["1000"]));
    client.until(&FromAgent::Started);
    client.send(&ToAgent::Resize(TerminalSize::default()));
    client.refused(FailureKind::InvalidInput, "no terminal");
    agent.idle();
}

/// Keys that nobody reads fill the terminal, and delay no end.
#[test]
fn keys_that_nobody_reads_are_forgotten() {
    let agent = Agent::new();
    for script in ["sleep 1000", "stty raw; echo ready; sleep 1000"] {
        let mut client = agent.greeted();
        let mut request = request("sh", &["-c", script]);
        request.terminal = Some(TerminalSize::default());
        request.limits.wall = Some(Duration::from_secs(1));
        client.exec(request);
        client.until(&FromAgent::Started);
        client.send(&ToAgent::Stdin(ByteBuf::from(vec![b'x'; STDIN_WINDOW])));
        let begun = Instant::now();
        assert_eq!(client.outcome().ended(), Ended::TimedOut);
        assert!(begun.elapsed() < Duration::from_secs(15), "{script}");
        agent.idle();
    }
}
