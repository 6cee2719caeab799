"""A client's connection: requests in, answers out, and what goes wrong with them on the way."""

from __future__ import annotations

import contextlib
import json
import re
import socket
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler
from typing import Any
from urllib.parse import unquote, urlsplit

from hub_server.faults import Call, Close, Corrupt, CutUpload, Fault, LoseResponse, Status, Truncate
from hub_server.repos import Refused


class Connection(BaseHTTPRequestHandler):
    """What each request does is left to the class that inherits it.

    routes: (method, pattern of the path, name).
    """

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = -1
    server_state: Any
    routes: list[tuple[str, re.Pattern[str], str]]
    fault: Fault | None = None

    def _route(self, name: str, **names: str) -> Callable[[], None]:
        """Does what was asked; gives what then sends the answer."""
        raise NotImplementedError

    def log_message(self, *_: object) -> None:
        pass

    def handle(self) -> None:
        with contextlib.suppress(ConnectionError, BrokenPipeError):
            super().handle()

    def do_GET(self) -> None:
        hub, path = self.server_state, urlsplit(self.path).path
        request = f"{self.command} {unquote(path)}"
        hub.requests.append(request)
        self.fault, fault = None, hub.faults.take(request)
        if isinstance(fault, Call):
            fault.what()
        if isinstance(fault, (Close, CutUpload)):
            self.rfile.read(min(getattr(fault, "after", 0), self._length()))
            return self._hang_up()
        self.body = self.rfile.read(self._length())
        if isinstance(fault, Status):
            return self._answer(fault.code, {"error": "made to fail"}, fault.headers)
        if isinstance(fault, Corrupt) and self.body:
            self.body, fault = _damaged(self.body), None
        self.fault = fault
        try:
            for method, pattern, name in self.routes:
                match = pattern.fullmatch(path) if method == self.command else None
                if match:
                    with hub.lock:
                        answer = self._route(name, **match.groupdict())
                    return self._hang_up() if isinstance(fault, LoseResponse) else answer()
            raise Refused(404, f"no route {request}")
        except Refused as refused:
            headers = {"X-Error-Code": refused.code} if refused.code else {}
            self._answer(
                refused.status,
                {"error": refused.message, **refused.body},
                {**headers, "X-Error-Message": refused.message},
            )

    do_POST = do_PUT = do_HEAD = do_GET

    def _length(self) -> int:
        return int(self.headers.get("Content-Length") or 0)

    def _later(self, status: int, body: Any, headers: dict[str, str] | None = None) -> Callable[[], None]:
        return lambda: self._answer(status, body, headers)

    def _answer(self, status: int, body: Any, headers: dict[str, str] | None = None) -> None:
        self._send(status, json.dumps(body).encode(), {"Content-Type": "application/json", **(headers or {})})

    def _send(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        match = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", "")) if status == 200 else None
        if match and int(match[1]) < len(body):
            start, end = int(match[1]), int(match[2] or len(body) - 1) + 1
            headers["Content-Range"] = f"bytes {start}-{min(end, len(body)) - 1}/{len(body)}"
            status, body = 206, body[start:end]
        fault = self.fault
        if isinstance(fault, Corrupt):
            body = _damaged(body)
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body[: fault.after] if isinstance(fault, Truncate) else body)
        if isinstance(fault, Truncate):
            self._hang_up()

    def _hang_up(self) -> None:
        self.close_connection = True
        with contextlib.suppress(OSError):
            self.wfile.flush()
            self.connection.shutdown(socket.SHUT_RDWR)


def _damaged(body: bytes) -> bytes:
    at = len(body) // 3  # in the midst of the weights, where a file's own format shows nothing
    return body[:at] + bytes(byte ^ 0x55 for byte in body[at : at + 8]) + body[at + 8 :]
