"""Makes the pruned model from a dense model and a plan, and refits the kept weights."""

from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from transformers import PreTrainedModel

from bertsurgeon import distributed
from bertsurgeon.architectures import Encoder
from bertsurgeon.calibration import Batch, MatrixKey, Moments, input_role
from bertsurgeon.compensation.lockstep import (
    LayerInputs,
    Stage,
    Tracker,
    first_layer_inputs,
    input_moments,
    lockstep,
    track_input,
    track_target,
)
from bertsurgeon.compensation.solve import compensate
from bertsurgeon.layers import drop_sub_layer, give_biases, make_linear, update_head_counts
from bertsurgeon.plan import Channels, Dense, Dropped, LayerPlan, ModelPlan, Role, SubLayerName, sub_layer_of

Compensation = Literal["sequential", "independent", "none"]
Target = Literal["dense", "residual"]
Curvature = dict[MatrixKey, Tensor]
TokenWeights = dict[MatrixKey, list[Tensor]]


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
    bf16: bool = False,
) -> PreTrainedModel:
    """Makes the pruned model.

    Args:
        model: The dense model, in evaluation mode, without fused matrices (:func:`bertsurgeon.architectures.unfuse`);
            not changed.
        plan: What is kept.
        compensation: ``sequential`` refits every matrix, from the input to the output, to the dense model's
            pre-activations on the inputs that the pruned model provides; ``independent`` refits each matrix on the
            dense model's inputs; ``none`` keeps the weights (a dropped sub-layer then contributes its last bias).
        batches: The calibration set, for ``sequential``; several processes share it.
        moments: Moments of every matrix's dense inputs, for ``independent``.
        damping: See :func:`bertsurgeon.compensation.solve.compensate`.
        curvature: Metrics that weight the errors of low ranks, by matrix.
        target: Target of the last matrix of a sub-layer, for ``sequential``: the output of the ``dense`` sub-layer, or
            the correction that restores the dense ``residual`` stream after it, including earlier drift.
        token_weights: Weights of the tokens, one tensor of shape (real tokens,) per batch, for ``sequential``; a matrix
            uses those of its :func:`bertsurgeon.calibration.input_role`.
        bf16: Run both models in bfloat16 (autocast), for ``sequential``.

    Returns:
        A copy of ``model`` with the plan's layers. Matrices that the plan keeps whole do not change until something
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
        refit = SequentialCompensation(dense_encoder, encoder, damping, curvature, target, token_weights or {}, bf16)
        refit.run(plan, batches)
        return pruned
    for index, layer_plan in enumerate(plan.layers):
        update_head_counts(encoder, index, layer_plan)
        for sub_layer, roles in encoder.sub_layers.items():
            if layer_plan.is_dropped(sub_layer):
                role = roles[-1]
                weight, bias = _dense_matrix(dense_encoder, index, role)
                if moments is not None and compensation == "independent":
                    _, bias = compensate(weight, bias, Dropped(), moments[index, role], damping)
                drop_sub_layer(encoder, index, sub_layer, bias)
                continue
            for role in roles:
                if not _is_changed(layer_plan, role):
                    continue
                structure = layer_plan.matrices[role].structure
                rows, columns = layer_plan.channels(role)
                weight, bias = _dense_matrix(dense_encoder, index, role, rows)
                if moments is not None and compensation == "independent":
                    inputs = moments[index, role] if columns is None else moments[index, role].keep(columns)
                    metric = _metric_of_rows(curvature.get((index, role)), rows)
                    weight, bias = compensate(weight, bias, structure, inputs, damping, metric)
                elif columns is not None:
                    weight = weight[:, list(columns)]
                encoder.replace(index, role, make_linear(structure, weight, bias))
    return pruned


@dataclass
class SequentialCompensation:
    """Refits every matrix in turn, from the input to the output, on the inputs that the pruned model provides.

    Attributes:
        dense: Encoder of the dense model.
        pruned: Encoder of its copy, whose matrices are replaced stage by stage.
        damping: See :func:`bertsurgeon.compensation.solve.compensate`.
        curvature: Metrics that weight the errors of low ranks, by matrix.
        target: Target of the last matrix of a sub-layer, see :func:`apply_plan`.
        token_weights: Weights of the tokens, see :func:`apply_plan`.
        bf16: See :func:`apply_plan`.
        layer_inputs: The inputs of the current layer, batch by batch.
        changed: True if anything so far makes the pruned model's hidden states differ from the dense model's.
    """

    dense: Encoder
    pruned: Encoder
    damping: float
    curvature: Curvature
    target: Target
    token_weights: TokenWeights
    bf16: bool = False
    layer_inputs: Sequence[LayerInputs] = ()
    changed: bool = False

    def run(self, plan: ModelPlan, batches: Sequence[Batch]) -> None:
        """Applies the plan to the pruned model, in place; several processes share the batches."""
        distributed.check_enough(batches, "batches of calibration data")
        self.layer_inputs = list(first_layer_inputs(self.dense.model, distributed.shard(batches), self.bf16))
        self.token_weights = {key: distributed.shard(weights) for key, weights in self.token_weights.items()}
        for index, layer_plan in enumerate(plan.layers):
            update_head_counts(self.pruned, index, layer_plan)
        for stage in lockstep(self.dense, self.pruned, self.layer_inputs, lambda _: self._trackers()):
            layer_plan, sub_layer = plan.layers[stage.layer], sub_layer_of(stage.roles[0])
            if not layer_plan.is_dropped(sub_layer):
                self._refit(stage, layer_plan)
            elif self.dense.last_role(sub_layer) in stage.roles:
                self._drop(stage, sub_layer)

    def _trackers(self) -> dict[str, Tracker]:
        """Returns what is tracked in every dense layer: inputs of first matrices, outputs of last ones, residuals."""
        architecture = self.dense.architecture
        trackers: dict[str, Tracker] = {}
        for sub_layer, roles in self.dense.sub_layers.items():
            trackers[architecture.matrices[roles[0]]] = track_input
            trackers[architecture.matrices[roles[-1]]] = track_target
            if self.target == "residual":
                trackers[architecture.residual(sub_layer)] = track_input
        return trackers

    def _drop(self, stage: Stage, sub_layer: SubLayerName) -> None:
        """Replaces a whole sub-layer by a constant, the mean of its dense output."""
        last = self.dense.last_role(sub_layer)
        path = self.dense.architecture.matrices[last]
        weights = self._weights_of(stage.layer, last)
        moments = input_moments(
            self.layer_inputs, stage.pruned, path, weights=weights, of_targets=True, dense_only=True
        )
        weight, bias = _dense_matrix(self.dense, stage.layer, last)
        _, constant = compensate(weight, bias, Dropped(), moments, self.damping)
        drop_sub_layer(self.pruned, stage.layer, sub_layer, constant)
        for inputs in self.layer_inputs:
            inputs.clear()  # the constant may have changed the norm at the end of the attention
            if sub_layer == "attention" and not self.dense.architecture.pre_norm:
                # the inputs of this layer are outputs of the norm whose bias has changed
                inputs.pruned = inputs.pruned + constant
        self.changed = True

    def _refit(self, stage: Stage, plan: LayerPlan) -> None:
        """Replaces the matrices of a stage, unless nothing before or in them has changed."""
        index = stage.layer
        changed_roles = [role for role in stage.roles if self.changed or _is_changed(plan, role)]
        if not changed_roles:
            return
        if sub_layer_of(stage.roles[0]) == "feed_forward":
            for inputs in self.layer_inputs:
                inputs.keep_attention(stage.pruned)
        # the path of the first matrix, as the later ones of a pruned layer may not fit to it until they are replaced
        path = self.dense.architecture.matrices[stage.roles[0]]
        moments: Moments | None = None
        replacements: dict[Role, torch.nn.Module] = {}
        for role in changed_roles:
            rows = plan.channels(role)[0]
            weight, bias = _dense_matrix(self.dense, index, role, rows)
            # matrices of a stage share moments, except that queries and keys may read positions in addition
            if moments is None or self.dense.architecture.position_input is not None:
                moments = self._moments(stage, role, path, plan)
            metric = _metric_of_rows(self.curvature.get((index, role)), rows)
            structure = plan.matrices[role].structure
            weight, bias = compensate(weight, bias, structure, moments, self.damping, metric)
            replacements[role] = make_linear(structure, weight, bias)
        for role, replacement in replacements.items():
            self.pruned.replace(index, role, replacement)
        self.changed = True

    def _moments(self, stage: Stage, role: Role, path: str, plan: LayerPlan) -> Moments:
        """Computes the moments of a matrix's inputs in both models; ``path`` leads to a matrix with the same input."""
        sub_layer = sub_layer_of(role)
        last = role == self.dense.last_role(sub_layer)
        return input_moments(
            self.layer_inputs,
            stage.pruned,
            path,
            width=plan.matrices[role].stored_shape[1],
            residual=self.dense.architecture.residual(sub_layer) if self.target == "residual" and last else None,
            weights=self._weights_of(stage.layer, role),
            of_targets=last,
            positions=self.dense.architecture.position_input if role in ("query", "key") else None,
        )

    def _weights_of(self, layer: int, role: Role) -> list[Tensor] | None:
        """Returns the token weights of a matrix, batch by batch; None for equal weights."""
        return self.token_weights.get((layer, input_role(role)))


def _is_changed(layer: LayerPlan, role: Role) -> bool:
    """Returns whether a matrix loses weights or its channels change their order."""
    return not isinstance(layer.matrices[role].structure, Dense) or sub_layer_of(role) in layer.units


def _dense_matrix(encoder: Encoder, layer: int, role: Role, rows: Channels | None = None) -> tuple[Tensor, Tensor]:
    """Returns weight and bias of one matrix of the dense model (zeros without a bias), or some of their rows."""
    matrix = encoder.linear(layer, role)
    weight = matrix.weight.detach()
    bias = weight.new_zeros(len(weight)) if matrix.bias is None else matrix.bias.detach()
    return (weight, bias) if rows is None else (weight[list(rows)], bias[list(rows)])


def _metric_of_rows(metric: Tensor | None, rows: Channels | None) -> Tensor | None:
    """Returns the part of a metric, shape (out, out) or its diagonal (out,), that belongs to the stored outputs."""
    if metric is None or rows is None:
        return metric
    selected = metric[list(rows)]
    return selected if metric.dim() == 1 else selected[:, list(rows)]
