//! The JSON objects that the command prints, and the words for how an execution ended.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ringfence::{
    Ended, Isolation, Layer, LayerState, LayerStatus, Operation, Output, Report, Violation,
};
use serde::Serialize;
use serde_json::{Map, Value, json};
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;
use std::time::Duration;

/// What `--json` prints about an execution.
#[derive(Debug, Serialize)]
pub(crate) struct RunReport {
    status: &'static str,
    exit_code: Option<u8>,
    signal: Option<u8>,
    #[serde(flatten)]
    streams: Map<String, Value>,
    stdout_truncated: bool,
    wall_ms: f64,
    cpu_ms: f64,
    peak_memory_bytes: u64,
    isolation: Value,
    violations: Vec<Value>,
    #[serde(flatten)]
    collected: Map<String, Value>,
}

impl RunReport {
    /// What is to be printed. What was collected is a part where it was asked for.
    pub(crate) fn new(output: &Output, collects: bool) -> Self {
        let report = &output.report;
        let (exit_code, signal) = match report.ended {
            Ended::Exited { code } => (Some(code), None),
            Ended::Signaled { signal } => (None, Some(signal)),
            _ => (None, None),
        };
        let mut streams = Map::new();
        put_stream(&mut streams, "stdout", &output.stdout);
        put_stream(&mut streams, "stderr", &output.stderr);
        Self {
            status: status_word(report.ended),
            exit_code,
            signal,
            streams,
            stdout_truncated: output.truncated,
            wall_ms: milliseconds(report.wall),
            cpu_ms: milliseconds(report.cpu),
            peak_memory_bytes: report.peak_memory,
            isolation: isolation(report),
            violations: report.violations.iter().map(violation).collect(),
            collected: if collects {
                collected(output)
            } else {
                Map::new()
            },
        }
    }
}

fn collected(output: &Output) -> Map<String, Value> {
    let (found, error) = match &output.collected {
        Ok(found) => (found, None),
        Err(error) => (&error.collected, Some(error.message.as_str())),
    };
    let named = |path: &Path, name: &str, value: Value| {
        let mut object = Map::new();
        put_stream(&mut object, "path", path.as_os_str().as_bytes());
        object.insert(name.to_owned(), value);
        Value::from(object)
    };
    let files = found.files.iter();
    let files = files.map(|file| named(&file.path, "bytes", file.bytes.into()));
    let skipped = found.skipped.iter();
    let skipped = skipped.map(|file| named(&file.path, "why", file.why.to_string().into()));
    let mut all = Map::new();
    all.insert("collected".into(), files.collect());
    all.insert("not_collected".into(), skipped.collect());
    all.insert("unmatched".into(), found.unmatched.clone().into());
    all.insert("collect_error".into(), error.into());
    all
}

fn put_stream(streams: &mut Map<String, Value>, name: &str, bytes: &[u8]) {
    match std::str::from_utf8(bytes) {
        Ok(text) => streams.insert(name.to_owned(), Value::from(text)),
        Err(_) => streams.insert(
            format!("{name}_base64"),
            Value::from(STANDARD.encode(bytes)),
        ),
    };
}

fn isolation(report: &Report) -> Value {
    let kind = if report.isolation == Isolation::Vm {
        "vm"
    } else {
        "process"
    };
    let active = report.layers.iter().filter(|state| state.is_active());
    json!({
        "kind": kind,
        "engine": report.engine.map(|engine| engine.to_string()),
        "layers": active.map(|state| state.layer.name()).collect::<Vec<_>>(),
        "missing": missing(&report.layers),
    })
}

/// The layers that are not in force, with the reasons.
pub(crate) fn missing(layers: &[LayerState]) -> Vec<Value> {
    let missing = layers.iter().filter_map(|state| match &state.status {
        LayerStatus::Missing { why } => Some(json!({"layer": state.layer.name(), "why": why})),
        LayerStatus::Active => None,
    });
    missing.collect()
}

fn violation(violation: &Violation) -> Value {
    json!({
        "layer": violation.layer.name(),
        "operation": violation.operation,
        "target": violation.target,
    })
}

/// Milliseconds with microseconds behind the point.
fn milliseconds(duration: Duration) -> f64 {
    (duration.as_secs_f64() * 1e6).round() / 1e3
}

const fn status_word(ended: Ended) -> &'static str {
    match ended {
        Ended::Exited { .. } => "exited",
        Ended::Signaled { .. } => "signaled",
        Ended::TimedOut => "timed_out",
        Ended::CpuExceeded => "cpu_exceeded",
        Ended::MemoryExceeded => "memory_exceeded",
        Ended::OutputExceeded => "output_exceeded",
        _ => "killed",
    }
}

/// For people: which limit ended the program, if one did or may have. `file_size`: whether there was
/// a limit on file sizes.
pub(crate) fn limit_message(report: &Report, file_size: bool) -> Option<String> {
    let message = match report.ended {
        Ended::TimedOut => "the time limit was reached (--timeout)",
        Ended::CpuExceeded => "the CPU-time limit was reached (--cpu-time)",
        Ended::MemoryExceeded => "the memory limit was reached (--memory)",
        Ended::OutputExceeded => "the output limit was reached (--max-output)",
        Ended::Killed => return Some(kill_message(&report.violations)),
        Ended::Signaled { signal: SIGXFSZ } if file_size => {
            "the program was ended by SIGXFSZ, as when a file would become larger than allowed \
             (--file-size)"
        }
        Ended::Exited { code } if file_size && code == 128 + SIGXFSZ => {
            "exit status 153 is a shell's word for SIGXFSZ, as when a file would become larger than \
             allowed (--file-size)"
        }
        _ => return reached_message(report),
    };
    Some(message.into())
}

/// Limits for which the program was refused something, and went on as it liked.
fn reached_message(report: &Report) -> Option<String> {
    let options = [
        (Layer::Cgroup, "processes", "--pids"),
        (Layer::MountNs, "workspace size", "--workspace-size"),
    ];
    let mut violations = report.violations.iter();
    violations.find_map(|violation| {
        let mut options = options.into_iter();
        let (_, name, option) = options.find(|(layer, operation, _)| {
            violation.layer == *layer && violation.operation == *operation
        })?;
        let what = violation.target.as_deref().unwrap_or("it was reached");
        Some(format!("{name}: {what} ({option})"))
    })
}

/// The signal for who writes beyond the limit on file sizes.
const SIGXFSZ: u8 = 25;

/// What a program was killed for: what the sandbox ended it for comes first, and what the caller's
/// answers refused last, in the order of the questions. System calls that were only denied are
/// between them.
fn kill_message(violations: &[Violation]) -> String {
    let named = |violation: &&Violation| {
        violation.layer == Layer::Rlimits || violation.operation == "system call"
    };
    let asked = |violation: &&Violation| {
        let mut operations = Operation::ALL.into_iter();
        operations.any(|operation| operation.name() == violation.operation)
    };
    let last = violations.last().filter(asked);
    let killing = violations.first().filter(named).or(last);
    match killing {
        None => "the program was killed".into(),
        Some(Violation {
            operation, target, ..
        }) => match (operation.as_str(), target) {
            ("processes", Some(why)) => format!("the program was not started: {why} (--pids)"),
            ("system call", Some(why)) => format!("the program was {why}"),
            (operation, Some(target)) => {
                format!("the program was killed for a forbidden operation: {operation} {target:?}")
            }
            (operation, None) => {
                format!("the program was killed for a forbidden operation: {operation}")
            }
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_that_are_no_text_come_as_base64() {
        let mut streams = Map::new();
        put_stream(&mut streams, "stdout", b"plain");
        put_stream(&mut streams, "stderr", b"\xff\x00");
        let expected = json!({"stdout": "plain", "stderr_base64": "/wA="});
        assert_eq!(Value::from(streams), expected);
    }

    #[test]
    fn times_keep_microseconds() {
        assert!((milliseconds(Duration::from_nanos(8_123_456)) - 8.123).abs() < 1e-9);
    }

    #[test]
    fn kills_are_explained() {
        let violation = |layer, operation: &str, target: &str| Violation {
            layer,
            operation: operation.into(),
            target: Some(target.into()),
        };
        let refused = violation(Layer::Seccomp, "delete", "/workspace/a");
        let killing = violation(Layer::Seccomp, "write", "/workspace/\u{1b}");
        let denied = violation(Layer::Seccomp, "mount", "changes the file system tree");
        let processes = violation(Layer::Rlimits, "processes", "a limit of 0 leaves none");
        let call = violation(Layer::Seccomp, "system call", "ended by SIGSYS");
        for (violations, expected) in [
            (vec![], "the program was killed"),
            (
                vec![refused.clone(), killing],
                "the program was killed for a forbidden operation: write \"/workspace/\\u{1b}\"",
            ),
            (
                vec![processes],
                "the program was not started: a limit of 0 leaves none (--pids)",
            ),
            (
                vec![call, denied.clone(), refused],
                "the program was ended by SIGSYS",
            ),
            (vec![denied], "the program was killed"),
        ] {
            assert_eq!(kill_message(&violations), expected);
        }
    }
}
