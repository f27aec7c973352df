"""Aligned groups as options of a sub-layer: found on energies, judged by their error after compensation."""

from dataclasses import dataclass
from itertools import accumulate, pairwise

import numpy as np
import torch
from torch import Tensor

from bertsurgeon.compensation import apply_metric, ridge, solve_damped
from bertsurgeon.errors import OptionError
from bertsurgeon.grouping.assign import assign_rows, group_profits
from bertsurgeon.grouping.sizes import group_sizes
from bertsurgeon.grouping.sort import Partition, Scores, sort_groups
from bertsurgeon.methods.auto.candidates import Candidate
from bertsurgeon.plan import Channels, Grouped, Role, unit_channels

COUNTS = (2, 4, 8)
"""Numbers of groups that are considered."""


def group_options(
    weights: dict[Role, Tensor],
    roots: dict[Role, Tensor],
    inputs: Tensor,
    covariance: Tensor,
    width: int,
    damping: float,
    chunk: int = 1,
) -> list[Candidate]:
    """The options of a sub-layer that keeps all its units, in groups.

    Args:
        weights: Dense weights by role, the last one reading the units; fp64.
        roots: M^½ of every matrix' curvature, shape (out, out), or its diagonal.
        inputs: Covariance of the sub-layer's inputs.
        covariance: Covariance of the units' channels.
        width: Channels per unit.
        damping: Relative λ of the regressions.
        chunk: Neighbouring inputs (and outputs) that belong to the same group.

    Raises:
        OptionError: If inputs or outputs cannot be divided into chunks.
    """
    if len(inputs) % chunk or len(weights[[*weights][-1]]) % chunk:
        raise OptionError(f"Chunks of {chunk} channels do not divide the model's width, {len(inputs)}.")
    *first, last = weights
    units = len(covariance) // width
    reads = torch.zeros(units, len(inputs), dtype=torch.float64)
    for role in first:
        weighed = weights[role].square() * _diagonal(roots[role]).unsqueeze(1) * inputs.diagonal()
        reads += weighed.reshape(units, len(weighed) // units, -1).sum(1)
    writes = weights[last].square() * _diagonal(roots[last]).unsqueeze(1) * covariance.diagonal()
    writes = writes.reshape(len(writes), units, width).sum(2)
    reads = reads.unflatten(1, (-1, chunk)).sum(2)
    writes = writes.unflatten(0, (-1, chunk)).sum(1)
    options = []
    for count in COUNTS:
        if count > min(units, reads.shape[1], len(writes)):
            break
        found = align_groups(reads.numpy(), writes.numpy(), count)
        kept = [unit_channels(group.tolist(), width) for group in found.units]
        ranges = _ranges([len(group) for group in kept])
        after = Grouped(tuple(unit_channels(group.tolist(), chunk) for group in found.outputs), ranges)
        order = torch.tensor([channel for group in kept for channel in group])
        seen = covariance[order][:, order]
        error = group_error(weights[last][:, order], roots[last], seen, after, damping)
        structures: dict[Role, Grouped] = {}
        for role in first:
            own = len(weights[role]) // units  # narrower where several queries share a key and a value
            ranges = _ranges([len(group) * own for group in found.units])
            before = Grouped(ranges, tuple(unit_channels(group.tolist(), chunk) for group in found.inputs))
            order = torch.tensor([c for group in found.units for c in unit_channels(group.tolist(), own)])
            root = roots[role][order] if roots[role].dim() == 1 else roots[role][:, order]
            error += group_error(weights[role][order], root, inputs, before, damping)
            structures[role] = before
        structures[last] = after
        groups = tuple(tuple(group.tolist()) for group in found.units)
        options.append(Candidate(groups, error, {}, {}, structures))
    return options


def group_error(weight: Tensor, root: Tensor, covariance: Tensor, structure: Grouped, damping: float) -> float:
    """tr(M Δ C Δᵀ) for the best weights on the groups' support."""
    shift = ridge(covariance, damping)
    left = weight.clone()
    for rows, columns in zip(map(list, structure.row_groups), map(list, structure.column_groups), strict=True):
        right_side = (weight[rows] @ covariance)[:, columns].T
        solution = solve_damped(covariance[columns][:, columns], right_side, shift).T
        left[torch.tensor(rows).unsqueeze(1), torch.tensor(columns)] -= solution
    weighed = apply_metric(root, left)
    return float((weighed @ covariance * weighed).sum())


def _diagonal(root: Tensor) -> Tensor:
    """The diagonal of M."""
    return root.square() if root.dim() == 1 else root.square().sum(0)


def _ranges(sizes: list[int]) -> tuple[Channels, ...]:
    """Consecutive channels, one run per group."""
    return tuple(tuple(range(a, b)) for a, b in pairwise(accumulate(sizes, initial=0)))


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
