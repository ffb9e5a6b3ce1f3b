"""train.evaluate_candidates: scores as candidates appear, equal to those of `select`, beside an unchanged training."""

import json
import subprocess
import sys

import pytest
from safetensors.torch import load_file

from tasks import select, train
from tasks.common import events, paths
from tests.conftest import ROOT
from tests.support.small_experiment import build


def _outputs():
    """Weights of the candidates by step, the history and the probes."""
    weights = {path.stem: load_file(path) for path in sorted(paths.CANDIDATES.glob("*.safetensors"))}
    return weights, paths.HISTORY.read_bytes(), paths.PROBES.read_bytes()


def _train(monkeypatch, **changes):
    path = paths.SCRATCH.parent / f"events-{bool(changes)}.jsonl"
    monkeypatch.setenv(events.VARIABLE, str(path.absolute()))
    build(train=changes)
    train.main()
    return _outputs(), list(events.Reader(path).new())


@pytest.mark.slow
def test_candidates_are_scored_as_select_does_and_nothing_else_changes(workspace, monkeypatch, capsys):
    plain, quiet = _train(monkeypatch)
    assert not any(isinstance(event, events.CandidateScored) for event in quiet)
    capsys.readouterr()
    scored, told = _train(monkeypatch, evaluate_candidates=True)
    assert scored[1:] == plain[1:]
    assert scored[0].keys() == plain[0].keys()
    assert all((t == plain[0][c][n]).all() for c, named in scored[0].items() for n, t in named.items())
    found = [event for event in told if isinstance(event, events.CandidateScored)]
    printed = capsys.readouterr().out
    select.main()
    candidates = json.loads(paths.SELECTION.read_text())["candidates"]
    assert len(candidates) == len(found) == 2
    for event, candidate in zip(found, candidates, strict=True):
        for name in ("step", "pass_at_2", "cell_accuracy", "grids_solved", "n_grids"):
            assert getattr(event, name) == candidate[name]
        assert list(event.ci95) == candidate["ci95"]
        assert f"candidate of update {event.step}: pass@2 {event.pass_at_2:.3f}" in printed
    # A score is told before the training goes on.
    kinds = [(event.kind, event.step) for event in told if isinstance(event, events.Progress | events.CandidateScored)]
    assert kinds.index(("candidate_scored", 6)) < kinds.index(("progress", 8))


def test_progress_events_carry_the_looks(workspace, monkeypatch):
    _, told = _train(monkeypatch, validation={"every": 8})
    progress = [event for event in told if isinstance(event, events.Progress)]
    history = json.loads(paths.HISTORY.read_text())
    assert [event.step for event in progress] == [4, 8, 12]
    assert [event.validation_loss is not None for event in progress] == [False, True, True]
    for event, row in zip(progress, history, strict=True):
        assert event.validation_loss == row.get("validation_loss")
        assert event.validation_accuracy == row.get("validation_accuracy")


@pytest.mark.slow
def test_without_it_the_stage_loads_no_sampler():
    code = "import sys, tasks.train; print(*sorted(m for m in sys.modules if m.startswith(('model.inf', 'model.sco'))))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    assert done.stdout.split() == []
