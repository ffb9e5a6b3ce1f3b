"""Prefect's server on this machine: where it listens, and who may use it, which is whoever can read its secret."""

import base64
import http.client
import os
import secrets
import urllib.error
import urllib.request
from pathlib import Path

USER = "arc"
"""User name of HTTP's basic authentication; the rest of the secret is its password."""


def host() -> str:
    """PREFECT_SERVER_API_HOST, or 127.0.0.1."""
    return os.environ.get("PREFECT_SERVER_API_HOST") or "127.0.0.1"


def port() -> int:
    """PREFECT_SERVER_API_PORT, or 4200. Raises ValueError unless it is a number from 1 to 65535."""
    return port_of("PREFECT_SERVER_API_PORT", 4200)


def port_of(variable: str, default: int) -> int:
    """The port that an environment variable names. Raises ValueError unless it is a number from 1 to 65535."""
    text = os.environ.get(variable) or str(default)
    if not (text.isascii() and text.isdecimal() and len(text) <= 5 and 0 < int(text) < 2**16):
        raise ValueError(f"{variable} is {text[:40]!r}; allowed are 1 to 65535")
    return int(text)


def address(at: int | None = None) -> str:
    """Address of the API of this machine's server, on the port `at` if given, else on the configured one."""
    return f"http://{host()}:{at or port()}/api"


def foreign() -> bool:
    """Whether PREFECT_API_URL names another server than this machine's; its secret is the user's business."""
    return os.environ.get("PREFECT_API_URL") not in (None, "", address())


def secret_file(home: Path) -> Path:
    """The file that holds the secret of the server whose files are in the folder `home`."""
    return home / "secret"


def secret(home: Path) -> str:
    """The secret 'arc:TOKEN' of the server whose files are in the folder `home`; made by the first command.

    Only this user can read its file. Raises ValueError if the file has other content.
    """
    home.mkdir(parents=True, exist_ok=True)
    home.chmod(0o700)  # Databases and logs are for this user too.
    path = secret_file(home)
    if not path.exists():
        part = path.with_name(f"secret.{os.getpid()}.{secrets.token_hex(4)}")
        descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
        with os.fdopen(descriptor, "w") as file:
            file.write(f"{USER}:{secrets.token_urlsafe(32)}\n")
            file.flush()
            os.fsync(descriptor)
        try:
            path.hardlink_to(part)  # Unlike a move, it leaves the secret of a simultaneous command.
        except FileExistsError:
            pass
        finally:
            part.unlink()
    path.chmod(0o600)
    text = path.read_text(errors="replace").strip()
    if not text.startswith(f"{USER}:") or len(text) < 32 or not text.isascii() or not text.isprintable():
        raise ValueError(f"{path} holds no secret of Prefect's server; end the server, remove the file, start again")
    return text


def settings(home: Path, at: int | None = None) -> dict[str, str]:
    """Environment variables of the server in the folder `home`, on the port `at`, and of its clients.

    The server asks for the secret, and pages of other origins can neither read from it nor write to it.
    """
    if foreign():
        return {}
    origins = dict.fromkeys(f"http://{name}:{at or port()}" for name in (host(), "127.0.0.1", "localhost"))
    key = os.environ.get("PREFECT_SERVER_API_AUTH_STRING") or secret(home)
    return {
        "PREFECT_SERVER_API_AUTH_STRING": key,
        "PREFECT_API_AUTH_STRING": key,
        "PREFECT_SERVER_API_CSRF_PROTECTION_ENABLED": "true",
        "PREFECT_SERVER_API_CORS_ALLOWED_ORIGINS": ",".join(origins),
        **without_proxy(),
    }


def without_proxy() -> dict[str, str]:
    """NO_PROXY with this machine's names added: a proxy is for other machines, and cannot reach ours."""
    excluded = os.environ.get("no_proxy") or os.environ.get("NO_PROXY") or ""
    names = dict.fromkeys([*filter(None, excluded.split(",")), "127.0.0.1", "localhost", "::1", host()])
    return {name: ",".join(names) for name in ("no_proxy", "NO_PROXY")}


def status(url: str, key: str | None = None, seconds: float = 2.0) -> int:
    """HTTP status of a GET, with the secret `key` if given, never through a proxy; 0 if nothing answers in time."""
    request = urllib.request.Request(url)
    if key:
        request.add_header("Authorization", f"Basic {base64.b64encode(key.encode()).decode()}")
    try:
        with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=seconds) as reply:
            return int(reply.status)
    except urllib.error.HTTPError as error:
        error.close()
        return int(error.code)
    except (OSError, http.client.HTTPException):
        return 0
