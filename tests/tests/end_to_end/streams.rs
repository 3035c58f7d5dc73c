//! Standard input, output and error: complete, in order, as they come, and in bounded memory.

use base64::Engine as _;
use ringfence_probe::{Pattern, digest};
use ringfence_tests::{Lab, Running, Scenario, process};
use serde_json::Value;
use std::fs::File;
use std::io::{Read as _, Write as _};
use std::process::ChildStdin;

const MIB: u64 = 1 << 20;

pub(crate) const SCENARIOS: &[Scenario] = &[
    Scenario::everywhere("output_of_64_mib_arrives", output_of_64_mib_arrives),
    Scenario::everywhere("input_of_32_mib_arrives", input_of_32_mib_arrives),
    Scenario::everywhere("both_ways_at_once", both_ways_at_once),
    Scenario::everywhere("memory_stays_flat", memory_stays_flat),
    Scenario::everywhere(
        "streams_come_as_they_are_written",
        streams_come_as_they_are_written,
    ),
    Scenario::everywhere("streams_stay_apart", streams_stay_apart),
    Scenario::everywhere("input_that_nobody_reads", input_that_nobody_reads),
    Scenario::everywhere("input_from_a_file", input_from_a_file),
    Scenario::everywhere("output_that_nobody_reads", output_that_nobody_reads),
    Scenario::everywhere("bytes_that_are_no_text", bytes_that_are_no_text),
    Scenario::everywhere("output_ends_at_its_limit", output_ends_at_its_limit),
    Scenario::everywhere(
        "a_daemon_does_not_hold_the_streams",
        a_daemon_does_not_hold_the_streams,
    ),
];

fn pattern_digest(len: u64) -> String {
    digest(Pattern::new(len)).unwrap()
}

fn flood<'a>(lab: &'a Lab, len: u64) -> ringfence_tests::Run<'a> {
    let run = lab.helper(["flood", &len.to_string()]);
    run.option("--max-output", "1GiB")
        .option("--timeout", "200s")
}

/// 64 MiB of output arrive complete and in order.
fn output_of_64_mib_arrives(lab: &Lab) {
    let outcome = flood(lab, 64 * MIB).outcome();
    outcome.assert_code(0);
    assert_eq!(
        digest(outcome.stdout.as_slice()).unwrap(),
        pattern_digest(64 * MIB)
    );
}

/// 32 MiB of input arrive complete and in order, and their end arrives.
fn input_of_32_mib_arrives(lab: &Lab) {
    let run = lab
        .helper(["digest"])
        .option("--timeout", "200s")
        .input_pattern(32 * MIB);
    let expected = format!("{}\n", pattern_digest(32 * MIB));
    run.outcome().assert_code(0).assert_stdout(&expected);
}

/// A program that writes 8 MiB before it reads anything gets its 8 MiB of input afterwards: neither
/// direction waits for the other.
fn both_ways_at_once(lab: &Lab) {
    let run = lab
        .helper(["duplex", &(8 * MIB).to_string()])
        .option("--timeout", "120s");
    let outcome = run.input_pattern(8 * MIB).outcome();
    outcome.assert_code(0);
    let expected = pattern_digest(8 * MIB);
    assert_eq!(digest(outcome.stdout.as_slice()).unwrap(), expected);
    assert_eq!(outcome.errors().trim_end(), expected);
}

/// Anonymous memory of the command in bytes: what it allocated itself. Memory that it shares with a
/// guest is the guest's.
fn own_memory(running: &Running) -> u64 {
    process::status(running.pid(), "RssAnon").unwrap() * 1024
}

/// Reads exactly this much of standard output.
fn read_exactly(running: &mut Running, len: u64) {
    let stdout = running.stdout.as_mut().unwrap();
    let read = std::io::copy(&mut stdout.take(len), &mut std::io::sink()).unwrap();
    assert_eq!(read, len);
}

fn write_pattern(stdin: &mut ChildStdin, pattern: &mut Pattern, len: u64) {
    std::io::copy(&mut pattern.take(len), stdin).unwrap();
}

/// While 64 MiB go out and 32 MiB go in, the command's own memory does not grow with them: neither
/// when the reader keeps up nor when it stands still. The program ends only when its input does, so
/// every measurement is of a living process.
fn memory_stays_flat(lab: &Lab) {
    const ALLOWED: u64 = 6 * MIB;
    let run = lab.helper(["duplex", &(64 * MIB).to_string()]);
    let mut running = run
        .option("--max-output", "1GiB")
        .option("--timeout", "200s")
        .start();
    read_exactly(&mut running, MIB);
    let at_first = own_memory(&running);
    for _ in 1..64 {
        read_exactly(&mut running, MIB);
        let now = own_memory(&running);
        assert!(
            now < at_first + ALLOWED,
            "{at_first} bytes grew to {now} with the output"
        );
    }
    let mut stdin = running.stdin.take().unwrap();
    let mut pattern = Pattern::new(32 * MIB);
    for _ in 0..32 {
        write_pattern(&mut stdin, &mut pattern, MIB);
        let now = own_memory(&running);
        assert!(
            now < at_first + ALLOWED,
            "{at_first} bytes grew to {now} with the input"
        );
    }
    drop(stdin);
    let outcome = running.finish();
    outcome.assert_code(0);
    assert_eq!(outcome.errors().trim_end(), pattern_digest(32 * MIB));
}

/// What the program writes arrives while it runs, and what the caller writes reaches it: a
/// conversation.
fn streams_come_as_they_are_written(lab: &Lab) {
    let script = "echo ready; while read line; do echo \"got $line\"; done; echo over";
    let mut running = lab.run(["sh", "-c", script]).start();
    assert_eq!(running.line(), "ready");
    let mut stdin = running.stdin.take().unwrap();
    for word in ["one", "two", "three"] {
        writeln!(stdin, "{word}").unwrap();
        assert_eq!(running.line(), format!("got {word}"));
    }
    drop(stdin);
    assert_eq!(running.line(), "over");
    running.finish().assert_code(0);
}

/// Each stream keeps its own bytes and their order.
fn streams_stay_apart(lab: &Lab) {
    let outcome = lab.helper(["interleave", "2000"]).outcome();
    outcome.assert_code(0);
    let lines = |word: &str| {
        (0..2000)
            .map(|line| format!("{word} {line}\n"))
            .collect::<String>()
    };
    assert_eq!(outcome.text(), lines("out"));
    assert_eq!(outcome.errors(), lines("err"));
}

/// 32 MiB of input for a program that ends without reading: it ends, with its own status.
fn input_that_nobody_reads(lab: &Lab) {
    lab.helper(["exit", "3"])
        .input_pattern(32 * MIB)
        .outcome()
        .assert_code(3);
}

/// Input from a file, by redirection and by option.
fn input_from_a_file(lab: &Lab) {
    let path = lab.file("input", "from a file\n");
    let redirected = lab.run(["cat"]).input_file(File::open(&path).unwrap());
    redirected
        .outcome()
        .assert_code(0)
        .assert_stdout("from a file\n");
    let named = lab.run(["cat"]).option("--stdin", &path).input("ignored");
    named
        .outcome()
        .assert_code(0)
        .assert_stdout("from a file\n");
    let (outcome, report) = lab.run(["cat"]).option("--stdin", &path).json();
    outcome.assert_code(0);
    assert_eq!(report["stdout"], "from a file\n");
    let nowhere = lab.run(["cat"]).option("--stdin", lab.path("nowhere"));
    nowhere.outcome().assert_error(125, &["nowhere"]);
    lab.run(["cat"]).outcome().assert_code(0).assert_stdout("");
}

/// A reader that goes away, as `| head -1` does, ends the command soon and leaves nothing.
fn output_that_nobody_reads(lab: &Lab) {
    let mut running = lab.run(["yes"]).option("--max-output", "1TiB").start();
    assert_eq!(running.line(), "y");
    drop(running.stdout.take());
    let outcome = running.finish();
    assert_ne!(outcome.code(), Some(0), "{outcome}");
    assert_ne!(
        outcome.code(),
        Some(124),
        "only the time limit ended it: {outcome}"
    );
}

/// Output that is not UTF-8 comes as base64, and only then.
fn bytes_that_are_no_text(lab: &Lab) {
    let (_, report) = lab.helper(["flood", "4096"]).json();
    assert_eq!(report.get("stdout"), None);
    let text = report["stdout_base64"].as_str().unwrap();
    let bytes = base64::engine::general_purpose::STANDARD
        .decode(text)
        .unwrap();
    assert_eq!(digest(bytes.as_slice()).unwrap(), pattern_digest(4096));
    assert_eq!(report["stderr"], "");

    let (_, report) = lab
        .run(["sh", "-c", "printf 'ok'; printf '\\377\\0' >&2"])
        .json();
    assert_eq!(
        (&report["stdout"], &report["stderr_base64"]),
        (&"ok".into(), &"/wA=".into())
    );
    assert_eq!(
        (report.get("stdout_base64"), report.get("stderr")),
        (None, None)
    );
}

/// At the output limit the program is killed, the report says so, and what came out is exactly the
/// first bytes up to the limit: from a file, not one more.
fn output_ends_at_its_limit(lab: &Lab) {
    let limit = 100_000;
    let run = || {
        lab.helper(["flood", "40000000"])
            .option("--max-output", limit.to_string())
    };
    let (outcome, report) = run().json();
    outcome.assert_code(137);
    assert_eq!(report["status"], "output_exceeded");
    assert_eq!(report["stdout_truncated"], true);
    let text = report["stdout_base64"].as_str().unwrap();
    let bytes = base64::engine::general_purpose::STANDARD
        .decode(text)
        .unwrap();
    let mut expected = vec![0; limit];
    Pattern::new(1 << 20).read_exact(&mut expected).unwrap();
    assert_eq!(bytes.len(), limit);
    assert!(
        bytes == expected,
        "the first {limit} bytes are not the program's first"
    );

    let outcome = run().outcome();
    outcome.assert_code(137);
    assert!(
        outcome.stdout == expected,
        "{} bytes instead of {limit}",
        outcome.stdout.len()
    );
    assert!(outcome.errors().contains("output limit"), "{outcome}");

    // Exactly the limit is within it.
    let exact = lab
        .helper(["flood", "100000"])
        .option("--max-output", "100000");
    let (outcome, report) = exact.json();
    outcome.assert_code(0);
    assert_eq!(report["stdout_truncated"], false);
    // Both streams count together.
    let both = lab
        .helper(["interleave", "1000"])
        .option("--max-output", "10000");
    let (outcome, report) = both.json();
    outcome.assert_code(137);
    let len = |stream: &Value| stream.as_str().unwrap().len();
    assert_eq!(len(&report["stdout"]) + len(&report["stderr"]), 10_000);
}

/// A process that left session and parent behind, ignores every signal and holds the streams open
/// does not keep the command from ending, and does not survive it.
fn a_daemon_does_not_hold_the_streams(lab: &Lab) {
    let outcome = lab
        .helper(["daemonize"])
        .option("--timeout", "60s")
        .outcome();
    outcome.assert_code(0).assert_stdout("daemon started\n");
}
