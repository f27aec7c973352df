"""Turns a dense model and a plan into a pruned model, with the kept weights moved to where they serve best."""

from collections.abc import Sequence
from copy import deepcopy
from typing import Literal

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from bertsurgeon import progress
from bertsurgeon.architectures import Architecture
from bertsurgeon.calibration import Batch, MatrixKey, Moments
from bertsurgeon.compensation.solve import compensate
from bertsurgeon.compensation.walk import STAGES, advance, first_states, input_moments
from bertsurgeon.layers import drop_sub_layer, replace_matrix
from bertsurgeon.plan import SUB_LAYERS, Dense, Dropped, ModelPlan, Role, SubLayerName

Compensation = Literal["sequential", "independent", "none"]


@torch.no_grad()
def apply_plan(
    model: PreTrainedModel,
    architecture: Architecture,
    plan: ModelPlan,
    compensation: Compensation,
    *,
    batches: Sequence[Batch] = (),
    moments: dict[MatrixKey, Moments] | None = None,
    damping: float = 1e-3,
) -> PreTrainedModel:
    """Makes the pruned model.

    Args:
        model: The dense model, in evaluation mode; left as it is.
        architecture: Its entry in the table.
        plan: What to keep.
        compensation: ``sequential`` refits every matrix in turn, from the input to the output, to the dense model's
            pre-activations from what the pruned model will really feed it; ``independent`` refits each on the dense
            model's own inputs; ``none`` keeps the weights (a dropped sub-layer then contributes its last bias).
        batches: The calibration set, for ``sequential``.
        moments: Of every matrix's dense inputs, for ``independent``.
        damping: See :func:`bertsurgeon.compensation.solve.compensate`.

    Returns:
        A copy of ``model`` with the plan's layers. Matrices the plan keeps whole stay untouched until something
        before them has changed.
    """
    pruned = deepcopy(model)
    for parameter in pruned.parameters():
        parameter.grad = None
    pruned.eval()
    if compensation == "sequential":
        _apply_sequentially(model, pruned, architecture, plan, batches, damping)
        return pruned
    for index, layer_plan in enumerate(plan.layers):
        for sub_layer, roles in SUB_LAYERS.items():
            if layer_plan.is_dropped(sub_layer):
                role = roles[-1]
                weight, bias = _dense(architecture, model, index, role)
                if moments is not None and compensation == "independent":
                    _, bias = compensate(weight, bias, Dropped(), moments[index, role], damping)
                drop_sub_layer(architecture, pruned, index, sub_layer, bias)
                continue
            for role in roles:
                structure = layer_plan.matrices[role].structure
                if isinstance(structure, Dense):
                    continue
                weight, bias = _dense(architecture, model, index, role)
                if moments is not None and compensation == "independent":
                    weight, bias = compensate(weight, bias, structure, moments[index, role], damping)
                replace_matrix(architecture, pruned, index, role, structure, weight, bias)
    return pruned


def _apply_sequentially(
    model: PreTrainedModel,
    pruned: PreTrainedModel,
    architecture: Architecture,
    plan: ModelPlan,
    batches: Sequence[Batch],
    damping: float,
) -> None:
    states = list(first_states(model, architecture, batches))
    layers = zip(architecture.layers(model), architecture.layers(pruned), plan.layers, strict=True)
    changed = False
    for index, (dense_layer, pruned_layer, layer_plan) in progress.track(
        enumerate(layers), "Compensating", len(plan.layers)
    ):
        for roles in STAGES:
            sub_layer: SubLayerName = "attention" if roles[0] in SUB_LAYERS["attention"] else "feed_forward"
            last: Role = SUB_LAYERS[sub_layer][-1]
            path = architecture.matrices[roles[0]]
            if layer_plan.is_dropped(sub_layer):
                if last in roles:
                    moments = input_moments(states, dense_layer, dense_layer, path, dense_only=True)
                    weight, bias = _dense(architecture, model, index, last)
                    _, constant = compensate(weight, bias, Dropped(), moments, damping)
                    drop_sub_layer(architecture, pruned, index, sub_layer, constant)
                    if sub_layer == "attention":  # the states before this layer come from the changed LayerNorm
                        for state in states:
                            state.pruned = state.pruned + constant
                    changed = True
                continue
            structures = {role: layer_plan.matrices[role].structure for role in roles}
            if not changed and all(isinstance(structure, Dense) for structure in structures.values()):
                continue
            moments = input_moments(states, dense_layer, pruned_layer, path)
            for role, structure in structures.items():
                weight, bias = _dense(architecture, model, index, role)
                if changed or not isinstance(structure, Dense):
                    weight, bias = compensate(weight, bias, structure, moments, damping)
                    replace_matrix(architecture, pruned, index, role, structure, weight, bias)
            changed = True
        if index + 1 < len(plan.layers):
            advance(states, dense_layer, pruned_layer)


def _dense(architecture: Architecture, model: PreTrainedModel, layer: int, role: Role) -> tuple[Tensor, Tensor]:
    """Weight and bias of one matrix of the dense model (a missing bias is zero)."""
    matrix = architecture.matrix(model, layer, role)
    assert isinstance(matrix, nn.Linear)
    bias = matrix.bias if matrix.bias is not None else matrix.weight.new_zeros(matrix.out_features)
    return matrix.weight.detach(), bias.detach()
