"""How tasks are answered and scored."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from model.config.base import Count, Frozen, Names


class Evaluation(Frozen):
    """One way to answer the tasks with a checkpoint."""

    steps: Annotated[int, Field(gt=0, le=100_000)]
    """Denoising steps."""
    time_map: Literal["spaced", "raw-index"]
    """The noise levels that the steps stand for: evenly from the last to the first; or, as the lab did before v2,
    levels steps - 1 ... 0, so that pure noise is called nearly clean unless there are as many steps as levels."""
    sampler: Literal["draw", "argmax", "posterior", "renoise"]
    """What a step makes of the estimate: the whole of it, drawn (v0-v6) or its argmax (v7); a draw from the exact
    posterior of the next level; its argmax with the least sure cells noised to the next level. The last step takes the
    argmax."""
    self_conditioning: Literal["as-trained", "temporal", "two-pass", "none"]
    """What the network is told of its estimate: as train.self_conditioning.inference says, or otherwise."""
    attempts: Annotated[int, Field(ge=0, le=2)]
    """Independent attempts on the grids as they are; 0 when views vote."""
    votes: Annotated[int, Field(ge=0, le=100_000)]
    """Views that vote; 0 when there are attempts."""
    sizes: Literal["own", "voted", "split", "rule"]
    """The size at which a view answers: its own; the most frequent of all views; its own if that is one of the two most
    frequent, else the one of these that it holds likelier (the lab's confidence split, mended); the one that the
    demonstrations agree on (voting.agreed_size), and as 'split' where they agree on none."""
    limit: Count
    """Only the first so many tasks; 0 for all."""

    @model_validator(mode="after")
    def _attempts_or_votes(self) -> Self:
        if bool(self.attempts) == bool(self.votes):
            raise ValueError(f"attempts is {self.attempts} and votes is {self.votes}; exactly one of them is 0")
        return self


class Predict(Frozen):
    """Which checkpoints and evaluations the matrix holds."""

    checkpoints: Annotated[tuple[Literal["best", "halfway", "final"], ...], Field(strict=False, min_length=1)]
    evaluations: Names


class Score(Frozen):
    """How the views vote, and the statistics of a score."""

    rule: Literal["most-frequent", "confidence", "most-visited"]
    """What a view adds to its grid: one vote; its confidence in it; the share of its steps that were at it."""
    size_first: bool
    """The views vote on the size first; grids of another size than the winner's follow after all others."""
    views: Count
    """Only the first so many views of a task vote; 0 for all there are."""
    bootstrap: Annotated[int, Field(ge=100, le=100_000)]
    """Resamples of the tasks behind an interval."""
    allow_leaks: bool
    """Score although evaluated pairs were trained on (prepare.leaks: keep); every report then says so."""
