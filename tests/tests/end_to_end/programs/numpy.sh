# numpy from a wheel, which is the argument: pip installs it, and OpenBLAS multiplies in threads.
set -eu
python3 -m pip install --no-index --no-deps --quiet --target lib "$1"
PYTHONPATH=lib OPENBLAS_NUM_THREADS=4 python3 - <<'PYTHON'
import concurrent.futures, ctypes, glob, os
import numpy

assert numpy.__file__ == os.path.abspath("lib/numpy/__init__.py"), numpy.__file__
# What OpenBLAS says itself: /proc is not everywhere. Threads that it cannot start end the process.
library, = glob.glob("lib/numpy.libs/libscipy_openblas64_-*.so")
threads = ctypes.CDLL(os.path.abspath(library)).scipy_openblas_get_num_threads64_()
assert threads == min(4, len(os.sched_getaffinity(0))), threads

# Whole numbers, so that the results are exact, whatever the order of the additions.
size = 600
rows = numpy.arange(size * size, dtype=float).reshape(size, size) % 7
whole = (rows.astype(int) @ rows.astype(int)).astype(float)

def multiply(part):
    return rows[part::4] @ rows

assert numpy.array_equal(rows @ rows, whole)
with concurrent.futures.ThreadPoolExecutor(4) as pool:
    for part, product in enumerate(pool.map(multiply, range(4))):
        assert numpy.array_equal(product, whole[part::4]), part

random = numpy.random.default_rng(1).random((300, 300))
assert numpy.allclose(random @ numpy.linalg.inv(random), numpy.eye(300))
assert numpy.allclose(numpy.fft.ifft(numpy.fft.fft(random[0])), random[0])
numpy.save("random.npy", random)
assert numpy.array_equal(numpy.load("random.npy", mmap_mode="r"), random)
print("ok")
PYTHON
