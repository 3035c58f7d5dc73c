//! Whole executions through a session, with the real sandbox.

use crate::host::{Agent, Client, Outcome, request};
use ringfence_protocol::{
    ByteBuf, CHUNK, Ended, FailureKind, FileEntry, FromAgent, STDIN_WINDOW, ToAgent, Uncollected,
};
use std::sync::mpsc;

fn file(path: &str, content: &[u8], inline: usize) -> FileEntry {
    FileEntry {
        path: ByteBuf::from(path.as_bytes().to_vec()),
        mode: 0o644,
        size: content.len() as u64,
        content: ByteBuf::from(content[..inline].to_vec()),
    }
}

/// Bytes that differ from place to place.
fn pattern(len: usize) -> Vec<u8> {
    (0..len.div_ceil(8) as u64)
        .flat_map(|n| n.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_le_bytes())
        .take(len)
        .collect()
}

#[test]
fn a_program_runs_and_reports() {
    let outcome = Agent::new().shell("echo out; echo err >&2; exit 7");
    assert!(outcome.started);
    assert_eq!(
        (&*outcome.stdout, &*outcome.stderr),
        (&b"out\n"[..], &b"err\n"[..])
    );
    assert_eq!(outcome.ended(), Ended::Exited { code: 7 });
}

#[test]
fn python_runs() {
    let outcome = Agent::new().run(request("python3", &["-c", "print(6*7)"]));
    assert_eq!(outcome.text(), "42\n");
}

#[test]
fn arguments_and_environment_arrive() {
    let mut request = request("sh", &["-c", "echo \"$1\" \"$COLOUR\"", "sh", "a  b"]);
    request.env.push((
        ByteBuf::from(b"COLOUR".to_vec()),
        ByteBuf::from(b"green".to_vec()),
    ));
    assert_eq!(Agent::new().run(request).text(), "a  b green\n");
}

#[test]
fn failures_to_start_are_told_apart() {
    let agent = Agent::new();
    for (program, kind) in [
        ("no-such-program", FailureKind::NotFound),
        ("/etc/passwd", FailureKind::NotExecutable),
        ("/usr", FailureKind::NotExecutable),
    ] {
        let mut client = agent.greeted();
        client.exec(request(program, &[]));
        client.refused(kind, program);
    }
    agent.idle();
}

#[test]
fn much_output_comes_complete_and_in_order() {
    let mut request = request("sh", &["-c", "seq 1 3000000; seq 1 1000000 >&2"]);
    request.limits.output = None;
    let outcome = Agent::new().run(request);
    let expected = |count: u32| (1..=count).map(|n| format!("{n}\n")).collect::<String>();
    assert_eq!(outcome.ended(), Ended::Exited { code: 0 });
    assert!(outcome.stdout == expected(3_000_000).as_bytes());
    assert!(outcome.stderr == expected(1_000_000).as_bytes());
}

#[test]
fn a_closed_pipeline_ends() {
    assert_eq!(
        Agent::new()
            .shell("yes | head -n 100000 | wc -l")
            .text()
            .trim(),
        "100000"
    );
}

#[test]
fn much_input_and_output_at_once() {
    let agent = Agent::new();
    let mut client = agent.greeted();
    let mut request = request("cat", &[]);
    request.limits.output = None;
    client.exec(request);
    let data = pattern(32 << 20);
    let mut sender = Client {
        stream: client.stream.try_clone().unwrap(),
    };
    let (credit, credits) = mpsc::channel();
    let (expected, sent) = (data.clone(), &data);
    let received = std::thread::scope(|scope| {
        scope.spawn(move || {
            let mut window = STDIN_WINDOW;
            for chunk in sent.chunks(CHUNK) {
                while window < chunk.len() {
                    window += credits.recv().unwrap();
                }
                window -= chunk.len();
                sender.send(&ToAgent::Stdin(ByteBuf::from(chunk.to_vec())));
            }
            sender.send(&ToAgent::StdinEnd);
        });
        let mut received = Vec::new();
        loop {
            match client.receive() {
                FromAgent::Started => {}
                FromAgent::StdinTaken(count) => drop(credit.send(count as usize)),
                FromAgent::Stdout(data) => received.extend_from_slice(&data),
                FromAgent::Exited(report) => {
                    assert_eq!(report.ended, Ended::Exited { code: 0 });
                    return received;
                }
                other => panic!("{other:?}"),
            }
        }
    });
    assert!(received == expected);
}

#[test]
fn a_program_that_does_not_read_its_input_still_gets_signals() {
    let agent = Agent::new();
    let mut client = agent.greeted();
    client.exec(request("sleep", &["1000"]));
    client.send(&ToAgent::Stdin(ByteBuf::from(vec![0; STDIN_WINDOW])));
    client.until(&FromAgent::Started);
    client.send(&ToAgent::Signal(15));
    assert_eq!(client.outcome().ended(), Ended::Signaled { signal: 15 });
}

#[test]
fn input_after_the_program_closed_it_is_dropped_and_acknowledged() {
    let agent = Agent::new();
    let mut client = agent.greeted();
    client.exec(request(
        "sh",
        &["-c", "exec 0<&-; echo closed; exec sleep 1000"],
    ));
    client.until(&FromAgent::Stdout(ByteBuf::from(b"closed\n".to_vec())));
    for _ in 0..4 {
        client.send(&ToAgent::Stdin(ByteBuf::from(vec![0; STDIN_WINDOW])));
        let mut taken = 0;
        while taken < STDIN_WINDOW {
            match client.receive() {
                FromAgent::StdinTaken(count) => taken += count as usize,
                other => panic!("{other:?}"),
            }
        }
        assert_eq!(taken, STDIN_WINDOW);
    }
    client.send(&ToAgent::Signal(9));
    assert_eq!(client.outcome().ended(), Ended::Signaled { signal: 9 });
}

#[test]
fn output_is_cut_exactly_at_its_limit() {
    let agent = Agent::new();
    let limited = |command: &str, limit: u64| -> Outcome {
        let mut request = request("sh", &["-c", command]);
        request.limits.output = Some(limit);
        agent.run(request)
    };
    let outcome = limited("yes", 100_001);
    assert_eq!(outcome.ended(), Ended::OutputExceeded);
    assert_eq!(outcome.stdout.len(), 100_001);
    let outcome = limited("yes & yes >&2", 1 << 20);
    assert_eq!(outcome.ended(), Ended::OutputExceeded);
    assert_eq!(outcome.stdout.len() + outcome.stderr.len(), 1 << 20);
    let outcome = limited("echo 123", 4);
    assert_eq!(outcome.text(), "123\n");
    let outcome = limited("echo 123", 0);
    assert_eq!(
        (outcome.ended(), outcome.stdout.len()),
        (Ended::OutputExceeded, 0)
    );
}

#[test]
fn the_wall_limit_holds_while_nobody_reads() {
    let agent = Agent::new();
    let mut request = request("yes", &[]);
    request.limits.wall = Some(std::time::Duration::from_millis(300));
    request.limits.output = None;
    let mut client = agent.greeted();
    client.exec(request);
    agent.idle();
    assert_eq!(client.outcome().ended(), Ended::TimedOut);
}

#[test]
fn the_host_s_going_kills() {
    let agent = Agent::new();
    for half in [false, true] {
        let mut client = agent.greeted();
        client.exec(request("sh", &["-c", "sleep 1000 & sleep 1000"]));
        client.until(&FromAgent::Started);
        assert_eq!(agent.shared.executions.running(), 1);
        if half {
            client.close_sending();
        } else {
            drop(client);
        }
        agent.idle();
    }
}

#[test]
fn files_arrive_inline_and_in_pieces() {
    let agent = Agent::new();
    let (small, large) = (pattern(1000), pattern(3 << 20));
    let mut request = request("sh", &["-c", "cat a/small large rest"]);
    request.files = vec![file("a/small", &small, 1000), file("large", &large, 10)];
    request.files.push(file("rest", &small, 0));
    request.files.push(file("empty", b"", 0));
    let mut client = agent.greeted();
    client.exec(request);
    let mut bytes = large[10..].to_vec();
    bytes.extend_from_slice(&small);
    for chunk in bytes.chunks(CHUNK) {
        client.send(&ToAgent::FileData(ByteBuf::from(chunk.to_vec())));
    }
    let outcome = client.outcome();
    assert_eq!(outcome.ended(), Ended::Exited { code: 0 });
    assert!(outcome.stdout == [&small[..], &large, &small].concat());
}

#[test]
fn collected_files_come_back() {
    let command = "mkdir out && echo one > out/a.txt && chmod 600 out/a.txt && mkfifo out/f.txt && \
                   ln -s /etc/passwd out/l.txt && head -c 200000 /dev/zero > out/z.txt && echo > no";
    let mut request = request("sh", &["-c", command]);
    request.collect = vec!["out/*.txt".into()];
    let outcome = Agent::new().run(request);
    assert_eq!(outcome.ended(), Ended::Exited { code: 0 }, "{outcome:?}");
    let [(a, mode, 4, one), (z, _, 200_000, zeros)] = &outcome.files[..] else {
        panic!("{:?}", outcome.files);
    };
    assert_eq!(
        (&**a, *mode, &**one),
        (&b"out/a.txt"[..], 0o600, &b"one\n"[..])
    );
    assert!(z == b"out/z.txt" && *zeros == vec![0; 200_000]);
    let expected = [
        (b"out/f.txt".to_vec(), Uncollected::Special),
        (b"out/l.txt".to_vec(), Uncollected::Link),
    ];
    assert_eq!(outcome.skipped, expected);
}

#[test]
fn too_much_to_collect_is_said_beside_the_report() {
    let mut request = request("sh", &["-c", "truncate -s 1T giant; exit 3"]);
    request.collect = vec!["*".into()];
    let outcome = Agent::new().run(request);
    assert_eq!(outcome.ended(), Ended::Exited { code: 3 });
    let why = outcome.collect_failure.unwrap();
    assert!(why.contains("\"giant\" has 1099511627776 bytes"), "{why}");
    assert!(outcome.files.is_empty());
}

#[test]
fn executions_wait_for_a_slot() {
    let agent = Agent::with_slots(1);
    let mut first = agent.greeted();
    first.exec(request("cat", &[]));
    first.until(&FromAgent::Started);
    let mut second = agent.greeted();
    second.exec(request("echo", &["second"]));
    assert_eq!(agent.shared.executions.started(), 1);
    first.send(&ToAgent::StdinEnd);
    assert_eq!(first.outcome().ended(), Ended::Exited { code: 0 });
    assert_eq!(second.outcome().text(), "second\n");
    assert_eq!(agent.shared.executions.started(), 2);
}

#[test]
fn many_at_once() {
    let agent = Agent::new();
    std::thread::scope(|scope| {
        for number in 0..40 {
            let agent = &agent;
            scope.spawn(move || {
                let outcome = agent.shell(&format!("echo {number}; cat; echo {number}"));
                assert_eq!(outcome.text(), format!("{number}\n{number}\n"));
            });
        }
    });
    agent.idle();
    assert_eq!(agent.shared.executions.started(), 40);
}
