"""The device that ARC_DEVICE names."""

import os
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
