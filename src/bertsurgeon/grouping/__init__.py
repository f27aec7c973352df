"""Grouping: permutations that gather importance in diagonal blocks."""

from bertsurgeon.grouping.assign import assign_groups, kept_importance
from bertsurgeon.grouping.permute import Grouping, find_groups, plan_groups
from bertsurgeon.grouping.sort import sort_groups

__all__ = ["Grouping", "assign_groups", "find_groups", "kept_importance", "plan_groups", "sort_groups"]
