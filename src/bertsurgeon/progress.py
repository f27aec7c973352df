"""Progress bars with an estimate of the time left, one switch for the whole library.

The bars are rich's; this module only decides whether they are shown (the command line switches them on, a
library should be silent) and that they go to standard error, so that ``--json`` output stays clean.
"""

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

console = Console(stderr=True, markup=False, emoji=False)  # names of files are printed as they are
_enabled = False


class Advance(Protocol):
    """What :func:`bar` hands out: call it with the number of steps just finished."""

    def __call__(self, steps: float = 1) -> None:
        """Move the bar forward."""


def show(enabled: bool = True) -> None:
    """Switches all progress bars of the library on or off (off when the library is imported)."""
    global _enabled
    _enabled = enabled


def is_shown() -> bool:
    """Whether bars are shown."""
    return _enabled


def note(message: str) -> None:
    """Prints one line of progress when bars are shown."""
    if _enabled:
        console.print(message, highlight=False)


@contextmanager
def bar(description: str, total: float | None) -> Iterator[Advance]:
    """A progress bar for the duration of a ``with`` block; yields the function that advances it."""
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
    """Iterates over ``items`` and shows a bar; ``total`` is needed only for iterables without a length."""
    if total is None and isinstance(items, Sized):
        total = len(items)
    with bar(description, total) as advance:
        for item in items:
            yield item
            advance()
