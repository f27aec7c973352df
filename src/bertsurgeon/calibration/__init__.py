"""Calibration: padded batches, per-sample gradients, input moments and other statistics of the dense model."""

from bertsurgeon.calibration.batches import PIXELS, Batch, count_samples, make_batches, token_mask
from bertsurgeon.calibration.gradients import (
    backpropagate,
    backward_leaf,
    blocks_per_row,
    gradient_hooks,
    join_rows,
    per_sample_gradients,
    split_rows,
    summed_loss,
)
from bertsurgeon.calibration.moments import Moments
from bertsurgeon.calibration.statistics import MatrixKey, Statistics, collect_statistics, input_role

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
    "input_role",
    "join_rows",
    "make_batches",
    "per_sample_gradients",
    "split_rows",
    "summed_loss",
    "token_mask",
]
