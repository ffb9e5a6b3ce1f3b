"""Which device the stages use, and what must be set before they do."""

import os

import torch

from tasks.gpu_lock import take
from tasks.stage import StageError


def choose() -> torch.device:
    """ARC_DEVICE if set ('cpu', 'cuda', 'cuda:1'), else the first free GPU if there is one; waits for its lock.

    The CPU is made deterministic.
    """
    wanted = os.environ.get("ARC_DEVICE") or ("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(wanted)
    except RuntimeError as error:
        raise StageError(f"ARC_DEVICE is {wanted!r}; allowed are 'cpu', 'cuda' and 'cuda:N'") from error
    if device.type == "cuda" and not torch.cuda.is_available():
        raise StageError(f"ARC_DEVICE is {wanted!r}, but torch sees no GPU; unset it to run on the CPU")
    if device.type == "cpu":
        torch.use_deterministic_algorithms(True)
    if device.type == "cuda":
        rank = os.environ.get("LOCAL_RANK")  # Set by torchrun: every process locks the GPU that is its own.
        index = device.index if rank is None else int(rank)
        indices = range(torch.cuda.device_count()) if index is None else [index]
        device = take([torch.device("cuda", index) for index in indices])
        torch.cuda.set_device(device)
        return device
    return take([device])
