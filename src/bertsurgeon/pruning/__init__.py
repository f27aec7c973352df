"""Pruning from end to end: all methods, what they need from the data, and what they report."""

from bertsurgeon.pruning.calibrate import calibrate
from bertsurgeon.pruning.calibration import Calibration
from bertsurgeon.pruning.layer_drop import Strategy, drop_layers
from bertsurgeon.pruning.pgb import make_plan
from bertsurgeon.pruning.prune import prune
from bertsurgeon.pruning.report import PruneReport, SparseReport

__all__ = ["Calibration", "PruneReport", "SparseReport", "Strategy", "calibrate", "drop_layers", "make_plan", "prune"]
