"""Which project files a module needs, by its import statements: the truth that dvc.yaml's deps are held to."""

import ast
from pathlib import Path


def needed(module: str, root: Path = Path()) -> set[str]:
    """Files of the project that `module` imports, directly or through others, itself included."""
    found: set[str] = set()
    waiting = [module]
    while waiting:
        path = Path(*waiting.pop().split(".")).with_suffix(".py")
        if str(path) in found or not (root / path).exists():
            continue
        found.add(str(path))
        for node in ast.walk(ast.parse((root / path).read_text())):
            if isinstance(node, ast.Import):
                waiting += [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                waiting.append(node.module)
                waiting += [f"{node.module}.{alias.name}" for alias in node.names]
    return found
