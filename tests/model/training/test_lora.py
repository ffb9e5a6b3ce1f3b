"""Adapters, fine-tuning and probes: merged equals adapted, every adapter acts, and what does nothing is an error."""

import json

import numpy as np
import pytest
import torch
import yaml

from model.config.training import Train
from model.network.denoiser import build
from model.training import noised_batch
from model.training.history import TrainingError
from model.training.lora import adapt, adapters, merged
from model.training.trainer import Training
from tasks import augment, fetch, predict, prepare, select, train
from tasks.common import paths
from tasks.common.presets import ConfigurationError
from tests.conftest import experiment, puzzles
from tests.support.small_training import dataset

WHOLE = ("test-time", "test-time-ours", "test-time-ours-10", "test-time-ours-1")
TARGETS = ["attention_in", "attention_out", "feed_in", "feed_out", "size_head"]
LORA = {"start": "start", "adapters": "lora", "rank": 4, "alpha": 8.0, "targets": TARGETS}


def _training(config: Train, start: dict[str, torch.Tensor] | None = None) -> Training:
    return Training(dataset(), np.ones(18), 6, config, 0, torch.device("cpu"), start)


def _run(subject: Training) -> Training:
    def ignore(_: object) -> None:
        return None

    subject.run(on_row=ignore, on_candidate=ignore, on_save=lambda: None, stop=lambda: False)
    return subject


@pytest.fixture(scope="module")
def weights_once() -> dict[str, torch.Tensor]:
    return _run(_training(experiment(train={"optimizer_steps": 12}).train)).weights("raw")


@pytest.fixture
def start(weights_once: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: weight.clone() for name, weight in weights_once.items()}


def _look(subject: Training) -> noised_batch.NoisedBatch:
    from model.network.packing import pack, pad_to_budget
    from model.ops.keyed_random import hash_key

    table, budget = pad_to_budget(next(subject.stream.batches()), subject.network.prefix_length, None)
    packed = pack(torch.from_numpy(table), subject.data, subject.network.prefix_length, budget)
    return noised_batch.NoisedBatch(packed, subject.levels, subject.config.self_conditioning, hash_key(torch.tensor(3)))


def test_adapters_change_nothing_at_first_and_merged_weights_answer_as_adapters_do(start):
    config = experiment(train={"finetune": LORA, "optimizer": {"learning_rate": 0.05}}).train
    subject = _training(config, start)
    plain = build(config, 6)
    plain.load_state_dict(start)
    look = _look(subject)
    assert torch.equal(look.logits(subject.network.eval()), look.logits(plain.eval()))
    _run(subject)
    adapted = look.logits(subject.network.eval())
    assert not torch.allclose(adapted, look.logits(plain), atol=1e-2)
    plain.load_state_dict(merged(subject.network))
    assert torch.allclose(adapted, look.logits(plain), atol=1e-5)
    assert adapters(subject.network)  # Merging leaves the adapted network as it was.


def test_fine_tuning_moves_every_target_and_the_task_table_and_nothing_else(start):
    config = experiment(train={"finetune": LORA, "optimizer": {"weight_decay": 0.5}}).train
    found = _run(_training(config, start)).weights("raw")
    moved = {name for name in start if not torch.equal(found[name], start[name])}
    matrices = {n for n in start if n.startswith(("blocks.", "size_head.")) and n.endswith("weight")}
    assert moved == matrices | {"task_table.weight"}
    for name in matrices:
        change = torch.linalg.matrix_rank(found[name] - start[name], rtol=1e-3)
        assert 1 <= change <= 4


@pytest.mark.parametrize("adapters_", ["none", "lora"])
def test_a_frozen_task_table_stays_as_it_was_while_all_else_trains(start, adapters_):
    """The lab's test-time training (9842a6c9, training:895)."""
    how = LORA | {"adapters": adapters_, "task_table": "frozen"}
    config = experiment(train={"finetune": how, "optimizer": {"weight_decay": 0.5}}).train
    found = _run(_training(config, start)).weights("raw")
    moved = {name for name in start if not torch.equal(found[name], start[name])}
    assert "task_table.weight" not in moved
    assert {name for name in start if name.startswith("blocks.") and name.endswith("weight")} <= moved


def test_a_frozen_task_table_without_a_start_is_refused():
    with pytest.raises(ConfigurationError, match="task_table 'frozen' needs the name of a checkpoint"):
        experiment(train={"finetune": {"task_table": "frozen"}})


@pytest.mark.slow
@pytest.mark.parametrize("target", TARGETS)
def test_a_target_alone_is_adapted_alone_and_has_a_gradient(start, target):
    config = experiment(train={"finetune": LORA | {"targets": [target]}}).train
    subject = _run(_training(config, start))
    names = adapters(subject.network)
    assert len(names) == 2  # Two layers; the size head has two matrices.
    assert all(target in name.split(".") for name in names)
    assert all(norm > 0 for norm in subject.probe()["adapter_gradients"].values())


@pytest.mark.slow
@pytest.mark.parametrize(
    ("switch", "trained"),
    [
        ({"rank": 2}, {"up", "down"}),
        ({"alpha": 16.0}, set()),
        ({"dropout": 0.5}, set()),
        ({"targets": ["feed_in"]}, {"fewer"}),
        ({"task_table": "frozen"}, {"frozen"}),
        ({"adapters": "none"}, {"other"}),
    ],
)
def test_a_switch_of_fine_tuning_changes_what_it_claims_and_only_that(start, switch, trained):
    def trainable(subject):
        return {name: tuple(p.shape) for name, p in subject.network.named_parameters() if p.requires_grad}

    rest = {"log_every": 1, "network": {"dropout": 0.0, "embedding_dropout": 0.0}}  # Their draws follow the adapters'.
    before, after = (
        _training(experiment(train={"finetune": LORA | other} | rest).train, start) for other in ({}, switch)
    )
    old, new = trainable(before), trainable(after)
    if "other" in trained:  # All weights, and no adapter.
        assert new == {name: tuple(tensor.shape) for name, tensor in start.items()}
    elif "fewer" in trained:
        assert set(new) == {name for name in old if "feed_in" in name or name == "task_table.weight"}
    elif "frozen" in trained:
        assert set(new) == set(old) - {"task_table.weight"}
    else:
        changed = {name.rsplit(".")[-1] for name in old if old[name] != new[name]}
        assert changed == trained
        assert set(new) == set(old)
    _run(before), _run(after)
    # Adapters start as zero, so that whatever they are the first loss is that of the start; the later ones differ.
    assert before.history[0]["loss"] == pytest.approx(after.history[0]["loss"], rel=1e-6)
    assert before.history[-1]["loss"] != after.history[-1]["loss"]


def test_adapters_without_a_start_and_a_rank_beyond_the_matrix_are_refused(start):
    with pytest.raises(ConfigurationError, match="nothing to adapt"):
        experiment(train={"finetune": {"adapters": "lora"}})
    config = experiment(train={"finetune": LORA | {"rank": 33}}).train
    with pytest.raises(ValueError, match="rank is 33; a matrix of"):
        adapt(build(config, 6), config.finetune)


def test_a_resumed_fine_tuning_equals_an_unbroken_one(start):
    config = experiment(train={"finetune": LORA | {"dropout": 0.2}, "evaluated_weights": "ema"}).train
    whole = _run(_training(config, start)).weights("ema")
    half = _training(config, start)
    half.network.train()
    batches = half.stream.batches()
    for _ in range(5):
        half.update([next(batches)])
    tensors, plain = half.state()
    resumed = _training(config, start)
    resumed.restore({name: tensor.clone() for name, tensor in tensors.items()}, json.loads(json.dumps(plain)))
    found = _run(resumed).weights("ema")
    assert all(torch.equal(found[name], whole[name]) for name in whole)


def test_probes_name_what_is_on_and_does_nothing():
    how = {"evaluated_weights": "ema", "self_conditioning": {"training": "reverse-step"}}
    subject = _run(_training(experiment(train=how).train))
    found = subject.probe()
    assert set(found) == {"ema", "self_conditioning", "reverse_step"}
    assert 0 < found["reverse_step"]["cells_moved"] < 0.5
    subject.average.module.load_state_dict(subject.network.state_dict())
    for parameter in subject.network.self_conditioning.parameters():
        torch.nn.init.zeros_(parameter)
    for parameter in subject.average.module.self_conditioning.parameters():
        torch.nn.init.zeros_(parameter)
    with pytest.raises(TrainingError, match=r"of no effect: .*evaluated_weights: ema.*self_conditioning.features"):
        subject.probe()


def test_the_labs_reverse_step_is_measured_and_no_error():
    config = experiment(train={"self_conditioning": {"training": "argmax-reverse-step"}}).train
    subject = _run(_training(config))
    assert subject.probe()["reverse_step"] == {"cells_moved": 0.0}


def test_a_reverse_step_that_should_move_cells_and_does_not_is_an_error(monkeypatch):
    """Ledger B3: the argmax of the one-step posterior is the grid itself."""
    from model.diffusion.reverse import posterior
    from model.training import noised_batch

    def labs(logits, noisy, level, table, draw):
        probabilities = posterior(logits.softmax(-1), noisy, table.alpha_bar_previous[level], table.beta[level])
        return probabilities.argmax(-1)

    config = experiment(train={"self_conditioning": {"training": "reverse-step"}}).train
    subject = _run(_training(config))
    monkeypatch.setattr(noised_batch, "reverse_step", labs)
    with pytest.raises(TrainingError, match=r"reverse-step .no cell moves"):
        subject.probe()


def test_the_blend_moves_half_of_the_cells_that_the_estimate_has_wrong(monkeypatch):
    """Shares are uniform in 0..1 (ledger, v5), so that a wrong cell is taken half of the time."""
    from model.diffusion import self_conditioning

    off = {"features": "none", "null_conditioning_rate": 0.0, "training": "blend"}
    subject = _run(_training(experiment(train={"self_conditioning": off}).train))
    found = subject.probe()
    assert set(found) == {"blend"}
    network = subject.network
    for always in (3, 7):  # An estimate that says one colour everywhere.
        look = _look(subject)
        monkeypatch.setattr(network, "denoise", lambda packed, *_, colour=always: _sure(packed, colour))
        wrong = float((look.packed.target_colour != always)[look.real].float().mean())
        assert look.blended(network)[0] == pytest.approx(wrong / 2, abs=0.03)
        assert look.blended(network)[1] == pytest.approx(wrong)
    monkeypatch.undo()
    monkeypatch.setattr(self_conditioning, "blend", lambda logits, clean, share, draw: clean)
    with pytest.raises(TrainingError, match=r"of no effect: .*training: blend .no cell of the truth is replaced"):
        subject.probe()
    perfect = lambda self, network: (0.0, 0.0)  # noqa: E731
    monkeypatch.setattr("model.training.noised_batch.NoisedBatch.blended", perfect)
    assert subject.probe()["blend"] == {"cells_moved": 0.0}, "a network that has learned every cell is no fault"


def _sure(packed, colour):
    return torch.nn.functional.one_hot(torch.full_like(packed.target_colour, colour), 10).float()


def _stages(config, *stages) -> None:
    paths.EXPERIMENT.write_text(yaml.safe_dump(config.model_dump(mode="json")))
    for stage in stages:
        stage.main()


def _keep_as_start() -> None:
    paths.OWN.mkdir(parents=True, exist_ok=True)
    for suffix in (".safetensors", ".json"):
        (paths.OWN / f"start{suffix}").write_bytes((paths.CHECKPOINTS / f"final{suffix}").read_bytes())


@pytest.mark.parametrize("finetuning", ["lora", *(pytest.param(name, marks=pytest.mark.slow) for name in WHOLE)])
def test_fine_tuning_by_name_through_the_stages(raw, finetuning):
    raw(puzzles())
    version = "v1" if finetuning == "test-time" else "v3"  # The lab's is of v1.
    _stages(experiment(version=version), prepare, augment, train, select)
    _keep_as_start()
    rank = {"train": {"finetune": {"rank": 1}}}
    config = experiment(version=version, finetuning=finetuning, predict={"evaluations": ["votes"]}, **rank)
    paths.EXPERIMENT.write_text(yaml.safe_dump(config.model_dump(mode="json")))
    fetch.copy_start(config.train.finetune.start)
    _stages(config, prepare, augment, train, select)
    predict.main("final", "votes")
    described = json.loads((paths.CHECKPOINTS / "final.json").read_text())
    assert described["leaks"] == 0
    probes = json.loads(paths.PROBES.read_text())
    assert all(norm > 0 for norm in probes["adapter_gradients"].values())
    history = json.loads(paths.HISTORY.read_text())
    assert history[-1]["step"] == config.train.optimizer_steps
