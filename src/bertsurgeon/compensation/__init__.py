"""Compensation: the kept weights move to where they reconstruct the dense model best."""

from bertsurgeon.compensation.apply import Compensation, Target, apply_plan
from bertsurgeon.compensation.solve import compensate, matrix_roots, reduce_rank, reduced_errors, solve_damped, times

__all__ = [
    "Compensation",
    "Target",
    "apply_plan",
    "compensate",
    "matrix_roots",
    "reduce_rank",
    "reduced_errors",
    "solve_damped",
    "times",
]
