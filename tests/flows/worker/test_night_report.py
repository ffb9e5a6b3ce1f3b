import json
import subprocess
import sys
from datetime import datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import networkx
import pytest
from dvc.repo import Repo
from hypothesis import given
from hypothesis import strategies as st
from prefect.client.schemas.objects import StateType

from flows.queue import times
from flows.runs import records
from flows.runs.places import FlowError
from flows.runs.progress import duration
from flows.runs.stage_process import stage_names
from flows.worker import night_report, night_text
from tests.conftest import ROOT


def score(solved: list[int], seed: int = 0) -> dict[str, Any]:
    share = sum(solved) / len(solved)
    return {
        "pass_at_2": share,
        "ci95": [share, share],
        "n_tasks": len(solved),
        "tasks": {f"task{i}": [{"solved": bool(value)}] for i, value in enumerate(solved)},
        "source": {"experiment": "v3/tiny/aa1-6x6", "seed": seed},
        "title": f"v3/tiny/aa1-6x6 +muon seed {seed}",
    }


def test_against_the_best_of_the_same_tasks_only() -> None:
    scores = {
        "mine": {"best-votes": score([1] * 30 + [0] * 10)},
        "worse": {"best-votes": score([0] * 40, seed=1)},
        "better": {"best-votes": score([1] * 10 + [0] * 30, seed=2)},
        "other tasks": {"best-votes": score([1] * 50, seed=3)},
        "other evaluation": {"best-attempts": score([1] * 40, seed=4)},
    }
    said = night_report.against(scores["mine"]["best-votes"], "best-votes", "mine", scores)
    assert said.startswith("best-votes +50.0 [")
    assert said.endswith("to v3/tiny/aa1-6x6 +muon seed 2"), "a difference that the data show"
    same = {**scores, "better": {"best-votes": score([1] * 30 + [0] * 9 + [1], seed=2)}}
    assert night_report.against(same["mine"]["best-votes"], "best-votes", "mine", same).endswith("no difference shown")
    assert night_report.against(scores["mine"]["best-votes"], "best-votes", "mine", {"mine": scores["mine"]}) == ""


def test_a_row_counts_all_starts_of_a_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ARC_SCRATCH", str(tmp_path))
    for outcome in ("killed", "done"):
        records.add_stage(
            "r",
            records.StageRecord(stage="train", seconds=100, device_seconds=90, cached=False, outcome=outcome),
        )
    records.add_death("r", "killed")
    (tmp_path / "runs" / "r" / "scores").mkdir()
    (tmp_path / "runs" / "r" / "scores" / "best-votes.json").write_text(json.dumps(score([1, 0])))
    state = SimpleNamespace(name="Failed", type=StateType.FAILED, message="train: out of\nGPU memory")
    run = SimpleNamespace(id="r", name="a run", state=state, total_run_time=timedelta(seconds=3700))
    row = night_report.row(run, night_report.every_score())
    assert row.gpu_minutes == 3.0
    assert row.state == "Failed, died 1 ×"
    assert row.took == "1 h 1 min"
    assert row.why == "train: out of GPU memory"
    assert row.score == "50.0 [50.0–50.0]"
    assert row.page == "/runs/flow-run/r"


def rows() -> list[night_report.Row]:
    shares = {"middle": [1] * 20 + [0] * 20, "worst": [0] * 40, "top": [1] * 30 + [0] * 10}
    done = [night_report.Row(n, n, "Completed", "1 s", 1.5, scores={"best-votes": score(s)}) for n, s in shares.items()]
    return [night_report.Row("f", "failed", "Failed", why="train: out of | memory", page="/runs/flow-run/f"), *done]


def test_a_night_is_one_line_a_run_the_best_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ARC_SCRATCH", str(tmp_path))
    given = night_report.ordered(rows())
    assert [row.name for row in given] == ["top", "middle", "worst", "failed"]
    said, table, last = night_text.lines(given, night_text.summary(given, 8), long=False)
    assert isinstance(table, list)
    assert said == "4 runs in the last 8 hours, 1 failed, 4.5 GPU-minutes"
    assert [(line["pass@2 %"], line["why"]) for line in table] == [
        ("75.0 [75.0–75.0]", ""),
        ("50.0 [50.0–50.0]", ""),
        ("0.0 [0.0–0.0]", ""),
        ("", "train: out of | memory"),
    ]
    assert last == "best: top: best-votes 75.0 [75.0–75.0], with nothing earlier on the same tasks"


def test_the_best_is_compared_with_the_best_before_the_night(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ARC_SCRATCH", str(tmp_path))
    for name, solved in (("before", [1] * 10 + [0] * 30), ("long-before", [1] + [0] * 39)):
        (tmp_path / "runs" / name / "scores").mkdir(parents=True)
        (tmp_path / "runs" / name / "scores" / "best-votes.json").write_text(json.dumps(score(solved, seed=7)))
    *_, last = night_text.lines(night_report.ordered(rows()), "", long=False)
    assert last.startswith("best: top: best-votes +50.0 ["), "not against the middle one of the same night"
    assert last.endswith("points to v3/tiny/aa1-6x6 seed 7")


def test_the_artifact_has_a_row_and_a_link_a_run() -> None:
    lines = night_text.markdown(night_report.ordered(rows()), "http://127.0.0.1:4").splitlines()
    assert lines[0] == "| pass@2 % | run | why | took | GPU-min |"
    assert lines[2].startswith("| 75.0 [75.0–75.0] | top |")
    assert lines[-1] == "| – | [failed](http://127.0.0.1:4/runs/flow-run/f) | train: out of \\| memory |  | 0.0 |"


NOW = datetime(2026, 11, 22, 17, 30).astimezone()


@given(st.integers(0, 23), st.integers(0, 59))
def test_a_time_of_day_is_the_next_one(hour: int, minute: int) -> None:
    moment = times.at(f"{hour:02}:{minute:02}", NOW)
    assert (moment.hour, moment.minute) == (hour, minute)
    assert NOW < moment <= NOW + timedelta(days=1)


def test_a_time_of_day_is_that_of_the_clock_also_across_a_change_to_or_from_summer_time() -> None:
    code = """
import os, time
os.environ["TZ"] = "Europe/Berlin"
time.tzset()
from datetime import datetime
from flows.queue import times
for now in (datetime(2027, 3, 27, 23), datetime(2026, 10, 24, 23), datetime(2026, 11, 1, 23)):
    print(times.at("06:00", now).isoformat())
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    expected = ["2027-03-28T06:00:00+02:00", "2026-10-25T06:00:00+01:00", "2026-11-02T06:00:00+01:00"]
    assert done.stdout.split() == expected


@pytest.mark.parametrize("wrong", ["25:00", "soon", "2026-11-22T17:29", "1:2:3"])
def test_a_wrong_time_is_refused(wrong: str) -> None:
    with pytest.raises(FlowError, match=wrong):
        times.at(wrong, NOW)


@given(st.integers(0, 10**6))
def test_durations_read_back(seconds: int) -> None:
    units = {"h": 3600, "min": 60, "s": 1}
    parts = duration(seconds).split()
    total = sum(int(number) * units[unit] for number, unit in zip(parts[::2], parts[1::2], strict=True))
    assert 0 <= seconds - total < (60 if seconds >= 3600 else 1)


def test_the_stages_are_dvcs_in_an_order_that_it_allows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    stages = stage_names()
    with Repo(".") as repo:
        wanted = {(a.addressing, b.addressing) for a, b in networkx.transitive_closure(repo.index.graph).edges}
        assert {name for name, _ in stages} == {stage.addressing for stage in repo.index.graph}
    order = {name: i for i, (name, _) in enumerate(stages)}
    assert all(order[after] > order[before] for after, before in wanted)
    drawn = networkx.DiGraph((name, needed) for name, all_needed in stages for needed in all_needed)
    assert set(networkx.transitive_closure(drawn).edges) == wanted


def test_arc_names_its_commands() -> None:
    done = subprocess.run([sys.executable, "-m", "flows.arc", "--help"], cwd=ROOT, capture_output=True, text=True)
    for name in ("run", "worker", "queue", "night", "doctor"):
        assert f" {name} " in done.stdout
