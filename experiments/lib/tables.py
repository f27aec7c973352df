"""Markdown tables, and how results appear in their cells."""

from typing import Any

MISSING = "–"
WEIGHTS_KEPT = "encoder weights kept (removed)"
FLOPS_KEPT = "FLOPs kept (removed)"
"""Headers of columns of :func:`format_kept`."""


def table(header: list[str], rows: list[list[str]]) -> str:
    """Returns a Markdown table."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def first_metric(result: dict[str, Any] | None) -> Any:
    """Returns the deciding metric of a result, or None."""
    return None if result is None else next(iter(result["metrics"].values()))


def format_metric(result: dict[str, Any] | None) -> str:
    """Returns the deciding metric."""
    return MISSING if result is None else f"{first_metric(result):.1f}"


def format_divergence(result: dict[str, Any] | None) -> str:
    """Returns the divergence, and the deciding metric in brackets."""
    return MISSING if result is None else f"{result['divergence']:.3f} ({format_metric(result)})"


def format_kept(kept: float, digits: int = 0) -> str:
    """Formats a kept share with the removed share in brackets, for columns headed ``kept (removed)``."""
    return f"{100 * kept:.{digits}f} % ({100 * (1 - kept):.{digits}f} %)"


def describe_kept(kept: float | str) -> str:
    """Describes a removed share, as ``--sparsity`` takes it, with the kept share in brackets, for titles."""
    return f"{100 * (1 - float(kept)):.0f} % removed ({100 * float(kept):.0f} % kept)"


def format_speedup(value: float | None) -> str:
    """Returns a ratio with two digits after the point."""
    return MISSING if value is None else f"{value:.2f}x"


def format_ratio(value: float) -> str:
    """Returns a ratio with three significant digits at most."""
    return f"{value:.1f}x" if value >= 10 else f"{value:.2f}x"
