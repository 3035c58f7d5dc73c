//! The wire format, frozen.
//!
//! `schema/v{VERSION}.txt` holds the bytes of one value of every message variant. Host and image
//! are built apart and may be years apart, so a change of these bytes without a change of
//! [`VERSION`] would let two sides misread each other after a handshake that succeeded. Old files
//! stay: they are the record of what each version meant.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use ringfence_protocol::{
    ByteBuf, Capabilities, ControlReply, ControlRequest, Decision, Ended, Exec, Failure,
    FailureKind, FileEntry, FromAgent, Hello, Layer, LayerState, Limits, Network, Operation,
    Question, Report, Supervision, TerminalSize, ToAgent, Uncollected, VERSION, Violation,
    frame::{self, FrameError, HEADER},
};
use serde::{Serialize, de::DeserializeOwned};
use std::fmt::{Debug, Write as _};
use std::time::Duration;

fn bytes(text: &str) -> ByteBuf {
    ByteBuf::from(text.as_bytes().to_vec())
}

/// Every field differs from every other and from its default, so that two swapped fields show.
fn exec() -> Exec {
    Exec {
        program: bytes("python3"),
        args: vec![bytes("-c"), bytes("")],
        env: vec![(bytes("K"), bytes("V"))],
        files: vec![FileEntry {
            path: bytes("a/b"),
            mode: 0o755,
            size: 300,
            content: bytes("xyz"),
        }],
        collect: vec!["*.txt".into()],
        limits: Limits {
            wall: Some(Duration::new(1, 2)),
            cpu: Some(Duration::new(3, 4)),
            memory: Some(5),
            processes: Some(6),
            open_files: Some(7),
            file_size: Some(8),
            workspace: None,
            output: Some(u64::MAX),
            processors: Some(9),
        },
        network: Network::None,
        require: vec![Layer::Cgroup, Layer::Vm],
        supervision: Some(Supervision {
            operations: [Operation::Delete, Operation::Write].into(),
            limit: Duration::new(9, 10),
            default: Decision::Deny(-11),
        }),
        terminal: Some(TerminalSize {
            rows: 12,
            columns: 300,
        }),
    }
}

fn report(ended: Ended) -> Report {
    Report {
        ended,
        wall: Duration::new(1, 999_999_999),
        cpu: Duration::from_millis(2),
        peak_memory: 3,
        layers: vec![
            LayerState::active(Layer::Landlock),
            LayerState::missing(Layer::Cgroup, "no"),
        ],
        violations: vec![
            Violation {
                layer: Layer::Seccomp,
                operation: "mount".into(),
                target: None,
            },
            Violation {
                layer: Layer::Landlock,
                operation: "read".into(),
                target: Some("/x".into()),
            },
        ],
    }
}

/// The text form of the schema: one line per value, its name and its bytes without the header.
#[derive(Default)]
struct Schema(String);

impl Schema {
    /// Adds a value, having checked that it is read back and that its header is its length.
    fn add<T: Serialize + DeserializeOwned + PartialEq + Debug>(&mut self, name: &str, value: &T) {
        let encoded = frame::encode(value).unwrap();
        let (header, body) = encoded.split_first_chunk::<HEADER>().unwrap();
        assert_eq!(frame::body_len(*header), Ok(body.len()), "{name}");
        assert_eq!(frame::decode::<T>(body).as_ref(), Ok(value), "{name}");
        let hex = body.iter().fold(String::new(), |mut hex, byte| {
            write!(hex, "{byte:02x}").unwrap();
            hex
        });
        writeln!(self.0, "{name} {hex}").unwrap();
    }
}

fn schema() -> String {
    let mut schema = Schema::default();
    schema.add(
        "Hello",
        &Hello {
            magic: 0x434e_4652,
            version: 300,
            capabilities: Capabilities(5),
        },
    );

    schema.add("ToAgent::Exec", &ToAgent::Exec(Box::new(exec())));
    schema.add("ToAgent::FileData", &ToAgent::FileData(bytes("f")));
    schema.add("ToAgent::Stdin", &ToAgent::Stdin(bytes("in")));
    schema.add("ToAgent::StdinEnd", &ToAgent::StdinEnd);
    schema.add("ToAgent::Signal", &ToAgent::Signal(15));
    schema.add(
        "ToAgent::Resize",
        &ToAgent::Resize(TerminalSize {
            rows: 24,
            columns: 200,
        }),
    );
    for (name, decision) in [
        ("Allow", Decision::Allow),
        ("Deny", Decision::Deny(13)),
        ("Kill", Decision::Kill),
    ] {
        let token = 1 << 40;
        let message = ToAgent::Answer { token, decision };
        schema.add(&format!("ToAgent::Answer/{name}"), &message);
    }

    schema.add("FromAgent::Started", &FromAgent::Started);
    schema.add("FromAgent::StdinTaken", &FromAgent::StdinTaken(65_536));
    schema.add("FromAgent::Stdout", &FromAgent::Stdout(bytes("out")));
    schema.add("FromAgent::Stderr", &FromAgent::Stderr(bytes("err")));
    let file = FromAgent::File {
        path: bytes("p"),
        mode: 0o600,
        size: 1 << 40,
    };
    schema.add("FromAgent::File", &file);
    schema.add("FromAgent::FileData", &FromAgent::FileData(bytes("d")));
    for (name, ended) in [
        ("Exited", Ended::Exited { code: 7 }),
        ("Signaled", Ended::Signaled { signal: 9 }),
        ("TimedOut", Ended::TimedOut),
        ("CpuExceeded", Ended::CpuExceeded),
        ("MemoryExceeded", Ended::MemoryExceeded),
        ("OutputExceeded", Ended::OutputExceeded),
        ("Killed", Ended::Killed),
    ] {
        let message = FromAgent::Exited(Box::new(report(ended)));
        schema.add(&format!("FromAgent::Exited/{name}"), &message);
    }
    for (name, kind) in FAILURE_KINDS {
        let message = FromAgent::Failed(Failure {
            kind,
            message: "why".into(),
        });
        schema.add(&format!("FromAgent::Failed/{name}"), &message);
    }

    for (name, why) in [
        ("Link", Uncollected::Link),
        ("Special", Uncollected::Special),
        ("Unreadable", Uncollected::Unreadable),
        ("Foreign", Uncollected::Foreign),
        ("TooDeep", Uncollected::TooDeep),
    ] {
        let path = bytes("p");
        let message = FromAgent::NotCollected { path, why };
        schema.add(&format!("FromAgent::NotCollected/{name}"), &message);
    }
    let message = FromAgent::CollectFailed("why".into());
    schema.add("FromAgent::CollectFailed", &message);
    let question = Question {
        token: 1 << 40,
        operation: Operation::Rename,
        path: bytes("a"),
        destination: Some(bytes("b")),
        process: 300,
        expired: true,
    };
    schema.add(
        "FromAgent::Question",
        &FromAgent::Question(Box::new(question)),
    );

    schema.add("ControlRequest::Health", &ControlRequest::Health);
    schema.add(
        "ControlRequest::SetClock",
        &ControlRequest::SetClock(Duration::new(1, 500)),
    );
    schema.add("ControlRequest::Metrics", &ControlRequest::Metrics);
    schema.add("ControlRequest::Shutdown", &ControlRequest::Shutdown);
    let prewarm = ControlRequest::Prewarm {
        like: Box::new(exec()),
        count: 4,
    };
    schema.add("ControlRequest::Prewarm", &prewarm);
    schema.add(
        "ControlRequest::AwaitPrewarmed",
        &ControlRequest::AwaitPrewarmed,
    );

    schema.add("ControlReply::Ok", &ControlReply::Ok);
    let metrics = ControlReply::Metrics {
        uptime: Duration::new(9, 8),
        running: 7,
        executions: 6,
        available_memory: 1 << 30,
    };
    schema.add("ControlReply::Metrics", &metrics);
    let failed = Failure {
        kind: FailureKind::Internal,
        message: "x".into(),
    };
    schema.add("ControlReply::Failed", &ControlReply::Failed(failed));

    for layer in Layer::ALL {
        schema.add(&format!("Layer::{layer}"), &layer);
    }
    schema.add("Network::None", &Network::None);
    for operation in Operation::ALL {
        schema.add(&format!("Operation::{operation}"), &operation);
    }
    schema.0
}

const FAILURE_KINDS: [(&str, FailureKind); 5] = [
    ("NotFound", FailureKind::NotFound),
    ("NotExecutable", FailureKind::NotExecutable),
    ("InvalidInput", FailureKind::InvalidInput),
    ("LayerUnavailable", FailureKind::LayerUnavailable),
    ("Internal", FailureKind::Internal),
];

/// The bytes of every message are those recorded for this version.
#[test]
fn the_wire_format_is_frozen() {
    let path = format!("{}/tests/schema/v{VERSION}.txt", env!("CARGO_MANIFEST_DIR"));
    let frozen = std::fs::read_to_string(&path).unwrap_or_default();
    let current = schema();
    assert!(
        current == frozen,
        "the wire format is not the one of version {VERSION}. If the change is meant, bump VERSION \
         in src/hello.rs and record the new format as tests/schema/v{}.txt:\n\
         {current}",
        VERSION + 1,
    );
}

/// No enumeration has a variant that the record above does not know: the number after the last
/// recorded one is refused, whatever follows it. A new variant would begin to accept some length.
#[test]
fn there_are_no_variants_beyond_the_recorded_ones() {
    fn check<T: DeserializeOwned + Debug>(name: &str, variants: u8) {
        for tail in 0..64 {
            for filler in [0, 1] {
                let mut body = vec![filler; tail + 1];
                body[0] = variants;
                assert_eq!(
                    frame::decode::<T>(&body).unwrap_err(),
                    FrameError::Malformed { len: body.len() },
                    "{name} has a variant {variants}: bump VERSION and record it in this test"
                );
            }
        }
    }
    check::<ToAgent>("ToAgent", 7);
    check::<FromAgent>("FromAgent", 11);
    check::<Uncollected>("Uncollected", 5);
    check::<ControlRequest>("ControlRequest", 6);
    check::<ControlReply>("ControlReply", 3);
    check::<Ended>("Ended", 7);
    check::<FailureKind>("FailureKind", 5);
    check::<Layer>("Layer", 13);
    check::<Network>("Network", 1);
    check::<Operation>("Operation", 5);
    check::<Decision>("Decision", 3);
}
