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
    """Finds groups by halving, each half again, by coordinate ascent on what the blocks keep.

    A halving starts from the sorted grouping of ``reads``; then outputs, units and inputs are assigned in turn, each
    time optimally (one sort) for halves of fixed sizes with the others as they are. :func:`kept_energy` never falls.

    Args:
        reads: Importance of every input channel to every unit, non-negative, shape (units, inputs).
        writes: Importance of every unit to every output channel, shape (outputs, units).
        groups: Number of groups, a power of two, at most the number of units.
        steps: At most this many rounds per halving.
    """
    if groups < 1 or groups & (groups - 1):
        raise ValueError(f"The number of groups must be a power of two, not {groups}.")
    everything = [np.arange(size) for size in (len(reads), reads.shape[1], len(writes))]
    if groups == 1:
        return AlignedGroups(*([part] for part in everything))
    halves = _halve(reads, writes, steps)
    parts: tuple[Partition, Partition, Partition] = ([], [], [])
    for units, inputs, outputs in zip(halves.units, halves.inputs, halves.outputs, strict=True):
        inner = align_groups(reads[np.ix_(units, inputs)], writes[np.ix_(outputs, units)], groups // 2, steps)
        for part, outer, found in zip(
            parts, (units, inputs, outputs), (inner.units, inner.inputs, inner.outputs), strict=True
        ):
            part.extend(outer[group] for group in found)
    return AlignedGroups(*parts)


def _halve(reads: Scores, writes: Scores, steps: int) -> AlignedGroups:
    units, inputs = sort_groups(reads, 2, steps)
    bounds = np.cumsum(group_sizes(len(writes), 2))[:-1]
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
