"""The status of a server without a server, and the start of MLflow's app with its secret."""

import email.message
import http.client
import sys
import urllib.error
import urllib.request
from types import SimpleNamespace
from typing import Any

import pytest

from tasks.servers import mlflow_app, prefect_server
from tasks.servers.mlflow_app import Guard

URL = "http://127.0.0.1:1/x"


class Reply:
    """A reply with a status."""

    status = 204

    def __enter__(self) -> "Reply":
        return self

    def __exit__(self, *_: object) -> None:
        pass


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Has the next request answered or failed; what was asked."""
    made: list[Any] = []

    def answer(with_: Any) -> list[Any]:
        def open_(request: Any, timeout: float) -> Any:
            made.append((request.full_url, request.get_header("Authorization"), timeout))
            if isinstance(with_, Exception):
                raise with_
            return with_

        def opener(handler: Any) -> Any:
            assert handler.proxies == {}, "never through a proxy"
            return SimpleNamespace(open=open_)

        monkeypatch.setattr(urllib.request, "build_opener", opener)
        made.clear()
        return made

    return answer


def test_a_reply_has_its_status(asked: Any) -> None:
    made = asked(Reply())
    assert prefect_server.status(URL) == 204
    assert prefect_server.status(URL, "arc:token", 7.5) == 204
    # base64 of arc:token
    assert made == [(URL, None, 2.0), (URL, "Basic YXJjOnRva2Vu", 7.5)]


def test_a_refusal_has_its_status_and_silence_is_0(asked: Any) -> None:
    asked(urllib.error.HTTPError(URL, 401, "no", email.message.Message(), None))
    assert prefect_server.status(URL) == 401
    for error in (OSError("no route"), TimeoutError(), http.client.BadStatusLine("x"), urllib.error.URLError("x")):
        asked(error)
        assert prefect_server.status(URL) == 0
    asked(KeyError("x"))
    with pytest.raises(KeyError):
        prefect_server.status(URL)


def test_mlflows_app_starts_behind_its_secret_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "mlflow.server.fastapi_app", SimpleNamespace(app="app"))
    monkeypatch.setenv(mlflow_app.SECRET_VARIABLE, f"arc:{'t' * 16}")
    guard = mlflow_app.create_app()
    assert isinstance(guard, Guard)
    assert [guard.app, guard.token] == ["app", b"t" * 16]
    for text in (f"arc:{'t' * 15}", "t" * 30, ""):
        monkeypatch.setenv(mlflow_app.SECRET_VARIABLE, text)
        with pytest.raises(ValueError, match=r"^ARC_MLFLOW_SECRET must hold USER:TOKEN with a token of at least 16"):
            mlflow_app.create_app()
    monkeypatch.delenv(mlflow_app.SECRET_VARIABLE)
    with pytest.raises(ValueError, match="must hold USER:TOKEN"):
        mlflow_app.create_app()


def test_a_cookie_that_is_none_is_nobodys() -> None:
    guard = Guard("app", f"arc:{'t' * 16}")
    host = (b"host", b"127.0.0.1:5000")
    right = f"arc-mlflow-5000={guard.session}".encode()
    assert guard.knows([host, (b"cookie", b"other=1; " + right)])
    assert not guard.knows([(b"host", b"127.0.0.1:5001"), (b"cookie", right)])
    for wrong in (b"arc-mlflow-5000=x", b"a[b]=1; c", b"\xff=\xff", b"arc-mlflow-5000"):
        assert not guard.knows([host, (b"cookie", wrong)])
    assert guard.knows([host, (b"authorization", b"Basic " + b"YTp0dHR0dHR0dHR0dHR0dHR0")])  # a: and the token
    assert not guard.knows([host, (b"authorization", b"Basic !")])
    assert not guard.knows([host, (b"authorization", b"Bearer YTp0dHR0dHR0dHR0dHR0dHR0")])
