"""The noise schedule, and how the network is conditioned on its own estimate."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from model.config.base import Frozen, Share


class Noise(Frozen):
    """Uniform-noise diffusion with a cosine schedule (version ledger 2.2)."""

    steps: Annotated[int, Field(ge=2, le=100_000)]
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
    """Strength 0.3 + 0.7 x: x is alpha_bar of the noise level; or the progress of the first 80 % of training, then 1,
    and in an evaluation that of denoising."""
    rate: Share
    """Share of training batches that see an estimate."""
    null_conditioning_rate: Share
    """Share of training batches that see zeros through the projection (its bias)."""
    training: Literal["same-step", "reverse-step", "argmax-reverse-step", "blend"]
    """Learned from: the same noisy grid; the grid one reverse step on, drawn, or its argmax, which moves hardly a cell
    (as the lab did); or truth blended with estimate, noised anew."""
    inference: Literal["temporal", "two-pass"]
    """The estimate of the previous step, or of a first pass at the same step."""

    @property
    def reverses(self) -> bool:
        """Whether training takes a reverse step, so that its levels begin at 1."""
        return self.training in ("reverse-step", "argmax-reverse-step")

    @model_validator(mode="after")
    def _branches(self) -> Self:
        if self.rate + self.null_conditioning_rate > 1:
            raise ValueError(
                f"rate + null_conditioning_rate is {self.rate + self.null_conditioning_rate}; their sum is at most 1"
            )
        if self.features != "none" and (self.rate == 0 or self.training == "blend"):
            cause = "rate is 0" if self.rate == 0 else "training is 'blend', which gives the network no estimate"
            raise ValueError(
                f"features is {self.features!r}, but {cause}: answers would use a projection that was never trained; "
                "set features: none"
            )
        return self
