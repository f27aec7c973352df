"""Grouping: permutations that gather importance in diagonal blocks, by sorting or by balanced assignment."""

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment


def group_sizes(channels: int, groups: int) -> list[int]:
    """Sizes of ``groups`` groups of ``channels`` channels; they differ by at most one, larger groups first."""
    quotient, remainder = divmod(channels, groups)
    return [quotient + 1] * remainder + [quotient] * (groups - remainder)


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


def kept_importance(scores: Scores, row_groups: Partition, column_groups: Partition) -> float:
    """Sum of the scores inside the diagonal blocks."""
    return float(sum(scores[np.ix_(r, c)].sum() for r, c in zip(row_groups, column_groups, strict=True)))


def assign_groups(
    scores: Scores, row_groups: Partition, column_groups: Partition, steps: int
) -> tuple[Partition, Partition]:
    """Improves a grouping by coordinate ascent on the scores inside the blocks.

    With the column groups fixed, assigning each row to a group of fixed size is a transportation problem, which is
    solved exactly; then the columns with the row groups fixed, and so on until the sum of the scores stops rising.

    Args:
        scores: Non-negative, shape (rows, columns).
        row_groups: Row groups to start from.
        column_groups: Column groups to start from.
        steps: Largest number of rounds.

    Returns:
        Row groups and column groups of the same sizes, each ascending.
    """
    value = kept_importance(scores, row_groups, column_groups)
    for _ in range(steps):
        new_rows = assign_rows(group_profits(scores, column_groups), row_groups)
        new_columns = assign_rows(group_profits(scores.T, new_rows), column_groups)
        new_value = kept_importance(scores, new_rows, new_columns)
        if new_value <= value * (1 + 1e-9):
            break
        row_groups, column_groups, value = new_rows, new_columns, new_value
    return row_groups, column_groups


def group_profits(scores: Scores, column_groups: Partition) -> NDArray[np.float64]:
    """Sum of the scores that each row would have inside each group, shape (rows, groups)."""
    return np.stack([scores[:, group].sum(axis=1, dtype=np.float64) for group in column_groups], axis=1)


def assign_rows(profits: NDArray[np.float64], groups: Partition) -> Partition:
    """Assigns rows to groups of the same sizes as ``groups``, with the largest total profit.

    Args:
        profits: Profit of each row in each group, shape (rows, groups).
        groups: Only their sizes are used.
    """
    sizes = [len(group) for group in groups]
    if len(sizes) == 2:  # one sort suffices: the rows that gain most from the first group go there
        order = np.argsort(profits[:, 1] - profits[:, 0], kind="stable")
        return [np.sort(order[: sizes[0]]), np.sort(order[sizes[0] :])]
    seats = np.repeat(np.arange(len(sizes)), sizes)
    rows, chosen = linear_sum_assignment(profits[:, seats], maximize=True)
    group_of = np.empty(len(rows), dtype=np.intp)
    group_of[rows] = seats[chosen]
    return [np.flatnonzero(group_of == group) for group in range(len(sizes))]
