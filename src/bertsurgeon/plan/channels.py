"""Sets of channels as short text: ``0-31 64 70-95``.

A plan names channels by their position in the dense matrix. Written as runs, aligned structures stay readable and
free permutations stay compact enough for ``config.json``.
"""

import re
from itertools import pairwise

from bertsurgeon.errors import PlanError

Channels = tuple[int, ...]

_MAX_CHANNEL = 2**24
_RUNS = re.compile(r"\d+(-\d+)?( \d+(-\d+)?)*")


def format_channels(channels: Channels) -> str:
    """Writes ascending channels as runs; the empty set is the empty string."""
    if not channels:
        return ""
    starts = [channels[0], *(b for a, b in pairwise(channels) if b != a + 1)]
    ends = [*(a for a, b in pairwise(channels) if b != a + 1), channels[-1]]
    return " ".join(f"{a}" if a == b else f"{a}-{b}" for a, b in zip(starts, ends, strict=True))


def parse_channels(text: str) -> Channels:
    """Reads what :func:`format_channels` wrote.

    Raises:
        PlanError: If the text is malformed or the channels do not ascend.
    """
    if text == "":
        return ()
    if not isinstance(text, str) or not _RUNS.fullmatch(text):
        raise PlanError(f"{str(text)[:40]!r} is not a list of channels like '0-31 64'; the plan is damaged.")
    channels: list[int] = []
    for run in text.split(" "):
        start, _, end = run.partition("-")
        first, last = int(start), int(end or start)
        if not first <= last < _MAX_CHANNEL:
            raise PlanError(f"The channels {run!r} are no run of a matrix's channels; the plan is damaged.")
        channels.extend(range(first, last + 1))
    if any(b <= a for a, b in pairwise(channels)):
        raise PlanError(f"The channels {text[:40]!r} do not ascend; the plan is damaged.")
    return tuple(channels)
