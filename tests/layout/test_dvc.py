"""dvc.yaml against the code: every file that a stage imports is a dep, every section that it reads a param."""

import re
from pathlib import Path

import pytest
import yaml

from tests.conftest import ROOT
from tests.support.imports import needed

STAGES = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]


WIDENED = {
    "params": {f"tasks/common/{name}.py" for name in ("stage", "stops", "events", "inputs")},
    "prepare": {
        "model/puzzles/views.py",
        *(f"tasks/sources/{name}.py" for name in ("extra_sources", "official_evaluation", "rearc")),
    },
    "augment": {"model/puzzles/leaks.py"},
    "train": {"model/puzzles/views.py"},
    "select": {
        *(f"model/ops/{name}.py" for name in ("cuda_graph", "process_group")),
        *(f"model/puzzles/{name}.py" for name in ("leaks", "views")),
        *(f"model/scoring/{name}.py" for name in ("diagnostics", "replay", "wording")),
        "tasks/machine/nodes.py",
    },
    "predict": {
        "model/ops/cuda_graph.py",
        *(f"model/puzzles/{name}.py" for name in ("leaks", "views")),
        "tasks/machine/nodes.py",
    },
    "score": {f"model/storage/{name}.py" for name in ("checkpoints", "format_5")},
    "report": {"tasks/reporting/terminal.py"},
    "publish": {  # Seconds of work.
        *(f"model/ops/{name}.py" for name in ("cuda_graph", "process_group")),
        "model/puzzles/leaks.py",
        *(f"model/scoring/{name}.py" for name in ("diagnostics", "replay")),
        "tasks/machine/nodes.py",
        "tasks/tracking/live.py",
    },
}
"""Files in a folder that a stage depends on although it does not import them: editing one makes the stage stale."""


def code(name: str) -> set[str]:
    """Python files that a stage's deps name, alone or in a folder; packages' __init__.py left out."""
    found: set[Path] = set()
    for dep in STAGES[name]["deps"]:
        path = ROOT / dep
        if dep.startswith(("model/", "tasks/")):
            assert path.exists(), dep
            found |= {path} if path.suffix else {p for p in path.rglob("*.py") if p.name != "__init__.py"}
    return {path.relative_to(ROOT).as_posix() for path in found if path.suffix == ".py"}


@pytest.mark.parametrize("name", STAGES)
def test_the_deps_hold_every_imported_file(name):
    imported = needed(f"tasks.{name}", ROOT)
    if name == "publish":  # It copies what the models in MLflow import.
        imported |= needed("tasks.serving.served_model", ROOT) | {"tasks/serving/served_model.py"}
    assert imported - code(name) == set()
    assert code(name) - imported == WIDENED.get(name, set())


def test_the_sampler_and_the_objective_stay_apart():
    """Editing how answers are sampled must not train again; editing the objective must not predict again."""
    assert not {path for path in code("train") if path.startswith(("model/inference/", "model/scoring/"))}
    assert not {path for path in code("predict") if path.startswith(("model/training/", "model/scoring/"))}


@pytest.mark.parametrize("name", STAGES)
def test_the_command_is_the_module_of_the_same_name(name):
    assert STAGES[name]["cmd"].startswith(f"python -m tasks.{name}")
    assert (ROOT / "tasks" / f"{name}.py").exists()


@pytest.mark.parametrize("name", STAGES)
def test_no_command_or_output_holds_what_changes_by_itself(name):
    outs = [o if isinstance(o, str) else next(iter(o)) for o in STAGES[name].get("outs", [])]
    for text in [STAGES[name]["cmd"], *outs]:
        assert not re.search(r"run_id|/tmp|/home|\d{4}-\d{2}", text)


def test_imports_are_followed_through_modules(tmp_path: Path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "one.py").write_text("def late():\n    from a import two\n")
    (tmp_path / "a" / "two.py").write_text("import a.three\nimport os\n")
    (tmp_path / "a" / "three.py").write_text("")
    assert needed("a.one", tmp_path) == {"a/one.py", "a/two.py", "a/three.py"}
