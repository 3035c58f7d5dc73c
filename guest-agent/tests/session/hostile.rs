//! A host that breaks the protocol gets a clear refusal, and nothing else is affected.

use crate::host::{Agent, Client, request};
use ringfence_protocol::FailureKind::InvalidInput;
use ringfence_protocol::frame::MAX_FRAME;
use ringfence_protocol::{
    ByteBuf, Decision, FileEntry, FromAgent, Hello, STDIN_WINDOW, ToAgent, VERSION,
};
use std::io::Write;

/// Lets `breach` break the protocol on a fresh connection after the greetings.
fn refused(part: &str, breach: impl FnOnce(&mut Client)) {
    let agent = Agent::new();
    let mut client = agent.greeted();
    breach(&mut client);
    client.refused(InvalidInput, part);
    agent.idle();
    // Others are not affected.
    assert_eq!(agent.shell("echo fine").text(), "fine\n");
}

/// The same, while a program runs.
fn refused_while_running(part: &str, breach: impl FnOnce(&mut Client)) {
    refused(part, |client| {
        client.exec(request("sleep", &["1000"]));
        client.until(&FromAgent::Started);
        breach(client);
    });
}

fn entry(path: &[u8], size: u64, content: &[u8]) -> FileEntry {
    let (path, content) = (
        ByteBuf::from(path.to_vec()),
        ByteBuf::from(content.to_vec()),
    );
    FileEntry {
        path,
        mode: 0o644,
        size,
        content,
    }
}

fn refused_file(part: &str, entry: FileEntry) {
    refused(part, |client| {
        let mut request = request("true", &[]);
        request.files.push(entry);
        client.exec(request);
    });
}

#[test]
fn an_answer_to_no_question_is_refused() {
    refused_while_running("nothing is asked", |client| {
        let (token, decision) = (0, Decision::Allow);
        client.send(&ToAgent::Answer { token, decision });
    });
}

#[test]
fn another_version_is_refused() {
    let agent = Agent::new();
    let mut client = agent.connect();
    client.send(&Hello {
        version: VERSION + 1,
        ..Hello::ours()
    });
    assert_eq!(client.receive::<Hello>(), Hello::ours());
    client.refused(
        InvalidInput,
        "build the image and the command from the same release",
    );
}

#[test]
fn another_protocol_is_refused() {
    let agent = Agent::new();
    let mut client = agent.connect();
    client.stream.write_all(b"GET / HTTP/1.1\r\n\r\n").unwrap();
    assert_eq!(client.receive::<Hello>(), Hello::ours());
    client.refused(
        InvalidInput,
        "a frame of 542393671 bytes is above the limit of 1048576",
    );
}

#[test]
fn a_claim_of_four_gibibytes_is_refused() {
    refused("a frame of 4294967295 bytes", |client| {
        client.stream.write_all(&[0xff; 4]).unwrap();
    });
    refused_while_running("a frame of 4294967295 bytes", |client| {
        client.stream.write_all(&[0xff; 4]).unwrap();
    });
}

#[test]
fn a_frame_just_above_the_limit_is_refused() {
    refused("a frame of 1048577 bytes", |client| {
        let len = u32::try_from(MAX_FRAME + 1).unwrap();
        client.stream.write_all(&len.to_le_bytes()).unwrap();
    });
}

#[test]
fn an_empty_frame_is_refused() {
    refused_while_running("a frame of no bytes", |client| {
        client.stream.write_all(&[0; 4]).unwrap();
    });
}

#[test]
fn a_truncated_frame_is_refused() {
    for running in [false, true] {
        let breach = |client: &mut Client| {
            client.stream.write_all(&[200, 0, 0, 0, 1, 2, 3]).unwrap();
            client.close_sending();
        };
        let part = "the connection ended after 7 of a frame's 204 bytes";
        if running {
            refused_while_running(part, breach);
        } else {
            refused(part, breach);
        }
    }
}

#[test]
fn garbage_in_a_frame_is_refused() {
    refused_while_running("not a valid message", |client| {
        client
            .stream
            .write_all(&[3, 0, 0, 0, 0xff, 0xff, 0xff])
            .unwrap();
    });
}

#[test]
fn bytes_after_a_message_are_refused() {
    refused_while_running("2 bytes follow the message", |client| {
        // `StdinEnd` is one byte.
        client.stream.write_all(&[3, 0, 0, 0, 3, 0, 0]).unwrap();
    });
}

#[test]
fn messages_out_of_order_are_refused() {
    refused("the first message", |client| {
        client.send(&ToAgent::StdinEnd);
    });
    refused_while_running("a second request", |client| {
        client.exec(request("true", &[]));
    });
    refused_while_running("file data came after", |client| {
        client.send(&ToAgent::FileData(ByteBuf::from(vec![1])));
    });
    refused_while_running("came after its end", |client| {
        client.send(&ToAgent::StdinEnd);
        client.send(&ToAgent::Stdin(ByteBuf::from(vec![1])));
    });
}

#[test]
fn input_beyond_the_window_is_refused() {
    refused_while_running("exceed the window", |client| {
        // What fits the program's pipe is taken and acknowledged, so send more than that, too.
        for _ in 0..8 {
            let _closed = client.try_send(&ToAgent::Stdin(ByteBuf::from(vec![0; STDIN_WINDOW])));
        }
    });
}

#[test]
fn signals_that_are_none_are_refused() {
    for signal in [0, 65, 255] {
        refused_while_running("is no signal", |client| {
            client.send(&ToAgent::Signal(signal));
        });
    }
}

#[test]
fn files_that_escape_or_lie_are_refused() {
    for path in [&b"../x"[..], b"/etc/x", b"a/../../x", b"", b"a\0b", b"a//b"] {
        refused_file("a file's path is refused", entry(path, 1, b"x"));
    }
    refused_file("came with 3", entry(b"a", 2, b"abc"));
    refused_file("raise its limit", entry(b"a", u64::MAX, b""));
    refused("raise its limit", |client| {
        let mut request = request("true", &[]);
        request.files = vec![entry(b"a", u64::MAX, b""), entry(b"b", u64::MAX, b"")];
        client.exec(request);
    });
    refused("belong to no file", |client| {
        let mut request = request("true", &[]);
        request.files.push(entry(b"a", 3, b"a"));
        client.exec(request);
        client.send(&ToAgent::FileData(ByteBuf::from(b"bcd".to_vec())));
    });
    refused("before the files were complete", |client| {
        let mut request = request("true", &[]);
        request.files.push(entry(b"a", 3, b"a"));
        client.exec(request);
        client.send(&ToAgent::StdinEnd);
    });
}

#[test]
fn patterns_that_are_none_are_refused() {
    refused("the pattern \"a[\"", |client| {
        let mut request = request("true", &[]);
        request.collect.push("a[".into());
        client.exec(request);
    });
}

#[test]
fn a_host_that_goes_at_any_point_leaves_nothing() {
    let agent = Agent::new();
    let mut bytes = ringfence_protocol::frame::encode(&Hello::ours()).unwrap();
    let exec = ToAgent::Exec(Box::new(request("sleep", &["1000"])));
    bytes.extend(ringfence_protocol::frame::encode(&exec).unwrap());
    for end in 0..=bytes.len() {
        let mut client = agent.connect();
        client.stream.write_all(&bytes[..end]).unwrap();
    }
    agent.idle();
    assert_eq!(agent.shell("echo fine").text(), "fine\n");
}
