"""Experiments as presets.yaml names them."""

from model.config.experiment import Experiment
from tasks.common import params, paths
from tasks.common.presets import parse_name
from tests.conftest import ROOT

PRESETS = params.read(ROOT / paths.PRESETS)
VERSIONS, SIZES, DATASETS = (list(PRESETS[section]) for section in ("versions", "sizes", "datasets"))
FINETUNINGS = [name for name in PRESETS["finetunings"] if name != "none"]
EVERY = [*VERSIONS, *(f"v3+{name}" for name in FINETUNINGS)]
"""Versions, and v3's fine-tunings."""


def named(version: str, size: str, dataset: str = "aa1") -> Experiment:
    """The experiment of VERSION[+FINETUNING]/SIZE[+BUDGET]/DATASET, with seed 0."""
    return params.resolve({**parse_name(f"{version}/{size}/{dataset}"), "seed": 0}, PRESETS)
