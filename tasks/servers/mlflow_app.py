"""MLflow's server as `arc ui` starts it: it asks for the secret, and leaves out the assistant.

MLflow's own server lets every user of the machine change results and, by its assistant, run an agent's shell commands
as whoever started the server. `mlflow server --app-name arc` serves this app (pyproject.toml names it). Programs send
the secret by HTTP's basic authentication; a browser also gets in by an address with `?secret=`, and keeps a cookie.
"""

import base64
import binascii
import hmac
import os
import secrets
from collections.abc import Iterable
from http.cookies import CookieError, SimpleCookie
from urllib.parse import parse_qs, urlencode

from starlette.types import ASGIApp, Receive, Scope, Send

SECRET_VARIABLE = "ARC_MLFLOW_SECRET"
"""Environment variable with USER:TOKEN."""
OPEN = ("/health",)
"""Paths that say nothing but that a server is here."""
LEFT_OUT = "/mlflow/assistant/"
"""Part of the paths that MLflow's assistant answers."""
PARAMETER = "secret"


def create_app() -> ASGIApp:
    """MLflow's app behind the secret in ARC_MLFLOW_SECRET. Raises ValueError without one."""
    from mlflow.server.fastapi_app import app

    return Guard(app, os.environ.get(SECRET_VARIABLE, ""))


def entrance(page: str, secret: str) -> str:
    """The address `page`, which may have a fragment, with the secret, so that a browser gets in without asking."""
    before, mark, fragment = page.partition("#")
    return f"{before}?{urlencode({PARAMETER: secret.partition(':')[2]})}{mark}{fragment}"


class Guard:
    """Passes on the requests of those who know the secret USER:TOKEN."""

    def __init__(self, app: ASGIApp, secret: str) -> None:
        self.app, self.token = app, secret.partition(":")[2].encode()
        # Not the token itself: a browser shows the cookie to every port of this host.
        self.session = hmac.new(self.token, b"cookie of MLflow's page", "sha256").hexdigest()
        if len(self.token) < 16:
            raise ValueError(f"{SECRET_VARIABLE} must hold USER:TOKEN with a token of at least 16 characters")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer 401 to strangers and 404 to calls of the assistant; log a browser in that brings the token."""
        if scope["type"] == "lifespan" or (scope["type"] == "http" and scope["path"] in OPEN):
            await self.app(scope, receive, send)
            return
        headers = [(name.lower(), value) for name, value in scope["headers"]]
        tokens = parse_qs(scope.get("query_string", b"").decode("latin-1")).get(PARAMETER, [])
        if scope["type"] != "http":
            await send({"type": "websocket.close", "code": 1008})
        elif any(secrets.compare_digest(token.encode(), self.token) for token in tokens):
            cookie = f"{self.cookie(headers)}={self.session}; Path=/; HttpOnly; SameSite=Strict"
            await answer(send, 200, [HTML, (b"set-cookie", cookie.encode())], WELCOME)
        elif not self.knows(headers):
            await answer(
                send, 401, [PLAIN, (b"www-authenticate", b'Basic realm="the secret of this laboratory"')], HELP
            )
        elif LEFT_OUT in scope["path"]:
            await answer(send, 404, [PLAIN])
        else:
            await self.app(scope, receive, send)

    def knows(self, headers: Iterable[tuple[bytes, bytes]]) -> bool:
        """Whether a request brings the secret or the cookie."""
        headers = list(headers)
        for name, value in headers:
            scheme, _, credentials = value.partition(b" ")
            if name == b"authorization" and scheme.lower() == b"basic" and self._right(credentials.strip()):
                return True
            if name == b"cookie" and self._right_cookie(value, self.cookie(headers)):
                return True
        return False

    def cookie(self, headers: Iterable[tuple[bytes, bytes]]) -> str:
        """Name of the cookie: browsers send those of all ports of a host, so that each server has its own."""
        host = dict(headers).get(b"host", b"").decode("latin-1")
        port = host.rpartition(":")[2]
        return f"arc-mlflow-{port if port.isascii() and port.isdecimal() else 80}"

    def _right(self, credentials: bytes) -> bool:
        try:
            token = base64.b64decode(credentials, validate=True).partition(b":")[2]
        except binascii.Error:
            return False
        return secrets.compare_digest(token, self.token)

    def _right_cookie(self, value: bytes, name: str) -> bool:
        try:
            cookie = SimpleCookie(value.decode("latin-1")).get(name)
        except CookieError:
            return False
        return cookie is not None and secrets.compare_digest(cookie.value.encode(), self.session.encode())


HELP = b"This page asks for user and password: `cat .prefect/secret` prints them as USER:PASSWORD.\n"


PLAIN, HTML = ((b"content-type", b"text/%s; charset=utf-8" % kind) for kind in (b"plain", b"html"))
# Goes to the page without the secret, and keeps the assistant's panel shut, which MLflow opens at the first visit.
WELCOME = b"""<!doctype html><title>MLflow</title><script>
localStorage.setItem("mlflow.assistant.fab.autoOpenedOnFirstLoad_v1", "true");
localStorage.setItem("mlflow.assistant.panelOpen_v1", "false");
location.replace(location.pathname + location.hash);
</script>
"""


async def answer(send: Send, status: int, headers: list[tuple[bytes, bytes]], body: bytes = b"") -> None:
    """Answer with what no cache keeps."""
    kept = [(b"cache-control", b"no-store"), (b"referrer-policy", b"no-referrer")]
    length = (b"content-length", str(len(body)).encode())
    await send({"type": "http.response.start", "status": status, "headers": [*headers, *kept, length]})
    await send({"type": "http.response.body", "body": body})
