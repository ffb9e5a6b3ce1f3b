"""What a random draw is for: the part of its key that keeps draws with otherwise equal keys independent.

The values are part of every published result: never change or reuse one, only add new ones.
"""

from enum import IntEnum, unique


@unique
class TrainingDraw(IntEnum):
    """Draws for one batch; the key before it stands for (seed, step, micro-batch)."""

    LEVEL = 0
    """Noise level of a sequence."""
    KEEP = 1
    """Whether forward noising keeps a cell's colour."""
    REPLACEMENT = 2
    """The colour it gets otherwise."""
    HIDE_INPUT = 3
    """Whether a sequence's input grid is hidden (input-grid dropout)."""
    BLEND_SHARE = 4
    """Share of a sequence's cells taken from the estimate, under self-conditioning by blending."""
    BLEND_CELL = 5
    """Whether a cell is one of them."""
    REVERSE_STEP = 6
    """A cell's colour after a reverse step."""
    PIXEL_NOISE = 7
    """Whether an example's input grid is perturbed."""
    PIXEL_NOISE_CELL = 8
    """The order in which its cells are chosen."""
    PIXEL_NOISE_COLOUR = 9
    """The colour a chosen cell gets."""
    RENOISE_KEEP = 17
    """As KEEP, for noising the blended grid."""
    RENOISE_REPLACEMENT = 18
    """As REPLACEMENT, for noising the blended grid."""
    DROPOUT = 32
    """Seeds of the dropout masks."""


@unique
class ProbeDraw(IntEnum):
    """Draws for a batch of probes or validation, named as those of TrainingDraw."""

    LEVEL = 100
    KEEP = 101
    REPLACEMENT = 102
    REVERSE_STEP = 103
    BLEND_SHARE = 104
    BLEND_CELL = 105


@unique
class DenoisingDraw(IntEnum):
    """Draws of a sampler; the key before it stands for (seed, task, test, view, attempt)."""

    START = 0
    """A cell's colour in the initial grid of pure noise."""
    CATEGORICAL = 1
    """A cell's colour at the next level, from the distribution that the sampler gives."""
    RENOISE = 2
    """The colour of a cell that confidence-based remasking returns to noise."""


VALIDATION_STEP = 1 << 30
"""Stands in a key where an update has its step number: draws of the validation pairs."""


@unique
class LikelihoodDraw(IntEnum):
    """Draws that make noisy versions of candidates; the key before it stands for (seed, task, test, view, 0)."""

    KEEP = 200
    """Whether forward noising keeps a cell's colour."""
    REPLACEMENT = 201
    """The colour it gets otherwise."""


LAST_CHUNK = 1 << 39
"""First chunk number of the last batches, where these are drawn with other weights than those before."""
STEP_MODE_CHUNK = 1 << 40
"""First of the keys at which the mode of each update is drawn, where the stream of batches has its chunk number."""
