"""Every setting of an experiment as one frozen, validated type.

No default is hidden here: every value stands in presets.yaml or params.yaml.
"""

from typing import Annotated, Self

from pydantic import Field, model_validator

from model.config.base import Frozen, Name, Positive
from model.config.data import Augment, Fetch, Prepare
from model.config.evaluation import Evaluation, Predict, Score
from model.config.training import Train


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
    evaluations: dict[Name, Evaluation]
    select: Evaluation
    """Answers the validation grids with every candidate."""
    predict: Predict
    score: Score
    report: Report
    publish: Publish

    @property
    def name(self) -> str:
        """See `experiment_name`."""
        return experiment_name(self.version, self.size, self.dataset, self.finetuning, self.budget)

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
        for name, evaluation in {**self.evaluations, "select": self.select}.items():
            if evaluation.views > self.augment.voting_views:
                raise ValueError(
                    f"{name}: answers.views is {evaluation.views}; augment.voting_views is {self.augment.voting_views}"
                )
            trained = min(self.augment.training_views, self.augment.evaluation_views)
            if self.train.network.conditioning == "augmented-task" and evaluation.views > trained:
                raise ValueError(
                    f"{name}: answers.views is {evaluation.views}; with conditioning 'augmented-task' only the "
                    f"{trained} views trained on have an embedding"
                )
            if evaluation.time_map == "raw-index" and evaluation.steps > self.train.noise.steps:
                raise ValueError(
                    f"{name}: steps is {evaluation.steps}; with time_map 'raw-index' there are at most "
                    f"train.noise.steps {self.train.noise.steps}"
                )
        return self
