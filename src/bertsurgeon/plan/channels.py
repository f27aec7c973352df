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
        if not first <= last < _MAX_CHANNEL:
            raise PlanError(f"The plan is damaged: {run!r} is not a range of channels. Prune again.")
        channels.extend(range(first, last + 1))
    if any(b <= a for a, b in pairwise(channels)):
        raise PlanError(f"The plan is damaged: the channels {text[:40]!r} do not ascend. Prune again.")
    return tuple(channels)
