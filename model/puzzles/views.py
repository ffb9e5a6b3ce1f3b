"""Which views of each task are trained on and vote: the augmentation schemes (version ledger 2.5 and 3)."""

import numpy as np

from model.config.experiment import Augment
from model.puzzles.arrays import Ints, Views
from model.puzzles.symmetry import COMPOSE, D4, colour_cycle

_CYCLES = 9


def voting_seed(conditioning: str, seed: int) -> int:
    """Of the voting views; those of the training, 2 * `seed`, where only the views trained on have an embedding."""
    return 2 * seed if conditioning == "augmented-task" else 2 * seed + 1


def make_views(config: Augment, counts: Ints, seed: int) -> Views:
    """`counts` (tasks,) views for every task, the identity first: the first of an endless list of (seed, task)."""
    return join([_task_views(config, int(n), np.array([seed, task])) for task, n in enumerate(counts)])


def join(parts: list[tuple[Ints, Ints, Ints]]) -> Views:
    """Views from each task's elements (n,), colour maps (n, 10) and cycles (n,)."""
    count = np.array([len(element) for element, _, _ in parts], dtype=np.int64)
    element, colours, cycle = (np.concatenate(column) for column in zip(*parts, strict=True))
    return Views(count.cumsum() - count, count, element, colours.astype(np.uint8), cycle)


def _task_views(config: Augment, count: int, key: Ints) -> tuple[Ints, Ints, Ints]:
    draws = np.random.Generator(np.random.Philox(key=key.astype(np.uint64)))
    if config.scheme == "permutations":
        return _permutations(count, draws)
    if config.scheme == "all":
        # Every D4 element first, then the next cycle: the first n views are as varied as n views can be.
        element, cycle = np.arange(count) % D4, np.arange(count) // D4
    else:
        element, cycle = _lab_draws(count, draws)
    return element, np.stack([colour_cycle(int(c)) for c in cycle]), cycle


def _permutations(count: int, draws: np.random.Generator) -> tuple[Ints, Ints, Ints]:
    """All D4 elements in turn, each time with a new random permutation of colours 1-9; the first eight keep colours."""
    element = np.arange(count) % D4
    blocks = -(-count // D4)
    maps = np.concatenate(
        [
            np.zeros((blocks, 1), dtype=np.int64),
            draws.permuted(np.tile(np.arange(1, 10), (blocks, 1)), axis=1),
        ],
        1,
    )
    maps[0] = np.arange(10)
    return element, maps[np.arange(count) // D4], np.full(count, -1)


def _lab_draws(count: int, draws: np.random.Generator) -> tuple[Ints, Ints]:
    """The lab's draws before v3: flip (none twice as likely), then rotation, then cycle; identities are redrawn."""
    elements, cycles = [0], [0]
    while len(elements) < count:
        flip, rotation, cycle = (int(draws.integers(n)) for n in (4, 4, _CYCLES))
        element = int(COMPOSE[(0, 0, 4, 5)[flip], rotation])
        if element or cycle:
            elements.append(element)
            cycles.append(cycle)
    return np.array(elements), np.array(cycles)
