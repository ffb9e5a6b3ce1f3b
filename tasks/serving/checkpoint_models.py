"""The checkpoints of an experiment as models of MLflow: what the stage `publish` and `arc import` log."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from model.config.experiment import Experiment
from model.scoring.wording import headline
from model.storage.digests import digest
from tasks.tracking import promotion, records
from tasks.tracking.models import Model

PARAMS = ("step", "optimizer_steps", "stopped_early", "weights", "data", "leaks")
"""Fields of a checkpoint's description that become parameters of its model."""
_HERE = Path(__file__).parent
_CODE = [_HERE.parents[1] / "model", _HERE.parent]


def models(
    experiment: Experiment,
    stems: Mapping[str, Path],
    descriptions: Mapping[str, Mapping[str, Any]],
    tags: Mapping[str, str],
    pairs: Sequence[Mapping[str, Any]] | None,
    example: Mapping[str, Any],
) -> dict[str, Model]:
    """A model for each name of `stems`, whose checkpoints have these `descriptions`; `tags` are those of the training.

    `pairs` are the training pairs, by which a model recognises its tasks; without them it goes by their ids. `example`
    is official JSON.
    """
    served = served_evaluation(experiment)
    settings = {
        "evaluation": experiment.evaluations[served].model_dump(mode="json"),
        "score": experiment.score.model_dump(mode="json"),
    }
    run = records.run_name(experiment.model_dump(include={"title", "seed"}), None)
    return {
        name: Model(
            # MLflow allows none of / : . % " ' in the name of a model.
            name=f"{run} {name}".translate(str.maketrans("/:.%\"' ", "-------")),
            step=descriptions[name]["step"],
            params={key: str(descriptions[name][key]) for key in PARAMS},
            tags={
                **{tag: value for tag, value in tags.items() if tag.startswith("arc.")},
                "arc.checkpoint": name,
                "arc.file": f"{stem}.safetensors",
                "arc.digest": digest(stem.with_suffix(".safetensors"), stem.with_suffix(".json")),
                promotion.SERVED: served,
            },
            registered=f"{experiment.publish.experiment}-{experiment.dataset}",
            script=_HERE / "served_model.py",
            code=_CODE,
            files={"weights": stem.with_suffix(".safetensors"), "description": stem.with_suffix(".json")},
            texts={
                "settings": ("settings.json", json.dumps(settings)),
                "pairs": ("pairs.json", json.dumps(pairs)),
            },
            example={"tasks": example},
        )
        for name, stem in stems.items()
    }


def served_evaluation(experiment: Experiment) -> str:
    """The evaluation by which a model in MLflow answers: that of the headline, or the first one."""
    names = experiment.predict.evaluations
    return headline([f"best-{name}" for name in names]).partition("-")[2]
