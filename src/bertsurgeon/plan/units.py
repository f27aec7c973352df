"""The units of a sub-layer that remain: whole attention heads, or neurons of a feed-forward part."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from bertsurgeon.errors import PlanError
from bertsurgeon.plan.channels import Channels, format_channels, parse_channels


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
            return cls(tuple(parse_channels(text) for text in data["kept"]), int(data["total"]), int(data["width"]))
        except (KeyError, TypeError, ValueError) as error:
            raise PlanError(
                f"The plan is damaged: the kept units of a sub-layer cannot be read ({error!r}). Prune again."
            ) from error
