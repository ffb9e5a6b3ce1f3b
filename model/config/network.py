"""The shape of the denoiser and what it is conditioned on."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from model.config.base import Frozen, Rate


class Network(Frozen):
    """The denoiser."""

    width: Annotated[int, Field(gt=0, le=65536)]
    layers: Annotated[int, Field(gt=0, le=1024)]
    heads: Annotated[int, Field(gt=0, le=1024)]
    feed_forward: Annotated[int, Field(gt=0, le=262144)]
    """Hidden width of the gated feed-forward."""
    turns: Annotated[int, Field(gt=0, le=64)]
    """How often the layers are applied, one turn after another with the same weights."""
    convolution: Literal["none", "3x3"]
    """A depthwise convolution over the cells of each grid, of the feed-forward's gated activations."""
    dropout: Rate
    """Of what each sublayer adds."""
    hidden_dropout: Rate
    """Of the outputs of the attention heads and of the feed-forward's gated activations."""
    embedding_dropout: Rate
    """Of the elements of the cell embeddings."""
    input_grid_dropout: Rate
    """Share of training examples whose input grid is hidden from the output."""
    size_hidden: Annotated[int, Field(gt=0, le=65536)]
    """Hidden width of the size head."""
    conditioning: Literal["task", "d4", "d4-colour", "rotation-flip-colour", "augmented-task"]
    """Embeddings of an example: of its task, with those of its view's D4 and colour cycle, or one per task and view."""
    time_input: Literal["index", "log-alpha-bar", "log-snr"]
    task_embedding: Literal["prefix", "added"]
    """Task and view embeddings are rows before the input cells; or their sum is added to every row instead."""
    task_tokens: Annotated[int, Field(gt=0, le=64)]
    """Rows of the prefix that embed the task."""
    embedding_std: Annotated[float, Field(gt=0)]
    """Standard deviation of task and view embeddings at the start."""
    attention_gain: Annotated[float, Field(gt=0)]
    """Factor of all attention scores. Queries and keys are normalised, so without it attention cannot be sharp."""
    head_gains: Literal["fixed", "learned"]
    """Whether each head of each layer learns a factor of its scores, 1 at the start, beside attention_gain."""
    fastest_rotation: Annotated[float, Field(gt=0)]
    """Radians per cell of the fastest rotary pair of rows and of columns; the others scale with it."""

    @model_validator(mode="after")
    def _task_tokens(self) -> Self:
        if self.task_embedding == "added" and self.task_tokens > 1:
            raise ValueError(f"task_tokens is {self.task_tokens}; with task_embedding 'added' no row embeds the task")
        return self

    @model_validator(mode="after")
    def _heads(self) -> Self:
        if self.width % self.heads:
            fits = [h for h in range(1, self.width + 1) if self.width % h == 0 and (self.width // h) % 8 == 0]
            allowed = f"allowed: {fits}" if fits else "width must be a multiple of 8"
            raise ValueError(f"heads {self.heads} do not divide width {self.width}; {allowed}")
        if (self.width // self.heads) % 8:
            raise ValueError(f"width / heads is {self.width // self.heads}; rotary positions need a multiple of 8")
        return self
