"""Draws mutants, tries each in a copy of the checkout, and prints the share that a test notices.

Works in namespaces of its own: a mutant sees no other process, has its own /tmp, and cannot write to the checkout.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

from tests.mutants import nearest, sample, trial

ROOT = Path(__file__).parents[2]
REPORT = ROOT / ".scratch" / "mutants"
INSIDE = "ARC_MUTANTS_INSIDE"
SECONDS = 240.0
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
    os.environ |= {INSIDE: "1", "HOME": "/tmp/home", "COVERAGE_CORE": "ctrace"}
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


def try_one(tree: Path, tests: nearest.Tests, mutant: sample.Mutant) -> dict[str, object]:
    """Outcome of a mutant: first the tests that execute its statement, then all that execute its module."""
    path = tree / mutant.path
    source, began = path.read_text(), time.monotonic()
    lines = tests.of_lines(mutant.path, sample.statement(source, mutant.line))
    rest = [name for name in tests.of_file(mutant.path) if name not in set(lines)]
    mutated = mutant.apply(source)
    outcome, noticed_by = "survived", ""
    for chosen in (lines, rest):
        if chosen and outcome == "survived":
            path.write_text(mutated)
            result = trial.run(tree, chosen, LOG, SECONDS)
            path.write_text(source)
            if result != "passed":
                noticed_by = trial.failed_test(LOG) or chosen[0]
                control = trial.run(tree, [noticed_by], CONTROL, SECONDS)
                outcome = result if control == "passed" else "fails without the mutant"
    pairs = zip(source.splitlines(), mutated.splitlines(), strict=False)
    return {
        "mutant": str(mutant),
        "change": next(((old.strip(), new.strip()) for old, new in pairs if old != new), None),
        "outcome": outcome,
        "noticed_by": noticed_by,
        "tests_of_its_line": len(lines),
        "tests_of_its_module": len(lines) + len(rest),
        "seconds": round(time.monotonic() - began, 1),
    }


def main(count: int, seed: int, processes: int) -> None:
    """Write `.scratch/mutants/seed-SEED.json` after every mutant."""
    tree = Path("/tmp/tree")
    copy(tree)
    elsewhere = [name for name in os.environ.get("PYTHONPATH", "").split(os.pathsep) if name not in ("", str(ROOT))]
    os.environ["PYTHONPATH"] = os.pathsep.join([str(tree), *elsewhere])
    state = subprocess.run(["git", "rev-parse", "HEAD^{tree}"], cwd=tree, capture_output=True, text=True, check=True)
    measured = REPORT / f"coverage-{state.stdout.strip()}"
    if not measured.exists():
        nearest.measure(tree, processes)
        shutil.copyfile(tree / ".coverage", measured)
    tests = nearest.Tests(tree, measured)
    print("the fast tests pass; every line of the six rooms knows its tests", flush=True)
    trial.preload()
    rows: list[dict[str, object]] = []
    for mutant in sample.sample(tree, count, seed):
        rows.append(try_one(tree, tests, mutant))
        (REPORT / f"seed-{seed}.json").write_text(json.dumps(rows, indent=1))
        row = rows[-1]
        print(f"{len(rows)} {row['outcome']} {row['mutant']} {row['change']} {row['seconds']} s", flush=True)
    survivors = [row for row in rows if row["outcome"] == "survived"]
    print(dict(Counter(str(row["outcome"]) for row in rows)))
    print(f"{1 - len(survivors) / len(rows):.1%} of {len(rows)} mutants were noticed (seed {seed})")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("count", type=int)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--processes", type=int, default=2, help="of the fast tests before the mutants")
    arguments = parser.parse_args()
    if INSIDE not in os.environ:
        isolate()
    main(arguments.count, arguments.seed, arguments.processes)
