"""Answering test inputs with a checkpoint: sizes of every view, then denoising in packed batches under a row budget.

A batch that raises is bisected down to the answers that fail: failures are reported, the rest are kept.
"""

import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from typing import NamedTuple, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from model.config.evaluation import Evaluation, SizeRule, TaskRow
from model.diffusion.schedule import Levels, cosine_schedule, levels
from model.inference.denoising import denoise
from model.inference.sizes import assign_sizes
from model.network.denoiser import Denoiser
from model.network.device_data import DeviceData, to_device
from model.network.packing import Packed, pack, pad_to_budget
from model.ops import compilation
from model.ops.keyed_random import hash_key
from model.puzzles.arrays import Dataset, Ints
from model.puzzles.grids import Grid, Size
from model.puzzles.symmetry import SWAP, inverse_colours
from model.storage.checkpoints import Description

ROWS = {"cpu": 8192, "cuda": 262144}
"""Context and target rows of a batch, which bound its memory."""
MOST_FAILURES = 64
"""Answers that may fail; with more the fault is not theirs, and the last error is raised."""

Result = TypeVar("Result")


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


class Failure(NamedTuple):
    """An answer that failed."""

    pair: int
    view: int
    attempt: int
    message: str


@dataclass(frozen=True)
class Predictor:
    """A checkpoint that answers a dataset whose pairs are test inputs."""

    network: Denoiser
    description: Description
    dataset: Dataset
    names: list[str]
    """Task ids by the dataset's task index."""
    seed: int
    device: torch.device
    agreed: Mapping[int, Size] = field(default_factory=dict)
    """Sizes that the demonstrations agree on, by row of the pairs; used where Evaluation.sizes is 'rule'."""

    def answer(
        self,
        config: Evaluation,
        on_progress: Callable[[float], None] = lambda _: None,
        failures: list[Failure] | None = None,
    ) -> Iterator[Answer]:
        """Answers to every pair, in batches of like length; `on_progress` receives the share done.

        An answer that raises is added to `failures`; without such a list the error is raised.
        """
        available = self.dataset.views.count[self.dataset.pairs.task]
        queries = [
            (pair, view) for pair in range(len(available)) for view in range(min(config.views, int(available[pair])))
        ]
        failed: dict[int, str] | None = None if failures is None else {}
        scores = self._sizes(queries, failed, config.task_row)
        chosen = [self._chosen_sizes(queries, scores, config, attempt) for attempt in range(config.attempts)]
        work = [(i, attempt) for i in range(len(queries)) for attempt, sizes in enumerate(chosen) if i in sizes]
        if failures is not None and failed is not None:
            failures += [Failure(*queries[i], attempt, failed[i]) for i, attempt in work if i in failed]
            work = [(i, attempt) for i, attempt in work if i not in failed]
            failed.clear()

        def denoise_batch(batch: list[int]) -> list[Answer]:
            places = [work[j] for j in batch]
            asked = [(*queries[i], attempt) for i, attempt in places]
            sizes = [chosen[attempt][i] for i, attempt in places]
            return self._denoise(asked, sizes, scores[[i for i, _ in places]], config)

        done = 0
        lengths = [self._rows(queries[i][0], chosen[attempt][i]) for i, attempt in work]
        for batch in batches(lengths, ROWS[self.device.type]):
            for answers in bisect_failures(denoise_batch, batch, failed):
                yield from answers
            done += len(batch)
            on_progress(done / len(work))
        if failures is not None and failed is not None:
            failures += [Failure(*queries[work[j][0]], work[j][1], message) for j, message in failed.items()]

    def _chosen_sizes(
        self, queries: list[tuple[int, int]], scores: NDArray[np.float64], config: Evaluation, attempt: int
    ) -> dict[int, Size]:
        """Index of every query of an attempt -> the size at which it denoises."""
        views = set(config.views_of(attempt))
        asked = [i for i, (_, view) in enumerate(queries) if view in views]
        sizes = _assign(config.sizes, scores[asked], [queries[i][0] for i in asked])
        if config.sizes == "rule":
            sizes = [self.agreed.get(queries[i][0], size) for i, size in zip(asked, sizes, strict=True)]
        if config.transposed_sizes == "unswapped":
            swapped = SWAP[[self.dataset.views.element[self._view(*queries[i])] for i in asked]]
            sizes = [size[::-1] if swap else size for size, swap in zip(sizes, swapped, strict=True)]
        return dict(zip(asked, sizes, strict=True))

    @cached_property
    def _data(self) -> DeviceData:
        return to_device(self.dataset, self.description.train.network, self.device)

    @cached_property
    def _levels(self) -> Levels:
        config = self.description.train
        return levels(cosine_schedule(config.noise), config.network.time_input, self.device)

    def _sizes(
        self, queries: list[tuple[int, int]], failed: dict[int, str] | None, task_row: TaskRow
    ) -> NDArray[np.float64]:
        """Log-probabilities of heights and widths in the task's frame, (queries, 2, 30); NaN where it failed."""
        lengths = [self._rows(pair, (0, 0)) for pair, _ in queries]
        result = np.full((len(queries), 2, 30), np.nan)

        def encode_batch(batch: list[int]) -> None:
            with torch.no_grad(), self._fast():
                encoded = self.network.encode(self._pack([self._row(*queries[i], (0, 0), task_row) for i in batch]))
            result[batch] = encoded.size_logits.float().log_softmax(-1).cpu().numpy()[: len(batch)]

        for batch in batches(lengths, ROWS[self.device.type]):
            for _ in bisect_failures(encode_batch, batch, failed):
                pass
        swapped = SWAP[[self.dataset.views.element[self._view(*query)] for query in queries]]
        result[swapped] = result[swapped][:, ::-1]
        return result

    def _denoise(
        self,
        queries: list[tuple[int, int, int]],
        sizes: list[Size],
        scores: NDArray[np.float64],
        config: Evaluation,
    ) -> list[Answer]:
        """Answers to (pair, view, attempt) at `sizes`; `scores` (queries, 2, 30) are the sizes' log-probabilities."""
        rows = [
            self._row(pair, view, size, config.task_row) for (pair, view, _), size in zip(queries, sizes, strict=True)
        ]
        parts = [
            (
                zlib.crc32(self.names[self.dataset.pairs.task[pair]].encode()),
                int(self.dataset.pairs.number[pair]),
                view,
                attempt,
            )
            for pair, view, attempt in queries
        ]
        key = hash_key(self.seed, *torch.tensor(parts, device=self.device).T)
        conditioning = self.description.train.self_conditioning
        with self._fast():
            packed = self._pack(rows)
            denoised = denoise(self.network, packed, self._levels, conditioning, config, key)
        colours, frames = denoised.colours.cpu().numpy(), denoised.frames.cpu().numpy()
        statistics = [x.cpu().numpy().T for x in (denoised.change, denoised.confidence, denoised.entropy)]
        answers, start = [], 0
        for i, ((pair, view, attempt), (height, width)) in enumerate(zip(queries, sizes, strict=True)):
            undo = inverse_colours(self.dataset.views.colours[self._view(pair, view)])
            cells = slice(start, start + height * width)
            start += height * width
            answers.append(
                Answer(
                    pair=pair,
                    view=view,
                    attempt=attempt,
                    grid=undo[colours[cells]].reshape(height, width),
                    size_log_probability=float(scores[i, 0, height - 1] + scores[i, 1, width - 1]),
                    confidence=float(statistics[1][i, -1]),
                    change=statistics[0][i],
                    confidences=statistics[1][i],
                    entropy=statistics[2][i],
                    last_changed_step=int(np.flatnonzero(statistics[0][i] > 0).max(initial=-1)) + 1,
                    frames=() if view else tuple(undo[f[cells]].reshape(height, width) for f in frames),
                )
            )
        return answers

    def _pack(self, rows: list[tuple[int, ...]]) -> Packed:
        table, budget = pad_to_budget(rows, self.network.prefix_length, None)
        return pack(torch.from_numpy(table).to(self.device), self._data, self.network.prefix_length, budget)

    def _row(self, pair: int, view: int, size: Size, task_row: TaskRow) -> tuple[int, ...]:
        p = self.dataset.pairs
        shape = (p.input_offset[pair], p.input_height[pair], p.input_width[pair], -1, *size)
        row = self.description.first_rows[p.task[pair]]
        if self.description.train.network.conditioning == "augmented-task" and task_row == "view":
            row += view
        return (row, self._view(pair, view), *(int(x) for x in shape))

    def _rows(self, pair: int, size: Size) -> int:
        p = self.dataset.pairs
        context = int(p.input_height[pair] * p.input_width[pair]) + self.network.prefix_length
        return max(context, size[0] * size[1])

    def _view(self, pair: int, view: int) -> int:
        return int(self.dataset.views.start[self.dataset.pairs.task[pair]]) + view

    @contextmanager
    def _fast(self) -> Iterator[None]:
        """On a GPU: bfloat16 and compiled functions."""
        kind, cuda = self.device.type, self.device.type == "cuda"
        with torch.autocast(kind, torch.bfloat16, enabled=cuda), compilation.set_enabled(cuda, dynamic=True):
            yield


def _assign(rule: SizeRule, scores: NDArray[np.float64], pairs: list[int]) -> list[Size]:
    """The size each query answers at, from log-probabilities (queries, 2, 30); (0, 0) for NaN.

    `pairs` (queries,) rises; the queries of one pair decide together.
    """
    sizes: list[Size] = [(0, 0)] * len(scores)
    known = ~np.isnan(scores[:, 0, 0])
    for queries in np.split(np.arange(len(pairs)), np.flatnonzero(np.diff(pairs)) + 1):
        block = queries[known[queries]]
        own = [(int(h) + 1, int(w) + 1) for h, w in scores[block].argmax(-1)]
        for i, size in zip(block, assign_sizes(rule, own, scores[block]) if own else [], strict=True):
            sizes[i] = size
    return sizes


def bisect_failures(
    work: Callable[[list[int]], Result], batch: list[int], failed: dict[int, str] | None
) -> Iterator[Result]:
    """`work` of the batch, or of its halves where it raises; what raises alone is put into `failed` with its message.

    With None for `failed`, or once MOST_FAILURES are in it, the error is raised.
    """
    try:
        result = work(batch)
    except Exception as error:
        if failed is None or len(failed) >= MOST_FAILURES:
            raise
        message = f"{type(error).__name__}: {error}"
    else:
        yield result
        return
    if len(batch) == 1:
        failed[batch[0]] = message
        return
    middle = len(batch) // 2
    for half in (batch[:middle], batch[middle:]):
        yield from bisect_failures(work, half, failed)


def batches(lengths: list[int], budget: int) -> Iterator[list[int]]:
    """Indices in the order of their lengths, cut so that the sum of lengths stays within `budget` where it can."""
    order: Ints = np.argsort(lengths, kind="stable")
    batch: list[int] = []
    used = 0
    for i in order.tolist():
        if batch and used + lengths[i] > budget:
            yield batch
            batch, used = [], 0
        batch.append(i)
        used += lengths[i]
    if batch:
        yield batch
