"""Several GPUs at one training: each worker takes its share of the micro-batches of every update.

An update of A micro-batches is the same whether one GPU takes them one after another or A GPUs take one each: the same
examples, draws and sum of gradients, so the loss curve is that of one GPU. One sum of all gradients an update does what
DistributedDataParallel's hooks would, and leaves the two halves of the update recorded.
"""

import os

import torch
from torch import Tensor, distributed


class Workers:
    """The workers of one training, of which this process is number `rank` of `count`; alone where torchrun is not."""

    def __init__(self) -> None:
        self.rank, self.count = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
        if self.count > 1 and not distributed.is_initialized():
            backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
            distributed.init_process_group(backend)

    def mine(self, micro_batches: int) -> range:
        """The micro-batches of an update that are this worker's. Raises ValueError where they cannot be shared."""
        if micro_batches % self.count:
            raise ValueError(
                f"train.accumulation is {micro_batches}, but {self.count} GPUs share the micro-batches of an update; "
                f"set it to a multiple of {self.count}, and train.batch to a part of the batch accordingly"
            )
        return range(self.rank, micro_batches, self.count)

    def add(self, tensor: Tensor) -> None:
        """Replace by the sum over all workers."""
        if self.count > 1:
            distributed.all_reduce(tensor)

    def any(self, *flags: bool) -> tuple[bool, ...]:
        """Each true if it is at any worker; on the CPU, so that no GPU waits."""
        if self.count == 1:
            return flags
        votes = torch.tensor(flags, dtype=torch.int32)
        distributed.all_reduce(votes)
        return tuple(bool(vote) for vote in votes.tolist())

    def wait(self) -> None:
        """Until all are here."""
        if self.count > 1:
            self.any(True)
