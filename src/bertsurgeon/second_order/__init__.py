"""Second-order pruning with block-diagonal inverse Fisher information: the engine of ``--method obert``."""

from bertsurgeon.second_order.collect import Loss, collect_inverses, count_gradients, plan_passes
from bertsurgeon.second_order.inverse import CHUNK_ENTRIES, FisherBlocks, InverseFisher, invert_blocks
from bertsurgeon.second_order.masks import Masks, encoder_weights, enforce_masks, masks_of, sparsity_of, unit_mask
from bertsurgeon.second_order.patterns import Pattern
from bertsurgeon.second_order.selection import Scope, keep_highest, select_units
from bertsurgeon.second_order.solve import greedy_scores, unit_scores, update_apart, update_jointly
from bertsurgeon.second_order.step import Score, Step, StepOptions, Update, prune_step

__all__ = [
    "CHUNK_ENTRIES",
    "FisherBlocks",
    "InverseFisher",
    "Loss",
    "Masks",
    "Pattern",
    "Scope",
    "Score",
    "Step",
    "StepOptions",
    "Update",
    "collect_inverses",
    "count_gradients",
    "encoder_weights",
    "enforce_masks",
    "greedy_scores",
    "invert_blocks",
    "keep_highest",
    "masks_of",
    "plan_passes",
    "prune_step",
    "select_units",
    "sparsity_of",
    "unit_mask",
    "unit_scores",
    "update_apart",
    "update_jointly",
]
