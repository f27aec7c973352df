"""Calibration statistics: per-sample gradients and input moments, from one pass over a few hundred sequences."""

from bertsurgeon.calibration.batches import PIXELS, Batch, count_samples, make_batches, token_mask
from bertsurgeon.calibration.blocks import blocks_per_row, join_rows, split_rows
from bertsurgeon.calibration.gradients import (
    backpropagate,
    backward_leaf,
    gradient_hooks,
    per_sample_gradients,
    summed_loss,
)
from bertsurgeon.calibration.moments import Moments
from bertsurgeon.calibration.statistics import MatrixKey, Statistics, collect_statistics

__all__ = [
    "PIXELS",
    "Batch",
    "MatrixKey",
    "Moments",
    "Statistics",
    "backpropagate",
    "backward_leaf",
    "blocks_per_row",
    "collect_statistics",
    "count_samples",
    "gradient_hooks",
    "join_rows",
    "make_batches",
    "per_sample_gradients",
    "split_rows",
    "summed_loss",
    "token_mask",
]
