"""What a sub-layer may keep, and the error of each possibility: the input of the budget search."""

from dataclasses import dataclass, field

from torch import Tensor

from bertsurgeon.plan import Channels, Grouped, Role, SubLayerName


@dataclass(frozen=True)
class Candidate:
    """One selection of units that a sub-layer may keep, ungrouped or in aligned groups.

    Attributes:
        groups: Units that are kept, ascending inside each group; a single group if nothing is grouped.
        error: Error of removing the other units (and of grouping), after the rest was refitted.
        shapes: Shapes (out, in) of the smaller matrices; empty if they are grouped.
        rank_errors: Errors of low ranks, by matrix: ``rank_errors[role][r]`` is the error that rank r adds, shape
            (full rank + 1,). Empty if the matrices are grouped.
        structures: Structures of grouped matrices; empty if nothing is grouped.
    """

    groups: tuple[Channels, ...]
    error: float
    shapes: dict[Role, tuple[int, int]]
    rank_errors: dict[Role, Tensor]
    structures: dict[Role, Grouped] = field(default_factory=dict)

    @property
    def count(self) -> int:
        """Number of units that are kept."""
        return sum(map(len, self.groups))


@dataclass(frozen=True)
class SubLayerCurve:
    """Error of a sub-layer as a function of what it keeps.

    Attributes:
        layer: Index of the layer.
        sub_layer: Attention or feed-forward part.
        total: Units of the dense sub-layer.
        width: Channels per unit.
        dropped: Error of dropping the whole sub-layer.
        candidates: Ungrouped candidates, from the fewest units to all.
        grouped: Candidates in aligned groups, if the calibration includes them.
    """

    layer: int
    sub_layer: SubLayerName
    total: int
    width: int
    dropped: float
    candidates: tuple[Candidate, ...]
    grouped: tuple[Candidate, ...] = ()
