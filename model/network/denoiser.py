"""The denoiser: a pre-norm transformer that encodes a context once and denoises its target any number of times.

Context rows (conditioning tokens, size token, input cells) attend within their context; target rows (output cells)
attend to their context and to each other. Only target rows depend on the noise level and the self-conditioning
features, so the keys and values of the context are computed once for the size head, the self-conditioning pass and
every denoising step.

Differences from the lab's network (docs/versions.md, 2.1 to 2.3); its versions are recipes on this one:
- Blocks: pre-norm RMSNorm, normalised queries and keys, gated feed-forward, no biases; the lab's are post-norm, ReLU.
- Positions: rotary over row, column and grid instead of learned tables that both grids share.
- Cells: valid ones only, instead of a padded canvas that all attend to. Input cells do not attend to output cells.
- Colours: a table for input cells and one for output cells, instead of one for both. Ten classes come out of a norm and
  a linear layer without bias, zero at first; the lab's has a bias and no norm.
- Dropout: on the output of each sublayer, on the colours of cells (`embedding_dropout`), and, if wanted, on what the
  output projections read (`hidden_dropout`); the lab's is also on attention weights and inside the feed-forward, and
  that on cells covers their positions.
- Time: 64 sines and cosines (wavelengths 1/2 to about 500) and one linear layer, added to every output cell; the lab's
  are as many as the width (base 10,000), go through an MLP, and are a token.
- Hidden inputs (`input_grid_dropout`): cells are embedded as HIDDEN, with their positions; nothing is rescaled, and the
  example counts in no size loss. The lab zeroes all embeddings, scales the others by 1/0.95, and hides no input from
  the size head.
- Self-conditioning: the projection has 16 inputs, six of them always zero, so that torch's default initialisation lies
  within 0.25 instead of the lab's 0.32.
- Sizes: from a token of the context, one hidden layer with SiLU, 30 classes, no dropout of its own, the view's tokens
  in training too; the lab's from a mean over the canvas in a second pass, two hidden layers with ReLU and dropout, as
  many classes as the canvas has rows, trained with the tokens of view 0.
- Initialisation: by the width of the layer, residual outputs by depth; the lab's are torch's defaults.

Dimensions: S sequences, C context rows, T target rows, N rows of either kind, H heads, D width, F feed-forward width.
"""

from typing import NamedTuple, cast

import torch
from torch import Tensor, nn

from model.config.network import Network
from model.config.training import Train
from model.diffusion.self_conditioning import Projection
from model.network import layers
from model.network.convolution import neighbours
from model.network.hidden_dropout import drop_hidden
from model.network.initialisation import initialise
from model.network.layers import COLUMNS, TIME_FEATURES
from model.network.packing import Packed
from model.network.weights import Block, BlockWeights, IOWeights
from model.ops.attention import attention
from model.ops.casting import cast_for_two_passes
from model.ops.convolution import Neighbours, convolved_swiglu
from model.ops.dropout import Drop
from model.ops.qkv import Rotation, rotation_of, scale_heads, scatter_context_kv, scatter_target_kv
from model.ops.swiglu import swiglu
from model.puzzles.grids import LARGEST_SIDE

_CONDITIONING_ROWS = {"task": 0, "d4": 8, "d4-colour": 17, "rotation-flip-colour": 17, "augmented-task": 0}
_CONDITIONING_TOKENS = {"task": 0, "d4": 1, "d4-colour": 2, "rotation-flip-colour": 3, "augmented-task": 0}


class Encoded(NamedTuple):
    """An encoded batch of contexts: everything that `Denoiser.denoise` needs."""

    keys: list[Tensor]
    """For each layer (C + T, H, D / H), filled at context rows; `denoise` fills the target rows."""
    values: list[Tensor]
    """As `keys`."""
    weights: list[BlockWeights]
    """For each layer, for target rows."""
    io_weights: IOWeights
    size_logits: Tensor
    """float (S, 2, 30): height and width of the output in the view's frame; class k means k + 1 cells."""
    rotation: Rotation
    """Rotary embedding of the target rows."""
    added: Tensor | None
    """(S, D): what network.task_embedding 'added' adds to every row of a sequence; None for 'prefix'."""
    neighbours: Neighbours | None
    """Of the target rows, for network.convolution '3x3'; None without."""

    def detached(self) -> "Encoded":
        """The same with keys and values detached from the graph."""
        return self._replace(keys=[k.detach() for k in self.keys], values=[v.detach() for v in self.values])


class Denoiser(nn.Module):
    """The network. `task_rows` is the number of rows of the task table."""

    def __init__(self, config: Network, projection: Projection, task_rows: int) -> None:
        super().__init__()
        self.config, width = config, config.width
        self.prefix_length = prefix_length(config)
        self.task_table = nn.Embedding(task_rows, config.task_tokens * width)
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
        initialise(self, config)
        self.self_conditioning.initialise()

    def encode(self, packed: Packed, hide_input: Tensor | None = None, seeds: Tensor | None = None) -> Encoded:
        """Encode the contexts.

        `hide_input` bool (S,) hides the input cells of these sequences (input-grid dropout); None hides none. `seeds`
        int32 (`dropouts`,) seed the dropout masks; None disables dropout.
        """
        blocks, target_blocks, io_weights = self._weights()
        embedded = self._embed_tasks(packed)
        added = embedded.sum(1).to(blocks[0].attention_in.dtype) if self.config.task_embedding == "added" else None
        x, qkv = self._embed_contexts(packed, hide_input, io_weights, blocks[0], embedded, added, self._drop(seeds, 0))
        head = self.config.width // self.config.heads
        rotary = head, x.dtype, self.config.attention_gain, self.config.fastest_rotation
        rotation = rotation_of(packed.context_position, *rotary)
        target_rotation = rotation_of(packed.target_position, *rotary)
        slots = packed.context_slots, packed.target_slots
        near, target_near = neighbours(packed) if self.config.convolution == "3x3" else (None, None)
        keys, values = [], []
        for i, weights in enumerate(blocks):
            query, key, value, *for_targets = scatter_context_kv(self._heads(qkv), rotation, *slots)
            query = self._scaled(query, i)
            keys.append(for_targets[0])
            values.append(for_targets[1])
            if i + 1 < len(blocks):
                attended = attention(query, key, value, packed.context_segments)
                x, inner = self._after_attention(x, attended, i, weights, near, seeds)
                drop = self._drop(seeds, 2 * i + 2)
                x, qkv = layers.residual_then_project(x, inner, weights.feed_out, blocks[i + 1].attention_in, drop)
        # After the last keys and values only the size tokens are needed, which have no neighbours.
        prefixes = packed.context_prefix, packed.prefix_rows
        x, query = layers.size_tokens(x, query, *prefixes, self.prefix_length)
        attended = attention(query, key, value, packed.size_segments)
        x, inner = self._after_attention(x, attended, i, weights, None, seeds)
        sizes = layers.size_logits(x, inner, weights.feed_out, self._drop(seeds, 2 * i + 2), *io_weights[-4:])
        return Encoded(keys, values, target_blocks, io_weights, sizes, target_rotation, added, target_near)

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
        """Predict the clean colours: logits, float32 (T, 10).

        `colours` int64 (T,) is the noisy grid, `time` float (T,) or (1,) the time input, `features` float (T, 10) the
        self-conditioning features and `gain` float (T,) or (1,) their strength; without features both may be None.
        `seeds` as in `encode`.
        """
        return self.denoise_turns(packed, encoded, colours, time, features, gain, seeds, every_turn=False)[-1]

    def denoise_turns(
        self,
        packed: Packed,
        encoded: Encoded,
        colours: Tensor,
        time: Tensor,
        features: Tensor | None,
        gain: Tensor | None,
        seeds: Tensor | None = None,
        *,
        every_turn: bool,
    ) -> list[Tensor]:
        """As `denoise`, after each turn through the layers; without `every_turn` after the last alone."""
        logits = []
        conditioned = None if features is None else self.self_conditioning(features)
        io_weights, blocks = encoded.io_weights, encoded.weights
        table = layers.embedding_table(io_weights.output_cells)
        added = None if encoded.added is None else (encoded.added, packed.target_example)
        first = table, io_weights.time, blocks[0].attention_in, added, self._drop(seeds, 0)
        x, qkv = layers.embed_targets(colours, time, conditioned, gain, *first)
        for i, weights in enumerate(blocks):
            buffers = packed.target_slots, encoded.keys[i], encoded.values[i]
            query, keys, values = scatter_target_kv(self._heads(qkv), encoded.rotation, *buffers)
            attended = attention(self._scaled(query, i), keys, values, packed.target_segments)
            x, inner = self._after_attention(x, attended, i, weights, encoded.neighbours, seeds)
            drop = self._drop(seeds, 2 * i + 2)
            if i + 1 < len(blocks):
                x, qkv = layers.residual_then_project(x, inner, weights.feed_out, blocks[i + 1].attention_in, drop)
                if every_turn and (i + 1) % self.config.layers == 0:
                    logits.append(layers.logits_of(x, io_weights.colour_head))
        return [*logits, layers.colour_logits(x, inner, weights.feed_out, io_weights.colour_head, drop)]

    @property
    def dropouts(self) -> int:
        """Number of dropout masks in `encode` or `denoise`: one for the embedding, two for each layer of each turn, and
        with hidden dropout two more."""
        return 1 + 2 * self.config.layers * self.config.turns * (2 if self.config.hidden_dropout else 1)

    def _weights(self) -> tuple[list[BlockWeights], list[BlockWeights], IOWeights]:
        """The weights in autocast's dtype: of every layer for context rows, the same for target rows, and the rest.

        Layers are repeated for each turn.
        """
        blocks = cast("list[Block]", list(self.blocks))
        weights = [getattr(block, name).weight for block in blocks for name in BlockWeights._fields]
        outer = [linear.weight for linear in (self.input_cells, self.output_cells, self.time, self.colour_head)]
        size_layers = [cast("nn.Linear", self.size_head[i]) for i in (0, 2)]
        outer += [x for linear in size_layers for x in (linear.weight, linear.bias)]
        kind = weights[0].device.type
        dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else weights[0].dtype
        contexts, targets = cast_for_two_passes(weights + outer, dtype)
        starts = range(0, len(weights), len(BlockWeights._fields))
        by_layer = [
            [BlockWeights(*side[i : i + 4]) for i in starts] * self.config.turns for side in (contexts, targets)
        ]
        return by_layer[0], by_layer[1], IOWeights(*contexts[len(weights) :])

    def _heads(self, qkv: Tensor) -> Tensor:
        """(N, 3 D) -> (N, 3, H, D / H)."""
        return qkv.view(len(qkv), 3, self.config.heads, -1)

    def _block(self, i: int) -> Block:
        """The parameters of layer i, counted through all turns."""
        return cast("Block", self.blocks[i % self.config.layers])

    def _scaled(self, query: Tensor, i: int) -> Tensor:
        """The query with the learned gains of its heads."""
        log_gain = self._block(i).log_gain
        return query if log_gain is None else scale_heads(query, log_gain)

    def _drop(self, seeds: Tensor | None, index: int) -> Drop:
        """Rate and seed of dropout `index`: that of the embedding, then two for each layer, then the hidden ones."""
        if seeds is None:
            return 0.0, None
        hidden = index > 2 * self.config.layers * self.config.turns
        rate = self.config.hidden_dropout if hidden else self.config.dropout
        return rate if index else self.config.embedding_dropout, seeds[index]

    def _drop_hidden(self, x: Tensor, seeds: Tensor | None, index: int) -> Tensor:
        """Hidden dropout `index`, counted from 0, of activations (N, K)."""
        if seeds is None or self.config.hidden_dropout == 0:
            return x
        return drop_hidden(x, self._drop(seeds, 1 + 2 * self.config.layers * self.config.turns + index))

    def _after_attention(
        self,
        x: Tensor,
        attended: Tensor,
        i: int,
        weights: BlockWeights,
        near: Neighbours | None,
        seeds: Tensor | None,
    ) -> tuple[Tensor, Tensor]:
        """Residual stream (N, D) and inner activations of the feed-forward (N, F), given attention's (N, H, D / H).

        `near` are the rows' neighbours, None where none has any.
        """
        attended = self._drop_hidden(attended.flatten(1), seeds, 2 * i)
        next_weights = weights.attention_out, weights.feed_in
        x, hidden = layers.residual_then_project(x, attended, *next_weights, self._drop(seeds, 2 * i + 1))
        kernel = self._block(i).convolution
        inner = swiglu(hidden) if kernel is None or near is None else convolved_swiglu(hidden, kernel, near)
        return x, self._drop_hidden(inner, seeds, 2 * i + 1)

    def _embed_contexts(
        self,
        packed: Packed,
        hide_input: Tensor | None,
        io_weights: IOWeights,
        first: BlockWeights,
        embedded: Tensor,
        added: Tensor | None,
        drop: Drop,
    ) -> tuple[Tensor, Tensor]:
        """Residual stream (C, D) and the first layer's query, key and value (C, 3 D)."""
        prefixes = layers.join_prefixes(embedded if added is None else None, self.size_token, len(embedded))
        to_add = None if added is None else (added, packed.context_example)
        cells = packed.context_colour, hide_input, packed.context_example
        where = packed.context_prefix, packed.prefix_rows
        table = layers.embedding_table(io_weights.input_cells)
        return layers.embed_contexts(*cells, prefixes, *where, table, first.attention_in, to_add, drop)

    def _embed_tasks(self, packed: Packed) -> Tensor:
        """Embeddings of task and view, (S, task and conditioning tokens, D)."""
        view_tokens = packed.view_tokens if _CONDITIONING_TOKENS[self.config.conditioning] else None
        tables = self.task_table.weight, self.conditioning_table.weight
        return layers.embed_tasks(packed.examples.task, view_tokens, *tables, self.config.width)


def prefix_length(config: Network) -> int:
    """Rows before the input cells of a context: task and conditioning tokens, unless added to all rows; size token."""
    return 1 if config.task_embedding == "added" else config.task_tokens + _CONDITIONING_TOKENS[config.conditioning] + 1


def build(train: Train, task_rows: int) -> Denoiser:
    """A freshly initialised network."""
    return Denoiser(train.network, Projection(train.self_conditioning, train.network.width), task_rows)
