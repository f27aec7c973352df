"""K-prune: Park et al., 2024, Accurate Retraining-free Pruning for Pretrained Encoder-based Language Models.

Source: arXiv 2308.03449. From the input to the output, one sub-layer after the other: the knowledge of all units that
may still be removed is measured in the model as it is (predictive: the increase of the divergence from the dense
predictions at a temperature; representational: the mean square of a unit's output; that of heads has a factor), a
threshold over knowledge per weight is found for the rest of the budget, the sub-layer's units below it are removed, and
its last matrix is refitted by linear least squares to the dense residual stream. No labels are used. The divergence is
taken to second order, by the Fisher information of the predictions. The budget counts weights instead of operations.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from transformers import PreTrainedModel

from bertsurgeon.calibration import Batch
from peers.lockstep_fit import LastMatrix, last_matrices
from peers.units import Key, Units, UnitView, copy_encoder, scale_units, unit_gradients

BALANCES = (0.0, 0.00025, 1.0)
"""Weights of the representational knowledge that the paper chooses from."""

TEMPERATURE, HEAD_FACTOR = 2.0, 64.0
"""Temperature of the divergence, and factor of the knowledge of heads."""


def prune_by_knowledge(
    model: PreTrainedModel, share: float, batches: Sequence[Batch], measured: Sequence[Batch], balance: float, seed: int
) -> tuple[PreTrainedModel, float]:
    """Removes heads and neurons.

    Args:
        model: The dense model; not changed.
        share: Share of the encoder's weights to keep.
        batches: Calibration texts, without labels.
        measured: Those of them on which knowledge is measured, at every sub-layer again.
        balance: Weight of the representational knowledge.
        seed: Of the draws of the Fisher information.

    Returns:
        The model, and the share of the weights that it keeps.
    """
    pruned, view = copy_encoder(model)
    budget = share * view.total()
    kept: Units = {}
    with torch.no_grad():
        for matrix in last_matrices(model, view, batches):
            key = matrix.key
            rest = [other for other in view.keys if other not in kept]
            knowledge = measure_knowledge(view, measured, rest, balance, seed, TEMPERATURE)
            kept[key] = above_threshold(view, knowledge, budget)[key]
            budget -= int(kept[key].sum()) * view.cost(key)
            refit(view, matrix, kept[key])
    return pruned, view.count(kept) / view.total()


def measure_knowledge(
    view: UnitView,
    batches: Sequence[Batch],
    keys: Sequence[Key],
    balance: float,
    seed: int,
    temperature: float = 1.0,
) -> Units:
    """Returns predictive plus ``balance`` times representational knowledge of units.

    The first is a mean over texts, the second one over tokens, output channels and channels of a unit.
    """
    predictive: Units = {}
    representational: Units = {}
    terms: dict[Key, int] = {}
    texts = 0

    def add_norms(key: Key, x: Tensor) -> None:
        weight = view.last_weight(key)
        terms[key] = terms.get(key, 0) + len(x) * len(weight) * view.width(key)
        if view.width(key) == 1:
            norms = x.square().sum(0) * weight.square().sum(0)
        else:
            heads, parts = (values.unflatten(-1, (-1, view.width(key))) for values in (x, weight))
            norms = torch.stack([(heads[:, h] @ parts[:, h].T).square().sum() for h in range(heads.shape[1])])
        representational[key] = representational.get(key, 0) + norms

    for gradients in unit_gradients(view, batches, keys, seed, add_norms, temperature):
        texts += len(next(iter(gradients.values())))
        for key, gradient in gradients.items():
            predictive[key] = predictive.get(key, 0) + gradient.square().sum(0) / 2
    return {key: predictive[key] / texts + balance * representational[key] / terms[key] for key in keys}


def above_threshold(view: UnitView, knowledge: Units, budget: float) -> Units:
    """Returns the units with the most knowledge per weight whose weights fit into a budget, over all sub-layers."""
    keys = list(knowledge)
    per_weight = torch.cat(
        [knowledge[key] * (HEAD_FACTOR if key[1] == "attention" else 1.0) / view.cost(key) for key in keys]
    )
    costs = torch.cat([torch.full_like(knowledge[key], view.cost(key), dtype=torch.float64) for key in keys])
    order = per_weight.argsort(descending=True)
    mask = torch.zeros(len(order), dtype=torch.bool)
    mask[order] = costs[order].cumsum(0) <= budget
    return dict(zip(keys, mask.split([len(knowledge[key]) for key in keys]), strict=True))


def refit(view: UnitView, matrix: LastMatrix, kept: Tensor) -> None:
    """Refits the columns of the last matrix that kept units have, and removes the others, in place."""
    key = matrix.key
    columns = kept.repeat_interleave(view.width(key)).nonzero().flatten()
    weight = view.last_weight(key)
    system = torch.zeros(len(columns), len(columns), dtype=torch.float64)
    right_side = torch.zeros(len(columns), len(weight), dtype=torch.float64)
    for inputs, target in matrix.pairs():
        x = inputs[:, columns]
        system += x.T @ x
        right_side += x.T @ target
    scale_units(view, key, torch.zeros(len(kept)))
    if len(columns):
        weight[:, columns] = torch.linalg.lstsq(system, right_side, driver="gelsd").solution.T.to(weight)
