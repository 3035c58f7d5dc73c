# Unix sockets with a path, in the workspace, by asyncio and by hand, a descriptor passed along.
import array, asyncio, os, socket, socketserver, threading

async def main():
    async def handle(reader, writer):
        writer.write((await reader.readline()).upper())
        await writer.drain()
        writer.close()
    server = await asyncio.start_unix_server(handle, "socket")
    reader, writer = await asyncio.open_unix_connection("socket")
    writer.write(b"hello\n")
    assert await reader.readline() == b"HELLO\n"
    writer.close()
    server.close()

asyncio.run(main())
class Echo(socketserver.StreamRequestHandler):
    def handle(self):
        self.wfile.write(self.rfile.readline())
with socketserver.UnixStreamServer("other", Echo) as server:
    threading.Thread(target=server.handle_request).start()
    client = socket.socket(socket.AF_UNIX)
    client.connect("other")
    client.sendall(b"x\n")
    assert client.recv(10) == b"x\n"
one, two = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
file = os.open("passed", os.O_RDWR | os.O_CREAT)
socket.send_fds(one, [b"f"], [file])
_, (got,), _, _ = socket.recv_fds(two, 1, 1)
os.write(got, b"content")
assert open("passed").read() == "content"
print("ok")
