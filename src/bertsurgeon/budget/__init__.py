"""Budget: the number of groups of each matrix."""

from bertsurgeon.budget.group_counts import (
    DROPPED,
    GroupCounts,
    counts_by_threshold,
    counts_uniform,
    fold_counts,
    group_sizes,
    kept_weights,
)
from bertsurgeon.budget.target import counts_by_sparsity

__all__ = [
    "DROPPED",
    "GroupCounts",
    "counts_by_sparsity",
    "counts_by_threshold",
    "counts_uniform",
    "fold_counts",
    "group_sizes",
    "kept_weights",
]
