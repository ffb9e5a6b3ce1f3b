"""How tasks are answered and scored."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from model.config.base import Count, Frozen, Names, Positive

SamplerName = Literal["draw", "argmax", "posterior", "renoise"]
"""The functions of model/inference/samplers.py."""

SizeRule = Literal["own", "voted", "split", "split-in-order", "rule", "measured"]
"""The rules of model/inference/sizes.py and measured_sizes.py."""

TaskRow = Literal["view", "task"]
"""The row of the task table that a view uses, see `Evaluation.task_row`."""

VoteRule = Literal["most-frequent", "confidence", "certainty", "most-visited", "likelihood"]
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


class RepeatedVotes(Frozen):
    """Independent votes, each of its own views; the winner of each is an attempt."""

    by: Literal["repeated-votes"]
    repetitions: Annotated[int, Field(ge=1, le=2)]
    views: Annotated[int, Field(ge=1, le=50_000)]
    """Views of each vote: the identity, and the next of augment.voting_views."""


class EarlyStop(Frozen):
    """When a test input gets no further views: its vote is decided (model/inference/early_stop.py)."""

    round: Positive
    """Views of a test input that answer before its votes are counted again."""
    attempts: Annotated[int, Field(ge=1, le=2)]
    """Leading grids that must be decided: the first attempt alone, or both."""
    swing: Annotated[float, Field(gt=0, le=1)]
    """Share of the remaining views that might all propose one other grid. With 1 and both attempts, the attempts are
    those of all views under the rule 'most-frequent'."""


class Ranking(Frozen):
    """Which grids of a vote get likelihoods (model/inference/likelihood.py), for the vote rule 'likelihood'."""

    candidates: Annotated[int, Field(ge=2, le=1000)]
    """So many of the most frequent grids of each test input."""
    views: Annotated[int, Field(ge=1, le=100_000)]
    """Under the first so many of the views that vote."""
    levels: Annotated[int, Field(ge=1, le=100_000)]
    """Evenly spaced noise levels; 1 is the noisiest alone."""


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
    answers: Annotated[Attempts | Votes | RepeatedVotes, Field(discriminator="by")]
    """Where the two attempts of a test input come from."""
    sizes: SizeRule
    """The size at which a view answers: its own; the most frequent of all views; its own if that is one of the two most
    frequent, else the likelier of these (the lab's confidence split, without its errors); the same, the others handed
    out by their order (as the lab did); the one that all demonstrations agree on (model/inference/sizes.py), else as
    'split'; that one, else the two that quantities of the inputs explain best, shared by the views in turn, or by the
    attempts (model/inference/measured_sizes.py), else as 'split'."""
    transposed_sizes: Literal["swapped", "unswapped"]
    """Whether a view that transposes denoises at the transposed size. Unswapped is the lab's mistake: answers of these
    views have height and width exchanged, and are wrong where the output is not square."""
    task_row: TaskRow
    """With conditioning 'augmented-task': the embedding that was trained with the view, or, as the lab did, that of the
    identity for every view."""
    stop_decided: EarlyStop | None
    """null: all views answer."""
    ranking: Ranking | None
    """null: predictions hold no likelihoods."""
    subset: Literal["evaluation", "training", "validation"]
    """The tasks that are asked: of the evaluation set; of the training set, whose answers were trained on, to see how
    far a network overfits; or the validation tasks, whose answers were not, to choose settings of the votes."""
    limit: Count
    """Only the first so many tasks; 0 for all."""

    @model_validator(mode="after")
    def _one_vote(self) -> Self:
        if self.stop_decided and not self.voting:
            raise ValueError(f"stop_decided needs answers by 'votes'; they are by {self.answers.by!r}; set it to null")
        if self.ranking and not self.voting:
            raise ValueError(f"ranking needs answers by 'votes'; they are by {self.answers.by!r}; set it to null")
        return self

    @property
    def voting(self) -> bool:
        """Whether all views vote together."""
        return self.answers.by == "votes"

    @property
    def views(self) -> int:
        """Views that a test input needs."""
        return 1 + max(view for attempt in range(self.attempts) for view in self.views_of(attempt))

    @property
    def attempts(self) -> int:
        """Attempts that are answered one by one: those of `Attempts`, or repetitions of a vote."""
        match self.answers:
            case Attempts(count=count):
                return count
            case RepeatedVotes(repetitions=repetitions):
                return repetitions
        return 1

    def views_of(self, attempt: int) -> list[int]:
        """The views that answer in an attempt; they choose their sizes together."""
        if isinstance(self.answers, Attempts):
            return [0]
        others = self.answers.views - 1
        return [0, *range(1 + attempt * others, 1 + (attempt + 1) * others)]

    def number(self, view: int, attempt: int) -> int:
        """The number of an answer among those of its test input, from 0 and rising with the attempt, then the view."""
        if isinstance(self.answers, Attempts):
            return attempt
        return view + attempt if view else attempt * self.answers.views


class Select(Evaluation):
    """How the best checkpoint is chosen: what answers the validation grids, and what decides."""

    criterion: Literal["pass-at-2", "validation-loss"]
    """The highest pass@2, then cell accuracy; or the lowest loss on the validation pairs (the lab's rule before
    v3-reverted), which reports then mark. Both are measured with `weights`."""


CheckpointName = Literal["best", "halfway", "late", "final"]
"""The candidate that `select` prefers, those after half and after three quarters of the updates, and the last."""


class Predict(Frozen):
    """Which checkpoints and evaluations the matrix holds."""

    checkpoints: Annotated[tuple[CheckpointName, ...], Field(strict=False, min_length=1)]
    evaluations: Names


class LikelihoodWeight(Frozen):
    """How the vote rule 'likelihood' adds likelihoods to votes."""

    weight: Annotated[float, Field(ge=0)]
    """Share of the votes that a nat is worth; 0 counts votes alone."""
    per: Literal["cell", "grid"]
    """Nats of a grid's log-likelihood: the mean over its cells, or their sum."""


class Score(Frozen):
    """How the views vote, and the statistics of a score."""

    rule: VoteRule
    """What a view adds to its grid: one vote; its confidence in it; the share of its steps that were at it; or one
    vote, to which the grid's likelihood is added."""
    likelihood: LikelihoodWeight
    """Of the rule 'likelihood'; chosen on validation tasks (docs/voting.md)."""
    size_first: bool
    """The views vote on the size first; grids of another size than the winner's follow after all others."""
    views: Count
    """Only the first so many views of a task vote; 0 for all there are."""
    bootstrap: Annotated[int, Field(ge=100, le=100_000)]
    """Resamples of the tasks behind an interval."""
    allow_leaks: bool
    """Score although evaluated pairs were trained on (prepare.leaks: keep); every report then says so."""
