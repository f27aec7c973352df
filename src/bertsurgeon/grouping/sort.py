"""The paper's permutation: alternating sorts that move importance into one corner, block after block."""

import numpy as np
from numpy.typing import NDArray

from bertsurgeon.grouping.sizes import group_sizes

Scores = NDArray[np.floating]
"""Importance of every weight of a matrix, non-negative, shape (rows, columns)."""

Partition = list[NDArray[np.intp]]
"""Channels of each group."""


def sort_groups(scores: Scores, groups: int, steps: int) -> tuple[Partition, Partition]:
    """Assigns rows and columns to groups by alternating sorts (PGB, permutation step).

    For each block in turn: sort the free rows by their importance inside the chosen columns, take the best; sort the
    free columns by their importance inside the chosen rows, take the best; repeat. Then fix the block and continue with
    the rest. The first columns are chosen by their total importance.

    Args:
        scores: Non-negative, shape (rows, columns).
        groups: Number of groups.
        steps: N_perm, the number of alternations per block.

    Returns:
        Row groups and column groups, each ascending, sizes as in :func:`bertsurgeon.grouping.group_sizes`.
    """
    rows, columns = (np.arange(size) for size in scores.shape)
    row_groups: Partition = []
    column_groups: Partition = []
    for height, width in zip(group_sizes(scores.shape[0], groups), group_sizes(scores.shape[1], groups), strict=True):
        rest = scores[np.ix_(rows, columns)]
        best_columns = _best(rest.sum(axis=0), width)
        best_rows = _best(rest[:, best_columns].sum(axis=1), height)
        for _ in range(steps - 1):
            best_columns = _best(rest[best_rows].sum(axis=0), width)
            best_rows = _best(rest[:, best_columns].sum(axis=1), height)
        row_groups.append(np.sort(rows[best_rows]))
        column_groups.append(np.sort(columns[best_columns]))
        rows = np.delete(rows, best_rows)
        columns = np.delete(columns, best_columns)
    return row_groups, column_groups


def _best(totals: Scores, count: int) -> NDArray[np.intp]:
    """Positions of the ``count`` largest totals; a stable sort, so that ties have the same result on every machine."""
    return np.argsort(-totals, kind="stable")[:count]
