"""The layout is the architecture: imports go one way, and files stay small."""

import ast
from pathlib import Path

import pytest

from tests.conftest import ROOT

ALLOWED = {
    "model": {"torch", "numpy", "pydantic", "safetensors", "scipy", "pandas", "model", "triton", "flash_attn"},
    "tasks": {"flows", "prefect"},
}


def _imports(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found.add((node.module or "").split(".")[0])
    return found


def test_model_imports_computation_only():
    import sys

    for path in (ROOT / "model").glob("*.py"):
        assert _imports(path) - set(sys.stdlib_module_names) <= ALLOWED["model"], path


def test_tasks_import_no_flow():
    for path in (ROOT / "tasks").glob("*.py"):
        if path.name != "ui.py":
            assert not _imports(path) & ALLOWED["tasks"], path


@pytest.mark.parametrize(
    "path", sorted(p for d in ("model", "tasks", "flows", "tests") for p in (ROOT / d).glob("*.py"))
)
def test_no_file_is_over_300_lines(path):
    assert len(path.read_text().splitlines()) <= 300


def test_the_map_in_the_readme_names_every_module():
    readme = (ROOT / "README.md").read_text()
    modules = {p.name for d in ALLOWED | {"flows": set()} for p in (ROOT / d).glob("*.py")} - {"__init__.py"}
    assert not {name for name in modules if f"`{name}`" not in readme}
