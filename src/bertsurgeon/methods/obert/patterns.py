"""Sparsity patterns: which weights are pruned together (single ones, runs of N along the input, or N of every M)."""

import re
from dataclasses import dataclass

from bertsurgeon.errors import OptionError

BLOCK = "1x4"
"""Pattern that the name ``block`` is short for."""


@dataclass(frozen=True)
class Pattern:
    """A sparsity pattern.

    A *unit* is pruned as a whole: ``width`` consecutive weights of a row, aligned.

    Attributes:
        name: Name in the options: ``unstructured``, ``1xN`` or ``N:M``.
        width: Weights per unit.
        kept: N of N:M; 0 for other patterns.
        group: M of N:M, consecutive weights of a row; 0 for other patterns.
    """

    name: str
    width: int = 1
    kept: int = 0
    group: int = 0

    @classmethod
    def parse(cls, name: str) -> "Pattern":
        """Parses a pattern's name.

        Raises:
            OptionError: If there is no such pattern.
        """
        name = BLOCK if name == "block" else name
        if name == "unstructured":
            return cls(name)
        if (match := re.fullmatch(r"1x(\d+)", name)) and int(match[1]) > 0:
            return cls(name, width=int(match[1]))
        if (match := re.fullmatch(r"(\d+):(\d+)", name)) and 0 < int(match[1]) < int(match[2]):
            return cls(name, kept=int(match[1]), group=int(match[2]))
        raise OptionError(
            f"The pattern must be unstructured, block, 1xN such as 1x4, or N:M such as 2:4, not {name!r}."
        )

    @property
    def alignment(self) -> int:
        """Number of weights that must divide a row and a Fisher block."""
        return self.group or self.width

    @property
    def sparsity(self) -> float | None:
        """Sparsity that the pattern prescribes; None if it allows any."""
        return 1 - self.kept / self.group if self.group else None

    def quota(self, sparsity: float) -> int:
        """Number of weights of every M that are pruned at an intermediate sparsity, for N:M."""
        return round(sparsity * self.group)

    def check(self, columns: int, block_size: int) -> None:
        """Checks that units divide rows and Fisher blocks.

        Raises:
            OptionError: If they do not.
        """
        if columns % self.alignment:
            raise OptionError(f"Rows of {columns} weights cannot be cut into runs of {self.alignment} ({self.name}).")
        if block_size % self.alignment:
            raise OptionError(
                f"A Fisher block of {block_size} weights cannot hold whole runs of {self.alignment} ({self.name}); "
                "choose a multiple."
            )
