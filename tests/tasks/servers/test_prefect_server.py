"""Who may use Prefect's server: its own app in this process, with our settings."""

import asyncio
import base64
import importlib.metadata
import os
import socket
import stat
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI

from tasks.servers import calm, prefect_server
from tests.conftest import ROOT

PORT = 4299
ORIGIN = f"http://127.0.0.1:{PORT}"
FOREIGN = {"Origin": "http://evil.example"}
STEPS = {"name": "x", "pull_steps": [{"prefect.deployments.steps.run_shell_script": {"script": "touch /tmp/x"}}]}


@pytest.fixture(autouse=True)
def _clean(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("PREFECT") or name.lower() == "no_proxy"]:
        monkeypatch.delenv(name)


class App:
    """A client without a server."""

    def __init__(self, app: Any) -> None:
        self.transport = httpx.ASGITransport(app)

    def ask(self, method: str, path: str, **request: Any) -> httpx.Response:
        async def send() -> httpx.Response:
            async with httpx.AsyncClient(transport=self.transport, base_url=ORIGIN) as client:
                return await client.request(method, path, **request)

        return asyncio.run(send())


@pytest.fixture
def app(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[App]:
    """A client of Prefect's app as our server runs it; without its database, which no refused request reaches."""
    from prefect.context import SettingsContext
    from prefect.server.api.server import create_app
    from prefect.settings import Profile, Settings

    monkeypatch.setenv("PREFECT_HOME", str(tmp_path))
    monkeypatch.setenv("PREFECT_SERVER_DATABASE_CONNECTION_URL", f"sqlite+aiosqlite:///{tmp_path}/prefect.db")
    for name, text in prefect_server.settings(tmp_path, PORT).items():
        monkeypatch.setenv(name, text)
    settings = Settings()
    with SettingsContext(profile=Profile(name="test", settings={}), settings=settings):
        yield App(create_app(settings, ephemeral=True, ignore_cache=True))


@pytest.mark.slow
def test_a_heartbeat_that_met_a_locked_database_is_no_line_of_the_log_and_all_else_is(caplog) -> None:
    from prefect.server.utilities import worker_channel

    assert worker_channel.logger.name == calm.LOGGER
    worker_channel.logger.addFilter(calm.is_alarm)
    try:
        for text in ("(sqlite3.OperationalError) database is locked", "disk I/O error"):
            try:
                raise RuntimeError(text)
            except RuntimeError:
                worker_channel.logger.exception("Worker channel heartbeat persistence failed: work_pool=%s", "gpu")
        worker_channel.logger.error("another")
    finally:
        worker_channel.logger.removeFilter(calm.is_alarm)
    shown = [(str(record.exc_info[1]) if record.exc_info else "", record.getMessage()) for record in caplog.records]
    assert shown == [("disk I/O error", "Worker channel heartbeat persistence failed: work_pool=gpu"), ("", "another")]


@pytest.mark.parametrize(
    ("api", "allowed"),
    [
        ("http://127.0.0.1:4299/api", "connect-src 'self' http://127.0.0.1:4299 ws://127.0.0.1:4299"),
        ("https://lab.example/api", "connect-src 'self' https://lab.example wss://lab.example"),
    ],
)
def test_the_pages_may_connect_to_their_server_only(api: str, allowed: str) -> None:
    given = []

    def create(ephemeral: bool) -> FastAPI:
        given.append(ephemeral)
        app = FastAPI()
        app.get("/page")(lambda: "text")
        return app

    for ephemeral in (True, False):
        answer = App(calm.connecting_here_only(create, api)(ephemeral)).ask("GET", "/page")
        assert answer.json() == "text"
        assert answer.headers["content-security-policy"] == allowed
    assert given == [True, False]


@pytest.mark.slow
def test_the_server_is_prefects_own_with_the_arguments_given() -> None:
    command = [sys.executable, "-m", "tasks.servers.calm", "prefect", "version"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=120)
    assert done.returncode == 0, done.stderr
    assert f"Version:              {importlib.metadata.version('prefect')}" in done.stdout


@pytest.mark.slow
@pytest.mark.parametrize("calmly", [True, False])
def test_a_transaction_that_reads_first_waits_for_another_writer(calmly: bool, tmp_path: Path) -> None:
    """Without the wait Prefect's server answers 503, which its page does not try again."""
    environment = os.environ | {"PREFECT_HOME": str(tmp_path), "PREFECT_LOGGING_LEVEL": "CRITICAL"}
    command = [sys.executable, "-m", *(["tasks.servers.calm"] if calmly else []), "tests.support.two_writers"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=300, env=environment)
    assert done.returncode == 0, done.stderr
    expected = "both" if calmly else "['(sqlite3.OperationalError) database is locked']"
    assert done.stdout.strip().splitlines()[-1] == expected


def basic(key: str) -> dict[str, str]:
    return {"Authorization": f"Basic {base64.b64encode(key.encode()).decode()}"}


@pytest.mark.slow  # Prefect's server takes seconds to import.
def test_who_has_no_secret_is_refused_from_wherever_the_request_comes(app: App, tmp_path: Path) -> None:
    key = prefect_server.secret(tmp_path)
    for headers in ({}, FOREIGN, {"Host": "evil.example"}, basic("arc:guess"), basic("")):
        for path in ("/api/admin/version", "/api/csrf-token?client=x", "/api/block_documents/", "/api/deployments/x"):
            assert app.ask("GET", path, headers=headers).status_code == 401, (path, headers)
        # Both guards: the page's token is missing, and with a made-up one the secret is.
        assert app.ask("POST", "/api/deployments/", json=STEPS, headers=headers).status_code == 403
    # A form or text, which a browser sends to other origins without asking first.
    plain = {**FOREIGN, "Content-Type": "text/plain"}
    assert app.ask("POST", "/api/deployments/", content="{}", headers=plain).status_code == 403
    # A page cannot use the secret that the browser might add.
    assert app.ask("POST", "/api/deployments/", json=STEPS, headers=FOREIGN | basic(key)).status_code == 403
    assert app.ask("GET", "/api/admin/version", headers=basic(key)).status_code == 200


@pytest.mark.slow
def test_only_our_pages_may_read_and_write(app: App) -> None:
    ask = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "prefect-csrf-token"}
    for origin, allowed in ((ORIGIN, True), (f"http://localhost:{PORT}", True), ("http://evil.example", False)):
        answer = app.ask("OPTIONS", "/api/deployments/", headers={"Origin": origin, **ask})
        assert (answer.headers.get("access-control-allow-origin") == origin) == allowed, origin
        assert (answer.status_code == 200) == allowed
    assert "access-control-allow-origin" not in app.ask("GET", "/api/health", headers=FOREIGN).headers
    assert "access-control-allow-origin" in app.ask("GET", "/api/health", headers={"Origin": ORIGIN}).headers


def test_the_secret_is_random_made_once_and_for_its_user_only(tmp_path: Path) -> None:
    homes = [tmp_path / "a" / ".prefect", tmp_path / "b"]
    with ThreadPoolExecutor(8) as pool:
        made = [set(pool.map(prefect_server.secret, [home] * 40)) for home in homes]
    assert [len(keys) for keys in made] == [1, 1]
    assert made[0] != made[1]
    for home in homes:
        assert stat.S_IMODE(home.stat().st_mode) == 0o700
        assert stat.S_IMODE((home / "secret").stat().st_mode) == 0o600
        assert [path.name for path in home.iterdir()] == ["secret"]
    assert len(made[0].pop()) > 40


@pytest.mark.parametrize("text", ["", "arc:", "arc:short", "x" * 50, f"arc:{'x' * 40}\nmore"])
def test_a_damaged_secret_is_named(tmp_path: Path, text: str) -> None:
    (tmp_path / "secret").write_text(text)
    with pytest.raises(ValueError, match="secret holds no secret"):
        prefect_server.secret(tmp_path)


def test_the_secret_goes_to_our_server_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ours = prefect_server.settings(tmp_path)
    monkeypatch.setenv("PREFECT_API_URL", prefect_server.address())
    assert prefect_server.settings(tmp_path) == ours
    assert ours["PREFECT_API_AUTH_STRING"] == prefect_server.secret(tmp_path)
    monkeypatch.setenv("PREFECT_API_URL", "http://elsewhere.example:4200/api")
    assert prefect_server.settings(tmp_path) == {}


@pytest.mark.parametrize("text", ["abc", "0", "65536", "-1", "1e3", "4200 ", "٤", "9" * 5000])
def test_a_wrong_port_is_named(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setenv("PREFECT_SERVER_API_PORT", text)
    with pytest.raises(ValueError, match=r"PREFECT_SERVER_API_PORT is .* allowed are 1 to 65535"):
        prefect_server.port()


def test_this_machine_is_asked_without_a_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as proxy:
        monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{proxy.getsockname()[1]}")
        assert prefect_server.status("http://127.0.0.1:1/health", seconds=0.5) == 0
        proxy.settimeout(0.05)
        with pytest.raises(TimeoutError):
            proxy.accept()
    monkeypatch.setenv("no_proxy", "mirror.example")
    names = prefect_server.without_proxy()
    assert names["no_proxy"] == names["NO_PROXY"] == "mirror.example,127.0.0.1,localhost,::1"
