//! Terminals: typing into the caller's, and controlling it by what is printed.

use super::all;
use crate::refusals::{EPERM, HIDDEN, check, check_run};
use ringfence_tests::Lab;
use std::fs::File;
use std::os::fd::OwnedFd;

/// A terminal that the program makes itself is one of a private file system, and on it too nothing
/// can be typed for others and no line discipline be loaded.
pub(super) fn terminals_of_its_own(lab: &Lab) {
    let bare = lab.isolation.is_bare();
    let none: &[&str] = &["refused EACCES"];
    let opened: &[&str] = &["ALLOWED opened"];
    let mut expected = all(&["own-terminal"], if bare { none } else { opened });
    let others = ["push-own-input", "own-line-discipline"];
    expected.extend(all(&others, if bare { none } else { EPERM }));
    for number in 0..4 {
        expected.push((format!("write=/dev/pts/{number}"), HIDDEN));
    }
    check(lab, &expected);
}

/// Both ends of a new terminal that passes on everything as it is.
fn terminal() -> (OwnedFd, File) {
    use rustix::termios::{OptionalActions, tcgetattr, tcsetattr};
    let flags = rustix::pty::OpenptFlags::RDWR | rustix::pty::OpenptFlags::NOCTTY;
    let master = rustix::pty::openpt(flags).unwrap();
    rustix::pty::grantpt(&master).unwrap();
    rustix::pty::unlockpt(&master).unwrap();
    let name = rustix::pty::ptsname(&master, Vec::new()).unwrap();
    let mut both = File::options();
    let slave = both.read(true).write(true).open(name.to_str().unwrap());
    let slave = slave.unwrap();
    let mut attributes = tcgetattr(&slave).unwrap();
    attributes.make_raw();
    tcsetattr(&slave, OptionalActions::Now, &attributes).unwrap();
    (master, slave)
}

/// With a terminal as standard input the program has none, and cannot type into the caller's.
pub(super) fn the_terminal_of_the_caller(lab: &Lab) {
    let (_master, slave) = terminal();
    let mut expected = all(&["streams-are-no-terminal"], &["holds none"]);
    let others = ["push-input", "push-input-high-bits", "console-selection"];
    expected.extend(all(&others, EPERM));
    expected.extend(all(
        &["take-terminal"],
        &["refused ENXIO", "refused EACCES"],
    ));
    let run = lab.probe(expected.iter().map(|(name, _)| name));
    check_run(run.input_file(slave.try_clone().unwrap()), &expected);
    assert_eq!(rustix::io::ioctl_fionread(&slave).unwrap(), 0);
}

/// Nothing that the program or its name contains controls the terminal of who reads ringfence's own
/// words: not what begins with ESC, nor the one-byte forms of the same.
pub(super) fn characters_that_control(lab: &Lab) {
    let controls = |text: &str| text.chars().any(|c| c.is_control() && c != '\n');
    let name = "evil\u{1b}]0;title\u{7}\u{9b}31m\u{7f}\r";
    let outcome = lab.run([name]).outcome();
    outcome.assert_error(127, &["evil"]);
    assert!(!controls(&outcome.errors()), "{outcome}");
    let outcome = lab.run(["true"]).option("--file", lab.path(name)).outcome();
    outcome.assert_error(125, &["evil"]);
    assert!(!controls(&outcome.errors()), "{outcome}");

    let script =
        "printf 'a\\033]0;title\\007\\302\\2331m\\177\\r'; printf '\\302\\205\\033' >&2; exit 9";
    let (outcome, report) = lab.run(["sh", "-c", script]).json();
    outcome.assert_code(9);
    assert_eq!(report["stdout"], "a\u{1b}]0;title\u{7}\u{9b}1m\u{7f}\r");
    assert_eq!(report["stderr"], "\u{85}\u{1b}");
    let text = outcome.text();
    assert!(
        !controls(&text) && text.matches('\n').count() == 1,
        "{text:?}"
    );
}
