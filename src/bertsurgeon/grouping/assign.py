"""Balanced assignment: rows and columns are assigned to groups in turn, each time optimally."""

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment

from bertsurgeon.grouping.sort import Partition, Scores


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
