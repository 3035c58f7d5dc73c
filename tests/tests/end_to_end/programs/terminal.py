# A terminal of the sandbox's own.
import fcntl, os, pty, struct, termios, tty

master, slave = pty.openpty()
assert os.isatty(slave)
assert os.ttyname(slave).startswith("/dev/pts/")
tty.setraw(slave)
fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 100, 0, 0))
os.write(master, b"typed")
assert os.read(slave, 5) == b"typed"
pid, terminal = pty.fork()
if pid == 0:
    os.execvp("sh", ["sh", "-c", "test -t 0 && test -t 1 && tty && exec < /dev/tty && stty size && echo done"])
out = b""
while True:
    try:
        data = os.read(terminal, 1000)
    except OSError:
        break
    if not data:
        break
    out += data
assert b"done" in out and b"/dev/pts/" in out, out
assert os.waitpid(pid, 0)[1] == 0
print("ok")
