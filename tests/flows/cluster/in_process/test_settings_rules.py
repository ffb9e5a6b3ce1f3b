"""What a clone keeps of its cluster, which processes get its secret, and which texts are one."""

import os
import runpy
import sys
from pathlib import Path
from typing import Any

import pytest

from flows.cluster import settings, tied
from flows.cluster.settings import Settings
from flows.runs.places import FlowError, git
from tasks.common import stage

API, MLFLOW = "http://127.0.0.9:4300/api", "http://127.0.0.9:5000"
NAMES = ("MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD")


@pytest.mark.parametrize(
    ("chosen", "secret", "login"),
    [
        (Settings(API, MLFLOW), "arc:a:b", ("arc", "a:b")),
        (Settings(API, MLFLOW), "no colon", None),
        (Settings(API, MLFLOW), "", None),
        (Settings(API, "http://127.0.0.8:5000"), "arc:a", None),
        (Settings(API, ""), "arc:a", None),
        (Settings("", "http://127.0.0.1:5000"), "arc:a", ("arc", "a")),
        (Settings("", MLFLOW), "arc:a", None),
    ],
)
def test_mlflow_gets_the_secret_on_the_host_of_prefects_server_only(
    place: Path, chosen: Settings, secret: str, login: tuple[str, str] | None
) -> None:
    assert chosen.mlflow_login(secret) == (dict(zip(NAMES, login, strict=True)) if login else {})


def test_the_users_own_login_to_mlflow_wins(place: Path) -> None:
    os.environ.pop(NAMES[1], None)
    os.environ[NAMES[0]] = "me"
    assert Settings(API, MLFLOW).mlflow_login("arc:a") == {NAMES[0]: "me", NAMES[1]: ""}
    os.environ[NAMES[1]] = "mine"
    assert Settings().mlflow_login("") == {NAMES[0]: "me", NAMES[1]: "mine"}


def test_settings_are_those_of_section_arc_of_this_clone(place: Path) -> None:
    git("init", "-q", cwd=place)
    for name, value in (("arc.mlflow", "a b c"), ("arcs.remote", "other"), ("x.arc.saves", "5"), ("arc.new", "x")):
        git("config", "--local", name, value, cwd=place)
    assert settings.read() == Settings(mlflow="a b c")
    settings.write(Settings(remote="origin"), "arc:a")
    assert settings.read() == Settings(remote="origin")
    assert not settings.secret_file().exists(), "of the clone's own server there is a file already"
    assert git("config", "--local", "arc.new", cwd=place) == "x"


@pytest.mark.parametrize(("home", "folder"), [("deep/er", "deep/er"), ("~/server", "user/server"), (None, ".prefect")])
def test_the_secret_lies_with_prefects_files(place: Path, home: str | None, folder: str) -> None:
    git("init", "-q", cwd=place)
    os.environ["HOME"] = str(place / "user")
    os.environ.pop("PREFECT_HOME", None)
    if home:
        os.environ["PREFECT_HOME"] = home
    assert settings.secret_file() == place / folder / "joined-secret"
    for secret in ("arc:a", "arc:b"):
        settings.write(Settings(API), secret)
        assert settings.secret_file().read_text() == f"{secret}\n"
    assert (place / folder).stat().st_mode & 0o777 == 0o700
    assert settings.secret_file().stat().st_mode & 0o777 == 0o600
    assert [path.name for path in (place / folder).iterdir()] == ["joined-secret"]


@pytest.fixture
def joined(place: Path, monkeypatch: Any) -> None:
    """A clone that has joined; its own server's secret is `arc:own`."""
    git("init", "-q", cwd=place)
    settings.write(Settings(API, MLFLOW, "origin"), "arc:joined")
    own = {settings.AUTH_VARIABLE: "arc:own"}
    monkeypatch.setattr("flows.cluster.settings.places.environment", lambda: own)


def login(password: str) -> dict[str, str]:
    return dict(zip(NAMES, ("arc", password), strict=True))


@pytest.mark.parametrize(
    ("set_already", "wanted"),
    [
        (
            {},
            {"PREFECT_API_URL": API, "MLFLOW_TRACKING_URI": MLFLOW, settings.AUTH_VARIABLE: "arc:joined"}
            | login("joined"),
        ),
        (
            {"PREFECT_API_URL": API},
            {"MLFLOW_TRACKING_URI": MLFLOW, settings.AUTH_VARIABLE: "arc:joined"} | login("joined"),
        ),
        ({"PREFECT_API_URL": "http://127.0.0.8/api"}, {"MLFLOW_TRACKING_URI": MLFLOW}),
        ({settings.AUTH_VARIABLE: "arc:mine"}, {"PREFECT_API_URL": API, "MLFLOW_TRACKING_URI": MLFLOW} | login("mine")),
        ({"MLFLOW_TRACKING_URI": "sqlite:///x"}, {"PREFECT_API_URL": API, settings.AUTH_VARIABLE: "arc:joined"}),
        (
            {"MLFLOW_TRACKING_URI": MLFLOW},
            {"PREFECT_API_URL": API, settings.AUTH_VARIABLE: "arc:joined"} | login("joined"),
        ),
    ],
)
def test_what_is_set_already_wins(joined: None, set_already: dict[str, str], wanted: dict[str, str]) -> None:
    os.environ |= set_already
    assert settings.environment() == wanted


@pytest.mark.parametrize(
    ("mlflow", "set_already", "wanted"),
    [
        ("", {}, {}),
        ("http://127.0.0.1:5000", {}, login("own")),
        ("http://127.0.0.1:5000", {settings.AUTH_VARIABLE: "arc:mine"}, login("mine")),
        ("http://127.0.0.1:5000", {"PREFECT_API_URL": "http://127.0.0.8/api"}, {}),
        ("http://127.0.0.1:5000", {"PREFECT_API_URL": "http://127.0.0.1:4200/api"}, login("own")),
        (MLFLOW, {}, {}),
    ],
)
def test_the_clone_of_the_server_logs_in_with_its_own_secret(
    joined: None, mlflow: str, set_already: dict[str, str], wanted: dict[str, str]
) -> None:
    settings.write(Settings("", mlflow, "origin"), "")
    os.environ |= set_already
    assert settings.environment() == wanted | ({"MLFLOW_TRACKING_URI": mlflow} if mlflow else {})


@pytest.mark.parametrize(
    ("remote", "url", "alone"),
    [("", "", True), ("origin", "", False), ("", API, False), ("origin", API, False)],
)
def test_a_clone_is_alone_unless_it_has_joined_or_names_another_server(
    place: Path, remote: str, url: str, alone: bool
) -> None:
    git("init", "-q", cwd=place)
    settings.write(Settings(remote=remote), "")
    os.environ["PREFECT_API_URL"] = url
    assert settings.joined() is bool(remote)
    assert settings.alone() is alone


def test_a_secret_is_read_from_a_file_of_this_user_only(place: Path) -> None:
    file = place / "key"

    def refused() -> str:
        with pytest.raises(FlowError) as error:
            settings.secret_of(file)
        return str(error.value)

    assert refused() == f"the secret cannot be read: {file}: No such file or directory; run `arc join` again"
    file.write_text(" arc:a b \n")
    for mode in (0o600, 0o700, 0o400):
        file.chmod(mode)
        assert settings.secret_of(file) == "arc:a b"
    for mode in (0o601, 0o610, 0o604, 0o640, 0o602, 0o620):
        file.chmod(mode)
        assert refused() == f"{file} has mode {mode:04o}, so others can read the secret; `chmod 600 {file}`"
    file.chmod(0o600)
    for content in (b"\n", b"arc:\xc3\xa9", b"arc:\xff", b"arc:a\narc:b", b"arc:\x1b"):
        file.write_bytes(content)
        assert refused() == (
            f"{file} holds no secret; it is one line, which `cat .prefect/secret` prints at the server"
        )


@pytest.mark.parametrize("url", ["4200", "ftp://h", "http:/h", "http://a b", "http://a\x1b", ""])
def test_what_is_no_address(url: str) -> None:
    with pytest.raises(FlowError) as refused:
        settings.api_of(url)
    assert str(refused.value) == f"{url!r} is no address of a server; write it like http://127.0.0.1:4300"


def test_an_address_holds_no_password_and_ends_with_api(place: Path) -> None:
    for url in ("https://user:password@host", "http://user@host/x"):
        with pytest.raises(FlowError) as refused:
            settings.api_of(url)
        assert str(refused.value) == (
            "the address holds a password, which lists of processes show; put it into PREFECT_API_AUTH_STRING"
        )
    assert settings.api_of("https://host/a@b//") == "https://host/a@b/api"
    assert settings.api_of("http://host/api/") == "http://host/api"
    assert settings.own("http://127.0.0.1:4200/api")
    assert not settings.own("http://127.0.0.1:4201/api")


def test_a_module_that_ends_with_its_parent_runs_as_if_it_was_started(place: Path, monkeypatch: Any) -> None:
    (place / "started.py").write_text("import sys, __main__\nfound = (__name__, sys.argv[:], __main__.__file__)\n")
    done: list[Any] = []
    monkeypatch.setattr(stage, "die_with_parent", lambda: done.append("tied"))
    monkeypatch.setattr(sys, "path", [str(place), *sys.path])
    monkeypatch.setattr(sys, "argv", ["tied", "started", "a", "b"])
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    kept = sys.modules["__main__"]
    run_module = runpy.run_module

    def noting(*given: Any, **options: Any) -> None:
        done.append(run_module(*given, **options)["found"])

    monkeypatch.setattr(runpy, "run_module", noting)
    runpy.run_path(tied.__file__, run_name="__main__")
    file = str(place / "started.py")
    assert done == ["tied", ("__main__", [file, "a", "b"], file)]
    assert sys.modules["__main__"] is kept
