"""The commands of `arc`, with what they call made up: what is asked of it, what is printed, and the exit code."""

import os
import runpy
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from typer.testing import CliRunner

from flows import arc, console
from flows.cluster import join, share
from flows.queue import deployment, queue, several_nodes, times
from flows.runs import products, restore
from flows.runs.places import FlowError
from flows.worker import (
    doctor,
    foreground,
    kept_results,
    night_report,
    night_store,
    night_text,
    server,
    stopping,
    worker,
)
from tasks.common.stage import StageError


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What the commands have called, in order; the server and the environment are made up."""
    done: list[Any] = []
    monkeypatch.setattr(os, "environ", dict(os.environ))

    @contextmanager
    def connected() -> Iterator[str]:
        yield "connection"

    monkeypatch.setattr(arc, "environment", lambda at="": done.append(("environment", at)))
    monkeypatch.setattr(arc, "server", lambda: done.append("server"))
    monkeypatch.setattr(arc, "connected", connected)
    monkeypatch.setattr(arc, "table", lambda rows, one_line=False: done.append(("table", rows, one_line)))
    monkeypatch.setattr(products, "requests", lambda names, sets, seeds, priority, on="any": [*names])
    return done


def call(*arguments: str, code: int = 0) -> str:
    result = CliRunner().invoke(arc.app, [*arguments])
    assert result.exit_code == code, (result.output, result.exception)
    return result.output


def test_run_makes_one_run_with_a_server_only_for_several_machines(told: list[Any], monkeypatch: Any) -> None:
    monkeypatch.setattr(foreground, "run", lambda request, variables: told.append((request, variables)))
    monkeypatch.setattr(several_nodes, "ask", lambda *given: {"given": given})
    call("run", "v3/smol/aa1")
    assert told == [("environment", ""), ("v3/smol/aa1", {})]
    del told[:]
    call("run", "v3/smol/aa1", "--nodes", "2", "--meeting", "here:1")
    assert told[1:] == ["server", ("v3/smol/aa1", {"given": ("connection", "v3/smol/aa1", 2, "here:1")})]
    del told[:]
    for nodes in ("0", "-3"):
        assert "Invalid value for '--nodes'" in call("run", "v3/smol/aa1", "--nodes", nodes, code=2)
    for alone in ([], ["--nodes", "1"]):
        assert "give --nodes too" in call("run", "v3/smol/aa1", "--meeting", "here:1", *alone, code=1)
    assert told == [("environment", "")] * 2
    monkeypatch.setattr(products, "requests", lambda *_: [1, 2])
    assert "these are 2 runs" in call("run", "v3/smol/aa1", code=1)


def test_a_worker_starts_the_server_and_stops_both(told: list[Any], monkeypatch: Any) -> None:
    monkeypatch.setattr(stopping, "stop", lambda: iter(["the worker has ended"]))
    monkeypatch.setattr(worker, "work", lambda: told.append(os.environ["PREFECT_WORKER_QUERY_SECONDS"]))
    assert call("worker", "--stop") == "the worker has ended\n"
    assert told == [("environment", "")]
    call("worker", "--server", "http://there")
    assert told[1:] == [("environment", "http://there"), "server", "2"]
    monkeypatch.setenv("PREFECT_WORKER_QUERY_SECONDS", "9")
    call("worker")
    assert told[-1] == "9"


def test_the_queue_takes_lists_bumps_and_cancels(told: list[Any], monkeypatch: Any) -> None:
    queued = [SimpleNamespace(id="0123456789", name="a run")]
    monkeypatch.setattr(queue, "submit", lambda _, requests, when: told.append((requests, when)) or queued)
    monkeypatch.setattr(queue, "find", lambda _, text: f"run {text}")
    monkeypatch.setattr(queue, "bump", lambda _, run: f"bumped {run}")
    monkeypatch.setattr(queue, "cancel", lambda _, run: f"cancelled {run}")
    monkeypatch.setattr(queue, "rows", lambda _: [{"id": "x"}])
    monkeypatch.setattr(times, "at", lambda text: f"at {text}")
    assert call("queue", "v3/smol/aa1") == "queued 01234567 a run\n"
    assert told == [("environment", ""), "server", (["v3/smol/aa1"], None)]
    call("queue", "v3/smol/aa1", "--at", "23:00")
    assert told[-1] == (["v3/smol/aa1"], "at 23:00")
    assert call("queue", "--bump", "1", "--cancel", "2") == "bumped run 1\ncancelled run 2\n"
    call("queue", "--list")
    assert told[-1] == ("table", [{"id": "x"}], False)
    del told[:]
    assert "nothing to do" in call("queue", code=1)
    assert "server" not in told


def test_the_night_shows_runs_of_the_queue_and_others_best_first(told: list[Any], monkeypatch: Any) -> None:
    monkeypatch.setattr(share, "receive", lambda: iter(["a line"]))
    monkeypatch.setattr(night_report, "since", lambda hours: hours)
    monkeypatch.setattr(night_report, "rows", lambda _, start: [("queued", start)])
    monkeypatch.setattr(night_report, "ordered", lambda rows: rows[::-1])
    monkeypatch.setattr(night_store, "known_keys", lambda: "known")
    monkeypatch.setattr(night_store, "rows", lambda start, known: [(known, start)])
    monkeypatch.setattr(night_text, "publish", lambda _, rows, hours: told.append((rows, hours)))
    monkeypatch.setattr(night_text, "lines", lambda rows, hours, long: iter(["head", [{"a": "b"}]]))
    assert "head" in call("night", "--hours", "3")
    assert told[1:] == ["server", ([("known", 3.0), ("queued", 3.0)], 3.0), ("table", [{"a": "b"}], True)]
    away = lambda start, known: (_ for _ in ()).throw(StageError("MLflow at http://there: away"))  # noqa: E731
    monkeypatch.setattr(night_store, "rows", away)
    assert "without the results of `dvc repro`: MLflow at http://there: away" in call("night")
    assert told[-2] == ([("queued", 16.0)], 16.0)
    call("night", "--long")
    assert told[-1] == ("table", [{"a": "b"}], False)
    assert told[-2][1] == 16.0


@pytest.mark.parametrize(("fix", "code"), [("", 0), ("do this", 1)])
def test_a_finding_with_a_fix_is_an_error(told: list[Any], monkeypatch: Any, fix: str, code: int) -> None:
    monkeypatch.setattr(server, "find", lambda: told.append("found"))
    monkeypatch.setattr(server, "answers", lambda: True)
    monkeypatch.setattr(server, "ours", lambda: True)
    monkeypatch.setattr(server, "address", lambda: "http://there")
    found = [doctor.Finding("a", "b"), doctor.Finding("c", "d", fix)]
    monkeypatch.setattr(doctor, "examine", lambda: told.append(os.environ["PREFECT_API_URL"]) or found)
    call("doctor", code=code)
    assert told[1:3] == ["found", "http://there"]
    assert [row[""] for row in told[3][1]] == ["ok", "!" if fix else "ok"]
    monkeypatch.setattr(join, "join", lambda *given: told.append(given) or [("a", "b", ""), ("c", "d", fix)])
    monkeypatch.setenv("PREFECT_API_AUTH_STRING", "user:token")
    said = call("join", "http://there", code=code)
    assert ("not joined" in said, "joined: `arc worker`" in said) == (bool(code), not code)
    assert told[-2] == ("http://there", "", "origin", "", "user:token", "")
    assert [row[""] for row in told[-1][1]] == ["ok", "!" if fix else "ok"]


def test_a_cluster_is_left_and_needs_an_address(told: list[Any], monkeypatch: Any) -> None:
    monkeypatch.setattr(join, "leave", lambda: told.append("left"))
    assert call("join", "--leave") == "this clone is on its own again\n"
    assert told[-1] == "left"
    assert "name the server" in call("join", code=1)


def test_a_result_is_restored_and_published(told: list[Any], monkeypatch: Any) -> None:
    monkeypatch.setattr(restore, "restore", lambda name, to: told.append((name, to)) or "/there")
    assert call("restore", "exp/a").startswith("exp/a is in /there")
    assert told[-1] == ("exp/a", None)
    for lines, said, code in (
        ([("a: done", True), ("b: not published", False)], "a: done\nb: not published\n", 1),
        ([("a: done", True)], "a: done\n", 0),
        ([], "the MLflow store holds the results of all exp/ branches\n", 0),
    ):
        monkeypatch.setattr(kept_results, "publish_all", lambda lines=lines: iter(lines))
        assert call("publish", code=code) == said


def test_the_version_is_asked_for_alone(told: list[Any]) -> None:
    assert call("--version").startswith("arc-diffusion ")
    assert "Usage" in call("--help")


def test_errors_that_a_user_can_correct_are_one_line() -> None:
    with pytest.raises(SystemExit, match="arc: do this"), console.one_line_errors():
        raise FlowError("do this")
    with pytest.raises(KeyError), console.one_line_errors():
        raise KeyError("ours")


def test_a_table_has_the_keys_of_the_first_row_as_its_head(capsys: pytest.CaptureFixture[str]) -> None:
    console.table([])
    assert capsys.readouterr().out == "nothing\n"
    console.table([{"name": "[red]a", "long": "x " * 120}])
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) == 160
    assert "[red]a" in lines[3]
    assert len(lines) > 5, "it is folded"
    console.table([{"name": "[red]a", "long": "x " * 120}], one_line=True)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 5
    assert lines[3].rstrip("│ ").endswith("…")


def test_the_environment_is_set_before_the_address_is_read(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(os, "environ", {**os.environ, "ARC_HOME": str(tmp_path)})
    os.environ.pop("PREFECT_API_URL", None)
    console.environment("http://127.0.0.1:4999")
    assert os.environ["PREFECT_API_URL"] == "http://127.0.0.1:4999/api"
    assert os.environ["PREFECT_HOME"] == str(tmp_path / ".prefect")
    monkeypatch.setattr(server, "ensure", lambda: None)
    monkeypatch.setattr(server, "address", lambda: "http://there/api")
    console.server()
    assert os.environ["PREFECT_API_URL"] == "http://there/api"


def test_a_stage_is_a_command_with_its_own_arguments(monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[Any] = []

    def main(number: int, much: bool = False) -> None:
        given.append((number, much))

    monkeypatch.setitem(sys.modules, "tasks.made_up", SimpleNamespace(main=main))
    command = console.stage_command("made", "made_up")
    with pytest.raises(SystemExit):
        command(["3", "--much"])
    assert given == [(3, True)]


def test_a_folder_within_a_checkout_is_refused_and_one_outside_is_not(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    inner = tmp_path / "checkout" / "docs" / "studies"
    inner.mkdir(parents=True)
    monkeypatch.chdir(inner)
    console.at_the_root()
    for name in ("dvc.yaml", "presets.yaml"):
        (tmp_path / "checkout" / name).touch()
    with pytest.raises(SystemExit, match=f"cd {tmp_path}/checkout$"):
        console.at_the_root()
    monkeypatch.chdir(tmp_path / "checkout")
    console.at_the_root()


def test_a_client_is_given_once_the_deployment_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[str] = []

    @contextmanager
    def client() -> Iterator[str]:
        done.append("open")
        yield "connection"
        done.append("closed")

    monkeypatch.setattr(deployment, "client", client)
    monkeypatch.setattr(deployment, "ensure", lambda connection: done.append(f"ensured {connection}"))
    with console.connected() as connection:
        done.append(connection)
    assert done == ["open", "ensured connection", "connection", "closed"]


def test_without_an_address_the_environment_keeps_its_own(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(os, "environ", {**os.environ, "ARC_HOME": str(tmp_path), "PREFECT_API_URL": "http://x:1/api"})
    console.environment()
    assert os.environ["PREFECT_API_URL"] == "http://x:1/api"
    assert os.environ["ARC_SCRATCH"] == str(tmp_path / ".scratch")


@pytest.mark.parametrize(("answers", "ours"), [(False, True), (True, False)])
def test_a_server_of_others_is_not_asked_by_the_doctor(
    told: list[Any], monkeypatch: pytest.MonkeyPatch, answers: bool, ours: bool
) -> None:
    os.environ.pop("PREFECT_API_URL", None)
    monkeypatch.setattr(server, "find", lambda: None)
    monkeypatch.setattr(server, "answers", lambda: answers)
    monkeypatch.setattr(server, "ours", lambda: ours)
    monkeypatch.setattr(doctor, "examine", lambda: told.append(os.environ.get("PREFECT_API_URL")) or [])
    call("doctor")
    assert told[1] is None


def test_the_module_is_the_program(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "argv", ["arc", "--version"])
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(arc.__file__), run_name="__main__")
    assert ended.value.code == 0
    assert capsys.readouterr().out.startswith("arc-diffusion ")
