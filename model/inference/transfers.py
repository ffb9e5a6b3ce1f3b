"""Copies between the memory of the CPU and that of the device that do not wait for what the device still has to do."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor


def send(tensor: Tensor, device: torch.device) -> Tensor:
    """The tensor on `device`."""
    if device.type != "cuda":
        return tensor.to(device)
    return tensor.pin_memory().to(device, non_blocking=True)  # The allocator keeps pinned memory until it was read.


def receive(tensors: Sequence[Tensor]) -> Callable[[], list[Tensor]]:
    """Begin to copy the tensors to the CPU; the function waits for the copies, but for nothing begun later."""
    copies = [tensor.to("cpu", non_blocking=True) for tensor in tensors]  # To pinned memory, from a GPU.
    arrived = None
    if any(tensor.is_cuda for tensor in tensors):
        arrived = torch.cuda.Event()  # type: ignore[no-untyped-call]
        arrived.record()

    def wait() -> list[Tensor]:
        if arrived is not None:
            arrived.synchronize()
        return copies

    return wait
