"""Progress bars with an estimate of the remaining time, and one switch for the whole library.

The bars are rich's. They are off unless the command line switches them on, and go to standard error, so that the
output of ``--json`` stays clean.
"""

import logging
from collections.abc import Iterable, Iterator, Sized
from contextlib import contextmanager
from typing import Protocol, TypeVar

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

T = TypeVar("T")

console = Console(stderr=True, markup=False, emoji=False)  # file names may contain what rich takes for markup
_enabled = False


class Advance(Protocol):
    """Type of the function that :func:`bar` yields."""

    def __call__(self, steps: float = 1) -> None:
        """Advances the bar by the number of steps just finished."""


def show(enabled: bool = True) -> None:
    """Switches all progress bars of the library on or off (off when the library is imported)."""
    global _enabled
    _enabled = enabled


def is_shown() -> bool:
    """Returns True if progress bars are shown."""
    return _enabled


def note(message: str) -> None:
    """Prints one line if progress bars are shown."""
    if _enabled:
        console.print(message, highlight=False)


def warn(message: str) -> None:
    """Reports that a result differs from what was asked for.

    Prints one line if progress bars are shown; otherwise logs a warning of the logger ``bertsurgeon``, which Python
    prints to standard error unless the program configures it.
    """
    if _enabled:
        note(message)
    else:
        logging.getLogger("bertsurgeon").warning(message)


@contextmanager
def bar(description: str, total: float | None) -> Iterator[Advance]:
    """Shows a progress bar during a ``with`` block, and yields the function that advances it.

    Args:
        description: Label of the bar.
        total: Number of steps; None if unknown.
    """
    progress = Progress(
        TextColumn("{task.description:<28}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        console=console,
        disable=not _enabled,
    )
    with progress:
        task = progress.add_task(description, total=total)

        def advance(steps: float = 1) -> None:
            progress.advance(task, steps)

        yield advance


def track(items: Iterable[T], description: str, total: int | None = None) -> Iterator[T]:
    """Iterates over ``items`` with a progress bar.

    Args:
        items: What is iterated over.
        description: Label of the bar.
        total: Number of items; None for their length.
    """
    if total is None and isinstance(items, Sized):
        total = len(items)
    with bar(description, total) as advance:
        for item in items:
            yield item
            advance()
