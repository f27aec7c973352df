"""Wall-clock time of the steps of a procedure."""

import time
from collections.abc import Iterator
from contextlib import contextmanager


class Timings:
    """Collects the wall-clock time of named steps.

    Attributes:
        seconds: Seconds by step, in the order in which the steps ended.

    Example:
        >>> from bertsurgeon.timings import Timings
        >>> timings = Timings()
        >>> with timings.step("allocation"):
        ...     pass
        >>> list(timings.seconds)
        ['allocation']
    """

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        """Times what runs inside the ``with`` block; a step that fails is not recorded."""
        start = time.perf_counter()
        yield
        self.seconds[name] = time.perf_counter() - start
