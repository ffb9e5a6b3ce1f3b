"""The stage train as it begins and ends: its lock and time, other processes, and what cannot begin."""

from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml

from tasks import train
from tasks.common import paths
from tasks.common.params import resolved
from tasks.common.stage import StageError
from tasks.files import cost, live
from tasks.machine import gpu_lock, nodes
from tests.support.whole_training import Whole, saved, scratch


@pytest.mark.slow
@pytest.mark.parametrize(("lacks", "fills"), [(2, False), (1, True)])
def test_a_second_lack_or_a_batch_that_one_example_fills_ends_it(begin: Any, lacks: int, fills: bool) -> None:
    Whole.lacks, Whole.fills = lacks, fills
    with pytest.raises(SystemExit) as ending:
        begin()
    assert (str(ending.value), ending.value.code) == ("train: update 1: Tried 2 GiB", 5)
    assert not paths.CANDIDATES.exists()
    spent = cost.read(resolved())
    assert spent
    assert spent["seconds"] > 0, "its time is kept"
    assert [path.suffix for path in (paths.SCRATCH / "train").iterdir()] == [""], "the lock is gone, the scratch stays"


def test_the_time_of_all_processes_is_counted_once_by_the_first(begin: Any, monkeypatch: Any) -> None:
    added: list[Any] = []
    ticks = iter([100.0, 103.5])
    clock = SimpleNamespace(monotonic=lambda: next(ticks), time=lambda: 5000.0)
    monkeypatch.setattr(train, "time", clock)
    monkeypatch.setattr(cost, "add", lambda config, *given: added.append((config.seed, *given)))
    Whole.workers = SimpleNamespace(rank=0, count=4, wait=lambda: None)
    begin(seed=2)
    assert added == [(2, 14.0, "cpu", 5000.0)]


def test_another_process_writes_and_tells_nothing(begin: Any, write: Any, monkeypatch: Any, capsys: Any) -> None:
    left: list[Path] = []
    waited: list[int] = []
    Whole.workers = SimpleNamespace(rank=1, count=2, wait=lambda: waited.append(1))
    monkeypatch.setattr(nodes, "leave", left.append)
    monkeypatch.setattr(live, "start", partial(pytest.fail, "it shows nothing"))
    write()
    saved(4, "other")  # The first process decides what must not be used.
    (stale := scratch() / "candidates").mkdir()
    monkeypatch.setenv("RANK", "1")
    capsys.readouterr()
    assert begin() == []
    assert capsys.readouterr().out.endswith("going on after update 4 of 12\n")
    assert left == [scratch()]
    assert waited == [1]
    assert stale.exists()
    assert not paths.CANDIDATES.exists()
    assert cost.read(resolved()) is None
    assert not list((paths.SCRATCH / "train").glob("*.lock")), "torchrun holds the lock"


def test_the_first_process_shows_the_training(begin: Any, monkeypatch: Any) -> None:
    shown: list[str] = []
    monkeypatch.setattr(live, "start", shown.append)
    begin()
    assert shown == [cost.training_key(resolved())]


def test_the_lock_is_held_while_it_trains(begin: Any, monkeypatch: Any) -> None:
    seen: list[Any] = []
    monkeypatch.setattr(train, "train", lambda config, place: seen.append((gpu_lock.held(), place, place.is_dir())))
    begin()
    place = scratch()
    assert seen == [({place.with_name(f"{place.name}.lock")}, place, True)]
    assert gpu_lock.held() == set()
    assert not place.with_name(f"{place.name}.lock").exists()


def test_what_cannot_begin_says_why(begin: Any, monkeypatch: Any) -> None:
    with pytest.raises(SystemExit) as missing:
        train.main()
    assert str(missing.value) == f"train: {paths.CELLS} cannot be read: No such file or directory; run `dvc repro`"
    monkeypatch.setenv("ARC_GPUS", "0")
    with pytest.raises(SystemExit, match=r"^train: ARC_GPUS is '0'"):
        train.main()
    assert not paths.SCRATCH.exists(), "nothing was waited for"


def test_more_machines_are_handed_to_torchrun(begin: Any, monkeypatch: Any) -> None:
    asked: list[Any] = []
    monkeypatch.setattr(train, "spread", lambda module, others: asked.append((module, others)))
    monkeypatch.setattr(nodes, "options", lambda: ["--nnodes", "1"])
    begin()
    assert asked == [("tasks.train", ["--nnodes", "1"])]


def test_the_code_of_a_training_is_what_dvc_says(tmp_path: Path, monkeypatch: Any) -> None:
    """Files and folders below model/ and tasks/ of the stage's deps; a change of any file is another code."""
    for name in ("model/a.py", "model/rest/b.py", "model/rest/deep/c.py", "tasks/d.py", "tasks/e.py", "data/f.py"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(name)
    (tmp_path / "model/rest/notes.txt").write_text("x")
    deps = ["model/a.py", "model/rest", "tasks/d.py", "data/f.py"]
    (tmp_path / "dvc.yaml").write_text(yaml.safe_dump({"stages": {"train": {"deps": deps}}}))
    monkeypatch.setattr(train, "__file__", str(tmp_path / "tasks/train.py"))
    code = train.code.__wrapped__
    before = code()
    changes = {}
    for file in [path for path in tmp_path.rglob("*") if path.is_file() and path.suffix != ".yaml"]:
        text = file.read_text()
        file.write_text("changed")
        changes[file.relative_to(tmp_path).as_posix()] = code() != before
        file.write_text(text)
    decides = {"model/a.py", "model/rest/b.py", "model/rest/deep/c.py", "tasks/d.py"}
    assert {name for name, changed in changes.items() if changed} == decides
    assert code() == before


def test_the_interval_of_the_saves(monkeypatch: Any) -> None:
    for text in ("-0.001", "inf", "nan", "soon"):
        monkeypatch.setenv("ARC_SAVE_SECONDS", text)
        with pytest.raises(StageError) as refused:
            train.save_seconds()
        assert str(refused.value) == f"ARC_SAVE_SECONDS is {text!r}; allowed is a number of seconds, 0 or more"
