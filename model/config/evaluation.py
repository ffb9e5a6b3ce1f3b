"""How tasks are answered and scored."""

from typing import Annotated, Literal

from pydantic import Field

from model.config.base import Count, Frozen, Names

SamplerName = Literal["draw", "argmax", "posterior", "renoise"]
"""The functions of model/inference/samplers.py."""

VoteRule = Literal["most-frequent", "confidence", "most-visited"]
"""The functions of model/scoring/vote_rules.py."""


class Attempts(Frozen):
    """Independent attempts on the grids as they are; they are what is scored."""

    by: Literal["attempts"]
    count: Annotated[int, Field(ge=1, le=2)]


class Votes(Frozen):
    """Votes of a task's views; the two heaviest grids are what is scored."""

    by: Literal["votes"]
    views: Annotated[int, Field(ge=1, le=100_000)]
    """The first of augment.voting_views."""


class Evaluation(Frozen):
    """One way to answer the tasks with a checkpoint."""

    weights: Literal["as-trained", "raw", "ema"]
    """Raw or averaged weights of the checkpoint: as train.evaluated_weights says, or otherwise."""
    steps: Annotated[int, Field(gt=0, le=100_000)]
    """Denoising steps."""
    time_map: Literal["spaced", "raw-index"]
    """The noise levels that the steps stand for: evenly from the last to the first; or, as the lab did before v2,
    levels steps - 1 ... 0, so that pure noise is called nearly clean unless there are as many steps as levels."""
    sampler: SamplerName
    """How a step makes the next grid from the estimate (inference/samplers.py); the last step takes the argmax."""
    self_conditioning: Literal["as-trained", "temporal", "two-pass", "none"]
    """The estimate that the network is conditioned on: as train.self_conditioning.inference says, or otherwise."""
    answers: Annotated[Attempts | Votes, Field(discriminator="by")]
    """Where the two attempts of a test input come from."""
    sizes: Literal["own", "voted", "split", "rule"]
    """The size at which a view answers: its own; the most frequent of all views; its own if that is one of the two most
    frequent, else the likelier of these (the lab's confidence split, without its errors); the one that all
    demonstrations agree on (model/inference/sizes.py), else as 'split'."""
    subset: Literal["evaluation", "training"]
    """The tasks that are asked: of the evaluation set; or of the training set, whose answers were trained on, to see
    how far a network overfits. The validation tasks, which were not trained on, are not among these."""
    limit: Count
    """Only the first so many tasks; 0 for all."""

    @property
    def voting(self) -> bool:
        """Whether views vote."""
        return self.answers.by == "votes"

    @property
    def views(self) -> int:
        """Views that answer each test input."""
        return self.answers.views if self.answers.by == "votes" else 1

    @property
    def attempts(self) -> int:
        """Answers of each view."""
        return self.answers.count if self.answers.by == "attempts" else 1


class Predict(Frozen):
    """Which checkpoints and evaluations the matrix holds."""

    checkpoints: Annotated[tuple[Literal["best", "halfway", "final"], ...], Field(strict=False, min_length=1)]
    evaluations: Names


class Score(Frozen):
    """How the views vote, and the statistics of a score."""

    rule: VoteRule
    """What a view adds to its grid: one vote; its confidence in it; the share of its steps that were at it."""
    size_first: bool
    """The views vote on the size first; grids of another size than the winner's follow after all others."""
    views: Count
    """Only the first so many views of a task vote; 0 for all there are."""
    bootstrap: Annotated[int, Field(ge=100, le=100_000)]
    """Resamples of the tasks behind an interval."""
    allow_leaks: bool
    """Score although evaluated pairs were trained on (prepare.leaks: keep); every report then says so."""
