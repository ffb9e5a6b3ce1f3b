"""Experiments as presets.yaml names them."""

from model.config.experiment import Experiment
from tasks.common import params, paths
from tasks.common.presets import parse_name
from tests.conftest import ROOT

PRESETS = params.read(ROOT / paths.PRESETS)
VERSIONS, SIZES, DATASETS = (list(PRESETS[section]) for section in ("versions", "sizes", "datasets"))
FINETUNINGS = [name for name in PRESETS["finetunings"] if name != "none"]
STARTS = {name: "v1" if name.startswith("test-time") and "ours" not in name else "v3" for name in FINETUNINGS}
"""Fine-tuning -> version of its start: the lab's test-time training is of v1."""
EVERY = [*VERSIONS, *(f"{version}+{name}" for name, version in STARTS.items())]
"""Versions, and the fine-tunings of one each."""


def named(version: str, size: str, dataset: str = "aa1") -> Experiment:
    """The experiment of VERSION[+FINETUNING]/SIZE[+BUDGET]/DATASET, with seed 0."""
    return params.resolve({**parse_name(f"{version}/{size}/{dataset}"), "seed": 0}, PRESETS)
