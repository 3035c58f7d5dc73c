//! Names of Unix sockets: abstract ones are the host's where there is no network namespace, and are
//! not given there; those with a path are, where the program may make files.
#![cfg(target_os = "linux")]
#![expect(clippy::unwrap_used, reason = "a test stops where it is surprised")]

mod common;

use common::{MODES, Outcome, python, run};
use ringfence_sandbox::{Access, Grant, Layer, Namespaces, Spec};
use std::fs;
use std::path::Path;

const PRELUDE: &str = "
import ctypes, errno, os, platform, socket, stat, struct, sys, threading, time
libc = ctypes.CDLL(None, use_errno=True)
def attempt(name, function):
    try: function(); print(name, 'ok')
    except OSError as error: print(name, errno.errorcode[error.errno])
def unix(kind=socket.SOCK_STREAM): return socket.socket(socket.AF_UNIX, kind)
";

fn code(code: &str, mode: Namespaces) -> Spec {
    python(&format!("{PRELUDE}{code}"), mode)
}

fn check(outcome: &Outcome, expected: impl Fn(&str) -> &'static str) {
    assert_eq!(outcome.code(), 0, "{}", outcome.errors());
    let text = outcome.text();
    for line in text.lines() {
        let (name, answer) = line.rsplit_once(' ').unwrap();
        assert_eq!(answer, expected(name), "{name}\n{}", outcome.errors());
    }
}

fn open_directory() -> tempfile::TempDir {
    common::open_directory(Path::new("/var/tmp"))
}

/// Whether a Unix socket of this network namespace has a name that contains this.
fn is_listed(part: &str) -> bool {
    let list = fs::read("/proc/net/unix").unwrap();
    String::from_utf8_lossy(&list).contains(part)
}

#[test]
fn names_that_others_could_connect_to_are_not_given() {
    let name = format!("ringfence-name-{}", std::process::id());
    let attempts = format!(
        "
for kind in socket.SOCK_STREAM, socket.SOCK_SEQPACKET, socket.SOCK_DGRAM:
    attempt(f'abstract {{kind}}', lambda: unix(kind).bind('\\0{name}'))
    attempt(f'empty {{kind}}', lambda: unix(kind).bind(''))
    attempt(f'only NUL {{kind}}', lambda: unix(kind).bind('\\0'))
    for option in 16, 76:
        attempt(f'option {{option}}', lambda: unix(kind).setsockopt(socket.SOL_SOCKET, option, 1))
server = unix(); kept.append(server)
def serve(): server.bind('\\0{name}'); server.listen()
attempt('serve', serve)
time.sleep(0.2)
"
    );
    for mode in MODES {
        let spec = code(&format!("kept = []\n{attempts}"), mode);
        let running = std::thread::spawn(|| run(spec));
        let mut seen = false;
        while !running.is_finished() {
            seen |= is_listed(&name);
            std::thread::yield_now();
        }
        assert!(!seen, "{mode:?}");
        let outcome = running.join().unwrap();
        let expected = if outcome.has(Layer::NetNs) {
            "ok"
        } else {
            "EPERM"
        };
        if mode == Namespaces::Off {
            assert_eq!(expected, "EPERM");
        }
        // The option's number is one that older kernels do not know.
        check(&outcome, |_name| expected);
    }
}

#[test]
fn memory_that_changes_meanwhile_gives_no_name_either() {
    let name = format!("ringfence-race-{}", std::process::id());
    let attempts = format!(
        "
addresses = [struct.pack('H', 1) + first + b'{name}' for first in (b'x', b'\\0')]
buffer = ctypes.create_string_buffer(addresses[0], 110)
end = time.monotonic() + 2
def swap():
    while time.monotonic() < end:
        for address in addresses: ctypes.memmove(buffer, address, len(address))
thread = threading.Thread(target=swap); thread.start()
counts = [0, 0]
number = ctypes.c_long(200 if platform.machine() == 'aarch64' else 49)
while time.monotonic() < end:
    with unix() as s:
        ctypes.set_errno(0)
        bound = libc.syscall(number, ctypes.c_long(s.fileno()), buffer, ctypes.c_long(len(addresses[0]))) == 0
        counts[bound] += 1
        if bound:
            assert s.getsockname() == 'x{name}', s.getsockname()
            os.unlink('x{name}')
        else: assert ctypes.get_errno() == errno.EPERM, ctypes.get_errno()
thread.join()
assert min(counts) > 10, counts
print('counted ok')
"
    );
    check(&run(code(&attempts, Namespaces::Off)), |_name| "ok");
}

const PATHS: &str = "
def bound(path, kind=socket.SOCK_STREAM):
    s = unix(kind); s.bind(path); return s
def told(path):
    with bound(path) as s: assert s.getsockname() == path, s.getsockname()
def made(path, mask):
    old = os.umask(mask)
    with bound(path): pass
    os.umask(old)
    found = os.stat(path)
    assert stat.S_ISSOCK(found.st_mode) and found.st_mode & 0o777 == 0o777 & ~mask, oct(found.st_mode)
    assert (found.st_uid, found.st_gid) == (os.geteuid(), os.getegid())
os.mkdir('directory'); open('file', 'w').close(); os.symlink('directory', 'link')
attempt('relative', lambda: told('relative'))
attempt('absolute', lambda: told(os.path.abspath('absolute')))
attempt('below', lambda: told('./directory/../directory//below'))
attempt('by a link', lambda: told('link/by'))
attempt('temporary', lambda: told(os.environ['TMPDIR'] + '/socket'))
attempt('granted', lambda: told(granted + '/socket'))
attempt('longest', lambda: told('directory/' + 97 * 'n'))
attempt('masked', lambda: made('masked', 0o077))
attempt('open', lambda: made('open', 0))
attempt('again EADDRINUSE', lambda: bound('relative'))
attempt('over a file EADDRINUSE', lambda: bound('file'))
attempt('missing ENOENT', lambda: bound('missing/socket'))
attempt('below a file ENOTDIR', lambda: bound('file/socket'))
attempt('outside EACCES', lambda: bound(outside + '/socket'))
os.symlink(outside, 'bad')
attempt('by a link outside EACCES', lambda: bound('bad/socket'))
attempt('parents EACCES', lambda: bound('../../../../../../../../../..' + outside + '/socket'))
attempt('system EACCES', lambda: bound('/usr/socket'))
s = bound('once')
attempt('twice EINVAL', lambda: s.bind('twice'))
one, other = socket.socketpair()
call = lambda *args: libc.syscall(ctypes.c_long(200 if platform.machine() == 'aarch64' else 49), *[ctypes.c_long(a) if isinstance(a, int) else a for a in args])
def raw(name, *args):
    ctypes.set_errno(0)
    print(name, 'ok' if call(*args) == 0 else errno.errorcode[ctypes.get_errno()])
address = struct.pack('H', 1) + b'raw'
raw('no socket ENOTSOCK', 1, address, len(address))
raw('no descriptor EBADF', 999, address, len(address))
idle = unix()
raw('family EINVAL', idle.fileno(), struct.pack('H', 2) + bytes(14), 16)
raw('short EINVAL', idle.fileno(), address, 1)
raw('long EINVAL', idle.fileno(), bytes(200), 200)
raw('negative EINVAL', idle.fileno(), address, 0xffffffff)
raw('nowhere EFAULT', idle.fileno(), 1, 5)
raw('after all of this', idle.fileno(), address, len(address))
assert idle.getsockname() == 'raw'
for kind in socket.SOCK_STREAM, socket.SOCK_SEQPACKET:
    with unix(kind) as server:
        server.setblocking(False)
        assert not os.get_inheritable(server.fileno())
        server.bind(f'kind{kind}')
        assert not server.getblocking() and not os.get_inheritable(server.fileno())
        assert server.getsockopt(socket.SOL_SOCKET, socket.SO_TYPE) == kind
        server.listen()
        with unix(kind) as client:
            client.connect(f'kind{kind}'); client.send(b'x')
            server.setblocking(True)
            peer, _ = server.accept()
            credentials = lambda s: struct.unpack('3i', s.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
            assert credentials(client) == (os.getpid(), os.getuid(), os.getgid()), credentials(client)
            assert credentials(peer)[1:] == (os.getuid(), os.getgid())
            assert peer.recv(9) == b'x'
def datagrams():
    try: server, client = unix(socket.SOCK_DGRAM), unix(socket.SOCK_DGRAM)
    except PermissionError: return # The filter closes them where nothing else could.
    server.bind('datagrams'); client.sendto(b'x', 'datagrams')
    assert server.recv(9) == b'x'
attempt('datagrams', datagrams)
os.chdir('directory')
attempt('elsewhere', lambda: told('elsewhere')); assert os.path.exists('../directory/elsewhere')
def in_thread():
    errors = []
    def run():
        try: told('thread')
        except OSError as error: errors.append(error)
    thread = threading.Thread(target=run); thread.start(); thread.join()
    if errors: raise errors[0]
attempt('thread', in_thread)
";

#[test]
fn paths_are_names_where_the_program_may_make_files() {
    for mode in MODES {
        let (outside, granted) = (open_directory(), open_directory());
        let given = format!(
            "granted, outside = {:?}, {:?}\n{PATHS}",
            granted.path(),
            outside.path()
        );
        let mut spec = code(&given, mode);
        spec.grants = vec![Grant {
            path: granted.path().into(),
            destination: None,
            access: Access::ReadWrite,
        }];
        let outcome = run(spec);
        assert_eq!(outcome.code(), 0, "{}", outcome.errors());
        let named = outcome.has(Layer::NetNs);
        for line in outcome.text().lines() {
            let (name, answer) = line.rsplit_once(' ').unwrap();
            let expected = name.rsplit(' ').next().unwrap();
            let expected = match expected.starts_with('E') {
                true => expected,
                false => "ok",
            };
            // In a private root what is outside is not there.
            let gone = named && expected == "EACCES" && ["ENOENT", "EROFS"].contains(&answer);
            assert!(gone || answer == expected, "{mode:?} {line}");
        }
        assert_eq!(fs::read_dir(outside.path()).unwrap().count(), 0);
        assert!(granted.path().join("socket").exists());
    }
}

#[test]
fn a_way_that_is_swapped_meanwhile_leads_nowhere_outside() {
    let outside = open_directory();
    let attempts = format!(
        "
outside = {:?}
os.mkdir('inside'); os.symlink('inside', 'way')
end = time.monotonic() + 2
def swap():
    turn = 0
    while time.monotonic() < end:
        turn ^= 1
        os.symlink(outside if turn else 'inside', 'next'); os.rename('next', 'way')
thread = threading.Thread(target=swap); thread.start()
counts = [0, 0]
while time.monotonic() < end:
    with unix() as s:
        try: s.bind('way/socket')
        except OSError as error:
            assert error.errno == errno.EACCES, error
            counts[0] += 1
        else:
            os.unlink('inside/socket')
            counts[1] += 1
thread.join()
assert min(counts) > 10, counts
print('counted ok')
",
        outside.path()
    );
    check(&run(code(&attempts, Namespaces::Off)), |_name| "ok");
    assert_eq!(fs::read_dir(outside.path()).unwrap().count(), 0);
}

const SERVERS: &str = "
import asyncio, multiprocessing, multiprocessing.connection, socketserver, subprocess, tempfile
from multiprocessing.managers import BaseManager

def connection():
    with multiprocessing.connection.Listener(family='AF_UNIX') as listener:
        def talk():
            with multiprocessing.connection.Client(listener.address) as client: client.send([6, 7])
        thread = threading.Thread(target=talk); thread.start()
        with listener.accept() as peer: a, b = peer.recv()
        thread.join()
        assert a * b == 42

class Counter:
    value = 0
    def add(self, number): self.value += number; return self.value
class Manager(BaseManager): pass
Manager.register('Counter', Counter)
def manager():
    manager = Manager(ctx=multiprocessing.get_context('fork')); manager.start()
    counter = manager.Counter(); counter.add(40); assert counter.add(2) == 42
    manager.shutdown()

async def talk():
    async def answer(reader, writer):
        writer.write((await reader.readline()).upper()); await writer.drain(); writer.close()
    server = await asyncio.start_unix_server(answer, 'asynchronous')
    reader, writer = await asyncio.open_unix_connection('asynchronous')
    writer.write(b'hello\\n')
    assert await reader.readline() == b'HELLO\\n'
    writer.close(); server.close(); await server.wait_closed()

def threads():
    class Handler(socketserver.StreamRequestHandler):
        def handle(self): self.wfile.write(self.rfile.readline())
    with socketserver.ThreadingUnixStreamServer(os.path.abspath('threads'), Handler) as server:
        thread = threading.Thread(target=server.serve_forever); thread.start()
        client = unix(); client.connect(server.server_address); client.send(b'x\\n')
        assert client.recv(9) == b'x\\n'
        server.shutdown(); thread.join()

def other():
    server = unix(); server.bind('other'); server.listen()
    child = subprocess.Popen([sys.executable, '-c', '''
import socket
s = socket.socket(socket.AF_UNIX); s.connect(\"other\"); s.send(b\"x\")'''])
    assert server.accept()[0].recv(9) == b'x' and child.wait() == 0

attempt('connection', connection)
attempt('manager', manager)
attempt('asynchronous', lambda: asyncio.run(talk()))
attempt('threads', threads)
attempt('other', other)
";

#[test]
fn servers_work() {
    for mode in MODES {
        check(&run(code(SERVERS, mode)), |_name| "ok");
    }
}

#[test]
fn whoever_is_killed_while_held_leaves_no_process() {
    let attempts = "
import subprocess
child = '''
import os, socket, itertools
for number in itertools.count():
    with socket.socket(socket.AF_UNIX) as s: s.bind(f\"s{os.getpid()}-{number}\")
'''
for _ in range(10):
    process = subprocess.Popen([sys.executable, '-c', child])
    time.sleep(0.1); process.kill(); process.wait()
with unix() as s: s.bind('last')
print('last ok')
";
    let mut spec = code(attempts, Namespaces::Off);
    let marker = format!("ringfence-marker-{}", std::process::id());
    spec.args.push(marker.clone().into());
    check(&run(spec), |_name| "ok");
    assert_eq!(common::processes_with(&marker), Vec::<u32>::new());
}

#[test]
fn the_same_holds_for_an_unprivileged_caller() {
    common::repeat_unprivileged(&["the_same_holds"]);
}
