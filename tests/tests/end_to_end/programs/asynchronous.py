# The event loop: timers, threads, children with pipes, signals.
import asyncio, os, signal

async def main():
    assert await asyncio.gather(*[asyncio.sleep(0.01, n) for n in range(20)]) == list(range(20))
    child = await asyncio.create_subprocess_exec(
        "cat", stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE)
    out, _ = await child.communicate(b"through")
    assert (out, child.returncode) == (b"through", 0)
    child = await asyncio.create_subprocess_shell("exit 5")
    assert await child.wait() == 5
    child = await asyncio.create_subprocess_exec("sleep", "60")
    child.kill()
    assert await child.wait() == -signal.SIGKILL
    assert await asyncio.to_thread(os.getpid) == os.getpid()
    arrived = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGUSR1, arrived.set)
    os.kill(os.getpid(), signal.SIGUSR1)
    await asyncio.wait_for(arrived.wait(), 20)
    try:
        await asyncio.wait_for(asyncio.sleep(60), 0.01)
    except asyncio.TimeoutError:
        pass
    else:
        raise SystemExit("no timeout")

asyncio.run(main())
print("ok")
