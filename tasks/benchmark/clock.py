"""Time and rates on a device."""

import time
from typing import Any, NamedTuple

import numpy as np
import torch


class ProductRates(NamedTuple):
    """FLOP/s of a large square product: bf16 on a GPU, fp32 on a CPU, random values."""

    single: float
    """Of one product after another, each waited for."""
    sustained: float
    """Of products without a pause, in the median of `seconds`: less, since the power of a GPU is limited."""


def product_rates(device: torch.device, seconds: float = 8.0) -> ProductRates:
    """Measure both."""
    side, dtype = (8192, torch.bfloat16) if device.type == "cuda" else (2048, torch.float32)
    a, b = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))
    single = timed(lambda: a @ b, device, 20)

    def several() -> None:
        for _ in range(10):
            a @ b

    sustained = timed(several, device, max(1, round(seconds / (10 * single)))) / 10
    return ProductRates(2 * side**3 / single, 2 * side**3 / sustained)


def timed(work: Any, device: torch.device, repeats: int) -> float:
    """Median seconds of one call after three warm-up calls; synchronises the device after every call."""
    seconds = []
    for i in range(repeats + 3):
        started = time.perf_counter()
        work()
        if device.type == "cuda":
            torch.cuda.synchronize()
        if i >= 3:
            seconds.append(time.perf_counter() - started)
    return float(np.median(seconds))


def synchronize(device: torch.device) -> None:
    """Wait for the device."""
    if device.type == "cuda":
        torch.cuda.synchronize()


def attention_kernel(device: torch.device) -> str:
    """Name of the attention kernel of the device."""
    if device.type == "cpu":
        return "scaled-dot-product in buckets"
    from model.ops.flash import kernel_name

    return kernel_name(device)


def show_profile(work: Any, device: torch.device, calls: int = 4) -> None:
    """Print the time per operator of the calls."""
    kinds = [torch.profiler.ProfilerActivity.CPU]
    if device.type == "cuda":
        kinds = [torch.profiler.ProfilerActivity.CUDA]
    with torch.profiler.profile(activities=kinds) as profiler:
        for _ in range(calls):
            work()
        synchronize(device)
    order = "self_cuda_time_total" if device.type == "cuda" else "self_cpu_time_total"
    print(profiler.key_averages().table(sort_by=order, row_limit=120, max_name_column_width=90))
