"""The facts of versions.yaml: what each version is, and every score that the lab published."""

import datetime
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from model.config.base import Frozen
from tasks.common.params import read
from tasks.common.presets import parse_name

FILE = Path(__file__).with_name("versions.yaml")


class Version(Frozen):
    """What one version is."""

    against: str | None
    """The version that it is compared with; None for the first."""
    date: datetime.date | None
    """None if it is ours."""
    commits: dict[str, str]
    """The lab's commits by what they defined; {} if it is ours."""
    change: Annotated[str, Field(max_length=30)]
    """What changed, in one line."""
    what: str
    why: str
    mistakes: list[str]

    @property
    def commit(self) -> str:
        """The first commit, or '-'."""
        return next(iter(self.commits.values()), "-")


class Published(Frozen):
    """One score that the lab published, and what gives it here."""

    experiment: str
    checkpoint: Literal["best", "halfway", "final"]
    evaluation: str
    set: Annotated[tuple[str, ...], Field(strict=False)] = ()
    """Overrides."""
    score: Annotated[float, Field(ge=0, le=100, strict=False)]
    """Per cent: mean over tasks, or what `count` counts."""
    count: str = ""
    reproduced: Literal["fully", "near", "not"]
    why: Annotated[tuple[str, ...], Field(strict=False)] = ()
    """Keys of `reasons`."""

    @property
    def version(self) -> str:
        """The version of the experiment."""
        return parse_name(self.experiment)["version"]

    @property
    def pair(self) -> str:
        """Checkpoint and evaluation, as they stand in the score table."""
        return f"{self.checkpoint}-{self.evaluation}"


class Ledger(Frozen):
    """All of versions.yaml."""

    versions: dict[str, Version]
    reasons: dict[str, str]
    published: list[Published]

    @model_validator(mode="after")
    def _known(self) -> Self:
        for row in self.published:
            if row.version not in self.versions:
                raise ValueError(f"{row.experiment}: there is no version {row.version!r} in `versions`")
            for reason in row.why:
                if reason not in self.reasons:
                    raise ValueError(f"{row.experiment}: {reason!r} is none of `reasons`")
            if row.reproduced != "fully" and not row.why:
                raise ValueError(f"{row.experiment} {row.pair}: {row.reproduced}, but no reason is given")
        return self

    def of(self, version: str) -> list[Published]:
        """The scores of a version, in the order of the notes."""
        return [row for row in self.published if row.version == version]

    def highest(self, version: str) -> Published | None:
        """Its highest score of tasks or grids solved; None if none was published."""
        rows = [row for row in self.of(version) if not row.count.endswith("sizes")]
        return max(rows, key=lambda row: row.score, default=None)

    def remarks(self, row: Published) -> str:
        """The reasons of a score, as a sentence without end; '' for none."""
        return "; ".join(self.reasons[reason] for reason in row.why)


def load() -> Ledger:
    """The ledger. Raises ConfigurationError or ValueError."""
    return Ledger.model_validate(read(FILE))
