//! Metadata and sockets outside the workspace, where no mount namespace hides them: each change is
//! tried from inside, by every system call that could make it, and the file outside is looked at
//! afterwards.
#![cfg(target_os = "linux")]
#![expect(clippy::unwrap_used, reason = "a test stops where it is surprised")]

mod common;

use common::{Outcome, python, run};
use ringfence_sandbox::{Access, Ended, Grant, Namespaces, Spec};
use rustix::fs::{CWD, RenameFlags, renameat_with};
use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

const PRELUDE: &str = "
import ctypes, errno, os, platform, socket, struct, sys, threading, time
libc = ctypes.CDLL(None, use_errno=True)
arm = platform.machine() == 'aarch64'
def call(name, x86, arm64, *args):
    number = arm64 if arm else x86
    if number is None: return
    ctypes.set_errno(0)
    result = libc.syscall(ctypes.c_long(number), *[ctypes.c_long(a) if isinstance(a, int) else a for a in args])
    print(name, 'ok' if result >= 0 else errno.errorcode[ctypes.get_errno()])
def attempt(name, function):
    try: function(); print(name, 'ok')
    except OSError as error: print(name, errno.errorcode[error.errno])
here = -100
null = ctypes.c_void_p(0)
";

/// Tries everything on `path`, which is set before, and on `descriptor`, open for reading.
const EVERYTHING: &str = "
p = path.encode()
directory, name = os.open(os.path.dirname(path), os.O_PATH), os.path.basename(path).encode()
descriptor = os.open(path, os.O_PATH)
def readable():
    try: return os.open(path, os.O_RDONLY)
    except OSError: return descriptor
reading = readable()
times = struct.pack('qqqq', 5, 5, 5, 5)
uid, gid = os.getuid(), os.getgid()
call('chmod', 90, None, p, 0o600)
call('fchmodat', 268, 53, here, p, 0o600)
call('fchmodat descriptor', 268, 53, directory, name, 0o600)
call('fchmodat2', 452, 452, here, p, 0o600, 0)
call('fchmodat2 empty', 452, 452, descriptor, b'', 0o600, 0x1000)
call('fchmod', 91, 52, reading, 0o600)
call('fchmod proc', 268, 53, here, b'/proc/self/fd/%d' % descriptor, 0o600)
call('chown', 92, None, p, uid, gid)
call('lchown', 94, None, p, uid, gid)
call('fchown', 93, 55, reading, uid, gid)
call('fchownat', 260, 54, here, p, uid, gid, 0)
call('fchownat empty', 260, 54, descriptor, b'', uid, gid, 0x1000)
call('utime', 132, None, p, times)
call('utimes', 235, None, p, times)
call('futimesat', 261, None, directory, name, times)
call('utimensat', 280, 88, here, p, times, 0)
call('utimensat now', 280, 88, here, p, null, 0x100)
call('utimensat descriptor', 280, 88, reading, null, times, 0)
call('setxattr', 188, 5, p, b'user.x', b'y', 1, 0)
call('lsetxattr', 189, 6, p, b'user.x', b'y', 1, 0)
call('fsetxattr', 190, 7, reading, b'user.x', b'y', 1, 0)
value = ctypes.create_string_buffer(b'y')
rest = struct.pack('QII', ctypes.addressof(value), 1, 0)
call('setxattrat', 463, 463, here, p, 0, b'user.x', rest, 16)
call('removexattr', 197, 14, p, b'user.x')
call('lremovexattr', 198, 15, p, b'user.x')
call('fremovexattr', 199, 16, reading, b'user.x')
call('removexattrat', 466, 466, here, p, 0, b'user.x')
call('setflags', 16, 29, reading, 0x40086602, struct.pack('q', 0x40))
call('setproject', 16, 29, reading, 0x401c5820, bytes(28))
";

fn lines(outcome: &Outcome) -> Vec<(String, String)> {
    assert_eq!(outcome.code(), 0, "{}", outcome.errors());
    let text = outcome.text();
    let lines = text.lines().filter_map(|line| line.rsplit_once(' '));
    lines
        .map(|(name, answer)| (name.into(), answer.into()))
        .collect()
}

/// Without namespaces, with one directory that may be written to.
fn off(code: &str, writable: Option<&Path>) -> Spec {
    let mut spec = python(&format!("{PRELUDE}{code}"), Namespaces::Off);
    spec.grants = writable
        .map(|path| Grant {
            path: path.into(),
            destination: None,
            access: Access::ReadWrite,
        })
        .into_iter()
        .collect();
    spec
}

fn open_directory() -> tempfile::TempDir {
    common::open_directory(Path::new("/var/tmp"))
}

/// What a program could change of a file.
fn state(path: &Path) -> (u32, u32, u32, i64, i64, i64, u64) {
    let found = fs::symlink_metadata(path).unwrap();
    (
        found.mode(),
        found.uid(),
        found.gid(),
        found.mtime(),
        found.mtime_nsec(),
        found.ctime_nsec(),
        found.nlink(),
    )
}

#[test]
fn metadata_outside_stays_as_it_is() {
    let outside = open_directory();
    let file = outside.path().join("file");
    fs::write(&file, "content").unwrap();
    fs::set_permissions(&file, fs::Permissions::from_mode(0o666)).unwrap();
    let before = (state(&file), state(outside.path()));
    let code = format!("path = {file:?}\n{EVERYTHING}");
    let outcome = run(off(&code, None));
    let lines = lines(&outcome);
    // arm64 has none of the older calls.
    let tries = if cfg!(target_arch = "aarch64") {
        22
    } else {
        28
    };
    assert_eq!(lines.len(), tries, "{}", outcome.text());
    for (name, answer) in &lines {
        // What is open by its path alone takes no requests at all.
        let path_alone = name.starts_with("set") && answer == "EBADF";
        assert!(answer == "EPERM" || path_alone, "{name}: {answer}");
    }
    assert_eq!(before, (state(&file), state(outside.path())));
}

#[test]
fn metadata_is_changed_where_the_program_may_write() {
    let granted = open_directory();
    let places = [
        "os.environ['WORKSPACE']".to_owned(),
        "os.environ['TMPDIR']".to_owned(),
        format!("{:?}", granted.path()),
    ];
    for place in places {
        let code = format!(
            "
path = os.path.join({place}, 'file')
open(path, 'w').close()
{EVERYTHING}
os.chmod(path, 0o640); os.utime(path, (7, 8))
print('mode', oct(os.stat(path).st_mode & 0o7777))
print('times', '%d,%d' % (os.stat(path).st_atime, os.stat(path).st_mtime))
os.chdir(os.path.dirname(path))
attempt('relative', lambda: os.chmod('./file', 0o604))
attempt('itself', lambda: os.chmod('.', 0o755))
os.mkdir('directory'); os.chdir('directory')
attempt('upwards', lambda: os.chmod('../file', 0o600))
os.symlink('../file', 'link'); os.symlink(path, 'absolute')
attempt('link', lambda: os.chmod('link', 0o611))
attempt('absolute', lambda: os.chmod('absolute', 0o617))
attempt('link itself', lambda: os.utime('link', (1, 1), follow_symlinks=False))
print('after', oct(os.stat(path).st_mode & 0o7777))
attempt('missing', lambda: os.chmod('missing', 0o600))
attempt('too long', lambda: os.chmod('x' * 5000, 0o600))
call('no address', 268, 53, here, 16, 0o600)
call('no descriptor', 91, 52, 999, 0o600)
call('set-user-ID', 268, 53, here, b'../file', 0o4755)
attempt('foreign attribute', lambda: os.setxattr('../file', 'security.capability', b'x'))
"
        );
        let outcome = run(off(&code, Some(granted.path())));
        for (name, answer) in lines(&outcome) {
            let expected: &[&str] = match name.as_str() {
                "setflags" | "setproject" | "set-user-ID" | "foreign attribute" => &["EPERM"],
                "mode" => &["0o640"],
                "times" => &["7,8"],
                "after" => &["0o617"],
                // Root's own directory, and the program has a user of its own.
                "itself" if common::is_root() && !place.starts_with("os.") => &["EPERM"],
                "missing" => &["ENOENT"],
                "too long" => &["ENAMETOOLONG"],
                "no address" => &["EFAULT"],
                "no descriptor" => &["EBADF"],
                // Gone with the first of these.
                "lremovexattr" | "fremovexattr" | "removexattrat" => &["ENODATA", "EOPNOTSUPP"],
                name if name.contains("xattr") => &["ok", "EOPNOTSUPP", "ENODATA"],
                _ => &["ok"],
            };
            assert!(
                expected.contains(&answer.as_str()),
                "{place} {name}: {answer}\n{}",
                outcome.errors()
            );
        }
        for entry in ["directory/link", "directory/absolute"] {
            let _ = fs::remove_file(granted.path().join(entry));
        }
        let _ = fs::remove_dir(granted.path().join("directory"));
        let _ = fs::remove_file(granted.path().join("file"));
    }
}

#[test]
fn a_link_that_is_swapped_meanwhile_leads_nowhere_outside() {
    let outside = open_directory();
    let file = outside.path().join("file");
    fs::write(&file, "content").unwrap();
    fs::set_permissions(&file, fs::Permissions::from_mode(0o666)).unwrap();
    let before = state(&file);
    let code = format!(
        "
outside = {:?}
os.mkdir('inside'); open('inside/file', 'w').close()
os.symlink('inside', 'good'); os.symlink(outside, 'bad')
os.symlink('inside', 'way')
buffer = ctypes.create_string_buffer(b'inside/file'.ljust(200, b'\\0'))
targets = [b'inside/file'.ljust(200, b'\\0'), (outside + '/file').encode().ljust(200, b'\\0')]
end = time.monotonic() + 2
def swap():
    # Both what the path means and the path itself change under the supervisor's eyes.
    turn = 0
    while time.monotonic() < end:
        turn ^= 1
        os.symlink(outside if turn else 'inside', 'next'); os.rename('next', 'way')
        ctypes.memmove(buffer, targets[turn], 200)
thread = threading.Thread(target=swap); thread.start()
counts = [0, 0]
while time.monotonic() < end:
    for path in b'way/file', buffer:
        result = libc.syscall(ctypes.c_long(268 if not arm else 53), ctypes.c_long(-100), path, ctypes.c_long(0o600))
        counts[result >= 0] += 1
thread.join()
print('counts', *counts)
",
        outside.path()
    );
    let outcome = run(off(&code, None));
    assert_eq!(outcome.code(), 0, "{}", outcome.errors());
    let text = outcome.text();
    let counts: Vec<u32> = text
        .split(' ')
        .filter_map(|word| word.parse().ok())
        .collect();
    assert!(counts.iter().all(|count| *count > 10), "{text}");
    assert_eq!(before, state(&file));
}

#[test]
fn only_sockets_inside_are_connected_to() {
    let (outside, granted) = (open_directory(), open_directory());
    let listen = |directory: &Path| {
        let path = directory.join("socket");
        let listener = UnixListener::bind(&path).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o777)).unwrap();
        listener.set_nonblocking(true).unwrap();
        (path, listener)
    };
    let (far, far_listener) = listen(outside.path());
    let (near, near_listener) = listen(granted.path());
    let code = format!(
        "
far, near = {far:?}, {near:?}
def connect(path, kind=socket.SOCK_STREAM):
    s = socket.socket(socket.AF_UNIX, kind); s.connect(path); return s
attempt('far', lambda: connect(far))
os.symlink(far, 'link')
attempt('link', lambda: connect('link'))
attempt('abstract', lambda: connect('\\0ringfence-nobody'))
for name, kind in ('datagram', socket.SOCK_DGRAM), ('raw', 3):
    attempt(name, lambda: socket.socket(socket.AF_UNIX, kind))
    attempt(name + ' pair', lambda: socket.socketpair(socket.AF_UNIX, kind))
attempt('near', lambda: connect(near))
for kind in socket.SOCK_STREAM, socket.SOCK_SEQPACKET:
    server = socket.socket(socket.AF_UNIX, kind)
    server.bind(f'own{{kind}}'); server.listen()
    def talk(path):
        s = connect(path, kind)
        peer, _ = server.accept()
        s.send(b'hello'); assert peer.recv(9) == b'hello'
        peer.send(b'back'); assert s.recv(9) == b'back'
        credentials = struct.unpack('3i', peer.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
        assert credentials[1:] == (os.getuid(), os.getgid()), credentials
        assert s.getblocking() and not os.get_inheritable(s.fileno())
    attempt(f'own {{kind}}', lambda: talk(f'own{{kind}}'))
    attempt(f'own absolute {{kind}}', lambda: talk(os.path.abspath(f'own{{kind}}')))
attempt('missing', lambda: connect('missing'))
open('file', 'w').close()
attempt('no socket', lambda: connect('file'))
call('no socket at all', 42, 203, 1, struct.pack('H108s', 1, b'own1'), 110)
idle = socket.socket(socket.AF_UNIX)
call('empty', 42, 203, idle.fileno(), struct.pack('H', 1), 2)
call('too long', 42, 203, idle.fileno(), bytes(200), 200)
"
    );
    let outcome = run(off(&code, Some(granted.path())));
    for (name, answer) in lines(&outcome) {
        let expected = match name.as_str() {
            "far" | "link" => "EACCES",
            "abstract" | "datagram" | "datagram pair" | "raw" | "raw pair" => "EPERM",
            "missing" => "ENOENT",
            "no socket" => "ECONNREFUSED",
            "no socket at all" => "ENOTSOCK",
            "empty" | "too long" => "EINVAL",
            _ => "ok",
        };
        assert_eq!(answer, expected, "{name}\n{}", outcome.errors());
    }
    assert!(near_listener.accept().is_ok());
    assert!(far_listener.accept().is_err());
}

#[test]
fn a_full_queue_is_waited_for_and_delays_no_limit() {
    let code = "
server = socket.socket(socket.AF_UNIX); server.bind('own'); server.listen(0)
def client(number):
    s = socket.socket(socket.AF_UNIX); s.connect('own'); s.send(b'%d' % number)
clients = [threading.Thread(target=client, args=(number,)) for number in range(8)]
for thread in clients: thread.start()
time.sleep(0.1)
print(sorted(int(server.accept()[0].recv(9)) for _ in clients))
eager = [socket.socket(socket.AF_UNIX) for _ in range(4)]
for s in eager: s.setblocking(False)
print([s.connect_ex('own') == errno.EAGAIN for s in eager])
server.close(); server = socket.socket(socket.AF_UNIX); server.bind('other'); server.listen(0)
sys.stdout.flush()
while True: eager.append(socket.socket(socket.AF_UNIX)); eager[-1].connect('other')
";
    let mut spec = off(code, None);
    spec.limits.wall = Some(Duration::from_secs(6));
    let outcome = run(spec);
    assert_eq!(
        outcome.report.ended,
        Ended::TimedOut,
        "{}",
        outcome.errors()
    );
    let text = outcome.text();
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(
        lines,
        ["[0, 1, 2, 3, 4, 5, 6, 7]", "[False, True, True, True]"]
    );
}

#[test]
fn limits_hold_while_calls_are_held() {
    let code = "
open('file', 'w').close()
def change():
    while True: os.chmod('file', 0o600)
for _ in range(8): threading.Thread(target=change, daemon=True).start()
change()
";
    let mut spec = off(code, None);
    spec.limits.wall = Some(Duration::from_millis(700));
    let begin = Instant::now();
    let outcome = run(spec);
    assert_eq!(outcome.report.ended, Ended::TimedOut);
    assert!(begin.elapsed() < Duration::from_secs(5));
}

#[test]
fn whoever_is_killed_while_held_is_no_loss() {
    let code = "
import signal
open('file', 'w').close()
for _ in range(50):
    pid = os.fork()
    if pid == 0:
        while True: os.chmod('file', 0o600)
    time.sleep(0.002)
    os.kill(pid, signal.SIGKILL); os.waitpid(pid, 0)
os.chmod('file', 0o640)
print(oct(os.stat('file').st_mode & 0o777))
";
    let outcome = run(off(code, None));
    assert_eq!(outcome.text(), "0o640", "{}", outcome.errors());
}

#[test]
fn programs_that_set_metadata_work() {
    let script = "
set -e
mkdir tree; echo x >tree/a; ln -s a tree/l; chmod 640 tree/a; touch -d @5 tree/a; touch -h -d @6 tree/l
cp -a tree copy; test $(stat -c %a-%Y copy/a) = 640-5; test $(stat -c %Y copy/l) = 6
tar cf t.tar tree; mkdir out; tar xpf t.tar -C out; test $(stat -c %a-%Y out/tree/a) = 640-5
install -m 711 tree/a installed; test $(stat -c %a installed) = 711
chmod -R u+rwX,go-rwx .; chown -R $(id -u):$(id -g) .; mv out $TMPDIR/moved
f=$(mktemp); touch -r tree/a $f; test $(stat -c %Y $f) = 5
if command -v git; then
  git init -q repo; cd repo; echo x >f; chmod +x f; git add f
  git -c user.name=n -c user.email=e commit -qm m; git gc -q; git log --format=%s; cd ..
fi
if command -v gcc; then echo 'int main(){return 0;}' >m.c; gcc m.c -o m; ./m; strip m; fi
python3 - <<END
import shutil, sqlite3, multiprocessing, zipfile
shutil.copytree('tree', 'third', symlinks=True)
sqlite3.connect('base').execute('create table t(a)')
def worker(q): q.put(6 * 7)
q = multiprocessing.Manager().Queue()
p = multiprocessing.Process(target=worker, args=(q,)); p.start(); print(q.get()); p.join()
END
echo done
";
    let mut spec = common::shell(script, Namespaces::Off);
    spec.limits.wall = Some(Duration::from_secs(60));
    let outcome = run(spec);
    assert_eq!(outcome.code(), 0, "{}", outcome.errors());
    let text = outcome.text();
    assert!(text.contains("42") && text.ends_with("done"), "{text}");
}

/// Another sandbox may write beside what is granted to this one, and swaps it for a link all the
/// time. What was judged is what the supervisor acts on.
#[test]
fn a_grant_that_is_swapped_for_a_link_leads_nowhere_else() {
    let place = common::open_directory(&std::env::temp_dir());
    let top = place.path().canonicalize().unwrap();
    let [granted, link, secret] = ["granted", "link", "secret"].map(|name| top.join(name));
    for directory in [&granted, &secret] {
        fs::create_dir(directory).unwrap();
        fs::write(directory.join("key"), "").unwrap();
        fs::set_permissions(directory.join("key"), fs::Permissions::from_mode(0o604)).unwrap();
    }
    symlink("secret", &link).unwrap();
    let key = secret.join("key");
    let stop = AtomicBool::new(false);
    let (mut kept, mut changed) = (0, Vec::new());
    thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                let _ = renameat_with(CWD, &granted, CWD, &link, RenameFlags::EXCHANGE);
            }
        });
        for _ in 0..100 {
            // The path itself may have been a link when it was judged: then the link's target was
            // granted.
            let mut spec = common::shell(
                "chmod 666 \"$1/key\" 2>/dev/null; cat \"$2\" && echo granted; true",
                Namespaces::Off,
            );
            spec.args
                .extend(["sh".into(), granted.clone().into(), key.clone().into()]);
            spec.grants.push(Grant {
                path: granted.clone(),
                destination: None,
                access: Access::ReadWrite,
            });
            let Ok(running) = ringfence_sandbox::spawn(spec) else {
                continue;
            };
            let outcome = common::finish(running, Vec::new());
            let mode = fs::metadata(&key).unwrap().mode() & 0o777;
            fs::set_permissions(&key, fs::Permissions::from_mode(0o604)).unwrap();
            if outcome.text() != "granted" {
                kept += 1;
                changed.extend((mode != 0o604).then_some(mode));
            }
        }
        stop.store(true, Ordering::Relaxed);
    });
    assert!(kept > 0);
    assert_eq!(changed, [0; 0]);
}

#[test]
fn the_same_holds_for_an_unprivileged_caller() {
    common::repeat_unprivileged(&["the_same_holds"]);
}
