"""A function on the GPU recorded once as a CUDA graph and replayed: the device no longer waits for Python."""

import itertools
from collections.abc import Callable, Hashable
from typing import Any, NamedTuple

import torch
from torch import Tensor

_ALIGNED = 16
"""Bytes."""


class _Recording(NamedTuple):
    graph: torch.cuda.CUDAGraph
    inputs: Tensor
    """All of them, uint8, as `_together` lays them out."""


class Recorded:
    """`function(*tensors, *static)`, which changes tensors in place; one graph for each `static`, recorded at need.

    The first call of a `static` runs the function as it is, so that everything it makes lazily exists; the second
    records, and every later one copies the tensors, of fixed shapes, to the device and replays without waiting.
    """

    def __init__(self, function: Callable[..., None]) -> None:
        self.function = function
        self.called: set[Hashable] = set()
        self.recordings: dict[Hashable, _Recording] = {}

    def __call__(self, *arguments: Any) -> None:
        """Do what the function does."""
        tensors = tuple(a for a in arguments if isinstance(a, Tensor))
        static = arguments[len(tensors) :]
        if static not in self.called:
            self.called.add(static)
            side = torch.cuda.Stream()  # type: ignore[no-untyped-call]
            side.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(side):
                self.function(*(t.cuda() for t in tensors), *static)
            torch.cuda.current_stream().wait_stream(side)
            return
        if static not in self.recordings:
            self.recordings[static] = self._record(tensors, static)
        recording = self.recordings[static]
        if tensors:  # The caching host allocator keeps the pinned copy until the device has read it.
            recording.inputs.copy_(_together(tensors, pin_memory=True)[0], non_blocking=True)
        recording.graph.replay()

    def _record(self, tensors: tuple[Tensor, ...], static: tuple[Hashable, ...]) -> _Recording:
        whole, inputs = _together(tensors, device="cuda")
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):  # Recording runs nothing: the caller replays at once.
            self.function(*inputs, *static)
        return _Recording(graph, whole)


def _together(tensors: tuple[Tensor, ...], **where: Any) -> tuple[Tensor, list[Tensor]]:
    """Copies of the tensors in one buffer, and the buffer, so that they travel at once."""
    *starts, end = itertools.accumulate((-(-t.nbytes // _ALIGNED) * _ALIGNED for t in tensors), initial=0)
    whole = torch.empty(end, dtype=torch.uint8, **where)
    copies = []
    for tensor, start in zip(tensors, starts, strict=True):
        copies.append(whole[start : start + tensor.nbytes].view(tensor.dtype).view(tensor.shape))
        copies[-1].copy_(tensor)
    return whole, copies
