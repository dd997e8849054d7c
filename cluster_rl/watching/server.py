"""HTTP for the page of `watch`: reading only, for whoever has the token, and for no other site's scripts.

A thread of its own for each connection. In: requests, of which nothing is believed. Out: the page, its state as JSON,
and the files of the `Board`'s table, in parts where a browser seeks in a video. No name in a request becomes a path.
"""

from __future__ import annotations

import contextlib
import hmac
import ipaddress
import os
import re
import socket
import socketserver
import sys
import threading
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any, Final
from urllib.parse import unquote_to_bytes

from cluster_rl.errors import UserError
from cluster_rl.report.page import page_policy
from cluster_rl.watching.board import Board

MOST_THREADS: Final = 64
"""A connection beyond is closed at once: whoever shares the machine may connect, and gets no further."""
IDLE_SEC: Final = 30.0
"""A connection that neither asks nor takes for so long is closed; a browser makes a new one."""
FIRST_PAGE_SEC: Final = 10.0
"""So long a browser waits for the first page, before it is told that it takes a while, and asks again."""
_CHUNK_BYTES: Final = 1 << 16
_HEADERS: Final = {
    "Cache-Control": "no-store",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",  # it would tell the token
    "Cross-Origin-Resource-Policy": "same-origin",
}
_FRAMED_NOWHERE: Final = "frame-ancestors 'none'"
_OF_FILES: Final = f"default-src 'none'; media-src 'self'; img-src 'self'; style-src 'unsafe-inline'; {_FRAMED_NOWHERE}"
_KINDS: Final = {".mp4": "video/mp4", ".png": "image/png"}
_TEXT: Final = "text/plain; charset=utf-8"
_RANGE: Final = re.compile(r"bytes=(\d{0,18})-(\d{0,18})")


class Server(socketserver.ThreadingTCPServer):
    """Listens from the start; `serve_forever` answers. `url` is the whole address, with the token; `place` the
    host and port in it."""

    allow_reuse_address = True
    daemon_threads = True
    request_queue_size = 32

    def __init__(self, host: str, port: int, token: str, board: Board) -> None:
        """`port` 0 takes a free one. Raises `UserError` for a host or a port that cannot be had."""
        try:
            found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
            self.address_family, _, _, _, address = found[0]
            super().__init__(address, Handler)  # type: ignore[arg-type]  # of IPv6 it has four parts
        except socket.gaierror as error:
            raise UserError(f"--host {host}: {error.strerror}; give an address of this machine") from None
        except UnicodeError:  # an empty label, or a long one: getaddrinfo lets out what its encoding says
            raise UserError(f"--host {host}: no name of a machine; give an address of this machine") from None
        except OSError as error:
            words = f"--host {host} --port {port}: {error.strerror or error}"
            raise UserError(f"{words}; give another port, or --port 0 for a free one") from None
        self.board = board
        self.token = token
        self.port: int = self.server_address[1]
        own = ipaddress.ip_address(address[0])
        self.is_loopback = own.is_loopback
        name = socket.gethostname() if own.is_unspecified else str(own)
        self.place = f"{f'[{name}]' if ':' in name else name}:{self.port}"
        self.names = {"localhost", host.lower(), socket.gethostname().lower()}
        self.url = f"http://{self.place}/{token}/"

    def verify_request(self, *_: Any) -> bool:
        return threading.active_count() < MOST_THREADS

    def handle_error(self, *_: Any) -> None:
        if not isinstance(sys.exception(), OSError):  # a browser that has gone is none of ours
            super().handle_error(*_)


class Handler(BaseHTTPRequestHandler):
    """One connection."""

    server: Server
    protocol_version = "HTTP/1.1"
    timeout = IDLE_SEC

    def do_GET(self) -> None:
        self._answer()

    def do_HEAD(self) -> None:
        self._answer()

    def _answer(self) -> None:
        if self.headers.get("Content-Length", "0") != "0" or "Transfer-Encoding" in self.headers:
            self.send_error(HTTPStatus.BAD_REQUEST, "a request to read has no body")
            return
        if not self._is_host_ours():
            self.send_error(HTTPStatus.FORBIDDEN, "this server is not called so; use the address that watch printed")
            return
        if self.path == "/favicon.ico":  # a browser asks by itself, and would call a refusal an error
            self._send(HTTPStatus.OK, b"", "image/png")
            return
        token, slash, name = self.path.partition("?")[0].removeprefix("/").partition("/")
        if not hmac.compare_digest(token.encode(), self.server.token.encode()):
            self.send_error(HTTPStatus.FORBIDDEN, "no such token; copy the whole address that watch printed")
            return
        board = self.server.board
        board.ask()
        if not slash:
            self._send(HTTPStatus.PERMANENT_REDIRECT, b"", _TEXT, {"Location": f"/{self.server.token}/"})
        elif name == "":
            self._send_page(board.wait_for_page(FIRST_PAGE_SEC))
        elif name == "state":
            self._send(HTTPStatus.OK, board.state(), "application/json")
        elif (path := board.file(os.fsdecode(unquote_to_bytes(name)))) is not None:
            self._send_file(path)
        else:
            self.send_error(HTTPStatus.NOT_FOUND, "nothing of that name is shown, or no longer")

    def _is_host_ours(self) -> bool:
        """Whether it was asked for by an address, or by a name that only this machine has: a name of somebody else's
        that was made to lead here carries the scripts of somebody else's page."""
        given = self.headers.get_all("Host", [])
        if len(given) != 1:
            return False
        host = re.sub(r":\d*\Z", "", given[0].strip()).lower()
        if host in self.server.names:
            return True
        with contextlib.suppress(ValueError):
            ipaddress.ip_address(host.removeprefix("[").removesuffix("]"))
            return True
        return False

    def _send_page(self, page: bytes) -> None:
        if page:
            policy = {"Content-Security-Policy": f"{page_policy(live=True)}; {_FRAMED_NOWHERE}"}
            self._send(HTTPStatus.OK, page, "text/html; charset=utf-8", policy)
        else:
            told = "; ".join(self.server.board.notes) or "the page is being drawn, which takes a while with a long run"
            again = {"Refresh": "1", "Retry-After": "1"}
            self._send(HTTPStatus.SERVICE_UNAVAILABLE, f"{told}\n".encode(), _TEXT, again)

    def _send_file(self, path: Path) -> None:
        """All of a file, or the part that is asked for."""
        try:
            if not path.is_file():  # opening a pipe would wait for its writer
                raise FileNotFoundError
            file = path.open("rb")
        except OSError:
            self.send_error(HTTPStatus.NOT_FOUND, "that file is gone")
            return
        with file:
            size = os.fstat(file.fileno()).st_size
            headers = {"Accept-Ranges": "bytes"}
            wanted = self.headers.get("Range", "") if "If-Range" not in self.headers else ""
            part = byte_range(wanted, size)
            begin, end = part or (0, size)
            status = HTTPStatus.OK
            if part is not None and begin >= end:  # of an empty file there is no part
                headers["Content-Range"] = f"bytes */{size}"
                self._send(HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE, b"", _TEXT, headers)
                return
            if end - begin < size:
                status = HTTPStatus.PARTIAL_CONTENT
                headers["Content-Range"] = f"bytes {begin}-{end - 1}/{size}"
            self._send_head(status, end - begin, _KINDS[path.suffix], headers)
            if self.command == "HEAD":
                return
            file.seek(begin)
            left = end - begin
            while left and (chunk := file.read(min(left, _CHUNK_BYTES))):
                self.wfile.write(chunk)
                left -= len(chunk)
            if left:  # it was cut meanwhile, and the browser still waits for the rest
                self.close_connection = True

    def _send(self, status: HTTPStatus, body: bytes, kind: str, headers: dict[str, str] | None = None) -> None:
        self._send_head(status, len(body), kind, headers or {})
        if self.command != "HEAD":
            self.wfile.write(body)

    def _send_head(self, status: HTTPStatus, size: int, kind: str, headers: dict[str, str]) -> None:
        self.send_response(status)
        told = {"Content-Type": kind, "Content-Length": str(size), "Content-Security-Policy": _OF_FILES}
        for name, value in (told | _HEADERS | headers).items():
            self.send_header(name, value)
        if self.close_connection:
            self.send_header("Connection", "close")
        self.end_headers()

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """One line. What follows on the connection may be what was not read, so it is closed."""
        self.close_connection = True
        headers = {}
        if code == HTTPStatus.NOT_IMPLEMENTED:  # so the base class answers a method that is none of ours
            code, message = HTTPStatus.METHOD_NOT_ALLOWED, "this page is only read: GET and HEAD"
            headers["Allow"] = "GET, HEAD"
        status = HTTPStatus(code)
        self._send(status, f"{status.phrase}: {message or status.description}\n".encode(), _TEXT, headers)

    def version_string(self) -> str:
        return "cluster_rl"

    def log_message(self, *_: Any) -> None:
        """Requests are no news."""


def byte_range(words: str, size: int) -> tuple[int, int] | None:
    """The first byte that a `Range` header asks for, and the one behind the last. None where all is to be sent: without
    one, and for any that is not plain. One that begins behind the end, or asks for nothing, ends no later than it
    begins."""
    match = _RANGE.fullmatch(words.strip())
    if match is None or match[1] == match[2] == "":
        return None
    if match[1] == "":
        return max(size - int(match[2]), 0), size if int(match[2]) else 0
    begin, end = int(match[1]), min(int(match[2]) + 1, size) if match[2] else size
    if match[2] and int(match[2]) < begin:  # no range at all
        return None
    return begin, end
