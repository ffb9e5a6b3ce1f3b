"""A study's data, fetched once and prepared without a GPU; and which GPUs an experiment gets."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

from tasks.common import paths
from tasks.common.presets import merge
from tasks.studies import run_stages
from tasks.studies.study_file import read_study
from tests.support.made_up_study import run


def test_data_are_fetched_once_for_all_that_fetch_the_same_and_prepared_without_a_gpu(study: Path, capsys: Any) -> None:
    run(gpus="0+1,2", prepare_only=True)
    places = sorted((study / ".scratch/run_stages").iterdir())
    ran = [[json.loads(line)[0] for line in (place / "told").read_text().splitlines()] for place in places]
    whole = ["params", "fetch", "prepare", "augment"]
    assert sorted(ran) == sorted([whole, ["params", "prepare", "augment"]])
    assert {(place / ".done/fetch").exists() for place in places} == {True}
    assert len({(place / "data/raw/extra/rearc.json").read_text() for place in places}) == 1
    assert capsys.readouterr().out.count("prepared in") == 2
    assert not (study / "kept").exists()
    run(prepare_only=True)
    assert [len((place / "told").read_text().splitlines()) for place in places] == [len(names) for names in ran]
    mine = study / "code" / paths.OWN / "mine.txt"
    for change, own, fetched in (
        ({"train": {"optimizer_steps": 14}}, "", 1),
        ({"train": {"optimizer_steps": 16}}, "changed", 2),
        ({"seed": 1}, "changed", 3),
    ):
        mine.write_text(own)
        values = yaml.safe_load((study / "study.yaml").read_text())
        values["common"] = merge(values["common"], change)
        (study / "study.yaml").write_text(yaml.safe_dump(values, sort_keys=False))
        run("v3/tiny/aa1", prepare_only=True)
        assert (
            len({file.read_text() for file in study.glob(".scratch/run_stages/*/data/raw/extra/rearc.json")}) == fetched
        )


def test_a_copy_of_own_files_that_was_interrupted_is_made_again(study: Path, monkeypatch: Any) -> None:
    (study / "code" / paths.OWN / "start.json").write_text("first")

    def interrupted(_: Path, target: Path) -> None:
        target.mkdir(parents=True)
        raise KeyboardInterrupt

    (member,) = read_study(study / "study.yaml", ["v3/tiny/aa1"])
    runner = run_stages.Runner(study / "there", study / "kept", "")
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "copytree", interrupted)
        with pytest.raises(KeyboardInterrupt):
            runner.prepare(member)
    place = runner.prepare(member)
    assert (place / paths.OWN / "start.json").read_text() == "first"


def test_own_files_that_changed_since_they_were_copied_are_refused(study: Path, capsys: Any) -> None:
    own = study / "code" / paths.OWN
    (own / "start.json").write_text("first")
    run("v3/tiny/aa1", prepare_only=True)
    (place,) = study.glob(".scratch/run_stages/*")
    says = f"{place / paths.OWN / 'start.json'} is not as in {study / 'code'}, .*: remove {place} to begin again"
    for change in ((own / "start.json").unlink, lambda: (own / "start.json").write_text("second")):
        change()
        with pytest.raises(SystemExit, match=says):
            run("v3/tiny/aa1", prepare_only=True)
    (own / "start.json").write_text("first")
    run("v3/tiny/aa1", prepare_only=True)
    shutil.rmtree(own)  # As on the machine to which a prepared folder was copied.
    own.mkdir()
    (own / "README.md").write_text("What belongs here.")
    run("v3/tiny/aa1", prepare_only=True)


def test_two_gpus_share_a_training_that_has_micro_batches_for_both(study: Path, monkeypatch: Any) -> None:
    values = yaml.safe_load((study / "study.yaml").read_text())
    values["experiments"]["v6/tiny/aa1"] = {"train": {"accumulation": 2}}
    (study / "study.yaml").write_text(yaml.safe_dump(values, sort_keys=False))
    run("v6/tiny/aa1", gpus="3+4")
    run("v3/tiny/aa1", gpus="3+4,5")
    on = {}
    for place in (study / ".scratch/run_stages").iterdir():
        rows = [json.loads(line) for line in (place / "told").read_text().splitlines()]
        version = yaml.safe_load((place / "params.yaml").read_text())["version"]
        on[version] = [(row[2], row[4]) for row in rows if row[0] in ("train", "predict_all")]
    assert on == {"v3": [("5", "1")] * 2, "v6": [("3,4", "2")] * 2}


@pytest.mark.parametrize(
    ("gpus", "says"),
    [
        ("0+1", "v3-tiny-aa1: train.accumulation is 1, which no entry of --gpus 0\\+1 divides"),
        ("0;1", "--gpus is '0;1'; allowed are indices such as 0,1 or, two for one training, 0\\+1,2"),
        ("0+", "--gpus is '0\\+'"),
    ],
)
def test_wrong_gpus_are_refused_before_anything_is_prepared(study: Path, gpus: str, says: str) -> None:
    with pytest.raises(SystemExit, match=says):
        run(gpus=gpus)
    assert not (study / ".scratch").exists()
