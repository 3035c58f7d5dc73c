//! A program at a terminal of its own, which is shown on the caller's.

use crate::api::builder;
use ringfence::{Ended, Stdio, TerminalSize};
use ringfence_tests::{Isolation, Lab, Scenario, Terminal};
use rustix::process::Signal;
use std::io::{Read as _, Write as _};
use std::time::Duration;

pub(crate) const SCENARIOS: &[Scenario] = &[
    Scenario::everywhere("keys_and_sizes_pass", keys_and_sizes_pass),
    Scenario::everywhere("a_killed_command", a_killed_command),
    Scenario::everywhere("it_takes_a_terminal", it_takes_a_terminal),
    Scenario::on(
        "the_library_has_it_too",
        &[Isolation::Process, Isolation::Vm],
        the_library_has_it_too,
    ),
    Scenario::on(
        "keys_that_nobody_reads",
        &[Isolation::Process, Isolation::Vm],
        keys_that_nobody_reads,
    ),
];

/// Says the size of its terminal at the start and after a change, and goes on until it is told.
const PROGRAM: &str = "
import os, signal, sys
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGWINCH, signal.SIGINT])
print([os.isatty(i) for i in range(3)], os.get_terminal_size(), flush=True)
signal.sigwait([signal.SIGWINCH])
print(os.get_terminal_size(), flush=True)
print('got', input(), file=sys.stderr, flush=True)
signal.sigwait([signal.SIGINT])
print('interrupted')
sys.exit(7)
";

/// What is typed is the program's, `^C` included, and so is the size.
fn keys_and_sizes_pass(lab: &Lab) {
    let terminal = Terminal::open(33, 101);
    let settings = terminal.settings();
    let call = lab.run(["python3", "-c", PROGRAM]).options(["--tty"]);
    let running = call.start_at(&terminal);
    terminal.until("[True, True, True] os.terminal_size(columns=101, lines=33)");
    terminal.until_changed(&settings);
    terminal.resize(7, 222);
    running.signal(Signal::WINCH);
    terminal.until("columns=222, lines=7)");
    terminal.keys("word\r");
    terminal.until("got word");
    terminal.keys("\x03");
    terminal.until("interrupted");
    running.finish().assert_code(7);
    assert_eq!(terminal.settings(), settings);
}

/// Whoever is killed at it leaves it as it was, and nothing else.
fn a_killed_command(lab: &Lab) {
    let terminal = Terminal::open(24, 80);
    let settings = terminal.settings();
    let call = lab.run(["sh", "-c", "echo begun; sleep 1000 & sleep 1000"]);
    let running = call.options(["--tty"]).start_at(&terminal);
    terminal.until("begun");
    terminal.until_changed(&settings);
    running.signal(Signal::TERM);
    running.finish_killed().assert_signal(15);
    assert_eq!(terminal.settings(), settings);
}

/// Without one it says so, before anything is started.
fn it_takes_a_terminal(lab: &Lab) {
    let outcome = lab.run(["true"]).options(["--tty"]).outcome();
    outcome.assert_error(125, &["--tty connects this terminal"]);
}

fn the_library_has_it_too(lab: &Lab) {
    let sandbox = builder(lab).build().unwrap();
    let (rows, columns) = (33, 101);
    let command = sandbox.command("python3").args(["-c", PROGRAM]);
    let mut child = command
        .terminal(TerminalSize { rows, columns })
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdout = child.stdout.take().unwrap();
    let mut until = |mark: &str| {
        let mut shown = Vec::new();
        while !String::from_utf8_lossy(&shown).contains(mark) {
            let mut byte = [0];
            assert_eq!(stdout.read(&mut byte).unwrap(), 1, "no {mark:?}");
            shown.push(byte[0]);
        }
    };
    until("columns=101, lines=33)");
    let (rows, columns) = (7, 222);
    child.resize(TerminalSize { rows, columns }).unwrap();
    until("columns=222, lines=7)");
    let mut keys = child.stdin.take().unwrap();
    keys.write_all(b"word\n").unwrap();
    until("got word");
    keys.write_all(b"\x03").unwrap();
    until("interrupted");
    let mut rest = Vec::new();
    stdout.read_to_end(&mut rest).unwrap();
    assert_eq!(child.wait().unwrap().ended, Ended::Exited { code: 7 });
    let mut child = sandbox.command("true").spawn().unwrap();
    child.resize(TerminalSize::default()).unwrap_err();
    assert!(child.wait().unwrap().ended == Ended::Exited { code: 0 });
}

/// More is typed than a terminal holds: whoever types does not delay the end.
fn keys_that_nobody_reads(lab: &Lab) {
    let sandbox = builder(lab)
        .timeout(Duration::from_secs(2))
        .build()
        .unwrap();
    for script in ["sleep 1000", "stty raw; sleep 1000"] {
        let command = sandbox.command("sh").args(["-c", script]);
        let command = command.terminal(TerminalSize::default());
        let output = command.input(vec![b'x'; 128 << 10]).output().unwrap();
        assert_eq!(output.report.ended, Ended::TimedOut);
    }
}
