//! A program with a terminal of its own.
#![cfg(target_os = "linux")]
#![expect(clippy::panic, reason = "a test stops where it is surprised")]

mod common;

use common::{MODES, repeat_unprivileged, shell};
use ringfence_sandbox::{Ended, Spec, Terminal, TerminalSize, spawn};
use rustix::io::Errno;

/// What is shown from now on until this is, or to the end.
fn until(terminal: &Terminal, mark: Option<&str>) -> String {
    let mut shown = Vec::new();
    let mut buffer = [0; 4096];
    loop {
        let text = String::from_utf8_lossy(&shown).replace('\r', "");
        if mark.is_some_and(|mark| text.contains(mark)) {
            return text;
        }
        match rustix::io::read(terminal, &mut buffer) {
            Ok(0) | Err(Errno::IO) => {
                assert!(mark.is_none(), "it ended without {mark:?}: {text}");
                return text;
            }
            Ok(len) => shown.extend_from_slice(&buffer[..len]),
            Err(Errno::INTR) => {}
            Err(error) => panic!("{error}"),
        }
    }
}

fn at_terminal(mut spec: Spec) -> Spec {
    spec.terminal = Some(TerminalSize {
        rows: 33,
        columns: 101,
    });
    spec
}

#[test]
fn all_three_streams_are_it_and_it_controls_the_session() {
    let script = "for i in 0 1 2; do test -t $i && echo -n yes; done; echo; stty size; \
                  echo through </dev/tty >/dev/tty; \
                  read stat </proc/$$/stat; set -- $stat; test $7 -ne 0 && echo controlled";
    for mode in MODES {
        let mut running = spawn(at_terminal(shell(script, mode))).unwrap();
        assert!(running.stdin.is_none() && running.stdout.is_none() && running.stderr.is_none());
        let shown = until(&running.terminal.take().unwrap(), None);
        assert!(
            shown == "yesyesyes\n33 101\nthrough\ncontrolled\n",
            "{shown}"
        );
        let report = running.wait().unwrap().report;
        assert_eq!(report.ended, Ended::Exited { code: 0 }, "{shown}");
    }
}

#[test]
fn keys_and_sizes_arrive() {
    let code = "
import os, signal, sys
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGWINCH, signal.SIGINT])
print('ready', flush=True)
signal.sigwait([signal.SIGWINCH])
print(os.get_terminal_size(), flush=True)
print('got', input(), flush=True)
signal.sigwait([signal.SIGINT])
print('interrupted')
sys.exit(9)
";
    for mode in MODES {
        let mut running = spawn(at_terminal(common::python(code, mode))).unwrap();
        let terminal = running.terminal.take().unwrap();
        until(&terminal, Some("ready\n"));
        let (rows, columns) = (7, 300);
        terminal.resize(TerminalSize { rows, columns }).unwrap();
        until(&terminal, Some("columns=300, lines=7)\n"));
        rustix::io::write(&terminal, b"word\n").unwrap();
        until(&terminal, Some("got word\n"));
        rustix::io::write(&terminal, b"\x03").unwrap();
        until(&terminal, Some("interrupted\n"));
        let report = running.wait().unwrap().report;
        assert_eq!(report.ended, Ended::Exited { code: 9 });
    }
}

/// With a private root it has a name there, and the host has none for it.
#[test]
fn its_modes_are_nobody_elses_concern() {
    let code = "
import os, stat
os.fchmod(0, 0o666)
print(os.ttyname(0), oct(stat.S_IMODE(os.fstat(0).st_mode)))
open('/dev/stdout', 'w').write('again\\n')
";
    let mut running = spawn(at_terminal(common::python(code, MODES[0]))).unwrap();
    let terminal = running.terminal.take().unwrap();
    let shown = until(&terminal, None);
    let finished = running.wait().unwrap();
    let layers = finished.report.layers.iter();
    let private = layers
        .clone()
        .any(|state| state.layer == ringfence_sandbox::Layer::MountNs && state.is_active());
    if private {
        assert_eq!(shown, "/dev/pts/0 0o666\nagain\n");
    } else {
        common::skipped("no private root can be had");
    }
}

/// A program that has closed every stream has its terminal all the same.
#[test]
fn it_lasts_as_long_as_the_program() {
    let script = "exec </dev/null >/dev/null 2>&1; sleep 0.2; echo still >/dev/tty";
    for mode in MODES {
        let mut running = spawn(at_terminal(shell(script, mode))).unwrap();
        let terminal = running.terminal.take().unwrap();
        assert_eq!(until(&terminal, None), "still\n");
        running.wait().unwrap();
    }
}

/// The program's side is held by nobody else, so that the end is seen; and whoever is left at its
/// end is killed, as ever.
#[test]
fn it_ends_with_the_program() {
    for mode in MODES {
        let script = "setsid sleep 1000 & echo $!; trap '' HUP; sleep 1000 & exit 4";
        let mut running = spawn(at_terminal(shell(script, mode))).unwrap();
        let terminal = running.terminal.take().unwrap();
        until(&terminal, None);
        let report = running.wait().unwrap().report;
        assert_eq!(report.ended, Ended::Exited { code: 4 });
    }
}

/// What a terminal could be made to do to whoever sits at another one.
#[test]
fn nothing_can_be_typed_by_the_program_itself() {
    let code = "
import fcntl, termios
for name, request, argument in [
    ('TIOCSTI', termios.TIOCSTI, b'x'),
    ('TIOCLINUX', 0x541c, b'\\x03'),
    ('TIOCSETD', 0x5423, b'\\0\\0\\0\\0'),
]:
    try:
        fcntl.ioctl(0, request, argument)
        print('did', name)
    except OSError as error:
        print(name, error.errno)
";
    for mode in MODES {
        let mut running = spawn(at_terminal(common::python(code, mode))).unwrap();
        let shown = until(&running.terminal.take().unwrap(), None);
        assert_eq!(shown, "TIOCSTI 1\nTIOCLINUX 1\nTIOCSETD 1\n");
        running.wait().unwrap();
    }
}

#[test]
fn unprivileged() {
    repeat_unprivileged(&["unprivileged"]);
}
