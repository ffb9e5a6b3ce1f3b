"""A checkpoint describes itself: weights in safetensors, everything needed to use them in a JSON file.

Both files are functions of their content: no time, no path, the same bytes for the same training.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Literal

import torch
from pydantic import Field, ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from model.config.base import Count, Frozen, Names, Positive
from model.config.data import Augment, Prepare
from model.config.training import Train, WeightsKind
from model.network.denoiser import Denoiser, build
from model.storage import format_5, sealed
from model.storage.atomic import atomic_path, make_public
from model.storage.digests import digest

FORMAT: Literal[6] = 6
"""5, which is read too, lacked keys of `train` (turns, convolution, hidden dropout, share of the last turn); 4 lacked
others of them (task embedding, head gains, noise levels, loss mean, table decay, origin shares, last share on
evaluation); 3 had averaged or raw weights, not both; 2 had optimizer, average and pixel noise as flat keys of `train`;
1 did not say which pairs were trained on."""


class CheckpointError(ValueError):
    """A checkpoint that cannot be used. The message says which, why and what to do."""


class Description(Frozen):
    """Contents of the JSON file, which also holds the digest of the weights' file and one of the whole JSON object."""

    format: Literal[6]
    experiment: str
    """version/size/dataset."""
    seed: int
    step: Positive
    """Updates done."""
    optimizer_steps: Positive
    stopped_early: bool
    """Whether train.early_stop ended the training at this step."""
    weights: WeightsKind
    """Which weights an evaluation uses that does not say otherwise; the file has both."""
    train: Train
    prepare: Prepare
    augment: Augment
    tasks: Names
    """Task ids in the order of the task index."""
    first_rows: Annotated[tuple[Count, ...], Field(strict=False)]
    """Row of the task table of each task; under 'augmented-task' of its view 0, those of its other views follow."""
    task_rows: Positive
    """Length of the task table."""
    data: str = Field(pattern=r"^[0-9a-f]{64}$")
    """Digest of the prepared data it was trained on."""
    tests_trained_on: Annotated[tuple[str, ...], Field(strict=False)]
    """Tasks whose test pairs were trained on, by this training or by the one that it started from."""
    pairs_trained_on: Annotated[str, Field(pattern=r"^([0-9a-f]{16}( [0-9a-f]{16})*)?$")]
    """Fingerprints (model.puzzles.leaks) of the pairs trained on, by this training or its start: one line, sorted."""
    leaks: int
    """Evaluated pairs that occur among its training pairs, under any view, or among those of its start."""


def save(stem: Path, weights: Mapping[WeightsKind, Mapping[str, Tensor]], description: Description) -> None:
    """Write `stem`.safetensors, with the tensors ema/NAME and raw/NAME, and `stem`.json, each atomically.

    Raises OSError.
    """
    stem.parent.mkdir(parents=True, exist_ok=True)
    tensors = {
        f"{kind}/{name}": tensor.detach().cpu().contiguous()
        for kind, named in sorted(weights.items())
        for name, tensor in sorted(named.items())
    }
    with atomic_path(_weights_file(stem)) as temporary:
        try:
            save_file(tensors, temporary)
        except SafetensorError as error:  # A full disk, among others.
            raise OSError(f"{_weights_file(stem)} cannot be written: {error}") from error
        make_public(temporary)
    weights_digest = digest(_weights_file(stem))
    sealed.write(_json_file(stem), description.model_dump(mode="json") | {_WEIGHTS: weights_digest})


def load(
    stem: Path, device: torch.device, kind: Literal["as-trained"] | WeightsKind = "as-trained"
) -> tuple[Denoiser, Description]:
    """The network of `stem`.safetensors with these weights, and its description. Raises CheckpointError."""
    description = check_intact(stem)
    network = build(description.train, description.task_rows)
    try:
        weights = read_weights(stem, description.weights if kind == "as-trained" else kind)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{stem}.safetensors cannot be read: {error}; train or fetch it again") from error
    if not weights:
        raise CheckpointError(f"{stem}.safetensors has no {kind} weights, only {description.weights}: it was exported")
    expected, given = network.state_dict(), set(weights)
    wrong = sorted(name for name in given & set(expected) if weights[name].shape != expected[name].shape)
    if given != set(expected) or wrong:
        raise CheckpointError(
            f"the {kind} weights of {stem}.safetensors are not the network that {stem}.json describes: missing "
            f"{sorted(set(expected) - given)}, spare {sorted(given - set(expected))}, other shape {wrong}"
        )
    for name, tensor in weights.items():
        if tensor.dtype not in (expected[name].dtype, torch.bfloat16):
            raise CheckpointError(
                f"{stem}.safetensors: the {kind} weights {name} are {tensor.dtype}, not {expected[name].dtype}"
            )
        if not bool(torch.isfinite(tensor).all()):
            raise CheckpointError(f"{stem}.safetensors: the {kind} weights {name} are not finite; train again")
    network.load_state_dict(weights)
    return network.to(device).eval(), description


def export(stem: Path, target: Path) -> None:
    """Write the weights that evaluations use alone, what is multiplied in bfloat16: about a quarter of the bytes.

    A GPU, which multiplies in bfloat16, gives the same answers. Raises CheckpointError.
    """
    network, description = load(stem, torch.device("cpu"))
    products = {f"{name}.weight" for name, module in network.named_modules() if isinstance(module, torch.nn.Linear)}
    weights = {
        name: tensor.to(torch.bfloat16) if name in products else tensor for name, tensor in network.state_dict().items()
    }
    save(target, {description.weights: weights}, description)


def stem_of(path: Path) -> Path:
    """A checkpoint as people name it: its stem, or one of its two files."""
    return path.with_suffix("") if path.suffix in (".safetensors", ".json") else path


def read_weights(stem: Path, kind: WeightsKind) -> dict[str, Tensor]:
    """The tensors of one kind by name. Raises OSError or SafetensorError."""
    with safe_open(_weights_file(stem), framework="pt") as file:
        names = [name for name in file.keys() if name.startswith(f"{kind}/")]  # noqa: SIM118
        return {name.removeprefix(f"{kind}/"): file.get_tensor(name) for name in names}


def check_same(stem: Path, description: Description, tasks: list[str], augment: Augment) -> None:
    """Refuse a checkpoint of another task index or augmentation scheme than those of the experiment at hand.

    Raises CheckpointError, which names the difference.
    """
    if list(description.tasks) != tasks:
        lacks, spare = sorted(set(tasks) - set(description.tasks)), sorted(set(description.tasks) - set(tasks))
        difference = "it has the same tasks in another order"
        if lacks or spare:
            difference = (
                f"it lacks {len(lacks)} tasks of this one ({', '.join(lacks[:3])}) and has {len(spare)} others "
                f"({', '.join(spare[:3])})"
            )
        raise CheckpointError(f"{stem} was trained on another task index: {difference}; train on this data first")
    names = ["scheme"]
    if augment.scheme == "permutations":
        names.append("output_only_colours")
    if description.train.network.conditioning == "augmented-task":
        names += ["training_views", "evaluation_views"]
    for name in names:
        trained, here = getattr(description.augment, name), getattr(augment, name)
        if trained != here:
            raise CheckpointError(
                f"{stem} was trained with augment.{name} {trained!r}, but here it is {here!r}; set it to that of the "
                "checkpoint, or train again"
            )


def start_weights(
    stem: Path, train: Train, augment: Augment, tasks: list[str], first_rows: list[int], task_rows: int, seed: int
) -> dict[str, Tensor]:
    """Weights of a checkpoint for a training on `tasks`: the rows of the tasks that it knows.

    Rows of others start at the mean of its rows, with normal noise of deviation 0.01 (version ledger, v3-reverted), a
    function of the seed.

    Raises CheckpointError where the network, the noise or the augmentation scheme is another, naming the difference;
    with an embedding a view also where seed or tasks are, by which the views are drawn.
    """
    network, description = load(stem, torch.device("cpu"))
    for section, names in _SAME.items():
        before, here = description.train.model_dump()[section], train.model_dump()[section]
        for name in names or before:
            if before[name] != here[name]:
                raise CheckpointError(
                    f"{stem} was trained with train.{section}.{name} {before[name]!r}, but here it is {here[name]!r}; "
                    "fine-tune with the version and size of the checkpoint"
                )
    if description.augment.scheme != augment.scheme:
        raise CheckpointError(
            f"{stem} was trained with augment.scheme {description.augment.scheme!r}, but here it is {augment.scheme!r}"
        )
    if train.network.conditioning == "augmented-task" and (seed, tasks) != (description.seed, list(description.tasks)):
        difference = f"seed {description.seed}, here {seed}" if seed != description.seed else "other tasks than here"
        raise CheckpointError(
            f"{stem} has an embedding for each view (train.network.conditioning 'augmented-task'), and its views are "
            f"those of {difference}; fine-tune it with its own seed and tasks, or start from another version"
        )
    weights = dict(network.state_dict())
    old = weights["task_table.weight"]
    noise = torch.randn(task_rows, old.shape[1], generator=torch.Generator().manual_seed(seed))
    new = old.mean(0) + _ROW_NOISE * noise
    blocks = dict(zip(description.tasks, _blocks(description.first_rows, description.task_rows), strict=True))
    for task, block in zip(tasks, _blocks(first_rows, task_rows), strict=True):
        known = blocks.get(task, range(0))
        if len(known) == len(block):
            new[block.start : block.stop] = old[known.start : known.stop]
    return weights | {"task_table.weight": new}


_WEIGHTS = "weights_digest"
_ROW_NOISE = 0.01
"""Standard deviation of the rows of new tasks around the mean of the old."""
_SAME: dict[str, tuple[str, ...]] = {
    "network": (
        *("width", "layers", "heads", "feed_forward", "size_hidden", "conditioning", "time_input"),
        *("turns", "convolution", "task_embedding", "task_tokens", "attention_gain", "head_gains", "fastest_rotation"),
    ),
    "noise": (),
    "self_conditioning": ("features", "temperature", "projection", "gain"),
}
"""Settings that a fine-tuning shares with its start; () for the whole section."""


def _blocks(first_rows: Sequence[int], task_rows: int) -> list[range]:
    ends = [*first_rows[1:], task_rows]
    return [range(a, b) for a, b in zip(first_rows, ends, strict=True)]


def check_intact(stem: Path) -> Description:
    """The description of a checkpoint whose files are those that were saved together. Raises CheckpointError."""
    description, recorded = _read(stem)
    try:
        present = digest(_weights_file(stem))
    except OSError as error:
        raise CheckpointError(f"{_weights_file(stem)} cannot be read: {error}; train or fetch it again") from error
    if present != recorded:
        raise CheckpointError(
            f"{_weights_file(stem)} is damaged or belongs to another checkpoint: its content is not what "
            f"{_json_file(stem)} was written for; run the stages that make it again, or fetch it again"
        )
    return description


def describe(stem: Path) -> Description:
    """The description of a checkpoint, without reading its weights. Raises CheckpointError."""
    return _read(stem)[0]


def _weights_file(stem: Path) -> Path:
    return stem.with_name(stem.name + ".safetensors")


def _json_file(stem: Path) -> Path:
    return stem.with_name(stem.name + ".json")


def _read(stem: Path) -> tuple[Description, str]:
    """The description and the digest of the weights' file."""
    path = _json_file(stem)
    try:
        text = path.read_bytes()
    except OSError as error:
        why = error.strerror or error
        raise CheckpointError(
            f"{path} cannot be read: {why}; name a checkpoint without its suffix, or run the stages train and select"
        ) from error
    try:
        values = json.loads(text)
        version = values.get("format")
    except (ValueError, AttributeError) as error:
        raise CheckpointError(f"{path} is no checkpoint description: {error}") from error
    if version not in (5, FORMAT):
        raise CheckpointError(
            f"{path} has format {version}, but this code reads format {FORMAT}; train again with this code, or use the "
            "checkpoint with the code of the commit that wrote it"
        )
    try:
        values = sealed.check(values, str(path))
        weights = str(values.pop(_WEIGHTS, ""))
        if version == 5:
            values = format_5.as_format_6(values)
        return Description.model_validate_json(json.dumps(values)), weights
    except sealed.SealError as error:
        raise CheckpointError(f"{error}; train or fetch it again") from error
    except ValidationError as error:
        raise CheckpointError(f"{path} is no checkpoint description of format {FORMAT}: {error}") from error
