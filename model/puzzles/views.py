"""Which views of each task are trained on and vote: the augmentation schemes (version ledger 2.5 and 3)."""

from collections.abc import Iterable, Sequence

import numpy as np

from model.config.data import Augment
from model.puzzles.arrays import Ints, Views
from model.puzzles.grids import Grid
from model.puzzles.symmetry import COMPOSE, D4, colour_cycle

_CYCLES = 9


def voting_seed(conditioning: str, seed: int) -> int:
    """Of the voting views; those of the training, 2 * `seed`, where only the views trained on have an embedding."""
    return 2 * seed if conditioning == "augmented-task" else 2 * seed + 1


def make_views(config: Augment, counts: Ints, seed: int, output_only: Sequence[frozenset[int]] | None = None) -> Views:
    """`counts` (tasks,) views for every task, the identity first: the first of an endless list of (seed, task).

    With scheme 'random-draws' a task has a few less, since draws of the identity are left out.
    `output_only` are the `output_only_colours` of every task, needed where the configuration keeps them.
    """
    kept = [frozenset[int]()] * len(counts)
    if config.output_only_colours == "kept":
        if output_only is None or len(output_only) != len(counts):
            raise ValueError("augment.output_only_colours is 'kept', which needs the colours of every task")
        kept = list(output_only)
    return join([_task_views(config, int(n), np.array([seed, task]), kept[task]) for task, n in enumerate(counts)])


def output_only_colours(demonstrations: Iterable[tuple[Grid, Grid]]) -> frozenset[int]:
    """Colours 1-9 that the output of some demonstration (input, output) has and the input of the same one lacks.

    The test input does not determine how a permutation maps such a colour, so the answer would be ambiguous.
    """
    colours: set[int] = set()
    for given, answer in demonstrations:
        colours.update(np.setdiff1d(answer, given).tolist())
    return frozenset(colours) - {0}


def join(parts: list[tuple[Ints, Ints, Ints]]) -> Views:
    """Views from each task's elements (n,), colour maps (n, 10) and cycles (n,)."""
    count = np.array([len(element) for element, _, _ in parts], dtype=np.int64)
    element, colours, cycle = (np.concatenate(column) for column in zip(*parts, strict=True))
    return Views(count.cumsum() - count, count, element, colours.astype(np.uint8), cycle)


def _task_views(config: Augment, count: int, key: Ints, kept: frozenset[int]) -> tuple[Ints, Ints, Ints]:
    draws = np.random.Generator(np.random.Philox(key=key.astype(np.uint64)))
    if config.scheme == "permutations":
        return _permutations(count, draws, kept)
    if config.scheme == "all":
        # Every D4 element first, then the next cycle: the first n views are as varied as n views can be.
        element, cycle = np.arange(count) % D4, np.arange(count) // D4
    else:
        element, cycle = _lab_draws(count, draws)
    return element, np.stack([colour_cycle(int(c)) for c in cycle]), cycle


def _permutations(count: int, draws: np.random.Generator, kept: frozenset[int]) -> tuple[Ints, Ints, Ints]:
    """All D4 elements in turn, each time with a new random permutation of colours 1-9; the first eight keep colours.

    The colours `kept` stay as they are in all of them.
    """
    element = np.arange(count) % D4
    blocks = -(-count // D4)
    permuted = np.array([colour for colour in range(1, 10) if colour not in kept], dtype=np.int64)
    maps = np.tile(np.arange(10), (blocks, 1))
    maps[:, permuted] = draws.permuted(np.tile(permuted, (blocks, 1)), axis=1)
    maps[0] = np.arange(10)
    return element, maps[np.arange(count) // D4], np.full(count, -1)


def _lab_draws(count: int, draws: np.random.Generator) -> tuple[Ints, Ints]:
    """The identity and the lab's `count` - 1 draws before v3: flip (none twice as likely), then rotation, then cycle.

    A draw that is the identity again is left out, about one in 72 (1dcf7c27, dataset:175): there may be fewer views.
    """
    elements, cycles = [0], [0]
    for _ in range(count - 1):
        flip, rotation, cycle = (int(draws.integers(n)) for n in (4, 4, _CYCLES))
        element = int(COMPOSE[(0, 0, 4, 5)[flip], rotation])
        if element or cycle:
            elements.append(element)
            cycles.append(cycle)
    return np.array(elements), np.array(cycles)
