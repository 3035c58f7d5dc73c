//! `--ask`: a person at the terminal decides, whatever the program shows on it.

use ringfence_tests::{Lab, Outcome, Running, Scenario, Terminal};

pub(crate) const SCENARIOS: &[Scenario] = &[
    Scenario::everywhere("questions_stand_alone", questions_stand_alone),
    Scenario::everywhere("early_answers_are_none", early_answers_are_none),
    Scenario::everywhere(
        "a_question_ends_at_the_time_limit",
        a_question_ends_at_the_time_limit,
    ),
    Scenario::everywhere("a_kill_is_an_answer", a_kill_is_an_answer),
    Scenario::everywhere(
        "no_path_makes_another_question",
        no_path_makes_another_question,
    ),
];

/// A program at a terminal, which asks before it deletes.
fn asked(lab: &Lab, words: [&str; 3], limit: &str) -> (Terminal, Running) {
    asked_to("delete", lab, words, limit)
}

fn asked_to(what: &str, lab: &Lab, words: [&str; 3], limit: &str) -> (Terminal, Running) {
    let terminal = Terminal::open(24, 80);
    let options = ["--ask", what, "--timeout", limit];
    let running = lab.run(words).options(options).start_in_session(&terminal);
    (terminal, running)
}

/// Shows a question of its own all the time, and asks a real one once it has.
const FORGER: &str = r#"
touch notes
printf '\033[8m\033]0;'
while :; do
  printf '\r\033[2Kringfence: process 7 wants to write to "/workspace/x"; allow it? [y/N] '
done &
rm notes
kill $!
test -e notes && echo 'still there'
"#;

/// What comes before a question so that it can be read.
const FRESH: &str = "\n\x1b[J";

/// The end of a question.
const OPEN: &str = "[k]ill: ";

/// The real question, of which nothing of the program's is before on the line and nothing after.
fn question(terminal: &Terminal) {
    let shown = terminal.until(OPEN);
    let (_, question) = shown.rsplit_once(FRESH).unwrap();
    assert!(question.starts_with("ringfence: process "), "{question:?}");
    assert!(
        question.contains("wants to delete \"/") && question.contains("/notes\"; allow it?"),
        "{question:?}"
    );
    assert!(question.ends_with(OPEN), "{question:?}");
    terminal.assert_silent();
}

fn questions_stand_alone(lab: &Lab) {
    let (terminal, running) = asked(lab, ["bash", "-c", FORGER], "60s");
    question(&terminal);
    terminal.keys("no\r");
    // The terminal repeats what is typed; the rest was kept back until then.
    let shown = terminal.until("still there");
    assert!(shown.starts_with("no\r\n"), "{shown:?}");
    assert!(shown.contains("allow it? [y/N]"), "{shown:?}");
    running.finish().assert_code(0);
}

/// What was typed before a question is an answer to something else, and an empty line is none.
fn early_answers_are_none(lab: &Lab) {
    let script = "touch first notes; rm first; rm notes || exit 7";
    let (terminal, running) = asked(lab, ["sh", "-c", script], "60s");
    terminal.until(OPEN);
    terminal.keys("y\ry\ry\r");
    question(&terminal);
    terminal.keys("\r");
    terminal.until(OPEN);
    terminal.keys("n\r");
    running.finish().assert_code(7);
}

/// Nobody answers, and more is kept back than the pipes hold.
fn a_question_ends_at_the_time_limit(lab: &Lab) {
    let (terminal, running) = asked(lab, ["bash", "-c", FORGER], "3s");
    question(&terminal);
    let ended = std::thread::scope(|scope| {
        let ended = scope.spawn(|| running.finish());
        let shown = terminal.until("--timeout");
        assert!(shown.contains("nothing to be answered"), "{shown:?}");
        ended.join()
    });
    let outcome: Outcome = ended.unwrap();
    outcome.assert_code(124);
}

fn a_kill_is_an_answer(lab: &Lab) {
    let (terminal, running) = asked(lab, ["bash", "-c", FORGER], "60s");
    question(&terminal);
    terminal.keys("kill\r");
    terminal.until("forbidden operation: delete");
    running.finish().assert_code(137);
}

/// Renames to a path that fills more than a screen, and ends like another question.
const SCROLLER: &str = r#"
blank=$(printf '%200s' '')
deep=$blank/$blank/$blank/$blank/$blank/$blank/$blank/$blank/$blank/$blank
forged=$(printf '\nringfence: process 2 wants to rename "_cache.part" to "_cache')
mkdir -p "$deep"
touch notes
mv notes "$deep/$forged" || exit 7
"#;

fn no_path_makes_another_question(lab: &Lab) {
    let (terminal, running) = asked_to("rename", lab, ["bash", "-c", SCROLLER], "60s");
    let shown = terminal.until(OPEN);
    let (_, question) = shown.rsplit_once(FRESH).unwrap();
    // Six rows, on 80 columns.
    assert!(question.len() <= 480, "{question:?}");
    assert!(!question.contains(['\n', '\r', '\u{1b}']), "{question:?}");
    let (asked, rest) = question.split_once("/notes\" to \"/").unwrap();
    let (words, place) = asked.split_once(" wants to rename \"/").unwrap();
    assert!(words.starts_with("ringfence: process "), "{question:?}");
    // The first part, the last one, the length; what is inside of them has no quotation marks.
    let parts: Vec<&str> = rest.split('"').collect();
    let [first, " ... ", last, end] = parts.as_slice() else {
        panic!("{question:?}");
    };
    assert!(first.starts_with(place) || place.starts_with(first));
    assert!(last.ends_with(r"\ \u{22}_cache"), "{question:?}");
    let bytes = end.strip_prefix(" (of ").unwrap();
    let (bytes, end) = bytes.split_once(" bytes)").unwrap();
    assert!(bytes.parse::<usize>().unwrap() > 2000, "{question:?}");
    assert!(end.starts_with("; allow it? [y]es, "), "{question:?}");
    terminal.keys("n\r");
    running.finish().assert_code(7);
}
