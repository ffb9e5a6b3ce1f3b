"""One question to a server: what is sent, what is read of the answer, and what counts as none."""

import base64
import os
import socket
import threading
from collections.abc import Iterator
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest

from flows.cluster import checks


class Server(HTTPServer):
    """Answers with `code`, `date` and `body`, and keeps what was sent to log in."""

    code, date, body = 200, "Thu, 01 Jan 2026 00:00:00 GMT", b"x"

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.logins: list[str | None] = []
        self.url = f"http://127.0.0.1:{self.server_port}/api/health"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        self.server.logins.append(self.headers.get("Authorization"))
        self.send_response_only(self.server.code if self.path == "/api/health" else 404)
        if self.server.date:
            self.send_header("Date", self.server.date)
        self.send_header("Content-Length", str(len(self.server.body)))
        self.end_headers()
        self.wfile.write(self.server.body)

    def log_message(self, *_: Any) -> None: ...


@pytest.fixture
def server(place: Path) -> Iterator[Server]:
    made = Server()
    thread = threading.Thread(target=made.serve_forever, args=(0.005,), daemon=True)
    thread.start()
    yield made
    made.shutdown()
    thread.join()
    made.server_close()


NEW_YEAR = datetime(2026, 1, 1, tzinfo=UTC).timestamp()


def test_the_answer_is_its_status_its_time_and_its_start(server: Server) -> None:
    server.body = b"a" * 999 + b"bc"
    assert checks.ask(server.url) == (200, NEW_YEAR, b"a" * 999 + b"b")
    server.code = 503
    assert checks.ask(server.url) == (503, NEW_YEAR, b"")
    assert checks.ask(server.url + "x") == (404, NEW_YEAR, b"")


@pytest.mark.parametrize("date", ["", "yesterday", "Thu, 99 Jan 2026 00:00:00 GMT"])
@pytest.mark.parametrize("code", [200, 401])
def test_an_answer_may_have_no_time(server: Server, date: str, code: int) -> None:
    server.date, server.code = date, code
    assert checks.ask(server.url)[:2] == (code, None)


def test_the_secret_goes_to_the_server_itself_and_only_where_it_is_given(server: Server) -> None:
    os.environ["http_proxy"] = os.environ["HTTP_PROXY"] = "http://127.0.0.1:9"
    for secret in (None, "", "arc:a/b"):
        assert checks.ask(server.url, secret)[0] == 200
    assert server.logins[:2] == [None, None]
    assert server.logins[2]
    kind, _, text = server.logins[2].partition(" ")
    assert (kind, base64.b64decode(text)) == ("Basic", b"arc:a/b")


@pytest.mark.parametrize(
    "url",
    ["http://127.0.0.1:port/x", "http://.no-label/x", "http://127.0.0.1:{closed}/x"],
    ids=["no address", "no name of a host", "nobody listens"],
)
def test_what_is_no_answer(place: Path, url: str) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))  # Bound, but it does not listen.
        assert checks.ask(url.format(closed=closed.getsockname()[1])) == (0, None, b"")


def test_an_answer_is_waited_for_ten_seconds(place: Path, monkeypatch: Any) -> None:
    waited = []

    def connect(address: Any, timeout: float, *_: Any) -> None:
        waited.append(timeout)
        raise TimeoutError

    monkeypatch.setattr(socket, "create_connection", connect)
    assert checks.ask("http://127.0.0.1:1/x") == (0, None, b"")
    assert waited == [10.0]
