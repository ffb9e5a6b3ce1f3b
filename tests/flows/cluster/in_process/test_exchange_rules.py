"""Commands to the shared git remote one by one: `git` is a script here, or the remote's answers are made up."""

import os
import subprocess
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from flows.cluster import exchange, settings
from flows.cluster.settings import Settings
from flows.runs import places
from flows.runs.places import FlowError, git

NOW, SECOND = 1_800_000_000, 1 / 86400


def test_git_asks_nobody_for_a_password(program: Any, asked: Any, place: Path) -> None:
    program("git", 'echo "$GIT_TERMINAL_PROMPT, $GIT_SSH_COMMAND "')
    os.environ.pop("GIT_SSH_COMMAND", None)
    assert exchange.remote("fetch", "x") == "0, ssh -oBatchMode=yes"
    os.environ["GIT_SSH_COMMAND"] = "ssh -i key"
    os.environ["GIT_TERMINAL_PROMPT"] = "1"
    assert exchange.remote("push") == "0, ssh -i key"
    assert asked() == [f"{place} fetch x", f"{place} push"]


@pytest.mark.parametrize(
    ("script", "message"),
    [
        ("echo out; echo 'no such' >&2; echo remote >&2; exit 128", "no such remote"),
        ("echo out; exit 1", "out"),
        ("exit 7", "exit code 7"),
    ],
)
def test_an_error_of_git_names_the_command_and_not_the_address(program: Any, script: str, message: str) -> None:
    program("git", script)
    with pytest.raises(FlowError) as failed:
        exchange.remote("fetch", "--quiet", "https://user:secret@host", "HEAD")
    assert str(failed.value) == f"git fetch --quiet: {message}"


def test_git_is_waited_for_ten_minutes(place: Path, monkeypatch: Any) -> None:
    def run(command: list[str], timeout: float, **_: Any) -> None:
        raise subprocess.TimeoutExpired(command, timeout)

    monkeypatch.setattr(subprocess, "run", run)
    with pytest.raises(FlowError) as failed:
        exchange.remote("ls-remote", "origin", "HEAD")
    assert str(failed.value) == "git ls-remote origin: no answer within 600 s"


class Remote:
    """Notes commands; `answers` are the texts or errors by git's command, one after the other, then empty ones."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, ...]] = []
        self.answers: dict[str, list[Any]] = {}

    def __call__(self, *command: str) -> str:
        self.asked.append(command)
        waiting = self.answers.get(command[0])
        answer = waiting.pop(0) if waiting else ""
        if isinstance(answer, FlowError):
            raise answer
        return str(answer)


@pytest.fixture
def remote(place: Path, monkeypatch: Any) -> Remote:
    """The remote `origin` of a clone that has joined."""
    made = Remote()
    monkeypatch.setattr(exchange, "remote", made)
    monkeypatch.setattr(exchange, "time", SimpleNamespace(time=lambda: NOW))
    monkeypatch.setattr(settings, "read", lambda: Settings(remote="origin"))
    git("init", "-q", cwd=place)
    os.environ["GIT_CONFIG_GLOBAL"] = os.devnull
    return made


def test_each_frozen_commit_is_pushed_once_and_fetched_with_all_others(remote: Remote, monkeypatch: Any) -> None:
    a, b = "refs/arc/frozen/a", "refs/arc/frozen/b"
    exchange.share_frozen(["b", "a", "b"])
    exchange.share_frozen([])
    exchange.fetch_frozen()
    fetched = ("fetch", "--quiet", "--no-tags", "origin", "+refs/arc/frozen/*:refs/arc/frozen/*")
    assert remote.asked == [("push", "--quiet", "origin", f"{b}:{b}", f"{a}:{a}"), fetched]
    monkeypatch.setattr(settings, "read", Settings)
    exchange.share_frozen(["a"])
    assert len(remote.asked) == 2


def test_a_frozen_commit_is_deleted_only_where_it_is(remote: Remote) -> None:
    remote.answers["ls-remote"] = ["0123 refs/arc/frozen/a", ""]
    exchange.release("a")
    asked = ("ls-remote", "origin", "refs/arc/frozen/a")
    assert remote.asked == [asked, ("push", "--quiet", "origin", ":refs/arc/frozen/a")]
    exchange.release("a")
    assert remote.asked[2:] == [asked]


PUSH = ("push", "--quiet", "origin", "refs/heads/exp/x:refs/heads/exp/x")
LOOK = ("ls-remote", "origin", "refs/heads/exp/x")
AGAIN = [PUSH, LOOK, ("fetch", "--quiet", "--no-tags", "origin", "refs/heads/exp/x")]


@pytest.mark.parametrize(
    ("refused", "there", "asked", "error"),
    [
        (0, 0, [PUSH], ""),
        (1, 9, [*AGAIN, PUSH], ""),
        (4, 9, [*AGAIN * 4, PUSH], ""),
        (5, 9, [*AGAIN * 4, PUSH], "refusal 5"),
        (2, 1, [*AGAIN, PUSH, LOOK], "refusal 2"),
        (1, 0, [PUSH, LOOK], "refusal 1"),
    ],
)
def test_a_branch_is_tried_five_times_where_others_push_it_too(
    remote: Remote, monkeypatch: Any, refused: int, there: int, asked: list[Any], error: str
) -> None:
    joined: list[tuple[str, str]] = []
    monkeypatch.setattr(exchange, "_join_histories", lambda *given: joined.append(given))
    monkeypatch.setattr(exchange, "git", lambda *command, cwd: " ".join(command))
    refusals = [FlowError(f"refusal {number}") for number in range(1, refused + 1)]
    remote.answers = {"push": refusals, "ls-remote": ["it is there"] * there}
    if error:
        with pytest.raises(FlowError, match=error):
            exchange.push_branch("exp/x")
    else:
        exchange.push_branch("exp/x")
    assert remote.asked == asked
    assert joined == [("exp/x", "rev-parse FETCH_HEAD")] * asked.count(AGAIN[2])


@pytest.mark.parametrize("why", ["! [rejected] exp/x", "exp/x (non-fast-forward)"])
def test_a_branch_that_cannot_follow_is_a_line_and_any_other_error_is_raised(remote: Remote, why: str) -> None:
    assert exchange.fetch_branches() == []
    assert remote.asked == [("fetch", "--no-tags", "origin", "refs/heads/exp/*:refs/heads/exp/*")]
    remote.answers["fetch"] = [FlowError(f"git\nfetch: {why}"), FlowError("no such remote")]
    assert exchange.fetch_branches() == [f"not every exp/ branch follows that of origin: git fetch: {why}"]
    with pytest.raises(FlowError, match="no such remote"):
        exchange.fetch_branches()


RUNS = [f"0190aaaa-bbbb-cccc-dddd-0123456789a{digit}" for digit in "bcd"]


def commit(place: Path, title: str, days: float = 0.0) -> str:
    """A commit of these records that is `days` old, made by git's own commands."""
    (place / "title").write_text(title)
    git("add", "title", cwd=place)
    who = {f"GIT_{role}_{what}": "t@t" for role in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
    when = f"{NOW - days * 86400:.0f} +0000"
    return git("commit-tree", git("write-tree", cwd=place), "-m", "x", cwd=place, GIT_COMMITTER_DATE=when, **who)


def refs(place: Path) -> dict[str, str]:
    lines = git("for-each-ref", "--format=%(refname:lstrip=3) %(objectname)", "refs/arc/records", cwd=place)
    return dict(line.split() for line in lines.splitlines())


def test_records_are_written_unless_they_are_old_or_of_no_run(remote: Remote, place: Path) -> None:
    names = [RUNS[0], "a-run", RUNS[1], RUNS[2]]
    commits = [commit(place, f"title {name}", days) for name, days in zip(names, (14, 0, 14 + SECOND, 0), strict=True)]
    for name, one in zip(names, commits, strict=True):
        git("update-ref", f"refs/arc/records/{name}", one, cwd=place)
    exchange.fetch_records()
    asked = ("fetch", "--quiet", "--no-tags", "origin", "+refs/arc/records/*:refs/arc/records/*")
    assert remote.asked == [asked]
    assert set(refs(place)) == {RUNS[0], "a-run", RUNS[2]}
    titles = {path.parent.name: path.read_text() for path in (places.scratch() / "runs").glob("*/title")}
    assert titles == {name: f"title {name}" for name in (RUNS[0], RUNS[2])}
    assert (places.folder_of(RUNS[0]) / "fetched").read_text() == commits[0]


def test_records_are_written_again_only_where_they_have_changed(remote: Remote, place: Path) -> None:
    title = places.folder_of(RUNS[0]) / "title"
    one, two = commit(place, "one"), commit(place, "two")
    for records, wanted in ((one, "one"), (one, "as it is here"), (two, "two")):
        git("update-ref", f"refs/arc/records/{RUNS[0]}", records, cwd=place)
        exchange.fetch_records()
        assert title.read_text() == wanted
        title.write_text("as it is here")
        (title.parent / "stages.json").write_text("[]")
    (title.parent / "fetched").unlink()
    git("update-ref", f"refs/arc/records/{RUNS[0]}", commit(place, "three"), cwd=place)
    exchange.fetch_records()
    assert title.read_text() == "as it is here", "it ran here"


def test_old_records_are_deleted_here_and_there_where_they_are(remote: Remote, place: Path) -> None:
    for name, days in zip("abcd", (14 + SECOND, 14, 15.0, 20.0), strict=True):
        git("update-ref", f"refs/arc/records/{name}", commit(place, name, days), cwd=place)
    remote.answers["ls-remote"] = ["1 refs/arc/records/b\n1 refs/arc/records/c\n1 refs/arc/records/a"]
    exchange.forget_old_records()
    assert remote.asked == [
        ("ls-remote", "origin", "refs/arc/records/*"),
        ("push", "--quiet", "origin", ":refs/arc/records/a", ":refs/arc/records/c"),
    ]
    assert set(refs(place)) == {"b"}
    remote.asked = []
    exchange.forget_old_records()
    assert remote.asked == [], "nothing is old"
    git("update-ref", "refs/arc/records/e", commit(place, "e", 30.0), cwd=place)
    exchange.forget_old_records()
    assert remote.asked == [("ls-remote", "origin", "refs/arc/records/*")]
    assert set(refs(place)) == {"b"}


def test_a_run_without_records_pushes_none(remote: Remote, place: Path) -> None:
    exchange.push_records(RUNS[0])
    places.folder_of(RUNS[0]).mkdir(parents=True)
    (places.folder_of(RUNS[0]) / "flow.log").touch()
    exchange.push_records(RUNS[0])
    assert remote.asked == []
    for name in ("title", "stages.json", "deaths.json", "progress.json", "published.json"):
        (places.folder_of(RUNS[0]) / name).write_text(name)
    exchange.push_records(RUNS[0])
    made = refs(place)[RUNS[0]]
    assert remote.asked == [("push", "--quiet", "origin", f"+{made}:refs/arc/records/{RUNS[0]}")]
    kept = git("ls-tree", "-r", "--name-only", made, cwd=place).split()
    assert kept == ["deaths.json", "progress.json", "published.json", "stages.json", "title"]
