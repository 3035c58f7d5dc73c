//! Who is asked about deletions is asked about whatever is lost, also by renaming over it, and what
//! is lost is what was asked about.
#![cfg(target_os = "linux")]
#![expect(clippy::unwrap_used, reason = "a test stops where it is surprised")]

mod common;

use common::{MINUTE, MODES, Outcome, finish, python, shell, supervised};
use ringfence_sandbox::{
    Decision, Namespaces, Operation, Question, Spec, Stdin, Supervision, spawn,
};
use std::io::Write as _;

/// What a question is about, by the last names of its paths.
fn short(question: &Question) -> String {
    let paths = [Some(&question.path), question.destination.as_ref()];
    let names = paths.into_iter().flatten().map(|path| {
        let name = path.rsplit(|byte| *byte == b'/').next();
        format!(" {}", String::from_utf8_lossy(name.unwrap()))
    });
    question.operation.to_string() + &names.collect::<String>()
}

fn asked(spec: Spec, operations: &[Operation], answer: Decision) -> (Outcome, Vec<String>) {
    let (outcome, questions) = supervised(spec, operations, MINUTE, move |_| Some(answer));
    (outcome, questions.iter().map(short).collect())
}

#[test]
fn what_is_renamed_over_is_asked_about() {
    let script = "echo a >a; echo important >notes; mv -f a notes; cat a notes";
    for mode in MODES {
        let refused = Decision::Deny(libc::EACCES);
        let (outcome, questions) = asked(shell(script, mode), &[Operation::Delete], refused);
        assert_eq!(outcome.text(), "a\nimportant", "{mode:?}");
        assert!(outcome.errors().contains("denied"), "{}", outcome.errors());
        assert_eq!(questions, ["delete notes"]);

        let (outcome, questions) =
            asked(shell(script, mode), &[Operation::Delete], Decision::Allow);
        assert_eq!(outcome.text(), "a", "{mode:?}");
        assert_eq!(questions, ["delete notes"]);

        let both = [Operation::Delete, Operation::Rename];
        let (outcome, questions) = asked(shell(script, mode), &both, refused);
        assert_eq!(outcome.text(), "a\nimportant", "{mode:?}");
        // `mv` first tries without replacing anything.
        assert!(!questions.is_empty() && questions.iter().all(|each| each == "rename a notes"));
    }
}

/// Each attempt by its name, its outcome, and what is there afterwards.
const ATTEMPTS: &str = "
import ctypes, errno, os
libc = ctypes.CDLL(None, use_errno=True)
for name in 'abcd': open(name, 'w').write(name)
os.link('a', 'same'); os.symlink('a', 'link'); os.mkdir('one'); os.mkdir('two'); os.mkdir('full')
open('full/x', 'w').close()
def attempt(name, function):
    try: function(); print(name, 'ok')
    except OSError as error: print(name, errno.errorcode[error.errno])
def renameat2(one, other, flags):
    if libc.renameat2(-100, one, -100, other, flags): raise OSError(ctypes.get_errno(), '')
attempt('new', lambda: os.rename('a', 'new'))
attempt('back', lambda: os.rename('new', 'a'))
attempt('directory', lambda: os.rename('one', 'uno'))
attempt('same', lambda: os.rename('a', 'same'))
attempt('exchange', lambda: renameat2(b'b', b'c', 2))
attempt('keep', lambda: renameat2(b'b', b'c', 1))
attempt('missing', lambda: os.rename('missing', 'c'))
attempt('remove missing', lambda: os.unlink('missing'))
attempt('inside', lambda: os.rename('two', 'two/x'))
attempt('outside', lambda: os.rename('c', '/etc/c'))
print('asked')
attempt('over', lambda: os.rename('b', 'c'))
attempt('over link', lambda: os.rename('b', 'link'))
attempt('over directory', lambda: os.rename('full', 'two'))
attempt('unlink', lambda: os.unlink('d'))
print(sorted(os.listdir()), open('b').read(), open('c').read())
";

#[test]
fn what_loses_nothing_is_not_asked_about() {
    for mode in MODES {
        let refused = Decision::Deny(libc::EROFS);
        let (outcome, questions) = asked(python(ATTEMPTS, mode), &[Operation::Delete], refused);
        let text = outcome.text();
        let lines: Vec<&str> = text.lines().collect();
        let expected = [
            "new ok",
            "back ok",
            "directory ok",
            "same ok",
            "exchange ok",
            "keep EEXIST",
            "missing ENOENT",
            "remove missing ENOENT",
            "inside EINVAL",
            "outside EACCES",
            "asked",
            "over EROFS",
            "over link EROFS",
            "over directory EROFS",
            "unlink EROFS",
            "['a', 'b', 'c', 'd', 'full', 'link', 'same', 'two', 'uno'] c b",
        ];
        assert_eq!(lines, expected, "{mode:?} {}", outcome.errors());
        let expected = ["delete c", "delete link", "delete two", "delete d"];
        assert_eq!(questions, expected);

        // The same, allowed.
        let (outcome, questions) = asked(
            python(ATTEMPTS, mode),
            &[Operation::Delete],
            Decision::Allow,
        );
        let text = outcome.text();
        let (_, lines) = text.split_once("asked\n").unwrap();
        // Its source is gone by then.
        let (first, lines) = lines.split_once('\n').unwrap();
        assert_eq!(first, "over ok");
        assert!(lines.starts_with("over link ENOENT\nover directory ok\nunlink ok"));
        assert_eq!(questions, ["delete c", "delete two", "delete d"]);
    }
}

/// Runs a program that has to ask before it deletes. The first question is answered with yes, once
/// the program, which may go on as soon as it can read, has asked about `mark`; each other with no.
fn answered_late(code: &str, mode: Namespaces) -> (Outcome, Vec<String>) {
    let mut spec = python(code, mode);
    spec.stdin = Stdin::Piped;
    spec.supervision = Some(Supervision {
        operations: [Operation::Delete].into(),
        limit: MINUTE,
        default: Decision::Deny(libc::EROFS),
    });
    let mut running = spawn(spec).unwrap();
    let mut questions = running.questions.take().unwrap();
    let mut stdin = running.stdin.take();
    let thread = std::thread::spawn(move || {
        let (mut first, mut all) = (None, Vec::new());
        while let Some(question) = questions.next_question() {
            all.push(short(&question));
            if question.path.ends_with(b"mark") {
                questions.answer(first.unwrap(), Decision::Allow);
                questions.answer(question.token, Decision::REFUSE);
            } else if let Some(mut stdin) = stdin.take() {
                first = Some(question.token);
                stdin.write_all(b"go").unwrap();
            } else {
                questions.answer(question.token, Decision::REFUSE);
            }
        }
        all
    });
    let outcome = finish(running, Vec::new());
    (outcome, thread.join().unwrap())
}

#[test]
fn what_is_lost_is_what_was_asked_about() {
    let code = "
import os, sys, threading
for name in ['a', 'new', 'mark']: open(name, 'w').write(name)
open('notes', 'w').write('important')
def swap():
    sys.stdin.read(1)
    SWAP
    try: os.unlink('mark')
    except OSError: pass
thread = threading.Thread(target=swap); thread.start()
try: CALL; print('done')
except OSError as error: print('refused')
thread.join()
print(*(name + ':' + open(name).read() for name in sorted(os.listdir())))
";
    let swapped = "os.rename('a', 'b'); os.rename('notes', 'a')";
    let gone = "os.rename('a', 'b')";
    let made = "os.rename('a', 'b'); open('a', 'w').write('made')";
    let kept = "refused\na:important b:a mark:mark new:new";
    let rename = "os.rename('new', 'a')";
    let remove = "os.unlink('a')";
    let again = ["delete a", "delete mark", "delete a"];
    let once = ["delete a", "delete mark"];
    let notes = "notes:important";
    for mode in MODES {
        for (swap, call, expected, asked) in [
            (swapped, rename, kept.to_owned(), &again[..]),
            (swapped, remove, kept.to_owned(), &again),
            (
                gone,
                rename,
                format!("done\na:new b:a mark:mark {notes}"),
                &once,
            ),
            (
                gone,
                remove,
                format!("refused\nb:a mark:mark new:new {notes}"),
                &once,
            ),
            (
                made,
                rename,
                format!("refused\na:made b:a mark:mark new:new {notes}"),
                &again,
            ),
            (
                "pass",
                rename,
                format!("done\na:new mark:mark {notes}"),
                &once,
            ),
            (
                "pass",
                remove,
                format!("done\nmark:mark new:new {notes}"),
                &once,
            ),
        ] {
            let code = code.replace("SWAP", swap).replace("CALL", call);
            let (outcome, questions) = answered_late(&code, mode);
            assert_eq!(outcome.text(), expected, "{mode:?} {}", outcome.errors());
            assert_eq!(questions, asked, "{mode:?} {swap} {call}");
        }
    }
}

/// Another thread makes what is renamed to, just then.
#[test]
fn nothing_is_lost_to_who_makes_it_meanwhile() {
    let code = "
import os, threading
lost, kept = [], []
for round in range(600):
    source, destination = f's{round}', f'd{round}'
    open(source, 'w').close()
    barrier = threading.Barrier(2)
    made = []
    def make():
        barrier.wait()
        try: os.close(os.open(destination, os.O_CREAT | os.O_EXCL | os.O_WRONLY)); made.append(1)
        except FileExistsError: pass
    thread = threading.Thread(target=make); thread.start()
    barrier.wait()
    try: os.rename(source, destination); renamed = True
    except OSError: renamed = False
    thread.join()
    if made and renamed: lost.append(round)
    if made and not renamed: kept.append(round)
    if made == [] and not renamed: print('neither')
print(lost)
";
    for mode in MODES {
        let refused = Decision::Deny(libc::EACCES);
        let (outcome, _) = asked(python(code, mode), &[Operation::Delete], refused);
        assert_eq!(outcome.text(), "[]", "{mode:?} {}", outcome.errors());
    }
}

#[test]
fn the_same_holds_for_an_unprivileged_caller() {
    common::repeat_unprivileged(&["the_same_holds"]);
}
