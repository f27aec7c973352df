"""Progress bars with an estimate of the remaining time, and one switch for the whole library.

The bars are rich's; where standard error is no terminal (a log file, CI), long steps print a plain line now and then
instead. Progress is off unless the command line switches it on, and goes to standard error, so that the output of
``--json`` stays clean.
"""

import logging
import os
import time
from collections.abc import Callable, Iterable, Iterator, Sized
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
clock = time.monotonic  # replaced in tests
_enabled = False
_step = ""
"""Number of the step in progress, such as "[2/5] "; empty outside of :func:`steps`."""
_noted: set[str] = set()
"""Notes that are printed once."""

NARROW = 100
"""Columns of a terminal below which bars are short, so that a line fits 80 columns."""
QUIET_SECONDS = 5.0
"""Steps shorter than this print nothing where no bar can be drawn."""
LINE_SECONDS = 30.0
"""Seconds from one line of a long step to the next where no bar can be drawn."""


class Advance(Protocol):
    """Type of the function that :func:`bar` yields."""

    def __call__(self, steps: float = 1) -> None:
        """Advances the bar by the number of steps just finished."""


def show(enabled: bool = True) -> None:
    """Switches all progress bars of the library on or off (off when the library is imported)."""
    global _enabled
    _enabled = enabled
    _noted.clear()


def is_shown() -> bool:
    """Returns True if progress bars are shown."""
    return _enabled


def note(message: str) -> None:
    """Prints one line if progress bars are shown."""
    if _enabled:
        console.print(message, highlight=False)


def note_once(message: str) -> None:
    """Prints one line if progress bars are shown and the same line was not printed before."""
    if _enabled and message not in _noted:
        _noted.add(message)
        note(message)


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
def steps(total: int) -> Iterator[Callable[[], None]]:
    """Numbers the bars of a procedure of several steps, and yields the function that begins the next step.

    Every bar shown meanwhile has the number of the step before its description, such as "[2/5] Calibrating"; a step may
    show several bars, or none. Steps of a procedure inside another one have numbers of their own.

    Args:
        total: Number of steps.
    """
    global _step
    outer, number = _step, 0

    def begin() -> None:
        nonlocal number
        global _step
        number += 1
        _step = f"[{number}/{total}] "

    try:
        yield begin
    finally:
        _step = outer


@contextmanager
def bar(description: str, total: float | None) -> Iterator[Advance]:
    """Shows a progress bar during a ``with`` block, and yields the function that advances it.

    Where standard error is no terminal, a step that lasts longer than ``QUIET_SECONDS`` prints a line when it advances,
    at most every ``LINE_SECONDS``, and one at its end.

    Args:
        description: Label of the bar.
        total: Number of steps; None if unknown.
    """
    if _enabled and not _is_drawable():
        lines = _Lines(_step + description, total)
        yield lines.advance
        lines.finish()
        return
    progress = Progress(
        TextColumn("{task.description:<28}", markup=False),
        BarColumn(bar_width=40 if console.width >= NARROW else 10),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        console=console,
        disable=not _enabled,
    )
    with progress:
        task = progress.add_task(_step + description, total=total)

        def advance(steps: float = 1) -> None:
            progress.advance(task, steps)

        yield advance


def _is_drawable() -> bool:
    """Returns whether standard error can show a bar; FORCE_COLOR, which CI sets, only allows colors."""
    return console.is_interactive and (console.file.isatty() or "TTY_COMPATIBLE" in os.environ)


class _Lines:
    """Reports a step in plain lines.

    Args:
        description: What the step does.
        total: Number of steps; None if unknown.
    """

    def __init__(self, description: str, total: float | None) -> None:
        self.description = description
        self.total = total
        self.start = clock()
        self.done = 0.0
        self.next_line = self.start + QUIET_SECONDS
        self.reference = (self.start, 0.0)  # time and steps from which the speed is measured

    def advance(self, steps: float = 1) -> None:
        """Counts finished steps, and prints a line if the last one was printed long ago."""
        now = clock()
        if not self.done and steps > 1:  # a resumed training, whose first steps took no time
            self.reference = (now, steps)
        self.done += steps
        if now >= self.next_line:
            self.next_line = now + LINE_SECONDS
            console.print(f"{self.description}: {self._state(now)}", highlight=False, soft_wrap=True)

    def finish(self) -> None:
        """Prints how long the step took, unless it was short or is not complete."""
        seconds = clock() - self.start
        if seconds >= QUIET_SECONDS and (self.total is None or self.done >= self.total):
            console.print(f"{self.description}: done in {duration(seconds)}", highlight=False, soft_wrap=True)

    def _state(self, now: float) -> str:
        if not self.total:
            return f"{self.done:,.0f} done, {duration(now - self.start)} so far"
        share = f"{100 * min(1.0, self.done / self.total):.0f} % ({self.done:,.0f} of {self.total:,.0f})"
        then, before = self.reference
        if self.done <= before or self.done >= self.total:
            return share
        return f"{share}, about {duration((now - then) * (self.total - self.done) / (self.done - before))} left"


def duration(seconds: float) -> str:
    """Formats a duration, such as "40 s", "2 min 5 s" or "1 h 3 min"."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    minutes, rest = divmod(whole, 60)
    if minutes < 60:
        return f"{minutes} min {rest} s" if rest else f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if minutes else f"{hours} h"


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
