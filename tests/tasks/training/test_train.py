"""The stage train around its updates: what a training is made of, where its results go, and what a fault leaves."""

import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from model.storage import checkpoints
from tasks import train
from tasks.common import paths
from tasks.common.params import resolved
from tasks.files import candidates, cost
from tasks.machine import gpu_lock
from tests.conftest import experiment
from tests.support.whole_training import Whole, saved, scratch

CPU = torch.device("cpu")


def kinds(told: list[Any]) -> list[str]:
    return [event.kind for event in told]


def test_the_results_replace_those_before_and_scratch_is_gone(begin: Any, capsys: Any) -> None:
    paths.CANDIDATES.mkdir(parents=True)
    (paths.CANDIDATES / "step-0000003.json").write_text("of a training before")
    told = begin()
    names = [f"step-{step:07d}.{end}" for step in (6, 12) for end in ("json", "safetensors")]
    assert sorted(path.name for path in paths.CANDIDATES.iterdir()) == names
    assert json.loads(paths.HISTORY.read_text()) == [{"step": 12.0, "loss": 0.5}]
    probes = {"reverse_step": {"cells_moved": 0.0}, "self_conditioning": {"gain": 0.25}}
    assert json.loads(paths.PROBES.read_text()) == probes
    printed = capsys.readouterr().out
    assert "reverse_step: {'cells_moved': 0.0}\nself_conditioning: {'gain': 0.25}\nwarning: the reverse step" in printed
    assert kinds(told) == ["trained"]
    assert list((paths.SCRATCH / "train").iterdir()) == []
    assert gpu_lock.held() == set()
    spent = cost.read(resolved())
    assert spent
    assert spent["device"] == "cpu"
    assert 0 < spent["seconds"] < 60
    assert spent["finished"]


def test_a_training_made_again_is_not_charged_for_the_one_before(begin: Any) -> None:
    def spent() -> float:
        known = cost.read(resolved())
        assert known
        return float(known["seconds"])

    begin()
    cost.add(resolved(), 1000.0, "cpu")
    assert spent() == 1000.0, "what finished does not count"
    cost.add(resolved(), 500.0, "cpu")
    assert spent() == 1500.0, "a start that did not finish does"
    cost.finish(resolved())
    begin()
    assert spent() < 60


def test_a_reverse_step_that_moves_cells_is_no_warning(begin: Any, capsys: Any) -> None:
    Whole.moved = 0.5
    begin()
    assert "reverse_step: {'cells_moved': 0.5}\n" in (printed := capsys.readouterr().out)
    assert "warning" not in printed


def test_a_training_is_made_of_the_data_and_the_parameters(begin: Any) -> None:
    begin(seed=3, train={"evaluation_weight": 4.0})
    [made] = Whole.made
    # Two demonstrations and a test of each training task but the one that is held out; those of the evaluation task.
    origins = [task["origin"] for task in json.loads(paths.TASKS.read_text())]
    assert made.weight.tolist() == [4.0 if origins[t] == "evaluation" else 1.0 for t in made.dataset.pairs.task]
    assert sorted(set(made.weight)) == [1.0, 4.0]
    assert made.rows == len(origins) == 3
    assert made.config == experiment(train={"evaluation_weight": 4.0}).train
    seed, device, weights, validation, last = made.given
    assert (seed, device, weights, last) == (3, CPU, None, None)
    assert [origins[t] for t in validation.pairs.task] == ["training"] * len(validation.pairs)
    described = checkpoints.describe(paths.candidate(12))
    assert (described.seed, described.step, described.stopped_early) == (3, 12, False)


def test_the_last_updates_can_be_of_evaluation_tasks_alone(begin: Any) -> None:
    begin(train={"last_share_on_evaluation": 0.25})
    [made] = Whole.made
    origins = [task["origin"] for task in json.loads(paths.TASKS.read_text())]
    assert made.given[4].tolist() == [float(origins[t] == "evaluation") for t in made.dataset.pairs.task]
    assert 0 < made.given[4].sum() < len(made.given[4])


def test_a_fine_tuning_on_evaluation_tasks_has_their_pairs_and_its_start(
    begin: Any, write: Any, monkeypatch: Any
) -> None:
    write()
    config = resolved()
    finetune = config.train.finetune.model_copy(update={"pairs": "evaluation", "start": "start"})
    changed = {"finetune": finetune, "origin_shares": {"training": 0.5}}
    config = config.model_copy(update={"seed": 5, "train": config.train.model_copy(update=changed)})
    asked: list[Any] = []
    monkeypatch.setattr(checkpoints, "start_weights", lambda *given: asked.append(given) or {"w": 1})
    described = {"tasks": ["a", "b", "c"], "first_rows": [0, 1, 2]}
    monkeypatch.setattr(candidates, "describe", lambda *_: described)
    place = Path("scratch")
    monkeypatch.setattr(train, "run", lambda *_: (place / "candidates").mkdir(parents=True))
    train.train(config, place)  # The shares are of origins that are left out.
    [made] = Whole.made
    origins = [task["origin"] for task in json.loads(paths.TASKS.read_text())]
    assert {origins[t] for t in made.dataset.pairs.task} == {"evaluation"}
    assert made.weight.tolist() == [config.train.evaluation_weight] * 2
    assert asked == [(Path("data/start/checkpoint"), config.train, config.augment, ["a", "b", "c"], [0, 1, 2], 3, 5)]
    assert made.given[2] == {"w": 1}


def test_a_sharded_training_is_another_kind(begin: Any, monkeypatch: Any) -> None:
    class Sharded(Whole):
        pass

    monkeypatch.setitem(sys.modules, "model.training.sharding", SimpleNamespace(Sharded=Sharded))
    begin()
    monkeypatch.setenv("ARC_SHARD", "1")
    begin()
    assert [type(made) for made in Whole.made] == [Whole, Sharded]


def test_a_training_goes_on_from_its_save(begin: Any, write: Any, capsys: Any) -> None:
    write()
    saved(4, train.code())
    kept = scratch() / "candidates" / "kept"
    kept.parent.mkdir()
    kept.write_text("x")
    told = begin()
    assert kinds(told) == ["resumed", "trained"]
    assert (told[0].step, told[0].total) == (4, 12)
    assert "going on after update 4 of 12\n" in capsys.readouterr().out
    tensors, plain = Whole.made[0].restored
    assert (tensors["w"].tolist(), plain["step"], plain["place"]) == ([4.0], 4, [2, 3])
    assert (paths.CANDIDATES / "kept").exists()


@pytest.mark.parametrize(
    ("step", "code", "says"),
    [
        (4, "other", "the state of this training was saved by other code: it starts anew\n"),
        (6, "", "step-0000006.json cannot be read"),
    ],
)
def test_a_save_that_must_not_be_used_is_told_and_its_candidates_go(
    begin: Any, write: Any, capsys: Any, step: int, code: str, says: str
) -> None:
    write()
    saved(step, code or train.code())
    left = scratch() / "candidates" / "left"
    left.parent.mkdir()
    left.write_text("x")
    assert kinds(begin()) == ["trained"]
    assert says in (printed := capsys.readouterr().out)
    assert "going on" not in printed
    assert not (paths.CANDIDATES / "left").exists()


@pytest.mark.slow
def test_a_lack_of_memory_is_tried_again_with_half_the_batch(begin: Any, capsys: Any) -> None:
    Whole.lacks = 1
    told = begin()
    assert [(made.config.batch, made.config.accumulation) for made in Whole.made] == [(8, 1), (4, 2)]
    says = (
        "out of GPU memory: update 1: Tried 2 GiB; once more from update 0 on, with train.batch 4 and "
        "train.accumulation 2, which makes the same examples an update"
    )
    assert [(event.kind, getattr(event, "message", "")) for event in told] == [("warned", says), ("trained", "")]
    assert f"warning: {says}\n" in capsys.readouterr().out
    probes = json.loads(paths.PROBES.read_text())
    assert probes["out_of_memory"] == {"after_update": 0, "batch": 4, "accumulation": 2}
    assert set(probes) == {"reverse_step", "self_conditioning", "out_of_memory"}
