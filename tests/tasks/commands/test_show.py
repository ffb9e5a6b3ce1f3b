"""`arc show`: which of its three answers is given, the marks, the numbers of tasks and of parameters."""

import hashlib
import json
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml

from model.network.denoiser import build
from tasks.commands import our_scores, show_experiment
from tasks.commands.our_scores import Ours
from tasks.common import paths
from tasks.common.presets import ConfigurationError
from tasks.common.stage import StageError
from tasks.ledger.facts import Ledger
from tasks.sources import arckit_tasks
from tests.conftest import ROOT, SMALL, experiment, puzzles

FILES = {
    (split, kind): puzzles()[f"arc-agi_{split}_{kind}.json"]
    for split in arckit_tasks.SPLITS
    for kind in arckit_tasks.KINDS
}
"""Two training tasks and one evaluation task, as arckit gives them."""


@pytest.fixture(autouse=True)
def asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Parameters and presets in an empty checkout; the editions that arckit is asked for."""
    editions: list[str] = []
    monkeypatch.chdir(tmp_path)
    paths.PRESETS.write_text((ROOT / "presets.yaml").read_text())
    paths.PARAMS.write_text(yaml.safe_dump(SMALL))
    monkeypatch.setattr(arckit_tasks, "from_arckit", lambda edition: editions.append(edition) or FILES)
    monkeypatch.setattr(our_scores, "find", lambda version: [])
    # The device "meta" costs memory nothing, but its first use a second.
    monkeypatch.setattr(show_experiment, "torch", SimpleNamespace(device=lambda _: nullcontext()))
    return editions


def printed(capsys: pytest.CaptureFixture[str], *arguments: Any) -> list[str]:
    show_experiment.main(*arguments)
    return capsys.readouterr().out.splitlines()


def test_params_are_shown_with_marks_tasks_and_parameters(capsys: Any, asked: list[str]) -> None:
    lines = printed(capsys, None, None, ["train.batch=20", "train.accumulation=3", "train.optimizer_steps=1200"])
    assert lines[0].startswith("title: v3/tiny/aa1-6x6 ")
    assert "  batch: 20  # <- 64" in lines
    assert "  log_every: 4  # <- 100" in lines
    assert "seed: 0" in lines, "which no preset says"
    assert "  accumulation: 3  # <- 1" in lines
    network = build(experiment().train, 3)
    tables = network.task_table.weight.numel() + network.conditioning_table.weight.numel()
    trunk = sum(value.numel() for name, value in network.named_parameters() if "table" not in name)
    assert tables > 0
    assert trunk > 1000
    assert lines[-3:] == [
        "# 2 training tasks, 1 evaluation tasks",
        f"# {trunk + tables:,} parameters: trunk {trunk:,}, embeddings {tables:,}",
        "# 60 examples an update, 1,200 updates",
    ]
    assert asked == ["arcagi", "arcagi"]


def test_rows_of_augmented_tasks_are_views(monkeypatch: Any) -> None:
    plain = experiment()
    views = {"training_views": 5, "evaluation_views": 7, "voting_views": 3, "scheme": "random-draws"}
    network = plain.train.network.model_copy(update={"conditioning": "augmented-task"})
    config = plain.model_copy(
        update={
            "train": plain.train.model_copy(update={"network": network}),
            "augment": plain.augment.model_copy(update=views),
        }
    )
    few, more, most = (show_experiment.parameters(config, *counts) for counts in ((1, 1), (2, 1), (1, 2)))
    one = (more.embeddings - few.embeddings) // 5
    assert more.embeddings - few.embeddings == 5 * one > 0
    assert most.embeddings - few.embeddings == 7 * one
    assert {few.trunk, more.trunk, most.trunk} == {few.trunk}
    tasks = [show_experiment.parameters(plain, *counts) for counts in ((1, 1), (2, 1), (1, 2), (2, 2))]
    assert tasks[1] == tasks[2]
    assert tasks[3].embeddings - tasks[1].embeddings == tasks[1].embeddings - tasks[0].embeddings == one


def test_against_another_only_the_differences_are_printed(capsys: Any) -> None:
    lines = printed(capsys, "v3/tiny/aa1", "v3/tiny/aa1", ["seed=3"])
    assert lines == ["v3/tiny/aa1 against v3/tiny/aa1: 0 factors differ"]
    lines = printed(capsys, None, "v3/tiny/aa1-6x6", [])
    assert "  train.batch: 8 against 64" in lines
    count = sum(" against " in line for line in lines[1:])
    assert f": {count} factors differ" in " ".join(" ".join(lines).split())
    one = printed(capsys, "v3/tiny/aa1", "v3/tiny/aa1-6x6", None)
    assert one[0].startswith("v3/tiny/aa1 against v3/tiny/aa1-6x6: ")


def test_one_factor_is_singular_and_what_only_one_has_is_listed() -> None:
    base = experiment().model_copy(update={"title": "x"})
    other = base.model_copy(update={"seed": 4})
    lines = list(show_experiment.compared(base, other))
    assert lines == ["x against x: 1 factor differs", "  seed: 0 against 4"]
    more = base.model_copy(update={"evaluations": {**base.evaluations, "own": base.evaluations["votes"]}})
    assert list(show_experiment.compared(more, base)) == [
        "x against x: 1 factor differs",
        "  only x has evaluations.own",
    ]
    third = more.model_copy(update={"seed": 1, "evaluations": {**base.evaluations, "new": base.evaluations["votes"]}})
    assert list(show_experiment.compared(third, more)) == [
        "x against x: 3 factors differ",
        "  seed: 1 against 0",
        "  only x has evaluations.new",
        "  only x has evaluations.own",
    ]


def test_a_version_alone_is_explained_and_with_options_it_is_no_experiment(capsys: Any) -> None:
    assert printed(capsys, "v3", None, [])[0].startswith("v3: ")
    for more in (("v4/smol/aa1", []), (None, ["seed=1"])):
        with pytest.raises(SystemExit, match=r"^show: v3 alone is a version, .* experiments, such as v3/smol/aa1$"):
            show_experiment.main("v3", *more)
    with pytest.raises(SystemExit, match=r"^show: v3 alone is a version"):
        show_experiment.main("v4/smol/aa1", "v3", [])
    for name in ("v99", "V3"):
        with pytest.raises(SystemExit, match=rf"^show: '{name}' is no version; allowed are v0, v1, .*, or an "):
            show_experiment.main(name, None, [])


VERSION = {"against": None, "date": None, "commits": {}, "change": "so", "what": "What.", "why": "Because."}
THEIRS = {"date": "2025-01-02", "commits": {"all": "12345678"}}


@pytest.mark.parametrize(
    ("given", "second"),
    [
        ({}, "ours, not the lab's"),
        (THEIRS, "2025-01-02, the lab's commit 12345678"),
        (THEIRS | {"commits": {"a": "1", "b": "2"}}, "2025-01-02, the lab's commit 1 (a), 2 (b)"),
    ],
)
def test_a_version_is_told_by_its_facts_alone(given: Any, second: str, monkeypatch: Any) -> None:
    version = VERSION | {"mistakes": []} | given
    facts = Ledger.model_validate({"versions": {"v3": version}, "reasons": {}, "published": []}, strict=False)
    lines = [f"v3: {VERSION['change']}", second, "", "What.", "", "Why: Because."]
    assert list(show_experiment.explained(facts, "v3")) == lines
    names = ("v3/tiny/aa1", "v3+lora/smol/aa1", "v3-muon/smol/aa1", "v33/smol/aa1")
    found = [Ours(name, name, "0", "best-votes", 0.125 + i / 10, (0.1, 0.25)) for i, name in enumerate(names)]
    monkeypatch.setattr(our_scores, "find", lambda version: [mine for mine in found if mine.version == version])
    told = ["", "ours, in %", *(f"  {mine.text}" for mine in found[:2])]
    assert list(show_experiment.explained(facts, "v3")) == lines + told
    mistaken = {"versions": {"v3": version | {"mistakes": ["one " * 30, "two"]}}, "reasons": {}, "published": []}
    mistakes = list(show_experiment.explained(Ledger.model_validate(mistaken, strict=False), "v3"))[len(lines) :]
    assert mistakes[:2] == ["", "Mistakes found (docs/versions.md lists those with a number):"]
    assert [line[:6] for line in mistakes[2:5]] == ["- one ", "  one ", "- two"]


def test_marks_of_sections_that_the_presets_lack() -> None:
    values = {"title": "a", "seed": 5, "same": 1, "new": {"x": 1, "y": {"z": True}}, "empty": {}, "other": [1, 2]}
    assert list(show_experiment.marked(values, {"title": "b", "same": 1, "empty": {}, "other": {"w": 1}})) == [
        "title: a",
        "seed: 5",
        "same: 1",
        "new:  # <- not in the presets",
        "  x: 1",
        "  y:",
        "    z: true",
        "empty: {}",
        "other: [1, 2]  # <- {w: 1}",
    ]


def own(split: str, kind: str, contents: Any) -> Path:
    path = paths.OWN / paths.raw(split, kind).name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(contents))
    return path


def test_own_tasks_are_counted_from_their_files() -> None:
    config = experiment().model_copy(update={"fetch": experiment().fetch.model_copy(update={"source": "own"})})
    for split in arckit_tasks.SPLITS:
        for kind in arckit_tasks.KINDS:
            with pytest.raises(StageError) as refused:
                show_experiment.task_counts(config)
            assert str(refused.value) == f"data/own lacks the {split} files; see data/own/README.md"
            own(split, kind, FILES[split, kind])
    assert show_experiment.task_counts(config) == (2, 1)


def test_official_evaluation_files_replace_those_of_arckit() -> None:
    two = dict.fromkeys(("eeeeeeee", "ffffffff"), FILES["evaluation", "challenges"]["cccccccc"])
    answers = dict.fromkeys(two, FILES["evaluation", "solutions"]["cccccccc"])
    files = {"challenges": own("evaluation", "challenges", two), "solutions": own("evaluation", "solutions", answers)}
    digests = {kind: hashlib.sha256(path.read_bytes()).hexdigest() for kind, path in files.items()}
    assert show_experiment.task_counts(experiment(fetch={"official_evaluation": digests})) == (2, 2)


def test_extra_tasks_count_if_they_are_new_and_small_enough() -> None:
    def task(side: int, **test: Any) -> dict[str, Any]:
        pair = {"input": [[1] * side], "output": [[2], [3]]}
        return {"train": [pair], "test": [{"input": [[1]], "output": [[1]]} | test]}

    folder = paths.OWN / "more"
    folder.mkdir(parents=True)
    tasks = {
        "fits": task(6),
        "wide": task(7),
        "tall": task(2, output=[[1]] * 7),
        "high": task(2, output=[[1]] * 6),
        "aaaaaaaa": task(1),
        "cccccccc": task(1),
    }
    for name, contents in tasks.items():
        (folder / f"{name}.json").write_text(json.dumps(contents))
    assert show_experiment.task_counts(experiment(fetch={"extra": ["more"]})) == (4, 1)
    assert show_experiment.task_counts(experiment(fetch={"extra": ["rearc", "more"]})) == (4, 1)
    assert show_experiment.task_counts(experiment(fetch={"extra": ["rearc"]})) == (2, 1)


def test_an_error_names_the_experiment_or_the_file() -> None:
    with pytest.raises(ConfigurationError, match=r"^v3/tiny/aa1-6x6: "):
        show_experiment.resolve("v3/tiny/aa1-6x6", ["train.nothing=1"])
    with pytest.raises(ConfigurationError, match=r"^params\.yaml: "):
        show_experiment.resolve(None, ["train.nothing=1"])
