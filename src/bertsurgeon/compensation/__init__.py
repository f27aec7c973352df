"""Compensation: the kept weights move to where they reconstruct the dense model best."""

from bertsurgeon.compensation.apply import Compensation, apply_plan
from bertsurgeon.compensation.masked import refit_masked
from bertsurgeon.compensation.parts import Target
from bertsurgeon.compensation.solve import (
    JITTERS,
    compensate,
    factorise,
    matrix_roots,
    reduced_errors,
    ridge,
    solve_damped,
    times,
)

__all__ = [
    "JITTERS",
    "Compensation",
    "Target",
    "apply_plan",
    "compensate",
    "factorise",
    "matrix_roots",
    "reduced_errors",
    "refit_masked",
    "ridge",
    "solve_damped",
    "times",
]
