"""The device that ARC_DEVICE names."""

import os
import sys
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from tasks.common.stage import StageError
from tasks.machine import device


@pytest.mark.parametrize("name", ["meta", "mps", "abc", "cuda:x", "xla", "\x1b", "9" * 5000])
def test_another_device_is_refused_and_the_allowed_ones_are_named(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv("ARC_DEVICE", name)
    with pytest.raises(StageError, match=r"ARC_DEVICE is .*; allowed are 'cpu', 'cuda' and 'cuda:N'"):
        device.choose()


def test_on_a_cpu_torch_is_deterministic_and_fills_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    kept: list[int] = []
    monkeypatch.setenv("ARC_DEVICE", "cpu")
    monkeypatch.setattr(device, "take", lambda devices: devices[0])
    monkeypatch.setattr(device, "_keep_memory", lambda: kept.append(1))
    torch.use_deterministic_algorithms(False)
    assert device.choose() == torch.device("cpu")
    assert torch.are_deterministic_algorithms_enabled()
    assert not torch.utils.deterministic.fill_uninitialized_memory  # type: ignore[attr-defined]
    assert kept == [1]


def test_blocks_that_are_freed_stay_with_the_process(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[int, int]] = []
    answers = [1, 1, 0]
    fake = SimpleNamespace(mallopt=lambda *given: asked.append(given) or answers.pop(0))
    monkeypatch.setattr(device, "ctypes", SimpleNamespace(CDLL=lambda _: fake))
    monkeypatch.setattr(device, "platform", SimpleNamespace(libc_ver=lambda: ("glibc", "2.36")))
    device._keep_memory()
    # M_MMAP_THRESHOLD and M_TRIM_THRESHOLD of malloc.h.
    assert asked == [(-3, 32 * 2**20), (-1, 2**30)]
    with pytest.raises(StageError, match="mallopt refuses"):
        device._keep_memory()
    monkeypatch.setattr(device, "platform", SimpleNamespace(libc_ver=lambda: ("", "")))
    device._keep_memory()


@pytest.mark.parametrize(("text", "count"), [("", 1), ("1", 1), ("3", 3), ("0", 0), ("-1", 0), ("x", 0), ("1.5", 0)])
def test_a_stage_has_as_many_processes_as_arc_gpus_says(monkeypatch: pytest.MonkeyPatch, text: str, count: int) -> None:
    monkeypatch.setenv("ARC_GPUS", text)
    if count:
        assert device.processes() == count
    else:
        with pytest.raises(StageError, match="ARC_GPUS is"):
            device.processes()


@pytest.mark.parametrize(("gpus", "rank", "started"), [("1", None, False), ("2", "0", False), ("2", None, True)])
def test_several_processes_are_started_once(monkeypatch: Any, gpus: str, rank: str | None, started: bool) -> None:
    ran: list[list[str]] = []
    monkeypatch.setattr(os, "environ", {**os.environ, "ARC_GPUS": gpus})
    for name in ("RANK", "OMP_NUM_THREADS"):
        os.environ.pop(name, None)
    if rank:
        os.environ["RANK"] = rank
    monkeypatch.setattr(device, "keep_across_exec", lambda: None)
    monkeypatch.setattr(os, "execv", lambda _, command: ran.append(command[1:]))
    device.spread("tasks.train", "x")
    options = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", gpus, "-m", "tasks.train", "x"]
    assert ran == ([options] if started else [])
    assert ("OMP_NUM_THREADS" in os.environ) == started
    device.spread("tasks.train", others=["--nnodes", "2"])
    assert len(ran) == (0 if rank else 1 + started)


@pytest.mark.parametrize(("text", "sharded"), [("", False), ("0", False), ("1", True)])
def test_sharding_is_asked_for(monkeypatch: pytest.MonkeyPatch, text: str, sharded: bool) -> None:
    monkeypatch.setenv("ARC_SHARD", text)
    assert device.sharded() == sharded
    monkeypatch.setenv("ARC_SHARD", "yes")
    with pytest.raises(StageError, match="ARC_SHARD is 'yes'"):
        device.sharded()


@pytest.fixture
def gpus(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """A machine with two GPUs; what is asked of them."""
    asked: dict[str, Any] = {"set": []}
    cuda = {"is_available": lambda: True, "device_count": lambda: 2, "set_device": asked["set"].append}
    monkeypatch.setattr(torch, "cuda", SimpleNamespace(**cuda))
    monkeypatch.setattr(os, "environ", {**os.environ})
    for name in ("ARC_DEVICE", "ARC_GPUS", "LOCAL_RANK", "RANK", "OMP_NUM_THREADS"):
        os.environ.pop(name, None)
    monkeypatch.setattr(
        device, "take", lambda devices: asked.setdefault("take", list(map(str, devices))) and devices[-1]
    )
    monkeypatch.setattr(device, "take_all", lambda devices: asked.setdefault("all", list(map(str, devices))))
    monkeypatch.setattr(device, "keep_across_exec", lambda: asked.setdefault("kept", True))
    monkeypatch.setattr(os, "execv", lambda program, command: asked.setdefault("ran", command))
    monkeypatch.setattr(device, "_keep_memory", lambda: asked.setdefault("memory", True))
    return asked


@pytest.mark.parametrize(
    ("wanted", "asked", "chosen"),
    [
        (None, ["cuda:0", "cuda:1"], "cuda:1"),
        ("cuda", ["cuda:0", "cuda:1"], "cuda:1"),
        ("cuda:0", ["cuda:0"], "cuda:0"),
        ("cuda:1", ["cuda:1"], "cuda:1"),
    ],
)
def test_the_first_free_gpu_is_taken_or_the_one_that_is_named(
    gpus: dict[str, Any], wanted: str | None, asked: list[str], chosen: str
) -> None:
    if wanted:
        os.environ["ARC_DEVICE"] = wanted
    assert str(device.choose()) == chosen
    assert gpus == {"take": asked, "set": [torch.device(chosen)]}, "deterministic torch and its memory are for CPUs"


def test_a_process_of_torchrun_takes_the_gpu_of_its_rank(gpus: dict[str, Any]) -> None:
    os.environ["LOCAL_RANK"] = "1"
    assert str(device.choose()) == "cuda:1"
    assert gpus == {"set": [torch.device("cuda:1")]}
    os.environ["ARC_DEVICE"] = "cpu"
    assert device.choose() == torch.device("cpu")
    assert gpus == {"set": [torch.device("cuda:1")], "take": ["cpu"], "memory": True}


def test_gpus_that_there_are_not_are_named(gpus: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    os.environ["ARC_DEVICE"] = "cuda:2"
    with pytest.raises(StageError, match=r"^ARC_DEVICE is 'cuda:2', but torch sees 2 GPUs, from cuda:0 on$"):
        device.choose()
    os.environ["ARC_GPUS"] = "3"
    with pytest.raises(StageError, match=r"^ARC_GPUS is 3, but torch sees 2 GPUs$"):
        device.spread("tasks.train")
    assert gpus == {"set": []}
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    os.environ["ARC_DEVICE"] = "cuda"
    with pytest.raises(StageError, match=r"^ARC_DEVICE is 'cuda', but torch sees no GPU; unset it to run on the CPU$"):
        device.choose()
    del os.environ["ARC_DEVICE"]
    assert device.choose() == torch.device("cpu")


@pytest.mark.parametrize(("threads", "given", "each"), [(7, None, "3"), (1, None, "1"), (7, "5", "5")])
def test_processes_share_the_threads_and_inherit_the_locks(
    gpus: dict[str, Any], monkeypatch: pytest.MonkeyPatch, threads: int, given: str | None, each: str
) -> None:
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    os.environ["ARC_GPUS"] = "2"
    if given:
        os.environ["OMP_NUM_THREADS"] = given
    device.spread("tasks.train", "x", others=["--nnodes", "2"])
    assert gpus["all"] == ["cuda:0", "cuda:1"]
    assert gpus["kept"]
    torchrun = ["-m", "torch.distributed.run", "--nnodes", "2", "--nproc-per-node", "2", "-m", "tasks.train", "x"]
    assert gpus["ran"] == [sys.executable, *torchrun]
    assert os.environ["OMP_NUM_THREADS"] == each
