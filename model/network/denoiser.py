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

from model.config.experiment import Network, Train
from model.diffusion.self_conditioning import Projection
from model.network import layers as rows
from model.network.layers import COLUMNS, TIME_FEATURES
from model.network.packing import Packed
from model.ops.attention import attention
from model.ops.casting import cast_twice
from model.ops.dropout import Drop
from model.ops.qkv import Rotation, rotation_of, scatter_context_kv, scatter_target_kv
from model.ops.swiglu import gate
from model.puzzles.grids import COLOURS, LARGEST_SIDE

_CONDITIONING_ROWS = {"task": 0, "d4": 8, "d4-colour": 17, "rotation-flip-colour": 17, "augmented-task": 0}
_CONDITIONING_TOKENS = {"task": 0, "d4": 1, "d4-colour": 2, "rotation-flip-colour": 3, "augmented-task": 0}


class Matrices(NamedTuple):
    """The weights of a block in the type that a pass computes in."""

    attention_in: Tensor
    """(3 D, D): query, key and value."""
    attention_out: Tensor
    feed_in: Tensor
    """(2 F, D): gates and values."""
    feed_out: Tensor


class IOWeights(NamedTuple):
    """The weights before the blocks and after them, likewise."""

    input_cells: Tensor
    output_cells: Tensor
    time: Tensor
    colour_head: Tensor
    size_in: Tensor
    size_in_bias: Tensor
    size_out: Tensor
    size_out_bias: Tensor


class Encoded(NamedTuple):
    """A context as every later pass needs it."""

    keys: list[Tensor]
    """A layer's, (C + T, H, D / H), of context rows; `denoise` puts those of target rows in."""
    values: list[Tensor]
    weights: list[Matrices]
    """For target rows."""
    ends: IOWeights
    size_logits: Tensor
    """float (S, 2, 30): height and width in the view's frame; class k is k + 1 cells."""
    rotation: Rotation
    """Of the target rows."""

    def detached(self) -> "Encoded":
        """The same without gradients."""
        return self._replace(keys=[k.detach() for k in self.keys], values=[v.detach() for v in self.values])


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
        self.input_cells = nn.Linear(COLUMNS, width, bias=False)
        self.output_cells = nn.Linear(COLUMNS, width, bias=False)
        self.time = nn.Linear(TIME_FEATURES, width, bias=False)
        self.self_conditioning = projection
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.layers))
        self.colour_head = nn.Linear(width, COLUMNS, bias=False)
        self.size_head = nn.Sequential(
            nn.Linear(width, config.size_hidden), nn.SiLU(), nn.Linear(config.size_hidden, 2 * LARGEST_SIDE)
        )
        self._initialise()

    def encode(self, packed: Packed, hidden: Tensor | None = None, seeds: Tensor | None = None) -> Encoded:
        """Read the contexts. `hidden` bool (S,) hides the input cells of these sequences (input-grid dropout).

        `seeds` int32 (`dropouts`,) are those of the pass's dropouts; None leaves them out.
        """
        own, targets, ends = self._weights()
        x, qkv = self._context(packed, hidden, ends.input_cells, own[0].attention_in, self._drop(seeds, 0))
        how = x.dtype, self.config.attention_gain, self.config.fastest_rotation
        head = self.config.width // self.config.heads
        rotation = rotation_of(packed.context_position, head, *how)
        target_rotation = rotation_of(packed.target_position, head, *how)
        places = packed.context_places, packed.target_places
        keys, values = [], []
        for i, weights in enumerate(own):
            query, key, value, *both = scatter_context_kv(self._heads(qkv), rotation, *places)
            keys.append(both[0])
            values.append(both[1])
            if i + 1 < len(own):
                found = attention(query, key, value, packed.context_segments)
                x, inner = self._attended(x, found, weights, self._drop(seeds, 2 * i + 1))
                drop = self._drop(seeds, 2 * i + 2)
                x, qkv = rows.residual_then_project(x, inner, weights.feed_out, own[i + 1].attention_in, drop)
        # Beyond the last attention only the size tokens are read.
        places = packed.context_prefix, packed.prefix_rows
        x, query = rows.size_tokens(x, query, *places, self.prefix_length)
        found = attention(query, key, value, packed.size_segments)
        x, inner = self._attended(x, found, weights, self._drop(seeds, 2 * i + 1))
        sizes = rows.sizes(x, inner, weights.feed_out, self._drop(seeds, 2 * i + 2), *ends[-4:])
        return Encoded(keys, values, targets, ends, sizes, target_rotation)

    def denoise(
        self,
        packed: Packed,
        encoded: Encoded,
        colours: Tensor,
        time: Tensor,
        features: Tensor | None,
        gain: Tensor | None,
        seeds: Tensor | None = None,
    ) -> Tensor:
        """Logits (T, 10) of the clean colours.

        `colours` int64 (T,) is the noisy grid, `time` the time input, float (T,) or (1,) for all, `features` float
        (T, 10) those of self-conditioning and `gain` float (T,) or (1,) their strength, both None to add nothing;
        `seeds` as for `encode`.
        """
        told = None if features is None else self.self_conditioning(features)
        ends = encoded.ends
        embedding = rows.table(ends.output_cells), ends.time, encoded.weights[0].attention_in, self._drop(seeds, 0)
        x, qkv = rows.targets(colours, time, told, gain, *embedding)
        for i, weights in enumerate(encoded.weights):
            places = packed.target_places, encoded.keys[i], encoded.values[i]
            query, keys, values = scatter_target_kv(self._heads(qkv), encoded.rotation, *places)
            found = attention(query, keys, values, packed.target_segments)
            x, inner = self._attended(x, found, weights, self._drop(seeds, 2 * i + 1))
            drop = self._drop(seeds, 2 * i + 2)
            if i + 1 < len(encoded.weights):
                x, qkv = rows.residual_then_project(
                    x, inner, weights.feed_out, encoded.weights[i + 1].attention_in, drop
                )
        return rows.logits(x, inner, weights.feed_out, ends.colour_head, drop)

    @property
    def dropouts(self) -> int:
        """Seeds that `encode` or `denoise` needs: of the embedding, and of two sublayers a layer."""
        return 1 + 2 * self.config.layers

    @property
    def prefix_length(self) -> int:
        """Rows before the input cells of a context."""
        return prefix_length(self.config)

    def _weights(self) -> tuple[list[Matrices], list[Matrices], IOWeights]:
        """Of every layer, for contexts and for targets, and of what stands around them."""
        blocks = cast("list[Block]", list(self.blocks))
        weights = [getattr(block, name).weight for block in blocks for name in Matrices._fields]
        outer = [linear.weight for linear in (self.input_cells, self.output_cells, self.time, self.colour_head)]
        sizes = [cast("nn.Linear", self.size_head[i]) for i in (0, 2)]
        outer += [x for linear in sizes for x in (linear.weight, linear.bias)]
        kind = weights[0].device.type
        dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else weights[0].dtype
        contexts, targets = cast_twice(weights + outer, dtype)
        each = range(0, len(weights), len(Matrices._fields))
        layers = [[Matrices(*side[i : i + 4]) for i in each] for side in (contexts, targets)]
        return layers[0], layers[1], IOWeights(*contexts[len(weights) :])

    def _heads(self, qkv: Tensor) -> Tensor:
        return qkv.view(len(qkv), 3, self.config.heads, -1)

    def _drop(self, seeds: Tensor | None, place: int) -> Drop:
        """The dropout of a place: 0 is the embedding, then two a layer."""
        if seeds is None:
            return 0.0, None
        return self.config.dropout if place else self.config.embedding_dropout, seeds[place]

    def _attended(self, x: Tensor, found: Tensor, weights: Matrices, drop: Drop) -> tuple[Tensor, Tensor]:
        """Rows (N, D) after their attention (N, H, D / H), and what feed_out reads, (N, F)."""
        x, hidden = rows.residual_then_project(x, found.flatten(1), weights.attention_out, weights.feed_in, drop)
        return x, gate(hidden)

    def _context(
        self, packed: Packed, hidden: Tensor | None, table: Tensor, into: Tensor, drop: Drop
    ) -> tuple[Tensor, Tensor]:
        views = packed.view_tokens if _CONDITIONING_TOKENS[self.config.conditioning] else None
        tables = self.task_table.weight, self.conditioning_table.weight, self.size_token
        prefix = rows.prefix(packed.examples.task, views, *tables)
        cells = packed.context_colour, hidden, packed.context_example
        places = packed.context_prefix, packed.prefix_rows
        return rows.contexts(*cells, prefix, *places, rows.table(table), into, drop)

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


def build(train: Train, task_rows: int) -> Denoiser:
    """A freshly initialised network."""
    return Denoiser(train.network, Projection(train.self_conditioning, train.network.width), task_rows)
