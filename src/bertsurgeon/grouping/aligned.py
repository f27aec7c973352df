"""Aligned groups: whole heads or neurons form groups, and both matrices around them follow.

A group is a set of units with the input channels its first matrices read and the output channels its last one writes.
Units are stored group by group, so nothing is permuted inside the sub-layer; only what is read from and written to the
residual stream is gathered.
"""

from dataclasses import dataclass

import numpy as np

from bertsurgeon.budget import group_sizes
from bertsurgeon.grouping.assign import assign_rows, group_profits
from bertsurgeon.grouping.sort import Partition, Scores, sort_groups


@dataclass(frozen=True)
class AlignedGroups:
    """Which group every unit, input channel and output channel belongs to; each list has one entry per group."""

    units: Partition
    inputs: Partition
    outputs: Partition


def kept_energy(reads: Scores, writes: Scores, groups: AlignedGroups) -> float:
    """What the blocks keep of ``reads`` and ``writes`` together."""
    return float(
        sum(
            reads[np.ix_(units, inputs)].sum() + writes[np.ix_(outputs, units)].sum()
            for units, inputs, outputs in zip(groups.units, groups.inputs, groups.outputs, strict=True)
        )
    )


def align_groups(reads: Scores, writes: Scores, groups: int, steps: int = 6) -> AlignedGroups:
    """Finds groups by coordinate ascent on what the blocks keep.

    Started from the sorted grouping of ``reads``; then outputs, units and inputs are assigned in turn, each time
    optimally for groups of fixed sizes with the others as they are. :func:`kept_energy` never falls.

    Args:
        reads: Importance of every input channel to every unit, non-negative, shape (units, inputs).
        writes: Importance of every unit to every output channel, shape (outputs, units).
        groups: Number of groups, at most the number of units.
        steps: At most this many rounds.
    """
    units, inputs = sort_groups(reads, groups, steps)
    bounds = np.cumsum(group_sizes(len(writes), groups))[:-1]
    outputs: Partition = list(np.split(np.arange(len(writes)), bounds))
    found = AlignedGroups(units, inputs, assign_rows(group_profits(writes, units), outputs))
    value = kept_energy(reads, writes, found)
    for _ in range(steps):
        profits = group_profits(reads, found.inputs) + group_profits(writes.T, found.outputs)
        units = assign_rows(profits, found.units)
        inputs = assign_rows(group_profits(reads.T, units), found.inputs)
        outputs = assign_rows(group_profits(writes, units), found.outputs)
        new = AlignedGroups(units, inputs, outputs)
        new_value = kept_energy(reads, writes, new)
        if new_value <= value * (1 + 1e-9):
            break
        found, value = new, new_value
    return found
