"""Allocation: what each sub-layer keeps under a budget for the whole encoder."""

from bertsurgeon.allocation.costs import Cost, FittedMilliseconds, Flops, Milliseconds, Weights, plan_cost
from bertsurgeon.allocation.curves import measure_curves
from bertsurgeon.allocation.options import Option, SubLayerCurve
from bertsurgeon.allocation.plan import make_allocated_plan
from bertsurgeon.allocation.search import Choice, allocate, full_cost

__all__ = [
    "Choice",
    "Cost",
    "FittedMilliseconds",
    "Flops",
    "Milliseconds",
    "Option",
    "SubLayerCurve",
    "Weights",
    "allocate",
    "full_cost",
    "make_allocated_plan",
    "measure_curves",
    "plan_cost",
]
