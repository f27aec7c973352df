"""Aligned groups as candidates of a sub-layer: found by the energy they keep, judged by their error after refitting."""

from dataclasses import dataclass
from functools import partial
from itertools import accumulate, pairwise

import numpy as np
import torch
from torch import Tensor

from bertsurgeon.compensation import apply_metric, ridge, solve_damped
from bertsurgeon.errors import OptionError
from bertsurgeon.grouping import Partition, Scores, assign_rows, group_profits, group_sizes, sort_groups
from bertsurgeon.methods.auto.candidates import Candidate
from bertsurgeon.plan import Channels, Grouped, Role, unit_channels

COUNTS = (2, 4, 8)
"""Numbers of groups that are candidates."""


def group_candidates(
    weights: dict[Role, Tensor],
    roots: dict[Role, Tensor],
    inputs: Tensor,
    covariance: Tensor,
    width: int,
    damping: float,
    chunk: int = 1,
) -> list[Candidate]:
    """Makes the candidates of a sub-layer that keep all units, in groups.

    Args:
        weights: Dense weights by role, shape (out, in), fp64; the last one reads the units.
        roots: M^½ of the curvature of each matrix, shape (out, out), or its diagonal (out,).
        inputs: Covariance of the sub-layer's inputs, shape (in, in).
        covariance: Covariance of the units' channels, shape (units · width, units · width).
        width: Channels per unit.
        damping: λ of the regressions, relative to the mean variance.
        chunk: Number of neighboring inputs (and outputs) that belong to the same group.

    Raises:
        OptionError: If inputs or outputs cannot be divided into chunks.
    """
    *first, last = weights
    if len(inputs) % chunk or len(weights[last]) % chunk:
        raise OptionError(f"Chunks of {chunk} channels do not divide the model's width, {len(inputs)}.")
    units = len(covariance) // width
    reads = inputs.new_zeros(units, len(inputs))
    make_index = partial(torch.tensor, device=inputs.device)
    for role in first:
        energy = weights[role].square() * _diagonal(roots[role]).unsqueeze(1) * inputs.diagonal()
        reads += energy.reshape(units, len(energy) // units, -1).sum(1)
    writes = weights[last].square() * _diagonal(roots[last]).unsqueeze(1) * covariance.diagonal()
    writes = writes.reshape(len(writes), units, width).sum(2)
    reads = reads.unflatten(1, (-1, chunk)).sum(2)
    writes = writes.unflatten(0, (-1, chunk)).sum(1)
    candidates = []
    for count in COUNTS:
        if count > min(units, reads.shape[1], len(writes)):
            break
        aligned = align_groups(reads.cpu().numpy(), writes.cpu().numpy(), count)
        kept = [unit_channels(group.tolist(), width) for group in aligned.units]
        outputs = tuple(unit_channels(group.tolist(), chunk) for group in aligned.outputs)
        after = Grouped(outputs, _ranges([len(group) for group in kept]))
        order = make_index([channel for group in kept for channel in group])
        error = group_error(weights[last][:, order], roots[last], covariance[order][:, order], after, damping)
        structures: dict[Role, Grouped] = {}
        for role in first:
            role_width = len(weights[role]) // units  # narrower where several queries share a key and a value
            rows = _ranges([len(group) * role_width for group in aligned.units])
            before = Grouped(rows, tuple(unit_channels(group.tolist(), chunk) for group in aligned.inputs))
            order = make_index([c for group in aligned.units for c in unit_channels(group.tolist(), role_width)])
            root = roots[role][order] if roots[role].dim() == 1 else roots[role][:, order]
            error += group_error(weights[role][order], root, inputs, before, damping)
            structures[role] = before
        structures[last] = after
        groups = tuple(tuple(group.tolist()) for group in aligned.units)
        candidates.append(Candidate(groups, error, {}, {}, structures))
    return candidates


def group_error(weight: Tensor, root: Tensor, covariance: Tensor, structure: Grouped, damping: float) -> float:
    """Error tr(M Δ C Δᵀ) of the least-squares weights on the support of some groups.

    Args:
        weight: Dense weight, shape (out, in), fp64.
        root: M^½, shape (any, out), or its diagonal (out,).
        covariance: C, shape (in, in).
        structure: The groups.
        damping: λ of the regression, relative to the mean variance.
    """
    shift = ridge(covariance, damping)
    difference = weight.clone()
    make_index = partial(torch.tensor, device=weight.device)
    for rows, columns in zip(
        map(make_index, structure.row_groups), map(make_index, structure.column_groups), strict=True
    ):
        right_side = (weight[rows] @ covariance)[:, columns].T
        solution = solve_damped(covariance[columns][:, columns], right_side, shift).T
        difference[rows.unsqueeze(1), columns] -= solution
    weighted = apply_metric(root, difference)
    return float((weighted @ covariance * weighted).sum())


def _diagonal(root: Tensor) -> Tensor:
    """Diagonal of M, from M^½ or its diagonal."""
    return root.square() if root.dim() == 1 else root.square().sum(0)


def _ranges(sizes: list[int]) -> tuple[Channels, ...]:
    """Consecutive channels, one run per group."""
    return tuple(tuple(range(a, b)) for a, b in pairwise(accumulate(sizes, initial=0)))


@dataclass(frozen=True)
class AlignedGroups:
    """Groups of units, input channels and output channels that belong together.

    Attributes:
        units: Units of each group.
        inputs: Input channels of each group.
        outputs: Output channels of each group.
    """

    units: Partition
    inputs: Partition
    outputs: Partition


def kept_energy(reads: Scores, writes: Scores, groups: AlignedGroups) -> float:
    """Sum of ``reads`` and ``writes`` inside the blocks; for the arguments see :func:`align_groups`."""
    return float(
        sum(
            reads[np.ix_(units, inputs)].sum() + writes[np.ix_(outputs, units)].sum()
            for units, inputs, outputs in zip(groups.units, groups.inputs, groups.outputs, strict=True)
        )
    )


def align_groups(reads: Scores, writes: Scores, groups: int, steps: int = 6) -> AlignedGroups:
    """Finds groups by recursive halving, with coordinate ascent on the energy that the blocks keep.

    A halving starts from the sorted grouping of ``reads``; then outputs, units and inputs are assigned in turn, each
    time optimally (one sort) for halves of fixed sizes while the others are fixed. :func:`kept_energy` never falls.

    Args:
        reads: Importance of every input channel to every unit, non-negative, shape (units, inputs).
        writes: Importance of every unit to every output channel, shape (outputs, units).
        groups: Number of groups, a power of two, at most the number of units.
        steps: Largest number of rounds per halving.

    Raises:
        ValueError: If the number of groups is not a power of two.
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
        for part, outer, inner_groups in zip(
            parts, (units, inputs, outputs), (inner.units, inner.inputs, inner.outputs), strict=True
        ):
            part.extend(outer[group] for group in inner_groups)
    return AlignedGroups(*parts)


def _halve(reads: Scores, writes: Scores, steps: int) -> AlignedGroups:
    units, inputs = sort_groups(reads, 2, steps)
    bounds = np.cumsum(group_sizes(len(writes), 2))[:-1]
    outputs: Partition = list(np.split(np.arange(len(writes)), bounds))
    halves = AlignedGroups(units, inputs, assign_rows(group_profits(writes, units), outputs))
    energy = kept_energy(reads, writes, halves)
    for _ in range(steps):
        profits = group_profits(reads, halves.inputs) + group_profits(writes.T, halves.outputs)
        units = assign_rows(profits, halves.units)
        inputs = assign_rows(group_profits(reads.T, units), halves.inputs)
        outputs = assign_rows(group_profits(writes, units), halves.outputs)
        improved = AlignedGroups(units, inputs, outputs)
        new_energy = kept_energy(reads, writes, improved)
        if new_energy <= energy * (1 + 1e-9):
            break
        halves, energy = improved, new_energy
    return halves
