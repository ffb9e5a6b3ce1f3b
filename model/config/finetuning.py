"""Training that starts from a checkpoint."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from model.config.base import Frozen, OptionalName, Positive, Rate


class Finetune(Frozen):
    """Training that starts from a checkpoint."""

    start: OptionalName
    """Name of a checkpoint in data/own (NAME.safetensors and NAME.json); '' starts from random weights."""
    pairs: Literal["all", "evaluation"]
    """Train on all pairs, or on the demonstrations of the evaluation tasks alone (test-time training)."""
    task_table: Literal["trained", "frozen"]
    """Whether the task embeddings are trained too. Frozen, those of tasks that the checkpoint lacks stay random."""
    adapters: Literal["none", "lora"]
    """Train all other weights; or low-rank adapters of the targets alone (Hu et al. 2021)."""
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
        if self.task_table == "frozen" and not self.start:
            raise ValueError("task_table 'frozen' needs the name of a checkpoint in `start`, which has the embeddings")
        return self
