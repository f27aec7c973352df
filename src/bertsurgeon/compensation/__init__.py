"""Compensation: the kept weights move to minimise each layer's reconstruction error."""

from bertsurgeon.compensation.apply import Compensation, apply_plan
from bertsurgeon.compensation.solve import compensate

__all__ = ["Compensation", "apply_plan", "compensate"]
