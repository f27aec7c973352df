"""Permutation: from scores and group counts to a plan that assigns channels to groups."""

from typing import Literal

import numpy as np
from torch import Tensor

from bertsurgeon import progress
from bertsurgeon.calibration import MatrixKey
from bertsurgeon.grouping import Partition, Scores, assign_groups, group_sizes, sort_groups
from bertsurgeon.methods.pgb.group_counts import DROPPED, GroupCounts
from bertsurgeon.plan import ALL_ROLES, Dense, Dropped, Grouped, LayerPlan, MatrixPlan, ModelPlan, Structure

Grouping = Literal["sort", "assign", "none", "random"]


def find_groups(
    scores: Scores, groups: int, grouping: Grouping, steps: int, generator: np.random.Generator
) -> tuple[Partition, Partition]:
    """Assigns rows and columns of one matrix to groups.

    Args:
        scores: Non-negative, shape (rows, columns).
        groups: Number of groups.
        grouping: ``sort`` (the paper's), ``assign`` (balanced assignment that starts from it), ``none`` (channels in
            the order of the model) or ``random`` (in a random order).
        steps: N_perm, the number of alternations.
        generator: Source of randomness for ``random``.

    Returns:
        Row groups and column groups, each ascending.
    """
    if grouping in ("none", "random"):
        partitions: list[Partition] = []
        for size in scores.shape:
            order = generator.permutation(size) if grouping == "random" else np.arange(size)
            bounds = np.cumsum(group_sizes(size, groups))[:-1]
            partitions.append([np.sort(part) for part in np.split(order, bounds)])
        return partitions[0], partitions[1]
    row_groups, column_groups = sort_groups(scores, groups, steps)
    if grouping == "assign":
        return assign_groups(scores, row_groups, column_groups, steps)
    return row_groups, column_groups


def plan_groups(
    architecture: str,
    scores: dict[MatrixKey, Tensor],
    counts: GroupCounts,
    grouping: Grouping,
    steps: int,
    seed: int,
) -> ModelPlan:
    """Makes the plan of a model.

    Args:
        architecture: Name in the table of architectures.
        scores: By (layer, role), shape (out, in).
        counts: Number of groups by matrix; 1 keeps a matrix, 0 drops it.
        grouping: See :func:`find_groups`.
        steps: N_perm, the number of alternations.
        seed: Seed for ``random``.
    """
    generator = np.random.default_rng(seed)
    structures: dict[MatrixKey, Structure] = {}
    for key, score in progress.track(scores.items(), "Permuting", len(scores)):
        if counts[key] == DROPPED:
            structures[key] = Dropped()
        elif counts[key] == 1:
            structures[key] = Dense()
        else:
            rows, columns = find_groups(score.numpy(), counts[key], grouping, steps, generator)
            structures[key] = Grouped(
                tuple(tuple(group.tolist()) for group in rows),
                tuple(tuple(group.tolist()) for group in columns),
            )
    layers = 1 + max(layer for layer, _ in scores)
    return ModelPlan(
        architecture,
        tuple(
            LayerPlan(
                {
                    role: MatrixPlan(
                        (scores[layer, role].shape[0], scores[layer, role].shape[1]), structures[layer, role]
                    )
                    for role in ALL_ROLES
                    if (layer, role) in scores
                }
            )
            for layer in range(layers)
        ),
    )
