"""Which candidates `select` names best, halfway, late and final, and what it measures of each."""

import json
from types import SimpleNamespace

import numpy as np
import pytest

from model.storage import checkpoints
from tasks import select
from tasks.common import paths
from tasks.files.tables import read_dataset, read_solutions, read_tasks
from tests.support.small_experiment import build, save_checkpoint


@pytest.fixture
def config(workspace):
    return build(train={"candidates": 4})


def _selected(config, monkeypatch, results, *, optimizer_steps=12, stopped=False):
    """Contents of selection.json for candidates with these (pass@2, cells right) by step."""
    for step in results:
        last = stopped and step == max(results)
        save_checkpoint(config, f"candidates/step-{step:07d}", step=step, stopped_early=last)

    def measure(stem, evaluation, seed):
        step = checkpoints.describe(stem).step
        return {"step": step, "pass_at_2": results[step][0], "cell_accuracy": results[step][1]}

    monkeypatch.setattr(select, "measure", measure)
    select.main()
    chosen = json.loads(paths.SELECTION.read_text())
    for name in ("best", "halfway", "late", "final"):
        assert checkpoints.check_intact(paths.CHECKPOINTS / name).step == chosen[name]
    return chosen


@pytest.mark.parametrize(
    ("results", "best"),
    [
        ({3: (0.2, 0.1), 6: (0.5, 0.2), 9: (0.4, 0.9), 12: (0.3, 0.8)}, 6),
        ({3: (0.5, 0.1), 6: (0.5, 0.3), 9: (0.5, 0.2), 12: (0.4, 0.9)}, 6),
        ({3: (0.5, 0.3), 6: (0.5, 0.3), 9: (0.5, 0.3), 12: (0.4, 0.9)}, 9),
        ({3: (0.0, 0.0), 6: (0.0, 0.0), 9: (0.0, 0.0), 12: (0.0, 0.0)}, 12),
    ],
)
def test_cells_right_decide_a_tie_and_then_the_later_one(config, monkeypatch, results, best):
    chosen = _selected(config, monkeypatch, results)
    assert (chosen["best"], chosen["halfway"], chosen["late"], chosen["final"]) == (best, 6, 9, 12)


@pytest.mark.parametrize(
    ("steps", "halfway", "late"),
    [((3, 6, 9), 6, 9), ((3, 6, 8), 6, 6), ((3, 6), 3, 6), ((2,), 2, 2), ((3, 5), 3, 5)],
)
def test_of_a_training_that_stopped_early_halfway_and_late_are_the_first_after(
    config, monkeypatch, steps, halfway, late
):
    chosen = _selected(config, monkeypatch, dict.fromkeys(steps, (0.0, 0.0)), stopped=True)
    assert (chosen["halfway"], chosen["late"], chosen["final"]) == (halfway, late, steps[-1])


@pytest.mark.parametrize("steps", [(), (12,), (3, 6, 9), (3, 6, 12), (6, 9, 12), (3, 6, 9, 11, 12)])
def test_an_incomplete_set_of_candidates_is_refused(config, monkeypatch, steps):
    with pytest.raises(SystemExit, match=r"select: data/checkpoints/candidates has .*run the stage train again"):
        _selected(config, monkeypatch, dict.fromkeys(steps, (0.0, 0.0)))
    assert not (paths.CHECKPOINTS / "best.json").exists()


def test_candidates_of_two_trainings_are_refused(config, monkeypatch):
    results = dict.fromkeys((3, 6, 9, 12), (0.0, 0.0))
    save_checkpoint(config, "candidates/step-0000003", step=3)
    saved = save_checkpoint

    def other_seed(config, name, **changes):
        return saved(config, name, **changes, **({"seed": 5} if changes["step"] == 6 else {}))

    monkeypatch.setitem(globals(), "save_checkpoint", other_seed)
    with pytest.raises(SystemExit, match="candidates of several trainings"):
        _selected(config, monkeypatch, results)


def test_a_damaged_candidate_is_named(config, monkeypatch):
    for step in (3, 6, 9, 12):
        save_checkpoint(config, f"candidates/step-{step:07d}", step=step)
    path = paths.candidate(6).with_suffix(".safetensors")
    contents = bytearray(path.read_bytes())
    contents[-1] ^= 1
    path.write_bytes(contents)
    with pytest.raises(SystemExit, match=r"step-0000006.safetensors is damaged"):
        select.main()


@pytest.mark.slow
def test_cells_are_right_in_grids_of_the_right_size_only(config, monkeypatch):
    save_checkpoint(config, "candidates/step-0000003", step=3)
    names = [task["name"] for task in read_tasks()]
    data, solutions = read_dataset("validation", paths.VOTING_VIEWS), read_solutions("validation")
    answers, expected = [], []
    for pair, (task, number) in enumerate(zip(data.pairs.task, data.pairs.number, strict=True)):
        solution = solutions[names[task]][number]
        half = solution.copy()
        half.ravel()[0] = (half.ravel()[0] + 1) % 10
        grown = np.concatenate([solution, solution])  # Broadcasting may compare it with some shapes.
        for attempt, grid in enumerate((half, grown)):
            answers.append(SimpleNamespace(pair=pair, view=0, attempt=attempt, grid=grid))
        expected += [1 - 1 / solution.size, 0.0]
    monkeypatch.setattr(select, "answers", lambda *_: (iter(answers[::-1]), data, names))
    result = select.measure(paths.candidate(3), config.select, 0)
    assert result["cell_accuracy"] == pytest.approx(np.mean(expected))
    assert result["pass_at_2"] == 0
    assert result["step"] == 3
