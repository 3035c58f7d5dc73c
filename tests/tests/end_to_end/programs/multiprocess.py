# Pools, queues, pipes and shared memory between processes, by `fork` and by `spawn`.
import multiprocessing as mp
from multiprocessing import shared_memory

def square(number):
    return number * number

def produce(queue, count):
    for number in range(count):
        queue.put(number)

def fill(name):
    block = shared_memory.SharedMemory(name=name)
    block.buf[:5] = b"hello"
    block.close()

if __name__ == "__main__":
    for method in ["fork", "spawn", "forkserver"]:
        context = mp.get_context(method)
        with context.Pool(2) as pool:
            assert pool.map(square, range(20)) == [n * n for n in range(20)]
        queue = context.Queue()
        child = context.Process(target=produce, args=(queue, 50))
        child.start()
        assert [queue.get(timeout=30) for _ in range(50)] == list(range(50))
        child.join(30)
        assert child.exitcode == 0, child.exitcode
        block = shared_memory.SharedMemory(create=True, size=4096)
        child = context.Process(target=fill, args=(block.name,))
        child.start()
        child.join(30)
        assert bytes(block.buf[:5]) == b"hello"
        block.close()
        block.unlink()
    value = mp.Value("i", 0)
    with value.get_lock():
        value.value += 1
    with mp.Manager() as manager:
        shared = manager.dict()
        shared["a"] = 1
        assert shared["a"] == 1
    import concurrent.futures
    with concurrent.futures.ProcessPoolExecutor(2) as pool:
        assert list(pool.map(square, range(5))) == [0, 1, 4, 9, 16]
    print("ok")
