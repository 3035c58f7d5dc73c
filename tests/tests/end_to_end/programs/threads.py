# Threads, locks, queues and thread pools.
import concurrent.futures, queue, threading

total = 0
lock = threading.Lock()
def add():
    global total
    for _ in range(1000):
        with lock:
            total += 1
threads = [threading.Thread(target=add) for _ in range(16)]
[thread.start() for thread in threads]
[thread.join() for thread in threads]
assert total == 16000, total

jobs = queue.Queue()
threading.Thread(target=lambda: [jobs.put(n) for n in range(100)], daemon=True).start()
assert sum(jobs.get(timeout=20) for _ in range(100)) == 4950
with concurrent.futures.ThreadPoolExecutor(8) as pool:
    assert list(pool.map(lambda n: n * n, range(50))) == [n * n for n in range(50)]
print("ok")
