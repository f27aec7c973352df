"""Compensation: the kept weights move to where they reconstruct the dense model best."""

from bertsurgeon.compensation.apply import Compensation, apply_plan
from bertsurgeon.compensation.masked import refit_masked
from bertsurgeon.compensation.parts import Target
from bertsurgeon.compensation.solve import (
    JITTERS,
    apply_metric,
    compensate,
    factorise,
    reduced_errors,
    ridge,
    solve_damped,
    sqrt_metric,
)

__all__ = [
    "JITTERS",
    "Compensation",
    "Target",
    "apply_metric",
    "apply_plan",
    "compensate",
    "factorise",
    "reduced_errors",
    "refit_masked",
    "ridge",
    "solve_damped",
    "sqrt_metric",
]
