"""Turns a dense model and a plan into a pruned model, with the kept weights moved to where they serve best."""

from collections.abc import Sequence
from copy import deepcopy
from typing import Literal

import torch
from transformers import PreTrainedModel

from bertsurgeon.architectures import Encoder
from bertsurgeon.calibration import Batch, MatrixKey, Moments
from bertsurgeon.compensation.parts import Curvature, Target, TokenWeights, dense_matrix, is_changed, rows_of
from bertsurgeon.compensation.sequential import SequentialCompensation
from bertsurgeon.compensation.solve import compensate
from bertsurgeon.layers import drop_sub_layer, give_biases, make_linear, update_head_counts
from bertsurgeon.plan import Dropped, ModelPlan

Compensation = Literal["sequential", "independent", "none"]


@torch.no_grad()
def apply_plan(
    model: PreTrainedModel,
    plan: ModelPlan,
    compensation: Compensation,
    *,
    batches: Sequence[Batch] = (),
    moments: dict[MatrixKey, Moments] | None = None,
    damping: float = 1e-3,
    curvature: Curvature | None = None,
    target: Target = "dense",
    token_weights: TokenWeights | None = None,
) -> PreTrainedModel:
    """Makes the pruned model.

    Args:
        model: The dense model, in evaluation mode, without fused matrices (:func:`bertsurgeon.architectures.unfuse`);
            left as it is.
        plan: What to keep.
        compensation: ``sequential`` refits every matrix in turn, from the input to the output, to the dense model's
            pre-activations from what the pruned model will really feed it; ``independent`` refits each on the dense
            model's own inputs; ``none`` keeps the weights (a dropped sub-layer then contributes its last bias).
        batches: The calibration set, for ``sequential``; several processes take a part of it each.
        moments: Of every matrix's dense inputs, for ``independent``.
        damping: See :func:`bertsurgeon.compensation.solve.compensate`.
        curvature: Metrics that weigh the errors of low ranks, by matrix.
        target: What the last matrix of a sub-layer is fitted to, for ``sequential``: the ``dense`` sub-layer's output,
            or what brings the ``residual`` stream after it back to the dense one, drift so far included.
        token_weights: How much each token counts, by matrix: one (real tokens,) per batch; for ``sequential``.

    Returns:
        A copy of ``model`` with the plan's layers. Matrices the plan keeps whole stay untouched until something
        before them has changed.
    """
    pruned = deepcopy(model)
    for parameter in pruned.parameters():
        parameter.grad = None
    pruned.eval()
    dense_encoder, encoder = Encoder(model), Encoder(pruned)
    give_biases(encoder)
    curvature = curvature or {}
    if compensation == "sequential":
        walk = SequentialCompensation(dense_encoder, encoder, damping, curvature, target, token_weights or {})
        walk.run(plan, batches)
        return pruned
    for index, layer_plan in enumerate(plan.layers):
        update_head_counts(encoder, index, layer_plan)
        for sub_layer, roles in encoder.sub_layers.items():
            if layer_plan.is_dropped(sub_layer):
                role = roles[-1]
                weight, bias = dense_matrix(dense_encoder, index, role)
                if moments is not None and compensation == "independent":
                    _, bias = compensate(weight, bias, Dropped(), moments[index, role], damping)
                drop_sub_layer(encoder, index, sub_layer, bias)
                continue
            for role in roles:
                if not is_changed(layer_plan, role):
                    continue
                structure = layer_plan.matrices[role].structure
                rows, columns = layer_plan.channels(role)
                weight, bias = dense_matrix(dense_encoder, index, role, rows)
                if moments is not None and compensation == "independent":
                    seen = moments[index, role] if columns is None else moments[index, role].keep(columns)
                    metric = rows_of(curvature.get((index, role)), rows)
                    weight, bias = compensate(weight, bias, structure, seen, damping, metric)
                elif columns is not None:
                    weight = weight[:, list(columns)]
                encoder.replace(index, role, make_linear(structure, weight, bias))
    return pruned
