"""Which weights go together: single ones, runs of N along the input, or N of every M."""

import re
from dataclasses import dataclass

from bertsurgeon.errors import OptionError

BLOCK = "1x4"
"""The pattern that the name ``block`` stands for."""


@dataclass(frozen=True)
class Pattern:
    """A sparsity pattern.

    A *unit* is what is pruned as a whole: ``width`` consecutive weights of a row, aligned.

    Attributes:
        name: As the user gives it: ``unstructured``, ``1xN`` or ``N:M``.
        width: Weights of a unit.
        kept: N of N:M; 0 for other patterns.
        group: M of N:M, consecutive weights of a row; 0 for other patterns.
    """

    name: str
    width: int = 1
    kept: int = 0
    group: int = 0

    @classmethod
    def parse(cls, name: str) -> "Pattern":
        """Reads a pattern's name.

        Raises:
            OptionError: If there is no such pattern.
        """
        name = BLOCK if name == "block" else name
        if name == "unstructured":
            return cls(name)
        if (found := re.fullmatch(r"1x(\d+)", name)) and int(found[1]) > 0:
            return cls(name, width=int(found[1]))
        if (found := re.fullmatch(r"(\d+):(\d+)", name)) and 0 < int(found[1]) < int(found[2]):
            return cls(name, kept=int(found[1]), group=int(found[2]))
        raise OptionError(
            f"The pattern must be unstructured, block, 1xN such as 1x4, or N:M such as 2:4, not {name!r}."
        )

    @property
    def alignment(self) -> int:
        """A multiple of this many weights makes up a row, and a Fisher block."""
        return self.group or self.width

    @property
    def sparsity(self) -> float | None:
        """The share that the pattern itself prescribes; None where it leaves that open."""
        return 1 - self.kept / self.group if self.group else None

    def quota(self, sparsity: float) -> int:
        """Of N:M, how many of M weights are gone at a share on the way there."""
        return round(sparsity * self.group)

    def check(self, columns: int, block_size: int) -> None:
        """Checks that units fit rows and Fisher blocks.

        Raises:
            OptionError: If they straddle them.
        """
        if columns % self.alignment:
            raise OptionError(f"Rows of {columns} weights cannot be cut into runs of {self.alignment} ({self.name}).")
        if block_size % self.alignment:
            raise OptionError(
                f"A Fisher block of {block_size} weights cannot hold whole runs of {self.alignment} ({self.name}); "
                "choose a multiple."
            )
