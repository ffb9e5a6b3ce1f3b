"""Which project files a module needs, by its import statements: the truth that dvc.yaml and the layout are held to."""

import ast
import functools
from collections import Counter
from pathlib import Path

import networkx


def files(folder: str, root: Path) -> list[Path]:
    """Python files at any depth below a folder, relative to the root. Raises if there are none."""
    found = sorted(path.relative_to(root) for path in (root / folder).rglob("*.py"))
    if not found:
        raise ValueError(f"{root / folder} holds no Python file")
    return found


def imported(path: Path, root: Path) -> set[Path]:
    """Project files that one file imports anywhere in it, packages' __init__.py left out."""
    return set(_imported((root / path).read_text(), path, root))


@functools.cache
def _imported(source: str, path: Path, root: Path) -> frozenset[Path]:
    found: set[Path] = set()
    for node in ast.walk(ast.parse(source)):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        candidates = (Path(*name.split(".")).with_suffix(".py") for name in names)
        found |= {candidate for candidate in candidates if (root / candidate).exists()}
    return frozenset(found - {path})


def needed(module: str, root: Path) -> set[str]:
    """Files of the project that `module` imports, directly or through others, itself included."""
    found: set[Path] = set()
    waiting = [Path(*module.split(".")).with_suffix(".py")]
    while waiting:
        path = waiting.pop()
        if path not in found:
            found.add(path)
            waiting += imported(path, root)
    return {path.as_posix() for path in found}


def graph(root: Path) -> networkx.DiGraph:
    """Files of model, tasks and flows, with an edge from each file to those that it imports."""
    result = networkx.DiGraph()
    for folder in ("model", "tasks", "flows"):
        for path in files(folder, root):
            result.add_node(path)
            result.add_edges_from((path, other) for other in imported(path, root))
    return result


def room(path: Path) -> str:
    """The room of a file: its sub-package of model, tasks or flows, or the package for files at its top."""
    return "/".join(path.parts[: min(2, len(path.parts) - 1)])


def room_table(root: Path) -> str:
    """Room by room: how many imports each row's files take from each column's."""
    counts = Counter((room(a), room(b)) for a, b in graph(root).edges if room(a) != room(b))
    rooms = networkx.DiGraph(counts.keys())
    order = list(networkx.topological_sort(rooms)) if networkx.is_directed_acyclic_graph(rooms) else sorted(rooms)
    width = max(len(name) for name in order)
    lines = [" " * width + "".join(f"{i:>4}" for i in range(len(order)))]
    for i, name in enumerate(order):
        cells = (str(counts[name, other]) if counts[name, other] else "." for other in order)
        lines.append(f"{name:<{width}}" + "".join(f"{cell:>4}" for cell in cells) + f"  {i}")
    return "\n".join(lines)
