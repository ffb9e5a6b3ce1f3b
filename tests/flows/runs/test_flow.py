"""The flow of an experiment, with its stages made up: their order, what ends it, and what is kept and shown."""

import json
import os
import subprocess
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from uuid import UUID

import httpx
import pytest
from prefect.client.schemas.objects import StateType
from prefect.states import Completed, Failed

from flows.runs import failure_reasons, flow, interruption, processes, records, snapshots
from flows.runs.places import FlowError
from flows.runs.request import Request
from tasks.common import events, paths
from tasks.common.stage import StageError
from tasks.tracking import mlflow_runs
from tasks.tracking.store import Store
from tests.conftest import ROOT

RUN = str(UUID(int=3))


class Log(list[str]):
    """Lines that were logged, with their levels."""

    def info(self, text: str, *given: Any) -> None:
        self.append(text % given if given else text)

    def warning(self, text: str, *given: Any) -> None:
        self.append("warning: " + (text % given if given else text))


@pytest.fixture
def log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Log:
    monkeypatch.chdir(tmp_path)
    paths.PRESETS.symlink_to(ROOT / paths.PRESETS)
    monkeypatch.setattr(os, "environ", {**os.environ, "ARC_HOME": str(tmp_path), "ARC_SCRATCH": "scratch"})
    for name in ("ARC_RUN", "ARC_NODE", "MLFLOW_TRACKING_URI"):
        os.environ.pop(name, None)
    (tmp_path / "scratch" / "runs" / RUN).mkdir(parents=True)
    lines = Log()
    monkeypatch.setattr(flow, "get_run_logger", lambda: lines)
    monkeypatch.setattr(flow, "flow_run", SimpleNamespace(id=UUID(RUN)))
    return lines


@pytest.fixture
def ends(log: Log, monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What the flow did after its stages."""
    done: list[Any] = []
    monkeypatch.setattr(flow, "run_stages", lambda run: done.append(("stages", run)))
    monkeypatch.setattr(snapshots, "commit_results", lambda *_: "exp/a")
    monkeypatch.setattr(flow, "show_results", lambda *given: done.append(("shown", given[2])))
    monkeypatch.setattr(mlflow_runs, "set_branch", lambda _, key, branch: done.append((key, branch)))
    monkeypatch.setattr("flows.runs.flow.calm_log.install", lambda: None)
    return done


def request() -> Request:
    return Request(version="v3", size="tiny", dataset="aa1")


def test_a_finished_run_is_committed_and_shown_and_named_in_mlflow(ends: list[Any], log: Log, tmp_path: Path) -> None:
    (tmp_path / paths.PUBLISHED).parent.mkdir(parents=True)
    (tmp_path / paths.PUBLISHED).write_text('{"key": "k"}')
    (tmp_path / flow.NODES).write_text('{"ARC_NODES": "2"}')
    assert flow.experiment.fn(request()) is None
    assert ends == [("stages", RUN), ("k", "exp/a"), ("shown", "exp/a")]
    assert (tmp_path / "scratch" / "runs" / RUN / "branch").read_text() == "exp/a"
    assert (os.environ["ARC_RUN"], os.environ["ARC_NODES"]) == (RUN, "2")
    assert processes.recorded(RUN).pid == os.getpid()
    assert log[-1] == "committed to exp/a: `arc restore exp/a` restores it"


def test_a_helper_keeps_nothing(ends: list[Any]) -> None:
    os.environ["ARC_NODE"] = "1"
    state = flow.experiment.fn(request())
    assert state.type == StateType.COMPLETED
    assert ends == [("stages", RUN)]


@pytest.mark.parametrize(
    ("error", "kind", "says"),
    [
        (flow.StageFailed("train: NaN"), StateType.FAILED, "train: NaN"),
        (flow.DiskFull("the disk is full: /"), StateType.CRASHED, "the disk is full: /"),
        (FlowError("git"), StateType.FAILED, "git"),
        (PermissionError(13, "no"), StateType.FAILED, "no"),
        (OSError(28, "No space left"), StateType.CRASHED, "the disk is full: "),
    ],
)
def test_an_expected_error_is_a_state_and_a_full_disk_is_resumable(
    ends: list[Any], monkeypatch: pytest.MonkeyPatch, error: Exception, kind: StateType, says: str
) -> None:
    def broken(_: str) -> None:
        raise error

    monkeypatch.setattr(flow, "run_stages", broken)
    state = flow.experiment.fn(request())
    assert state.type == kind
    assert says in str(state.message)
    assert ends == []


def test_a_server_or_store_that_is_away_does_not_fail_a_finished_run(ends: Any, log: Log, tmp_path: Path, monkeypatch):
    def away(*_: Any) -> None:
        raise httpx.ConnectError("away")

    def refused(*_: Any) -> None:
        raise StageError("the store is away")

    (tmp_path / paths.PUBLISHED).parent.mkdir(parents=True)
    (tmp_path / paths.PUBLISHED).write_text('{"key": "k"}')
    monkeypatch.setattr(flow, "show_results", away)
    monkeypatch.setattr(mlflow_runs, "set_branch", refused)
    assert flow.experiment.fn(request()) is None
    assert log[-2:] == [
        "warning: MLflow's run does not name its branch: the store is away",
        "warning: results are not shown because the server does not answer: ConnectError('away')",
    ]


class Step:
    """Stands in for Prefect's task: the states that the stages end in, and what was waited for."""

    def __init__(self, **ends: Any) -> None:
        self.ends, self.done = ends, []

    def with_options(self, name: str, task_run_name: str) -> Any:
        assert name == task_run_name

        def call(stage: str, run: str, wait_for: list[Any], return_state: bool) -> Any:
            assert (stage, run, return_state) == (name, RUN, True)
            self.done.append((stage, len(wait_for)))
            return self.ends.get(stage) or Completed(message=stage)

        return call


STAGES = [("fetch", []), ("train", ["fetch"]), ("publish", ["fetch", "train"])]


@pytest.mark.parametrize(
    ("message", "error", "says"),
    [
        ("train: NaN", flow.StageFailed, "^train: NaN$"),
        (f"train: {failure_reasons.FULL}: /", flow.DiskFull, "full"),
        (None, flow.StageFailed, "^train: failed$"),
    ],
)
def test_a_failed_stage_ends_the_run(log: Log, monkeypatch: Any, message: str | None, error: Any, says: str) -> None:
    step = Step(train=Failed(message=message))
    monkeypatch.setattr(flow, "stage_task", step)
    monkeypatch.setattr(flow, "stage_names", lambda: STAGES)
    with pytest.raises(error, match=says) as raised:
        flow.run_stages(RUN)
    assert raised.type is error
    assert step.done == [("fetch", 0), ("train", 1)]


def test_all_stages_run_in_order_and_the_result_is_published_here_too(log: Log, monkeypatch: Any) -> None:
    step, commands = Step(publish=Completed(name=flow.CACHED)), []
    done = [subprocess.CompletedProcess([], 0, "is in the store\n", ""), subprocess.CompletedProcess([], 1, "", "no\n")]
    monkeypatch.setattr(flow, "stage_task", step)
    monkeypatch.setattr(flow, "stage_names", lambda: STAGES)
    run = lambda command, **_: commands.append(command[1:]) or done.pop(0)  # noqa: E731
    monkeypatch.setattr("flows.runs.flow.subprocess.run", run)
    flow.run_stages(RUN)
    assert step.done == [("fetch", 0), ("train", 1), ("publish", 2)]
    assert commands == [["-m", "tasks.publish", "--if-missing"]]
    assert log == ["is in the store"]
    with pytest.raises(flow.StageFailed, match=r"^publish: no$"):
        flow.run_stages(RUN)
    os.environ["ARC_NODE"] = "1"
    del step.done[:]
    flow.run_stages(RUN)
    assert step.done == [("fetch", 0), ("train", 1)], "a helper only trains"
    os.environ["ARC_NODE"] = "0"
    monkeypatch.setattr(flow, "stage_names", lambda: STAGES[:2])
    flow.run_stages(RUN)
    assert len(commands) == 2, "without a stage publish nothing is published"


def stage(monkeypatch: pytest.MonkeyPatch, *ends: tuple[int, bool]) -> list[str]:
    """Let a stage end with these codes, one after another, and whether it was cached."""
    left, began = list(ends), []

    def run_stage(name: str, path: Path, on_line: Any, on_event: Any, outcome: Any) -> None:
        began.append(name)
        on_line("a line")
        on_event(events.Progress(step=3, total=6, loss=1.0, accuracy=0.5))
        outcome.code, outcome.cached = left.pop(0)
        outcome.seconds, outcome.device_seconds = 61.0, 60.0
        if outcome.code == 3:
            outcome.lines.append("ValueError: wrong")
            raise OSError(13, "unreadable")
        outcome.lines.append("ValueError: wrong")

    monkeypatch.setattr(flow, "run_stage", run_stage)
    monkeypatch.setattr("flows.runs.flow.Progress._show", lambda *_: None)
    return began


@pytest.mark.parametrize("cached", [True, False])
def test_a_stage_is_recorded_with_what_it_took(log: Log, monkeypatch: Any, cached: bool) -> None:
    stage(monkeypatch, (0, cached))
    state = flow.stage_task.fn("train", RUN)
    assert (state.name, state.message) == ("Cached" if cached else "Completed", "61.0 s")
    [row] = records.stages(RUN)
    assert (row.seconds, row.device_seconds, row.cached, row.outcome) == (61.0, 60.0, cached, "done")
    assert log == ["a line"]


def test_a_killed_stage_is_started_again_and_not_a_third_time_at_the_same_place(log: Log, monkeypatch: Any) -> None:
    began = stage(monkeypatch, (-9, False), (137, False))
    state = flow.stage_task.fn("train", RUN)
    assert state.type == StateType.FAILED
    assert state.message.startswith("train: died twice at the same place, after update 3: killed by SIGKILL")
    assert began == ["train", "train"]
    assert "warning: train was killed; it resumes from its last save" in log
    assert len(records.deaths(RUN)) == len(records.stages(RUN)) == 2
    stage(monkeypatch, (-9, False))
    os.environ["ARC_NODE"] = "1"
    assert flow.stage_task.fn("train", RUN).message.startswith("train: killed"), "a helper does not begin again alone"


def test_a_failed_stage_has_its_reason(log: Log, monkeypatch: Any) -> None:
    stage(monkeypatch, (1, False), (3, False))
    assert flow.stage_task.fn("train", RUN).message == "train: ValueError: wrong"
    assert flow.stage_task.fn("train", RUN).message.startswith("train: ")
    assert [row.outcome for row in records.stages(RUN)] == ["ValueError: wrong", "interrupted"]


def score() -> dict[str, Any]:
    given = {"pass_at_2": 0.25, "ci95": [0.125, 0.5], "grids_solved": 3, "n_grids": 9, "n_tasks": 8}
    return given | {"selected_on_the_reported_set": True, "source": {"leaks": 0, "evaluation": {}}}


def test_scores_are_copied_and_shown_with_links(log: Log, tmp_path: Path, monkeypatch: Any) -> None:
    shown = []
    monkeypatch.setattr(flow, "create_table_artifact", lambda table, key, description: shown.append(table))
    monkeypatch.setattr(flow, "create_markdown_artifact", lambda text, key, description: shown.append(text))
    monkeypatch.setattr(flow, "mlflow_links", lambda _: ["[the run](there)"])
    file = tmp_path / paths.SCORES / "best-votes.json"
    file.parent.mkdir(parents=True)
    file.write_text(json.dumps(score()))
    flow.copy_scores(request(), tmp_path, RUN)
    folder = tmp_path / "scratch" / "runs" / RUN
    assert (folder / "scores" / file.name).read_bytes() == file.read_bytes()
    assert (folder / "title").read_text() == request().title
    assert not (folder / "published.json").exists()
    flow.show_results(request(), tmp_path, "exp/a", RUN)
    [[row], text] = shown
    assert row == {
        "evaluation": "best-votes",
        "pass@2": 25.0,
        "95 %": "12.5 to 50.0",
        "grids": "3 of 9",
        "tasks": 8,
        "caveats": "selected on the reported set",
    }
    assert "arc restore exp/a" in text
    assert "[the run](there)" in text
    assert "report" not in text
    for path, content in ((paths.PAGE, "<html>"), (paths.PUBLISHED, "{}")):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(content)
    flow.copy_scores(request(), tmp_path, RUN)
    flow.show_results(request(), tmp_path, "exp/a", RUN)
    assert (folder / "published.json").read_text() == "{}"
    assert (folder / "report.html").read_text() == "<html>"
    assert f"`{folder / 'report.html'}`" in shown[-1]


@pytest.mark.parametrize("uri", ["http://there", "sqlite:////x.db"])
def test_links_lead_to_the_store_that_has_the_run(log: Log, tmp_path: Path, monkeypatch: Any, uri: str) -> None:
    assert flow.mlflow_links(tmp_path) == []
    (tmp_path / paths.PUBLISHED).parent.mkdir(parents=True)
    (tmp_path / paths.PUBLISHED).write_text('{"key": "k"}')
    connected = []
    monkeypatch.setattr("flows.runs.flow.store.configured_store", lambda: Store(uri, None, None))
    monkeypatch.setattr(mlflow_runs, "run_of", lambda _, key: ("7", f"run of {key}"))
    monkeypatch.setattr(interruption, "connect", connected.append)
    monkeypatch.setattr("flows.runs.flow.ui.running", lambda _: None)
    monkeypatch.setattr("flows.runs.flow.places.mlflow_port", lambda: 5000)
    page = uri if uri.startswith("http") else "http://127.0.0.1:5000"
    links = flow.mlflow_links(tmp_path)
    assert connected == ["run of k"]
    assert [link.split("](")[0] for link in links] == ["[the run", "[the report there", "[all scores"]
    assert all(f"]({page}/#/experiments/7/runs" in link for link in links)
    assert "report.html" in links[1]
    monkeypatch.setattr("flows.runs.flow.ui.running", lambda _: 5005)
    assert flow.mlflow_port(Store(uri, None, None)) == 5005
    monkeypatch.setattr(mlflow_runs, "run_of", lambda *_: None)
    assert flow.mlflow_links(tmp_path) == []
