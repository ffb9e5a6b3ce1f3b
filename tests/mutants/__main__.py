"""Draws mutants, tries each in a copy of the checkout, and prints the share that a test notices.

Works in namespaces of its own: a mutant sees no other process, has its own /tmp, and cannot write to the checkout.
"""

import argparse
import functools
import itertools
import json
import os
import shutil
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from tests.mutants import nearest, sample, trial

ROOT = Path(__file__).parents[2]
REPORT = ROOT / ".scratch" / "mutants"
INSIDE = "ARC_MUTANTS_INSIDE"
NEAREST, NEAREST_SECONDS = 12, 40
"""Tests that are tried first, and their CPU-seconds."""
OTHERS_SECONDS = 240
"""For all others that execute the line: twice what the whole fast suite takes."""
SURVIVED = "survived"
LOG, CONTROL = Path("/tmp/trial.log"), Path("/tmp/control.log")


def isolate() -> None:
    """Start this program again in namespaces of its own, by util-linux' `unshare`."""
    REPORT.mkdir(parents=True, exist_ok=True)
    mounts = (
        'mount -t tmpfs tmpfs /tmp && mount --bind "$0" "$0" && mount --bind "$1" "$1" && '
        'mount -o remount,bind,ro "$0" && cd "$0" && shift && exec "$@"'
    )
    user = [] if os.geteuid() == 0 else ["--map-root-user"]
    command = ["unshare", *user, "--mount", "--pid", "--fork", "--kill-child", "--mount-proc", "sh", "-c", mounts]
    os.environ |= {INSIDE: "1", "HOME": "/tmp/home", "COVERAGE_CORE": "ctrace", "MLFLOW_DISABLE_TELEMETRY": "true"}
    os.execvp(command[0], [*command, str(ROOT), str(REPORT), sys.executable, "-m", "tests.mutants", *sys.argv[1:]])


def copy(target: Path) -> None:
    """The tracked files of the checkout, as a repository of its own."""
    git = ["git", "-c", "safe.directory=*"]
    files = subprocess.run([*git, "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for name in files.split("\0")[:-1]:
        if (ROOT / name).is_file():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, target / name)
    commit = ["-c", "user.name=mutants", "-c", "user.email=mutants@localhost", "commit", "-qm", "mutants"]
    for command in (["init", "-q"], ["add", "-A"], commit):
        subprocess.run([*git, *command], cwd=target, check=True)


def try_one(tree: Path, mutant: sample.Mutant, groups: Iterable[tuple[Sequence[str], int]]) -> tuple[str, str]:
    """Outcome of a mutant, and the test that noticed it, of groups of tests, run until one fails or its seconds end.

    That test is run again without the mutant, and must pass.
    """
    path = tree / mutant.path
    source = path.read_text()
    for arguments, seconds in groups:
        if not arguments:
            continue
        _write(path, mutant.apply(source))
        result = trial.run(tree, arguments, LOG, seconds)
        _write(path, source)
        if result == "timeout":  # Of the mutant, or of many tests?
            if trial.run(tree, arguments, CONTROL, seconds) == "passed":
                return result, ""
        elif result != "passed":
            noticed_by = trial.failed_test(LOG) or arguments[0]
            return result if _passes(tree, noticed_by) else "fails without the mutant", noticed_by
    return SURVIVED, ""


_writes = itertools.count(1)


def _write(path: Path, text: str) -> None:
    """Write a module with a time of its own: Python takes compiled code of the same time and size for the same."""
    path.write_text(text)
    number = next(_writes)
    os.utime(path, (number, number))


@functools.cache
def _passes(tree: Path, test: str) -> bool:
    return trial.run(tree, [test], CONTROL, OTHERS_SECONDS) == "passed"


def groups_of(
    tree: Path, tests: nearest.Tests, mutant: sample.Mutant, slow: bool
) -> Iterator[tuple[Sequence[str], int]]:
    """All fast tests that execute a mutant's statement, the nearest first, and their CPU-seconds; or slow ones.

    A statement that is executed at import counts for every test that executes its module or one that imports it.
    """
    if slow:
        yield from ((group, OTHERS_SECONDS) for group in nearest.slow_groups(tree, mutant.path))
        return
    source = (tree / mutant.path).read_text()
    chosen = tests.of_lines(mutant.path, sample.statement(source, mutant.line))
    if sample.at_import(source, mutant.line):
        files = [mutant.path, *nearest.users(tree, mutant.path)]
        chosen = list(dict.fromkeys(name for file in files for name in tests.of_file(file)))
    yield chosen[:NEAREST], NEAREST_SECONDS
    yield chosen[NEAREST:], OTHERS_SECONDS


def main(count: int, seed: int, processes: int, slow: bool) -> None:
    """Continue `.scratch/mutants/COMMIT-SEED.json`, written after every mutant."""
    tree = Path("/tmp/tree")
    copy(tree)
    elsewhere = [name for name in os.environ.get("PYTHONPATH", "").split(os.pathsep) if name not in ("", str(ROOT))]
    os.environ["PYTHONPATH"] = os.pathsep.join([str(tree), *elsewhere])
    state = subprocess.run(["git", "rev-parse", "HEAD^{tree}"], cwd=tree, capture_output=True, text=True, check=True)
    name = state.stdout[:12]
    measured, report = REPORT / f"{name}.coverage", REPORT / f"{name}-{seed}.json"
    if not measured.exists():
        nearest.measure(tree, processes)
        shutil.copyfile(tree / ".coverage", measured)
    tests = nearest.Tests(tree, measured)
    trial.preload()
    rows = json.loads(report.read_text()) if report.exists() else {}
    for number, mutant in enumerate(sample.sample(tree, count, seed), 1):
        began = time.monotonic()
        if str(mutant) in rows and not (slow and rows[str(mutant)]["outcome"] == SURVIVED):
            continue
        outcome, noticed_by = try_one(tree, mutant, groups_of(tree, tests, mutant, slow))
        outcome = (
            {"failed": "slow test failed", SURVIVED: "survived slow tests"}.get(outcome, outcome) if slow else outcome
        )
        rows[str(mutant)] = {
            "change": mutant.change((tree / mutant.path).read_text()),
            "outcome": outcome,
            "noticed_by": noticed_by,
            "seconds": round(time.monotonic() - began, 1),
        }
        report.write_text(json.dumps(rows, indent=1))
        print(f"{number} {mutant}", *rows[str(mutant)].values(), flush=True)
    print(dict(Counter(row["outcome"] for row in rows.values())))
    survivors = sum(row["outcome"].startswith((SURVIVED, "fails")) for row in rows.values())
    print(f"{1 - survivors / len(rows):.1%} of {len(rows)} mutants were noticed (seed {seed})")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("count", type=int)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--processes", type=int, default=2, help="of the fast tests before the mutants")
    parser.add_argument("--slow", action="store_true", help="try what survived the fast tests against slow ones")
    arguments = parser.parse_args()
    if INSIDE not in os.environ:
        isolate()
    main(arguments.count, arguments.seed, arguments.processes, arguments.slow)
