"""What a sub-layer may keep."""

from dataclasses import dataclass, field

from torch import Tensor

from bertsurgeon.plan import Channels, Grouped, Role, SubLayerName


@dataclass(frozen=True)
class Candidate:
    """One selection of units a sub-layer may keep, as they are or in aligned groups.

    Attributes:
        groups: Units that stay, ascending inside each group; a single group where nothing is grouped.
        error: What removing the others (and grouping) costs after the rest made up for them.
        shapes: Of the matrices that are left, where nothing is grouped.
        rank_errors: By matrix: ``rank_errors[role][r]`` is what reducing it to rank r costs, shape (full rank + 1,).
        structures: Of grouped matrices; empty where nothing is grouped.
    """

    groups: tuple[Channels, ...]
    error: float
    shapes: dict[Role, tuple[int, int]]
    rank_errors: dict[Role, Tensor]
    structures: dict[Role, Grouped] = field(default_factory=dict)

    @property
    def count(self) -> int:
        """Number of units that stay."""
        return sum(map(len, self.groups))


@dataclass(frozen=True)
class SubLayerCurve:
    """A sub-layer's options.

    Attributes:
        layer: Index of the layer.
        sub_layer: Attention or feed-forward part.
        total: Units of the dense sub-layer.
        width: Channels per unit.
        dropped: What dropping the whole sub-layer costs.
        options: From few units to all, ungrouped.
        grouped: Options in aligned groups, if they were asked for.
    """

    layer: int
    sub_layer: SubLayerName
    total: int
    width: int
    dropped: float
    options: tuple[Candidate, ...]
    grouped: tuple[Candidate, ...] = ()
