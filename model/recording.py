"""A function on the GPU recorded once as a CUDA graph and replayed: the device no longer waits for Python."""

from collections.abc import Callable, Hashable
from typing import Any, NamedTuple

import torch
from torch import Tensor

_WARM_UP = 3


class _Recording(NamedTuple):
    graph: torch.cuda.CUDAGraph
    inputs: tuple[Tensor, ...]
    results: Any


class Recorded:
    """`function(*tensors, *static)` with tensors of fixed shapes from the host; one graph for each `static`.

    Results lie in memory of the graph: they hold until the next call with the same `static`.
    """

    def __init__(self, function: Callable[..., Any]) -> None:
        self.function = function
        self.recordings: dict[Hashable, _Recording] = {}

    def __call__(self, *arguments: Any) -> Any:
        """Copy the tensors to the device and replay, without waiting for the device."""
        tensors = tuple(a for a in arguments if isinstance(a, Tensor))
        static = arguments[len(tensors) :]
        recording = self.recordings.get(static)
        if recording is None:
            recording = self.recordings[static] = self._record(tensors, static)
        for tensor, target in zip(tensors, recording.inputs, strict=True):
            # The caching host allocator keeps the pinned copy until the device has read it.
            target.copy_(tensor.pin_memory(), non_blocking=True)
        recording.graph.replay()
        return recording.results

    def _record(self, tensors: tuple[Tensor, ...], static: tuple[Hashable, ...]) -> _Recording:
        inputs = tuple(t.cuda() for t in tensors)
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(
                _WARM_UP
            ):  # Compiles, and lets libraries allocate what may not be allocated while recording.
                self.function(*inputs, *static)
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            results = self.function(*inputs, *static)
        return _Recording(graph, inputs, results)
