"""Which fast tests execute a line, measured once by coverage.py with the test as context."""

import subprocess
import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath

import pytest
from coverage import CoverageData

from tests.mutants.sample import ROOMS
from tests.support.imports import imported

FAST = ("-m", "not slow and not night")


def measure(tree: Path, processes: int) -> None:
    """Run the fast tests of a checkout and keep `.coverage` in it. Names those that fail: they notice no mutant."""
    packages = [f"--cov={room}" for room in sorted({room.split("/")[0] for room in ROOMS})]
    command = [sys.executable, "-m", "pytest", *FAST, *packages, "--cov-context=test", "--cov-report="]
    command += ["-n", str(processes), "--dist", "loadfile", "-p", "no:cacheprovider"]
    done = subprocess.run(command, cwd=tree, capture_output=True, text=True)
    failing = [line for line in done.stdout.splitlines() if line.startswith("FAILED ")]
    if done.returncode == pytest.ExitCode.TESTS_FAILED and failing:
        print("\n".join(["these fail without any mutant:", *failing]), flush=True)
    elif done.returncode:
        sys.exit(f"mutants: the fast tests fail without any mutant:\n{done.stdout[-4000:]}{done.stderr[-4000:]}")


def users(tree: Path, path: str) -> list[str]:
    """Modules that import one."""
    files = sorted(
        file.relative_to(tree) for room in ("model", "tasks", "flows") for file in (tree / room).rglob("*.py")
    )
    return [file.as_posix() for file in files if Path(path) in imported(file, tree)]


def slow_groups(tree: Path, path: str) -> Iterator[list[str]]:
    """Arguments of pytest for slow tests: of files that import or start a module, then of those that do by another."""
    module = PurePosixPath(path).with_suffix("").as_posix().replace("/", ".")
    files = {file.relative_to(tree): set() for file in sorted((tree / "tests").rglob("test_*.py"))}
    for file in files:
        files[file] = imported(file, tree)
    near = [file for file in files if Path(path) in files[file] or module in (tree / file).read_text()]
    by_another = {Path(user) for user in users(tree, path)}
    for chosen in (near, [file for file in files if file not in near and files[file] & by_another]):
        if chosen:
            yield [*map(str, chosen), "-m", "slow and not night"]


class Tests:
    """The tests of a measured checkout, by what they execute."""

    def __init__(self, tree: Path, measured: Path) -> None:
        """`measured` is a copy of its `.coverage`."""
        self.tree = tree
        self.data = CoverageData(str(measured))
        self.data.read()

        self.sizes: Counter[str] = Counter()
        """Lines that each test executes: the fewer, the faster it is."""
        for file in self.data.measured_files():
            for names in self.data.contexts_by_lineno(file).values():
                self.sizes.update(_names(names))

    def of_lines(self, path: str, lines: range) -> list[str]:
        """Tests that execute one of the lines, the nearest first."""
        contexts = self.data.contexts_by_lineno(str(self.tree / path))
        return self._ordered(path, _names(name for line in lines for name in contexts.get(line, [])))

    def of_file(self, path: str) -> list[str]:
        """Tests that execute any line of a module after its import, the nearest first."""
        contexts = self.data.contexts_by_lineno(str(self.tree / path))
        return self._ordered(path, _names(name for names in contexts.values() for name in names))

    def _ordered(self, path: str, names: set[str]) -> list[str]:
        """Tests of the module's own test file, of its room, and all others; in each, small ones first."""
        own = PurePosixPath("tests") / path

        def distance(name: str) -> tuple[int, int, str]:
            file = PurePosixPath(name.split("::")[0])
            if file.parent != own.parent:
                return 2, self.sizes[name], name
            return int(file.name != f"test_{own.name}"), self.sizes[name], name

        return sorted(names, key=distance)


def _names(contexts: Iterable[str]) -> set[str]:
    return {name.rpartition("|")[0] for name in contexts} - {""}
