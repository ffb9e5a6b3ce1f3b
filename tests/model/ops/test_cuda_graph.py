"""Works side by side: what waits for what, on a GPU that is made up."""

import contextlib
from collections.abc import Iterator
from typing import Any

import pytest
import torch

from model.ops.cuda_graph import concurrently


class Stream:
    """A stream that knows what it has waited for."""

    def __init__(self, name: str) -> None:
        self.name, self.waited = name, list[str]()

    def wait_stream(self, other: "Stream") -> None:
        self.waited.append(other.name)


@pytest.fixture
def streams(monkeypatch: pytest.MonkeyPatch) -> list[Stream]:
    """The current stream, then those made since; the last one that is used lies at the end of `used`."""
    made = [Stream("current")]

    @contextlib.contextmanager
    def using(stream: Stream) -> Iterator[None]:
        USED.append(stream.name)
        yield
        USED.append("current")

    def new(_: Any) -> Stream:
        made.append(Stream(f"side {len(made)}"))
        return made[-1]

    USED[:] = ["current"]
    monkeypatch.setattr(torch.cuda, "current_stream", lambda _: made[0])
    monkeypatch.setattr(torch.cuda, "Stream", new)
    monkeypatch.setattr(torch.cuda, "stream", using)
    return made


USED: list[str] = []
GPU = torch.device("cuda")


def test_each_function_has_a_stream_that_waits_for_what_came_before_and_is_waited_for(streams: list[Stream]) -> None:
    done: list[str] = []
    concurrently(GPU, [lambda: done.append(USED[-1])] * 3)
    assert done == ["side 1", "side 2", "side 3"]
    assert [stream.waited for stream in streams] == [done, *[["current"]] * 3]


def test_streams_join_also_where_a_function_fails(streams: list[Stream]) -> None:
    def fails() -> None:
        raise torch.OutOfMemoryError("no memory")

    done: list[str] = []
    with pytest.raises(torch.OutOfMemoryError):
        concurrently(GPU, [lambda: done.append("first"), fails, lambda: done.append("third")])
    assert done == ["first"]
    assert streams[0].waited == ["side 1", "side 2", "side 3"]
    assert all(stream.waited == ["current"] for stream in streams[1:])


def test_on_a_cpu_functions_follow_each_other(streams: list[Stream]) -> None:
    done: list[int] = []
    concurrently(torch.device("cpu"), [lambda: done.append(1), lambda: done.append(2)])
    assert (done, len(streams)) == ([1, 2], 1)
