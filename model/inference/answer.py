"""What a view answers to a test input, and answers that fail."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from model.puzzles.grids import Grid


class Answer(NamedTuple):
    """One view's answer to one test input, in the task's own frame and colours."""

    pair: int
    """Row of the dataset's pairs."""
    view: int
    """Which of its task's views, 0 the identity."""
    attempt: int
    grid: Grid
    size_log_probability: float
    """Of the size that this view answers at."""
    confidence: float
    """Mean probability of the likeliest colours at the last step."""
    change: NDArray[np.float32]
    confidences: NDArray[np.float32]
    entropy: NDArray[np.float32]
    """(steps,) each: see denoising.Denoised."""
    last_changed_step: int
    """The step after which no cell changed any more, 0 if none ever did."""
    frames: tuple[Grid, ...]
    """Grids along the denoising; only of view 0."""
    log_likelihoods: NDArray[np.float32] | None = None
    """(views, levels): log-likelihoods of the grid, see likelihood.py; only where it is ranked, at its first answer."""


class Failure(NamedTuple):
    """An answer that failed."""

    pair: int
    view: int
    attempt: int
    message: str
