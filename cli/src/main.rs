//! The `ringfence` command: runs code that nobody has reviewed.
//!
//! Each subcommand has a file of its own; all of them use only the public API of `ringfence`.

mod ask;
mod doctor;
mod gate;
mod image;
mod json;
mod options;
mod run;
mod shown;
mod status;
mod text;
mod tty;

use clap::{Parser, Subcommand};
use status::Status;
use std::process::ExitCode;

/// Run code nobody has reviewed.
///
/// The program gets a private workspace, the system's programs and libraries read-only, no
/// network, and limits on everything. Its exit status is the command's own; 124 means a time
/// limit, 125 an error of ringfence itself, 126 and 127 a program that cannot be executed or
/// found, 128+N signal N, 137 the memory limit.
#[derive(Debug, Parser)]
#[command(name = "ringfence", version, max_term_width = 100)]
struct Arguments {
    #[command(subcommand)]
    task: Task,
}

#[derive(Debug, Subcommand)]
enum Task {
    /// Run a program
    Run(run::Run),
    /// Run a piece of code in a language
    Eval(run::Eval),
    /// Tell what this machine can do, layer by layer, and how to get the rest
    Doctor(doctor::Doctor),
    /// Build, verify and list guest images
    Image(image::Image),
}

fn main() -> ExitCode {
    if let Some(status) = ringfence::worker::serve_if_asked() {
        return status;
    }
    let filter = tracing_subscriber::EnvFilter::try_from_env("RINGFENCE_LOG")
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("warn"));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .init();
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(error) => return Status::of_usage(&error).into(),
    };
    let outcome = match arguments.task {
        Task::Run(run) => run.execute(),
        Task::Eval(eval) => eval.execute(),
        Task::Doctor(doctor) => doctor.execute(),
        Task::Image(image) => image.execute(),
    };
    outcome
        .unwrap_or_else(|error| {
            text::tell(&format!("{error:#}"));
            Status::of_error(&error)
        })
        .into()
}
