//! Runs the program and sends what it prints.

use crate::machine::uptime;
use ringfence_lab_init::{Ended, Job, Message, USER, send};
use rustix::io::Errno;
use rustix::process::{Pid, Signal, WaitOptions, kill_process_group};
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::process::CommandExt as _;
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, PoisonError};
use std::thread;

/// Bytes that are read at a time.
const CHUNK: usize = 64 << 10;

/// Where programs are found.
const PATH: &str = "/lab:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Runs the program to its end, kills what it has left behind, and returns the last message.
pub(crate) fn run(job: &Job, port: &File) -> io::Result<Message> {
    let mut child = match command(job).spawn() {
        Ok(child) => child,
        Err(error) => {
            return Ok(Message::Failed(format!(
                "cannot start {} in the lab: {error}",
                job.program
            )));
        }
    };
    let port = Mutex::new(port);
    let tell = |message: &Message| {
        // A frame that was cut short by a panic is an error on the other side.
        let port = port.lock().unwrap_or_else(PoisonError::into_inner);
        send(*port, message)
    };
    tell(&Message::Started(uptime()))?;
    let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
    thread::scope(|scope| {
        let first = scope.spawn(|| pump(stdout, Message::Stdout, tell));
        let second = scope.spawn(|| pump(stderr, Message::Stderr, tell));
        let ended = reap(&child)?;
        // The lab ends with its program: whatever else runs would keep the pipes open.
        end_others()?;
        for pump in [first, second] {
            pump.join()
                .map_err(|_panic| io::Error::other("a thread panicked"))??;
        }
        Ok(Message::Ended(ended))
    })
}

/// Kills every process but this one.
fn end_others() -> io::Result<()> {
    // `kill(-1)` means all processes, and there is no process group of PID 1 that it could mean.
    match kill_process_group(Pid::INIT, Signal::KILL) {
        Ok(()) | Err(Errno::SRCH) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

fn command(job: &Job) -> Command {
    let mut command = Command::new(&job.program);
    let home = if job.ordinary_user {
        command.uid(USER.1).gid(USER.1);
        format!("/home/{}", USER.0)
    } else {
        "/root".to_owned()
    };
    command
        .args(&job.args)
        .env_clear()
        .env("PATH", PATH)
        .env("HOME", home)
        .env("LANG", "C.UTF-8")
        .envs(job.env.iter().map(|(name, value)| (name, value)))
        .current_dir("/lab")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0);
    command
}

/// Sends what comes out of a pipe until its end.
fn pump(
    pipe: Option<impl Read>,
    message: impl Fn(Vec<u8>) -> Message,
    tell: impl Fn(&Message) -> io::Result<()>,
) -> io::Result<()> {
    let Some(mut pipe) = pipe else { return Ok(()) };
    let mut buffer = vec![0; CHUNK];
    loop {
        match pipe.read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(length) => tell(&message(buffer.get(..length).unwrap_or_default().to_vec()))?,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

/// Reaps whatever ends until the program does.
fn reap(child: &Child) -> io::Result<Ended> {
    loop {
        let (pid, status) = match rustix::process::wait(WaitOptions::empty()) {
            Ok(Some(ended)) => ended,
            Ok(None) | Err(Errno::INTR) => continue,
            Err(error) => return Err(error.into()),
        };
        if u32::try_from(pid.as_raw_nonzero().get()) != Ok(child.id()) {
            continue;
        }
        let byte = |value: i32| u8::try_from(value).unwrap_or(u8::MAX);
        match (status.exit_status(), status.terminating_signal()) {
            (Some(code), _) => return Ok(Ended::Exited(byte(code))),
            (None, Some(signal)) => return Ok(Ended::Signaled(byte(signal))),
            (None, None) => {}
        }
    }
}
