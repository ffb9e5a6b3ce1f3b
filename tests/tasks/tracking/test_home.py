"""Where results are published from a copy that DVC makes for `dvc exp run --temp` and `--queue`, and then deletes."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT

WHERE = "from tasks.common import paths; from tasks.tracking import store; s = store.configured_store()\n"
WHERE += "print(paths.SCRATCH.resolve(), s.database, s.artifacts, sep='\\n')"


@pytest.mark.parametrize("copy", [".", ".dvc/tmp/exps/tmp1", ".dvc/tmp/exps/standalone/tmp2"])
def test_a_copy_of_dvcs_uses_the_checkout_around_it(tmp_path: Path, copy: str) -> None:
    (tmp_path / copy).mkdir(parents=True, exist_ok=True)
    done = subprocess.run(
        [sys.executable, "-c", WHERE],
        cwd=tmp_path / copy,
        env={"PYTHONPATH": str(ROOT), "PATH": ""},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.split() == [str(tmp_path / name) for name in (".scratch", "mlflow.db", "mlartifacts")]
