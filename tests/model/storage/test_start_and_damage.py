"""From which checkpoint a training may start, and how one is named whose weights are gone; descriptions are made up."""

import hashlib
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from model.storage import checkpoints
from model.storage.checkpoints import CheckpointError
from tests.conftest import experiment

STEM = Path("old") / "best"


def start(
    monkeypatch: pytest.MonkeyPatch, scheme: str = "", seed: int = 5, conditioning: str = "d4", **changes: Any
) -> dict[str, torch.Tensor]:
    """Weights for tasks a (two rows), new and b (three rows), from a checkpoint of b (three), c and a (one row)."""
    network_here = {"conditioning": conditioning}
    ours = experiment(train={"network": network_here})
    before = experiment(train=changes | {"network": network_here | changes.get("network", {})})
    table = torch.arange(10.0).view(5, 2)
    network = SimpleNamespace(state_dict=lambda: {"task_table.weight": table, "other": torch.ones(1)})
    augment = before.augment.model_copy(update={"scheme": scheme or ours.augment.scheme})
    description = SimpleNamespace(
        train=before.train, augment=augment, tasks=["b", "c", "a"], first_rows=[0, 3, 4], task_rows=5, seed=seed
    )
    monkeypatch.setattr(checkpoints, "load", lambda stem, device: (network, description))
    return checkpoints.start_weights(STEM, ours.train, ours.augment, ["a", "new", "b"], [0, 2, 3], 6, seed=5)


def test_known_tasks_keep_their_rows_and_new_ones_start_near_the_mean(monkeypatch: pytest.MonkeyPatch) -> None:
    weights = start(monkeypatch)
    assert weights["other"].tolist() == [1.0]
    rows = weights["task_table.weight"]
    assert rows[3:].tolist() == [[0, 1], [2, 3], [4, 5]], "those of b"
    noise = (rows[:3] - torch.tensor([4.0, 5.0])) / 0.01
    torch.testing.assert_close(
        noise, torch.randn(6, 2, generator=torch.Generator().manual_seed(5))[:3], rtol=1e-2, atol=0.01
    )


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        (
            {"network": {"feed_forward": 64}},
            "train.network.feed_forward 64, but here it is 48; fine-tune with the version and size of the checkpoint",
        ),
        (
            {"noise": {"steps": 64}},
            "train.noise.steps 64, but here it is 128; fine-tune with the version and size of the checkpoint",
        ),
        ({"scheme": "permutations"}, "augment.scheme 'permutations', but here it is 'all'"),
    ],
)
def test_another_network_noise_or_scheme_is_no_start(monkeypatch: Any, changes: Any, says: str) -> None:
    with pytest.raises(CheckpointError) as refused:
        start(monkeypatch, **changes)
    assert str(refused.value) == f"old/best was trained with {says}"


def test_weights_that_are_gone_or_others_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stem, described = tmp_path / "best", SimpleNamespace(name="description")
    content = b"weights"
    wanted = hashlib.sha256(hashlib.sha256(content).digest()).hexdigest()
    monkeypatch.setattr(checkpoints, "_read", lambda given: (described, wanted) if given == stem else None)
    file = tmp_path / "best.safetensors"
    with pytest.raises(CheckpointError) as gone:
        checkpoints.check_intact(stem)
    missing = f"[Errno 2] No such file or directory: '{file}'"
    assert str(gone.value) == f"{file} cannot be read: {missing}; train or fetch it again"
    file.write_bytes(content + b".")
    with pytest.raises(CheckpointError) as other:
        checkpoints.check_intact(stem)
    assert str(other.value) == (
        f"{file} is damaged or belongs to another checkpoint: its content is not what {tmp_path}/best.json was written "
        "for; run the stages that make it again, or fetch it again"
    )
    file.write_bytes(content)
    assert checkpoints.check_intact(stem) is described  # type: ignore[comparison-overlap]
    assert checkpoints.describe(stem) is described  # type: ignore[comparison-overlap]


@pytest.mark.parametrize(("seed", "says"), [(4, "those of seed 4, here 5"), (5, "those of other tasks than here")])
def test_embeddings_of_other_views_are_no_start(monkeypatch: pytest.MonkeyPatch, seed: int, says: str) -> None:
    """Under 'augmented-task': views are drawn by seed and task index, so the rows would be those of other views."""
    with pytest.raises(CheckpointError, match=says):
        start(monkeypatch, seed=seed, conditioning="augmented-task")
