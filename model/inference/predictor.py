"""Answering test inputs with a checkpoint: sizes of every view, then denoising in packed batches under a row budget."""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from model.config.evaluation import Evaluation, SizeRule, TaskRow
from model.inference import batching
from model.inference.answer import Answer, Failure
from model.inference.denoising import Denoised, denoise
from model.inference.early_stop import Rounds
from model.inference.ranking import rank
from model.inference.sizes import assign_sizes
from model.inference.transfers import receive
from model.inference.view_packer import ViewPacker
from model.puzzles.grids import Size
from model.puzzles.symmetry import SWAP, inverse_colours


@dataclass(frozen=True)
class Predictor(ViewPacker):
    """A checkpoint that answers a dataset whose pairs are test inputs."""

    explained: Mapping[int, Sequence[Size]] = field(default_factory=dict)
    """Sizes that the demonstrations explain, by row of the pairs, in turn for its views, which then choose none."""

    def answer(
        self,
        config: Evaluation,
        on_progress: Callable[[float], None] = lambda _: None,
        failures: list[Failure] | None = None,
    ) -> Iterator[Answer]:
        """Answers to every pair, in batches of like length; `on_progress` receives the share done.

        With config.ranking they come when all are there, the candidates among them with their likelihoods.
        """
        if config.ranking is None:
            yield from self._answers(config, on_progress, failures)
            return
        # Passes of the network: `views` x `steps` for the answers, candidates x views x levels for their likelihoods.
        ranking, asked = config.ranking, config.views * config.steps
        share = asked / (asked + ranking.candidates * ranking.views * ranking.levels)
        answers = list(self._answers(config, lambda done: on_progress(share * done), failures))
        yield from rank(self, answers, config, ranking, lambda done: on_progress(share + (1 - share) * done))
        on_progress(1.0)

    def _answers(
        self, config: Evaluation, on_progress: Callable[[float], None], failures: list[Failure] | None
    ) -> Iterator[Answer]:
        """Answers without likelihoods.

        All views choose their sizes, also those that `config.stop_decided` spares the denoising, except for grids whose
        demonstrations explain theirs.
        An answer that raises is added to `failures`; without such a list the error is raised.
        """
        available = self.available(config.task_row)
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

        def begin_batch(batch: list[int]) -> Callable[[], list[Answer]]:
            places = [work[j] for j in batch]
            sizes = [chosen[attempt][i] for i, attempt in places]
            of_them = [(*queries[i], attempt) for i, attempt in places]
            return self._denoise(of_them, sizes, config)

        def begin(asked: list[int]) -> Iterator[Callable[[], list[Answer]]]:
            for batch in batching.batches([lengths[j] for j in asked], batching.ROWS[self.device.type]):
                yield from batching.bisect_failures(begin_batch, [asked[k] for k in batch], failed)

        lengths = [self.length(queries[i][0], chosen[attempt][i]) for i, attempt in work]
        rounds = Rounds(config.stop_decided, [(queries[i][0], queries[i][1]) for i, _ in work])
        while asked := rounds.next():
            done = rounds.done
            for answers in batching.one_ahead(begin(asked)):
                for answer in answers:
                    rounds.count(answer.pair, answer.view, answer.grid)
                yield from answers
                done += len(answers)
                on_progress(done / len(work))
        if config.stop_decided or failed:
            on_progress(1.0)  # What a decided vote did not need, and what failed, counts as done.
        if failures is not None and failed is not None:
            failures += [Failure(*queries[work[j][0]], work[j][1], message) for j, message in failed.items()]

    def _chosen_sizes(
        self, queries: list[tuple[int, int]], scores: NDArray[np.float64], config: Evaluation, attempt: int
    ) -> dict[int, Size]:
        """Index of every query of an attempt -> the size at which it denoises."""
        views = set(config.views_of(attempt))
        asked = [i for i, (_, view) in enumerate(queries) if view in views]
        sizes = _assign(config.sizes, scores[asked], [queries[i][0] for i in asked])
        turns: Counter[int] = Counter()  # Views of each pair so far.
        for place, (pair, _) in enumerate(queries[i] for i in asked):
            if explained := self.explained.get(pair):
                sizes[place] = explained[(attempt + turns[pair]) % len(explained)]
                turns[pair] += 1
        if config.transposed_sizes == "unswapped":
            swapped = SWAP[[self.dataset.views.element[self.view(*queries[i])] for i in asked]]
            sizes = [size[::-1] if swap else size for size, swap in zip(sizes, swapped, strict=True)]
        return dict(zip(asked, sizes, strict=True))

    def _sizes(
        self, queries: list[tuple[int, int]], failed: dict[int, str] | None, task_row: TaskRow
    ) -> NDArray[np.float64]:
        """Log-probabilities of heights and widths in the task's frame, (queries, 2, 30).

        NaN where it failed and where demonstrations explain the size.
        """
        asked = [i for i, (pair, _) in enumerate(queries) if not self.explained.get(pair)]
        lengths = [self.length(queries[i][0], (0, 0)) for i in asked]
        result = np.full((len(queries), 2, 30), np.nan)

        def encode_batch(batch: list[int]) -> None:
            with torch.no_grad(), self.fast():
                encoded = self.network.encode(self.pack([self.row(*queries[i], (0, 0), task_row) for i in batch]))
            result[batch] = self._log_probabilities(encoded.size_logits, [queries[i] for i in batch])

        for batch in batching.batches(lengths, batching.ROWS[self.device.type]):
            for _ in batching.bisect_failures(encode_batch, [asked[j] for j in batch], failed):
                pass
        return result

    def _log_probabilities(self, size_logits: Tensor, queries: Sequence[tuple[int, int]]) -> NDArray[np.float64]:
        """Of heights and widths in the task's frame, (queries, 2, 30), from logits in the frames of (pair, view)."""
        result = size_logits.float().log_softmax(-1).cpu().numpy()[: len(queries)].astype(np.float64)
        swapped = SWAP[[self.dataset.views.element[self.view(*query)] for query in queries]]
        result[swapped] = result[swapped][:, ::-1]
        return result

    def _denoise(
        self,
        queries: list[tuple[int, int, int]],
        sizes: list[Size],
        config: Evaluation,
    ) -> Callable[[], list[Answer]]:
        """Begin to answer (pair, view, attempt) at `sizes`; the function waits for the answers."""
        rows = [
            self.row(pair, view, size, config.task_row) for (pair, view, _), size in zip(queries, sizes, strict=True)
        ]
        key, conditioning = self.key(queries), self.description.train.self_conditioning
        with self.fast():
            denoised = denoise(self.network, self.pack(rows), self.levels, conditioning, config, key)
        arrived = receive(denoised)
        return lambda: self._answers_of(queries, sizes, Denoised(*arrived()))

    def _answers_of(self, queries: list[tuple[int, int, int]], sizes: list[Size], denoised: Denoised) -> list[Answer]:
        """Answers in the frames of their tasks, from a denoising that is on the CPU."""
        colours, frames = denoised.colours.numpy(), denoised.frames.numpy()
        statistics = [x.numpy().T for x in (denoised.change, denoised.confidence, denoised.entropy)]
        scores = self._log_probabilities(denoised.size_logits, [(pair, view) for pair, view, _ in queries])
        answers, start = [], 0
        for i, ((pair, view, attempt), (height, width)) in enumerate(zip(queries, sizes, strict=True)):
            undo = inverse_colours(self.dataset.views.colours[self.view(pair, view)])
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
