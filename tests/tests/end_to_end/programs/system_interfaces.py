# Calls that programs make in passing and that a filter easily breaks.
import ctypes, fcntl, mmap, os, platform, resource, select, selectors, shutil, signal, stat, sys, time

assert os.cpu_count() > 0 and len(os.sched_getaffinity(0)) > 0
os.sched_setaffinity(0, os.sched_getaffinity(0))
os.nice(1)
os.getpriority(os.PRIO_PROCESS, 0)
soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
resource.setrlimit(resource.RLIMIT_NOFILE, (min(soft, 100), hard))
assert os.sysconf("SC_PAGE_SIZE") > 0 and os.uname().sysname == "Linux"
platform.platform()
assert os.urandom(8) != os.getrandom(8)
assert time.clock_gettime(time.CLOCK_MONOTONIC) > 0 and time.process_time() >= 0
os.getloadavg()
with open("file", "wb+") as file:
    file.write(b"0" * 8192)
    file.flush()
    fcntl.flock(file, fcntl.LOCK_EX)
    fcntl.lockf(file, fcntl.LOCK_EX)
    os.posix_fallocate(file.fileno(), 0, 16384)
    os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    os.fsync(file.fileno())
    os.ftruncate(file.fileno(), 8192)
    with mmap.mmap(file.fileno(), 8192) as area:
        area[:5] = b"hello"
        area.flush()
    os.pread(file.fileno(), 5, 0)
    with open("copy", "wb") as copy:
        os.sendfile(copy.fileno(), file.fileno(), 0, 4096)
        os.copy_file_range(file.fileno(), copy.fileno(), 4096)
os.chmod("file", 0o600)
os.utime("file", (1, 1))
os.chown("file", os.getuid(), -1)
os.link("file", "linked")
os.symlink("file", "symbolic")
os.makedirs("a/b/c")
os.rename("copy", "a/b/copy")
os.replace("a/b/copy", "a/copy")
shutil.copy2("file", "second")
shutil.copytree("a", "tree")
shutil.rmtree("a")
try:
    os.setxattr("file", "user.name", b"value")
    assert os.getxattr("file", "user.name") == b"value"
except OSError as error:
    # File systems without attributes say so.
    assert error.errno in (95, 1), error
os.mkfifo("fifo")
assert stat.S_ISFIFO(os.stat("fifo").st_mode)
memory = os.memfd_create("name")
os.write(memory, b"x")
libc = ctypes.CDLL(None, use_errno=True)
assert libc.getpid() == os.getpid()
# A callback: libffi needs executable memory.
order = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_int), ctypes.POINTER(ctypes.c_int))
numbers = (ctypes.c_int * 3)(3, 1, 2)
libc.qsort(numbers, 3, ctypes.sizeof(ctypes.c_int), order(lambda a, b: a[0] - b[0]))
assert list(numbers) == [1, 2, 3]
poll = select.epoll()
reader, writer = os.pipe()
poll.register(reader, select.EPOLLIN)
os.write(writer, b"x")
assert poll.poll(1)
assert select.select([reader], [], [], 1)[0] == [reader]
with selectors.DefaultSelector() as selector:
    selector.register(reader, selectors.EVENT_READ)
    assert selector.select(1)
os.close(os.pidfd_open(os.getpid()))
signal.set_wakeup_fd(-1)
os.umask(0o077)
os.getgroups()
assert os.path.realpath("/proc/self/exe") == os.path.realpath(sys.executable)
assert open("/proc/self/status").read() and open("/proc/self/maps").read()
assert os.listdir("/proc/self/fd") and os.listdir("/proc/self/task")
print("ok")
