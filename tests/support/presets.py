"""Experiments as presets.yaml names them."""

from model.config.experiment import Experiment
from tasks.common import params, paths
from tests.conftest import ROOT

PRESETS = params.read(ROOT / paths.PRESETS)
EVERY, SIZES, DATASETS = (list(PRESETS[section]) for section in ("versions", "sizes", "datasets"))


def named(version: str, size: str, dataset: str = "aa1") -> Experiment:
    """The experiment of these names, with seed 0."""
    return params.resolve({"version": version, "size": size, "dataset": dataset, "seed": 0}, PRESETS)
