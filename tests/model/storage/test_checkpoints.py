"""Checkpoints: a fresh process answers the same, and what does not fit is refused with the difference named."""

import json
import re
import shutil
import subprocess
import sys
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file

from model.storage import checkpoints, sealed
from model.storage.digests import digest
from tasks import augment, predict, prepare, select, train
from tasks.common import paths
from tests.conftest import ROOT, experiment, puzzles

LOGITS = """
import sys, pathlib, torch
from model.diffusion.schedule import cosine_schedule, levels
from model.network.device_data import to_device
from model.network.packing import pad_to_budget, pack
from model.storage import checkpoints
from tasks.common import paths
from tasks.files.tables import read_dataset
network, description = checkpoints.load(pathlib.Path(sys.argv[1]), torch.device("cpu"))
data = read_dataset("train", paths.TRAINING_VIEWS)
p, rows = data.pairs, []
for i in range(len(p)):
    view = int(data.views.start[p.task[i]]) + i
    grids = (p.input_offset, p.input_height, p.input_width, p.output_offset, p.output_height, p.output_width)
    rows.append((description.first_rows[p.task[i]], view, *(int(a[i]) for a in grids)))
filled, budget = pad_to_budget(rows, network.prefix_length, None)
held = to_device(data, description.train.network, torch.device("cpu"))
packed = pack(torch.from_numpy(filled), held, network.prefix_length, budget)
table = levels(cosine_schedule(description.train.noise), description.train.network.time_input, torch.device("cpu"))
with torch.no_grad():
    encoded = network.encode(packed)
    cells = packed.target_cell
    time = table.time[cells * 7 % 128]
    logits = network.denoise(packed, encoded, cells % 10, time, torch.ones(len(cells), 10) / 10, torch.ones(1))
result = {"logits": logits.contiguous(), "sizes": encoded.size_logits.contiguous()}
"""


@pytest.fixture(scope="module")
def once(tmp_path_factory):
    """Where the first test leaves its training for the others."""
    return tmp_path_factory.mktemp("trained") / "place"


@pytest.fixture
def trained(raw, once):
    """A small training, its candidates chosen."""
    if not once.exists():
        raw(puzzles())
        for stage in (prepare, augment, train, select):
            stage.main()
        shutil.copytree(".", once)
    shutil.copytree(once, ".", dirs_exist_ok=True)
    return paths.CHECKPOINTS / "final"


@pytest.mark.slow
def test_a_fresh_process_computes_the_same_logits(trained, tmp_path):

    names: dict[str, Any] = {"sys": sys}
    before, sys.argv = sys.argv, ["", str(trained)]
    try:
        exec(LOGITS, names)
    finally:
        sys.argv = before
    here = names["result"]
    script = "from safetensors.torch import save_file\n" + LOGITS + "\nsave_file(result, sys.argv[2])"
    path = [f"import sys; sys.path.insert(0, {str(ROOT)!r})", script]
    command = [sys.executable, "-c", "\n".join(path), str(trained), str(tmp_path / "there.safetensors")]
    subprocess.run(command, check=True, cwd=tmp_path)
    there = load_file(tmp_path / "there.safetensors")
    for name in ("logits", "sizes"):
        assert torch.equal(here[name], there[name])
        assert here[name].std() > 0.01


def test_what_is_saved_is_what_was_trained(trained):
    weights = load_file(trained.with_suffix(".safetensors"))
    network, description = checkpoints.load(trained, torch.device("cpu"))
    assert description.step == description.optimizer_steps == 12
    assert description.weights == "raw"
    ema, _ = checkpoints.load(trained, torch.device("cpu"), "ema")
    for kind, loaded in (("raw", network), ("ema", ema)):
        assert all(torch.equal(weights[f"{kind}/{name}"], tensor) for name, tensor in loaded.state_dict().items())
    assert len(weights) == 2 * len(network.state_dict())
    assert not torch.equal(weights["raw/time.weight"], weights["ema/time.weight"])


def _refused_by_predict() -> str:
    with pytest.raises(SystemExit) as caught:
        predict.main("final", "votes")
    assert not paths.predictions("final", "votes").exists()
    return str(caught.value)


def _rewrite(stem, **changes) -> None:
    """Write other values, and weights, together with the digests that belong to them."""
    weights = {"weights_digest": digest(stem.with_suffix(".safetensors"))}
    sealed.write(stem.with_suffix(".json"), json.loads(stem.with_suffix(".json").read_text()) | weights | changes)


def test_another_task_index_is_refused_with_the_tasks_named(trained):
    tasks = json.loads(trained.with_suffix(".json").read_text())["tasks"]
    _rewrite(trained, tasks=["zzzzzzzz", *tasks[1:]])
    message = _refused_by_predict()
    assert re.search(r"another task index: it lacks 1 tasks .*aaaaaaaa.* has 1 others .zzzzzzzz", message)
    _rewrite(trained, tasks=tasks[::-1])
    assert "the same tasks in another order" in _refused_by_predict()


def test_another_augmentation_scheme_is_refused(trained):
    schemes = {"scheme": "permutations", "training_views": 8, "evaluation_views": 8, "voting_views": 8}
    config = experiment(augment=schemes, train={"network": {"conditioning": "d4"}})
    paths.EXPERIMENT.write_text(yaml.safe_dump(config.model_dump(mode="json")))
    augment.main()
    assert "trained with augment.scheme 'all', but here it is 'permutations'" in _refused_by_predict()


def test_missing_spare_and_misshapen_weights_are_named(trained):
    file = trained.with_suffix(".safetensors")
    whole = load_file(file)
    without = {name: tensor for name, tensor in whole.items() if name != "raw/time.weight"}
    save_file(without, file)
    _rewrite(trained)
    assert re.search(r"missing \['time.weight'\], spare \[\], other shape \[\]", _refused_by_predict())
    save_file(whole | {"raw/more.weight": torch.zeros(2)}, file)
    _rewrite(trained)
    assert re.search(r"missing \[\], spare \['more.weight'\]", _refused_by_predict())
    save_file(whole | {"raw/time.weight": whole["raw/time.weight"][:, 1:].contiguous()}, file)
    _rewrite(trained)
    assert "other shape ['time.weight']" in _refused_by_predict()
    save_file(whole | {"raw/time.weight": whole["raw/time.weight"].double()}, file)
    _rewrite(trained)
    assert "time.weight are torch.float64, not torch.float32" in _refused_by_predict()
    broken = whole["raw/time.weight"].clone()
    broken.view(-1)[-1] = float("nan")
    save_file(whole | {"raw/time.weight": broken}, file)
    _rewrite(trained)
    assert "time.weight are not finite" in _refused_by_predict()
    file.write_bytes(file.read_bytes()[:100])
    _rewrite(trained)
    assert "cannot be read" in _refused_by_predict()


def test_a_description_is_bound_to_its_weights(trained):
    other = load_file(trained.with_suffix(".safetensors"))
    save_file({name: tensor + 1 for name, tensor in other.items()}, trained.with_suffix(".safetensors"))
    assert "final.safetensors is damaged or belongs to another checkpoint" in _refused_by_predict()


def test_an_edited_description_is_refused(trained):
    path = trained.with_suffix(".json")
    path.write_text(path.read_text().replace('"leaks": 0', '"leaks": 1'))
    assert "final.json cannot be used: its content is not what was written" in _refused_by_predict()
    values = json.loads(path.read_text())
    del values["digest"]
    path.write_text(json.dumps(values))
    assert "final.json cannot be used: it has no digest" in _refused_by_predict()


def test_an_unknown_task_is_an_error_and_never_the_first(trained):
    described = json.loads(trained.with_suffix(".json").read_text())
    description = checkpoints.describe(trained)
    with pytest.raises(checkpoints.CheckpointError, match=r"lacks 1 tasks of this one \(yyyyyyyy\)"):
        checkpoints.check_same(trained, description, [*described["tasks"], "yyyyyyyy"], description.augment)


@pytest.mark.parametrize("format_", [1, 2, 3, 4, None])
def test_another_format_is_refused_with_what_to_do(trained, format_):
    _rewrite(trained, format=format_)
    says = f"final.json has format {format_}, but this code reads format 6; train again with this code"
    assert says in _refused_by_predict()


def test_format_5_is_read_as_what_all_networks_were_then(trained):
    path = trained.with_suffix(".json")
    before, answers = checkpoints.load(trained, torch.device("cpu")), path.read_bytes()
    values = json.loads(answers) | {"format": 5}
    del values["train"]["last_turn_share"]
    for name in ("turns", "convolution", "hidden_dropout"):
        del values["train"]["network"][name]
    sealed.write(path, values)
    assert path.read_bytes() != answers
    network, description = checkpoints.load(trained, torch.device("cpu"))
    assert description == before[1]
    for name, tensor in network.state_dict().items():
        assert torch.equal(tensor, before[0].state_dict()[name])


def test_a_file_that_is_no_description_is_refused(trained):
    path = trained.with_suffix(".json")
    broken = ({"format": 6}, {"format": 5}, {"format": 5, "train": 1}, {"format": 5, "train": {}})
    for text in ("[]", "{", *(json.dumps(sealed.seal(values)) for values in broken)):
        path.write_text(text)
        assert "final.json is no checkpoint description" in _refused_by_predict()


def test_permutations_that_keep_other_colours_are_refused(raw):
    raw(puzzles())
    views = {"scheme": "permutations", "training_views": 8, "evaluation_views": 8, "voting_views": 8}
    for kept in ("permuted", "kept"):
        config = experiment(augment=views | {"output_only_colours": kept}, train={"network": {"conditioning": "d4"}})
        paths.EXPERIMENT.write_text(yaml.safe_dump(config.model_dump(mode="json")))
        for stage in (prepare, augment, *((train, select) if kept == "permuted" else ())):
            stage.main()
    assert "trained with augment.output_only_colours 'permuted', but here it is 'kept'" in _refused_by_predict()
