"""The denoiser: one pre-norm transformer that reads a context once and denoises targets against it any number of times.

Context rows (conditioning tokens, size token, input cells) attend within their context; target rows attend to their
context and to each other. The noise level and the self-conditioning features belong to target rows only, so the keys
and values of the context serve the size head, the self-conditioning pass and every denoising step.

Differences from the lab's network (version ledger 2.1): pre-norm RMSNorm with normalised queries and keys, gated
feed-forward and no biases instead of post-norm ReLU; rotary positions over row, column and grid instead of learned
tables; valid cells only instead of a padded canvas; input cells do not see output cells; the noise level is a feature
of every output cell instead of a token; the size is read from a token instead of a mean over the canvas.

Suffixes: S sequences, C context rows, T target rows, H heads, D width.
"""

import math
from typing import NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from model.attention import attention, take_rows
from model.compilation import of_fixed_shape, region
from model.configuration import Network
from model.grids import COLOURS, HIDDEN, LARGEST_SIDE
from model.heads import EPSILON, Rotation, insert, rotation_of, spread
from model.packing import Packed
from model.self_conditioning import Projection

_CONDITIONING_ROWS = {"task": 0, "d4": 8, "d4-colour": 17, "rotation-flip-colour": 17, "augmented-task": 0}
_CONDITIONING_TOKENS = {"task": 0, "d4": 1, "d4-colour": 2, "rotation-flip-colour": 3, "augmented-task": 0}
_TIME_FEATURES = 64
_COLUMNS = 16
"""Ten colours, hidden, and spare ones: the matrix units want multiples of 8."""


class Encoded(NamedTuple):
    """A context as every later pass needs it."""

    keys: list[Tensor]
    """A layer's, (C + T, H, D / H), of context rows; `denoise` puts those of target rows in."""
    values: list[Tensor]
    weights: list["Matrices"]
    size_logits: Tensor
    """float (S, 2, 30): height and width in the view's frame; class k is k + 1 cells."""
    rotation: Rotation
    """Of the target rows."""

    def detached(self) -> "Encoded":
        """The same without gradients."""
        return self._replace(keys=[k.detach() for k in self.keys], values=[v.detach() for v in self.values])


class Matrices(NamedTuple):
    """The weights of a block in the type that a pass computes in: cast once for context and targets."""

    attention_in: Tensor
    attention_out: Tensor
    feed_in: Tensor
    feed_out: Tensor


class Block(nn.Module):
    """One transformer layer, shared by context and target rows."""

    def __init__(self, config: Network) -> None:
        super().__init__()
        self.heads, self.dropout = config.heads, config.dropout
        self.attention_in = nn.Linear(config.width, 3 * config.width, bias=False)
        self.attention_out = nn.Linear(config.width, config.width, bias=False)
        self.feed_in = nn.Linear(config.width, 2 * config.feed_forward, bias=False)
        self.feed_out = nn.Linear(config.feed_forward, config.width, bias=False)

    def matrices(self, dtype: torch.dtype) -> Matrices:
        """Its weights."""
        layers = self.attention_in, self.attention_out, self.feed_in, self.feed_out
        return Matrices(*(of_fixed_shape(layer.weight.to(dtype)) for layer in layers))

    def project(self, x: Tensor, weights: Matrices) -> Tensor:
        """(rows, D) -> query, key and value before norm and rotation, (rows, 3, H, D / H)."""
        return _project(x, weights.attention_in).view(len(x), 3, self.heads, -1)

    def update(self, x: Tensor, attended: Tensor, weights: Matrices) -> Tensor:
        """Residual updates of rows (rows, D) by their attention (rows, H, D / H) and the feed-forward."""
        dropout = self.dropout if self.training else 0.0
        x, inner = _gated(x, attended, weights.attention_out, weights.feed_in, dropout)
        return _fed(x, inner, weights.feed_out, dropout)


class Denoiser(nn.Module):
    """The network of one experiment. `task_rows` is the length of the task table."""

    def __init__(self, config: Network, projection: Projection, task_rows: int) -> None:
        super().__init__()
        self.config, width = config, config.width
        self.task_table = nn.Embedding(task_rows, width)
        self.conditioning_table = nn.Embedding(max(1, _CONDITIONING_ROWS[config.conditioning]), width)
        self.size_token = nn.Parameter(torch.empty(width))
        self.input_cells = nn.Linear(_COLUMNS, width, bias=False)
        self.output_cells = nn.Linear(_COLUMNS, width, bias=False)
        self.time = nn.Linear(_TIME_FEATURES, width, bias=False)
        self.self_conditioning = projection
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.layers))
        self.colour_head = nn.Linear(width, _COLUMNS, bias=False)
        self.size_head = nn.Sequential(
            nn.Linear(width, config.size_hidden), nn.SiLU(), nn.Linear(config.size_hidden, 2 * LARGEST_SIDE)
        )
        self._initialise()

    def encode(self, packed: Packed, hidden: Tensor | None = None) -> Encoded:
        """Read the contexts. `hidden` bool (S,) hides the input cells of these sequences (input-grid dropout)."""
        x = self._context(packed, hidden)
        head = self.config.width // self.config.heads
        rotation = rotation_of(packed.context_position, head, x.dtype)
        target_rotation = rotation_of(packed.target_position, head, x.dtype)
        rows, tokens = len(packed.context_places) + len(packed.target_places), self.prefix_length
        size_rows = packed.prefix_rows.view(-1, tokens)[:, -1]
        keys, values = [], []
        weights = [block.matrices(x.dtype) for block in self._layers]
        for i, (block, matrices) in enumerate(zip(self._layers, weights, strict=True)):
            query, key, value, *both = spread(block.project(x, matrices), rotation, packed.context_places, rows)
            keys.append(both[0])
            values.append(both[1])
            if i + 1 < len(self.blocks):
                x = block.update(x, attention(query, key, value, packed.context_segments), matrices)
            else:  # Beyond this layer only the size tokens are read.
                attended = attention(query[size_rows], key, value, packed.size_segments)
                x = block.update(x[size_rows], attended, matrices)
        return Encoded(keys, values, weights, self.size_head(_norm(x)).view(-1, 2, LARGEST_SIDE), target_rotation)

    def denoise(
        self,
        packed: Packed,
        encoded: Encoded,
        colours: Tensor,
        time: Tensor,
        features: Tensor | None,
        gain: Tensor,
    ) -> Tensor:
        """Logits (T, 10) of the clean colours.

        `colours` int64 (T,) is the noisy grid, `time` the time input, float (T,) or (1,) for all, `features` float
        (T, 10) those of self-conditioning (None adds nothing) and `gain` float (T,) or (1,) their strength.
        """
        rate = self.config.embedding_dropout if self.training else 0.0
        told = None if features is None else self.self_conditioning(features)
        x = _targets(colours, time, told, gain, self.output_cells.weight, self.time.weight, rate)
        layers = zip(self._layers, encoded.weights, encoded.keys, encoded.values, strict=True)
        for block, weights, key, value in layers:
            query, keys, values = insert(block.project(x, weights), encoded.rotation, packed.target_places, key, value)
            x = block.update(x, attention(query, keys, values, packed.target_segments), weights)
        return _logits(x, self.colour_head.weight)

    @property
    def prefix_length(self) -> int:
        """Rows before the input cells of a context."""
        return prefix_length(self.config)

    @property
    def _layers(self) -> list[Block]:
        return cast("list[Block]", list(self.blocks))

    def _context(self, packed: Packed, hidden: Tensor | None) -> Tensor:
        shown = packed.context_colour
        if hidden is not None:
            shown = torch.where(hidden[packed.context_example], HIDDEN, shown)
        examples = packed.examples
        prefix = [self.task_table(examples.task)[:, None]]
        if _CONDITIONING_TOKENS[self.config.conditioning]:
            prefix.append(self.conditioning_table(packed.view_tokens))
        prefix.append(self.size_token.expand(len(examples.task), 1, -1))
        rows = torch.cat(prefix, 1).flatten(0, 1)
        rate = self.config.embedding_dropout if self.training else 0.0
        return _contexts(shown, rows, packed.context_prefix, packed.prefix_rows, self.input_cells.weight, rate)

    def _initialise(self) -> None:
        deep = 1 / math.sqrt(2 * self.config.layers)
        for name, parameter in self.named_parameters():
            if parameter.dim() < 2:
                nn.init.zeros_(parameter) if name.endswith("bias") else nn.init.normal_(parameter, std=1.0)
            elif name.endswith(("attention_out.weight", "feed_out.weight")):
                nn.init.normal_(parameter, std=deep / math.sqrt(parameter.shape[1]))
            elif name in ("task_table.weight", "conditioning_table.weight"):
                nn.init.normal_(parameter, std=1.0)
            elif name == "colour_head.weight":
                nn.init.zeros_(parameter)
            elif name in ("input_cells.weight", "output_cells.weight"):
                nn.init.normal_(parameter, std=1 / math.sqrt(COLOURS))
            else:
                nn.init.normal_(parameter, std=1 / math.sqrt(parameter.shape[1]))
        self.self_conditioning.initialise()


def prefix_length(config: Network) -> int:
    """Rows before the input cells of a context: task, conditioning tokens, size token."""
    return 2 + _CONDITIONING_TOKENS[config.conditioning]


def _norm(x: Tensor) -> Tensor:
    return functional.rms_norm(x, x.shape[-1:], eps=EPSILON)


@region
def _project(x: Tensor, weight: Tensor) -> Tensor:
    return functional.linear(_norm(x), weight)


@region
def _gated(x: Tensor, attended: Tensor, out: Tensor, feed_in: Tensor, dropout: float) -> tuple[Tensor, Tensor]:
    x = x + functional.dropout(functional.linear(attended.flatten(1), out), dropout)
    gate, up = functional.linear(_norm(x), feed_in).chunk(2, -1)
    return x, functional.silu(gate) * up


@region
def _fed(x: Tensor, inner: Tensor, feed_out: Tensor, dropout: float) -> Tensor:
    # A region of its own, which keeps `inner`: as one with `_gated` it would be computed again on the way back.
    if dropout == 0:
        return torch.addmm(x, inner, feed_out.T)  # The product adds x by the way.
    return x + functional.dropout(functional.linear(inner, feed_out), dropout)


@region
def _targets(
    colours: Tensor,
    time: Tensor,
    told: Tensor | None,
    gain: Tensor,
    cell_weight: Tensor,
    time_weight: Tensor,
    dropout: float,
) -> Tensor:
    x = _embed(colours, cell_weight, dropout) + _time(time, time_weight)
    return x if told is None else x + (gain[:, None] * told).to(x.dtype)  # Else all layers would run in float32.


@region
def _contexts(
    shown: Tensor, prefix: Tensor, context_prefix: Tensor, prefix_rows: Tensor, weight: Tensor, dropout: float
) -> Tensor:
    cells = _embed(shown, weight, dropout)
    placed = take_rows(prefix, context_prefix.clamp(min=0), prefix_rows)
    return torch.where((context_prefix >= 0)[:, None], placed.to(cells.dtype), cells)


def _embed(colours: Tensor, weight: Tensor, dropout: float) -> Tensor:
    # A product with one-hot rows: its gradient is a product too, where that of a look-up adds up row by row.
    return functional.dropout(
        functional.linear(functional.one_hot(colours, _COLUMNS).to(weight.dtype), weight), dropout
    )


@region
def _logits(x: Tensor, weight: Tensor) -> Tensor:
    return functional.linear(_norm(x), weight)[:, :COLOURS].float()


def _time(time: Tensor, weight: Tensor) -> Tensor:
    """(T,) -> (T, D) through sine and cosine at wavelengths from 1/2 to about 500, fit for a log-SNR of -4 to 8."""
    octaves = torch.arange(_TIME_FEATURES // 2, device=time.device) * (math.log(1000) / (_TIME_FEATURES // 2 - 1))
    angle = time[:, None] * (4 * math.pi * torch.exp(-octaves))
    return functional.linear(torch.cat([angle.sin(), angle.cos()], -1), weight)
