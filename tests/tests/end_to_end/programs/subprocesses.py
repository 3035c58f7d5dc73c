# Everything that `subprocess` can do, signals included.
import os, signal, subprocess, sys

run = subprocess.run
assert run(["cat"], input=b"x" * 1_000_000, capture_output=True, check=True).stdout == b"x" * 1_000_000
assert run("echo $((6*7))", shell=True, capture_output=True, text=True).stdout == "42\n"
assert run([sys.executable, "-c", "print(6*7)"], capture_output=True, text=True).stdout == "42\n"
assert run(["false"]).returncode == 1
assert run(["true"], close_fds=False).returncode == 0
try:
    run(["nothing-of-that-name"])
except FileNotFoundError:
    pass
else:
    raise SystemExit("a program that is not there ran")
try:
    run(["sleep", "60"], timeout=0.1)
except subprocess.TimeoutExpired:
    pass
else:
    raise SystemExit("no timeout")
child = subprocess.Popen(["sleep", "60"], start_new_session=True)
child.terminate()
assert child.wait(20) == -signal.SIGTERM
child = subprocess.Popen(["sleep", "60"], preexec_fn=os.setpgrp)
os.killpg(child.pid, signal.SIGKILL)
assert child.wait(20) == -signal.SIGKILL
one = subprocess.Popen(["echo", "piped"], stdout=subprocess.PIPE)
two = subprocess.Popen(["tr", "a-z", "A-Z"], stdin=one.stdout, stdout=subprocess.PIPE)
one.stdout.close()
assert two.communicate()[0] == b"PIPED\n"
assert one.wait() == 0
pid = os.posix_spawn("/bin/sh", ["sh", "-c", "exit 7"], os.environ)
assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 7
assert os.system("exit 3") >> 8 == 3
signal.signal(signal.SIGALRM, lambda *_: None)
signal.setitimer(signal.ITIMER_REAL, 0.01)
signal.pause()
pid = os.fork()
if pid == 0:
    os.abort()
assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -signal.SIGABRT
print("ok")
