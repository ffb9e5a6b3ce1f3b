"""Who gets past the secret of MLflow's page: an app of ours behind it, asked as browsers and programs ask."""

import asyncio
import base64
from typing import Any

import httpx
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from tasks.servers.mlflow_app import Guard, entrance

SECRET = "arc:a-token-of-this-test_0123456789"
TOKEN = SECRET.partition(":")[2]
ASSISTANT = "/ajax-api/3.0/mlflow/assistant/config"


class Client:
    """Requests to an app, none of which follows a redirect or keeps a cookie."""

    def __init__(self, app: Any) -> None:
        self.app = app

    def get(self, path: str, headers: dict[str, str] | None = None, method: str = "GET") -> httpx.Response:
        async def ask() -> httpx.Response:
            transport = httpx.ASGITransport(app=self.app)
            async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1:5000") as client:
                return await client.request(method, path, headers=headers)

        return asyncio.run(ask())

    def post(self, path: str, headers: dict[str, str] | None = None) -> httpx.Response:
        return self.get(path, headers, "POST")


async def inside(request: Request) -> PlainTextResponse:
    return PlainTextResponse(f"inside {request.url.path}")


APP = Starlette(routes=[Route("/{rest:path}", inside, methods=["GET", "POST"])])


@pytest.fixture
def client() -> Client:
    return Client(Guard(APP, SECRET))


def basic(text: str) -> dict[str, str]:
    return {"Authorization": f"Basic {base64.b64encode(text.encode()).decode()}"}


@pytest.mark.parametrize(
    "headers",
    [
        {},
        basic("arc:wrong"),
        basic("arc:"),
        basic(TOKEN),
        {"Authorization": "Basic !!!"},
        {"Authorization": "Basic"},
        {"Authorization": f"Bearer {TOKEN}"},
        {"Cookie": f"arc-mlflow-5000={TOKEN}"},
        {"Cookie": "arc-mlflow-5000="},
        {"Cookie": "\x7f;;=;="},
        {"Host": "evil.example:5000"},
    ],
)
@pytest.mark.parametrize(
    "path", ["/", "/api/2.0/mlflow/runs/create", "/health/", "/healthy", "/?secret=wrong", "/?secret="]
)
def test_strangers_get_nothing_in(client, headers, path):
    for answer in (client.get(path, headers=headers), client.post(path, headers=headers)):
        assert answer.status_code == 401
        assert "Basic" in answer.headers["www-authenticate"]
        assert "inside" not in answer.text
        assert TOKEN not in str(answer.headers) + answer.text


def test_programs_get_in_with_the_secret(client):
    assert client.post("/api/x", headers=basic(SECRET)).text == "inside /api/x"
    assert client.get("/x", headers=basic(f"anybody:{TOKEN}")).status_code == 200


def test_a_browser_gets_in_by_the_printed_address_and_stays_in(client):
    address = entrance("http://127.0.0.1:5000/#/experiments/1?a=b", SECRET)
    assert address.endswith("#/experiments/1?a=b")
    first = client.get(address)
    assert first.status_code == 200
    assert "location.replace(location.pathname + location.hash)" in first.text, "without the secret"
    cookie = first.headers["set-cookie"]
    assert "HttpOnly" in cookie
    assert "SameSite=Strict" in cookie
    assert TOKEN not in cookie, "browsers send it to every port of this host"
    kept = {"Cookie": cookie.split(";")[0]}
    assert client.get("/y", headers=kept).text == "inside /y"
    assert client.get("/y", headers={**kept, "Host": "127.0.0.1:5001"}).status_code == 401, "of another server"


def test_a_server_that_starts_again_knows_the_cookie_and_one_with_another_secret_does_not(client):
    cookie = client.get(f"/?secret={TOKEN}").headers["set-cookie"].split(";")[0]
    assert Client(Guard(APP, SECRET)).get("/", headers={"Cookie": cookie}).status_code == 200
    assert Client(Guard(APP, "arc:another-token-0123456789")).get("/", headers={"Cookie": cookie}).status_code == 401


def test_all_may_ask_whether_a_server_is_here(client):
    assert client.get("/health").text == "inside /health"
    assert client.get("/version").status_code == 401


def test_nobody_reaches_the_assistant_which_runs_commands_here(client):
    assert client.get(ASSISTANT).status_code == 401
    assert client.post(ASSISTANT, headers=basic(SECRET)).status_code == 404
    assert client.get("/static-files/assistant-debug.svg", headers=basic(SECRET)).status_code == 200


def test_websockets_are_closed() -> None:
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {"type": "websocket", "path": "/socket", "headers": [], "query_string": b""}
    asyncio.run(Guard(APP, SECRET)(scope, None, send))
    assert [message["type"] for message in sent] == ["websocket.close"]


@pytest.mark.parametrize("secret", ["", "arc:", "arc:short", "a-token-of-this-test_0123456789"])
def test_without_a_secret_there_is_no_server(secret):
    with pytest.raises(ValueError, match="ARC_MLFLOW_SECRET must hold"):
        Guard(Starlette(), secret)
