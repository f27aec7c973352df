"""Grouped layers: the modules a plan is executed with."""

from bertsurgeon.layers.build import (
    check_plan,
    drop_sub_layer,
    empty_linear,
    give_biases,
    install_plan,
    make_linear,
    replace_matrix,
    reset_indices,
    to_dense,
)
from bertsurgeon.layers.grouped import DroppedLinear, GroupedLinear
from bertsurgeon.layers.heads import fit_heads
from bertsurgeon.layers.inference import prepare_for_inference
from bertsurgeon.layers.low_rank import LowRankLinear

__all__ = [
    "DroppedLinear",
    "GroupedLinear",
    "LowRankLinear",
    "check_plan",
    "drop_sub_layer",
    "empty_linear",
    "fit_heads",
    "give_biases",
    "install_plan",
    "make_linear",
    "prepare_for_inference",
    "replace_matrix",
    "reset_indices",
    "to_dense",
]
