"""Data-parallel training: each worker computes its share of the micro-batches of every update.

An update of A micro-batches is the same whether one GPU computes all of them or A GPUs compute one each: the same
examples, draws and sum of gradients, so the loss curve is that of one GPU. Gradients are summed by one all-reduce for
each update instead of DistributedDataParallel's hooks, so that the computation before and after it can be replayed as
CUDA graphs.
"""

import atexit
import os

import torch
from torch import Tensor, distributed


class Workers:
    """The processes of one training; this one has number `rank` of `count`. Without torchrun, the only one."""

    def __init__(self) -> None:
        self.rank, self.count = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
        if self.count > 1 and not distributed.is_initialized():
            backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
            distributed.init_process_group(backend)
            # A thread of gloo that drops a tensor after Python has ended aborts the process: one exit in four.
            atexit.register(_destroy)

    def mine(self, micro_batches: int) -> range:
        """Indices of this worker's micro-batches. Raises ValueError unless `count` divides their number."""
        if micro_batches % self.count:
            raise ValueError(
                f"train.accumulation is {micro_batches}, but {self.count} GPUs share the micro-batches of an update: "
                f"set it to a multiple of {self.count} and reduce train.batch by the same factor"
            )
        return range(self.rank, micro_batches, self.count)

    def add(self, tensor: Tensor) -> None:
        """Replace a tensor, in place, by its sum over all workers."""
        if self.count > 1:
            distributed.all_reduce(tensor)

    def any(self, *flags: bool) -> tuple[bool, ...]:
        """Whether each flag is true at any worker; exchanged on the CPU, so that no GPU synchronises."""
        if self.count == 1:
            return flags
        votes = torch.tensor(flags, dtype=torch.int32)
        distributed.all_reduce(votes)
        return tuple(bool(vote) for vote in votes.tolist())

    def wait(self) -> None:
        """Block until all workers have called this."""
        if self.count > 1:
            self.any(True)


def _destroy() -> None:
    if distributed.is_initialized():
        distributed.destroy_process_group()
