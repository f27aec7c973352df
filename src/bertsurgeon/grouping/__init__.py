"""Grouping: assigns rows and columns to groups, so that the diagonal blocks contain the important weights."""

from bertsurgeon.grouping.assign import assign_groups, assign_rows, group_profits, kept_importance
from bertsurgeon.grouping.sizes import group_sizes
from bertsurgeon.grouping.sort import Partition, Scores, sort_groups

__all__ = [
    "Partition",
    "Scores",
    "assign_groups",
    "assign_rows",
    "group_profits",
    "group_sizes",
    "kept_importance",
    "sort_groups",
]
