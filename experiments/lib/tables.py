"""Markdown tables, and how results appear in their cells."""

from typing import Any

MISSING = "–"


def table(header: list[str], rows: list[list[str]]) -> str:
    """A Markdown table."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def first_metric(result: dict[str, Any] | None) -> Any:
    """The deciding metric of a result, or None."""
    return None if result is None else next(iter(result["metrics"].values()))


def format_metric(result: dict[str, Any] | None) -> str:
    """The deciding metric."""
    return MISSING if result is None else f"{first_metric(result):.1f}"


def format_divergence(result: dict[str, Any] | None) -> str:
    """The divergence, and the deciding metric in brackets."""
    return MISSING if result is None else f"{result['divergence']:.3f} ({format_metric(result)})"


def format_speedup(value: float | None) -> str:
    """A ratio with two digits after the point."""
    return MISSING if value is None else f"{value:.2f}x"


def format_ratio(value: float) -> str:
    """A ratio with three significant digits at most."""
    return f"{value:.1f}x" if value >= 10 else f"{value:.2f}x"
