"""The server of `watch` on a real socket: who is answered, with what, and that nothing else is to be had."""

from __future__ import annotations

import http.client
import json
import os
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import pytest

from cluster_rl.errors import UserError
from cluster_rl.watching import server as server_module
from cluster_rl.watching.board import FILMS_KEPT, Board, Film
from cluster_rl.watching.server import Server, byte_range

TOKEN = "the-Token_of-this-test"
VIDEO = bytes(range(256)) * 4000  # a megabyte, more than a socket holds


@pytest.fixture
def board(tmp_path: Path) -> Board:
    """It shows a page that links to a video, and a film."""
    board = Board()
    for name in ("a b.mp4", "1.mp4", "secret.txt"):
        (tmp_path / name).write_bytes(VIDEO)
    board.put_page(b"<!DOCTYPE html><title>a run</title>", {"videos/a b.mp4": tmp_path / "a b.mp4"})
    board.put_film(Film(1, tmp_path / "1.mp4", None, "what it shows"))
    return board


@pytest.fixture
def server(board: Board) -> Iterator[Server]:
    with Server("127.0.0.1", 0, TOKEN, board) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()


class Answer:
    """What the server answers."""

    def __init__(
        self, server: Server, path: str, method: str = "GET", body: bytes | None = None, **headers: str
    ) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=20)
        given = {name.replace("_", "-"): value for name, value in headers.items()}
        connection.request(method, path, body, given)
        answer = connection.getresponse()
        self.status, self.headers, self.body = answer.status, answer.headers, answer.read()
        connection.close()

    @property
    def line(self) -> str:
        """An error's only line."""
        (line,) = self.body.decode().splitlines()
        return line


def test_the_page_with_the_token(server: Server) -> None:
    answer = Answer(server, f"/{TOKEN}/")
    assert (answer.status, answer.body) == (200, b"<!DOCTYPE html><title>a run</title>")
    assert answer.headers["Content-Type"] == "text/html; charset=utf-8"
    policy = answer.headers["Content-Security-Policy"]
    assert policy.startswith("default-src 'none'; script-src 'sha256-")
    assert "unsafe" not in policy.replace("style-src 'unsafe-inline'", "")
    assert server.url == f"http://127.0.0.1:{server.port}/{TOKEN}/"


@pytest.mark.parametrize("path", ["", "state", "videos/a%20b.mp4", "film/1.mp4", "none"])
def test_every_answer_says_that_it_is_private(server: Server, path: str) -> None:
    for where in (f"/{TOKEN}/{path}", f"/wrong/{path}"):
        headers = Answer(server, where).headers
        assert headers["Cache-Control"] == "no-store"
        assert headers["X-Content-Type-Options"] == "nosniff"
        assert headers["Referrer-Policy"] == "no-referrer"
        assert headers["Content-Security-Policy"].endswith("frame-ancestors 'none'")
        assert headers["Server"] == "cluster_rl"


@pytest.mark.parametrize(
    "path", ["/", "/state", f"/{TOKEN[:-1]}/", f"/{TOKEN}x/", "/%20/", "/é/", f"/x/{TOKEN}/", "//", "*"]
)
def test_without_the_token_nothing_is_told(server: Server, path: str) -> None:
    with socket.create_connection(("127.0.0.1", server.port), timeout=20) as connection:
        connection.sendall(f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
        answer = connection.makefile("rb").read().decode()
    assert answer.startswith("HTTP/1.1 403 ")
    assert answer.endswith("\r\n\r\nForbidden: no such token; copy the whole address that watch printed\n")
    assert not server.board.is_watched


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS", "PATCH", "TRACE", "CONNECT", "BREW"])
def test_it_is_only_read(server: Server, method: str) -> None:
    answer = Answer(server, f"/{TOKEN}/", method, b"x=1" if method == "POST" else None)
    assert (answer.status, answer.headers["Allow"]) == (405, "GET, HEAD")
    assert answer.line == "Method Not Allowed: this page is only read: GET and HEAD"
    assert answer.headers["Connection"] == "close"


def test_a_request_to_read_has_no_body(server: Server) -> None:
    assert Answer(server, f"/{TOKEN}/", "GET", b"x=1").status == 400
    assert Answer(server, f"/{TOKEN}/", "GET", Transfer_Encoding="chunked").status == 400


def test_the_head_alone(server: Server) -> None:
    for path in ("", "state", "film/1.mp4"):
        whole, head = (Answer(server, f"/{TOKEN}/{path}", method) for method in ("GET", "HEAD"))
        assert (head.status, head.body, head.headers["Content-Length"]) == (200, b"", str(len(whole.body)))


@pytest.mark.parametrize(
    "host", ["localhost", "127.0.0.1:8080", "[::1]:1", "LOCALHOST:", "10.1.2.3", socket.gethostname()]
)
def test_names_that_are_ours(server: Server, host: str) -> None:
    assert Answer(server, f"/{TOKEN}/", Host=host).status == 200


@pytest.mark.parametrize(
    "host",
    [
        "evil.example",
        "evil.example:80",
        "localhost.evil.example",
        "127.0.0.1.nip.io",
        "",
        "[::1",
        "0x7f000001",
        "a@localhost",
    ],
)
def test_a_name_that_was_made_to_lead_here(server: Server, host: str) -> None:
    answer = Answer(server, f"/{TOKEN}/", Host=host)
    assert (answer.status, answer.line) == (
        403,
        "Forbidden: this server is not called so; use the address that watch printed",
    )


def test_an_old_client_without_a_host(server: Server) -> None:
    with socket.create_connection(("127.0.0.1", server.port), timeout=20) as connection:
        connection.sendall(f"GET /{TOKEN}/ HTTP/1.0\r\n\r\n".encode())
        assert connection.makefile("rb").read().startswith(b"HTTP/1.1 403 ")


@pytest.mark.parametrize(
    "name",
    [
        *("../secret.txt", "videos/", "videos", "videos/../secret.txt", "videos/%2e%2e/secret.txt", "%2Fetc%2Fpasswd"),
        *("film/2.mp4", "videos/a%2520b.mp4", "./", "state/", "videos/a b.mp4%00"),
    ],
)
def test_nothing_else_is_to_be_had(server: Server, name: str) -> None:
    with socket.create_connection(("127.0.0.1", server.port), timeout=20) as connection:
        connection.sendall(f"GET /{TOKEN}/{name.replace(' ', '%20')} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
        assert connection.makefile("rb").read().startswith(b"HTTP/1.1 404 ")


def test_the_picture_that_browsers_ask_for_is_none(server: Server) -> None:
    answer = Answer(server, "/favicon.ico")
    assert (answer.status, answer.body) == (200, b"")
    assert Answer(server, "/favicon.ico", Host="evil.example").status == 403
    assert not server.board.is_watched


def test_nonsense_is_answered_in_a_line(server: Server) -> None:
    for request in (
        b"GET\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"\x16\x03\x01\r\n\r\n",
        b"GET /" + b"a" * 70_000 + b" HTTP/1.1\r\n\r\n",
    ):
        with socket.create_connection(("127.0.0.1", server.port), timeout=20) as connection:
            connection.sendall(request)
            answer = connection.makefile("rb").read()
        assert answer.rstrip().count(b"\n") <= 12
        assert b"<" not in answer


def test_a_file_of_the_table(server: Server) -> None:
    answer = Answer(server, f"/{TOKEN}/videos/a%20b.mp4")
    assert (answer.status, answer.body, answer.headers["Content-Type"]) == (200, VIDEO, "video/mp4")
    assert answer.headers["Accept-Ranges"] == "bytes"


@pytest.mark.parametrize("name", [b"\xff\x80.mp4", "\N{SNOWMAN}é%.mp4".encode()])
def test_a_file_of_any_name(server: Server, board: Board, tmp_path: Path, name: bytes) -> None:
    """As the page links to it: the bytes that the file system has."""
    path = tmp_path / os.fsdecode(name)
    path.write_bytes(VIDEO[:100])
    board.put_page(b"page", {f"videos/{path.name}": path})
    answer = Answer(server, f"/{TOKEN}/videos/{quote(name)}")
    assert (answer.status, answer.body) == (200, VIDEO[:100])


@pytest.mark.parametrize(
    ("wanted", "begin", "end"),
    [
        ("bytes=0-", 0, len(VIDEO)),
        ("bytes=0-0", 0, 1),
        ("bytes=100-199", 100, 200),
        ("bytes=1000000-", 1_000_000, len(VIDEO)),
        ("bytes=100-99999999999", 100, len(VIDEO)),
        ("bytes=-10", len(VIDEO) - 10, len(VIDEO)),
        ("bytes=-99999999", 0, len(VIDEO)),
    ],
)
def test_a_part_of_a_file(server: Server, wanted: str, begin: int, end: int) -> None:
    answer = Answer(server, f"/{TOKEN}/film/1.mp4", Range=wanted)
    assert answer.body == VIDEO[begin:end]
    if end - begin == len(VIDEO):
        assert answer.status == 200
    else:
        assert answer.status == 206
        assert answer.headers["Content-Range"] == f"bytes {begin}-{end - 1}/{len(VIDEO)}"


@pytest.mark.parametrize("wanted", [f"bytes={len(VIDEO)}-", "bytes=99999999-99999999", "bytes=-0"])
def test_a_part_behind_the_end(server: Server, wanted: str) -> None:
    answer = Answer(server, f"/{TOKEN}/film/1.mp4", Range=wanted)
    assert (answer.status, answer.body, answer.headers["Content-Range"]) == (416, b"", f"bytes */{len(VIDEO)}")


@pytest.mark.parametrize("wanted", ["bytes=0-", "bytes=5-", "bytes=5-9", "bytes=-5"])
def test_no_part_of_an_empty_file(server: Server, tmp_path: Path, wanted: str) -> None:
    (tmp_path / "1.mp4").write_bytes(b"")
    answer = Answer(server, f"/{TOKEN}/film/1.mp4", Range=wanted)
    assert (answer.status, answer.body, answer.headers["Content-Range"]) == (416, b"", "bytes */0")
    whole = Answer(server, f"/{TOKEN}/film/1.mp4")
    assert (whole.status, whole.body) == (200, b"")


@pytest.mark.parametrize(
    "wanted", ["bytes=0-1,5-6", "bytes=-", "pages=1-2", "bytes=5-1", "bytes=a-b", "bytes=" + "9" * 40 + "-"]
)
def test_ranges_that_are_none_get_all(server: Server, wanted: str) -> None:
    assert Answer(server, f"/{TOKEN}/film/1.mp4", Range=wanted).status == 200
    assert byte_range(wanted, 10) is None


def test_a_part_of_what_may_have_changed_is_all_of_it(server: Server) -> None:
    assert Answer(server, f"/{TOKEN}/film/1.mp4", Range="bytes=0-1", If_Range='"x"').status == 200


def test_a_file_that_went(server: Server, tmp_path: Path) -> None:
    (tmp_path / "1.mp4").unlink()
    (tmp_path / "1.mp4").mkdir()
    answer = Answer(server, f"/{TOKEN}/film/1.mp4")
    assert (answer.status, answer.line) == (404, "Not Found: that file is gone")


def test_state_says_what_is_new(server: Server, board: Board, tmp_path: Path) -> None:
    film = {"number": 1, "video": "film/1.mp4", "picture": "", "words": "what it shows"}
    assert json.loads(Answer(server, f"/{TOKEN}/state").body) == {"page": 1, "film": film, "notes": []}
    board.put_page(b"new", {})
    board.note("film", "first\nline")
    board.note("page", "second")
    told = json.loads(Answer(server, f"/{TOKEN}/state").body)
    assert (told["page"], told["notes"]) == (2, ["first line", "second"])
    assert Answer(server, f"/{TOKEN}/videos/a%20b.mp4").status == 404  # the new page links to none
    board.note("film", "")
    assert json.loads(Answer(server, f"/{TOKEN}/state").body)["notes"] == ["second"]


def test_some_older_films_stay(server: Server, board: Board, tmp_path: Path) -> None:
    for number in range(2, FILMS_KEPT + 2):
        old = board.put_film(Film(number, tmp_path / "1.mp4", tmp_path / "1.mp4", ""))
    assert [film.number for film in old] == [1]
    found = [Answer(server, f"/{TOKEN}/film/{number}.mp4", "HEAD").status for number in range(1, FILMS_KEPT + 2)]
    assert found == [404] + [200] * FILMS_KEPT
    assert json.loads(board.state())["film"]["picture"] == f"film/{FILMS_KEPT + 1}.png"


def test_before_the_first_page(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server_module, "FIRST_PAGE_SEC", 0.1)
    board = Board()
    with Server("127.0.0.1", 0, TOKEN, board) as server:
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        answer = Answer(server, f"/{TOKEN}/")
        assert (answer.status, answer.headers["Refresh"]) == (503, "1")
        assert answer.line.startswith("the page is being drawn")
        board.note("page", "the disk is away")
        assert Answer(server, f"/{TOKEN}/").line == "the disk is away"
        redirect = Answer(server, f"/{TOKEN}")
        assert (redirect.status, redirect.headers["Location"]) == (308, f"/{TOKEN}/")
        monkeypatch.setattr(server_module, "FIRST_PAGE_SEC", 20.0)
        threading.Timer(0.2, board.put_page, (b"here", {})).start()
        assert Answer(server, f"/{TOKEN}/").body == b"here"
        server.shutdown()


def test_two_clients_at_once(server: Server) -> None:
    """One takes nothing of a long video, and the others are answered; then it gets the rest."""
    with socket.create_connection(("127.0.0.1", server.port), timeout=20) as slow:
        slow.sendall(f"GET /{TOKEN}/film/1.mp4 HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode())
        assert slow.recv(10) == b"HTTP/1.1 2"
        assert [Answer(server, f"/{TOKEN}/{path}").status for path in ("", "state", "film/1.mp4")] == [200] * 3
        rest = slow.makefile("rb").read()
    assert rest.endswith(VIDEO)


def test_a_client_that_goes_away_is_no_news(server: Server, capsys: pytest.CaptureFixture[str]) -> None:
    for _ in range(5):
        with socket.create_connection(("127.0.0.1", server.port), timeout=20) as connection:
            connection.sendall(f"GET /{TOKEN}/film/1.mp4 HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
            connection.recv(1)
    assert Answer(server, f"/{TOKEN}/state").status == 200
    assert capsys.readouterr() == ("", "")


def test_connections_have_a_limit(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server_module, "MOST_THREADS", threading.active_count() + 3)
    held = [socket.create_connection(("127.0.0.1", server.port), timeout=20) for _ in range(10)]
    closed = 0
    for connection in held[3:]:
        closed += connection.recv(1) == b""
    assert closed == 7
    for connection in held:
        connection.close()


def test_a_port_that_is_taken(server: Server, board: Board) -> None:
    with pytest.raises(UserError, match=r"--port \d+: Address already in use; give another port, or --port 0"):
        Server("127.0.0.1", server.port, TOKEN, board)


def test_a_host_that_is_none(board: Board) -> None:
    with pytest.raises(UserError, match=r"--host no\.such\.host\.invalid: .*; give an address of this machine"):
        Server("no.such.host.invalid", 0, TOKEN, board)
    with pytest.raises(UserError, match=r"--host 192.0.2.1 --port 0: Cannot assign requested address"):
        Server("192.0.2.1", 0, TOKEN, board)


@pytest.mark.parametrize("host", ["a..b", ".", "a" * 64 + ".org", "\udcff"])
def test_a_host_that_can_be_no_name(board: Board, host: str) -> None:
    with pytest.raises(UserError, match=r"--host .*; give an address of this machine"):
        Server(host, 0, TOKEN, board)


def test_all_addresses(board: Board) -> None:
    with Server("0.0.0.0", 0, TOKEN, board) as server:
        assert not server.is_loopback
        assert server.url == f"http://{socket.gethostname()}:{server.port}/{TOKEN}/"
