"""Every setting of an experiment as one frozen, validated type.

No default is hidden here: every value stands in presets.yaml or params.yaml.
"""

from typing import Annotated, Self

from pydantic import Field, model_validator

from model.config.base import Frozen, Name, Positive
from model.config.data import Augment, Fetch, Prepare
from model.config.evaluation import Evaluation, Predict, Score, Select
from model.config.training import Train
from model.config.watch import Watch


class Report(Frozen):
    """What the page shows."""

    tasks_drawn: Positive
    """Solved and missed test grids drawn, each."""


class Publish(Frozen):
    """Where the runs go."""

    experiment: Name
    """Name of the MLflow experiment."""


def experiment_name(version: str, size: str, dataset: str, finetuning: str, budget: str) -> str:
    """VERSION[+FINETUNING]/SIZE[+BUDGET]/DATASET, such as v3/smol/aa1 or v3+lora/smol+1m/aa2."""
    version += "" if finetuning == "none" else f"+{finetuning}"
    size += "" if budget == "own" else f"+{budget}"
    return f"{version}/{size}/{dataset}"


class Experiment(Frozen):
    """One resolved experiment: everything that the stages read."""

    title: Annotated[str, Field(min_length=1)]
    """The name, and what differs from what the name stands for: 'v3/smol/aa1 +muon lr=1e-3 ...5 more'."""
    version: Name
    size: Name
    dataset: Name
    finetuning: Name
    """'none', or how a given checkpoint is trained on."""
    budget: Name
    """'own' for the number of updates that version and size say, or another one by name."""
    seed: Annotated[int, Field(ge=0, lt=2**31)]
    fetch: Fetch
    prepare: Prepare
    augment: Augment
    train: Train
    watch: Watch
    """Read by the stage train, but no parameter of it in dvc.yaml: it decides no result."""
    evaluations: dict[Name, Evaluation]
    select: Select
    """Chooses the best of the candidates."""
    predict: Predict
    score: Score
    report: Report
    publish: Publish

    @property
    def name(self) -> str:
        """See `experiment_name`."""
        return experiment_name(self.version, self.size, self.dataset, self.finetuning, self.budget)

    @model_validator(mode="after")
    def _origins(self) -> Self:
        for name in self.train.origin_shares:
            if name not in ("evaluation", *self.fetch.extra):
                raise ValueError(
                    f"train.origin_shares names {name!r}; allowed are 'evaluation' and the sources of fetch.extra, "
                    f"{list(self.fetch.extra)}"
                )
        return self

    @model_validator(mode="after")
    def _conditioning(self) -> Self:
        conditioning = self.train.network.conditioning
        if self.augment.scheme == "permutations" and conditioning.endswith("colour"):
            raise ValueError(
                f"train.network.conditioning {conditioning!r} embeds the cycle of colours, but augment.scheme is "
                "'permutations': set conditioning to 'd4' or 'task', or augment.scheme to 'all'"
            )
        return self

    @model_validator(mode="after")
    def _names(self) -> Self:
        if self.train.early_stop and self.prepare.validation == "evaluation-solutions":
            raise ValueError(
                "train.early_stop would stop on the solutions that are reported (prepare.validation is "
                "'evaluation-solutions'); set prepare.validation: held-out-training, or train.early_stop: null"
            )
        if self.select.subset != "evaluation":
            raise ValueError(
                f"select.subset is {self.select.subset!r}; select asks the tasks that prepare.validation says: leave "
                "it at 'evaluation'"
            )
        for name in self.predict.evaluations:
            if name not in self.evaluations:
                raise ValueError(f"predict names evaluation {name!r}; defined are {sorted(self.evaluations)}")
            self.check_evaluation(name, self.evaluations[name])
            evaluation = self.evaluations[name]
            if self.score.rule == "likelihood" and evaluation.voting and evaluation.ranking is None:
                raise ValueError(
                    f"score.rule is 'likelihood', but evaluation {name!r} has no ranking, so that it keeps no "
                    "likelihoods; give it one (docs/voting.md), or set score.rule: most-frequent"
                )
            if self.evaluations[name].subset == "validation" and self.prepare.validation == "evaluation-solutions":
                raise ValueError(
                    f"{name}: subset is 'validation', but prepare.validation makes evaluation tasks of these; set "
                    "subset to 'evaluation', or prepare.validation: held-out-training"
                )
        self.check_evaluation("select", self.select)
        return self

    def check_evaluation(self, name: str, evaluation: Evaluation) -> None:
        """Refuse an evaluation that needs views or noise levels that this experiment lacks. Raises ValueError."""
        repeated = evaluation.answers.by == "repeated-votes"
        views = f"answers.{'repetitions x views needs' if repeated else 'views is'} {evaluation.views}"
        if evaluation.views > self.augment.voting_views:
            raise ValueError(f"{name}: {views}; augment.voting_views is {self.augment.voting_views}")
        trained = min(self.augment.training_views, self.augment.evaluation_views)
        own_rows = self.train.network.conditioning == "augmented-task" and evaluation.task_row == "view"
        if own_rows and evaluation.views > trained:
            raise ValueError(
                f"{name}: {views}; with conditioning 'augmented-task' only the {trained} views trained on have an "
                "embedding"
            )
        if evaluation.time_map == "raw-index" and evaluation.steps > self.train.noise.steps:
            raise ValueError(
                f"{name}: steps is {evaluation.steps}; with time_map 'raw-index' there are at most "
                f"train.noise.steps {self.train.noise.steps}"
            )
