"""Recording a function as a CUDA graph and replaying it, so that the GPU does not wait for Python; and streams."""

import itertools
from collections.abc import Callable, Hashable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

_ALIGNMENT = 16
"""Bytes."""


class _Recording(NamedTuple):
    graph: torch.cuda.CUDAGraph
    inputs: Tensor
    """All input tensors in one buffer, uint8 (bytes,), as `_pack_together` lays them out."""


class GraphedFunction:
    """`function(*tensors, *static)`, which updates tensors in place and returns nothing, replayed as a CUDA graph.

    `tensors` have fixed shapes and dtypes; `static` are hashable arguments, and each combination has a graph of its
    own. The first call with a combination runs the function eagerly, to warm up whatever it initialises lazily; the
    second records the graph. That call and all later ones copy the tensors to the GPU and replay the graph, without
    synchronising.
    """

    def __init__(self, function: Callable[..., None]) -> None:
        self.function = function
        self.called: set[Hashable] = set()
        self.recordings: dict[Hashable, _Recording] = {}

    def __call__(self, *arguments: Any) -> None:
        """Apply the function."""
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
        if tensors:  # The caching host allocator keeps the pinned copy until the GPU has read it.
            recording.inputs.copy_(_pack_together(tensors, pin_memory=True)[0], non_blocking=True)
        recording.graph.replay()

    def _record(self, tensors: tuple[Tensor, ...], static: tuple[Hashable, ...]) -> _Recording:
        buffer, inputs = _pack_together(tensors, device="cuda")
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):  # Recording executes no kernel: the caller replays.
            self.function(*inputs, *static)
        return _Recording(graph, buffer)


def concurrently(device: torch.device, functions: Sequence[Callable[[], None]]) -> None:
    """Call functions that do not depend on each other.

    On a GPU each has a stream of its own, recorded or not, so that kernels that do not fill the GPU run side by side.
    """
    if device.type != "cuda":
        for function in functions:
            function()
        return
    current = torch.cuda.current_stream(device)
    streams = [torch.cuda.Stream(device) for _ in functions]  # type: ignore[no-untyped-call]
    for stream in streams:
        stream.wait_stream(current)
    try:
        for stream, function in zip(streams, functions, strict=True):
            with torch.cuda.stream(stream):
                function()
    finally:  # A recording that ends before they have joined again breaks the allocator, and a smaller batch is next.
        for stream in streams:
            current.wait_stream(stream)


def _pack_together(tensors: tuple[Tensor, ...], **options: Any) -> tuple[Tensor, list[Tensor]]:
    """Copy the tensors into one buffer, uint8 (bytes,), for a single transfer; returns the buffer and views of it."""
    *starts, end = itertools.accumulate((-(-t.nbytes // _ALIGNMENT) * _ALIGNMENT for t in tensors), initial=0)
    buffer = torch.empty(end, dtype=torch.uint8, **options)
    copies = []
    for tensor, start in zip(tensors, starts, strict=True):
        copies.append(buffer[start : start + tensor.nbytes].view(tensor.dtype).view(tensor.shape))
        copies[-1].copy_(tensor)
    return buffer, copies
