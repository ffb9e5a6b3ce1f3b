"""What a follower of a running training sends to MLflow, to a client that is made up, and how it ends."""

import json
import shutil
import signal
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from mlflow.exceptions import MlflowException

from tasks.common import events, paths
from tasks.common.stage import StageError
from tasks.tracking import live, mlflow_runs
from tasks.tracking.live import Follower
from tests.conftest import experiment


class Client:
    """Remembers what it was sent."""

    def __init__(self) -> None:
        self.points: list[list[tuple[str, float, int]]] = []
        self.asked: list[Any] = []

    def log_batch(self, run: str, metrics: Any) -> None:
        assert run == "run"
        self.points.append([(metric.key, metric.value, metric.step) for metric in metrics])

    def set_tag(self, *given: Any) -> None:
        self.asked.append(given)

    def set_terminated(self, *given: Any) -> None:
        self.asked.append(given)


@pytest.fixture
def follower(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> Follower:
    (folder := workspace / "key").mkdir()
    monkeypatch.setenv(events.VARIABLE, str(folder / "events.jsonl"))
    return Follower(folder, {}, run="run")


def test_rows_and_candidates_are_points_and_are_sent_once(follower: Follower) -> None:
    client = Client()
    events.emit(events.Row(values={"step": 3, "loss": 0.5, "validation_loss": 2.0}))
    shares = {"pass_at_2": 0.25, "ci95": (0.0, 0.5), "cell_accuracy": 0.75, "grids_solved": 1, "n_grids": 4}
    events.emit(events.CandidateScored(step=6, **shares))
    events.emit(events.Progress(step=7, total=9, loss=1.0, accuracy=0.5))
    follower.deliver(client)
    [points] = client.points
    named = {(name, step): value for name, value, step in points}
    assert {step for _, step in named} == {3, 6}
    assert named["train/loss", 3] == 0.5
    assert 2.0 in [value for (name, step), value in named.items() if name.startswith("validation") and step == 3]
    assert (named["validation/pass_at_2", 6], named["validation/cell_accuracy", 6]) == (0.25, 0.75)
    assert "kind" not in str(named)
    size = (follower.folder / "events.jsonl").stat().st_size
    assert json.loads((follower.folder / "state.json").read_text()) == {"run": "run", "offset": size}
    (follower.folder / "state.json").unlink()
    follower.deliver(client)
    assert len(client.points) == 1
    assert not (follower.folder / "state.json").exists(), "nothing was new"


def test_points_are_sent_in_batches(follower: Follower, monkeypatch: Any) -> None:
    monkeypatch.setattr(live, "BATCH", 4)
    client = Client()
    for step in range(6):
        events.emit(events.Row(values={"step": step, "loss": 0.5 + step}))
    follower.deliver(client)
    sent = [point for batch in client.points for point in batch]
    assert [len(batch) for batch in client.points[:-1]] == [4] * (len(client.points) - 1)
    assert 0 < len(client.points[-1]) <= 4
    assert [value for name, value, _ in sent if name == "train/loss"] == [0.5 + step for step in range(6)]


@pytest.mark.parametrize(
    ("event", "status", "reason"),
    [
        (None, "KILLED", "the training was killed, or the machine stopped"),
        (events.Failed(reason="stopped", message="by us"), "KILLED", "stopped: by us"),
        (events.Failed(reason="no progress", message="x" * 6000), "FAILED", f"no progress: {'x' * 6000}"[:5000]),
        (events.Trained(), "FINISHED", ""),
    ],
)
def test_the_end_has_its_status_and_reason(follower: Follower, event: Any, status: str, reason: str) -> None:
    client, finished = Client(), []
    events.emit(events.Warned(message="w" * 6000))
    if event:
        events.emit(event)
    follower.deliver(client)
    assert client.asked == [("run", "arc.warning", "w" * 5000)]
    follower.monitor = SimpleNamespace(finish=lambda: finished.append(1))
    client.asked.clear()
    follower.end(client)
    told = [("run", "arc.reason", reason), ("run", "mlflow.note.content", reason)] if reason else []
    assert client.asked == [*told, ("run", status)]
    assert finished == [1]
    follower.monitor = None
    follower.end(client)


class Training:
    """The end of a training, and a store that fails `failures` times."""

    def __init__(self, failures: int, looks: int) -> None:
        self.failures, self.looks = failures, looks
        self.order: list[str] = []
        self.now = 0.0

    def connect(self) -> Any:
        self.order.append("connect")
        return "client"

    def deliver(self, client: str) -> None:
        assert client == "client"
        if self.failures:
            self.failures -= 1
            self.order.append("fail")
            raise ConnectionError("away")
        self.order.append("deliver")

    def select(self, readable: list[int], writable: Any, broken: Any, seconds: float) -> Any:
        assert (readable, writable, broken, seconds) == ([0], [], [], 2.0)
        self.looks -= 1
        return ([0] if self.looks <= 0 else [], [], [])


@pytest.fixture
def followed(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Follows a training that is made up until it ends; the order of what was done."""
    monkeypatch.setattr(signal, "signal", lambda number, handler: None)
    paths.EXPERIMENT.write_text(yaml.safe_dump(experiment().model_dump(mode="json")))
    (folder := workspace / "key").mkdir()

    def follow(training: Training, remove: bool = False) -> list[str]:
        def sleep(seconds: float) -> None:
            training.order.append("sleep")
            training.now += 1800 * (seconds == 2.0)
            if remove:
                shutil.rmtree(folder, ignore_errors=True)

        clock = SimpleNamespace(ctime=lambda: "now", monotonic=lambda: training.now, sleep=sleep)
        monkeypatch.setattr(live, "time", clock)
        monkeypatch.setattr(live, "select", SimpleNamespace(select=training.select))
        monkeypatch.setattr(Follower, "connect", training.connect)
        monkeypatch.setattr(Follower, "deliver", lambda self, client: training.deliver(client))
        monkeypatch.setattr(Follower, "end", lambda self, client: training.order.append("end"))
        live.main(folder)
        return training.order

    return follow


def test_it_follows_until_the_training_ends_and_everything_has_arrived(followed: Any) -> None:
    assert followed(Training(0, 2)) == ["connect", "deliver", "deliver", "deliver", "end"]


def test_a_store_that_is_away_is_waited_for(followed: Any, capsys: Any) -> None:
    order = followed(Training(2, 1))
    assert order == ["connect", "fail", "sleep", "fail", "sleep", "deliver", "end"]
    assert capsys.readouterr().out == "now: ConnectionError: away\n" * 2


def test_an_hour_after_the_end_it_gives_up(followed: Any) -> None:
    # It is seen to have ended after half an hour; the next failures come 0, 0.5, 1 and 1.5 hours later.
    assert followed(Training(9, 1)) == ["connect", *["fail", "sleep"] * 4, "fail"]


def test_where_the_checkout_was_removed_it_ends(followed: Any) -> None:
    assert followed(Training(9, 9), remove=True) == ["connect", "fail", "sleep", "fail"]


def test_errors_of_mlflow_name_the_store() -> None:
    place = SimpleNamespace(uri="sqlite:///x", database=Path("x.db"))
    database = "(e) file is not a database"
    for text, says in (
        ("no route", "MLflow at sqlite:///x: no route"),
        (database, f"x.db is no MLflow store: {database}; move it away, or repair it"),
    ):
        with pytest.raises(StageError) as error, mlflow_runs.mlflow_errors(place):
            raise MlflowException(f"{text}\nmore")
        assert str(error.value) == says
    with pytest.raises(ZeroDivisionError), mlflow_runs.mlflow_errors(place):
        raise ZeroDivisionError
