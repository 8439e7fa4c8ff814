"""A web server on loopback that serves, and on demand drops, stalls, refuses, redirects and lies."""

from __future__ import annotations

import re
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

__all__ = ["Answer", "Request", "Web", "web_server"]


@dataclass
class Answer:
    """How one request is answered.

    Attributes:
        body: The whole file.
        status: The status, unless a range is sent.
        headers: More headers.
        length: What Content-Length says; -1 for none at all, -2 for a chunked answer.
        cut: After how many bytes of what is sent the connection is dropped.
        hold: Set to go on: the rest, after ``cut`` bytes, is sent then.
        ranges: A part that is asked for is sent alone, if ``If-Range`` says so.
        etag: The name of the content.
        authorization: What the header of that name must be.
    """

    body: bytes = b""
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    length: int | None = None
    cut: int | None = None
    hold: threading.Event | None = None
    ranges: bool = False
    etag: str = ""
    authorization: str = ""


@dataclass
class Request:
    """A request that came."""

    path: str
    headers: dict[str, str]


class Web:
    """A running server.

    Attributes:
        url: Its address, without a slash at the end.
        answers: What is answered to each path, one after the other; the last one again and again.
        requests: What was asked for.
        sent: Set whenever ``cut`` bytes of an answer were sent.
    """

    def __init__(self) -> None:
        self.url = ""
        self.answers: dict[str, list[Answer]] = {}
        self.requests: list[Request] = []
        self.sent = threading.Event()
        self.closing = threading.Event()

    def serve(self, path: str, *answers: Answer) -> str:
        """Sets the answers of a path; gives its URL."""
        self.answers[path] = list(answers)
        return f"{self.url}{path}"

    def asked(self, path: str) -> int:
        """How many requests came for a path."""
        return sum(request.path == path for request in self.requests)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    web: Web

    def do_GET(self) -> None:
        # A query is part of the path if answers were set for both together.
        path = self.path if self.path in self.web.answers else self.path.partition("?")[0]
        self.web.requests.append(Request(path, dict(self.headers.items())))
        answers = self.web.answers.get(path, [Answer(status=404)])
        answer = answers.pop(0) if len(answers) > 1 else answers[0]
        if answer.authorization and self.headers.get("Authorization") != answer.authorization:
            answer = Answer(status=401, headers={"WWW-Authenticate": "Basic"})
        self._send(answer)

    def _send(self, answer: Answer) -> None:
        body, status, headers = answer.body, answer.status, dict(answer.headers)
        wanted = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        same = self.headers.get("If-Range", answer.etag) == answer.etag
        if answer.ranges and wanted and same:
            body, status = body[int(wanted[1]) :], 206
            headers.setdefault("Content-Range", f"bytes {wanted[1]}-{len(answer.body) - 1}/{len(answer.body)}")
        if answer.etag:
            headers["ETag"] = answer.etag
        if answer.length != -1:
            name = "Transfer-Encoding" if answer.length == -2 else "Content-Length"
            headers[name] = (
                "chunked" if answer.length == -2 else str(len(body) if answer.length is None else answer.length)
            )
        self.send_response(status)
        for name, value in {**headers, "Connection": "close"}.items():
            self.send_header(name, value)
        self.end_headers()
        self.close_connection = True
        first = len(body) if answer.cut is None else answer.cut
        self._write(body[:first], chunked=answer.length == -2)
        if answer.cut is not None:
            self.web.sent.set()
        if answer.hold:
            while not (answer.hold.wait(0.05) or self.web.closing.is_set()):
                pass
            self._write(body[first:], chunked=answer.length == -2)
        if answer.length == -2 and (answer.cut is None or answer.hold):
            self.wfile.write(b"0\r\n\r\n")

    def _write(self, data: bytes, *, chunked: bool) -> None:
        if data:
            self.wfile.write(b"%x\r\n%s\r\n" % (len(data), data) if chunked else data)
            self.wfile.flush()

    def log_message(self, *args: Any) -> None:
        """Says nothing."""


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that goes away is what some tests are about."""


@contextmanager
def web_server(context: ssl.SSLContext | None = None) -> Iterator[Web]:
    """A server on a free port of the loopback interface; with a context, of https."""
    web = Web()
    server = _Server(("127.0.0.1", 0), type("Handler", (_Handler,), {"web": web}))
    if context:
        server.socket = context.wrap_socket(server.socket, server_side=True)
    web.url = f"http{'s' if context else ''}://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield web
    finally:
        web.closing.set()
        server.shutdown()
        server.server_close()
        thread.join(10)
