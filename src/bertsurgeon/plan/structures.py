"""The structures that a matrix may have in a plan.

All structures are relative to the matrix W of shape (rows, columns) = (output channels, input channels) that remains
after whole units were removed (:class:`bertsurgeon.plan.Units`). Units and these four structures express everything
that the library searches over: free groups, aligned groups (groups of units that are stored side by side), low rank,
removal and dropping.
"""

from dataclasses import dataclass
from typing import Any, ClassVar

from bertsurgeon.errors import PlanError
from bertsurgeon.plan.units import Channels, format_channels, is_integer, parse_channels


@dataclass(frozen=True)
class Dense:
    """The matrix is kept as it is."""

    kind: ClassVar[str] = "dense"

    def kept(self, rows: int, columns: int) -> int:
        """Returns the number of weights that remain of ``rows × columns``."""
        return rows * columns

    def check(self, rows: int, columns: int) -> None:
        """Accepts every shape."""

    def to_dict(self) -> dict[str, Any]:
        """Returns plain data for JSON; specified in ``docs/format.md``."""
        return {"kind": self.kind}


@dataclass(frozen=True)
class Dropped:
    """No weight remains; the matrix outputs its bias."""

    kind: ClassVar[str] = "dropped"

    def kept(self, rows: int, columns: int) -> int:
        """Returns the number of weights that remain of ``rows × columns``."""
        return 0

    def check(self, rows: int, columns: int) -> None:
        """Accepts every shape."""

    def to_dict(self) -> dict[str, Any]:
        """Returns plain data for JSON; specified in ``docs/format.md``."""
        return {"kind": self.kind}


@dataclass(frozen=True)
class Grouped:
    """Group g maps input channels ``column_groups[g]`` to output channels ``row_groups[g]``; other weights are zero.

    Each channel belongs to at most one group; a channel in no group is removed. The order inside a group has no
    meaning, so channels ascend.

    Attributes:
        row_groups: Output channels of each group.
        column_groups: Input channels of each group.
    """

    row_groups: tuple[Channels, ...]
    column_groups: tuple[Channels, ...]
    kind: ClassVar[str] = "grouped"

    @property
    def groups(self) -> int:
        """The number of diagonal blocks."""
        return len(self.row_groups)

    @property
    def block_shapes(self) -> list[tuple[int, int]]:
        """The numbers of rows and columns of each diagonal block."""
        return [(len(r), len(c)) for r, c in zip(self.row_groups, self.column_groups, strict=True)]

    def kept(self, rows: int, columns: int) -> int:
        """Returns the number of weights that remain of ``rows × columns``."""
        return sum(r * c for r, c in self.block_shapes)

    def check(self, rows: int, columns: int) -> None:
        """Checks the groups against the matrix.

        Raises:
            PlanError: If a channel is out of range or in two groups, or a group is empty.
        """
        if not self.row_groups or len(self.row_groups) != len(self.column_groups):
            raise PlanError(
                "A grouped matrix needs as many row groups as column groups, at least one; correct the plan, or prune "
                "again."
            )
        for groups, size in ((self.row_groups, rows), (self.column_groups, columns)):
            channels = [channel for group in groups for channel in group]
            if not all(groups) or len(set(channels)) != len(channels) or not 0 <= min(channels) <= max(channels) < size:
                raise PlanError(
                    f"Groups must be disjoint, not empty and within 0…{size - 1}; correct the plan, or prune again."
                )

    def to_dict(self) -> dict[str, Any]:
        """Returns plain data for JSON; specified in ``docs/format.md``."""
        return {
            "kind": self.kind,
            "rows": [format_channels(group) for group in self.row_groups],
            "columns": [format_channels(group) for group in self.column_groups],
        }


@dataclass(frozen=True)
class LowRank:
    """The matrix becomes two thin factors.

    Attributes:
        rank: Inner width of the factors.
    """

    rank: int
    kind: ClassVar[str] = "low_rank"

    def kept(self, rows: int, columns: int) -> int:
        """Returns the number of weights that remain of ``rows × columns``."""
        return self.rank * (rows + columns)

    def check(self, rows: int, columns: int) -> None:
        """Checks the rank against the matrix.

        Raises:
            PlanError: If the rank is not within 1…min(rows, columns).
        """
        if not 1 <= self.rank <= min(rows, columns):
            raise PlanError(
                f"The rank must lie within 1…{min(rows, columns)}, not {self.rank}; correct the plan, or prune again."
            )

    def to_dict(self) -> dict[str, Any]:
        """Returns plain data for JSON; specified in ``docs/format.md``."""
        return {"kind": self.kind, "rank": self.rank}


Structure = Dense | Dropped | Grouped | LowRank


def structure_from_dict(data: dict[str, Any]) -> Structure:
    """Reads a structure from the plain data that its ``to_dict`` returns.

    Raises:
        PlanError: If the data is damaged or names a structure that this version does not support.
    """
    try:
        kind = data["kind"]
        if kind == Dense.kind:
            return Dense()
        if kind == Dropped.kind:
            return Dropped()
        if kind == Grouped.kind:
            if not isinstance(data["rows"], list) or not isinstance(data["columns"], list):
                raise TypeError("rows and columns are lists")
            return Grouped(
                tuple(parse_channels(text) for text in data["rows"]),
                tuple(parse_channels(text) for text in data["columns"]),
            )
        if kind == LowRank.kind:
            if not is_integer(data["rank"]):
                raise TypeError("the rank is a whole number")
            return LowRank(data["rank"])
    except (KeyError, TypeError, ValueError) as error:
        raise PlanError(f"The plan is damaged: a matrix cannot be read ({error!r}). Prune again.") from error
    raise PlanError(
        f"The plan contains a structure {str(kind)[:40]!r} that this version does not support; update bertsurgeon."
    )
