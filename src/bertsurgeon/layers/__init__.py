"""The layers that a plan is executed with: installing them, their dense parts, masks, and INT8 rounding."""

from bertsurgeon.layers.build import (
    check_plan,
    dense_twin,
    drop_sub_layer,
    empty_linear,
    give_biases,
    install_plan,
    make_linear,
    reset_indices,
    update_head_counts,
)
from bertsurgeon.layers.dropped import DroppedLinear
from bertsurgeon.layers.grouped import GroupedLinear, chunk_of, gather_channels
from bertsurgeon.layers.inference import prepare_for_inference, undo_prepare_for_inference, without_fused_operations
from bertsurgeon.layers.int8_grid import dequantize_rows, is_on_grid, quantize_rows, round_rows, row_scales
from bertsurgeon.layers.low_rank import LowRankLinear
from bertsurgeon.layers.masks import Part, PartKey, dense_parts, model_parts

__all__ = [
    "DroppedLinear",
    "GroupedLinear",
    "LowRankLinear",
    "Part",
    "PartKey",
    "check_plan",
    "chunk_of",
    "dense_parts",
    "dense_twin",
    "dequantize_rows",
    "drop_sub_layer",
    "empty_linear",
    "gather_channels",
    "give_biases",
    "install_plan",
    "is_on_grid",
    "make_linear",
    "model_parts",
    "prepare_for_inference",
    "quantize_rows",
    "reset_indices",
    "round_rows",
    "row_scales",
    "undo_prepare_for_inference",
    "update_head_counts",
    "without_fused_operations",
]
