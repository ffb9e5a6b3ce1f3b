"""What every section of an experiment is built from: a closed, frozen type, names, and the ranges of numbers."""

import re
from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

NAME = r"[A-Za-z0-9]+([._-][A-Za-z0-9]+)*"
LONGEST_NAME = 64


def check_name(text: str) -> str:
    """Return `text` if it is a name. Names become parts of commands, files, branches and pages. Raises ValueError."""
    if len(text) <= LONGEST_NAME and re.fullmatch(NAME, text) and not text.endswith(".lock"):
        return text
    raise ValueError(
        f"{text[:40]!r} is no name; allowed are letters and digits, with single . _ - between them, at most "
        f"{LONGEST_NAME} in all, not ending in .lock"
    )


def _check_optional(text: str) -> str:
    return check_name(text) if text else text


Name = Annotated[str, AfterValidator(check_name)]
OptionalName = Annotated[str, AfterValidator(_check_optional)]
"""A name, or ''."""
Positive = Annotated[int, Field(gt=0, le=10**9)]
Count = Annotated[int, Field(ge=0, le=10**9)]
Share = Annotated[float, Field(ge=0, le=1)]
Rate = Annotated[float, Field(ge=0, lt=1)]
Names = Annotated[tuple[Name, ...], Field(strict=False, min_length=1)]


class Frozen(BaseModel):
    """Immutable, strict, and closed to unknown keys."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", strict=True, use_attribute_docstrings=True, allow_inf_nan=False
    )
