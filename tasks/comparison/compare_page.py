"""The page of `arc compare --html`: scores and differences with their intervals; one file that opens offline."""

from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from model.scoring.wording import interval, percent
from tasks.comparison.comparison import Comparison

TEMPLATE = Path(__file__).with_name("compare.html.j2")
ENDS = (0.05, 0.1, 0.25, 0.5, 1.0)
"""Ends of a scale, as shares."""


def page(comparison: Comparison, letters: dict[str, str]) -> str:
    """The page; `letters` name the rows by label, as in the terminal."""
    environment = Environment(
        loader=FileSystemLoader(TEMPLATE.parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals.update(percent=percent, interval=interval, bar=bar)
    reach = max((abs(end) for pair in comparison.pairs for end in (pair.low, pair.high)), default=0.0)
    return environment.get_template(TEMPLATE.name).render(
        title="Comparison of " + " and ".join(row.label for row in comparison.rows[:2])
        if len(comparison.rows) < 3
        else f"Comparison of {len(comparison.rows)} experiments",
        rows=comparison.rows,
        pairs=comparison.pairs,
        notes=comparison.notes,
        letters=letters,
        end=scale(max(row.high for row in comparison.rows)),
        reach=scale(reach),
    )


def scale(most: float) -> float:
    """The first of ENDS that holds `most`, a share of at most 1."""
    return next(end for end in ENDS if most <= end)


def bar(low: float, high: float, middle: float, start: float, end: float) -> Markup:
    """An interval and its estimate on the scale from `start` to `end`, as elements of a `.plot`."""
    left, right, at = (100 * (value - start) / (end - start) for value in (low, high, middle))
    return Markup('<i style="left:{:.2f}%;width:{:.2f}%"></i><b style="left:{:.2f}%"></b>').format(
        left, right - left, at
    )
