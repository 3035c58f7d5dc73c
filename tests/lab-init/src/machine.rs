//! Makes a small Linux of the kernel and a read-only root file system: modules, mounts, devices.
//!
//! The root is an overlay: the guest image's squashfs below, memory above. Where the job asks for
//! tools, their squashfs is below both, so that programs and libraries are where they expect to be. The folders of
//! [`PLACES`] are folders of the initramfs, bound into it: files that the developer's machine put
//! there cost no copy.

use crate::program;
use ringfence_lab_init::{
    Copied, JOB, Job, Message, PLACED, PLACES, PORT, STAGED, TOOLS, USER, decode, send,
};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::Mode;
use rustix::io::Errno;
use rustix::mount::{
    MountFlags, MountPropagationFlags, mount, mount_bind, mount_change, mount_move,
};
use rustix::net::netlink::{KOBJECT_UEVENT, SocketAddrNetlink};
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType};
use rustix::process::{Resource, Rlimit};
use rustix::system::RebootCommand;
use std::ffi::CStr;
use std::fs::{self, File};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{PermissionsExt as _, chown, symlink};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

/// The disk with the root file system.
const DISK: &str = "/dev/vda";

/// The disk with the tools, where the job asks for them.
const TOOLS_DISK: &str = "/dev/vdb";

/// Modules to be loaded, in this order; written by the image's builder.
const MODULES: &str = "/modules/load";

/// Where the parts of the root are put together.
const ROOT: &str = "/lab/root";

/// A device that comes later than this will not come.
const PATIENCE: Duration = Duration::from_secs(10);

/// Devices that an ordinary user may open too.
const OPEN_DEVICES: [&str; 2] = ["/dev/kvm", "/dev/vhost-vsock"];

/// Mounts inside the root: kind, target, options.
const MOUNTS: [(&str, &str, &CStr); 7] = [
    ("proc", "/proc", c""),
    ("sysfs", "/sys", c""),
    ("cgroup2", "/sys/fs/cgroup", c""),
    ("securityfs", "/sys/kernel/security", c""),
    ("devpts", "/dev/pts", c"gid=5,mode=620,ptmxmode=666"),
    ("mqueue", "/dev/mqueue", c""),
    ("tmpfs", "/dev/shm", c"mode=1777"),
];

/// Links in `/dev`.
const LINKS: [(&str, &str); 4] = [
    ("/dev/fd", "/proc/self/fd"),
    ("/dev/stdin", "/proc/self/fd/0"),
    ("/dev/stdout", "/proc/self/fd/1"),
    ("/dev/stderr", "/proc/self/fd/2"),
];

/// A step that failed.
#[derive(Debug, thiserror::Error)]
#[error("cannot {step}: {source}")]
pub(crate) struct StepError {
    step: String,
    source: io::Error,
}

/// Names the step of a failed system call.
pub(crate) fn step<E: Into<io::Error>>(step: impl Into<String>) -> impl FnOnce(E) -> StepError {
    move |source| StepError {
        step: step.into(),
        source: source.into(),
    }
}

/// Runs the lab. The developer's machine ends it when it has the last message; only a lab that
/// cannot even send one powers off by itself.
pub(crate) fn run() -> ExitCode {
    let mut port = None;
    let last = match start(&mut port) {
        Ok(job) => port
            .as_ref()
            .ok_or_else(|| io::Error::other("there is no port"))
            .and_then(|port| program::run(&job, port)),
        Err(error) => Ok(Message::Failed(error.to_string())),
    };
    let told = match (&port, last) {
        (Some(port), Ok(message)) => send(port, &message),
        (None, Ok(message)) => Err(io::Error::other(format!("{message:?}"))),
        (_, Err(error)) => Err(error),
    };
    match told {
        Ok(()) => loop {
            rustix::event::pause();
        },
        Err(error) => eprintln!("ringfence-lab-init: {error}"),
    }
    let _failed = rustix::system::reboot(RebootCommand::PowerOff);
    ExitCode::FAILURE
}

/// Everything up to the program's start. `port` is set as soon as there is one.
fn start(port: &mut Option<File>) -> Result<Job, StepError> {
    early()?;
    modules()?;
    *port = Some(open_port()?);
    if let Some(port) = port {
        send(port, &Message::Init(uptime())).map_err(step("write to the port"))?;
    }
    let job = fs::read(format!("/{JOB}")).map_err(step(format!("read /{JOB}")))?;
    let job: Job = decode(&job)
        .map_err(io::Error::from)
        .map_err(step(format!("understand /{JOB}")))?;
    let staged = root(&job)?;
    inside()?;
    for file in &job.files {
        copy(&staged, file).map_err(step(format!("copy to {}", file.path)))?;
    }
    Ok(job)
}

/// Time since the kernel's start.
pub(crate) fn uptime() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    Duration::try_from(time).unwrap_or_default()
}

/// What devices and modules need.
fn early() -> Result<(), StepError> {
    for (kind, target) in [("devtmpfs", "/dev"), ("sysfs", "/sys"), ("proc", "/proc")] {
        folder(target)?;
        match mount(kind, target, kind, MountFlags::empty(), None) {
            Ok(()) | Err(Errno::BUSY) => {}
            Err(error) => return Err(step(format!("mount {kind} on {target}"))(error)),
        }
    }
    Ok(())
}

fn modules() -> Result<(), StepError> {
    let list = match fs::read_to_string(MODULES) {
        Ok(list) => list,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(step(format!("read {MODULES}"))(error)),
    };
    for path in list.lines() {
        let load = || {
            let module = File::open(path)?;
            match rustix::system::finit_module(&module, c"", 0) {
                Ok(()) | Err(Errno::EXIST) => Ok(()),
                Err(error) => Err(io::Error::from(error)),
            }
        };
        load().map_err(step(format!("load the module {path}")))?;
    }
    Ok(())
}

/// Opens the port to the developer's machine, once it is there.
fn open_port() -> Result<File, StepError> {
    let path = appearance(PORT, || {
        let ports = fs::read_dir("/sys/class/virtio-ports").ok()?;
        ports.flatten().find_map(|port| {
            let name = fs::read_to_string(port.path().join("name")).ok()?;
            let device = Path::new("/dev").join(port.file_name());
            (name.trim_end() == PORT && device.exists()).then_some(device)
        })
    })
    .map_err(step(format!("find the port {PORT}")))?;
    File::options()
        .read(true)
        .write(true)
        .open(&path)
        .map_err(step(format!("open {}", path.display())))
}

/// Waits until `look` finds something. The kernel announces every new device.
fn appearance<T>(what: &str, look: impl Fn() -> Option<T>) -> io::Result<T> {
    if let Some(found) = look() {
        return Ok(found);
    }
    let events = netlink(Some(KOBJECT_UEVENT))?;
    rustix::net::bind(&events, &SocketAddrNetlink::new(0, 1))?;
    let end = Instant::now() + PATIENCE;
    loop {
        // Only now is an event between this look and the wait not lost.
        if let Some(found) = look() {
            return Ok(found);
        }
        let left = end.saturating_duration_since(Instant::now());
        let timeout = Timespec::try_from(left).map_err(io::Error::other)?;
        match poll(&mut [PollFd::new(&events, PollFlags::IN)], Some(&timeout)) {
            Ok(0) => return Err(io::Error::new(io::ErrorKind::TimedOut, what.to_owned())),
            Ok(_) => match rustix::net::recv(&events, &mut [0; 4096], RecvFlags::DONTWAIT) {
                Ok(_) | Err(Errno::AGAIN | Errno::NOBUFS | Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            },
            Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

/// A netlink socket; without a protocol it is `NETLINK_ROUTE`, which has the number 0.
fn netlink(protocol: Option<rustix::net::Protocol>) -> io::Result<OwnedFd> {
    let flags = SocketFlags::CLOEXEC;
    let (family, kind) = (AddressFamily::NETLINK, SocketType::DGRAM);
    Ok(rustix::net::socket_with(family, kind, flags, protocol)?)
}

/// Puts the root together and enters it. Returns the folder of staged files, which has no path any
/// more but this one.
fn root(job: &Job) -> Result<PathBuf, StepError> {
    for path in ["/lab/upper", "/lab/work", ROOT] {
        folder(path)?;
    }
    squashfs(DISK, "/lab/lower")?;
    let options = if job.tools {
        squashfs(TOOLS_DISK, "/lab/tools")?;
        c"lowerdir=/lab/lower:/lab/tools,upperdir=/lab/upper,workdir=/lab/work"
    } else {
        c"lowerdir=/lab/lower,upperdir=/lab/upper,workdir=/lab/work"
    };
    mount(
        "overlay",
        ROOT,
        "overlay",
        MountFlags::empty(),
        Some(options),
    )
    .map_err(step("mount an overlay on the squashfs"))?;
    for (name, mode) in PLACES {
        let (from, to) = (format!("/{PLACED}/{name}"), format!("{ROOT}/{name}"));
        folder(&from)?;
        folder(&to)?;
        fs::set_permissions(&from, fs::Permissions::from_mode(mode.into()))
            .map_err(step(format!("set the mode of {from}")))?;
        mount_bind(&from, &to).map_err(step(format!("bind {from} to {to}")))?;
    }
    if job.tools {
        let to = format!("{ROOT}{TOOLS}");
        folder(&to)?;
        mount_bind("/lab/tools", &to).map_err(step(format!("bind the tools to {to}")))?;
    }
    folder(&format!("/{STAGED}"))?;
    let staged = File::open(format!("/{STAGED}")).map_err(step("open the staged files"))?;
    mount_move("/dev", format!("{ROOT}/dev")).map_err(step("move /dev into the root"))?;
    rustix::process::chdir(ROOT).map_err(step("enter the root file system"))?;
    mount_move(".", "/").map_err(step("make the overlay the root"))?;
    rustix::process::chroot(".").map_err(step("change the root"))?;
    rustix::process::chdir("/").map_err(step("enter the root"))?;
    // What mount namespaces expect of a system that was booted.
    let shared = MountPropagationFlags::SHARED | MountPropagationFlags::REC;
    mount_change("/", shared).map_err(step("share mounts"))?;
    // The descriptor stays open for as long as this process lives.
    let number = std::os::fd::IntoRawFd::into_raw_fd(staged);
    Ok(format!("/proc/self/fd/{number}").into())
}

/// Mounts a disk, once it is there.
fn squashfs(disk: &str, target: &str) -> Result<(), StepError> {
    appearance(disk, || Path::new(disk).exists().then_some(()))
        .map_err(step(format!("find {disk}")))?;
    folder(target)?;
    mount(disk, target, "squashfs", MountFlags::RDONLY, None)
        .map_err(step(format!("mount the squashfs of {disk}")))
}

/// What is done inside the root.
fn inside() -> Result<(), StepError> {
    for (kind, target, options) in MOUNTS {
        if target.starts_with("/dev/") {
            folder(target)?;
        }
        let flags = MountFlags::NOSUID | MountFlags::NOEXEC;
        mount(kind, target, kind, flags, Some(options))
            .map_err(step(format!("mount {kind} on {target}")))?;
    }
    for (link, target) in LINKS {
        match symlink(target, link) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                return Err(step(format!("link {link}"))(error));
            }
            _ => {}
        }
    }
    for device in OPEN_DEVICES {
        match fs::set_permissions(device, fs::Permissions::from_mode(0o666)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(step(format!("open {device} to everybody"))(error));
            }
            _ => {}
        }
    }
    controllers().map_err(step("enable the controllers of control groups"))?;
    loopback().map_err(step("bring up the loopback device"))?;
    user().map_err(step("add the ordinary user"))?;
    rustix::system::sethostname(b"lab").map_err(step("set the host name"))?;
    rustix::process::setsid().map_err(step("lead a session"))?;
    let files = Rlimit {
        current: Some(1024),
        maximum: Some(512 << 10),
    };
    rustix::process::setrlimit(Resource::Nofile, files).map_err(step("raise RLIMIT_NOFILE"))
}

fn controllers() -> io::Result<()> {
    let available = fs::read_to_string("/sys/fs/cgroup/cgroup.controllers")?;
    let all: Vec<String> = available
        .split_whitespace()
        .map(|name| format!("+{name}"))
        .collect();
    fs::write("/sys/fs/cgroup/cgroup.subtree_control", all.join(" "))
}

/// Asks the kernel by `RTM_NEWLINK` to set `IFF_UP` on the first interface, which is `lo`.
fn loopback() -> io::Result<()> {
    const NEW_LINK: u16 = 16;
    const REQUEST_WITH_ACK: u16 = 1 | 4;
    const LO: u32 = 1;
    const UP: u32 = 1;
    let mut request = Vec::new();
    request.extend(32_u32.to_ne_bytes());
    request.extend(NEW_LINK.to_ne_bytes());
    request.extend(REQUEST_WITH_ACK.to_ne_bytes());
    request.extend([0; 8]);
    // `ifinfomsg`: family and type of no meaning here, index, flags, which flags change.
    request.extend([0; 4]);
    for word in [LO, UP, UP] {
        request.extend(word.to_ne_bytes());
    }
    let socket = netlink(None)?;
    rustix::net::send(&socket, &request, SendFlags::empty())?;
    let mut answer = [0; 64];
    rustix::net::recv(&socket, &mut answer, RecvFlags::empty())?;
    // The answer's error number is behind its header.
    match answer {
        [
            _,
            _,
            _,
            _,
            2,
            0,
            _,
            _,
            _,
            _,
            _,
            _,
            _,
            _,
            _,
            _,
            0,
            0,
            0,
            0,
            ..,
        ] => Ok(()),
        _ => Err(io::Error::other(format!("netlink answers {answer:?}"))),
    }
}

/// Adds [`USER`] with a home.
fn user() -> io::Result<()> {
    use std::io::Write as _;
    let (name, id) = USER;
    let home = format!("/home/{name}");
    for (path, line) in [
        (
            "/etc/passwd",
            format!("{name}:x:{id}:{id}::{home}:/bin/sh\n"),
        ),
        ("/etc/group", format!("{name}:x:{id}:\n")),
        ("/etc/hosts", "127.0.0.1 lab\n".to_owned()),
    ] {
        let mut file = File::options().append(true).create(true).open(path)?;
        file.write_all(line.as_bytes())?;
    }
    fs::create_dir_all(&home)?;
    chown(&home, Some(id), Some(id))
}

fn copy(staged: &Path, file: &Copied) -> io::Result<()> {
    let path = Path::new(&file.path);
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder)?;
    }
    fs::copy(staged.join(&file.staged), path)?;
    Ok(())
}

fn folder(path: &str) -> Result<(), StepError> {
    match rustix::fs::mkdir(path, Mode::from_raw_mode(0o755)) {
        Ok(()) | Err(Errno::EXIST) => Ok(()),
        Err(error) => Err(step(format!("make the folder {path}"))(error)),
    }
}
