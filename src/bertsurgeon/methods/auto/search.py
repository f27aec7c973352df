"""Which option each sub-layer gets, so that the whole costs what it may and loses least.

The choices of sub-layers and matrices add up in cost and in error, so one price λ per unit of cost decides each of them
on its own: the option that minimises error + λ · cost. The price is found by bisection (Lagrangian relaxation, Everett,
1963); what the last step of the price leaves unspent buys the best single improvements.
"""

from dataclasses import dataclass

import torch

from bertsurgeon.errors import OptionError
from bertsurgeon.methods.auto.candidates import Candidate, SubLayerCurve
from bertsurgeon.methods.auto.costs import Cost
from bertsurgeon.plan import Dense, Dropped, LayerPlan, LowRank, ModelPlan, Role, Structure, SubLayerName, Units

RANK_STEP = 8
"""Ranks are multiples of this, which vector units like; smaller matrices take steps of one."""

_BISECTIONS = 60


@dataclass(frozen=True)
class Choice:
    """What one sub-layer gets.

    Attributes:
        option: The units it keeps; None drops the sub-layer.
        ranks: By matrix, None for a matrix that stays whole.
        cost: In the unit of the budget.
        error: In the unit of the curves.
    """

    option: Candidate | None
    ranks: dict[Role, int | None]
    cost: float
    error: float


def full_cost(curves: list[SubLayerCurve], cost: Cost) -> float:
    """Of the dense encoder."""
    total = 0.0
    for curve in curves:
        whole = curve.options[-1]
        total += sum(cost.product(*shape) for shape in whole.shapes.values())
        total += cost.sub_layer(curve.sub_layer, curve.total * curve.width)
    return total


def allocate(
    curves: list[SubLayerCurve],
    cost: Cost,
    budget: float,
    *,
    removal: bool = True,
    low_rank: bool = True,
    groups: bool = True,
) -> list[Choice]:
    """The choice of every sub-layer, together at most ``budget``.

    Args:
        curves: Of every sub-layer.
        cost: The unit of the budget.
        budget: In that unit.
        removal: Units may be removed.
        low_rank: Matrices may be reduced in rank.
        groups: Units may be grouped, where the curves know how.

    Raises:
        OptionError: If nothing but the empty encoder is that cheap.
    """
    tables = [_Table(curve, cost, removal, low_rank, groups) for curve in curves]

    def spend(price: float) -> list[Choice]:
        return [table.best(price) for table in tables]

    low, high = -60.0, 60.0  # powers of two
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2
        if sum(choice.cost for choice in spend(2.0**middle)) > budget:
            low = middle
        else:
            high = middle
    choices = _spend_rest(tables, spend(2.0**high), budget, 2.0**high)
    if all(choice.option is None for choice in choices):
        raise OptionError("So small a budget leaves nothing of the encoder; ask for a lower sparsity.")
    return choices


def _spend_rest(tables: "list[_Table]", choices: list[Choice], budget: float, price: float) -> list[Choice]:
    """Buys single improvements with what is left, the one that lowers the error most first."""
    choices = list(choices)
    while True:
        left = budget - sum(choice.cost for choice in choices)
        gains = [
            (choices[i].error - better.error, i, better)
            for i, table in enumerate(tables)
            if (better := table.best_within(choices[i].cost + left, price)).error < choices[i].error
        ]
        if not gains:
            return choices
        _, index, better = max(gains, key=lambda gain: gain[0])
        choices[index] = better


class _Table:
    """One sub-layer's options with their costs."""

    def __init__(self, curve: SubLayerCurve, cost: Cost, removal: bool, low_rank: bool, groups: bool) -> None:
        self._fixed = [Choice(None, {}, 0.0, curve.dropped)]
        for option in curve.grouped if groups else ():
            blocks = sum(
                cost.product(*block) for structure in option.structures.values() for block in structure.block_shapes
            )
            extra = cost.sub_layer(curve.sub_layer, option.count * curve.width)
            self._fixed.append(Choice(option, {}, blocks + extra, option.error))
        self._options = curve.options if removal else curve.options[-1:]
        self._extra = [cost.sub_layer(curve.sub_layer, option.count * curve.width) for option in self._options]
        self._matrices = []
        for option in self._options:
            rows: dict[Role, tuple[list[int | None], torch.Tensor, torch.Tensor]] = {}
            for role, (outputs, inputs) in option.shapes.items():
                whole = cost.product(outputs, inputs)
                full = min(outputs, inputs)
                step = RANK_STEP if full >= 4 * RANK_STEP else 1
                ranks = torch.arange(step, full, step) if low_rank else torch.arange(0)
                costs = cost.ranks(outputs, inputs, ranks).double()
                ranks, costs = ranks[costs < whole], costs[costs < whole]
                rows[role] = (
                    [*ranks.tolist(), None],
                    torch.cat([costs, torch.tensor([whole], dtype=torch.float64)]),
                    torch.cat([option.rank_errors[role][ranks], torch.zeros(1, dtype=torch.float64)]),
                )
            self._matrices.append(rows)

    def best(self, price: float) -> Choice:
        """The choice that minimises error + price · cost."""
        return min((*self._fixed, *self._choices(price)), key=lambda choice: choice.error + price * choice.cost)

    def best_within(self, budget: float, price: float) -> Choice:
        """The choice with the smallest error that costs at most ``budget``, among those a price near this one makes."""
        prices = [price * 2 ** (-step / 8) for step in range(9)]
        choices = [*self._fixed, *(choice for p in prices for choice in self._choices(p))]
        return min((choice for choice in choices if choice.cost <= budget), key=lambda choice: choice.error)

    def _choices(self, price: float) -> list[Choice]:
        """The best ranks at this price for every number of units."""
        choices = []
        for option, extra, rows in zip(self._options, self._extra, self._matrices, strict=True):
            ranks: dict[Role, int | None] = {}
            cost, error = extra, option.error
            for role, (names, costs, errors) in rows.items():
                best = int((errors + price * costs).argmin())
                ranks[role] = names[best]
                cost += float(costs[best])
                error += float(errors[best])
            choices.append(Choice(option, ranks, cost, error))
        return choices


def make_allocated_plan(
    architecture: str,
    shapes: list[dict[Role, tuple[int, int]]],
    curves: list[SubLayerCurve],
    choices: list[Choice],
) -> ModelPlan:
    """The plan that gives every sub-layer what was chosen for it.

    Args:
        architecture: Name in the table of architectures.
        shapes: Of the dense matrices, layer by layer.
        curves: The sub-layers.
        choices: One for each.
    """
    structures: list[dict[Role, Structure]] = [dict.fromkeys(layer, Dropped()) for layer in shapes]
    units: list[dict[SubLayerName, Units]] = [{} for _ in shapes]
    for curve, choice in zip(curves, choices, strict=True):
        if choice.option is None:
            continue
        for role, rank in choice.ranks.items():
            structures[curve.layer][role] = Dense() if rank is None else LowRank(rank)
        structures[curve.layer].update(choice.option.structures)
        if choice.option.count < curve.total or choice.option.structures:
            units[curve.layer][curve.sub_layer] = Units(choice.option.groups, curve.total, curve.width)
    layers = zip(shapes, structures, units, strict=True)
    return ModelPlan(architecture, tuple(LayerPlan.build(*layer) for layer in layers))
