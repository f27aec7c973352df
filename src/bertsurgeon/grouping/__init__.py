"""Grouping: permutations that gather importance in diagonal blocks."""

from bertsurgeon.grouping.aligned import AlignedGroups, align_groups, kept_energy
from bertsurgeon.grouping.assign import assign_groups, kept_importance
from bertsurgeon.grouping.permute import Grouping, find_groups, plan_groups
from bertsurgeon.grouping.sort import sort_groups

__all__ = [
    "AlignedGroups",
    "Grouping",
    "align_groups",
    "assign_groups",
    "find_groups",
    "kept_energy",
    "kept_importance",
    "plan_groups",
    "sort_groups",
]
