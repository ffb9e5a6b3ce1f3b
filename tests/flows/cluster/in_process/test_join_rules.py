"""What `arc join` and `arc leave` change in a clone, with checks, DVC and the server made up."""

import os
from pathlib import Path
from typing import Any

import pytest

from flows.cluster import checks, dvc_remote, join, settings
from flows.cluster.settings import Settings
from flows.runs.places import FlowError, git

API = "http://127.0.0.9:4300/api"
FINE = [("server", "it answers", ""), ("space", "much", "")]


@pytest.fixture
def checked(place: Path, monkeypatch: Any) -> list[Any]:
    """What the checks were given in a git repository; they find nothing to fix unless `checks.rows` is replaced."""
    git("init", "-q", cwd=place)
    given: list[Any] = []

    def rows(wanted: Settings, secret: str, data: str) -> Any:
        given.append((wanted, secret, data))
        yield from FINE

    monkeypatch.setattr(checks, "rows", rows)
    monkeypatch.setattr(dvc_remote, "configured", lambda folder: False)
    return given


def test_what_works_is_saved(checked: list[Any], place: Path, asked: Any) -> None:
    assert join.join("http://127.0.0.9:4300/", "http://127.0.0.9:5000//", "origin", "", "arc:token") == FINE
    wanted = Settings(API, "http://127.0.0.9:5000", "origin", "")
    assert checked == [(wanted, "arc:token", "")]
    assert settings.read() == wanted
    assert settings.secret_file().read_text() == "arc:token\n"
    assert asked() == [], "DVC's remote stays as it is"


def test_of_the_clones_own_server_no_address_is_saved(checked: list[Any], place: Path) -> None:
    join.join("http://127.0.0.1:4200", "", "origin", "", "arc:another")
    key = (place / ".prefect" / "secret").read_text().strip()
    assert checked == [(Settings("", "", "origin", ""), key, "")]
    assert settings.read() == Settings(remote="origin")


@pytest.mark.parametrize("number", [0, 1])
def test_nothing_is_saved_where_anything_is_to_be_fixed(
    checked: list[Any], monkeypatch: Any, program: Any, asked: Any, number: int
) -> None:
    rows = [*FINE]
    rows[number] = (rows[number][0], "wrong", "mend it")
    monkeypatch.setattr(checks, "rows", lambda *_: iter(rows))
    program("dvc", "")
    assert join.join(API, "", "origin", "s3://bucket", "arc:token") == rows
    assert settings.read() == Settings()
    assert not settings.secret_file().exists()
    assert asked() == []


@pytest.mark.parametrize(
    ("data", "wanted"),
    [
        ("s3://bucket/x", "s3://bucket/x"),
        ("../objects", "{parent}/objects"),
        ("/mnt/../data", "/data"),
        ("~/objects", "{parent}/objects"),
    ],
)
def test_the_folder_of_a_remote_is_saved_as_an_absolute_path(
    checked: list[Any], place: Path, program: Any, asked: Any, data: str, wanted: str
) -> None:
    program("dvc", "")
    os.environ["HOME"] = str(place.parent)
    wanted = wanted.format(parent=place.parent)
    assert join.join(API, "", "origin", data, "arc:token") == FINE
    assert checked[0][2] == wanted
    assert asked() == [
        f"{place} remote list",
        f"{place} remote add --local shared {wanted}",
        f"{place} remote default --local shared",
    ]


def test_the_home_of_nobody_is_no_folder(checked: list[Any]) -> None:
    with pytest.raises(FlowError, match=r"^--data is '~no-such-user/objects': "):
        join.join(API, "", "origin", "~no-such-user/objects", "arc:token")
    assert checked == []


@pytest.mark.parametrize(
    ("listed", "change"),
    [
        ("", "add --local shared"),
        ("other /x\\nshared2 /y", "add --local shared"),
        ("other /x\\nshared /y", "modify --local shared url"),
        ("shared\\t/y\\nother /x", "modify --local shared url"),
    ],
)
def test_a_remote_that_is_known_gets_a_new_address_and_keeps_its_key(
    place: Path, program: Any, asked: Any, listed: str, change: str
) -> None:
    program("dvc", f"printf '{listed}'")
    join._use_remote("s3://b")
    assert asked()[1:] == [f"{place} remote {change} s3://b", f"{place} remote default --local shared"]


def test_an_error_of_dvc_is_raised_with_the_command_that_failed(program: Any) -> None:
    for script, message in (
        ("echo no >&2; echo project >&2; exit 3", "dvc remote list: no project"),
        ('[ "$2" = list ] || { echo locked >&2; exit 1; }', "dvc remote add: locked"),
    ):
        program("dvc", script)
        with pytest.raises(FlowError) as failed:
            join._use_remote("s3://b")
        assert str(failed.value) == message


def test_shared_saves_need_a_remote_and_minutes(checked: list[Any], program: Any, monkeypatch: Any) -> None:
    program("dvc", "")
    with pytest.raises(FlowError) as refused:
        join.join(API, "", "origin", "", "arc:token", "5")
    assert str(refused.value) == ("shared saves of trainings go to the DVC remote, and there is none; give --data too")
    with pytest.raises(FlowError, match=r"^the minutes between two shared saves are 'x'"):
        join.join(API, "", "origin", "s3://bucket", "arc:token", "x")
    assert checked == []
    assert join.join(API, "", "origin", "s3://bucket", "arc:token", "5") == FINE
    assert settings.read().saves == "5"
    monkeypatch.setattr(dvc_remote, "configured", lambda folder: folder == Path.cwd())
    assert join.join(API, "", "origin", "", "arc:token", "6") == FINE
    assert settings.read().saves == "6"
    assert join.join(API, "", "origin", "", "arc:token") == FINE
    assert settings.read().saves == ""


def test_the_secret_is_given_or_the_clones_own_or_the_one_saved_for_that_server(checked: list[Any], place: Path):
    file = place / "key"
    file.write_text("arc:of-a-file\n")
    file.chmod(0o600)
    os.environ["HOME"] = str(place)
    assert join.key_of(API, file) == join.key_of(API, Path("~/key")) == "arc:of-a-file"
    assert join.key_of("http://127.0.0.1:4200/api", file) == "arc:of-a-file"
    assert join.key_of(API, "arc:as-given") == "arc:as-given"
    missing = (
        f"the secret of {API} is missing; `cat .prefect/secret` in the server's clone prints it: "
        "put it into PREFECT_API_AUTH_STRING, or into a file of mode 0600 that --secret names"
    )

    def refused() -> str:
        with pytest.raises(FlowError) as error:
            join.key_of(API, "")
        return str(error.value)

    assert refused() == missing
    settings.write(Settings("http://127.0.0.8:4300/api", "", "origin"), "arc:saved")
    assert refused() == missing, "another server does not get it"
    settings.write(Settings(API, "", "origin"), "arc:saved")
    assert join.key_of(API, "") == "arc:saved"
    settings.secret_file().unlink()
    assert refused() == missing
    own = "http://127.0.0.1:4200/api"
    assert join.key_of(own, "arc:as-given") == (place / ".prefect" / "secret").read_text().strip()
    os.environ["PREFECT_API_URL"] = API
    assert join.key_of(own, "arc:as-given") == "", "which no process of this clone has now"


def test_a_clone_leaves_with_and_without_a_secret(checked: list[Any]) -> None:
    settings.write(Settings(API, "http://127.0.0.9:5000", "origin", "5"), "arc:saved")
    for _ in range(2):
        join.leave()
        assert settings.read() == Settings()
        assert not settings.secret_file().exists()
