"""An HTTP proxy in front of an S3 server that fails in the ways that networks and S3 do, at random, from a seed.

500, 503    answered in the server's place
reset       the connection is reset before the request is passed on
timeout     the request is passed on, and nothing is ever answered
lost        the request is passed on, and the connection is reset instead of an answer
truncated   the answer's body is cut off half way
deaf        a refusal because of If-None-Match is answered as a success, as by a server that ignores it
"""

import collections
import http.client
import random
import socket
import struct
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

KINDS = ("500", "503", "reset", "timeout", "lost", "truncated")
CODES = {"500": b"InternalError", "503": b"SlowDown", "403": b"SignatureDoesNotMatch"}
ERROR = (
    b'<?xml version="1.0" encoding="UTF-8"?><Error><Code>%s</Code><Message>made up by the test</Message>'
    b"<RequestId>1</RequestId></Error>"
)


class FaultyProxy:
    """Use as a context manager; `url` is the endpoint. `rates` and `down` may be changed at any time."""

    def __init__(self, upstream: str, seed: int = 0, hang_s: float = 3.0) -> None:
        self.upstream = upstream.removeprefix("http://")
        self.random = random.Random(seed)
        self.rates: dict[str, float] = {}
        self.script: list[tuple[str, str]] = []  # (start of "METHOD /path?query" or "", kind): the next faults to make
        self.hang_s = hang_s
        self.done: collections.Counter[str] = collections.Counter()
        self.requests: list[str] = []
        self.lock = threading.Lock()
        proxy = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *args: object) -> None:
                pass

            def serve(self) -> None:
                proxy.serve(self)

            do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = serve  # noqa: N815 - http.server's names

        class Server(ThreadingHTTPServer):
            daemon_threads = True
            request_queue_size = 64

            def handle_error(self, *args: object) -> None:
                pass  # clients that hang up are the point

        self.server = Server(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"

    def __enter__(self) -> "FaultyProxy":
        threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        return self

    def __exit__(self, *exc: object) -> None:
        self.server.shutdown()
        self.server.server_close()

    def fault(self, line: str) -> str:
        with self.lock:
            self.requests.append(line)
            for index, (start, kind) in enumerate(self.script):
                if line.startswith(start):
                    del self.script[index]
                    self.done[kind] += 1
                    return kind
            draw = self.random.random()
            for kind, rate in self.rates.items():
                draw -= rate
                if draw < 0:
                    self.done[kind] += 1
                    return kind
        return ""

    def serve(self, handler: BaseHTTPRequestHandler) -> None:
        body = handler.rfile.read(int(handler.headers.get("Content-Length") or 0))
        kind = self.fault(f"{handler.command} {handler.path}")
        if kind == "reset":
            return self.reset(handler)
        if kind in CODES:
            code = CODES[kind]
            return self.answer(handler, int(kind), {"Content-Type": "application/xml"}, ERROR % code)
        status, headers, data = self.pass_on(handler, body)
        if kind == "timeout":
            time.sleep(self.hang_s)
            return self.reset(handler)
        if kind == "lost":
            return self.reset(handler)
        if kind == "deaf" and status == http.HTTPStatus.PRECONDITION_FAILED:
            return self.answer(handler, http.HTTPStatus.OK, {"ETag": '"0"'}, b"")
        if kind == "truncated" and len(data) > 1 and handler.command != "HEAD":
            self.answer(handler, status, headers, data, sent=len(data) // 2)
            return self.reset(handler)
        return self.answer(handler, status, headers, data)

    def pass_on(self, handler: BaseHTTPRequestHandler, body: bytes) -> tuple[int, dict[str, str], bytes]:
        connection = http.client.HTTPConnection(self.upstream, timeout=30)
        try:
            headers = {name: value for name, value in handler.headers.items() if name.lower() != "connection"}
            connection.request(handler.command, handler.path, body, headers)
            answer = connection.getresponse()
            data = answer.read()
            return answer.status, dict(answer.getheaders()), data
        finally:
            connection.close()

    def answer(
        self,
        handler: BaseHTTPRequestHandler,
        status: int,
        headers: dict[str, str],
        data: bytes,
        sent: int | None = None,
    ) -> None:
        handler.send_response_only(status)
        left_out = ("content-length", "connection", "transfer-encoding")
        for name, value in headers.items():
            if name.lower() not in left_out:
                handler.send_header(name, value)
        told = {name.lower(): value for name, value in headers.items()}.get("content-length", "0")
        length = told if handler.command == "HEAD" else str(len(data))
        handler.send_header("Content-Length", length)
        handler.end_headers()
        if handler.command != "HEAD":
            handler.wfile.write(data[:sent])
            handler.wfile.flush()

    def reset(self, handler: BaseHTTPRequestHandler) -> None:
        handler.close_connection = True
        try:
            handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            handler.connection.shutdown(socket.SHUT_RD)
        except OSError:
            pass
