"""Numbers as people read them: rounded, with their units, and a dash where there is none."""

import math
from collections.abc import Iterable
from typing import Any

DASH = "–"
"""Shown in place of a number that is missing."""

_METRICS = {
    "accuracy": "accuracy",
    "f1": "F1",
    "f1_macro": "macro F1",
    "matthews": "Matthews correlation",
    "pearson": "Pearson correlation",
    "spearman": "Spearman correlation",
    "exact_match": "exact match",
    "agreement": "agreement with the dense model",
}


def is_number(value: Any) -> bool:
    """Returns whether a value is a finite number."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def number(value: Any, digits: int = 2) -> str:
    """Formats a number with a fixed number of decimals."""
    return f"{value:,.{digits}f}" if is_number(value) else DASH


def significant(value: Any, digits: int = 3) -> str:
    """Formats a number with at least so many significant digits, without an exponent above 0.001."""
    if not is_number(value):
        return DASH
    size = abs(value)
    if size != 0 and size < 1e-3:
        mantissa, _, exponent = f"{value:.1e}".partition("e")
        return f"{mantissa} × 10{str(int(exponent)).translate(_SUPERSCRIPTS)}"
    decimals = digits - 1 if size == 0 else max(0, digits - 1 - math.floor(math.log10(size)))
    return f"{value:,.{decimals}f}"


_SUPERSCRIPTS = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


def integer(value: Any) -> str:
    """Formats a whole number with thousands separators."""
    return f"{round(value):,}" if is_number(value) else DASH


def scaled(value: Any, unit: str = "") -> str:
    """Formats a large number with a decimal prefix: ``5.31 M``, ``17.0 MB``."""
    if not is_number(value):
        return DASH
    for factor, prefix in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= factor:
            return f"{significant(value / factor)} {prefix}{unit}"
    return f"{integer(value)} {unit}".rstrip()


def size(value: Any) -> str:
    """Formats a size in bytes, in powers of ten."""
    return scaled(value, "B")


def milliseconds(value: Any) -> str:
    """Formats a latency."""
    return f"{significant(value)} ms" if is_number(value) else DASH


def percent(value: Any, digits: int = 1) -> str:
    """Formats percent."""
    return f"{value:.{digits}f} %" if is_number(value) else DASH


def share(value: Any, digits: int = 0) -> str:
    """Formats a share between 0 and 1 as percent."""
    return percent(100 * value, digits) if is_number(value) else DASH


def points(value: Any) -> str:
    """Formats a difference of two percentages."""
    return f"{_minus(f'{value:.2f}')} points" if is_number(value) else DASH


def signed(value: Any, digits: int = 2) -> str:
    """Formats a difference with its sign."""
    return _minus(f"{value:+.{digits}f}") if is_number(value) else DASH


def times(value: Any) -> str:
    """Formats a ratio: ``3.1×``."""
    return f"{value:.2f}×" if is_number(value) else DASH


def seconds(value: Any) -> str:
    """Formats a duration in seconds or, if it is long, in minutes."""
    if not is_number(value):
        return DASH
    return f"{significant(value, 2)} s" if value < 120 else f"{value / 60:.1f} min"


def metric_name(name: str) -> str:
    """Returns the name of a metric in full."""
    return _METRICS.get(name, name.replace("_", " "))


def ratio(before: Any, after: Any) -> float | None:
    """Returns how many times smaller the second number is; None without two positive numbers."""
    return before / after if is_number(before) and is_number(after) and before > 0 and after > 0 else None


def shorten(text: str, length: int) -> str:
    """Cuts a text to a length, with an ellipsis."""
    flat = " ".join(text.split())
    return flat if len(flat) <= length else f"{flat[: length - 1]}…"


def listed(words: Iterable[str]) -> str:
    """Joins words as a sentence lists them: ``a, b and c``."""
    *first, last = list(words) or [DASH]
    return f"{', '.join(first)} and {last}" if first else last


def _minus(text: str) -> str:
    return text.replace("-", "−")
