"""Budget search: which candidate each sub-layer gets, so that the total cost is within the budget and the error lowest.

Costs and errors of sub-layers and matrices add up, so one price λ per unit of cost decides each of them independently:
the candidate that minimizes error + λ · cost. The price is found by bisection (Lagrangian relaxation, Everett, 1963);
what the last step of the price leaves unspent buys the best single improvements.

The search is scale-free: errors and costs are divided by those of the whole encoder before they are compared, so that
neither the unit of the loss nor that of the budget changes the plan. The divisors are powers of two: dividing is exact.
"""

import math
import sys
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from bertsurgeon import progress
from bertsurgeon.errors import OptionError
from bertsurgeon.methods.auto.candidates import Candidate, SubLayerCurve
from bertsurgeon.methods.auto.costs import Cost
from bertsurgeon.plan import Dense, Dropped, LayerPlan, LowRank, ModelPlan, Role, Structure, SubLayerName, Units

RANK_STEP = 8
"""Ranks are multiples of this, which suits vector units; smaller matrices take steps of one."""

SPENT = 0.95
"""Share of a budget below which a warning reports what was spent."""

_LOG2_PRICES = (-200.0, 200.0)
"""Logarithms of the prices between which the search begins, for errors and costs of the whole encoder near 1."""

_BISECTIONS = 60
_LOG2_LIMIT = sys.float_info.max_exp - 2


@dataclass(frozen=True)
class Choice:
    """What one sub-layer gets.

    Attributes:
        candidate: The units that it keeps; None drops the sub-layer.
        ranks: Rank of each matrix, None for a matrix of full rank.
        cost: In the unit of the budget.
        error: In the unit of the curves.
    """

    candidate: Candidate | None
    ranks: dict[Role, int | None]
    cost: float
    error: float


def full_cost(curves: list[SubLayerCurve], cost: Cost) -> float:
    """Cost of the dense encoder.

    Args:
        curves: Curves of all sub-layers.
        cost: Unit of the cost.
    """
    total = 0.0
    for curve in curves:
        dense = curve.candidates[-1]
        total += sum(cost.product(*shape) for shape in dense.shapes.values())
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
    note_rest: bool = True,
) -> list[Choice]:
    """Chooses what every sub-layer gets, so that the total cost is at most ``budget``.

    A warning is given if less than the share ``SPENT`` of the budget is used.

    Args:
        curves: Curves of all sub-layers.
        cost: Unit of the budget.
        budget: Largest total cost, in that unit.
        removal: Allow units to be removed.
        low_rank: Allow matrices to be reduced in rank.
        groups: Allow units to be grouped, where the curves contain grouped candidates.
        note_rest: Warn about a budget that is not used.

    Returns:
        One choice per curve, in the same order.

    Raises:
        OptionError: If only the empty encoder is that cheap.
    """
    dense_cost = full_cost(curves, cost)
    log2_cost = _log2_scale(dense_cost)
    log2_error = _log2_scale(sum(curve.dropped for curve in curves))
    tables = [_Table(curve, cost, log2_cost, log2_error, removal, low_rank, groups) for curve in curves]
    limit = math.ldexp(budget, -log2_cost)

    def choose(price: float) -> list[Choice]:
        return [table.best(price) for table in tables]

    low, high = _LOG2_PRICES
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2
        if sum(choice.cost for choice in choose(2.0**middle)) > limit:
            low = middle
        else:
            high = middle
    choices = _spend_rest(tables, choose(2.0**high), limit, 2.0**high)
    if all(choice.candidate is None for choice in choices):
        raise OptionError("The budget leaves nothing of the encoder; remove less of it.")
    spent = sum(choice.cost for choice in choices)
    if note_rest and spent < SPENT * min(limit, math.ldexp(dense_cost, -log2_cost)):
        progress.warn(
            f"The plan uses {math.floor(100 * spent / limit)}% of its budget: no candidate that fits into the rest "
            "lowers the error."
        )
    return [
        replace(choice, cost=math.ldexp(choice.cost, log2_cost), error=math.ldexp(choice.error, log2_error))
        for choice in choices
    ]


def _log2_scale(value: float) -> int:
    """Exponent k such that value · 2⁻ᵏ is near 1; both factors are finite and not zero."""
    return max(-_LOG2_LIMIT, min(_LOG2_LIMIT, math.frexp(value)[1]))


def _spend_rest(tables: "list[_Table]", choices: list[Choice], budget: float, price: float) -> list[Choice]:
    """Buys single improvements with the rest of the budget, in each step the one that lowers the error most."""
    choices = list(choices)
    while True:
        rest = budget - sum(choice.cost for choice in choices)
        gains = [
            (choices[i].error - better.error, i, better)
            for i, table in enumerate(tables)
            if (better := table.best_within(choices[i].cost + rest, price)).error < choices[i].error
        ]
        if not gains:
            return choices
        _, index, better = max(gains, key=lambda gain: gain[0])
        choices[index] = better


class _Table:
    """Scaled costs and errors of all candidates of one sub-layer, and of all ranks of their matrices."""

    def __init__(
        self,
        curve: SubLayerCurve,
        cost: Cost,
        log2_cost: int,
        log2_error: int,
        removal: bool,
        low_rank: bool,
        groups: bool,
    ) -> None:
        cost_scale, error_scale = 2.0**-log2_cost, 2.0**-log2_error
        self._fixed = [Choice(None, {}, 0.0, curve.dropped * error_scale)]
        for candidate in curve.grouped if groups else ():
            blocks = sum(
                cost.product(*block) for structure in candidate.structures.values() for block in structure.block_shapes
            )
            extra = cost.sub_layer(curve.sub_layer, candidate.count * curve.width)
            self._fixed.append(Choice(candidate, {}, (blocks + extra) * cost_scale, candidate.error * error_scale))
        self._candidates = curve.candidates if removal else curve.candidates[-1:]
        self._extra = [
            cost.sub_layer(curve.sub_layer, candidate.count * curve.width) * cost_scale
            for candidate in self._candidates
        ]
        self._errors = [candidate.error * error_scale for candidate in self._candidates]
        self._matrices = []
        for candidate in self._candidates:
            rows: dict[Role, tuple[list[int | None], Tensor, Tensor]] = {}
            for role, (outputs, inputs) in candidate.shapes.items():
                ranks, costs = _useful_ranks(outputs, inputs, cost) if low_rank else _no_ranks()
                dense = torch.tensor([cost.product(outputs, inputs)], dtype=torch.float64)
                rank_errors = candidate.rank_errors[role][ranks]
                rows[role] = (
                    [*ranks.tolist(), None],
                    torch.cat([costs, dense]) * cost_scale,
                    torch.cat([rank_errors, rank_errors.new_zeros(1)]) * error_scale,
                )
            self._matrices.append(rows)

    def best(self, price: float) -> Choice:
        """The choice that minimizes error + price · cost."""
        return min((*self._fixed, *self._choices(price)), key=lambda choice: choice.error + price * choice.cost)

    def best_within(self, budget: float, price: float) -> Choice:
        """The choice with the smallest error that costs at most ``budget``, among those of prices near this one."""
        prices = [price * 2 ** (-step / 8) for step in range(9)]
        choices = [*self._fixed, *(choice for p in prices for choice in self._choices(p))]
        return min((choice for choice in choices if choice.cost <= budget), key=lambda choice: choice.error)

    def _choices(self, price: float) -> list[Choice]:
        """The best ranks at this price for every candidate."""
        choices = []
        for candidate, cost, error, rows in zip(
            self._candidates, self._extra, self._errors, self._matrices, strict=True
        ):
            ranks: dict[Role, int | None] = {}
            for role, (names, costs, errors) in rows.items():
                best = int((errors + price * costs).argmin())
                ranks[role] = names[best]
                cost += float(costs[best])
                error += float(errors[best])
            choices.append(Choice(candidate, ranks, cost, error))
        return choices


def _useful_ranks(outputs: int, inputs: int, cost: Cost) -> tuple[Tensor, Tensor]:
    """Ranks whose two factors are cheaper than the matrix and have fewer weights, with their costs.

    Measured costs alone do not suffice: two thin products may be timed faster than one of half the size.
    """
    full_rank = min(outputs, inputs)
    step = RANK_STEP if full_rank >= 4 * RANK_STEP else 1
    ranks = torch.arange(step, full_rank, step)
    costs = cost.ranks(outputs, inputs, ranks).double()
    useful = (ranks * (outputs + inputs) < outputs * inputs) & (costs < cost.product(outputs, inputs))
    return ranks[useful], costs[useful]


def _no_ranks() -> tuple[Tensor, Tensor]:
    return torch.empty(0, dtype=torch.long), torch.empty(0, dtype=torch.float64)


def make_allocated_plan(
    architecture: str,
    shapes: list[dict[Role, tuple[int, int]]],
    curves: list[SubLayerCurve],
    choices: list[Choice],
) -> ModelPlan:
    """Makes the plan that gives every sub-layer what was chosen for it.

    Args:
        architecture: Name in the table of architectures.
        shapes: Shapes of the dense matrices (out, in), layer by layer.
        curves: Curves of all sub-layers.
        choices: One choice per curve, in the same order.
    """
    structures: list[dict[Role, Structure]] = [dict.fromkeys(layer, Dropped()) for layer in shapes]
    units: list[dict[SubLayerName, Units]] = [{} for _ in shapes]
    for curve, choice in zip(curves, choices, strict=True):
        if choice.candidate is None:
            continue
        for role, rank in choice.ranks.items():
            structures[curve.layer][role] = Dense() if rank is None else LowRank(rank)
        structures[curve.layer].update(choice.candidate.structures)
        if choice.candidate.count < curve.total or choice.candidate.structures:
            units[curve.layer][curve.sub_layer] = Units(choice.candidate.groups, curve.total, curve.width)
    layers = zip(shapes, structures, units, strict=True)
    return ModelPlan(architecture, tuple(LayerPlan.build(*layer) for layer in layers))
