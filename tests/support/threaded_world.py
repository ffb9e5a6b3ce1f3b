"""Several workers of one training as threads of this process: collectives cost nothing, and no process starts."""

import threading
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import distributed
from torch.testing._internal.distributed import multi_threaded_pg as threaded

from model.ops.process_group import Workers
from model.training import trainer


class _Threads(Workers):
    """Workers of the world that this thread belongs to."""

    def __init__(self) -> None:
        self.rank, self.count = distributed.get_rank(), distributed.get_world_size()


def run(monkeypatch: pytest.MonkeyPatch, count: int, work: Callable[[], Any]) -> list[Any]:
    """Results of `work` at each of `count` workers. Raises what one of them raised."""
    monkeypatch.setattr(trainer, "Workers", _Threads)
    results: list[Any] = [None] * count
    errors: list[BaseException] = []
    store = distributed.HashStore()  # type: ignore[attr-defined]

    def one(rank: int) -> None:
        try:
            distributed.init_process_group("threaded", rank=rank, world_size=count, store=store)
            results[rank] = work()
        except BaseException as error:
            errors.append(error)
            threaded.ProcessLocalGroup.exception_handle(error)  # The others wait for this one.
        finally:
            if distributed.is_initialized():
                distributed.destroy_process_group()

    isolate = torch._C._distributed_c10d._set_thread_isolation_mode  # type: ignore[attr-defined]
    threaded._install_threaded_pg()
    isolate(True)
    try:
        members = [threading.Thread(target=one, args=(rank,), daemon=True) for rank in range(count)]
        for member in members:
            member.start()
        for member in members:
            member.join(60)
    finally:
        threaded.ProcessLocalGroup.reset()
        isolate(False)
        threaded._uninstall_threaded_pg()
    if errors:
        raise errors[0]
    return results
