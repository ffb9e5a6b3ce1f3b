"""What is timed, and on which device, with the clock made up."""

import sys
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from tasks.benchmark import clock
from tests.support.benchmark import CPU, Clock


def test_the_median_of_the_calls_after_the_warm_up_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    made, took = Clock(), iter([90.0] * 3 + [1.0, 7.0, 3.0])
    monkeypatch.setattr(clock, "time", made)

    def work() -> None:
        made.now += next(took)

    assert clock.timed(work, CPU, 3) == 4.0  # 3 seconds, and the one of the second look.


def test_a_product_of_matrices_is_two_operations_for_each_of_its_terms(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "tasks.benchmark.clock.torch.randn", lambda *shape, **_: torch.zeros(2, 2) if shape == (2048, 2048) else None
    )
    seconds, repeated = iter([2.0, 40.0]), []
    monkeypatch.setattr(clock, "timed", lambda work, device, repeats: repeated.append(repeats) or next(seconds))
    assert clock.product_rates(CPU, seconds=100.0) == (2048**3, 2048**3 / 2)
    assert repeated == [20, 5], "five times ten of two seconds each"


def test_a_sustained_rate_is_of_ten_products_without_a_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    made = Clock()
    monkeypatch.setattr(clock, "time", made)
    products: list[Any] = []

    class Matrix(torch.Tensor):
        def __matmul__(self, other: Any) -> Any:
            products.append(other)
            made.now += 1.0
            return self

    monkeypatch.setattr(torch, "randn", lambda *shape, **_: torch.zeros(2, 2).as_subclass(Matrix))
    rates = clock.product_rates(CPU, seconds=1.0)
    assert len(products) == 23 + (1 + 3) * 10
    assert rates.single == 2048**3  # A second, and the one of the second look.
    assert rates.sustained == pytest.approx(2 * 2048**3 * 10 / 11)


def test_a_profile_names_the_operators(capsys: pytest.CaptureFixture[str]) -> None:
    clock.show_profile(lambda: torch.ones(2, 2) @ torch.ones(2, 2), CPU, 1)
    assert "aten::mm" in capsys.readouterr().out
    assert clock.attention_kernel(CPU) == "scaled-dot-product in buckets"


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


GPU = SimpleNamespace(type="cuda")


def test_a_gpu_is_waited_for_after_every_call(gpu: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clock, "time", Clock())
    assert clock.timed(lambda: gpu.append("work"), GPU, 2) == 1.0
    assert gpu == ["work", "synchronize"] * 5
    gpu.clear()
    clock.timed(lambda: gpu.append("work"), CPU, 2)
    assert gpu == ["work"] * 5
    clock.synchronize(CPU)
    assert "synchronize" not in gpu
    clock.synchronize(GPU)
    assert gpu[-1] == "synchronize"


def test_a_product_on_a_gpu_is_large_and_of_half_precision(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[Any] = []

    def randn(*shape: int, device: Any) -> torch.Tensor:
        made.append((shape, device.type))
        return torch.ones(2, 2)

    types: list[Any] = []
    monkeypatch.setattr(torch, "randn", randn)
    monkeypatch.setattr(clock, "timed", lambda work, device, repeats: types.append(work()) or 2.0)
    assert clock.product_rates(GPU).single == 8192**3
    assert made == [((8192, 8192), "cuda")] * 2
    assert types[0].dtype == torch.bfloat16
    monkeypatch.setattr(torch, "randn", lambda *shape, device: torch.zeros(2, 2))
    clock.product_rates(CPU)
    assert types[2].dtype == torch.float32


def test_the_kernel_of_a_gpu_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "model.ops.flash", SimpleNamespace(kernel_name=lambda device: device.type))
    assert clock.attention_kernel(GPU) == "cuda"


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
    clock.show_profile(lambda: gpu.append("work"), device)
    work = ["work"] * 4 + ["synchronize"] * (kind == "CUDA")
    assert asked == [[getattr(torch.profiler.ProfilerActivity, kind)], work, f"{order}_time_total"]
