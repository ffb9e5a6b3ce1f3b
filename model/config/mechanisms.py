"""The types of what a network is and how it learns, and the closed type that every section of an experiment is."""

from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

Positive = Annotated[int, Field(gt=0)]
Count = Annotated[int, Field(ge=0)]
Share = Annotated[float, Field(ge=0, le=1)]
Rate = Annotated[float, Field(ge=0, lt=1)]
Names = Annotated[tuple[str, ...], Field(strict=False, min_length=1)]


class Frozen(BaseModel):
    """Immutable, strict, and closed to unknown keys."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", strict=True, use_attribute_docstrings=True, allow_inf_nan=False
    )


class Noise(Frozen):
    """Uniform-noise diffusion with a cosine schedule (version ledger 2.2)."""

    steps: Positive
    """Noise levels T in training."""
    offset: Annotated[float, Field(ge=0, lt=1)]
    """s of the cosine."""
    alpha_bar_final: Annotated[float, Field(gt=0, lt=1)]
    """Share of cells still unreplaced at the last level."""


class SelfConditioning(Frozen):
    """What the network is told of its own previous estimate (version ledger 3)."""

    features: Literal["none", "probabilities", "log-probabilities"]
    """The estimate as given to the network; log-probabilities are tempered and centred per cell."""
    temperature: Annotated[float, Field(gt=0)]
    """Of the log-probabilities."""
    projection: Literal["linear", "mlp", "gated-norm"]
    """From the ten features to the width."""
    gain: Literal["alpha-bar", "progress"]
    """Strength 0.3 + 0.7 x: x is alpha_bar of the noise level, or the progress of training (then of denoising)."""
    rate: Share
    """Share of training batches that see an estimate."""
    zeros_rate: Share
    """Share of training batches that see zeros through the projection (its bias)."""
    training: Literal["same-step", "reverse-step", "blend"]
    """Learned from: the same noisy grid, the grid one reverse step on, or truth blended with estimate, noised anew."""
    inference: Literal["temporal", "two-pass"]
    """The estimate of the previous step, or of a first pass at the same step."""

    @model_validator(mode="after")
    def _branches(self) -> Self:
        if self.rate + self.zeros_rate > 1:
            raise ValueError(f"rate + zeros_rate is {self.rate + self.zeros_rate}; their sum is at most 1")
        return self


class Network(Frozen):
    """The denoiser."""

    width: Positive
    layers: Positive
    heads: Positive
    feed_forward: Positive
    """Hidden width of the gated feed-forward."""
    dropout: Rate
    embedding_dropout: Rate
    """Of the elements of the cell embeddings."""
    input_grid_dropout: Rate
    """Share of training examples whose input grid is hidden from the output."""
    size_hidden: Positive
    """Hidden width of the size head."""
    conditioning: Literal["task", "d4", "d4-colour", "rotation-flip-colour", "augmented-task"]
    """Embeddings of an example: of its task, with those of its view's D4 and colour cycle, or one per task and view."""
    time_input: Literal["index", "log-alpha-bar", "log-snr"]
    attention_gain: Annotated[float, Field(gt=0)]
    """Factor of all attention scores. Queries and keys are normalised, so without it attention cannot be sharp."""
    fastest_rotation: Annotated[float, Field(gt=0)]
    """Radians per cell of the fastest rotary pair of rows and of columns; the others scale with it."""

    @model_validator(mode="after")
    def _heads(self) -> Self:
        if self.width % self.heads:
            fits = [h for h in range(1, self.width + 1) if self.width % h == 0 and (self.width // h) % 8 == 0]
            raise ValueError(f"heads {self.heads} do not divide width {self.width}; allowed: {fits}")
        if (self.width // self.heads) % 8:
            raise ValueError(f"width / heads is {self.width // self.heads}; rotary positions need a multiple of 8")
        return self


class EarlyStop(Frozen):
    """When a training ends before its last update: its validation cross-entropy no longer falls."""

    every: Positive
    """Updates between two looks at the validation pairs."""
    patience: Positive
    """Updates without a new lowest cross-entropy after which the training ends."""
    improvement: Annotated[float, Field(ge=0)]
    """Nats below the lowest so far from which a value is a new lowest."""

    @model_validator(mode="after")
    def _patience(self) -> Self:
        if self.patience % self.every:
            raise ValueError(f"patience is {self.patience}; it must be a multiple of every, {self.every}")
        return self


class Finetune(Frozen):
    """Training that starts from a checkpoint."""

    start: Annotated[str, Field(pattern=r"^[A-Za-z0-9._-]*$")]
    """Name of a checkpoint in data/own (NAME.safetensors and NAME.json); '' starts from random weights."""
    pairs: Literal["all", "evaluation"]
    """Train on all pairs, or on the demonstrations of the evaluation tasks alone (test-time training)."""
    adapters: Literal["none", "lora"]
    """Train all weights; or low-rank adapters of the targets and the task table (Hu et al. 2021)."""
    rank: Positive
    alpha: Annotated[float, Field(gt=0)]
    """An adapter is scaled by alpha / rank."""
    dropout: Rate
    """Of the inputs of the adapters, one draw a pass."""
    targets: Annotated[
        tuple[Literal["attention_in", "attention_out", "feed_in", "feed_out", "size_head"], ...],
        Field(strict=False, min_length=1),
    ]
    """The matrices of every block that are adapted, and both of the size head."""

    @model_validator(mode="after")
    def _start(self) -> Self:
        if self.adapters != "none" and not self.start:
            raise ValueError("adapters need the name of a checkpoint in `start`; without one there is nothing to adapt")
        return self
