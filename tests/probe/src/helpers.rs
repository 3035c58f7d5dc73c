//! Programs that behave in a way that a test needs: they flood, hog, hang, detach and die.

use crate::sys::{self, Ended, call};
use ringfence_probe::{Pattern, digest};
use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::process::ExitCode;

/// Runs the helper that the first word names.
pub(crate) fn run(arguments: &[String]) -> ExitCode {
    let words: Vec<_> = arguments.iter().map(String::as_str).collect();
    match dispatch(&words) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("{}: {error}", words.join(" "));
            ExitCode::from(3)
        }
    }
}

fn dispatch(words: &[&str]) -> io::Result<ExitCode> {
    match words {
        ["exit", code] => return Ok(ExitCode::from(parse::<u8>(code)?)),
        ["raise", signal] => raise(parse(signal)?)?,
        ["flood", len] => flood(parse(len)?)?,
        ["digest"] => println!("{}", digest(io::stdin().lock())?),
        ["duplex", len] => duplex(parse(len)?)?,
        ["interleave", lines] => interleave(parse(lines)?)?,
        ["environment"] => environment()?,
        ["fork-bomb"] => fork_bomb(),
        ["fork-count", most] => fork_count(parse(most)?),
        ["memory", bytes] => memory(parse(bytes)?),
        ["shared-memory", bytes] => sys::share_memory(parse(bytes)?)?,
        ["file", bytes] => file(parse(bytes)?)?,
        ["open-files", most] => open_files(parse(most)?),
        ["spin"] => spin(),
        ["spin-many", processes] => spin_many(parse(processes)?)?,
        ["hang"] => hang(),
        ["hang-ignoring-signals"] => hang_ignoring_signals(),
        ["daemonize"] => daemonize()?,
        ["daemonize-and-hang"] => {
            daemonize()?;
            hang();
        }
        ["fill", places @ ..] => fill(places)?,
        ["fill-names", place] => fill_names(place)?,
        ["orphans", count] => orphans(parse(count)?)?,
        ["kill-everything"] => kill_everything()?,
        ["ipc-objects", name] => crate::objects::hold(name)?,
        ["swap-links", outside] => swap_links(outside)?,
        ["unix-pair", path] => unix_pair(path)?,
        ["abstract-listen", name] => abstract_listen(name)?,
        ["overwrite-own-program"] => overwrite_own_program()?,
        ["overwrite-program-of-parent"] => overwrite_program_of_parent()?,
        ["without-namespaces", program @ ..] => without_namespaces(program)?,
        _ => return Err(io::Error::other("no such helper")),
    }
    Ok(ExitCode::SUCCESS)
}

fn parse<T: std::str::FromStr<Err = std::num::ParseIntError>>(word: &str) -> io::Result<T> {
    word.parse().map_err(io::Error::other)
}

/// Dies of a signal.
fn raise(signal: i32) -> io::Result<()> {
    sys::restore(signal);
    call!(libc::SYS_kill, std::process::id(), signal)?;
    hang();
}

/// Writes the pattern to standard output as fast as it is taken.
fn flood(len: u64) -> io::Result<()> {
    io::copy(&mut Pattern::new(len), &mut io::stdout().lock()).map(drop)
}

/// Writes `len` bytes of the pattern before reading anything, and says on standard error what came
/// in. Whoever writes all input before reading output waits for ever.
fn duplex(len: u64) -> io::Result<()> {
    flood(len)?;
    // What follows the last line end would wait in the buffer for the end of the input.
    io::stdout().flush()?;
    eprintln!("{}", digest(io::stdin().lock())?);
    Ok(())
}

/// Numbered lines on both streams in turn.
fn interleave(lines: u32) -> io::Result<()> {
    let (mut out, mut err) = (io::stdout().lock(), io::stderr().lock());
    for line in 0..lines {
        writeln!(out, "out {line}")?;
        writeln!(err, "err {line}")?;
    }
    Ok(())
}

/// Each variable, ended by a NUL byte.
fn environment() -> io::Result<()> {
    use std::os::unix::ffi::OsStrExt as _;
    let mut out = io::stdout().lock();
    for (name, value) in std::env::vars_os() {
        out.write_all(&[name.as_bytes(), b"=", value.as_bytes(), b"\0"].concat())?;
    }
    Ok(())
}

/// Doubles for as long as it can; those that cannot try again.
fn fork_bomb() -> ! {
    println!("begins");
    loop {
        // Neither parent nor child cares whether it worked.
        let _ = sys::fork(fork_bomb_child);
    }
}

fn fork_bomb_child() -> u8 {
    loop {
        let _ = sys::fork(fork_bomb_child);
    }
}

/// Says how many processes could exist beside this one, and what refused the next.
fn fork_count(most: u32) {
    let mut children = 0;
    let mut refusal = 0;
    while children < most && refusal == 0 {
        match sys::idle_child() {
            Ok(_) => children += 1,
            Err(error) => refusal = error.raw_os_error().unwrap_or_default(),
        }
    }
    println!("{children} {refusal}");
}

/// Takes memory in pieces and uses every page of it.
fn memory(bytes: usize) {
    const PIECE: usize = 1 << 20;
    let mut held = Vec::new();
    while held.len() * PIECE < bytes {
        let mut piece = vec![0_u8; PIECE];
        for page in piece.chunks_mut(4096) {
            page[0] = 1;
        }
        held.push(std::hint::black_box(piece));
    }
    println!("holds {bytes}");
}

/// A file of this many bytes in the workspace, all written.
fn file(bytes: u64) -> io::Result<()> {
    let mut file = File::create("large")?;
    io::copy(&mut Pattern::new(bytes), &mut file)?;
    println!("wrote {bytes}");
    Ok(())
}

/// Writes to a file in each of these directories until that is refused, and says how much went in
/// altogether.
fn fill(places: &[&str]) -> io::Result<()> {
    const MOST: u64 = 1 << 30;
    let piece = vec![1; 1 << 20];
    let mut total = 0;
    for place in places {
        let mut file = File::create(format!("{place}/filled"))?;
        while total < MOST {
            match file.write(&piece) {
                Ok(written @ 1..) => total += written as u64,
                Ok(0) | Err(_) => break,
            }
        }
    }
    println!("{total}");
    Ok(())
}

/// Makes empty files until that is refused, and says how many, and the error.
fn fill_names(place: &str) -> io::Result<()> {
    const MOST: u32 = 2_000_000;
    for count in 0..MOST {
        if let Err(error) = File::create(format!("{place}/{count}")) {
            println!("{count} {}", error.raw_os_error().unwrap_or_default());
            return Ok(());
        }
    }
    println!("{MOST} 0");
    Ok(())
}

/// Leaves this many children of dead parents behind, one after the other. Where there is no room for
/// another it tries again: for ever if nobody collects them.
fn orphans(count: u32) -> io::Result<()> {
    fn patient(child: fn() -> u8) -> io::Result<libc::c_int> {
        loop {
            match sys::fork(child) {
                Err(error) if error.raw_os_error() == Some(libc::EAGAIN) => {
                    std::thread::yield_now();
                }
                other => return other,
            }
        }
    }
    for _ in 0..count {
        let child = patient(|| u8::from(patient(|| 0).is_err()))?;
        if !matches!(sys::wait(child)?, Ended::Exited(0)) {
            return Err(io::Error::other("a child could not fork"));
        }
    }
    println!("{count} orphans");
    Ok(())
}

/// SIGKILL to every process that there is.
fn kill_everything() -> io::Result<()> {
    println!("begins");
    call!(libc::SYS_kill, -1, libc::SIGKILL)?;
    println!("over");
    Ok(())
}

/// Goes on exchanging a directory and a link to a directory outside, until killed: whoever follows
/// names in the workspace comes out elsewhere half of the time.
fn swap_links(outside: &str) -> io::Result<()> {
    const EXCHANGE: u32 = 2;
    std::fs::create_dir_all("swapped/inner")?;
    std::fs::write("swapped/inner/file", "mine")?;
    std::os::unix::fs::symlink(outside, "other")?;
    println!("swaps");
    loop {
        call!(
            libc::SYS_renameat2,
            libc::AT_FDCWD,
            c"swapped",
            libc::AT_FDCWD,
            c"other",
            EXCHANGE
        )?;
    }
}

/// Says how many files could be opened beside the standard streams.
fn open_files(most: u32) {
    let mut held = Vec::new();
    while held.len() < most as usize {
        match File::open("/dev/null") {
            Ok(file) => held.push(file),
            Err(error) => {
                println!(
                    "{} {}",
                    held.len(),
                    error.raw_os_error().unwrap_or_default()
                );
                return;
            }
        }
    }
    println!("{} 0", held.len());
}

fn spin() -> ! {
    loop {
        std::hint::spin_loop();
    }
}

/// Spins in several processes at once.
fn spin_many(processes: u32) -> io::Result<()> {
    for _ in 1..processes {
        sys::fork(|| spin())?;
    }
    spin()
}

/// Says that it is there, and stays.
fn hang() -> ! {
    println!("here");
    sys::hang()
}

fn hang_ignoring_signals() -> ! {
    for signal in 1..64 {
        sys::ignore(signal);
    }
    hang()
}

/// Leaves a process behind that has left session, group and parent, and holds the streams.
fn daemonize() -> io::Result<()> {
    let (mut reader, writer) = io::pipe()?;
    let child = sys::fork(|| {
        let _ = call!(libc::SYS_setsid);
        let grandchild = sys::fork(|| {
            for signal in 1..64 {
                sys::ignore(signal);
            }
            // Says that it is on its own before it hangs for good.
            drop(writer);
            sys::hang()
        });
        u8::from(grandchild.is_err())
    })?;
    match sys::wait(child)? {
        Ended::Exited(0) => {}
        _ => return Err(io::Error::other("the child could not fork")),
    }
    // The end of the pipe: parent, child and grandchild have all let go of it.
    reader.read_to_end(&mut Vec::new())?;
    println!("daemon started");
    Ok(())
}

/// Two processes of the sandbox talk over a socket with a path: that must work.
fn unix_pair(path: &str) -> io::Result<()> {
    let listener = std::os::unix::net::UnixListener::bind(path)?;
    let child = sys::fork(|| {
        let sent = std::os::unix::net::UnixStream::connect(path)
            .and_then(|mut stream| stream.write_all(b"hello"));
        u8::from(sent.is_err())
    })?;
    let mut text = String::new();
    listener.accept()?.0.read_to_string(&mut text)?;
    sys::wait(child)?;
    println!("{text}");
    Ok(())
}

/// Listens on an abstract name, says so, and stays.
fn abstract_listen(name: &str) -> io::Result<()> {
    use std::os::linux::net::SocketAddrExt as _;
    let address = std::os::unix::net::SocketAddr::from_abstract_name(name)?;
    let _listener = std::os::unix::net::UnixListener::bind_addr(&address)?;
    hang()
}

/// A file that is being executed cannot be written. So this takes hold of it without opening it, has
/// another program take this one's place, and opens it then (CVE-2019-5736).
fn overwrite_own_program() -> io::Result<()> {
    use std::os::unix::process::CommandExt as _;
    let own = reach("/proc/self/exe")?;
    call!(libc::SYS_fcntl, own.as_raw_fd(), libc::F_SETFD, 0)?;
    let script = format!("echo evil >/proc/self/fd/{} && echo wrote", own.as_raw_fd());
    Err(std::process::Command::new("/bin/sh")
        .args(["-c", &script])
        .exec())
}

/// A file without any right to it.
fn reach(path: &str) -> io::Result<File> {
    let mut options = File::options();
    options.read(true).custom_flags(libc::O_PATH).open(path)
}

/// The program that the process runs which started this one, opened for writing by its link in
/// `/proc`, and by way of a descriptor.
fn overwrite_program_of_parent() -> io::Result<()> {
    let path = format!("/proc/{}/exe", call!(libc::SYS_getppid)?);
    let write = |path: &str| File::options().write(true).open(path);
    let by_descriptor = || {
        let held = reach(&path)?;
        write(&format!("/proc/self/fd/{}", held.as_raw_fd()))
    };
    for opened in [write(&path), by_descriptor()] {
        match opened {
            Ok(_) => println!("ALLOWED opened"),
            Err(error) => println!("refused {}", crate::tries::error_name(&error)),
        }
    }
    Ok(())
}

/// Executes a program for which the kernel refuses every new namespace and every mount, as for most
/// programs in a container.
fn without_namespaces(words: &[&str]) -> io::Result<()> {
    use std::os::unix::process::CommandExt as _;
    sys::refuse_namespaces()?;
    let (program, arguments) = words.split_first().ok_or(io::ErrorKind::InvalidInput)?;
    Err(std::process::Command::new(program).args(arguments).exec())
}
