"""One training: its optimizer, schedule, batches and checkpoints."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from model.config.base import Count, Frozen, Name, Positive, Share
from model.config.diffusion import Noise, SelfConditioning
from model.config.finetuning import Finetune
from model.config.network import Network

WeightsKind = Literal["ema", "raw"]
"""Averaged weights, or those of the last update."""


class Optimizer(Frozen):
    """How a gradient becomes an update of the weights."""

    name: Literal["adamw", "muon", "normuon"]
    """muon: Muon for the matrices of the blocks, AdamW for all other parameters; normuon: Muon with updates normalised
    by neuron."""
    learning_rate: Annotated[float, Field(gt=0)]
    """At the peak; Muon's updates are scaled to the size of AdamW's, so that one rate fits both."""
    weight_decay: Annotated[float, Field(ge=0)]
    """Decoupled: an update also multiplies the weights by 1 - learning rate x weight_decay."""
    table_weight_decay: Annotated[float, Field(ge=0)] | None
    """Of embeddings, biases and gains, everything but matrices that multiply activations; null: as weight_decay."""


class Ema(Frozen):
    """The exponential moving average of the weights."""

    decay: Annotated[float, Field(ge=0.99, lt=1)]
    """Share of the average that an update keeps."""
    warmup_steps: Count
    """Updates over which the decay rises from 0.99."""


class NoiseLevels(Frozen):
    """How the noise level of a training example is drawn."""

    exponent: Annotated[float, Field(gt=0, le=100)]
    """The level x, from 0 (clean) to 1 (pure noise), has the density a x**(a - 1): uniform for 1, rising above 1."""
    pure_noise_share: Share
    """Share of examples at the last level, whatever the exponent."""


class PixelNoise(Frozen):
    """Random colours in the input grids of training examples."""

    rate: Share
    """Share of training inputs that get noise."""
    share: Share
    """Share of black input cells that the noise recolours."""


class HeldOut(Frozen):
    """When and on how many held-out pairs a training measures itself. It changes nothing of the training."""

    every: Positive
    """Updates between two measurements: the first row of the history at or after each multiple has one, and so has the
    last row."""
    pairs: Positive
    """At most so many test pairs of the validation tasks, evenly spaced in their order."""


class EarlyStop(Frozen):
    """When a training ends before its last update: its validation cross-entropy no longer falls."""

    every: Positive
    """Updates between two measurements of the validation pairs."""
    patience: Positive
    """Updates without a new lowest cross-entropy after which the training ends."""
    improvement: Annotated[float, Field(ge=0)]
    """By how many nats a value must be below the lowest so far to count as a new lowest."""

    @model_validator(mode="after")
    def _patience(self) -> Self:
        if self.patience % self.every:
            raise ValueError(f"patience is {self.patience}; it must be a multiple of every, {self.every}")
        return self


class Train(Frozen):
    """One training."""

    network: Network
    noise: Noise
    self_conditioning: SelfConditioning
    finetune: Finetune
    optimizer: Optimizer
    schedule: Literal["cosine", "constant", "linear"]
    """After the warm-up: to final_rate of the peak, or constant."""
    final_rate: Share
    """Share of the peak learning rate at the last step (cosine, linear)."""
    warmup_steps: Count
    optimizer_steps: Annotated[int, Field(ge=2, le=10**9)]
    """Updates, whatever the accumulation."""
    batch: Positive
    """Examples in a packed batch, on average; their cells fill a constant budget."""
    accumulation: Positive
    """Batches an update."""
    evaluation_weight: Annotated[float, Field(gt=0)]
    """Sampling weight of a pair of an evaluation task against one of another task."""
    origin_shares: dict[Name, Annotated[float, Field(gt=0, lt=1)]]
    """Share of the examples that are pairs of 'evaluation' tasks or of a source of fetch.extra, by name; the pairs of
    all other origins divide what is left by their weights."""
    last_share_on_evaluation: Share
    """Share of the training, at its end, in which all batches are of the demonstrations of evaluation tasks."""
    gradient_clip: Annotated[float, Field(gt=0)]
    size_loss_weight: Annotated[float, Field(ge=0)]
    noise_levels: NoiseLevels
    loss_mean: Literal["cells", "examples", "root-cells"]
    """What the cross-entropy is a mean of: cells; examples, so that small grids count as much as large ones; or cells
    weighted by their grid's number of cells to the power -0.5."""
    last_turn_share: Annotated[float, Field(gt=0, le=1)] | None
    """Share of the last turn in the colours' loss; the turns before divide what is left evenly. null: all evenly."""
    pixel_noise: PixelNoise
    ema: Ema
    evaluated_weights: WeightsKind
    precision: Literal["auto", "fp32", "bf16"]
    """auto: bf16 on a GPU, fp32 on a CPU."""
    compile: Literal["auto", "always", "never"]
    """torch.compile; auto: on a GPU."""
    candidates: Positive
    """Evenly spaced checkpoints; even, so that halfway is one of them."""
    log_every: Positive
    """Updates a row of the history averages."""
    validation: HeldOut
    evaluate_candidates: bool
    """Score each candidate as it appears, as the stage `select` does later; the score is printed and reported as an
    event, and changes nothing of the training."""
    early_stop: EarlyStop | None
    """null: train to the last update."""

    @model_validator(mode="after")
    def _shares(self) -> Self:
        if sum(self.origin_shares.values()) >= 1:
            raise ValueError(
                f"origin_shares add up to {sum(self.origin_shares.values()):g}; the other pairs need a share, so they "
                "must add up to less than 1"
            )
        if self.origin_shares and self.finetune.pairs == "evaluation":
            raise ValueError(
                "origin_shares would be ignored: finetune.pairs is 'evaluation', so that all pairs are of one origin; "
                "set origin_shares: {}"
            )
        if self.finetune.adapters == "lora" and "size_head" in self.finetune.targets and not self.size_loss_weight:
            raise ValueError(
                "size_loss_weight is 0, so that the adapters of the size head would not be trained; take size_head out "
                "of finetune.targets, or give it a weight"
            )
        return self

    @model_validator(mode="after")
    def _steps(self) -> Self:
        if self.candidates % 2 or self.optimizer_steps % self.candidates:
            fits = [c for c in range(2, 21, 2) if self.optimizer_steps % c == 0]
            raise ValueError(
                f"candidates is {self.candidates}; it must be even (halfway is one of them) and divide "
                f"optimizer_steps {self.optimizer_steps}; allowed up to 20: {fits or 'none, make optimizer_steps even'}"
            )
        if self.warmup_steps > self.optimizer_steps:
            raise ValueError(f"warmup_steps {self.warmup_steps} is more than optimizer_steps {self.optimizer_steps}")
        last = self.last_share_on_evaluation
        if last and round(self.optimizer_steps * (1 - last)) == self.optimizer_steps:
            raise ValueError(
                f"last_share_on_evaluation is {last:g}, less than one of optimizer_steps {self.optimizer_steps}: set "
                "it to 0 or to more"
            )
        stop = self.early_stop
        if stop and stop.every % self.log_every:
            raise ValueError(f"early_stop.every is {stop.every}; it must be a multiple of log_every, {self.log_every}")
        if stop and stop.every + stop.patience >= self.optimizer_steps:
            raise ValueError(
                f"early_stop.patience is {stop.patience}; after the first measurement at update {stop.every} it must "
                f"end before optimizer_steps, {self.optimizer_steps}, or it could never stop anything"
            )
        return self
