"""Whatever the server and the disk hold, the worker goes on, and the runs that are in order run."""

import itertools
import json
import os
import shutil
import uuid
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from prefect.client.schemas.objects import FlowRun, State, StateType
from prefect.exceptions import ObjectNotFound

from flows.queue import admission, flow_runs
from flows.runs import places, processes, records, snapshots
from flows.runs.places import FlowError
from flows.worker import night_report, night_text, recovery
from tests.conftest import ROOT

NOW = datetime(2026, 11, 24, 3, tzinfo=UTC)
OURS = uuid.uuid4()
GOOD = {"request": {"version": "v3", "size": "tiny", "dataset": "aa1-6x6"}}
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=9), inner, max_size=3),
    max_leaves=6,
)
TYPED = st.sampled_from(["publish.experiment=@night", "x", "=", "a=[", "a=!!python/x y", "train.batch=&a [*a]", "a=\0"])
OVERRIDES = st.lists(TYPED | st.text(max_size=12) | st.builds("{}={}".format, st.text(max_size=8), st.text(max_size=8)))
PARAMETERS = (
    JSON.map(lambda value: value if isinstance(value, dict) else {"request": value})
    | OVERRIDES.map(lambda overrides: {"request": {**GOOD["request"], "overrides": overrides}})
    | st.builds(
        lambda key, value: {"request": {**GOOD["request"], key: value}}, st.sampled_from(["version", "seed"]), JSON
    )
)
STATES = st.none() | st.tuples(st.sampled_from(list(StateType)), st.none() | st.text(max_size=9))
Plain = tuple[Any, Any, Any, bool, str]
RUNS: st.SearchStrategy[Plain] = st.tuples(PARAMETERS, JSON, STATES, st.booleans(), st.text(max_size=9))
FILES = st.dictionaries(
    st.sampled_from(["progress.json", "stages.json", "deaths.json", "process.json", "scores/best-votes.json"]),
    st.binary(max_size=12) | JSON.map(lambda value: json.dumps(value).encode()) | st.sampled_from([b"", b"{", b"[]"]),
)
WHATEVER = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def flow_run(state: State[Any] | None = None, **fields: Any) -> FlowRun:
    moments = {"expected_start_time": NOW, "start_time": NOW, "total_run_time": timedelta(seconds=9)}
    made = FlowRun(flow_id=uuid.uuid4(), **{"deployment_id": OURS, "parameters": GOOD, **moments, **fields})
    return made.model_copy(update={"state": state, "state_type": state.type if state else None})


def drawn(plain: Plain) -> FlowRun:
    """A run of whatever the strategy drew; a client does not check what it sets."""
    parameters, variables, state, own, name = plain
    run = flow_run(State(type=state[0], message=state[1]) if state else None, name=name)
    return run.model_copy(
        update={"parameters": parameters, "job_variables": variables, "deployment_id": OURS if own else None}
    )


class Server:
    """Stands in for Prefect's client: holds runs, and writes down what becomes of them."""

    def __init__(self, runs: list[FlowRun]) -> None:
        self.held = runs
        self.states: dict[uuid.UUID, list[str]] = {}
        self.created: list[Any] = []
        self.updated: dict[uuid.UUID, Any] = {}

    def read_flow_runs(self, flow_run_filter: Any, deployment_filter: Any, limit: int, offset: int, **_: Any) -> Any:
        kinds = flow_run_filter.state.type.any_ if flow_run_filter.state else list(StateType)
        chosen = [
            run
            for run in self.held
            if (run.deployment_id is None) == (deployment_filter is None)
            and (run.state is None or run.state.type in kinds)
        ]
        return chosen[offset : offset + limit]

    def set_flow_run_state(self, run: uuid.UUID, state: Any, force: bool = False) -> None:
        self.states.setdefault(run, []).append(state.name)

    def create_flow_run_from_deployment(self, _: Any, **fields: Any) -> None:
        self.created.append(fields)

    def update_flow_run(self, run: uuid.UUID, **fields: Any) -> None:
        self.updated[run] = fields

    def delete_flow_run(self, run: uuid.UUID) -> None:
        self.states.setdefault(run, []).append("deleted")

    def read_flow_run_states(self, run: uuid.UUID) -> list[Any]:
        return [held.state for held in self.held if held.id == run and held.state]

    def read_task_runs(self, **_: Any) -> list[Any]:
        return []


@pytest.fixture(autouse=True)
def scratch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv("ARC_SCRATCH", str(tmp_path))
    monkeypatch.setattr(snapshots, "freeze", lambda requests, _: [snapshots.Snapshot("0" * 40, ()) for _ in requests])
    monkeypatch.setattr(processes, "end", lambda _: 0)
    return tmp_path


def connection(runs: list[FlowRun]) -> Any:
    return Server(runs)


@pytest.mark.slow
@WHATEVER
@given(st.lists(RUNS, max_size=3))
def test_a_run_in_order_is_admitted_among_any_others(others: list[Plain]) -> None:
    good = flow_run(State(type=StateType.SCHEDULED))
    server = connection([*map(drawn, others), good])
    log = admission.admit(server)
    assert server.updated[good.id]["job_variables"] == admission.variables("0" * 40)
    assert {f"{kind}:{GOOD['request'][kind]}" for kind in ("version", "size", "dataset")} <= set(
        server.updated[good.id]["tags"]
    )
    assert good.id not in server.states
    assert server.created == []
    assert all(set(named) <= {"Failed", "deleted", "Scheduled"} for named in server.states.values())
    assert all("\n" not in line for line in log)


def test_one_typo_in_the_form_fails_its_own_run_with_a_reason() -> None:
    scheduled = State(type=StateType.SCHEDULED)
    typo = flow_run(scheduled, parameters={"request": {**GOOD["request"], "overrides": ["publish.experiment=@night"]}})
    server = connection([typo])
    [line] = admission.admit(server)
    assert server.states == {typo.id: ["Failed"]}
    assert "refused: override 'publish.experiment=@night': the value is no YAML" in line


@pytest.mark.parametrize(
    "error",
    [FlowError("git failed"), OSError("no space"), httpx.ConnectError("away"), ObjectNotFound(Exception())],
    ids=repr,
)
def test_a_passing_trouble_loses_no_run(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    runs = [flow_run(State(type=StateType.SCHEDULED), name=str(i)) for i in range(2)]
    server, calls = connection(runs), itertools.count()

    def freeze(requests: Any, _: Any) -> Any:
        if next(calls) == 0:
            raise error
        return [snapshots.Snapshot("0" * 40, ()) for _ in requests]

    monkeypatch.setattr(snapshots, "freeze", freeze)
    admission.admit(server)
    assert set(server.updated) == {runs[1].id}
    server.held = runs[:1]
    admission.admit(server)
    assert set(server.updated) == {run.id for run in runs}


@pytest.mark.parametrize(("given", "kept"), [("brave-lion", "v3/tiny/aa1-6x6 seed 0"), ("my run 7", "my run 7")])
def test_a_run_from_the_form_keeps_its_page_and_the_name_that_somebody_gave_it(given: str, kept: str) -> None:
    run = flow_run(State(type=StateType.SCHEDULED), name=given).model_copy(update={"tags": ["mine"]})
    server = connection([run])
    admission.admit(server)
    assert server.updated[run.id]["name"] == kept
    assert server.updated[run.id]["tags"] == [
        "mine",
        "version:v3",
        "size:tiny",
        "dataset:aa1-6x6",
        f"code:{'0' * 8}",
    ]
    assert server.states == {}


def test_a_run_of_priority_high_from_the_form_comes_first() -> None:
    request = {"request": {**GOOD["request"], "priority": "high"}}
    run = flow_run(State(type=StateType.SCHEDULED), parameters=request)
    server = connection([run])
    admission.admit(server)
    assert server.states == {run.id: ["Scheduled"]}
    later = flow_run(State(type=StateType.SCHEDULED), parameters=request).model_copy(
        update={"next_scheduled_start_time": NOW + timedelta(days=900)}
    )
    server = connection([later])
    admission.admit(server)
    assert server.states == {later.id: ["deleted"]}
    assert server.created[-1]["work_queue_name"] == "high"


def write(run: FlowRun, files: dict[str, bytes]) -> None:
    folder = places.folder_of(str(run.id))
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)


@pytest.mark.slow
@WHATEVER
@given(st.lists(st.tuples(RUNS, FILES), max_size=3), FILES)
def test_a_dead_run_is_recovered_once_among_any_others_and_any_records(
    plain: list[tuple[Plain, dict[str, bytes]]], files: dict[str, bytes]
) -> None:
    shutil.rmtree(places.scratch() / "runs", ignore_errors=True)
    dead, others = flow_run(State(type=StateType.RUNNING)), [(drawn(run), of_run) for run, of_run in plain]
    for run, records_of_run in [*others, (dead, files)]:
        write(run, records_of_run)
    server = connection([*(run for run, _ in others), dead])
    logged = dict(recovery.recover(server))
    # Its records may say that it died at this place before.
    assert server.states[dead.id][-1] in ("Resuming", "Failed")
    if not files:
        assert server.states[dead.id] == ["Crashed", "Resuming"]
    assert dead.id in logged
    recovery.recover(server)
    assert server.states[dead.id][-1] == "Failed", "it has died twice at the same place"


@pytest.mark.slow
@WHATEVER
@given(st.lists(st.tuples(RUNS, FILES), max_size=3))
def test_the_night_is_reported_with_any_records(plain: list[tuple[Plain, dict[str, bytes]]]) -> None:
    shutil.rmtree(places.scratch() / "runs", ignore_errors=True)
    good = flow_run(State(type=StateType.COMPLETED, name="Completed"), name="good")
    others = [(drawn(run), of_run) for run, of_run in plain]
    row = records.StageRecord(stage="train", seconds=120, device_seconds=120, cached=False, outcome="done")
    records.add_stage(str(good.id), row)
    for run, files in others:
        write(run, files)
    rows = night_report.rows(connection([*(run for run, _ in others), good]), NOW - timedelta(hours=1))
    [mine] = [row for row in rows if row.name == "good"]
    assert (mine.state, mine.gpu_minutes, mine.why) == ("Completed", 2.0, "")
    assert night_text.markdown(rows, "").count("\n") == len(rows) + 1
    for long in (False, True):
        list(night_text.lines(rows, 1.0, long))


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"step": "x"}', b"\xff", b"[" * 10**5, b"9" * 5000])
def test_a_damaged_record_is_named_set_aside_and_begun_anew(
    scratch: Path, capsys: pytest.CaptureFixture[str], content: bytes
) -> None:
    path = scratch / "runs" / "a" / "progress.json"
    path.parent.mkdir(parents=True)
    path.write_bytes(content)
    assert records.progress("a") == records.Progress()
    message = capsys.readouterr().err
    assert str(path) in message
    assert message.count("\n") == 1
    assert (path.parent / "progress.json.damaged").read_bytes() == content
    records.set_progress("a", records.Progress(stage="train", step=3))
    assert records.progress("a").step == 3


def test_a_living_arc_run_is_left_alone_and_a_dead_one_is_settled() -> None:
    living, dead = (flow_run(State(type=StateType.RUNNING), deployment_id=None) for _ in range(2))
    processes.record(str(living.id), os.getpid())
    mine = json.loads((places.folder_of(str(living.id)) / "process.json").read_text())
    write(dead, {"process.json": json.dumps({**mine, "ticks": mine["ticks"] + 1}).encode()})
    server = connection([living, dead])
    assert [run for run, _ in recovery.recover(server)] == [dead.id]
    assert server.states == {dead.id: ["Crashed"]}


def test_a_full_disk_at_the_same_place_is_resumed_some_times(scratch: Path) -> None:
    dead = flow_run(State(type=StateType.CRASHED, message="train: the disk is full: No space left on device"))
    server = connection([dead])
    for _ in range(recovery.FULL_DISKS):
        recovery.recover(server)
        assert server.states[dead.id][-1] == "Resuming"
    recovery.recover(server)
    assert server.states[dead.id][-1] == "Failed"


def test_every_page_of_runs_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(flow_runs, "PAGE", 3)
    dead = [flow_run(State(type=StateType.RUNNING)) for _ in range(10)]
    server = connection(dead)
    assert len(recovery.recover(server)) == 10
    assert set(server.states) == {run.id for run in dead}
