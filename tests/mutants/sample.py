"""Which mutants there are, by the operators of cosmic-ray, and a random sample of them.

Not drawn, because nothing that a program does can tell them apart, or because they fail at import whatever is tested:

- type annotations, with the help texts of command options inside them, and `if TYPE_CHECKING`;
- a decorator taken away: without `@property` or `@dataclass` everything fails, and `@functools.cache`,
  `@torch.no_grad()` and compilation are for speed and memory, as is `frozen=True` for readers;
- the condition `__name__ == "__main__"`: a module that runs as it is imported fails every test;
- `strict=True` of `zip`, an assertion that no correct program reaches, `flush=True` of `print`, and `help=` of options;
- `is` for `==`, which are the same for small numbers and short strings in CPython.

All else is drawn: texts with numbers in them, margins of drawings and waits between two looks among them.
"""

import ast
import random
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

import cosmic_ray.plugins
from cosmic_ray.ast import ast_nodes, get_ast_from_path
from cosmic_ray.mutating import mutate_code

_KINDS = {
    "operator": "core/ReplaceBinaryOperator",
    "comparison": "core/ReplaceComparisonOperator",
    "factor": "core/ReplaceUnaryOperator",
    "not_test": "core/ReplaceUnaryOperator",
}
"""Which of the many replacements a node can have, by its type; asking each operator of each node takes a minute."""
_EXCEPTED = {
    "core/RemoveDecorator",
    "core/ReplaceComparisonOperator_Eq_Is",
    "core/ReplaceComparisonOperator_NotEq_IsNot",
}
ROOMS = ("model/scoring", "model/inference", "model/training", "model/puzzles", "tasks", "flows")


@dataclass(frozen=True)
class Mutant:
    """One operator of cosmic-ray at one place."""

    path: str
    """Of the module, from the root of the checkout."""
    operator: str
    occurrence: int
    """Number of the place among all places of the operator in the module."""
    line: int
    column: int

    def apply(self, source: str) -> str:
        """The module with the bug."""
        mutated = mutate_code(source, cosmic_ray.plugins.get_operator(self.operator)(), self.occurrence)
        assert mutated is not None, self
        return str(mutated)

    def change(self, source: str) -> str:
        """The first line that differs, before and after."""
        pairs = zip(source.splitlines(), self.apply(source).splitlines(), strict=False)
        return next(f"{old.strip()} -> {new.strip()}" for old, new in pairs if old != new)

    def __str__(self) -> str:
        return f"{self.path}:{self.line}:{self.column} {self.operator.removeprefix('core/')}"


def sample(root: Path, count: int, seed: int) -> list[Mutant]:
    """`count` places at random, and one mutant of each, so that operators with many replacements weigh no more.

    What does not compile is drawn again: cosmic-ray takes the stars of `{**a}` for an operator, and fails at dotted
    names in a tuple of exceptions (8.7).
    """
    draws = random.Random(seed)
    places = defaultdict(list)
    for mutant in mutants(root):
        places[mutant.path, mutant.line, mutant.column].append(mutant)
    chosen: list[Mutant] = []
    for place in draws.sample(sorted(places), len(places)):
        mutant = draws.choice(places[place])
        if len(chosen) == count:
            break
        if _applies(mutant, (root / mutant.path).read_text()):
            chosen.append(mutant)
    return chosen


def mutants(root: Path) -> list[Mutant]:
    """Every mutant of ROOMS that this module's description does not except."""
    found = []
    for path in sorted(path for room in ROOMS for path in (root / room).rglob("*.py")):
        excepted = _excepted(path.read_text())
        nodes = defaultdict(list)
        for node in ast_nodes(get_ast_from_path(path)):
            nodes[_KINDS.get(node.type, "")].append(node)
            nodes["all"].append(node)
        for operator in sorted(cosmic_ray.plugins.operator_names()):
            kind = cosmic_ray.plugins.get_operator(operator)
            if kind.arguments() or operator in _EXCEPTED:
                continue  # Some replace variables that have to be named.
            group = nodes.get(operator.split("_")[0], ()) if operator.split("_")[0] in _KINDS.values() else nodes["all"]
            places = [place for node in group for place, _ in kind().mutation_positions(node)]
            name = str(path.relative_to(root))
            found += [
                Mutant(name, operator, number, line, column)
                for number, (line, column) in enumerate(places)
                if not any(start <= (line, column) < end for start, end in excepted)
            ]
    return found


def _applies(mutant: Mutant, source: str) -> bool:
    try:
        compile(mutant.apply(source), "mutant", "exec")
    except (AttributeError, SyntaxError):
        return False
    return True


def statement(source: str, line: int) -> range:
    """Lines of the innermost statement at a line; of a compound one, its lines before the body."""
    found = range(line, line + 1)
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.stmt):
            continue
        body = getattr(node, "body", None)
        decorators = getattr(node, "decorator_list", [])
        first = min([node.lineno, *(d.lineno for d in decorators)])
        last = max(node.lineno, body[0].lineno - 1) if body else node.end_lineno or node.lineno
        if first <= line <= last:
            found = range(first, last + 1)  # ast.walk goes from the outside to the inside.
    return found


def at_import(source: str, line: int) -> bool:
    """Whether a line is executed when its module is imported: outside of all functions, or the head of an outer one."""
    return not any(
        isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and node.body[0].lineno <= line <= (node.end_lineno or 0)
        for node in ast.walk(ast.parse(source))
    )


def _excepted(source: str) -> list[tuple[tuple[int, int], tuple[int, int]]]:
    """Start and end (line, column) of what is not mutated."""
    nodes: list[ast.expr | None] = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.arg | ast.AnnAssign):
            nodes.append(node.annotation)
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            nodes.append(node.returns)
        elif isinstance(node, ast.keyword):
            true = isinstance(node.value, ast.Constant) and node.value.value is True
            nodes += [node.value] if node.arg == "help" or (true and node.arg in ("frozen", "strict", "flush")) else []
        elif isinstance(node, ast.If) and {"__name__", "TYPE_CHECKING"} & {
            name.id for name in ast.walk(node.test) if isinstance(name, ast.Name)
        }:
            nodes.append(node.test)
    return [((n.lineno, n.col_offset), (n.end_lineno or 0, n.end_col_offset or 0)) for n in nodes if n]
