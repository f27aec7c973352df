"""Compensation from the input to the output, each matrix on what the pruned model will really feed it."""

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from bertsurgeon import distributed
from bertsurgeon.architectures import Encoder
from bertsurgeon.calibration import Batch, MatrixKey, Moments
from bertsurgeon.compensation.lockstep import State, first_layer_inputs, input_moments, walk
from bertsurgeon.compensation.parts import Curvature, Target, TokenWeights, dense_matrix, is_changed, rows_of
from bertsurgeon.compensation.solve import compensate
from bertsurgeon.layers import drop_sub_layer, make_linear, update_head_counts
from bertsurgeon.plan import Dropped, LayerPlan, ModelPlan, Role, SubLayerName, sub_layer_of


@dataclass
class SequentialCompensation:
    """Walks both models through the encoder, side by side.

    Attributes:
        dense: Encoder of the dense model.
        pruned: Encoder of its copy, whose matrices are replaced one stage after the other.
        damping: See :func:`bertsurgeon.compensation.solve.compensate`.
        curvature: Metrics that weigh the errors of low ranks, by matrix.
        target: What the last matrix of a sub-layer is fitted to.
        token_weights: How much each token counts, by matrix: one (real tokens,) per batch.
        states: Every batch between two layers.
        changed: Whether anything so far makes the pruned model's states differ from the dense model's.
    """

    dense: Encoder
    pruned: Encoder
    damping: float
    curvature: Curvature
    target: Target
    token_weights: TokenWeights
    states: Sequence[State] = ()
    changed: bool = False

    def run(self, plan: ModelPlan, batches: Sequence[Batch]) -> None:
        """Applies the plan to the pruned model, in place; several processes take a part of the batches each."""
        distributed.check_enough(batches, "batches of calibration data")
        self.states = list(first_layer_inputs(self.dense.model, distributed.shard(batches)))
        self.token_weights = {key: distributed.shard(weights) for key, weights in self.token_weights.items()}
        for index, layer_plan in enumerate(plan.layers):
            update_head_counts(self.pruned, index, layer_plan)
        for index, roles, dense, pruned in walk(self.dense, self.pruned, self.states):
            layer_plan, sub_layer = plan.layers[index], sub_layer_of(roles[0])
            if not layer_plan.is_dropped(sub_layer):
                self._refit(index, layer_plan, roles, dense, pruned)
            elif self.dense.last_role(sub_layer) in roles:
                self._drop(index, sub_layer, dense)

    def _drop(self, index: int, sub_layer: SubLayerName, dense: nn.Module) -> None:
        """Puts a constant, the mean of what it gave, in place of a whole sub-layer."""
        last = self.dense.last_role(sub_layer)
        path = self.dense.architecture.matrices[last]
        weights = self.token_weights.get((index, last))
        inputs = input_moments(self.states, dense, dense, path, weights=weights, dense_only=True)
        weight, bias = dense_matrix(self.dense, index, last)
        _, constant = compensate(weight, bias, Dropped(), inputs, self.damping)
        drop_sub_layer(self.pruned, index, sub_layer, constant)
        for state in self.states:  # the constant went into a LayerNorm that attention may end with
            state.forget_attention()
            if sub_layer == "attention" and not self.dense.architecture.pre_norm:
                # the states before this layer come from the changed LayerNorm
                state.pruned = state.pruned + constant
        self.changed = True

    def _refit(self, index: int, plan: LayerPlan, roles: Sequence[Role], dense: nn.Module, pruned: nn.Module) -> None:
        """Replaces matrices that are computed from the same input, unless nothing before or in them has changed."""
        due = [role for role in roles if self.changed or is_changed(plan, role)]
        if not due:
            return
        if sub_layer_of(roles[0]) == "feed_forward":
            for state in self.states:
                state.keep_attention(dense, pruned)
        # asked for at the first one: a pruned layer whose later ones are not replaced yet must not run that far
        path = self.dense.architecture.matrices[roles[0]]
        read_apart = bool(self.token_weights) or self.dense.architecture.position_input is not None
        shared: Moments | None = None
        replacements: dict[Role, nn.Module] = {}
        for role in due:
            key, rows = (index, role), plan.channels(role)[0]
            weight, bias = dense_matrix(self.dense, index, role, rows)
            if shared is None or read_apart:  # matrices with the same input share its moments
                shared = self._moments(key, path, plan, weight, dense, pruned)
            metric = rows_of(self.curvature.get(key), rows)
            structure = plan.matrices[role].structure
            weight, bias = compensate(weight, bias, structure, shared, self.damping, metric)
            replacements[role] = make_linear(structure, weight, bias)
        for role, replacement in replacements.items():
            self.pruned.replace(index, role, replacement)
        self.changed = True

    def _moments(
        self, key: MatrixKey, path: str, plan: LayerPlan, weight: Tensor, dense: nn.Module, pruned: nn.Module
    ) -> Moments:
        """Of what a matrix reads, in the dense and in the pruned model; ``path`` leads to one that reads the same."""
        _, role = key
        sub_layer = sub_layer_of(role)
        last = role == self.dense.last_role(sub_layer)
        return input_moments(
            self.states,
            dense,
            pruned,
            path,
            width=plan.matrices[role].stored_shape[1],
            residual=self.dense.architecture.residual(sub_layer) if self.target == "residual" and last else None,
            weights=self.token_weights.get(key),
            targets_of=weight if last and len(weight) < weight.shape[1] else None,
            positions=self.dense.architecture.position_input if role in ("query", "key") else None,
        )
