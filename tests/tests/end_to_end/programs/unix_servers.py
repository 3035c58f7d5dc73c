# Servers behind Unix sockets with a path, found by the name that the socket itself tells.
import multiprocessing, os, socketserver, subprocess, sys, socket, threading
from multiprocessing.connection import Client, Listener
from multiprocessing.managers import BaseManager

with Listener(family="AF_UNIX") as listener:
    def talk():
        with Client(listener.address) as client:
            client.send([6, 7])
    thread = threading.Thread(target=talk)
    thread.start()
    with listener.accept() as peer:
        a, b = peer.recv()
    thread.join()
assert a * b == 42

class Counter:
    value = 0
    def add(self, number):
        self.value += number
        return self.value
class Manager(BaseManager):
    pass
Manager.register("Counter", Counter)
manager = Manager(ctx=multiprocessing.get_context("fork"))
manager.start()
counter = manager.Counter()
counter.add(40)
assert counter.add(2) == 42
manager.shutdown()

class Echo(socketserver.StreamRequestHandler):
    def handle(self):
        self.wfile.write(self.rfile.readline())
with socketserver.ThreadingUnixStreamServer(os.path.abspath("echo"), Echo) as server:
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(server.server_address)
        client.sendall(b"x\n")
        assert client.recv(9) == b"x\n"
    server.shutdown()
    thread.join()

with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as server:
    server.bind("whole messages")
    assert server.getsockname() == "whole messages"
    server.listen()
    child = subprocess.Popen([sys.executable, "-c", """
import socket
client = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
client.connect("whole messages")
client.send(b"one"); client.send(b"two")
"""])
    peer, _ = server.accept()
    assert (peer.recv(99), peer.recv(99)) == (b"one", b"two")
    assert child.wait() == 0
print("ok")
