"""Exact removal: which heads and neurons go first, and what each step costs."""

from bertsurgeon.removal.greedy import Removal, greedy_removal

__all__ = ["Removal", "greedy_removal"]
