"""Compensation for single pruned weights: each matrix is refitted on the support of its mask.

Matrices are refitted from the input to the output, as :mod:`bertsurgeon.compensation.apply` does for structures, and
inside structures: the mask of a grouped matrix is zero outside its blocks, and the two factors of a low rank are
refitted one after the other.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from bertsurgeon import distributed
from bertsurgeon.architectures import Encoder
from bertsurgeon.calibration import Batch, Moments
from bertsurgeon.compensation.lockstep import (
    LayerInputs,
    Stage,
    Tracker,
    first_layer_inputs,
    input_moments,
    lockstep,
    track_input,
)
from bertsurgeon.compensation.solve import compensate
from bertsurgeon.layers import DroppedLinear, GroupedLinear, LowRankLinear, PartKey
from bertsurgeon.plan import Role, sub_layer_of


@torch.no_grad()
def refit_masked(
    model: PreTrainedModel,
    pruned: PreTrainedModel,
    masks: Mapping[PartKey, Tensor],
    batches: Sequence[Batch],
    damping: float = 1e-3,
) -> None:
    """Refits the weights that masks keep to the pre-activations of the model before pruning, in place.

    Args:
        model: The model before pruning, dense or with a plan's structures, in evaluation mode, without fused matrices.
        pruned: A copy of it, changed in place; the values of its matrices are overwritten, the new ones are computed
            from ``model``.
        masks: True for weights that remain, shape (out, in), by part (:func:`bertsurgeon.layers.dense_parts`).
        batches: The calibration set; several processes share it.
        damping: See :func:`bertsurgeon.compensation.solve.compensate`.
    """
    distributed.check_enough(batches, "batches of calibration data")
    layer_inputs = list(first_layer_inputs(model, distributed.shard(batches)))
    dense_encoder, encoder = Encoder(model), Encoder(pruned)
    compensation = _MaskedCompensation(dense_encoder, encoder, masks, damping, layer_inputs)
    for stage in lockstep(dense_encoder, encoder, layer_inputs, compensation.trackers):
        compensation.refit(stage)


@dataclass
class _Fit:
    """New values of one matrix.

    Attributes:
        module: The matrix of the pruned model.
        parts: Weights of its parts; of a grouped matrix, the whole dense weight.
        bias: Shape (out,), or None.
    """

    module: nn.Module
    parts: list[Tensor]
    bias: Tensor | None

    def write(self) -> None:
        """Copies the values to the matrix."""
        match self.module:
            case GroupedLinear():
                self.module.take_blocks(self.parts[0])
            case LowRankLinear():
                self.module.weight.copy_(self.parts[0])
                self.module.up.copy_(self.parts[1])
            case nn.Linear():
                self.module.weight.copy_(self.parts[0])
        bias = self.module.bias
        if isinstance(bias, Tensor) and self.bias is not None:
            bias.copy_(self.bias)


@dataclass
class _MaskedCompensation:
    """Refits the matrices of one stage after the other.

    Attributes:
        dense: Encoder of the model before pruning.
        pruned: Encoder of its copy.
        masks: True for weights that remain, by part.
        damping: See :func:`bertsurgeon.compensation.solve.compensate`.
        layer_inputs: The inputs of the current layer, batch by batch.
        changed: True if anything so far makes the hidden states of both models differ.
    """

    dense: Encoder
    pruned: Encoder
    masks: Mapping[PartKey, Tensor]
    damping: float
    layer_inputs: Sequence[LayerInputs]
    changed: bool = False

    def trackers(self, index: int) -> dict[str, Tracker]:
        """Returns what is tracked in a layer before pruning: products of narrow last matrices, inputs of all others."""
        paths = self.dense.architecture.matrices
        trackers: dict[str, Tracker] = {}
        for roles in self.dense.sub_layers.values():
            last = self.dense.find_matrix(index, roles[-1])
            if last is None or isinstance(last, DroppedLinear):
                continue
            trackers[paths[roles[0]]] = track_input
            trackers[paths[roles[-1]]] = _product_tracker(_first_weight(last)) if _is_narrow(last) else track_input
        return trackers

    def refit(self, stage: Stage) -> None:
        """Refits the matrices of a stage, unless nothing before or in them has changed."""
        index, roles, _, after = stage
        matrices = {role: self.dense.find_matrix(index, role) for role in roles}
        changed_matrices = {
            role: matrix
            for role, matrix in matrices.items()
            if matrix is not None and not isinstance(matrix, DroppedLinear)
            if self.changed or not all(mask.all() for mask in self._masks_of(index, role))
        }
        if not changed_matrices:
            return
        if sub_layer_of(roles[0]) == "feed_forward":
            for inputs in self.layer_inputs:
                inputs.keep_attention(after)
        path = self.dense.architecture.matrices[roles[0]]
        positions = self.dense.architecture.position_input
        moments: Moments | None = None
        fits = []
        for role, matrix in changed_matrices.items():
            # matrices of a stage share moments, except that queries and keys may read positions in addition
            if moments is None or positions is not None:
                moments = input_moments(
                    self.layer_inputs,
                    after,
                    path,
                    width=_first_weight(matrix).shape[1],
                    of_targets=role == self.dense.last_role(sub_layer_of(role)) and _is_narrow(matrix),
                    positions=positions if role in ("query", "key") else None,
                )
            parts, bias = _solve(matrix, self._masks_of(index, role), moments, self.damping)
            fits.append(_Fit(self.pruned.matrix(index, role), parts, bias))
        for fit in fits:
            fit.write()
        self.changed = True

    def _masks_of(self, index: int, role: Role) -> list[Tensor]:
        """Returns the masks of the parts of one matrix, in their order."""
        return [mask for (layer, name, _), mask in self.masks.items() if (layer, name) == (index, role)]


def _is_narrow(matrix: nn.Module) -> bool:
    """Returns whether the first weight of a matrix has fewer outputs than inputs."""
    weight = _first_weight(matrix)
    return len(weight) < weight.shape[1]


def _product_tracker(weight: Tensor) -> Tracker:
    """Returns a tracker of the products of a matrix's inputs with a weight, shape (out, in)."""
    return lambda _, x, __: x @ weight.T


def _first_weight(matrix: nn.Module) -> Tensor:
    """Returns the weight that a matrix applies first, shape (out or rank, in)."""
    return matrix.dense_weight() if isinstance(matrix, GroupedLinear) else matrix.get_parameter("weight").detach()


def _solve(
    matrix: nn.Module, masks: Sequence[Tensor], moments: Moments, damping: float
) -> tuple[list[Tensor], Tensor | None]:
    """Solves for new weights.

    Args:
        matrix: The matrix before pruning.
        masks: True for weights that remain, by part.
        moments: Moments of its inputs in both models.
        damping: See :func:`bertsurgeon.compensation.solve.compensate`.

    Returns:
        New weights of the parts (of a grouped matrix, the whole dense weight), and the new bias, None without one.
    """
    first = _first_weight(matrix)
    bias = matrix.bias if isinstance(matrix.bias, Tensor) else None
    has_bias = bias is not None
    last = matrix.up.detach() if isinstance(matrix, LowRankLinear) else first
    constant = last.new_zeros(len(last)) if bias is None else bias.detach()
    if not isinstance(matrix, LowRankLinear):
        mask = matrix.spread(masks) if isinstance(matrix, GroupedLinear) else masks[0]
        weight, constant = compensate(first, constant, mask, moments, damping, offset=has_bias)
        return [weight], constant if has_bias else None
    # the bias after the second factor corrects the means of the first factor's outputs
    down, _ = compensate(first, first.new_zeros(len(first)), masks[0], moments, damping, offset=has_bias)
    inner = moments.mapped(down, None if moments.of_targets else first)
    up, constant = compensate(last, constant, masks[1], inner, damping, offset=has_bias)
    return [down, up], constant if has_bias else None
