//! Supervised programs and interpreters that were started ahead, through a session.

use crate::control::{ask, connect};
use crate::host::{Agent, Client, request};
use ringfence_protocol::{
    ByteBuf, ControlReply, ControlRequest, Decision, Ended, Exec, FileEntry, FromAgent, Operation,
    Question, Supervision, ToAgent,
};
use std::time::Duration;

fn supervised(script: &str, limit: Duration) -> Exec {
    let mut request = request("sh", &["-c", script]);
    request.supervision = Some(Supervision {
        operations: [Operation::Write, Operation::Delete].into(),
        limit,
        default: Decision::Deny(30),
    });
    request
}

/// The next question, whatever the program says before it.
fn question(client: &mut Client) -> Question {
    loop {
        match client.receive() {
            FromAgent::Question(question) => return *question,
            FromAgent::Stderr(_) => {}
            other => panic!("{other:?}"),
        }
    }
}

const MINUTE: Duration = Duration::from_secs(60);

#[test]
fn the_host_is_asked_and_its_answer_counts() {
    let agent = Agent::new();
    let mut client = agent.greeted();
    client.exec(supervised("echo x >f && rm f || exit 7", MINUTE));
    client.until(&FromAgent::Started);
    let write = question(&mut client);
    assert_eq!(write.operation, Operation::Write);
    assert!(write.path.ends_with(b"/f") && !write.expired, "{write:?}");
    // An answer to nothing has no effect.
    for token in [write.token + 1000, write.token] {
        let decision = Decision::Allow;
        client.send(&ToAgent::Answer { token, decision });
    }
    let delete = question(&mut client);
    assert_eq!(delete.operation, Operation::Delete);
    let (token, decision) = (delete.token, Decision::Deny(13));
    client.send(&ToAgent::Answer { token, decision });
    assert_eq!(client.outcome().ended(), Ended::Exited { code: 7 });
    agent.idle();
}

#[test]
fn a_question_that_nobody_answers_expires_and_a_kill_kills() {
    let agent = Agent::new();
    let mut client = agent.greeted();
    let script = "echo x >f || exit 8";
    client.exec(supervised(script, Duration::from_millis(50)));
    client.until(&FromAgent::Started);
    let asked = question(&mut client);
    let expired = question(&mut client);
    assert_eq!((expired.token, expired.expired), (asked.token, true));
    assert!(matches!(
        client.outcome().ended(),
        Ended::Exited { code: 1.. }
    ));

    let mut client = agent.greeted();
    client.exec(supervised("echo x >f; sleep 1000", MINUTE));
    client.until(&FromAgent::Started);
    let token = question(&mut client).token;
    let decision = Decision::Kill;
    client.send(&ToAgent::Answer { token, decision });
    assert_eq!(client.outcome().ended(), Ended::Killed);
    agent.idle();
}

#[test]
fn a_host_that_goes_while_it_is_asked_leaves_nothing() {
    let agent = Agent::new();
    let mut client = agent.greeted();
    client.exec(supervised("echo x >f; sleep 1000", MINUTE));
    client.until(&FromAgent::Started);
    question(&mut client);
    drop(client);
    agent.idle();
}

/// `python3 main.py` with this code.
fn python(code: &str) -> Exec {
    let mut request = request("python3", &["main.py"]);
    request.files = vec![FileEntry {
        path: ByteBuf::from(b"main.py".to_vec()),
        mode: 0o644,
        size: code.len() as u64,
        content: ByteBuf::from(code.as_bytes().to_vec()),
    }];
    request
}

#[test]
fn interpreters_are_kept_ready() {
    let agent = Agent::new();
    let (mut control, _session) = connect(&agent);
    let like = || Box::new(request("", &[]));
    for (count, refused) in [(2, false), (1, false), (0, false)] {
        let like = like();
        let reply = ask(&mut control, &ControlRequest::Prewarm { like, count });
        assert_eq!(reply, ControlReply::Ok);
        let reply = ask(&mut control, &ControlRequest::AwaitPrewarmed);
        assert_eq!(reply != ControlReply::Ok, refused, "{reply:?}");
        let now = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
        // Longer than the hundredth of a second in which the kernel counts.
        agent.run(request("python3", &["-c", "sum(range(10**6))"]));
        let code = "print(int(open('/proc/self/stat').read().split()[21]))";
        let begun: i64 = agent.run(python(code)).text().trim().parse().unwrap();
        // In hundredths of a second, of which the kernel drops fractions.
        let now = now.tv_sec * 100 + now.tv_nsec / 10_000_000;
        assert_eq!(begun <= now, count > 0, "{begun} {now}");
    }
    let mut starved = like();
    starved.limits.memory = Some(1 << 20);
    let (like, count) = (starved, 1);
    ask(&mut control, &ControlRequest::Prewarm { like, count });
    let ControlReply::Failed(failure) = ask(&mut control, &ControlRequest::AwaitPrewarmed) else {
        panic!("Python made do with a megabyte");
    };
    assert!(failure.message.contains("python3"), "{failure:?}");
    assert_eq!(agent.run(python("print(1)")).text(), "1\n");
    assert_eq!(
        ask(&mut control, &ControlRequest::Shutdown),
        ControlReply::Ok
    );
    assert!(agent.shared.prewarmed.wait().is_ok(), "none are kept");
}
