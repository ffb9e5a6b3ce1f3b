"""Grids and curves as pictures. The same input gives the same bytes: no dates, no versions, ids by content."""

import io
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from model.puzzles.grids import Grid

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Image = NDArray[np.uint8]
"""RGB, (height, width, 3)."""

PALETTE = np.array(
    [
        (0x00, 0x00, 0x00),
        (0x00, 0x74, 0xD9),
        (0xFF, 0x41, 0x36),
        (0x2E, 0xCC, 0x40),
        (0xFF, 0xDC, 0x00),
        (0xAA, 0xAA, 0xAA),
        (0xF0, 0x12, 0xBE),
        (0xFF, 0x85, 0x1B),
        (0x7F, 0xDB, 0xFF),
        (0x87, 0x0C, 0x25),
    ],
    dtype=np.uint8,
)
"""(10, 3): the colours of ARC's own viewer (fchollet/ARC-AGI, apps/css/common.css)."""
LINE = np.array((0x55, 0x55, 0x55), dtype=np.uint8)
"""Colour of the lines between cells, from the same file."""

INK, QUIET, FAINT = "#1d1d1f", "#6e6e73", "#e3e3e6"
"""Text, axes and grid lines of the curves; in an SVG they become the page's variables of these names."""
SERIES = ("#2f7de1", "#e0702d", "#8a56c9")
"""Colours of lines, readable on white and on black."""

MARGIN, GAP, LABEL = 28, 16, 42
"""Margins and gaps of a sheet, in pixels."""
SHEET_WIDTH, SHEET_ROWS = 1500, 12
"""Pixels after which a sheet wraps, and the largest number of its rows; the page shows all rows."""

PNG_METADATA: dict[str, Any] = {"Software": None}
SVG_METADATA: dict[str, Any] = {"Date": None, "Creator": None, "Format": None, "Type": None}
"""No date and no software version, so that the same input gives the same bytes."""

Curve = tuple[Sequence[float], Sequence[float]]
"""x and y."""


class Panel(NamedTuple):
    """One plot: lines by name over the same axis."""

    title: str
    x_label: str
    lines: dict[str, Curve]
    """By name; a line named as the panel needs no legend, and its last value is written into the corner."""
    share: bool = False
    """y is a share, shown from 0 to 1."""


class Strip(NamedTuple):
    """One row of a sheet: grids with their labels of one or two lines."""

    heading: str
    grids: Sequence[tuple[str, Grid]]


class Text(NamedTuple):
    """A text of a sheet, all in pixels: left end, lower end and size."""

    x: int
    y: int
    text: str
    size: int
    colour: str


def image(grid: Grid, cell: int) -> Image:
    """A grid of h x w cells as (h * cell + 1, w * cell + 1, 3): squares of `cell` - 1 pixels, a line around each."""
    drawn = np.pad(PALETTE[grid].repeat(cell, axis=0).repeat(cell, axis=1), ((0, 1), (0, 1), (0, 0)))
    drawn[::cell] = LINE
    drawn[:, ::cell] = LINE
    return drawn


def cell_size(grids: Sequence[Grid], side: int) -> int:
    """Pixels of a cell, 5..24, at which the longest side of the grids is about `side` pixels."""
    return int(np.clip(side // max((max(grid.shape) for grid in grids), default=1), 5, 24))


def cells_png(grid: Grid) -> bytes:
    """A grid as PNG with one pixel a cell, which a page enlarges; its palette is PALETTE."""
    from PIL import Image as Pillow

    picture = Pillow.fromarray(np.ascontiguousarray(grid, dtype=np.uint8))
    picture.putpalette(PALETTE.tobytes())
    buffer = io.BytesIO()
    picture.save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


def image_png(pixels: Image) -> bytes:
    """The image as PNG."""
    from matplotlib.image import imsave

    buffer = io.BytesIO()
    imsave(buffer, pixels, format="png", metadata=PNG_METADATA)
    return buffer.getvalue()


def figure_png(figure: "Figure") -> bytes:
    """The figure as PNG on white."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", metadata=PNG_METADATA)
    return buffer.getvalue()


def figure_svg(figure: "Figure") -> str:
    """The figure as an `<svg>` element for a page: text stays text, and takes font and greys from the page."""
    import matplotlib

    buffer = io.StringIO()
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "report"}):
        figure.savefig(buffer, format="svg", transparent=True, metadata=SVG_METADATA)
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    for colour, name in ((INK, "ink"), (QUIET, "quiet"), (FAINT, "faint")):
        text = text.replace(colour, f"var(--{name})")
    for namespace in (' xmlns="http://www.w3.org/2000/svg"', ' xmlns:xlink="http://www.w3.org/1999/xlink"'):
        text = text.replace(namespace, "")  # HTML implies them, and the page contains no URL.
    return text


def curves(panels: Sequence[Panel], columns: int, width: float = 3.5, margin: float = 0.0) -> "Figure":
    """The panels side by side, `columns` a row. `width` of a panel and `margin` around all of them are in inches."""
    from matplotlib.figure import Figure

    rows = max(1, -(-len(panels) // columns))
    size = width * columns + 2 * margin, 2.3 * rows + 2 * margin
    figure = Figure(figsize=size, dpi=160)
    figure.subplots_adjust(
        left=(0.48 + margin) / size[0],
        right=1 - (0.14 + margin) / size[0],
        top=1 - (0.3 + margin) / size[1],
        bottom=(0.46 + margin) / size[1],
        wspace=0.26,
        hspace=0.5,
    )
    all_axes = figure.subplots(rows, columns, squeeze=False).flat
    for panel, axes in zip(panels, all_axes, strict=False):
        _plot(axes, panel)
    for axes in all_axes[len(panels) :]:
        axes.remove()
    return figure


def _plot(axes: "Axes", panel: Panel) -> None:
    from matplotlib.ticker import EngFormatter, MaxNLocator

    for colour, (name, (x, y)) in zip(SERIES, panel.lines.items(), strict=False):
        marker = "o" if len(x) <= 10 else None
        axes.plot(x, y, color=colour, linewidth=1.5, marker=marker, markersize=2.5, label=name, solid_capstyle="round")
    title: dict[str, Any] = {"fontsize": 9, "pad": 8}
    axes.set_title(panel.title, loc="left", x=-0.46 / (axes.bbox.width / axes.figure.dpi), color=INK, **title)
    if list(panel.lines) == [panel.title]:
        last = next(iter(panel.lines.values()))[1]
        axes.set_title(f"{last[-1]:.3g}", loc="right", color=SERIES[0], **title)
    elif len(panel.lines) > 1:
        axes.legend(fontsize=7.5, frameon=False, labelcolor=QUIET, handlelength=1.2, borderaxespad=0.2)
    axes.set_ylim(bottom=0)
    axes.yaxis.set_major_locator(MaxNLocator(4))
    if panel.share:
        axes.set_ylim(-0.02, 1.02)
        axes.set_yticks([0, 0.25, 0.5, 0.75, 1])
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    axes.set_xlabel(panel.x_label, fontsize=7.5, color=QUIET, labelpad=2)
    axes.tick_params(labelsize=7.5, labelcolor=QUIET, length=0, pad=4)
    axes.grid(axis="y", color=FAINT, linewidth=0.7)
    axes.set_axisbelow(True)
    for side, spine in axes.spines.items():
        spine.set_visible(side == "bottom")
        spine.set_color(FAINT)


def sheet(title: str, strips: Sequence[Strip], side: int = 132) -> bytes:
    """Strips of grids below each other as PNG on white; grids are drawn to the pixel, as `image` draws them."""
    from matplotlib.figure import Figure

    texts = [Text(MARGIN, MARGIN + 20, title, 19, INK)]
    pictures: list[tuple[int, int, Image]] = []
    width, y = 680, MARGIN + 44
    for strip in strips[:SHEET_ROWS]:
        texts.append(Text(MARGIN, y + 15, strip.heading, 15, INK))
        x, y, tallest = MARGIN, y + 20, 0
        cell = cell_size([grid for _, grid in strip.grids], side)
        for label, grid in strip.grids:
            drawn = image(grid, cell)
            taken = max(drawn.shape[1], 8 * max(map(len, label.split("\n"))))
            if x > MARGIN and x + taken > SHEET_WIDTH - MARGIN:
                x, y, tallest = MARGIN, y + tallest + LABEL + 8, 0
            texts.append(Text(x, y + LABEL - 6, label, 13, QUIET))
            pictures.append((x, y + LABEL, drawn))
            width = max(width, x + taken + MARGIN)
            x += taken + GAP
            tallest = max(tallest, drawn.shape[0])
        y += tallest + LABEL + 2 * GAP
    height, dpi = y + MARGIN - 2 * GAP, 100
    figure = Figure(figsize=(width / dpi, height / dpi), dpi=dpi)
    for text in texts:
        at = text.x / width, 1 - text.y / height
        figure.text(*at, text.text, va="bottom", fontsize=text.size * 72 / dpi, color=text.colour)
    for x, y, drawn in pictures:
        figure.figimage(drawn, x, height - y - drawn.shape[0], origin="upper")
    return figure_png(figure)
