"""The rows of `arc join` and `arc doctor`, word by word, with answers that are made up."""

import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from flows.cluster import checks, dvc_remote
from flows.cluster.settings import Settings
from flows.runs.places import FlowError, git

API = "http://127.0.0.9:4300/api"
SECRET = "`cat .prefect/secret` in the server's clone prints it; put it into PREFECT_API_AUTH_STRING or a file "
SECRET += "of mode 0600 for --secret, and run `arc join` again"
START = "start `arc worker` there, and check the address, the tunnel and the firewall"
NO_SERVER = "it seems to be no Prefect server; check the address"
ANYBODY = "`arc worker` in the server's clone starts it with a secret"
OLDER = "`git pull && make setup` on the older side: Prefect here is 3.8.9"
CLOCK = "set the clock, such as with `timedatectl set-ntp true`"


@pytest.fixture
def answers(place: Path, monkeypatch: Any) -> dict[Any, Any]:
    """Status, time and body by address and secret; the clock shows 100 and 104 around the first answer."""
    table: dict[Any, Any] = {}
    monkeypatch.setattr(checks, "ask", lambda url, secret=None: table[url, secret])
    monkeypatch.setattr(checks, "version", {"prefect": "3.8.9", "mlflow": "2.1.0"}.__getitem__)
    clock = iter([100.0, 104.0])
    monkeypatch.setattr(checks, "time", SimpleNamespace(time=lambda: next(clock)))
    return table


def server(answers: dict[Any, Any], health: Any, known: Any = None, unknown: int = 401) -> list[checks.Row]:
    answers[f"{API}/health", None] = health
    answers[f"{API}/admin/version", "u:s"] = known
    answers[f"{API}/admin/version", None] = (unknown, None, b"")
    return list(checks.server(API, "u:s"))


GOOD = (200, None, b'"3.8.1"')


@pytest.mark.parametrize(
    ("health", "known", "row"),
    [
        ((0, None, b""), None, (f"no answer at {API}", START)),
        ((503, None, b""), None, (f"HTTP 503 at {API}", START)),
        ((199, None, b""), None, (f"HTTP 199 at {API}", START)),
        ((200, None, b""), (401, None, b""), (f"{API} refuses the secret", SECRET)),
        ((200, None, b""), (403, None, b""), (f"{API} refuses the secret", SECRET)),
        ((200, None, b""), (402, None, b""), (f"HTTP 402 at {API}/admin/version", NO_SERVER)),
        ((200, None, b""), (100, None, b""), (f"HTTP 100 at {API}/admin/version", NO_SERVER)),
    ],
)
def test_a_server_that_cannot_be_used_is_one_row(answers: Any, health: Any, known: Any, row: Any) -> None:
    assert server(answers, health, known) == [("server", *row)]


def test_a_server_that_answers_has_a_version_and_perhaps_a_clock(answers: Any) -> None:
    fine = ("server", f"{API} answers and knows the secret", "")
    assert server(answers, (200, None, b""), GOOD) == [fine, ("prefect", "Prefect 3.8.1 there, 3.8.9 here", "")]


@pytest.mark.parametrize(("unknown", "open_to_all"), [(200, True), (100, False), (404, False)])
def test_a_server_that_anybody_may_use_is_named(answers: Any, unknown: int, open_to_all: bool) -> None:
    rows = server(answers, (200, None, b""), (200, None, b"3.7.9"), unknown)
    found = "answers, and anybody may use it" if open_to_all else "answers and knows the secret"
    assert rows == [
        ("server", f"{API} {found}", ANYBODY if open_to_all else ""),
        ("prefect", "Prefect 3.7.9 there, 3.8.9 here", OLDER),
    ]


@pytest.mark.parametrize(
    ("date", "text", "fix"),
    [
        (106.5, "+5", ""),
        (106.6, "+5", CLOCK),
        (96.5, "-5", ""),
        (96.4, "-5", CLOCK),
        (101.5, "+0", ""),
        (0.0, "-102", CLOCK),
    ],
)
def test_clocks_may_differ_by_five_seconds(answers: Any, date: float, text: str, fix: str) -> None:
    """The middle of the question is 102, and that of the second that the server names half a second later."""
    assert server(answers, (200, date, b""), GOOD)[2:] == [("clock", f"the server's differs by {text} s", fix)]


@pytest.mark.parametrize(
    ("code", "found", "fix"),
    [
        (0, "no answer", "start it there"),
        (500, "HTTP 500", "start it there"),
        (402, "HTTP 402", "start it there"),
        (401, "HTTP 401", "set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD"),
        (403, "HTTP 403", "set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD"),
    ],
)
def test_an_mlflow_server_that_cannot_be_used_is_named(answers: Any, code: int, found: str, fix: str) -> None:
    answers["http://127.0.0.9:5000/version", "u:s"] = (code, None, b"")
    rows = list(checks.mlflow(Settings(API, "http://127.0.0.9:5000/", "origin"), "u:s"))
    assert rows == [("mlflow", f"{found} at http://127.0.0.9:5000/", fix)]


def test_results_go_to_the_server_that_was_chosen(answers: Any) -> None:
    answers["https://elsewhere/version", None] = (200, None, b"2.1.7\n")
    fine = ("mlflow", "MLflow 2.1.7 there, 2.1.0 here", "")
    assert list(checks.mlflow(Settings(API, "https://elsewhere", "origin"), "u:s")) == [fine], "without the secret"
    os.environ["MLFLOW_TRACKING_URI"] = "https://elsewhere"
    assert list(checks.mlflow(Settings(), "u:s")) == [fine]
    os.environ["MLFLOW_TRACKING_URI"] = "sqlite:///x.db"
    assert list(checks.mlflow(Settings(), "")) == [("mlflow", "results go to sqlite:///x.db, which is no server", "")]
    del os.environ["MLFLOW_TRACKING_URI"]
    own = ("mlflow", "results go to mlflow.db of this clone, which is no server", "")
    assert list(checks.mlflow(Settings(), "")) == [own]


def test_a_git_remote_is_read_and_not_written(place: Path) -> None:
    git("init", "-q", "--bare", "code.git", cwd=place)
    git("init", "-q", cwd=place)
    git("-c", "user.name=t", "-c", "user.email=t@t", "commit", "-q", "--allow-empty", "-m", "x", cwd=place)
    git("remote", "add", "shared", "code.git", cwd=place)
    assert list(checks.git_remote("shared")) == [("git remote", "shared can be read and written", "")]
    assert git("for-each-ref", cwd=place / "code.git") == ""
    [(what, found, fix)] = checks.git_remote("missing")
    assert (what, found[:23]) == ("git remote", "git ls-remote --quiet: ")
    assert fix == "`git remote -v` shows 'missing'; its key or password is git's business"
    [row] = checks.git_remote("")
    assert row == (
        "git remote",
        "none: frozen code and results stay in this clone",
        "`arc join` with --git NAME",
    )


def test_a_dvc_remote_is_written_or_its_fix_is_named(place: Path, monkeypatch: Any) -> None:
    checked: list[str] = []
    monkeypatch.setattr(dvc_remote, "check", checked.append)
    monkeypatch.setattr(dvc_remote, "configured", lambda folder: False)
    assert list(checks.data_remote()) == [("dvc remote", "none: every machine computes each stage itself", "")]
    assert checked == []
    assert list(checks.data_remote("/x")) == [("dvc remote", "/x can be written", "")]
    monkeypatch.setattr(dvc_remote, "configured", lambda folder: folder == place)
    assert list(checks.data_remote()) == [("dvc remote", "the default remote can be written", "")]
    assert list(checks.data_remote("/y")) == [("dvc remote", "/y can be written", "")]
    assert checked == ["/x", "", "/y"]
    errors = ["URL 's3://b' is supported but requires 'dvc-s3' to be installed", "no key"]

    def refuse(url: str) -> None:
        raise FlowError(errors[len(url)])

    monkeypatch.setattr(dvc_remote, "check", refuse)
    pip = "`pip install -c constraints.txt dvc-s3` in this clone's environment"
    assert list(checks.data_remote("")) == [("dvc remote", errors[0], pip)]
    [(_, found, fix)] = checks.data_remote("/")
    assert (found, fix) == (
        "no key",
        "its secret is DVC's business: AWS_ACCESS_KEY_ID and the like for S3, IdentityFile in ~/.ssh/config for SSH, "
        "or `dvc remote modify --local shared` with what DVC's page says of this kind of remote",
    )


@pytest.mark.parametrize(("gib", "fix"), [(9.99, "free space, or join elsewhere"), (10.0, ""), (10.01, "")])
def test_ten_gibibytes_are_free(place: Path, monkeypatch: Any, gib: float, fix: str) -> None:
    usage = {place: SimpleNamespace(free=gib * 1024**3)}
    monkeypatch.setattr("flows.cluster.checks.shutil.disk_usage", usage.__getitem__)
    assert list(checks.space()) == [("space", f"{gib:.1f} GiB free at {place}", fix)]


def test_every_piece_is_checked_whatever_the_others_are(place: Path, monkeypatch: Any) -> None:
    wanted = Settings("", "http://m", "origin")
    given: list[Any] = []

    def check(name: str) -> Any:
        def rows(*arguments: Any) -> Any:
            given.append((name, *arguments))
            yield name, "first", ""
            if name == "mlflow":
                raise FlowError("two\nlines")
            yield name, "second", "mend it"

        return rows

    for name in ("server", "mlflow", "git_remote", "data_remote", "space"):
        monkeypatch.setattr(checks, name, check(name))
    rows = list(checks.rows(wanted, "u:s", "/x"))
    assert given == [
        ("server", "http://127.0.0.1:4200/api", "u:s"),
        ("mlflow", wanted, "u:s"),
        ("git_remote", "origin"),
        ("data_remote", "/x"),
        ("space",),
    ]
    assert [row for row in rows if row[0] == "mlflow"] == [
        ("mlflow", "first", ""),
        ("mlflow", "two lines", "see the message"),
    ]
    assert [row[1] for row in rows if row[0] != "mlflow"] == ["first", "second"] * 4
    list(checks.rows(Settings(API), "u:s"))
    assert given[5] == ("server", API, "u:s")
    assert given[8] == ("data_remote", "")


def test_a_version_is_read_from_the_start_of_the_answer_only() -> None:
    assert checks.text_of(b"!" * 199 + b"78") == "7"
    assert checks.text_of(b"1" * 41) == "1" * 40
    assert checks.text_of("\u00e9".encode() + b"3.8.1+g_x-y \x1b[0m") == "3.8.1+g_x-y0m"
