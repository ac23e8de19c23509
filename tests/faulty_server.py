"""A server on loopback that hands every request on to another one, and fails as it is told."""

import http.client
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

Answer = tuple[int, list[tuple[str, str]], bytes]
"""Status, headers, body."""

Fault = Callable[["Handler", int, list[tuple[str, str]], bytes], None]
"""What is done with an answer (status, headers, body) in place of sending it."""


class FaultyServer(ThreadingHTTPServer):
    """A proxy that does with the next answers what ``faults`` says, first things first, and then none any more."""

    daemon_threads = True

    def __init__(self, upstream: str, handler: "type[Handler] | None" = None) -> None:
        super().__init__(("127.0.0.1", 0), handler or Handler, bind_and_activate=False)
        self.server_bind()  # not yet listening: connections are refused
        self.upstream = urlsplit(upstream).netloc
        self.faults: list[tuple[str, Fault]] = []  # with the method and the end of the path that it is for
        self.drops: tuple[str, ...] = ()  # names of headers that are not handed on, in lower case
        self.started = False
        self.url = f"http://127.0.0.1:{self.server_port}"

    def start(self) -> None:
        """Accept connections from now on."""
        self.server_activate()
        threading.Thread(target=self.serve_forever, args=(0.02,), daemon=True).start()
        self.started = True

    def fail(self, request: str, fault: Fault, times: int = 1) -> None:
        """Do this with the next answers to a request: ``GET zarr.json``."""
        self.faults += [(request, fault)] * times

    def fault_for(self, method: str, path: str) -> Fault | None:
        for known in self.faults:
            wanted, _, end = known[0].partition(" ")
            if wanted == method and path.partition("?")[0].endswith(end):
                self.faults.remove(known)
                return known[1]
        return None


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = 2**20  # head and body in one packet
    server: FaultyServer

    def handle_any(self) -> None:
        body = self.rfile.read(int(self.headers.get("content-length") or 0))
        headers = {name: value for name, value in self.headers.items() if name.lower() not in self.server.drops}
        answer = self.forward(self.command, self.path, headers, body)
        fault = self.server.fault_for(self.command, self.path) or send
        fault(self, *answer)

    def forward(self, method: str, path: str, headers: dict[str, str], body: bytes) -> Answer:
        """Return the answer of the server behind this one."""
        upstream = http.client.HTTPConnection(self.server.upstream, timeout=60)
        upstream.request(method, path, body, headers)
        answer = upstream.getresponse()
        content = answer.read()
        upstream.close()
        kept = [(k, v) for k, v in answer.getheaders() if k.lower() not in ("transfer-encoding", "connection")]
        return answer.status, kept, content

    do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = handle_any

    def log_message(self, *_: object) -> None:
        pass


def send(handler: Handler, status: int, headers: list[tuple[str, str]], body: bytes, length: int | None = None) -> None:
    """Send an answer."""
    handler.send_response_only(status)
    names = {name.lower() for name, _ in headers}
    for name, value in headers:
        handler.send_header(name, value)
    if "content-length" not in names:
        handler.send_header("content-length", str(len(body)))
    handler.end_headers()
    if handler.command != "HEAD":
        handler.wfile.write(body[:length])


def truncated(handler: Handler, status: int, headers: list[tuple[str, str]], body: bytes) -> None:
    """Send half of the body, and close."""
    send(handler, status, headers, body, len(body) // 2)
    handler.close_connection = True


def lost(handler: Handler, *_: object) -> None:
    """Close without an answer, though the request was done."""
    handler.close_connection = True


def without_length(handler: Handler, status: int, headers: list[tuple[str, str]], body: bytes) -> None:
    """Send the body in chunks, as a server that makes it while it sends."""
    handler.send_response_only(status)
    handler.send_header("transfer-encoding", "chunked")
    handler.end_headers()
    handler.wfile.write(b"%x\r\n%s\r\n0\r\n\r\n" % (len(body), body))


def answering(status: int) -> Fault:
    """Answer with a status of a failing server."""

    def fault(handler: Handler, *_: object) -> None:
        send(handler, status, [], b"")

    return fault


def hanging(handler: Handler, *_: object) -> None:
    """Answer nothing for a long time."""
    time.sleep(600)


@contextmanager
def faulty_server(upstream: str, handler: type[Handler] | None = None) -> Iterator[FaultyServer]:
    """Give the server, which refuses connections until it is started, and end it after the block."""
    server = FaultyServer(upstream, handler)
    try:
        yield server
    finally:
        if server.started:
            server.shutdown()
        server.server_close()
