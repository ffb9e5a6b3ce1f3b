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
from model.casting import cast_twice
from model.compilation import region
from model.configuration import Network
from model.dropout import dropout
from model.gate import gate
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
    """For target rows."""
    size_logits: Tensor
    """float (S, 2, 30): height and width in the view's frame; class k is k + 1 cells."""
    rotation: Rotation
    """Of the target rows."""

    def detached(self) -> "Encoded":
        """The same without gradients."""
        return self._replace(keys=[k.detach() for k in self.keys], values=[v.detach() for v in self.values])


class Matrices(NamedTuple):
    """The weights of a block in the type that a pass computes in."""

    attention_in: Tensor
    """(3 D, D): query, key and value."""
    attention_out: Tensor
    feed_in: Tensor
    """(2 F, D): gates and values."""
    feed_out: Tensor


class Block(nn.Module):
    """The weights of one transformer layer, shared by context and target rows."""

    def __init__(self, config: Network) -> None:
        super().__init__()
        self.attention_in = nn.Linear(config.width, 3 * config.width, bias=False)
        self.attention_out = nn.Linear(config.width, config.width, bias=False)
        self.feed_in = nn.Linear(config.width, 2 * config.feed_forward, bias=False)
        self.feed_out = nn.Linear(config.feed_forward, config.width, bias=False)


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

    def encode(self, packed: Packed, hidden: Tensor | None = None, seeds: Tensor | None = None) -> Encoded:
        """Read the contexts. `hidden` bool (S,) hides the input cells of these sequences (input-grid dropout).

        `seeds` int32 (`dropouts`,) are those of the pass's dropouts; None leaves them out.
        """
        x = self._context(packed, hidden, seeds)
        head = self.config.width // self.config.heads
        rotation = rotation_of(packed.context_position, head, x.dtype)
        target_rotation = rotation_of(packed.target_position, head, x.dtype)
        rows, tokens = len(packed.context_places) + len(packed.target_places), self.prefix_length
        size_rows = packed.prefix_rows.view(-1, tokens)[:, -1]
        keys, values = [], []
        own, targets = self._matrices(x.dtype)
        qkv = _read(x, own[0].attention_in)
        for i, weights in enumerate(own):
            query, key, value, *both = spread(self._heads(qkv), rotation, packed.context_places, rows)
            keys.append(both[0])
            values.append(both[1])
            if i + 1 < len(own):
                found = attention(query, key, value, packed.context_segments)
                x, qkv = self._layer(x, found, weights, own[i + 1].attention_in, seeds, i)
            else:  # Beyond this layer only the size tokens are read.
                found = attention(query.index_select(0, size_rows), key, value, packed.size_segments)
                x, read = self._layer(x.index_select(0, size_rows), found, weights, None, seeds, i)
        return Encoded(keys, values, targets, self.size_head(read).view(-1, 2, LARGEST_SIDE), target_rotation)

    def denoise(
        self,
        packed: Packed,
        encoded: Encoded,
        colours: Tensor,
        time: Tensor,
        features: Tensor | None,
        gain: Tensor,
        seeds: Tensor | None = None,
    ) -> Tensor:
        """Logits (T, 10) of the clean colours.

        `colours` int64 (T,) is the noisy grid, `time` the time input, float (T,) or (1,) for all, `features` float
        (T, 10) those of self-conditioning (None adds nothing) and `gain` float (T,) or (1,) their strength; `seeds`
        as for `encode`.
        """
        told = None if features is None else self.self_conditioning(features)
        rate, seed = self.config.embedding_dropout, None if seeds is None else seeds[0]
        x = _targets(colours, time, told, gain, self.output_cells.weight, self.time.weight, rate, seed)
        qkv = _read(x, encoded.weights[0].attention_in)
        following = [weights.attention_in for weights in encoded.weights[1:]] + [self.colour_head.weight]
        for i, (weights, into) in enumerate(zip(encoded.weights, following, strict=True)):
            places = packed.target_places, encoded.keys[i], encoded.values[i]
            query, keys, values = insert(self._heads(qkv), encoded.rotation, *places)
            found = attention(query, keys, values, packed.target_segments)
            x, qkv = self._layer(x, found, weights, into, seeds, i)
        return qkv[:, :COLOURS].float()

    @property
    def dropouts(self) -> int:
        """Seeds that `encode` or `denoise` needs: of the embedding, and of two sublayers a layer."""
        return 1 + 2 * self.config.layers

    @property
    def prefix_length(self) -> int:
        """Rows before the input cells of a context."""
        return prefix_length(self.config)

    def _matrices(self, dtype: torch.dtype) -> tuple[list[Matrices], list[Matrices]]:
        """Of every layer, for contexts and for targets."""
        blocks = cast("list[Block]", list(self.blocks))
        weights = [getattr(block, name).weight for block in blocks for name in Matrices._fields]
        contexts, targets = cast_twice(weights, dtype)
        each = range(0, len(weights), len(Matrices._fields))
        return [Matrices(*contexts[i : i + 4]) for i in each], [Matrices(*targets[i : i + 4]) for i in each]

    def _heads(self, qkv: Tensor) -> Tensor:
        return qkv.view(len(qkv), 3, self.config.heads, -1)

    def _layer(
        self, x: Tensor, attended: Tensor, weights: Matrices, into: Tensor | None, seeds: Tensor | None, layer: int
    ) -> tuple[Tensor, Tensor]:
        """The rest of a layer for rows x (N, D) and their attention (N, H, D / H), and what the next one reads."""
        rate, seed = self.config.dropout, (None, None) if seeds is None else seeds[1 + 2 * layer : 3 + 2 * layer]
        x, hidden = _advance(x, attended.flatten(1), weights.attention_out, weights.feed_in, rate, seed[0])
        return _advance(x, gate(hidden), weights.feed_out, into, rate, seed[1])

    def _context(self, packed: Packed, hidden: Tensor | None, seeds: Tensor | None) -> Tensor:
        shown = packed.context_colour
        if hidden is not None:
            shown = torch.where(hidden[packed.context_example], HIDDEN, shown)
        examples = packed.examples
        prefix = [self.task_table(examples.task)[:, None]]
        if _CONDITIONING_TOKENS[self.config.conditioning]:
            prefix.append(self.conditioning_table(packed.view_tokens))
        prefix.append(self.size_token.expand(len(examples.task), 1, -1))
        rows = torch.cat(prefix, 1).flatten(0, 1)
        rate, seed = self.config.embedding_dropout, None if seeds is None else seeds[0]
        return _contexts(shown, rows, packed.context_prefix, packed.prefix_rows, self.input_cells.weight, rate, seed)

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
def _read(x: Tensor, into: Tensor) -> Tensor:
    return functional.linear(_norm(x), into)


@region
def _advance(
    x: Tensor, found: Tensor, out: Tensor, into: Tensor | None, rate: float, seed: Tensor | None
) -> tuple[Tensor, Tensor]:
    """The residual rows (N, D) after a sublayer that found `found`, and what the next sublayer reads of them.

    One region from sublayer to sublayer, so that sum, dropout and norm are one kernel, and their gradients another.
    """
    if rate == 0 or seed is None:
        x = torch.addmm(x, found, out.T)  # The product adds x by the way.
    else:
        x = x + dropout(functional.linear(found, out), rate, seed)
    return x, _norm(x) if into is None else functional.linear(_norm(x), into)


@region
def _targets(
    colours: Tensor,
    time: Tensor,
    told: Tensor | None,
    gain: Tensor,
    cell_weight: Tensor,
    time_weight: Tensor,
    rate: float,
    seed: Tensor | None,
) -> Tensor:
    x = dropout(_embed(colours, cell_weight), rate, seed) + _time(time, time_weight)
    return x if told is None else x + (gain[:, None] * told).to(x.dtype)  # Else all layers would run in float32.


@region
def _contexts(
    shown: Tensor,
    prefix: Tensor,
    context_prefix: Tensor,
    prefix_rows: Tensor,
    weight: Tensor,
    rate: float,
    seed: Tensor | None,
) -> Tensor:
    cells = dropout(_embed(shown, weight), rate, seed)
    placed = take_rows(prefix, context_prefix.clamp(min=0), prefix_rows)
    return torch.where((context_prefix >= 0)[:, None], placed.to(cells.dtype), cells)


def _embed(colours: Tensor, weight: Tensor) -> Tensor:
    # A product with one-hot rows: its gradient is a product too, where that of a look-up adds up row by row.
    return functional.linear(functional.one_hot(colours, _COLUMNS).to(weight.dtype), weight)


def _time(time: Tensor, weight: Tensor) -> Tensor:
    """(T,) -> (T, D) through sine and cosine at wavelengths from 1/2 to about 500, fit for a log-SNR of -4 to 8."""
    octaves = torch.arange(_TIME_FEATURES // 2, device=time.device) * (math.log(1000) / (_TIME_FEATURES // 2 - 1))
    angle = time[:, None] * (4 * math.pi * torch.exp(-octaves))
    return functional.linear(torch.cat([angle.sin(), angle.cos()], -1), weight)
