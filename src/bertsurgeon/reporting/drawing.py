"""SVG for pages: drawn by matplotlib, colored by the variables of the page's style sheet, the same bytes every time."""

import io
import re
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from html import escape
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

TEXT, MUTED, LINE = "#010101", "#010102", "#010103"
ACCENT, SECOND, GOOD, WARN, BAD = "#010104", "#010105", "#010106", "#010107", "#010108"

_VARIABLES = {
    TEXT: "currentColor",
    MUTED: "var(--muted)",
    LINE: "var(--line)",
    ACCENT: "var(--accent)",
    SECOND: "var(--second)",
    GOOD: "var(--good)",
    WARN: "var(--warn)",
    BAD: "var(--bad)",
}
"""Colors that stand for variables of the style sheet, which has one set for light and one for dark."""

WIDTH = 5.4
"""Width of a figure in inches of 100 units; small enough that its text is readable on a phone."""

_STYLE: dict[str, Any] = {
    "svg.fonttype": "none",  # texts stay texts: selectable, searchable, in the page's font
    "figure.dpi": 72,
    "text.parse_math": False,  # labels are the user's, and may hold dollar signs
    "font.family": "sans-serif",
    "font.size": 10,
    "axes.edgecolor": LINE,
    "axes.labelcolor": MUTED,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.8,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.facecolor": "none",
    "figure.facecolor": "none",
    "grid.color": LINE,
    "grid.linewidth": 0.6,
    "text.color": TEXT,
    "xtick.color": LINE,
    "ytick.color": LINE,
    "xtick.labelcolor": MUTED,
    "ytick.labelcolor": MUTED,
    "xtick.major.size": 0,
    "ytick.major.size": 0,
    "xtick.minor.size": 0,
    "ytick.minor.size": 0,
    "legend.frameon": False,
    "legend.fontsize": 10,
    "legend.handletextpad": 0.4,
    "legend.columnspacing": 1.4,
}


def _style(**changes: Any) -> Any:
    """Returns the settings of matplotlib, whose names its type hints list one by one."""
    return {**_STYLE, **changes}


@contextmanager
def canvas(height: float, columns: int = 1, **options: Any) -> Iterator[tuple["Figure", Any]]:
    """Yields a figure and its axes in the style of the page.

    Args:
        height: Height in inches.
        columns: Number of axes side by side.
        **options: For ``Figure.subplots``.
    """
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context(_style()), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph")  # the reader's fonts count, not matplotlib's
        figure = Figure(figsize=(WIDTH, height), layout="constrained")
        yield figure, figure.subplots(1, columns, **options)


def to_svg(figure: "Figure", name: str, label: str) -> str:
    """Returns a figure as an SVG element for an HTML page.

    Args:
        figure: The figure.
        name: Short name; ids inside the figure depend on it, so that they differ from those of other figures.
        label: Alternative text.
    """
    import matplotlib

    buffer = io.StringIO()
    with matplotlib.rc_context(_style(**{"svg.hashsalt": name})):
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"\s*<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r"<!--.*?-->", "", svg, flags=re.DOTALL)
    svg = re.sub(r'<g id="[^"]*"', "<g", svg)
    svg = svg.replace("xlink:href", "href")
    # letters take the page's font; matplotlib measured its own, which is wider
    svg = re.sub(r"font-family: [^;\"]*;? ?", "", svg)
    svg = re.sub(r"font: ((?:\w+ )*)([\d.]+px)[^;\"]*", _font, svg)
    for color, variable in _VARIABLES.items():
        svg = svg.replace(color, variable)
    view = re.search(r'viewBox="([^"]*)"', svg)
    assert view is not None
    width = view[1].split()[2]
    head = (
        f'<svg viewBox="{view[1]}" style="max-width:{1.33 * float(width):.0f}px" role="img" '
        f'aria-label="{escape(label)}">'
    )
    return head + svg[svg.index(">") + 1 :].strip()


def _font(match: re.Match[str]) -> str:
    """Replaces the short form of a font, which older versions of matplotlib write, by its size and weight."""
    weight = next((word for word in match[1].split() if word in ("bold", "600", "700")), "")
    return f"font-size: {match[2]}" + (f"; font-weight: {weight}" if weight else "")


def label_points(figure: "Figure", axes: "Axes", labels: Sequence[tuple[float, float, str, dict[str, Any]]]) -> None:
    """Writes a label beside each point, where it covers neither a point nor another label, if there is room.

    Args:
        figure: The figure, with everything else drawn.
        axes: Its axes.
        labels: For each point: x, y, text and options for ``annotate``; the first ones choose first.
    """
    figure.draw_without_rendering()
    points = [axes.transData.transform((x, y)) for x, y, _, _ in labels]
    edges = axes.get_window_extent()
    boxes = [(x - 4, y - 4, x + 4, y + 4) for x, y in points]
    for (x, y, text, options), point in zip(labels, points, strict=True):
        width, height = 5.6 * len(text), 10.0
        sides = [
            (8, 3),
            (8, -11),
            (-8 - width, 3),
            (-8 - width, -11),
            (-width / 2, 9),
            (-width / 2, -18),
            (10, 14),
            (10, -22),
        ]

        def cost(side: tuple[float, float], at: Any = point, size: float = width) -> float:
            x0, y0 = at[0] + side[0], at[1] + side[1]
            outside = max(0.0, edges.x0 - x0) + max(0.0, x0 + size - edges.x1 - 4) + max(0.0, edges.y0 - y0)
            overlap: float = sum(
                max(0.0, min(x0 + size, box[2]) - max(x0, box[0])) * max(0.0, min(y0 + 10, box[3]) - max(y0, box[1]))
                for box in boxes
            )
            return float(outside + overlap)

        dx, dy = min(sides, key=cost)
        boxes.append((point[0] + dx, point[1] + dy, point[0] + dx + width, point[1] + dy + height))
        axes.annotate(text, (x, y), (dx, dy + 1.5), textcoords="offset points", **options)


def legend_above(axes: "Axes", columns: int = 4) -> None:
    """Puts the legend above the axes, at their edge."""
    axes.legend(loc="lower left", bbox_to_anchor=(-0.02, 1.0), ncols=columns, borderaxespad=0.2, borderpad=0.2)
