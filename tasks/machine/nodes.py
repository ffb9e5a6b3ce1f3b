"""One training over several machines: where they meet, and that they begin alike.

ARC_NODES is their number, ARC_NODE the number of this one from 0, and ARC_MEETING is HOST:PORT of the first, which
alone saves and writes the outputs. torchrun's meeting place has no secret: use it in a network that you trust.
"""

import os
import re
import shutil
from pathlib import Path

import torch
from torch import distributed

from model.ops.process_group import Workers
from model.storage.atomic import write_bytes
from model.training import resume_states
from tasks.common.stage import StageError

NODES, NODE, MEETING = "ARC_NODES", "ARC_NODE", "ARC_MEETING"
WAIT_SECONDS = 1800
"""In which all machines must have come."""
_MEETING = re.compile(r"([A-Za-z0-9_][A-Za-z0-9_.-]*|\[[0-9a-fA-F:]+\]):([0-9]{1,5})")


def count() -> int:
    """The number of machines. Raises StageError."""
    return _number(NODES, "1", 1, "the number of machines of the training")


def number() -> int:
    """Which of the machines this one is. Raises StageError."""
    index = _number(NODE, "0", 0, f"0 to {count() - 1}, one less than {NODES}")
    if index >= count():
        raise StageError(f"{NODE} is {index}, but {NODES} is {count()}; allowed are 0 to {count() - 1}")
    return index


def options() -> list[str]:
    """The options by which torchrun finds the other machines; none if there are none. Raises StageError."""
    if count() == 1:
        return []
    machines = ["--nnodes", str(count()), "--node-rank", str(number())]
    host, port = meeting(os.environ.get(MEETING) or "", MEETING)
    where = ["--master-addr", host, "--master-port", port]
    return [*machines, *where, "--rdzv-conf", f"timeout={WAIT_SECONDS}"]


def meeting(text: str, name: str) -> tuple[str, str]:
    """Host and port of HOST:PORT, given by the option or the variable `name`. Raises StageError."""
    match = _MEETING.fullmatch(text)
    if match is None or not 0 < int(match[2]) < 2**16:
        raise StageError(f"{name} is {text!r}; allowed is HOST:PORT, where the first of the machines can be reached")
    return match[1].strip("[]"), match[2]


def begin_alike(workers: Workers, scratch: Path) -> None:
    """Give every machine the first one's resume state, or none. Raises StageError where their inputs differ.

    `scratch` is named by the digest of everything that decides the outcome of the training.
    """
    if count() > 1:
        state = resume_states.newest(scratch) if workers.rank == 0 else None
        first = [scratch.name, state.name if state else ""]
        distributed.broadcast_object_list(first, device=torch.device("cpu"))
        (differs,) = workers.any(scratch.name != first[0])
        if differs:
            raise StageError(
                f"the machines have not the same training: the first has {first[0]}, machine {number()} has "
                f"{scratch.name}; give all of them the same commit, parameters and data"
            )
        _copy_state(workers, scratch, first[1])
    workers.wait()


def leave(scratch: Path) -> None:
    """Remove what a machine other than the first needed for the training."""
    if number() > 0 and os.environ.get("LOCAL_RANK") == "0":
        shutil.rmtree(scratch, ignore_errors=True)


def _copy_state(workers: Workers, scratch: Path, name: str) -> None:
    writes = number() > 0 and os.environ.get("LOCAL_RANK") == "0"
    if writes:
        for path in scratch.glob("state-*"):
            path.unlink()
    if not name:
        return
    content = bytearray((scratch / name).read_bytes()) if workers.rank == 0 else bytearray()
    size = torch.tensor(len(content))
    distributed.broadcast(size, 0)
    tensor = torch.frombuffer(content, dtype=torch.uint8) if content else torch.empty(int(size), dtype=torch.uint8)
    distributed.broadcast(tensor, 0)
    if writes:
        write_bytes(scratch / name, tensor.numpy().tobytes())


def _number(name: str, default: str, least: int, allowed: str) -> int:
    text = os.environ.get(name) or default
    if not (text.isascii() and text.isdecimal() and len(text) <= 4 and int(text) >= least):
        raise StageError(f"{name} is {text[:40]!r}; allowed is {allowed}")
    return int(text)
