"""Channels and units by number: sets of channels as short text (``0-31 64 70-95``), and kept heads or neurons.

A plan names channels by their position in the dense matrix. Written as runs, aligned structures stay readable and
free permutations stay compact enough for ``config.json``.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from bertsurgeon.errors import PlanError

Channels = tuple[int, ...]

MAX_CHANNEL = 2**24
"""Size of matrices and numbers of channels are below this."""

MAX_NAMED = 2**22
"""Most channels that a plan names, if the size of the weights is not known; they take some 150 MB of memory."""

_RUN = "[0-9]{1,8}(?:-[0-9]{1,8})?"
_RUNS = re.compile(f"{_RUN}(?: {_RUN})*")


def format_channels(channels: Channels) -> str:
    """Formats ascending channels as runs, such as ``0-31 64``; the empty set is the empty string."""
    if not channels:
        return ""
    starts = [channels[0], *(b for a, b in pairwise(channels) if b != a + 1)]
    ends = [*(a for a, b in pairwise(channels) if b != a + 1), channels[-1]]
    return " ".join(f"{a}" if a == b else f"{a}-{b}" for a, b in zip(starts, ends, strict=True))


def parse_channels(text: str) -> Channels:
    """Parses the text that :func:`format_channels` writes.

    Raises:
        PlanError: If the text is malformed or the channels do not ascend.
    """
    if text == "":
        return ()
    if not isinstance(text, str) or not _RUNS.fullmatch(text):
        raise PlanError(
            f"The plan is damaged: {str(text)[:40]!r} is not a list of channels like '0-31 64'. Prune again."
        )
    channels: list[int] = []
    for run in text.split(" "):
        start, _, end = run.partition("-")
        first, last = int(start), int(end or start)
        if not first <= last < MAX_CHANNEL:
            raise PlanError(f"The plan is damaged: {run!r} is not a range of channels. Prune again.")
        channels.extend(range(first, last + 1))
    if any(b <= a for a, b in pairwise(channels)):
        raise PlanError(f"The plan is damaged: the channels {text[:40]!r} do not ascend. Prune again.")
    return tuple(channels)


def check_channels(data: Any, most: int) -> None:
    """Counts the channels that are named anywhere in plain data, before any of them takes memory.

    Args:
        data: Plain data, such as that of a plan.
        most: The largest number that is allowed.

    Raises:
        PlanError: If there are more.
    """
    count, parts = 0, [data]
    while parts:
        part = parts.pop()
        if isinstance(part, dict | list):
            parts += part.values() if isinstance(part, dict) else part
        elif isinstance(part, str) and _RUNS.fullmatch(part):
            for run in part.split(" "):
                first, _, last = run.partition("-")
                count += max(0, int(last or first) - int(first)) + 1
            if count > most:
                raise PlanError(
                    f"The plan is damaged: it names more than {most:,} channels, which its weights do not have. Prune "
                    "again."
                )


def is_integer(value: object) -> bool:
    """Returns whether plain data is a whole number that may be the size of a matrix; True and False are none."""
    return type(value) is int and 0 <= value < MAX_CHANNEL


def unit_channels(units: Iterable[int], width: int) -> Channels:
    """Returns the channels of units, unit after unit.

    Args:
        units: Indices of the units.
        width: Channels per unit.
    """
    return tuple(unit * width + offset for unit in units for offset in range(width))


@dataclass(frozen=True)
class Units:
    """The units that a sub-layer keeps, in the order in which they are stored.

    The matrices before and after removed units are stored, and computed, without the channels of these units.

    Attributes:
        groups: Kept units, ascending inside each group; groups lie side by side (one group: the dense order).
        total: Units of the dense sub-layer.
        width: Channels per unit: the width of a head, 1 for a neuron. If several query heads share a key and a value, a
            unit consists of all of them, and its width is that of the queries.
    """

    groups: tuple[Channels, ...]
    total: int
    width: int

    def __post_init__(self) -> None:
        """Checks the units.

        Raises:
            PlanError: If there is none, one is repeated, or one is out of range.
        """
        units = [unit for group in self.groups for unit in group]
        if not units or not all(self.groups) or len(set(units)) != len(units):
            raise PlanError("The plan is damaged: a sub-layer must keep at least one unit, each once. Prune again.")
        if self.width < 1 or not 0 <= min(units) <= max(units) < self.total:
            raise PlanError(f"The plan is damaged: kept units must lie within 0…{self.total - 1}. Prune again.")

    @property
    def kept(self) -> int:
        """The number of units that remain."""
        return sum(map(len, self.groups))

    @property
    def order(self) -> Channels:
        """The kept units in the stored order."""
        return tuple(unit for group in self.groups for unit in group)

    def to_dict(self) -> dict[str, Any]:
        """Returns plain data for JSON; specified in ``docs/format.md``."""
        return {"kept": [format_channels(group) for group in self.groups], "total": self.total, "width": self.width}

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> "Units":
        """Reads the plain data that :meth:`to_dict` returns.

        Raises:
            PlanError: If it is damaged.
        """
        try:
            kept, total, width = data["kept"], data["total"], data["width"]
            if not isinstance(kept, list) or not is_integer(total) or not is_integer(width):
                raise TypeError("kept is a list, total and width are whole numbers")
            return cls(tuple(parse_channels(text) for text in kept), total, width)
        except (KeyError, TypeError, ValueError) as error:
            raise PlanError(
                f"The plan is damaged: the kept units of a sub-layer cannot be read ({error!r}). Prune again."
            ) from error
