"""Chooses the device of a stage and configures torch and glibc for it."""

import ctypes
import os
import platform
import sys
from collections.abc import Sequence

import torch

from tasks.common.stage import StageError
from tasks.machine.gpu_lock import keep_across_exec, take, take_all

_MMAP_THRESHOLD, _TRIM_THRESHOLD = -3, -1
"""Options of mallopt(3)."""


def processes() -> int:
    """The number that ARC_GPUS asks for: GPUs, or processes on a CPU, of a stage. Raises StageError."""
    setting = os.environ.get("ARC_GPUS") or "1"
    if not setting.isdecimal() or int(setting) < 1:
        raise StageError(f"ARC_GPUS is {setting!r}; allowed is the number of GPUs (or processes, on a CPU) of a stage")
    return int(setting)


def spread(module: str, *arguments: str, others: Sequence[str] = ()) -> None:
    """Replace this process by torchrun with ARC_GPUS processes of `module`, unless it is one of them already.

    `others` are torchrun's options that name other machines, which start processes of the same training.
    """
    count = processes()
    if (count == 1 and not others) or "RANK" in os.environ:
        return
    if torch.cuda.is_available() and count > torch.cuda.device_count():
        raise StageError(f"ARC_GPUS is {count}, but torch sees {torch.cuda.device_count()} GPUs")
    if torch.cuda.is_available():
        take_all([torch.device("cuda", index) for index in range(count)])
    where = others or ["--standalone"]
    run = ["-m", "torch.distributed.run", *where, "--nproc-per-node", str(count), "-m", module, *arguments]
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, torch.get_num_threads() // count)))
    sys.stdout.flush()
    keep_across_exec()
    os.execv(sys.executable, [sys.executable, *run])


def sharded() -> bool:
    """Whether ARC_SHARD asks to shard the training over the GPUs of ARC_GPUS."""
    setting = os.environ.get("ARC_SHARD") or "0"
    if setting not in ("0", "1"):
        raise StageError(f"ARC_SHARD is {setting!r}; allowed are '0' and '1'")
    return setting == "1"


def choose() -> torch.device:
    """ARC_DEVICE if set ('cpu', 'cuda', 'cuda:1'), else the first free GPU if there is one; waits for its lock.

    On a CPU it also makes torch deterministic and keeps freed memory for the next update.
    """
    setting = os.environ.get("ARC_DEVICE") or ("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(setting)
    except RuntimeError as error:
        raise StageError(f"ARC_DEVICE is {setting!r}; allowed are 'cpu', 'cuda' and 'cuda:N'") from error
    if device.type not in ("cpu", "cuda"):
        raise StageError(f"ARC_DEVICE is {setting!r}; allowed are 'cpu', 'cuda' and 'cuda:N'")
    if device.type == "cuda" and not torch.cuda.is_available():
        raise StageError(f"ARC_DEVICE is {setting!r}, but torch sees no GPU; unset it to run on the CPU")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise StageError(f"ARC_DEVICE is {setting!r}, but torch sees {torch.cuda.device_count()} GPUs, from cuda:0 on")
    if device.type == "cpu":
        # Not `use_deterministic_algorithms`, which imports the compiler: a second of every start (`compilation`).
        torch.set_deterministic_debug_mode("error")
        # No memory is read before it is written, and filling it took 5 % of a training. The tests keep the filling on.
        torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
        _keep_memory()
    if device.type == "cuda":
        if (rank := os.environ.get("LOCAL_RANK")) is not None:  # Set by torchrun, which holds the locks.
            device = torch.device("cuda", int(rank))
        else:
            indices = range(torch.cuda.device_count()) if device.index is None else [device.index]
            device = take([torch.device("cuda", index) for index in indices])
        torch.cuda.set_device(device)
        return device
    return take([device])


def _keep_memory() -> None:
    """Make glibc keep freed blocks; else the kernel clears them anew, which takes 3 % of a training."""
    if platform.libc_ver()[0] == "glibc":
        for option, value in ((_MMAP_THRESHOLD, 32 << 20), (_TRIM_THRESHOLD, 1 << 30)):
            if not ctypes.CDLL(None).mallopt(option, value):
                raise StageError(f"glibc's mallopt refuses {value} for option {option}")
