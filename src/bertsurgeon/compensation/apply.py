"""Turns a dense model and a plan into a pruned model, with the kept weights moved to where they serve best."""

from collections.abc import Sequence
from copy import deepcopy
from typing import Literal

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from bertsurgeon import processes, progress
from bertsurgeon.architectures import Architecture
from bertsurgeon.calibration import Batch, MatrixKey, Moments
from bertsurgeon.compensation.solve import compensate
from bertsurgeon.compensation.walk import STAGES, advance, first_states, input_moments
from bertsurgeon.layers import drop_sub_layer, fit_heads, give_biases, make_linear, replace_matrix
from bertsurgeon.plan import Channels, Dense, Dropped, LayerPlan, ModelPlan, Role, sub_layer_of

Compensation = Literal["sequential", "independent", "none"]
Target = Literal["dense", "residual"]
Curvature = dict[MatrixKey, Tensor]
TokenWeights = dict[MatrixKey, list[Tensor]]


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
    curvature: Curvature | None = None,
    target: Target = "dense",
    token_weights: TokenWeights | None = None,
) -> PreTrainedModel:
    """Makes the pruned model.

    Args:
        model: The dense model, in evaluation mode, without fused matrices (:func:`bertsurgeon.architectures.unfuse`);
            left as it is.
        architecture: Its entry in the table.
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
    give_biases(architecture, pruned)
    curvature = curvature or {}
    if compensation == "sequential":
        _apply_sequentially(model, pruned, architecture, plan, batches, damping, curvature, target, token_weights or {})
        return pruned
    for index, layer_plan in enumerate(plan.layers):
        fit_heads(architecture, pruned, index, layer_plan)
        for sub_layer, roles in architecture.sub_layers.items():
            if layer_plan.is_dropped(sub_layer):
                role = roles[-1]
                weight, bias = _dense(architecture, model, index, role)
                if moments is not None and compensation == "independent":
                    _, bias = compensate(weight, bias, Dropped(), moments[index, role], damping)
                drop_sub_layer(architecture, pruned, index, sub_layer, bias)
                continue
            for role in roles:
                if not _is_changed(layer_plan, role):
                    continue
                structure = layer_plan.matrices[role].structure
                rows, columns = layer_plan.channels(role)
                weight, bias = _dense(architecture, model, index, role, rows)
                if moments is not None and compensation == "independent":
                    seen = moments[index, role] if columns is None else moments[index, role].keep(columns)
                    metric = _rows_of(curvature.get((index, role)), rows)
                    weight, bias = compensate(weight, bias, structure, seen, damping, metric)
                elif columns is not None:
                    weight = weight[:, list(columns)]
                replace_matrix(architecture, pruned, index, role, make_linear(structure, weight, bias))
    return pruned


def _apply_sequentially(
    model: PreTrainedModel,
    pruned: PreTrainedModel,
    architecture: Architecture,
    plan: ModelPlan,
    batches: Sequence[Batch],
    damping: float,
    curvature: Curvature,
    target: Target,
    token_weights: TokenWeights,
) -> None:
    processes.check_enough(batches, "batches of calibration data")
    states = list(first_states(model, architecture, processes.part(batches)))
    token_weights = {key: processes.part(weights) for key, weights in token_weights.items()}
    layers = zip(architecture.layers(model), architecture.layers(pruned), plan.layers, strict=True)
    changed = False
    for index, (dense_layer, pruned_layer, layer_plan) in progress.track(
        enumerate(layers), "Compensating", len(plan.layers)
    ):
        fit_heads(architecture, pruned, index, layer_plan)
        for stage in STAGES:
            roles = [role for role in stage if role in architecture.roles]
            sub_layer = sub_layer_of(roles[0])
            last = architecture.sub_layers[sub_layer][-1]
            path = architecture.matrices[roles[0]]
            if layer_plan.is_dropped(sub_layer):
                if last in roles:
                    weights = token_weights.get((index, last))
                    inputs = input_moments(states, dense_layer, dense_layer, path, weights=weights, dense_only=True)
                    weight, bias = _dense(architecture, model, index, last)
                    _, constant = compensate(weight, bias, Dropped(), inputs, damping)
                    drop_sub_layer(architecture, pruned, index, sub_layer, constant)
                    for state in states:  # the constant went into a LayerNorm that attention may end with
                        state.forget_attention()
                    if sub_layer == "attention" and not architecture.pre_norm:
                        # the states before this layer come from the changed LayerNorm
                        for state in states:
                            state.pruned = state.pruned + constant
                    changed = True
                continue
            if not changed and not any(_is_changed(layer_plan, role) for role in roles):
                continue
            if sub_layer == "feed_forward":
                for state in states:
                    state.keep_attention(dense_layer, pruned_layer)
            replacements: dict[Role, nn.Module] = {}
            moments = None
            read_apart = bool(token_weights) or architecture.position_input is not None
            for role in roles:
                if not changed and not _is_changed(layer_plan, role):
                    continue
                rows = layer_plan.channels(role)[0]
                weight, bias = _dense(architecture, model, index, role, rows)
                if moments is None or read_apart:  # matrices with the same input share its moments
                    moments = input_moments(
                        states,
                        dense_layer,
                        pruned_layer,
                        path,
                        width=layer_plan.matrices[role].stored_shape[1],
                        residual=architecture.residual(sub_layer) if target == "residual" and role == last else None,
                        weights=token_weights.get((index, role)),
                        targets_of=weight if role == last and len(weight) < weight.shape[1] else None,
                        positions=architecture.position_input if role in ("query", "key") else None,
                    )
                metric = _rows_of(curvature.get((index, role)), rows)
                structure = layer_plan.matrices[role].structure
                weight, bias = compensate(weight, bias, structure, moments, damping, metric)
                replacements[role] = make_linear(structure, weight, bias)
            for role, replacement in replacements.items():
                replace_matrix(architecture, pruned, index, role, replacement)
            changed = True
        if index + 1 < len(plan.layers):
            advance(states, dense_layer, pruned_layer)


def _is_changed(layer: LayerPlan, role: Role) -> bool:
    """Whether a matrix loses anything (or its channels change their order)."""
    return not isinstance(layer.matrices[role].structure, Dense) or sub_layer_of(role) in layer.units


def _dense(
    architecture: Architecture, model: PreTrainedModel, layer: int, role: Role, rows: Channels | None = None
) -> tuple[Tensor, Tensor]:
    """Weight and bias of one matrix of the dense model (a missing bias is zero), or some of their rows."""
    matrix = architecture.matrix(model, layer, role)
    assert isinstance(matrix, nn.Linear)
    weight = matrix.weight.detach()
    bias = weight.new_zeros(len(weight)) if matrix.bias is None else matrix.bias.detach()
    return (weight, bias) if rows is None else (weight[list(rows)], bias[list(rows)])


def _rows_of(metric: Tensor | None, rows: Channels | None) -> Tensor | None:
    """The part of a metric, shape (out, out) or its diagonal (out,), that belongs to the stored outputs."""
    if metric is None or rows is None:
        return metric
    part = metric[list(rows)]
    return part if metric.dim() == 1 else part[:, list(rows)]
