"""The example runs as its docstring says, and learns."""

import math
import re
import subprocess
import sys

import pytest

from tests.conftest import ROOT


@pytest.mark.slow
def test_one_update_lowers_the_loss_of_its_own_batch():
    done = subprocess.run(
        [sys.executable, "examples/one_update.py"],
        cwd=ROOT, env={"PYTHONPATH": str(ROOT), "PATH": ""}, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    before, after = map(float, re.findall(r"\d+\.\d+", done.stdout))
    # The colour head starts at zero: every colour has probability 1/10, plus a tenth of the two size cross-entropies.
    assert before > math.log(10)
    assert after < before
