"""What `make bench` writes, shows and refuses."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pandas as pd
import pytest
import torch
import typer

from model.config.evaluation import EarlyStop
from tasks.benchmark.clock import ProductRates
from tasks.commands import bench
from tasks.common import params, paths
from tasks.common.stage import StageError
from tasks.files import predictions
from tests.conftest import ROOT
from tests.support.benchmark import CPU


@pytest.mark.parametrize(("tasks", "workers"), [(8, (1, 0)), (0, (1, 0)), (8, (2, 0)), (8, (2, 1))])
def test_the_numbers_are_written_and_shown_by_the_first_process(
    tmp_path: Path, monkeypatch: Any, capsys: Any, tasks: int, workers: tuple[int, int]
) -> None:
    asked: list[Any] = []
    keys = ("ms_per_update", "examples_per_s", "rows_per_s", "ns_per_row", "seconds_to_first_update")
    made = dict.fromkeys(keys, 12.345) | {"flop_per_s": 6e11, "peak_memory_gb": 1.25}
    answered = {"grids": 8, "answers": 16, "steps": 3, "seconds_first": 4.0, "seconds": 2.0, "grids_per_s": 4.0}
    stopped = answered | {"answers": 9, "stop": "16,1,0.25"}
    monkeypatch.setattr(bench, "spread", lambda *_: None)
    monkeypatch.setattr(bench, "choose", lambda: CPU)
    monkeypatch.setattr(bench, "Workers", lambda: SimpleNamespace(count=workers[0], rank=workers[1]))
    monkeypatch.setattr(bench, "product_rates", lambda _: ProductRates(2e12, 1.5e12))
    monkeypatch.setattr(bench, "tracking", lambda: {"ms_per_row": 0.25, "share": 0.00025})
    train = lambda e, kind, *_: asked.append((e.name, e.seed, kind)) or {"kind": kind, **made}  # noqa: E731
    monkeypatch.setattr(bench, "training", train)

    def answering(_: Any, __: Any, what: Any, ___: bool) -> list[Any]:
        asked.append((what.evaluation, what.tasks, list(what.stops)))
        return [answered | {"stop": None}, *([stopped] if what.stops else [])]

    monkeypatch.setattr(bench, "answering", answering)
    monkeypatch.setattr(predictions, "read", lambda path: (pd.DataFrame({"task": ["66e6c45b"], "test": [0]}), None))
    out = tmp_path / "new" / "bench.json"
    assert paths.PRESETS.exists()
    like, stop = (Path("kept.parquet"), ["16,1,0.25"]) if tasks else (None, None)
    bench.main("v6/tiny,v8/smol", "mixed", 3, tasks, like, stop, ["seed=5"], False, out)
    trained = [(f"{name}/aa1", 5, "mixed") for name in ("v6/tiny", "v8/smol")]
    stops = [EarlyStop(round=16, attempts=1, swing=0.25)]
    all_ = [("attempts", 8, []), ("votes", 8, []), ("votes", 0, stops)] if tasks and workers[0] == 1 else []
    assert asked == [trained[0], *all_, trained[1], *all_]
    printed = capsys.readouterr().out
    if workers[1]:
        assert printed == ""
        assert not out.exists()
        return
    written = json.loads(out.read_text())
    assert [row["share_of_product"] for row in written["training"]] == [0.3 / workers[0]] * 2
    assert len(written["sampling"]) == (8 if all_ else 0)
    assert [row["share_of_sustained_product"] for row in written["training"]] == [0.4 / workers[0]] * 2
    assert (written["gpus"], written["product_flop_per_s"]) == (workers[0], 2e12)
    assert written["sustained_product_flop_per_s"] == 1.5e12
    shown = [line for line in printed.splitlines() if line and not line.startswith("{")]
    cells = next(line for line in shown if " v6/tiny " in line and "mixed" in line).replace("│", " ").split()
    shares = [f"{30 / workers[0]:.0f}", "%", f"{40 / workers[0]:.0f}", "%"]
    assert cells == ["v6/tiny", "mixed", "12.35", "12", "12.3", "12.3", "0.600", *shares, "12.3", "1.2"]
    assert shown[-1] == "shown in MLflow live: 0.250 ms a row, 0.03% of a training at 100 updates/s"
    if all_:
        took = "3 steps: 2.00 s (4.00 grids/s; first time 4.00 s)"
        assert shown[-3] == f"v8/smol: 16 answers to 8 grids, {took}"
        assert shown[-2] == f"v8/smol: 9 answers to 8 grids, stopped at 16,1,0.25, {took}"


def test_the_processes_of_several_gpus_get_the_same_options(monkeypatch: Any, tmp_path: Path) -> None:
    spread: list[tuple[str, ...]] = []

    def instead(*command: str) -> None:
        spread.append(command)
        raise StageError("spread")

    monkeypatch.setattr(bench, "spread", instead)
    monkeypatch.setattr("sys.argv", ["arc", "bench", "--kinds", "none"])
    options = ["--experiments=v8/tiny", "--kinds=none", "--updates=3", "--tasks=0", "--like=a b.parquet"]
    options += ["--stop=16,1,0.25", "--stop=8,2,1", "--set=seed=5", "--profile", f"--out={tmp_path / 'bench.json'}"]
    app = typer.Typer(add_completion=False)
    app.command()(bench.main)
    for given in (options, [f"--out={tmp_path / 'bench.json'}"]):
        with pytest.raises(SystemExit, match=r"^bench: spread$"):
            app(given)
        module, *passed = spread.pop()
        assert module == "tasks.commands.bench"
        assert [option for option in given if option not in passed] == []
        with pytest.raises(SystemExit):
            app(passed)
        assert spread.pop() == (module, *passed)


@pytest.mark.parametrize(
    ("variables", "options", "message"),
    [
        ({"ARC_GPUS": "x"}, [], "bench: ARC_GPUS is 'x'; allowed is the number of GPUs"),
        ({}, ["--updates", "0"], "greater than or equal to 1"),
        ({}, ["--tasks", "-1"], "greater than or equal to 0"),
        ({}, ["--out", "."], "bench: --out is ., which cannot be written; give a file in a folder that can"),
        ({}, ["--out", "file/bench.json"], "bench: File exists: file"),
    ],
)
def test_wrong_options_end_in_one_line_before_anything_is_measured(
    monkeypatch: Any, tmp_path: Path, variables: dict[str, str], options: list[str], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("file").touch()
    monkeypatch.setattr(bench, "choose", lambda: pytest.fail("went on"))
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    app = typer.Typer(add_completion=False)
    app.command()(bench.main)
    with pytest.raises((SystemExit, typer.BadParameter)) as ended:
        app(options, standalone_mode=False)
    assert message in str(ended.value)


def test_what_was_measured_before_a_failure_is_kept(monkeypatch: Any, tmp_path: Path) -> None:
    compiled: list[str] = []
    keys = ("ms_per_update", "examples_per_s", "rows_per_s", "ns_per_row", "seconds_to_first_update", "flop_per_s")

    def training(experiment: Any, kind: str, *_: Any) -> Any:
        if compiled.count("reset") == 1:
            raise StageError("the second cannot be measured")
        return {"kind": kind, **dict.fromkeys(keys, 1.0)}

    monkeypatch.setattr(bench, "spread", lambda *_: None)
    monkeypatch.setattr(bench, "choose", lambda: CPU)
    monkeypatch.setattr(bench, "product_rates", lambda _: ProductRates(2e12, 1.5e12))
    monkeypatch.setattr(bench, "tracking", dict)
    monkeypatch.setattr(bench, "training", training)
    monkeypatch.setattr(torch.compiler, "reset", lambda: compiled.append("reset"))
    out = tmp_path / "bench.json"
    with pytest.raises(SystemExit, match=r"^bench: the second cannot be measured$"):
        bench.main("v6/tiny,v8/smol", "mixed", 3, 0, out=out)
    assert [row["experiment"] for row in json.loads(out.read_text())["training"]] == ["v6/tiny"]


def test_what_is_usual_on_each_device_is_an_experiment_of_the_presets() -> None:
    for names in bench.USUAL.values():
        for name in names.split(","):
            version, size = name.split("/")
            values = {"version": version, "size": size, "dataset": "aa1"}
            assert params.resolve(values, params.read(ROOT / "presets.yaml")).name == f"{name}/aa1"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"experiments": "v9/tiny"}, "--experiments v9/tiny: version is 'v9'; allowed are v0,"),
        ({"override": ["train.batch=many"]}, "train.batch"),
        ({"kinds": "mixed,tall"}, "--kinds tall: allowed are short, mixed, 30x30, or none alone"),
        ({"kinds": "mixed,none"}, "--kinds none: allowed are"),
        ({"stop": ["16,1"]}, "--stop '16,1' is no ROUND,ATTEMPTS,SWING, such as 16,1,0.25"),
        ({"stop": ["16,one,1"]}, "is no ROUND,ATTEMPTS,SWING"),
        ({"stop": ["16,3,1"]}, "--stop '16,3,1': attempts: Input should be less than or equal to 2"),
        ({"like": ROOT / "README.md"}, "README.md is no complete predictions file"),
    ],
)
def test_what_cannot_be_measured_is_refused_before_anything_is(
    monkeypatch: pytest.MonkeyPatch, arguments: dict[str, Any], message: str
) -> None:
    monkeypatch.setattr(bench, "spread", lambda *_: None)
    monkeypatch.setattr(bench, "choose", lambda: CPU)
    monkeypatch.setattr(bench, "product_rates", lambda _: pytest.fail("measured"))
    with pytest.raises(typer.BadParameter) as error:
        bench.main(**({"experiments": "v8/tiny", "kinds": "mixed"} | arguments))
    assert message in str(error.value)


def test_tasks_that_nobody_knows_are_refused_before_anything_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench, "spread", lambda *_: None)
    monkeypatch.setattr(bench, "choose", lambda: CPU)
    monkeypatch.setattr(bench, "product_rates", lambda _: pytest.fail("measured"))
    monkeypatch.setattr(predictions, "read", lambda _: (pd.DataFrame({"task": ["cccccccc"], "test": [0]}), None))
    with pytest.raises(typer.BadParameter, match="no edition of ARC-AGI has all evaluation tasks"):
        bench.main("v8/tiny", "none", like=Path("kept.parquet"))
