//! What must hold for every value and for any bytes.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use proptest::test_runner::FileFailurePersistence;
use ringfence_protocol::{
    ByteBuf, Capabilities, ControlReply, ControlRequest, Decision, Ended, Exec, Failure,
    FailureKind, FileEntry, FromAgent, Hello, Layer, LayerState, Limits, Network, Operation,
    Question, Report, Supervision, TerminalSize, ToAgent, Uncollected, Violation,
    frame::{self, FrameError, HEADER, MAX_FRAME},
};
use serde::{Serialize, de::DeserializeOwned};
use std::fmt::Debug;
use std::time::Duration;

/// What once failed is kept here and tried first from then on.
const REGRESSIONS: &str = concat!(
    env!("CARGO_MANIFEST_DIR"),
    "/tests/properties.proptest-regressions"
);

fn config() -> ProptestConfig {
    ProptestConfig {
        failure_persistence: Some(Box::new(FileFailurePersistence::Direct(REGRESSIONS))),
        ..ProptestConfig::default()
    }
}

fn bytes() -> impl Strategy<Value = ByteBuf> {
    vec(any::<u8>(), 0..48).prop_map(ByteBuf::from)
}

fn text() -> impl Strategy<Value = String> {
    any::<String>()
}

fn duration() -> impl Strategy<Value = Duration> {
    (any::<u64>(), 0..1_000_000_000_u32).prop_map(|(secs, nanos)| Duration::new(secs, nanos))
}

fn layer() -> impl Strategy<Value = Layer> {
    prop::sample::select(&Layer::ALL[..])
}

fn limits() -> impl Strategy<Value = Limits> {
    let sizes = prop::array::uniform6(option::of(any::<u64>()));
    let times = (option::of(duration()), option::of(duration()));
    (times, sizes, option::of(any::<u8>())).prop_map(
        |(
            (wall, cpu),
            [memory, processes, open_files, file_size, workspace, output],
            processors,
        )| Limits {
            wall,
            cpu,
            memory,
            processes,
            open_files,
            file_size,
            workspace,
            output,
            processors,
        },
    )
}

fn file_entry() -> impl Strategy<Value = FileEntry> {
    (bytes(), any::<u32>(), any::<u64>(), bytes()).prop_map(|(path, mode, size, content)| {
        FileEntry {
            path,
            mode,
            size,
            content,
        }
    })
}

fn exec() -> impl Strategy<Value = Exec> {
    (
        bytes(),
        vec(bytes(), 0..5),
        vec((bytes(), bytes()), 0..5),
        vec(file_entry(), 0..4),
        vec(text(), 0..3),
        limits(),
        Just(Network::None),
        vec(layer(), 0..5),
        option::of(supervision()),
        option::of(terminal_size()),
    )
        .prop_map(
            |(
                program,
                args,
                env,
                files,
                collect,
                limits,
                network,
                require,
                supervision,
                terminal,
            )| Exec {
                program,
                args,
                env,
                files,
                collect,
                limits,
                network,
                require,
                supervision,
                terminal,
            },
        )
}

fn operation() -> impl Strategy<Value = Operation> {
    prop::sample::select(&Operation::ALL[..])
}

fn decision() -> impl Strategy<Value = Decision> {
    prop_oneof![
        Just(Decision::Allow),
        any::<i32>().prop_map(Decision::Deny),
        Just(Decision::Kill),
    ]
}

fn supervision() -> impl Strategy<Value = Supervision> {
    (vec(operation(), 0..4), duration(), decision()).prop_map(|(operations, limit, default)| {
        Supervision {
            operations: operations.into_iter().collect(),
            limit,
            default,
        }
    })
}

fn question() -> impl Strategy<Value = Question> {
    (
        any::<(u64, u32, bool)>(),
        operation(),
        bytes(),
        option::of(bytes()),
    )
        .prop_map(
            |((token, process, expired), operation, path, destination)| Question {
                token,
                operation,
                path,
                destination,
                process,
                expired,
            },
        )
}

fn terminal_size() -> impl Strategy<Value = TerminalSize> {
    any::<(u16, u16)>().prop_map(|(rows, columns)| TerminalSize { rows, columns })
}

fn to_agent() -> impl Strategy<Value = ToAgent> {
    prop_oneof![
        exec().prop_map(|exec| ToAgent::Exec(Box::new(exec))),
        bytes().prop_map(ToAgent::FileData),
        bytes().prop_map(ToAgent::Stdin),
        Just(ToAgent::StdinEnd),
        any::<u8>().prop_map(ToAgent::Signal),
        terminal_size().prop_map(ToAgent::Resize),
        (any::<u64>(), decision())
            .prop_map(|(token, decision)| ToAgent::Answer { token, decision }),
    ]
}

fn ended() -> impl Strategy<Value = Ended> {
    prop_oneof![
        any::<u8>().prop_map(|code| Ended::Exited { code }),
        any::<u8>().prop_map(|signal| Ended::Signaled { signal }),
        Just(Ended::TimedOut),
        Just(Ended::CpuExceeded),
        Just(Ended::MemoryExceeded),
        Just(Ended::OutputExceeded),
        Just(Ended::Killed),
    ]
}

fn layer_state() -> impl Strategy<Value = LayerState> {
    prop_oneof![
        layer().prop_map(LayerState::active),
        (layer(), text()).prop_map(|(layer, why)| LayerState::missing(layer, why)),
    ]
}

fn violation() -> impl Strategy<Value = Violation> {
    (layer(), text(), option::of(text())).prop_map(|(layer, operation, target)| Violation {
        layer,
        operation,
        target,
    })
}

fn report() -> impl Strategy<Value = Report> {
    (
        ended(),
        duration(),
        duration(),
        any::<u64>(),
        vec(layer_state(), 0..14),
        vec(violation(), 0..4),
    )
        .prop_map(
            |(ended, wall, cpu, peak_memory, layers, violations)| Report {
                ended,
                wall,
                cpu,
                peak_memory,
                layers,
                violations,
            },
        )
}

fn failure() -> impl Strategy<Value = Failure> {
    let kinds = [
        FailureKind::NotFound,
        FailureKind::NotExecutable,
        FailureKind::InvalidInput,
        FailureKind::LayerUnavailable,
        FailureKind::Internal,
    ];
    (prop::sample::select(kinds.to_vec()), text())
        .prop_map(|(kind, message)| Failure { kind, message })
}

fn from_agent() -> impl Strategy<Value = FromAgent> {
    prop_oneof![
        Just(FromAgent::Started),
        any::<u32>().prop_map(FromAgent::StdinTaken),
        bytes().prop_map(FromAgent::Stdout),
        bytes().prop_map(FromAgent::Stderr),
        (bytes(), any::<u32>(), any::<u64>()).prop_map(|(path, mode, size)| FromAgent::File {
            path,
            mode,
            size
        }),
        bytes().prop_map(FromAgent::FileData),
        report().prop_map(|report| FromAgent::Exited(Box::new(report))),
        failure().prop_map(FromAgent::Failed),
        bytes().prop_map(|path| FromAgent::NotCollected {
            path,
            why: Uncollected::Special
        }),
        any::<String>().prop_map(FromAgent::CollectFailed),
        question().prop_map(|question| FromAgent::Question(Box::new(question))),
    ]
}

fn control_request() -> impl Strategy<Value = ControlRequest> {
    prop_oneof![
        Just(ControlRequest::Health),
        duration().prop_map(ControlRequest::SetClock),
        Just(ControlRequest::Metrics),
        Just(ControlRequest::Shutdown),
        (exec(), any::<u32>()).prop_map(|(like, count)| ControlRequest::Prewarm {
            like: Box::new(like),
            count
        }),
        Just(ControlRequest::AwaitPrewarmed),
    ]
}

fn control_reply() -> impl Strategy<Value = ControlReply> {
    prop_oneof![
        Just(ControlReply::Ok),
        (duration(), any::<u32>(), any::<u64>(), any::<u64>()).prop_map(
            |(uptime, running, executions, available_memory)| ControlReply::Metrics {
                uptime,
                running,
                executions,
                available_memory,
            }
        ),
        failure().prop_map(ControlReply::Failed),
    ]
}

fn hello() -> impl Strategy<Value = Hello> {
    (any::<u32>(), any::<u16>(), any::<u64>()).prop_map(|(magic, version, bits)| Hello {
        magic,
        version,
        capabilities: Capabilities(bits),
    })
}

/// A value survives the wire, a shortened frame does not decode, a lengthened one is refused.
fn survives<T>(value: &T, cut: prop::sample::Index) -> Result<(), TestCaseError>
where
    T: Serialize + DeserializeOwned + PartialEq + Debug,
{
    let encoded = frame::encode(value).unwrap();
    let (header, body) = encoded.split_first_chunk::<HEADER>().unwrap();
    prop_assert_eq!(frame::body_len(*header), Ok(body.len()));
    let decoded = frame::decode::<T>(body);
    prop_assert_eq!(decoded.as_ref(), Ok(value));

    let end = cut.index(body.len());
    prop_assert_eq!(
        frame::decode::<T>(&body[..end]),
        Err(FrameError::Malformed { len: end })
    );
    let longer = [body, b"\0"].concat();
    prop_assert_eq!(
        frame::decode::<T>(&longer),
        Err(FrameError::TrailingBytes { extra: 1 })
    );
    Ok(())
}

/// Any bytes give a value or an error. A value that came out is a fixed point: what it encodes to
/// decodes to it again, so nothing can mean one thing to the reader and another when passed on.
fn is_total<T>(body: &[u8]) -> Result<(), TestCaseError>
where
    T: Serialize + DeserializeOwned + PartialEq + Debug,
{
    if let Ok(value) = frame::decode::<T>(body) {
        let encoded = frame::encode(&value).unwrap();
        prop_assert_eq!(frame::decode::<T>(&encoded[HEADER..]), Ok(value));
    }
    Ok(())
}

fn all_are_total(body: &[u8]) -> Result<(), TestCaseError> {
    is_total::<Hello>(body)?;
    is_total::<ToAgent>(body)?;
    is_total::<FromAgent>(body)?;
    is_total::<ControlRequest>(body)?;
    is_total::<ControlReply>(body)
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn to_agent_survives(value in to_agent(), cut: prop::sample::Index) {
        survives(&value, cut)?;
    }

    #[test]
    fn from_agent_survives(value in from_agent(), cut: prop::sample::Index) {
        survives(&value, cut)?;
    }

    #[test]
    fn control_request_survives(value in control_request(), cut: prop::sample::Index) {
        survives(&value, cut)?;
    }

    #[test]
    fn control_reply_survives(value in control_reply(), cut: prop::sample::Index) {
        survives(&value, cut)?;
    }

    #[test]
    fn hello_survives(value in hello(), cut: prop::sample::Index) {
        survives(&value, cut)?;
    }

    /// Random bytes seldom get past the first variant; they cover the ways to fail early.
    #[test]
    fn random_bytes_never_panic(body in vec(any::<u8>(), 0..512)) {
        all_are_total(&body)?;
    }

    /// A valid message with a few bytes changed gets deep into the decoder.
    #[test]
    fn damaged_messages_never_panic(
        to in to_agent(),
        from in from_agent(),
        damage in vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
    ) {
        for mut body in [frame::encode(&to).unwrap(), frame::encode(&from).unwrap()] {
            body.drain(..HEADER);
            for (place, byte) in &damage {
                let place = place.index(body.len());
                body[place] = *byte;
            }
            all_are_total(&body)?;
        }
    }

    /// A header is accepted exactly when the length it claims can be a frame.
    #[test]
    fn headers_are_bounded(header: [u8; HEADER]) {
        let claimed = u32::from_le_bytes(header) as usize;
        match frame::body_len(header) {
            Ok(len) => prop_assert!(len == claimed && (1..=MAX_FRAME).contains(&len)),
            Err(FrameError::Empty) => prop_assert_eq!(claimed, 0),
            Err(error) => prop_assert_eq!(error, FrameError::TooLarge { len: claimed }),
        }
    }
}
