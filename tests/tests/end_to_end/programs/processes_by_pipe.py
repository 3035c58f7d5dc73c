# What of `multiprocessing` needs no semaphores: processes and pipes.
import multiprocessing as mp

def answer(pipe):
    pipe.send([number * 2 for number in pipe.recv()])

if __name__ == "__main__":
    for method in ["fork", "spawn"]:
        context = mp.get_context(method)
        ours, theirs = context.Pipe()
        child = context.Process(target=answer, args=(theirs,))
        child.start()
        ours.send([1, 2, 3])
        assert ours.recv() == [2, 4, 6]
        child.join(30)
        assert child.exitcode == 0, child.exitcode
    print("ok")
