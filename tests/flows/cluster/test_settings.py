"""The settings and the checks of a cluster one by one, fast, with server and remotes made up."""

import os
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from flows.cluster import checks, dvc_remote, exchange, settings, share
from flows.cluster.settings import Settings
from flows.runs.places import FlowError, git


def test_settings_are_kept_in_git_and_the_secret_in_a_file_of_this_user(place: Path, monkeypatch: Any) -> None:
    git("init", "-q", cwd=place)
    assert settings.read() == Settings()
    assert (settings.joined(), settings.alone()) == (False, True)
    joined = Settings("http://127.0.0.9:4200/api", "http://127.0.0.9:5000", "origin", "5")
    settings.write(joined, "arc:token")
    assert settings.read() == joined
    assert (settings.joined(), settings.alone()) == (True, False)
    file = settings.secret_file()
    assert (file.read_text(), file.stat().st_mode & 0o777) == ("arc:token\n", 0o600)
    login = {"MLFLOW_TRACKING_USERNAME": "arc", "MLFLOW_TRACKING_PASSWORD": "token"}
    wanted = {
        "PREFECT_API_URL": joined.server,
        "MLFLOW_TRACKING_URI": joined.mlflow,
        settings.AUTH_VARIABLE: "arc:token",
    }
    assert settings.environment() == wanted | login
    os.environ["PREFECT_API_URL"] = "http://127.0.0.8/api"
    assert settings.environment() == {"MLFLOW_TRACKING_URI": joined.mlflow}, "another server gets no secret"
    monkeypatch.setattr(dvc_remote, "configured", lambda _: True)
    assert share.variables() == {dvc_remote.PULL: "1", dvc_remote.SAVES: "5"}
    os.environ[dvc_remote.SAVES] = "7"
    assert share.variables() == {dvc_remote.PULL: "1", dvc_remote.SAVES: "7"}
    assert dvc_remote.save_seconds() == 420.0
    settings.write(Settings(), "")
    assert settings.read() == Settings()
    assert share.variables() == {}


@pytest.mark.parametrize("text", ["0", "-1", "x", "1e6", "nan"])
def test_minutes_between_saves_are_a_number_above_0(text: str) -> None:
    with pytest.raises(FlowError, match="allowed is a number above 0"):
        dvc_remote.minutes(text)
    assert dvc_remote.minutes("0.5") == 0.5


def answers(monkeypatch: Any, **codes: int) -> None:
    """HTTP answers by the last part of the path; with a secret, of `known`."""

    def ask(url: str, secret: str | None = None) -> Any:
        name = url.rsplit("/", 1)[1]
        code = codes["known"] if secret and "known" in codes else codes.get(name, 200)
        return code, time.time() + codes.get("skew", 0), b'"3.8.1"'

    monkeypatch.setattr(checks, "ask", ask)
    monkeypatch.setattr(checks, "version", lambda _: "3.8.9")


@pytest.mark.parametrize(
    ("codes", "found", "fixed"),
    [
        ({"health": 0}, ["no answer at api"], 1),
        ({"health": 500}, ["HTTP 500 at api"], 1),
        ({"known": 401}, ["api refuses the secret"], 1),
        ({"known": 403}, ["api refuses the secret"], 1),
        ({"known": 404}, ["HTTP 404 at api/admin/version"], 1),
        (
            {"known": 200, "version": 401, "skew": 3},
            ["api answers and knows the secret", "Prefect 3.8.1", "the server"],
            0,
        ),
        ({"known": 200, "version": 200}, ["api answers, and anybody may use it", "Prefect", "the server"], 1),
        ({"known": 200, "version": 401, "skew": 9}, ["api answers and", "Prefect", "the server's differs by +"], 1),
        ({"known": 200, "version": 401, "skew": -9}, ["api answers and", "Prefect", "the server's differs by -"], 1),
    ],
)
def test_a_server_is_checked_with_its_secret_version_and_clock(monkeypatch: Any, codes: Any, found: Any, fixed: int):
    answers(monkeypatch, **codes)
    rows = list(checks.server("api", "u:s"))
    assert [row[1][: len(text)] for row, text in zip(rows, found, strict=True)] == found
    assert sum(bool(fix) for _, _, fix in rows) == fixed


def test_versions_agree_up_to_the_last_number() -> None:
    for theirs, same in (("3.8.9", True), ("3.8", True), ("3.9.1", False), ("4.8.1", False)):
        assert (checks.agreement("X", theirs, "3.8.1")[2] == "") == same
    assert checks.text_of(b'"3.8.1\x1b[0m"' + b"9" * 300) == ("3.8.10m" + "9" * 300)[:40]


def test_mlflow_remotes_and_space_are_checked(place: Path, monkeypatch: Any) -> None:
    def rows(what: Any) -> list[tuple[str, bool]]:
        return [(found, bool(fix)) for _, found, fix in what]

    shared = Settings("http://127.0.0.9/api", "http://127.0.0.9:5000/", "origin")
    own = "results go to mlflow.db of this clone, which is no server"
    assert rows(checks.mlflow(Settings(), "")) == [(own, False)]
    for code, text, fixed in (
        (0, "no answer at", True),
        (401, "HTTP 401 at", True),
        (200, "MLflow 3.8.1 there", False),
    ):
        answers(monkeypatch, known=code)
        [(found, fix)] = rows(checks.mlflow(shared, "u:s"))
        assert found.startswith(text)
        assert fix == fixed
    asked: list[Any] = []
    monkeypatch.setattr(exchange, "remote", lambda *given: asked.append(given[0]))
    assert rows(checks.git_remote("origin")) == [("origin can be read and written", False)]
    assert asked == ["ls-remote", "push"]
    assert [fix for _, fix in rows(checks.git_remote(""))] == [True]
    monkeypatch.setattr(dvc_remote, "configured", lambda _: False)
    assert rows(checks.data_remote()) == [("none: every machine computes each stage itself", False)]
    monkeypatch.setattr(dvc_remote, "check", lambda _: None)
    assert rows(checks.data_remote("/x")) == [("/x can be written", False)]

    def refused(*_: Any) -> None:
        raise FlowError("refused")

    monkeypatch.setattr(dvc_remote, "check", refused)
    monkeypatch.setattr(exchange, "remote", refused)
    assert rows(checks.data_remote("/x")) == rows(checks.git_remote("origin")) == [("refused", True)]
    for free, fixed in ((9.9, True), (10.0, False)):
        usage = SimpleNamespace(free=free * 2**30)
        monkeypatch.setattr("flows.cluster.checks.shutil.disk_usage", lambda _, usage=usage: usage)
        assert rows(checks.space()) == [(f"{free:.1f} GiB free at {place}", fixed)]
    monkeypatch.setattr(checks, "server", refused)
    told = {what: advice for what, _, advice in checks.rows(shared, "")}
    assert told["server"] == "see the message"
