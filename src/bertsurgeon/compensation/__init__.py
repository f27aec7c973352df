"""Compensation: refits the kept weights to the dense model's pre-activations, in closed form."""

from bertsurgeon.compensation.apply import Compensation, Target, apply_plan
from bertsurgeon.compensation.masked import refit_masked
from bertsurgeon.compensation.solve import (
    JITTERS,
    apply_metric,
    compensate,
    damp,
    factorize,
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
    "damp",
    "factorize",
    "reduced_errors",
    "refit_masked",
    "ridge",
    "solve_damped",
    "sqrt_metric",
]
