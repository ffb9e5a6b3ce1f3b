"""The studies' files against the kept results: what a file resolves to today is what was run."""

from pathlib import Path

import pytest

from tasks.common import params
from tasks.common.params import flatten
from tasks.studies.study_file import Member, read_study
from tests.conftest import ROOT

KEPT = ROOT / "docs/baselines"
FILES = [file for file in sorted((ROOT / "docs/studies").glob("*.yaml")) if not file.stem.endswith("-claims")]
RUN = [member for file in FILES for member in read_study(file) if (KEPT / member.label).is_dir()]


def test_most_kept_results_are_of_a_study():
    labels = {member.label for member in RUN}
    assert len(labels) == len(RUN)
    assert {folder.name for folder in KEPT.iterdir() if folder.is_dir()} - labels == {
        "v3-muon-smol-aa1",  # Older than the studies.
        "ours-768x8-aa1",
    }


@pytest.mark.parametrize("member", RUN, ids=lambda member: member.label)
def test_a_study_resolves_to_what_was_run(member: Member) -> None:
    """But for evaluations that were not asked, and for keys that are newer than the result."""
    run, today = (
        {key: value for key, value in flatten(values).items() if key != "title" and not _unasked(key, member)}
        for values in (
            params.read(Path(KEPT / member.label / "experiment.yaml")),
            member.experiment.model_dump(mode="json"),
        )
    )
    assert {key: today.get(key) for key in run} == run
    asked = {file.stem.partition("-")[2] for file in (KEPT / member.label).glob("*.parquet")}
    assert asked <= set(member.experiment.predict.evaluations)


def _unasked(key: str, member: Member) -> bool:
    parts = key.split(".")
    return parts[0] == "evaluations" and parts[1] not in member.experiment.predict.evaluations
