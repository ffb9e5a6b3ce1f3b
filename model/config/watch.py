"""What a training does about its own faults. It decides no result: a training that is stopped has none."""

from typing import Annotated, Literal

from pydantic import Field

from model.config.base import Frozen

Then = Literal["stop", "go-on"]
"""go-on: say it in the log and in MLflow, and train."""


class Divergence(Frozen):
    """A loss that rises far above what it was. One that is not finite stops a training always."""

    factor: Annotated[float, Field(gt=1)]
    """A row of the history diverges if its loss is more than this many times the running median."""
    rows: Annotated[int, Field(ge=3, le=10**6)]
    """The median is of so many rows before; earlier rows are compared with nothing."""
    then: Then


class Stall(Frozen):
    """No update for some time."""

    seconds: Annotated[float, Field(gt=0, le=10**9)]
    """Since the last update, without the time in which a candidate is saved and scored."""
    then: Then
    """A training that is stopped here resumes from its last save."""


class Watch(Frozen):
    """How a training watches itself."""

    divergence: Divergence
    stall: Stall
    out_of_memory: Literal["halve", "stop"]
    """halve: once, go on from the last save with half the micro-batch and twice the accumulation."""
