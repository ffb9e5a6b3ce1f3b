"""The layout is the architecture: imports go one way between packages, rooms and files, and files stay small."""

import ast
import sys
from pathlib import Path

import networkx
import pytest

from tests.conftest import ROOT
from tests.support.imports import files, graph, room, room_table

PACKAGES = ("model", "tasks", "flows")
FOREIGN = {"torch", "numpy", "pydantic", "safetensors", "scipy", "pandas", "triton", "flash_attn", "model"}
"""What model/ may import beside the standard library."""
LARGEST_ROOM = 14


def _top_level_imports(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found.add((node.module or "").split(".")[0])
    return found


def test_the_guards_see_every_file():
    assert len(files("model", ROOT)) > 40
    assert len(files("tasks", ROOT)) > 30
    assert len(files("flows", ROOT)) > 20


def test_model_imports_computation_only():
    for path in files("model", ROOT):
        assert _top_level_imports(ROOT / path) - set(sys.stdlib_module_names) <= FOREIGN, path


PARSERS = {
    "tasks/common/documents.py",
    "model/storage/checkpoints.py",  # model reads its own descriptions
    "model/storage/sealed.py",  # what it has just written
    "model/training/resume_states.py",  # whose bytes have the digest of their name
    "tasks/machine/gpu_lock.py",  # a record of 4 kB that any user may write; its reader accepts anything
    "tasks/train.py",  # dvc.yaml
}
"""Files that may parse JSON or YAML; all others use `tasks.common.documents`, which has limits and names the place."""


def test_one_module_reads_documents():
    found = set()
    for path in (path for package in PACKAGES for path in files(package, ROOT)):
        for node in ast.walk(ast.parse((ROOT / path).read_text())):
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
                parses = node.value.id == "json" and node.attr in ("load", "loads")
                if parses or (node.value.id == "yaml" and node.attr in ("load", "safe_load", "full_load")):
                    found.add(str(path))
    assert found == PARSERS


def test_tasks_import_no_flow():
    for path in files("tasks", ROOT):
        allowed = {"prefect"} if path.name in ("ui.py", "calm.py") else set()
        assert not (_top_level_imports(ROOT / path) & {"flows", "prefect"}) - allowed, path


def test_no_circle_between_files():
    assert list(networkx.simple_cycles(graph(ROOT))) == []


def test_no_circle_between_rooms_and_no_arrow_upwards():
    rooms = networkx.DiGraph()
    rooms.add_edges_from((room(a), room(b)) for a, b in graph(ROOT).edges if room(a) != room(b))
    assert list(networkx.simple_cycles(rooms)) == [], "\n" + room_table(ROOT)
    order = {name: place for place, name in enumerate(("flows", "tasks", "model"))}
    upward = [(a, b) for a, b in rooms.edges if order[a.split("/")[0]] > order[b.split("/")[0]]]
    assert upward == [], "\n" + room_table(ROOT)


def test_the_table_of_rooms_shows_every_room(capsys: pytest.CaptureFixture[str]):
    table = room_table(ROOT)
    with capsys.disabled():
        print("\n" + table)
    assert {"model/ops", "tasks/common", "flows/queue"} <= set(table.split())


@pytest.mark.parametrize("path", [p for d in (*PACKAGES, "tests") for p in files(d, ROOT)], ids=str)
def test_no_file_is_over_300_lines(path: Path):
    assert len((ROOT / path).read_text().splitlines()) <= 300


@pytest.mark.parametrize("folder", sorted({p.parent for d in PACKAGES for p in files(d, ROOT)}), ids=str)
def test_a_room_says_what_belongs_in_it_and_stays_small(folder: Path):
    inside = [p for p in files(str(folder), ROOT) if p.parent == folder and p.name != "__init__.py"]
    assert len(inside) <= LARGEST_ROOM
    text = ast.get_docstring(ast.parse((ROOT / folder / "__init__.py").read_text()))
    assert text
    assert len(text.splitlines()) <= 2


def test_the_readme_maps_every_room():
    readme = (ROOT / "README.md").read_text()
    rooms = {room(p) for d in PACKAGES for p in files(d, ROOT)}
    assert not {name for name in rooms if f"`{name}/`" not in readme}


def test_no_test_imports_another():
    for path in files("tests", ROOT):
        for node in ast.walk(ast.parse((ROOT / path).read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import | ast.ImportFrom) else []
            modules = [node.module or "", *names] if isinstance(node, ast.ImportFrom) else names
            tests = [name for name in modules if name.rsplit(".")[-1].startswith("test_") or ".test_" in name]
            assert tests == [], f"{path} imports {tests}; shared helpers belong to tests/support"
