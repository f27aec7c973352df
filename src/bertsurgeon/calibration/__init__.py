"""Calibration statistics: per-sample gradients and input moments, from one pass over a few hundred sequences."""

from bertsurgeon.calibration.batches import Batch, make_batches
from bertsurgeon.calibration.gradients import per_sample_gradients
from bertsurgeon.calibration.moments import Moments
from bertsurgeon.calibration.statistics import MatrixKey, Statistics, collect_statistics

__all__ = [
    "Batch",
    "MatrixKey",
    "Moments",
    "Statistics",
    "collect_statistics",
    "make_batches",
    "per_sample_gradients",
]
