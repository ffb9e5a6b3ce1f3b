"""Requests for every combination of experiments, values of overrides and seeds."""

import itertools
from collections.abc import Iterator, Sequence
from typing import cast, get_args

from flows.runs.places import FlowError
from flows.runs.request import Machine, Priority, Request


def requests(
    experiments: Sequence[str], overrides: Sequence[str], seeds: str, priority: str, machine: str = "any"
) -> list[Request]:
    """A request for each combination, in the order of the arguments; the seeds of one setting follow each other.

    `overrides` are KEY=VALUE, or KEY=VALUE,VALUE for several; commas in brackets, braces and quotes are part of a
    value. `seeds` are integers such as 0,1. Raises FlowError and ConfigurationError.
    """
    if priority not in get_args(Priority):
        raise FlowError(f"--priority is {priority!r}; allowed are {' and '.join(get_args(Priority))}")
    if machine not in get_args(Machine):
        raise FlowError(f"--on is {machine!r}; allowed are {', '.join(get_args(Machine))}")
    kind = {"machine": cast("Machine", machine)}
    try:
        numbers = [int(seed) for seed in seeds.split(",")]
    except ValueError:
        raise FlowError(f"{seeds!r} is not a list of integers; write seeds like 0,1") from None
    combinations = itertools.product(*(list(values(override)) for override in overrides))
    return [
        Request.of(name, seed, list(chosen), cast("Priority", priority)).model_copy(update=kind)
        for name, chosen, seed in itertools.product(experiments, combinations, numbers)
    ]


def values(override: str) -> Iterator[str]:
    """KEY=VALUE for every value of KEY=VALUE,VALUE,...; the override itself where it has one value."""
    key, equals, text = override.partition("=")
    depth, quote, part = 0, "", ""
    for character in text:
        if quote:
            quote = "" if character == quote else quote
        elif character in "\"'":
            quote = character
        elif character in "[{":
            depth += 1
        elif character in "]}":
            depth -= 1
        elif character == "," and depth == 0:
            yield f"{key}={part}"
            part = ""
            continue
        part += character
    yield f"{key}{equals}{part}"
