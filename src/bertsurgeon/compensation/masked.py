"""Compensation for single weights that are gone: each matrix is refitted on the support that its mask leaves.

From the input to the output, as :mod:`bertsurgeon.compensation.sequential` does for structures, and inside them: a
grouped matrix is one whose mask is zero outside its blocks, and the two factors of a low rank follow one another.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from bertsurgeon import distributed
from bertsurgeon.architectures import Encoder
from bertsurgeon.calibration import Batch, Moments
from bertsurgeon.compensation.lockstep import Stage, State, first_layer_inputs, input_moments, walk
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
    """Refits what single weights leave behind to the pre-activations of the model they were taken from, in place.

    Args:
        model: As it was before, dense or with a plan's structures, in evaluation mode, without fused matrices.
        pruned: Its copy; of its matrices nothing but the masks counts, all weights come from ``model``.
        masks: Weights that stay, by part, see :func:`bertsurgeon.layers.dense_parts`; shape (out, in).
        batches: The calibration set; several processes take a part of it each.
        damping: See :func:`bertsurgeon.compensation.solve.compensate`.
    """
    distributed.check_enough(batches, "batches of calibration data")
    states = list(first_layer_inputs(model, distributed.shard(batches)))
    dense_encoder, encoder = Encoder(model), Encoder(pruned)
    compensation = _MaskedCompensation(dense_encoder, encoder, masks, damping, states)
    for stage in walk(dense_encoder, encoder, states):
        compensation.refit(stage)


@dataclass
class _Fit:
    """New values for one matrix."""

    module: nn.Module
    parts: list[Tensor]
    bias: Tensor | None

    def write(self) -> None:
        """Puts them in place."""
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
    """What the walk through both models needs to know, and whether it has changed anything yet."""

    dense: Encoder
    pruned: Encoder
    masks: Mapping[PartKey, Tensor]
    damping: float
    states: Sequence[State]
    changed: bool = False

    def refit(self, stage: Stage) -> None:
        """Refits matrices that are computed from the same input, unless nothing before or in them has changed."""
        index, roles, before, after = stage
        found = {role: self.dense.find_matrix(index, role) for role in roles}
        due = {
            role: matrix
            for role, matrix in found.items()
            if matrix is not None and not isinstance(matrix, DroppedLinear)
            if self.changed or not all(mask.all() for mask in self._masks_of(index, role))
        }
        if not due:
            return
        if sub_layer_of(roles[0]) == "feed_forward":
            for state in self.states:
                state.keep_attention(before, after)
        path = self.dense.architecture.matrices[roles[0]]
        positions = self.dense.architecture.position_input
        shared: Moments | None = None
        fits = []
        for role, matrix in due.items():
            if shared is None or positions is not None:  # matrices with the same input share its moments
                shared = input_moments(
                    self.states,
                    before,
                    after,
                    path,
                    width=_first_weight(matrix).shape[1],
                    targets_of=_narrow(matrix) if role == self.dense.last_role(sub_layer_of(role)) else None,
                    positions=positions if role in ("query", "key") else None,
                )
            parts, bias = _solve(matrix, self._masks_of(index, role), shared, self.damping)
            fits.append(_Fit(self.pruned.matrix(index, role), parts, bias))
        for fit in fits:
            fit.write()
        self.changed = True

    def _masks_of(self, index: int, role: Role) -> list[Tensor]:
        """Of the parts of one matrix, in their order."""
        return [mask for (layer, name, _), mask in self.masks.items() if (layer, name) == (index, role)]


def _narrow(matrix: nn.Module) -> Tensor | None:
    """The first weight of a matrix, if it has fewer outputs than inputs."""
    weight = _first_weight(matrix)
    return weight if len(weight) < weight.shape[1] else None


def _first_weight(matrix: nn.Module) -> Tensor:
    """What a matrix does to its input at first, shape (out or rank, in)."""
    return matrix.dense_weight() if isinstance(matrix, GroupedLinear) else matrix.get_parameter("weight").detach()


def _solve(
    matrix: nn.Module, masks: Sequence[Tensor], moments: Moments, damping: float
) -> tuple[list[Tensor], Tensor | None]:
    """New weights of a matrix (a grouped one's in full) and its new bias, if it has one."""
    first = _first_weight(matrix)
    bias = matrix.bias if isinstance(matrix.bias, Tensor) else None
    own = bias is not None
    last = matrix.up.detach() if isinstance(matrix, LowRankLinear) else first
    constant = last.new_zeros(len(last)) if bias is None else bias.detach()
    if not isinstance(matrix, LowRankLinear):
        stays = matrix.spread(masks) if isinstance(matrix, GroupedLinear) else masks[0]
        weight, constant = compensate(first, constant, stays, moments, damping, offset=own)
        return [weight], constant if own else None
    # what the bottleneck's means differ by, the bias after it makes up for
    down, _ = compensate(first, first.new_zeros(len(first)), masks[0], moments, damping, offset=own)
    inner = moments.mapped(down, None if moments.of_targets else first)
    up, constant = compensate(last, constant, masks[1], inner, damping, offset=own)
    return [down, up], constant if own else None
