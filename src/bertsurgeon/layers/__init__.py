"""Grouped layers: the modules a plan is executed with."""

from bertsurgeon.layers.build import (
    check_plan,
    drop_sub_layer,
    install_plan,
    make_linear,
    replace_matrix,
    reset_indices,
    to_dense,
)
from bertsurgeon.layers.grouped import DroppedLinear, GroupedLinear

__all__ = [
    "DroppedLinear",
    "GroupedLinear",
    "check_plan",
    "drop_sub_layer",
    "install_plan",
    "make_linear",
    "replace_matrix",
    "reset_indices",
    "to_dense",
]
