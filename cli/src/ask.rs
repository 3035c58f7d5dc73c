//! `--ask`: a person at the terminal decides.
//!
//! What stands on the terminal before a question is the program's, and may look like anything. A
//! question is on a line of its own below all that, nothing of the program's follows before the
//! answer ([`Gate`]), and what was typed before it is no answer. The question itself has a few rows
//! whatever it is about, and its paths are told from its words ([`Shown`]).

use crate::gate::Gate;
use crate::shown::Shown;
use anyhow::Context as _;
use ringfence::{Decision, Operation, Policy, Request};
use rustix::termios::QueueSelector;
use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Write};
use std::sync::{Arc, Mutex, PoisonError};

/// Lines that are no answer before the question counts as refused.
const TRIES: u32 = 3;
/// Bytes of an answer at most.
const LINE: u64 = 256;

/// Makes a terminal show what follows in plain letters, on a new line with nothing beside or below
/// it, whatever it was sent before: CAN and ST end a control sequence, DECSTR resets what would
/// change the text or where it goes; then the ASCII letters, no attributes, and a cleared rest of
/// the screen.
const FRESH: &[u8] = b"\x18\x1b\\\x1b[!p\x0f\x1b(B\x1b[0m\r\n\x1b[J";

/// A policy that asks on the controlling terminal, whatever the standard streams are. Output that
/// passes the gate waits meanwhile.
pub(crate) fn policy(
    operations: impl IntoIterator<Item = Operation>,
    gate: &Arc<Gate>,
) -> anyhow::Result<Policy> {
    let open = || File::options().read(true).write(true).open("/dev/tty");
    let failed = "--ask needs a terminal to ask on, and /dev/tty cannot be opened";
    let (input, output) = (open().context(failed)?, open().context(failed)?);
    let person = Mutex::new(Person {
        gate: Arc::clone(gate),
        input: BufReader::new(input),
        output,
        always: BTreeSet::new(),
    });
    Ok(Policy::new(operations, move |request| {
        let mut person = person.lock().unwrap_or_else(PoisonError::into_inner);
        // Nobody is there any more.
        person.decide(request).unwrap_or(Decision::REFUSE)
    }))
}

/// Where answers come from.
trait Typed: BufRead {
    /// Forgets what was typed so far: it answers something else.
    fn forget(&mut self);
}

impl Typed for BufReader<File> {
    fn forget(&mut self) {
        let waiting = self.buffer().len();
        self.consume(waiting);
        // A terminal that cannot do that answers no question either.
        let _ = rustix::termios::tcflush(self.get_ref(), QueueSelector::IFlush);
    }
}

struct Person<I, O> {
    gate: Arc<Gate>,
    input: I,
    output: O,
    always: BTreeSet<Operation>,
}

impl<I: Typed, O: Write> Person<I, O> {
    fn decide(&mut self, request: &Request) -> io::Result<Decision> {
        if self.always.contains(&request.operation) {
            return Ok(Decision::Allow);
        }
        let Some(_closed) = self.gate.close() else {
            return Ok(Decision::REFUSE);
        };
        let question = question(request);
        self.input.forget();
        self.output.write_all(FRESH)?;
        for _ in 0..TRIES {
            write!(
                self.output,
                "ringfence: {question}? [y]es, [n]o, [a]lways {}, [k]ill: ",
                request.operation
            )?;
            self.output.flush()?;
            let mut line = Vec::new();
            let len = io::Read::take(&mut self.input, LINE).read_until(b'\n', &mut line)?;
            if len == 0 {
                break;
            }
            match line.trim_ascii() {
                b"y" | b"yes" => return Ok(Decision::Allow),
                b"n" | b"no" => return Ok(Decision::REFUSE),
                b"k" | b"kill" => return Ok(Decision::Kill),
                b"a" | b"always" => {
                    self.always.insert(request.operation);
                    return Ok(Decision::Allow);
                }
                _ => {}
            }
        }
        Ok(Decision::REFUSE)
    }
}

/// The question: what is to be done comes first, and no path of the program's can push it off the
/// screen or pass for a part of it.
fn question(request: &Request) -> String {
    let process = request.process;
    let path = Shown(&request.path);
    let destination = request.destination.as_deref().map(Shown);
    let what = match (request.operation, destination) {
        (Operation::Write, _) => format!("write to {path}"),
        (Operation::Delete, _) => format!("delete {path}"),
        (Operation::Rename, Some(destination)) => format!("rename {path} to {destination}"),
        (Operation::Connect, _) => format!("connect to {path}"),
        (Operation::Exec, Some(interpreter)) => format!("execute {path} by {interpreter}"),
        (Operation::Exec, None) => format!("execute {path}"),
        (other, _) => format!("{other} {path}"),
    };
    format!("process {process} wants to {what}; allow it")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicBool, Ordering};

    impl Typed for &[u8] {
        fn forget(&mut self) {}
    }

    /// A request can only come from a program, so one is run.
    #[test]
    fn answers_are_understood() {
        let checked = Arc::new(AtomicBool::new(false));
        let seen = Arc::clone(&checked);
        let policy = Policy::new([Operation::Write], move |request| {
            let mut output = Vec::new();
            let mut person = Person {
                gate: Arc::default(),
                input: b"what\n y \nno\nkill\n\n\n\nalways\n".as_slice(),
                output: &mut output,
                always: BTreeSet::new(),
            };
            let answers: Vec<Decision> = std::iter::repeat_with(|| person.decide(request).unwrap())
                .take(6)
                .collect();
            let refuse = Decision::REFUSE;
            let expected = [
                Decision::Allow,
                refuse,
                Decision::Kill,
                refuse,
                Decision::Allow,
                Decision::Allow,
            ];
            let text = String::from_utf8(output).unwrap();
            let fresh = str::from_utf8(FRESH).unwrap();
            let asked = text.matches(fresh).count();
            let text = text.replace(fresh, "");
            let good = answers == expected
                && asked == 5
                && text.contains("write to \"")
                && text.contains("a\\u{1b}[31m\\nb")
                && !text.contains('\u{1b}');
            seen.store(good, Ordering::Release);
            Decision::Allow
        });
        let sandbox = ringfence::Sandbox::default().supervise(policy);
        let output = sandbox
            .command("sh")
            .args(["-c", "echo x >\"$(printf 'a\\033[31m\\nb')\""])
            .output();
        if cfg!(target_os = "linux") {
            assert!(output.unwrap().report.success());
            assert!(checked.load(Ordering::Acquire));
        }
    }

    #[test]
    fn a_script_is_shown_with_its_interpreter() {
        let shown = Arc::new(Mutex::new(String::new()));
        let seen = Arc::clone(&shown);
        let policy = Policy::new([Operation::Exec], move |request| {
            seen.lock().unwrap().push_str(&question(request));
            Decision::Allow
        });
        let sandbox = ringfence::Sandbox::default().supervise(policy);
        let script = "echo '#!/usr/bin/env true' >a; /bin/chmod +x a; ./a";
        let output = sandbox.command("sh").args(["-c", script]).output();
        if cfg!(target_os = "linux") {
            assert!(output.unwrap().report.success());
            let text = shown.lock().unwrap();
            assert!(text.contains("/chmod\"; allow"), "{text}");
            assert!(text.contains("/a\" by \"/usr/bin/"), "{text}");
        }
    }
}
