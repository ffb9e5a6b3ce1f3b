"""`arc join` against small servers that answer as Prefect and MLflow do, right and wrong."""

import base64
import subprocess
import threading
import time
from collections.abc import Iterator
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest

from flows.cluster import checks, dvc_remote, join, settings, share
from flows.runs.places import FlowError

pytestmark = pytest.mark.slow  # DVC and git are started for each check.
SECRET = "arc:0123456789abcdefghijklmnopqrstuv"


class Server:
    """Answers of both servers; the fields say what is wrong with them."""

    def __init__(self) -> None:
        self.prefect, self.mlflow, self.skew, self.healthy = version("prefect"), version("mlflow"), 0.0, 200
        self.asked: list[tuple[str, str | None]] = []
        mine = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                key = self.headers.get("Authorization")
                mine.asked.append((self.path, key))
                wanted = f"Basic {base64.b64encode(SECRET.encode()).decode()}"
                code, body = {
                    "/api/health": (mine.healthy, "true"),
                    "/api/admin/version": (200, f'"{mine.prefect}"') if key == wanted else (401, ""),
                    "/version": (200, mine.mlflow),
                }.get(self.path, (404, ""))
                self.send_response_only(code)
                self.send_header("Date", formatdate(time.time() + mine.skew, usegmt=True))
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body.encode())

            def log_message(self, *_: Any) -> None:
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.http.serve_forever, daemon=True).start()
        self.url = f"http://127.0.0.1:{self.http.server_port}"


@pytest.fixture
def server() -> Iterator[Server]:
    made = Server()
    yield made
    made.http.shutdown()
    made.http.server_close()


@pytest.fixture
def clone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    mlflow = ("MLFLOW_TRACKING_URI", "MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD")
    for name in ("ARC_HOME", "ARC_SCRATCH", "PREFECT_HOME", "PREFECT_API_URL", *mlflow):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.delenv(settings.AUTH_VARIABLE, raising=False)
    monkeypatch.setattr(checks, "FREE_GIB", 0.0)
    folder = tmp_path / "clone"
    quiet: dict[str, Any] = {"check": True, "capture_output": True}
    subprocess.run(["git", "init", "-q", "--bare", str(tmp_path / "code.git")], **quiet)
    subprocess.run(["git", "init", "-q", "-b", "main", str(folder)], **quiet)
    for command in (
        "git remote add origin ../code.git",
        "git -c user.name=t -c user.email=t@t commit -q --allow-empty -m start",
    ):
        subprocess.run(command.split(), cwd=folder, **quiet)
    (folder / ".dvc").mkdir()
    (folder / ".dvc" / "config").touch()
    monkeypatch.chdir(folder)
    return folder


def fixes(rows: list[checks.Row]) -> dict[str, str]:
    return {what: f"{found}; {fix}" for what, found, fix in rows if fix}


def test_a_working_cluster_is_joined_and_left(server: Server, clone: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = clone.parent / "objects"
    data.mkdir()
    assert fixes(join.join(server.url, server.url, "origin", str(data), SECRET)) == {}
    assert list(data.iterdir()) == []
    assert settings.read() == settings.Settings(f"{server.url}/api", server.url, "origin")
    assert settings.secret_file().stat().st_mode & 0o777 == 0o600
    assert settings.environment() == {
        "PREFECT_API_URL": f"{server.url}/api",
        "MLFLOW_TRACKING_URI": server.url,
        settings.AUTH_VARIABLE: SECRET,
        "MLFLOW_TRACKING_USERNAME": SECRET.partition(":")[0],
        "MLFLOW_TRACKING_PASSWORD": SECRET.partition(":")[2],
    }
    remotes = subprocess.run(["dvc", "remote", "list"], capture_output=True, text=True).stdout
    assert str(data) in "".join(remotes.split())  # DVC breaks long paths.
    assert SECRET not in (clone / ".git" / "config").read_text()
    # The clone that runs Prefect's server, and one that has the secret in its environment, log in too.
    login = {"MLFLOW_TRACKING_USERNAME": "arc", "MLFLOW_TRACKING_PASSWORD": "x" * 32}
    with monkeypatch.context() as own:
        own.setenv("PREFECT_SERVER_API_AUTH_STRING", f"arc:{'x' * 32}")
        own.setattr(settings, "read", lambda: settings.Settings("", server.url, "origin"))
        assert login.items() <= settings.environment().items()
    with monkeypatch.context() as given:
        given.setenv(settings.AUTH_VARIABLE, f"arc:{'x' * 32}")
        assert login.items() <= settings.environment().items()
    # The secret of one server goes to no other.
    elsewhere = settings.Settings(f"{server.url}/api", "http://mlflow.example", "origin")
    assert elsewhere.mlflow_login(SECRET) == {}
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    assert "MLFLOW_TRACKING_PASSWORD" not in settings.environment()
    monkeypatch.setenv("PREFECT_API_URL", "http://127.0.0.1:9/api")
    assert settings.AUTH_VARIABLE not in settings.environment()
    join.leave()
    assert settings.read() == settings.Settings()
    assert not settings.secret_file().exists()


@pytest.mark.parametrize(
    ("change", "what", "message"),
    [
        ({"healthy": 500}, "server", "HTTP 500"),
        ({"prefect": "3.1.0"}, "prefect", "3.1.0 there"),
        ({"mlflow": "2.0.1"}, "mlflow", "2.0.1 there"),
        ({"skew": 60.0}, "clock", "set the clock"),
        ({"skew": -60.0}, "clock", "set the clock"),
    ],
)
def test_what_is_wrong_at_the_server_is_named_with_its_fix(
    server: Server, clone: Path, change: dict[str, Any], what: str, message: str
) -> None:
    for name, value in change.items():
        setattr(server, name, value)
    wrong = fixes(join.join(server.url, server.url, "origin", "", SECRET))
    assert list(wrong) == [what]
    assert message in wrong[what]
    assert settings.read() == settings.Settings(), "nothing was changed"


def test_a_wrong_secret_remote_or_folder_is_named(server: Server, clone: Path) -> None:
    wrong = fixes(join.join(server.url, "", "nowhere", str(clone / "missing"), "arc:wrong"))
    assert set(wrong) == {"server", "git remote", "dvc remote"}
    assert "refuses the secret" in wrong["server"]
    assert "make or mount it" in wrong["dvc remote"]
    assert not (clone / "missing").exists()
    assert not (clone / ".dvc" / "config.local").exists()
    assert settings.read() == settings.Settings()


def test_what_the_user_gave_dvc_for_the_remote_stays(server: Server, clone: Path) -> None:
    first, second = clone.parent / "first", clone.parent / "second"
    for command in (f"dvc remote add --local shared {first}", "dvc remote modify --local shared verify true"):
        subprocess.run(command.split(), check=True)
    for data in (first, second):
        data.mkdir()
        assert fixes(join.join(server.url, "", "origin", str(data), SECRET)) == {}
        config = (clone / ".dvc" / "config.local").read_text()
        assert f"url = {data}" in config
        assert "verify = true" in config
        assert "remote = shared" in config


def test_a_folder_that_is_not_mounted_is_away(clone: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dvc_remote, "_folder", dvc_remote._folder.__wrapped__)
    objects = clone.parent / "objects"
    objects.mkdir()
    subprocess.run(["dvc", "remote", "add", "--local", "-d", "shared", str(objects)], check=True)
    assert dvc_remote.away() == ""
    objects.rmdir()
    assert f"{objects} is no folder" in dvc_remote.away()
    subprocess.run(["dvc", "remote", "modify", "--local", "shared", "url", "s3://bucket/x"], check=True)
    assert dvc_remote._folder() == ""


def test_saves_are_shared_where_they_are_asked_for(
    server: Server, clone: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(dvc_remote.SAVES, raising=False)
    with pytest.raises(FlowError, match="there is none; give --data"):
        join.join(server.url, "", "origin", "", SECRET, "5")
    data = clone.parent / "objects"
    data.mkdir()
    for text in ("0", "-1", "nan", "inf", "5 minutes"):
        with pytest.raises(FlowError, match="allowed is a number above 0"):
            join.join(server.url, "", "origin", str(data), SECRET, text)
    assert settings.read() == settings.Settings()
    assert fixes(join.join(server.url, "", "origin", str(data), SECRET, "5")) == {}
    assert share.variables() == {dvc_remote.PULL: "1", dvc_remote.SAVES: "5"}
    monkeypatch.setenv(dvc_remote.SAVES, "2")
    assert share.variables()[dvc_remote.SAVES] == "2"
    assert dvc_remote.save_seconds() == 120
    monkeypatch.delenv(dvc_remote.SAVES)
    assert fixes(join.join(server.url, "", "origin", "", SECRET)) == {}
    assert share.variables() == {dvc_remote.PULL: "1"}


def test_nothing_answers(clone: Path) -> None:
    wrong = fixes(join.join("http://127.0.0.1:9", "http://127.0.0.1:9", "origin", "", SECRET))
    assert set(wrong) == {"server", "mlflow"}


def test_the_secret_comes_from_a_file_that_only_the_user_reads(clone: Path) -> None:
    api = "http://127.0.0.1:4300/api"
    with pytest.raises(FlowError, match=r"is missing; `cat \.prefect/secret`"):
        join.key_of(api, "")
    file = clone / "key"
    file.write_text(f"{SECRET}\n")
    file.chmod(0o644)
    with pytest.raises(FlowError, match="chmod 600"):
        join.key_of(api, file)
    file.chmod(0o600)
    assert join.key_of(api, file) == SECRET
    file.write_text("\n")
    with pytest.raises(FlowError, match="holds no secret"):
        join.key_of(api, file)


@pytest.mark.parametrize("url", ["4200", "ftp://x", "http://user:password@host:4200", "http://a b", "file:///x"])
def test_what_is_no_address(url: str) -> None:
    with pytest.raises(FlowError):
        settings.api_of(url)


def test_an_address_with_and_without_api() -> None:
    assert settings.api_of("http://h:4200") == settings.api_of("http://h:4200/api/") == "http://h:4200/api"
