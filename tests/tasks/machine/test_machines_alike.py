"""What machines of one training say of themselves, and what a machine gets of the first, message by message."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from model.training import resume_states
from tasks.common.stage import StageError
from tasks.machine import nodes


@pytest.fixture(autouse=True)
def machine(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Says which machine this is."""
    for name in ("ARC_NODES", "ARC_NODE", "ARC_MEETING", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)

    def be(nodes: str, node: str = "", meeting: str = "", local_rank: str | None = None) -> None:
        for name, text in (("ARC_NODES", nodes), ("ARC_NODE", node), ("ARC_MEETING", meeting)):
            monkeypatch.setenv(name, text)
        if local_rank is not None:
            monkeypatch.setenv("LOCAL_RANK", local_rank)

    return be


@pytest.mark.parametrize("text", ["0", "-1", "two", "10000", "1.5", "٣", "²", "x" * 50])
def test_a_number_of_machines_that_is_none_is_named(machine: Any, text: str) -> None:
    machine(text)
    with pytest.raises(StageError) as refused:
        nodes.count()
    assert str(refused.value) == f"ARC_NODES is {text[:40]!r}; allowed is the number of machines of the training"


@pytest.mark.parametrize(("text", "count"), [("", 1), ("1", 1), ("2", 2), ("9999", 9999)])
def test_the_number_of_machines(machine: Any, text: str, count: int) -> None:
    machine(text)
    assert nodes.count() == count
    assert nodes.number() == 0


def test_which_machine_this_is(machine: Any) -> None:
    for number in (0, 1, 2):
        machine("3", str(number))
        assert nodes.number() == number
    machine("3", "3")
    with pytest.raises(StageError, match=r"^ARC_NODE is 3, but ARC_NODES is 3; allowed are 0 to 2$"):
        nodes.number()
    machine("3", "-1")
    with pytest.raises(StageError, match=r"^ARC_NODE is '-1'; allowed is 0 to 2, one less than ARC_NODES$"):
        nodes.number()


@pytest.mark.parametrize(
    ("meeting", "address", "port"),
    [("host:1", "host", "1"), ("a_b-c.d:65535", "a_b-c.d", "65535"), ("[::1]:29500", "::1", "29500")],
)
def test_where_the_machines_meet(machine: Any, meeting: str, address: str, port: str) -> None:
    machine("2", "1", meeting)
    options = ["--nnodes", "2", "--node-rank", "1", "--master-addr", address, "--master-port", port]
    assert nodes.options() == [*options, "--rdzv-conf", "timeout=1800"]


@pytest.mark.parametrize("meeting", ["", "host", "host:", "host:0", "host:65536", "-x:1", "::1:5", "a b:1"])
def test_a_place_that_is_none_is_named(machine: Any, meeting: str) -> None:
    machine("2", "1", meeting)
    with pytest.raises(StageError) as refused:
        nodes.options()
    says = "; allowed is HOST:PORT, where the first of the machines can be reached"
    assert str(refused.value) == f"ARC_MEETING is {meeting!r}{says}"


class Wire:
    """What the first process sends, and every other gets, in this order."""

    def __init__(self) -> None:
        self.sent: list[Any] = []
        self.rank, self.next = 0, 0

    def _pass(self, value: Any) -> Any:
        if self.rank == 0:
            self.sent.append(value)
            return value
        self.next += 1
        return self.sent[self.next - 1]

    def broadcast_object_list(self, objects: list[Any], device: torch.device) -> None:
        assert device == torch.device("cpu")
        objects[:] = self._pass(list(objects))

    def broadcast(self, tensor: torch.Tensor, source: int) -> None:
        assert source == 0
        tensor.copy_(self._pass(tensor.clone()))


@pytest.fixture
def wire(monkeypatch: pytest.MonkeyPatch) -> Wire:
    made = Wire()
    monkeypatch.setattr(nodes, "distributed", made)
    return made


def begin(wire: Wire, rank: int, scratch: Path, differs: bool = False) -> list[Any]:
    """Begin as the process with this rank; the flags that it told the others, and whether it waited."""
    wire.rank, wire.next = rank, 0
    told: list[Any] = []
    workers = SimpleNamespace(
        rank=rank,
        any=lambda *flags: told.append(flags) or tuple(flag or differs for flag in flags),
        wait=lambda: told.append("waited"),
    )
    nodes.begin_alike(workers, scratch)
    return told


def saved(folder: Path, *steps: int) -> list[Path]:
    folder.mkdir(parents=True, exist_ok=True)
    writer = resume_states.Writer(folder, "0" * 64)
    for step in steps:
        writer.save({"w": torch.full((3,), float(step))}, {"step": step})
    writer.wait()
    return sorted(folder.glob("state-*"))


def test_a_machine_gets_the_newest_state_of_the_first_and_loses_its_own(
    machine: Any, wire: Wire, tmp_path: Path
) -> None:
    first, second, third = (tmp_path / name / "key" for name in "abc")
    states = saved(first, 4, 8)
    own = saved(second, 6, 12)
    third.mkdir(parents=True)
    machine("3", "0", local_rank="0")
    assert begin(wire, 0, first) == [(False,), "waited"]
    assert sorted(first.glob("state-*")) == states, "the first keeps its own"
    (second / "other").write_text("x")
    machine("3", "1", local_rank="1")
    assert begin(wire, 3, second) == [(False,), "waited"]
    assert sorted(second.glob("state-*")) == own, "the first process of a machine writes for all"
    machine("3", "1", local_rank="0")
    begin(wire, 2, second)
    machine("3", "2", local_rank="0")
    begin(wire, 4, third)
    for folder in (second, third):
        [got] = folder.glob("state-*")
        assert (got.name, got.read_bytes()) == (states[1].name, states[1].read_bytes())
    assert (second / "other").exists()


def test_where_the_first_has_no_state_nobody_has(machine: Any, wire: Wire, tmp_path: Path) -> None:
    first, second = (tmp_path / name / "key" for name in "ab")
    first.mkdir(parents=True)
    saved(second, 6)
    machine("2", "0", local_rank="0")
    assert begin(wire, 0, first) == [(False,), "waited"]
    machine("2", "1", local_rank="0")
    assert begin(wire, 1, second) == [(False,), "waited"]
    assert list(second.iterdir()) == []
    assert wire.sent == [["key", ""]]


def test_machines_with_other_inputs_are_all_told(machine: Any, wire: Wire, tmp_path: Path) -> None:
    first, second = tmp_path / "one", tmp_path / "two"
    [state] = saved(second, 6)
    machine("2", "0", local_rank="0")
    with pytest.raises(StageError, match="the first has one, machine 0 has one; give all of them the same commit"):
        begin(wire, 0, first, differs=True)
    machine("2", "1", local_rank="0")
    with pytest.raises(StageError) as refused:
        begin(wire, 1, second)
    assert str(refused.value) == (
        "the machines have not the same training: the first has one, machine 1 has two; give all of them the same "
        "commit, parameters and data"
    )
    assert state.exists()


def test_one_machine_sends_nothing_and_its_processes_wait(machine: Any, wire: Wire, tmp_path: Path) -> None:
    machine("1")
    assert begin(wire, 0, tmp_path) == ["waited"]
    assert wire.sent == []


@pytest.mark.parametrize(
    ("node", "local_rank", "stays"), [("0", "0", True), ("1", "0", False), ("2", "0", False), ("1", "1", True)]
)
def test_another_machine_leaves_nothing_behind(
    machine: Any, tmp_path: Path, node: str, local_rank: str, stays: bool
) -> None:
    machine("3", node, local_rank=local_rank)
    saved(tmp_path / "key", 6)
    nodes.leave(tmp_path / "key")
    assert (tmp_path / "key").exists() == stays
    nodes.leave(tmp_path / "key")
