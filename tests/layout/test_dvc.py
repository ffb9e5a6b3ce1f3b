"""dvc.yaml against the code: every file that a stage imports is a dep, every section that it reads a param."""

import re
from pathlib import Path

import pytest
import yaml

from tests.conftest import ROOT
from tests.support.imports import needed

STAGES = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]


@pytest.mark.parametrize("name", STAGES)
def test_the_deps_hold_every_imported_file(name):
    code = {dep for dep in STAGES[name]["deps"] if dep.endswith(".py")}
    assert code == needed(f"tasks.{name}", ROOT)


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
