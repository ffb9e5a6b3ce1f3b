"""Which runs the report of the night tells of and how, for the terminal and for Prefect's page."""

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from prefect.client.schemas.objects import StateType

from flows.queue import flow_runs
from flows.runs import records
from flows.runs.places import FlowError
from flows.worker import night_report, night_text, server
from flows.worker.night_report import Row
from model.scoring.statistics import paired_difference
from tests.support import made_up_server
from tests.support.made_up_server import Server

NOW = datetime.now(UTC)


@pytest.fixture
def scratch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("ARC_SCRATCH", str(tmp_path))
    return tmp_path


def score(solved: int, of: int = 10, title: str = "", **source: Any) -> dict[str, Any]:
    tasks = {f"task{i}": [{"solved": i < solved}] for i in range(of)}
    share = solved / of
    given = {"pass_at_2": share, "ci95": [share - 0.1, share + 0.1], "n_tasks": of, "tasks": tasks}
    return {**given, "source": {"experiment": "v3/tiny/aa1-6x6", "seed": 0, "evaluation": {}, **source}, "title": title}


def keep(scratch: Path, name: str, evaluation: str, content: Any) -> None:
    folder = scratch / "runs" / name / "scores"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{evaluation}.json").write_text(json.dumps(content))


def run(name: str, began: float | None, ended: float | None, kind: StateType = StateType.COMPLETED) -> Any:
    """A run that began and ended so many hours ago; None is not yet."""
    hours = lambda ago: None if ago is None else NOW - timedelta(hours=ago)  # noqa: E731
    state = SimpleNamespace(type=kind, name=kind.value.title(), message=f"{name}\n said" if name != "quiet" else None)
    took = timedelta(seconds=61)
    return SimpleNamespace(
        id=name, name=name, state=state, total_run_time=took, start_time=hours(began), end_time=hours(ended)
    )


def test_the_night_has_what_ran_in_it_the_best_first_and_then_by_its_start(
    scratch: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    running = [
        run("began long ago", 30, None, StateType.RUNNING),
        run("waits", None, None, StateType.PENDING),
        run("late", 1, None, StateType.RUNNING),
    ]
    ended = [
        run("within", 7, 6, StateType.FAILED),
        run("at the start", 8, None, StateType.CANCELLED),
        run("across", 9, 7.9),
        run("until the start", 9, 8),
        run("good", 2, 1),
        run("damaged", 3, 2, StateType.CRASHED),
    ]
    ended[5].total_run_time = None
    asked = []

    def runs(connection: Any, *kinds: StateType, ended_after: Any = None) -> list[Any]:
        asked.append((connection, kinds, ended_after))
        return ended if ended_after else running

    monkeypatch.setattr(flow_runs, "runs", runs)
    keep(scratch, "good", "best-votes", score(4))
    keep(scratch, "good", "best-attempts", score(3))
    start = NOW - timedelta(hours=8)
    rows = night_report.rows("server", start)
    assert [row.name for row in rows] == ["good", "across", "at the start", "within", "damaged", "late"]
    active = (StateType.RUNNING, StateType.PENDING, StateType.CANCELLING)
    over = (StateType.COMPLETED, StateType.FAILED, StateType.CRASHED, StateType.CANCELLED)
    assert asked == [("server", active, None), ("server", over, start)]
    assert (rows[0].score, rows[0].state, rows[0].took, rows[0].why) == (
        "40.0 [30.0–50.0]",
        "Completed",
        "1 min 1 s",
        "",
    )
    assert (rows[3].why, rows[3].state) == ("within said", "Failed")
    assert rows[4] == Row("damaged", "damaged", why=rows[4].why)
    assert rows[4].why == "its records are damaged: AttributeError: 'NoneType' object has no attribute 'total_seconds'"


def test_a_difference_is_resampled_2000_times_and_no_number_is_missing(
    scratch: Path, monkeypatch: Any, capsys: Any
) -> None:
    asked = []
    monkeypatch.setattr(
        night_report, "paired_difference", lambda a, b, n: asked.append(n) or paired_difference(a, b, n)
    )
    night_report.against(score(2), "e", "mine", {"other": {"e": score(1)}})
    assert asked == [2000]
    folder = scratch / "runs" / "a" / "scores"
    folder.mkdir(parents=True)
    (folder / "e.json").write_text(json.dumps({**score(1), "pass_at_2": float("nan")}))
    assert night_report.every_score() == {}
    assert "e.json is damaged" in capsys.readouterr().err


def test_a_row_without_a_score_or_a_message() -> None:
    none = Row("id", "name")
    assert (none.headline, none.pass_at_2, none.score) == ("", -1.0, "")
    assert (none.gpu_minutes, none.page, none.why, none.cached) == (0.0, "", "", "")


def test_a_row_has_the_stages_of_all_starts_and_a_reason_of_300_characters(scratch: Path) -> None:
    row = run("quiet", 2, 1, StateType.CRASHED)
    assert (night_report.row(row, {}).state, night_report.row(row, {}).why) == ("Crashed", "")
    row.state.message = "x" * 301
    for cached in (True, False, True):
        stage = records.StageRecord(stage="s", seconds=9, device_seconds=30, cached=cached, outcome="done")
        records.add_stage("quiet", stage)
    for _ in range(2):
        records.add_death("quiet", "killed")
    made = night_report.row(row, {})
    assert (made.why, made.cached, made.gpu_minutes) == ("x" * 300, "2 of 3 stages", 1.5)
    assert (made.state, made.scores) == ("Crashed, died 2 ×", {})


def test_the_time_before_now() -> None:
    earlier = datetime.now(UTC) - timedelta(hours=8)
    assert timedelta() <= night_report.since(8.0) - earlier < timedelta(minutes=5)


@pytest.mark.parametrize("hours", [float("nan"), float("inf"), 1e300, 87_601.0, -1.0])
def test_hours_that_are_no_time_before_now_are_refused(hours: float) -> None:
    with pytest.raises(FlowError, match=r"^--hours is .+; allowed are 0 to 87600"):
        night_report.since(hours)
    assert night_report.since(night_report.LONGEST_HOURS) < night_report.since(0.0)


def test_scores_are_read_with_the_title_of_their_run_and_damaged_ones_left_out(scratch: Path, capsys: Any) -> None:
    keep(scratch, "a", "best-votes", score(1, seed=3))
    keep(scratch, "a", "last-votes", score(2))
    keep(scratch, "b", "best-votes", score(3))
    keep(scratch, "b", "last-votes", {"pass_at_2": 0.5})
    (scratch / "runs" / "b" / "title").write_text("my title")
    found = night_report.every_score()
    assert {name: list(of) for name, of in found.items()} == {"a": ["best-votes", "last-votes"], "b": ["best-votes"]}
    assert [found["a"]["best-votes"][key] for key in ("title", "pass_at_2")] == ["v3/tiny/aa1-6x6 seed 3", 0.1]
    assert found["b"]["best-votes"]["title"] == "my title"
    assert "last-votes.json is damaged" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("subset", "kind"),
    [
        ("training", "training tasks, whose answers were trained on"),
        ("validation", "validation tasks, whose answers choose the checkpoint"),
        ("evaluation", "tasks"),
        (None, "tasks"),
    ],
)
def test_a_score_says_of_which_tasks_it_is(subset: str | None, kind: str) -> None:
    source = {"evaluation": {"subset": subset}} if subset else {}
    assert night_report.percent(score(6, **source)) == f"60.0 % [50.0, 70.0], 10 {kind}"


def test_the_best_other_run_is_the_one_to_compare_with(scratch: Path) -> None:
    scores = {name: {"e": score(n, 40, name)} for name, n in (("mine", 20), ("low", 1), ("high", 30), ("middle", 7))}
    said = night_report.against(scores["mine"]["e"], "e", "mine", scores)
    head, tail = said.split("] points to ")
    assert (head.split(" [")[0], tail) == ("e -25.0", "high")
    low, high = map(float, head.split(" [")[1].split(","))
    assert -45 < low < -25 < high < -10
    halves = {"tasks": {"a": [{"solved": True}, {"solved": False}], "b": [{"solved": True}]}}
    assert night_report.task_scores(halves) == {"a": 0.5, "b": 1.0}


def rows() -> list[Row]:
    votes, first = {"best-votes": score(7, title="top")}, {"best-attempts": score(2, title="second")}
    done = Row("t", "top", "Completed", "9 s", 1.25, "3 of 4 stages", scores=votes, page="/p/t")
    other = Row("s", "second", "Crashed, died 2 ×", "8 s", 0.5, "0 of 2 stages", "killed", scores=first)
    return [done, other, Row("n", "new | run", "Running", "7 s", page="/p/n"), Row("f", "failed", "Failed")]


def test_a_long_report_has_every_score_against_the_best_before(scratch: Path) -> None:
    for name, n in (("before", 1), ("long before", 0)):
        keep(scratch, name, "best-votes", score(n, seed=5))
    total = night_text.summary(rows(), 2.5)
    assert total == "4 runs in the last 2.5 hours, 2 failed, 1.8 GPU-minutes"
    said, table, last = night_text.lines(rows(), total, long=True)
    assert said == total
    assert isinstance(table, list)
    assert table[1:] == [
        {
            "run": "second",
            "state": "Crashed, died 2 ×",
            "took": "8 s",
            "GPU-min": "0.5",
            "from cache": "0 of 2 stages",
            "pass@2": "best-attempts 20.0 % [10.0, 30.0], 10 tasks",
            "against the best": "",
            "why": "killed",
        },
        *(
            {
                **dict.fromkeys(("from cache", "pass@2", "against the best", "why"), ""),
                "run": row.name,
                "state": row.state,
                "took": row.took,
                "GPU-min": "0.0",
            }
            for row in rows()[2:]
        ),
    ]
    assert table[0]["against the best"].startswith("best-votes +60.0 [")
    assert table[0]["against the best"].endswith("points to v3/tiny/aa1-6x6 seed 5")
    assert isinstance(last, str)
    assert last == f"best: top: {table[0]['against the best']}"
    assert "before" not in last


def test_a_night_without_runs_or_scores(scratch: Path) -> None:
    assert list(night_text.lines([], "none", long=False)) == ["none"]
    assert night_text.summary([], 16.0) == "0 runs in the last 16 hours, 0 failed, 0.0 GPU-minutes"
    assert night_text.summary(rows()[2:], 16.0) == "2 runs in the last 16 hours, 1 failed, 0.0 GPU-minutes"
    said, table = night_text.lines(rows()[2:], "two", long=False)
    assert said == "two"
    assert table == [
        {"pass@2 %": "", "run": "new | run", "why": "Running", "took": "7 s", "GPU-min": "0.0"},
        {"pass@2 %": "", "run": "failed", "why": "Failed", "took": "", "GPU-min": "0.0"},
    ]
    assert night_text.best(rows()[2:], {}) == ""
    assert night_text.markdown([], "http://here") == "Nothing ran."


@pytest.mark.parametrize("scored", [True, False])
def test_the_page_gets_summary_table_and_the_best(scratch: Path, monkeypatch: pytest.MonkeyPatch, scored: bool) -> None:
    monkeypatch.setattr(server, "address", lambda: "http://here:4/api")
    monkeypatch.setattr(flow_runs, "runs", lambda connection, *kinds, **_: connection.of(*kinds))
    made: Any = Server()
    given = rows() if scored else rows()[2:]
    night_text.publish(made, given)
    [content] = made.said
    assert (content.key, content.type) == ("night", "markdown")
    said, table, *last = content.data.split("\n\n")
    count, cost = (4, "2 failed, 1.8") if scored else (2, "1 failed, 0.0")
    assert said == content.description == f"{count} runs in the last 16 hours, {cost} GPU-minutes"
    lines = table.splitlines()
    assert lines[:2] == ["| pass@2 % | run | why | took | GPU-min |", "| --- | --- | --- | --- | --- |"]
    assert lines[-2:] == [
        "| – | [new \\| run](http://here:4/p/n) | Running | 7 s | 0.0 |",
        "| – | failed | Failed |  | 0.0 |",
    ]
    best = "best: top: best-votes 70.0 [60.0–80.0], with nothing earlier on the same tasks"
    assert last == ([best] if scored else [])
    if scored:
        assert lines[2:4] == [
            "| 70.0 [60.0–80.0] | [top](http://here:4/p/t) |  | 9 s | 1.2 |",
            "| 20.0 [10.0–30.0] | second | killed | 8 s | 0.5 |",
        ]
    made.said.clear()
    night_text.publish(made, [], 3.0)
    assert made.said[0].data == "0 runs in the last 3 hours, 0 failed, 0.0 GPU-minutes\n\nNothing ran."


def test_the_night_says_what_still_waits_and_that_the_queue_is_held(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "address", lambda: "http://here:4/api")
    monkeypatch.setattr(flow_runs, "runs", lambda connection, *kinds, **_: connection.of(*kinds))
    kinds = (StateType.SCHEDULED, StateType.PAUSED, StateType.RUNNING, StateType.FAILED)
    made: Any = Server(*(made_up_server.run(kind) for kind in kinds))
    none = "0 runs in the last 3 hours, 0 failed, 0.0 GPU-minutes"
    assert night_text.publish(made, [], 3.0) == f"{none}, 2 waiting"
    made.description = "Held: 0.10 GiB free at /a"
    assert night_text.publish(made, [], 3.0) == f"{none}, 2 waiting; Held: 0.10 GiB free at /a"
    assert made.said[-1].description == f"{none}, 2 waiting; Held: 0.10 GiB free at /a"
