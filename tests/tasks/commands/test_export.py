"""`arc export`: what is rounded and what is not, that answers stay, and what is refused."""

import json
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file

from model.network.denoiser import Denoiser
from model.storage import checkpoints
from tasks.commands import export, solve
from tasks.common import paths
from tests.support.packed import packed_rows
from tests.support.small_experiment import CHALLENGES, build, save_checkpoint

CPU = torch.device("cpu")
TABLES = ("task_table.weight", "conditioning_table.weight")


@pytest.fixture
def stem(workspace: Path) -> Path:
    save_checkpoint(build(), weights="ema")
    return paths.CHECKPOINTS / "best"


def test_matrices_are_rounded_to_bfloat16_and_all_else_is_the_same(stem: Path, capsys) -> None:
    export.main(stem.with_suffix(".safetensors"), Path("small"))
    before, after = load_file(stem.with_suffix(".safetensors")), load_file("small.safetensors")
    assert set(after) == {name for name in before if name.startswith("ema/")}
    rounded = {name for name, tensor in after.items() if tensor.dtype == torch.bfloat16}
    matrices = {name for name, tensor in after.items() if tensor.dim() == 2 and not name.endswith(TABLES)}
    assert rounded == {name for name in matrices if "convolution" not in name}
    for name, tensor in after.items():
        if name not in rounded:
            assert torch.equal(tensor, before[name]), name
            continue
        error = (tensor.float() - before[name]).abs()
        assert (error <= before[name].abs() / 256).all(), "to the nearest of 8 bits"
        assert error.max() > 0
    sizes = [path.stat().st_size for path in (stem.with_suffix(".safetensors"), Path("small.safetensors"))]
    assert sizes[1] < 0.4 * sizes[0], "this small network is half table"
    assert checkpoints.describe(Path("small")) == checkpoints.describe(stem)
    assert "next: arc solve FILE.json --checkpoint small" in capsys.readouterr().out


def test_in_bfloat16_the_logits_are_the_same_bits(stem: Path) -> None:
    export.main(stem, Path("small"))
    whole, small = (checkpoints.load(place, CPU)[0] for place in (stem, Path("small")))
    rows = [(0, 0, 0, 2, 3, 6, 3, 2), (1, 0, 12, 3, 3, 21, 1, 4)]

    def logits(net: Denoiser) -> torch.Tensor:
        packed = packed_rows(net, rows)
        cells = packed.target_cell
        time, gain = (cells % 3).float(), torch.ones(len(cells))
        with torch.no_grad():
            return net.denoise(packed, net.encode(packed, None, None), cells * 7 % 10, time, None, gain, None).float()

    assert not torch.equal(logits(whole), logits(small))
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(logits(whole), logits(small))


def test_an_exported_checkpoint_solves_with_the_settings_beside_it(stem: Path) -> None:
    kept = Path("kept")
    kept.mkdir()
    export.main(stem, kept / "final")
    values = yaml.safe_load(paths.EXPERIMENT.read_text())
    values["evaluations"] = {"mine": {**values["evaluations"]["votes"], "answers": {"by": "votes", "views": 3}}}
    values["predict"]["evaluations"] = ["mine"]
    (kept / "experiment.yaml").write_text(yaml.safe_dump(values))
    solve.main(paths.RAW / CHALLENGES, kept / "final.json", "mine", Path("out.json"), draw=False)
    assert set(json.loads(Path("out.json").read_text())) == {"cccccccc", "dddddddd"}
    with pytest.raises(SystemExit, match="--evaluation is 'votes'; defined are mine"):
        solve.main(paths.RAW / CHALLENGES, kept / "final", "votes", Path("out.json"), draw=False)


def test_the_other_weights_are_gone_and_that_is_said(stem: Path) -> None:
    export.main(stem, Path("small"))
    with pytest.raises(checkpoints.CheckpointError, match=r"small\.safetensors has no raw weights, only ema"):
        checkpoints.load(Path("small"), CPU, "raw")


@pytest.mark.parametrize("there", ["small.json", "small.safetensors"])
def test_nothing_is_overwritten(stem: Path, there: str) -> None:
    Path(there).write_text("before")
    with pytest.raises(SystemExit, match=f"export: {there} exists; name new files with --to"):
        export.main(stem, Path("small"))
    assert Path(there).read_text() == "before"
    assert len(list(Path().glob("small.*"))) == 1
