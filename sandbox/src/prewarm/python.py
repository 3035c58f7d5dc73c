# Python imports this as `sitecustomize` at the end of its own start, before it opens the script.
# It waits here for the execution's files and arguments. Then Python goes on as if nothing had been,
# and opens, compiles and runs the script itself.
#
# Standard input: a frame (see frame.rs), and behind it what the script reads.
# Standard output: one byte when ready for the frame, one when everything in it is in place.

import os
import sys


def vanish():
    directory = os.path.dirname(__file__)
    sys.path.remove(directory)
    # Until 3.10, Python imports before it makes the paths absolute.
    for path in (directory, os.path.basename(directory)):
        sys.path_importer_cache.pop(path, None)
    _, more, rest = os.environ["PYTHONPATH"].partition(os.pathsep)
    if more:
        os.environ["PYTHONPATH"] = rest
    else:
        del os.environ["PYTHONPATH"]
    for path, _, names in os.walk(directory, topdown=False):
        for name in names:
            os.unlink(os.path.join(path, name))
        os.rmdir(path)
    del sys.modules["sitecustomize"]


def receive(count):
    data = bytearray()
    while len(data) < count:
        part = os.read(0, count - len(data))
        if not part:
            os._exit(0)
        data += part
    return data


def number():
    return int.from_bytes(receive(4), "little")


def write(path, content):
    parent = os.path.dirname(path)
    if parent:
        os.makedirs(parent, exist_ok=True)
    file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
    while content:
        content = content[os.write(file, content):]
    os.close(file)


def take():
    os.write(1, b"\x06")
    empty = number()
    args = [os.fsdecode(bytes(receive(number()))) for _ in range(number())]
    for _ in range(number()):
        path = bytes(receive(number()))
        write(path, receive(number()))
    if args:
        sys.argv.extend(args)
        if hasattr(sys, "orig_argv"):
            sys.orig_argv.extend(args)
    if empty:
        null = os.open("/dev/null", os.O_RDONLY)
        os.dup2(null, 0)
        os.close(null)
    os.write(1, b"\x06")


def settle():
    # Functions and classes that were there before the code need neither be looked through for
    # garbage nor be taken apart one by one at the end: that is most of the time Python takes to
    # end. Streams are left out, which write what they hold when they go, and so is the module that
    # the code will be, whose objects are finalized as ever.
    known = "gc" in sys.modules
    import gc

    gc.collect()
    kept = [o for o in gc.get_objects() if type(o) in (type, type(settle))]
    kept.append(kept)
    if hasattr(gc, "freeze"):  # Python 3.7
        gc.freeze()
    old = sys.modules["__main__"]
    new = sys.modules["__main__"] = type(sys)("__main__")
    new.__dict__.update(old.__dict__)
    if not known:
        del sys.modules["gc"]


def prepare():
    try:
        vanish()
        settle()
    except BaseException:
        os._exit(1)
    try:
        # The system's own. Without one this raises what Python then expects of this module.
        import sitecustomize
    finally:
        try:
            take()
        except BaseException:
            # Without the second byte the execution takes the ordinary way.
            os._exit(1)


try:
    prepare()
finally:
    # Functions and their module refer to each other, and would stay until they are collected.
    globals().clear()
