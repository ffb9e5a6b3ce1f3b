"""Whether each piece of a cluster works from this machine, for `arc join` and `arc doctor`.

A check yields (piece, result, fix); `fix` is empty if nothing is wrong. Each takes the settings, so that they are
checked before they are saved.
"""

import base64
import http.client
import os
import re
import shutil
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from email.utils import parsedate_to_datetime
from importlib.metadata import version

from flows.cluster import dvc_remote, exchange
from flows.cluster.settings import Settings
from flows.runs import places
from flows.runs.places import FlowError, one_line
from tasks.servers import prefect_server

Row = tuple[str, str, str]
ANSWER_SECONDS = 10.0
CLOCK_SECONDS = 5.0
"""Allowed difference of clocks: start times order the queue, and heartbeats say who lives."""
FREE_GIB = 10.0


def rows(settings: Settings, secret: str, data: str = "") -> Iterator[Row]:
    """Every check; what cannot be checked is a finding. `data` is a DVC remote that is no default yet."""
    checks: tuple[tuple[str, Callable[[], Iterator[Row]]], ...] = (
        ("server", lambda: server(settings.server or prefect_server.address(), secret)),
        ("mlflow", lambda: mlflow(settings, secret)),
        ("git remote", lambda: git_remote(settings.remote)),
        ("dvc remote", lambda: data_remote(data)),
        ("space", space),
    )
    for name, check in checks:
        try:
            yield from check()
        except FlowError as error:
            yield name, one_line(error), "see the message"


def server(api: str, secret: str) -> Iterator[Row]:
    """Whether Prefect's server answers, knows the secret, has our version and our time."""
    before = time.time()
    code, date, _ = ask(f"{api}/health")
    if code != 200:
        answer = f"HTTP {code}" if code else "no answer"
        yield (
            "server",
            f"{answer} at {api}",
            "start `arc worker` there, and check the address, the tunnel and the firewall",
        )
        return
    middle = (before + time.time()) / 2
    code, _, body = ask(f"{api}/admin/version", secret)
    if code in (401, 403):
        yield (
            "server",
            f"{api} refuses the secret",
            "`cat .prefect/secret` in the server's clone prints it; put it into PREFECT_API_AUTH_STRING or a file "
            "of mode 0600 for --secret, and run `arc join` again",
        )
        return
    if code != 200:
        yield "server", f"HTTP {code} at {api}/admin/version", "it seems to be no Prefect server; check the address"
        return
    open_to_all = ask(f"{api}/admin/version")[0] == 200
    fix = "`arc worker` in the server's clone starts it with a secret" if open_to_all else ""
    yield "server", f"{api} answers{', and anybody may use it' if open_to_all else ' and knows the secret'}", fix
    yield agreement("Prefect", text_of(body), version("prefect"))
    if date is not None:
        skew = date + 0.5 - middle  # The header has whole seconds.
        fix = "set the clock, such as with `timedatectl set-ntp true`" if abs(skew) > CLOCK_SECONDS else ""
        yield "clock", f"the server's differs by {skew:+.0f} s", fix


def mlflow(settings: Settings, secret: str) -> Iterator[Row]:
    """Whether the MLflow server answers and has our version; a local store is not shared by itself."""
    uri = settings.mlflow or os.environ.get("MLFLOW_TRACKING_URI", "")
    if not uri.startswith(("http://", "https://")):
        yield "mlflow", f"results go to {uri or 'mlflow.db of this clone'}, which is no server", ""
        return
    code, _, body = ask(f"{uri.rstrip('/')}/version", ":".join(settings.mlflow_login(secret).values()) or None)
    if code != 200:
        answer = f"HTTP {code}" if code else "no answer"
        fix = "set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD" if code in (401, 403) else "start it there"
        yield "mlflow", f"{answer} at {uri}", fix
        return
    yield agreement("MLflow", text_of(body), version("mlflow"))


def git_remote(name: str) -> Iterator[Row]:
    """Whether this clone may fetch from and push to the shared git remote."""
    if not name:
        yield "git remote", "none: frozen code and results stay in this clone", "`arc join` with --git NAME"
        return
    try:
        exchange.remote("ls-remote", "--quiet", name, "HEAD")
        exchange.remote("push", "--quiet", "--dry-run", name, "HEAD:refs/arc/check")
    except FlowError as error:
        yield "git remote", str(error), f"`git remote -v` shows {name!r}; its key or password is git's business"
        return
    yield "git remote", f"{name} can be read and written", ""


def data_remote(url: str = "") -> Iterator[Row]:
    """Whether DVC's remote can be read and written; `url` for one that is not configured yet."""
    if not url and not dvc_remote.configured(places.home()):
        yield "dvc remote", "none: every machine computes each stage itself", ""
        return
    try:
        dvc_remote.check(url)
    except FlowError as error:
        yield "dvc remote", str(error), _remote_fix(str(error))
        return
    yield "dvc remote", f"{url or 'the default remote'} can be written", ""


def _remote_fix(error: str) -> str:
    if missing := re.search("requires '([a-z0-9-]+)' to be installed", error):
        return f"`pip install -c constraints.txt {missing[1]}` in this clone's environment"
    return (
        "its secret is DVC's business: AWS_ACCESS_KEY_ID and the like for S3, IdentityFile in ~/.ssh/config for SSH, "
        f"or `dvc remote modify --local {dvc_remote.REMOTE_NAME}` with what DVC's page says of this kind of remote"
    )


def space() -> Iterator[Row]:
    """Free space of this clone's disk."""
    free = shutil.disk_usage(places.home()).free / 2**30
    yield (
        "space",
        f"{free:.1f} GiB free at {places.home()}",
        "" if free >= FREE_GIB else "free space, or join elsewhere",
    )


def agreement(name: str, theirs: str, ours: str) -> Row:
    """Whether a server and this environment have the same version, up to its last number."""
    same = theirs.split(".")[:2] == ours.split(".")[:2]
    fix = f"`git pull && make setup` on the older side: {name} here is {ours}"
    return name.lower(), f"{name} {theirs} there, {ours} here", "" if same else fix


def text_of(body: bytes) -> str:
    """A version as a server tells it, in quotes or without; at most 40 characters that a version may have."""
    return re.sub(r"[^0-9A-Za-z.+_-]", "", body[:200].decode(errors="replace"))[:40]


def ask(url: str, secret: str | None = None) -> tuple[int, float | None, bytes]:
    """HTTP status, the server's Unix time, and the start of the answer of a GET; 0 if nothing answers in time."""
    request = urllib.request.Request(url)
    if secret:
        request.add_header("Authorization", f"Basic {base64.b64encode(secret.encode()).decode()}")
    # Secrets go to no proxy, as in all our own requests.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(request, timeout=ANSWER_SECONDS) as reply:
            return int(reply.status), _time(reply.headers.get("Date")), reply.read(1000)
    except urllib.error.HTTPError as error:
        with error:
            return int(error.code), _time(error.headers.get("Date")), b""
    except (OSError, http.client.HTTPException, ValueError):
        return 0, None, b""


def _time(header: str | None) -> float | None:
    try:
        return parsedate_to_datetime(header).timestamp() if header else None
    except (TypeError, ValueError):
        return None
