//! Measures a sandboxed program against the same one spawned plainly.
//!
//! `cargo run --release -p ringfence-sandbox --example measure [RUNS [MEBIBYTES]]`: medians of so
//! many runs of `true`, while the caller holds so much memory.

#[cfg(target_os = "linux")]
fn main() {
    use ringfence_sandbox::{Namespaces, Spec, spawn};
    use std::process::{Command, Stdio};
    use std::time::{Duration, Instant};

    fn median(runs: usize, mut run: impl FnMut()) -> Duration {
        let mut times: Vec<Duration> = (0..runs.max(1))
            .map(|_| {
                let begin = Instant::now();
                run();
                begin.elapsed()
            })
            .collect();
        times.sort();
        times.get(times.len() / 2).copied().unwrap_or_default()
    }

    let number = |index: usize, default: usize| {
        std::env::args()
            .nth(index)
            .and_then(|text| text.parse().ok())
            .unwrap_or(default)
    };
    let (runs, mebibytes) = (number(1, 50), number(2, 0));
    let held = vec![1_u8; mebibytes << 20];
    let plain = median(runs, || {
        let mut command = Command::new("/bin/true");
        command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        drop(
            command
                .spawn()
                .and_then(std::process::Child::wait_with_output),
        );
    });
    println!(
        "plain spawn      {plain:>10.1?}   (caller holds {} MiB)",
        held.len() >> 20
    );
    for mode in [Namespaces::Auto, Namespaces::Off] {
        let time = median(runs, || {
            let mut spec = Spec::new("/bin/true");
            spec.namespaces = mode;
            match spawn(spec).map(|running| running.wait()) {
                Ok(Ok(_)) => {}
                other => eprintln!("{other:?}"),
            }
        });
        let ratio = time.as_secs_f64() / plain.as_secs_f64();
        println!(
            "namespaces {:<5} {time:>10.1?}   {ratio:.2} times",
            format!("{mode:?}")
        );
    }
}

#[cfg(not(target_os = "linux"))]
fn main() {}
