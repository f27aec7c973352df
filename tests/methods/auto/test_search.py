"""Budget search: budgets are met with the lowest error, whatever the units of errors and costs."""

from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from torch import Tensor

from auto_cases import ONES, Batches, Factory, calibrate_tiny, make_curve
from bertsurgeon import AutoConfig, Calibration, Sparsity, budgets, progress, prune
from bertsurgeon.architectures import Encoder
from bertsurgeon.errors import OptionError
from bertsurgeon.methods.auto.candidates import Candidate, SubLayerCurve
from bertsurgeon.methods.auto.costs import Cost, FittedMilliseconds, Flops, Weights, plan_cost
from bertsurgeon.methods.auto.search import RANK_STEP, allocate, full_cost, make_allocated_plan
from bertsurgeon.plan import LowRank, Role, SubLayerName, dense_plan


@pytest.fixture(scope="module")
def calibration(tiny_model: Factory) -> Calibration:
    return calibrate_tiny(tiny_model("bert"))


@pytest.mark.parametrize("cost", [Weights(), Flops(length=12)])
@pytest.mark.parametrize("share", [0.9, 0.5, 0.25, 0.1])
def test_budgets_are_met(calibration: Calibration, cost: Weights, share: float) -> None:
    full = full_cost(calibration.curves, cost)
    choices = allocate(calibration.curves, cost, share * full)
    assert 0.97 * share * full <= sum(choice.cost for choice in choices) <= share * full


def test_more_budget_never_loses(calibration: Calibration) -> None:
    full = full_cost(calibration.curves, Weights())
    errors = [
        sum(choice.error for choice in allocate(calibration.curves, Weights(), share * full))
        for share in (0.1, 0.2, 0.4, 0.6, 0.8, 0.95)
    ]
    assert errors == sorted(errors, reverse=True)


def test_both_structures_together_beat_each_alone(calibration: Calibration) -> None:
    budget = 0.3 * full_cost(calibration.curves, Weights())
    both, removal, low_rank = (
        sum(choice.error for choice in allocate(calibration.curves, Weights(), budget, **options))
        for options in ({}, {"low_rank": False}, {"removal": False})
    )
    assert both <= min(removal, low_rank)


def test_allocation_against_every_combination(calibration: Calibration) -> None:
    """Removal in the first two sub-layers, all 5 · |levels| combinations tried."""
    curves = calibration.curves[:2]
    full = full_cost(curves, Weights())

    def candidates(curve: Any) -> list[tuple[float, float]]:
        options = [(float(sum(r * c for r, c in o.shapes.values())), o.error) for o in curve.candidates]
        return [(0.0, curve.dropped), *options]

    for share in (0.3, 0.5, 0.7):
        best = min(
            first[1] + second[1]
            for first in candidates(curves[0])
            for second in candidates(curves[1])
            if first[0] + second[0] <= share * full
        )
        choices = allocate(curves, Weights(), share * full, low_rank=False)
        assert sum(choice.error for choice in choices) <= 1.25 * best


def test_an_option_that_no_price_chooses_is_still_bought() -> None:
    """Half of the units lose less than dropping all, but more than the mean of dropping all and nothing."""
    curve = make_curve(half_error=0.9)
    [choice] = allocate([curve], Weights(), 40.0, low_rank=False)
    assert choice.candidate is curve.candidates[0]
    assert (choice.cost, choice.error) == (32.0, 0.9)


def test_nothing_left_is_refused(calibration: Calibration) -> None:
    with pytest.raises(OptionError, match="leaves nothing"):
        allocate(calibration.curves, Weights(), 1.0)


@dataclass(frozen=True)
class Scaled:
    """Another unit of the same cost."""

    cost: Cost
    factor: float

    def product(self, outputs: int, inputs: int) -> float:
        return self.factor * self.cost.product(outputs, inputs)

    def ranks(self, outputs: int, inputs: int, ranks: Tensor) -> Tensor:
        return self.factor * self.cost.ranks(outputs, inputs, ranks).double()

    def sub_layer(self, name: SubLayerName, channels: int) -> float:
        return self.factor * self.cost.sub_layer(name, channels)


def scale_errors(curve: SubLayerCurve, factor: float) -> SubLayerCurve:
    candidates = tuple(
        replace(
            candidate,
            error=factor * candidate.error,
            rank_errors={role: factor * errors for role, errors in candidate.rank_errors.items()},
        )
        for candidate in curve.candidates
    )
    return replace(curve, dropped=factor * curve.dropped, candidates=candidates)


@pytest.mark.parametrize(
    ("error_factor", "cost_factor"), [(1e-200, 1.0), (1e-20, 1e20), (1e-9, 1e-20), (1e20, 1.0), (1.0, 1e20)], ids=str
)
def test_units_of_errors_and_costs_do_not_matter(
    calibration: Calibration, error_factor: float, cost_factor: float
) -> None:
    curves, cost = calibration.curves, Flops(length=12)
    scaled_curves = [scale_errors(curve, error_factor) for curve in curves]
    scaled_cost = Scaled(cost, cost_factor)
    budget = 0.3 * full_cost(curves, cost)
    choices = allocate(curves, cost, budget)
    scaled = allocate(scaled_curves, scaled_cost, cost_factor * budget)
    for choice, other in zip(choices, scaled, strict=True):
        assert (choice.candidate is None) == (other.candidate is None)
        assert choice.candidate is None or choice.candidate.groups == other.candidate.groups  # type: ignore[union-attr]
        assert choice.ranks == other.ranks
        assert other.cost == pytest.approx(cost_factor * choice.cost)
        assert other.error == pytest.approx(error_factor * choice.error, rel=1e-9, abs=0)


@pytest.mark.parametrize("budget", [budgets.Flops(0.5), Sparsity(0.75)], ids=str)
def test_a_regression_in_small_units_gets_the_same_plan(
    budget: budgets.Budget, tiny_model: Factory, tiny_batches: Batches
) -> None:
    """The head is scaled by a power of two, so that nothing but the unit of the predictions changes."""
    batches = [{name: value for name, value in batch.items() if name != "labels"} for batch in tiny_batches]
    config = AutoConfig(budget, damping=1e-2)
    plans = []
    for scale in (1.0, 2.0**-20):
        model = tiny_model("bert", num_labels=1)
        with torch.no_grad():
            model.classifier.weight.mul_(scale)
            model.classifier.bias.mul_(scale)
        plans.append(prune(model, config, batches)[1].plan)
    assert plans[1] == plans[0]
    cost = Flops() if isinstance(budget, budgets.Flops) else Weights()
    dense = dense_plan("bert", Encoder(tiny_model("bert")).shapes)
    share = plan_cost(plans[1], cost) / plan_cost(dense, cost)
    assert share == pytest.approx(1 - budget.amount, abs=0.03)


@pytest.mark.parametrize(
    ("budget", "spent"), [(60.0, "53%"), (33.0, None), (31.0, None), (80.0, None)], ids=["60", "33", "31", "80"]
)
def test_a_budget_that_is_not_spent_is_reported(
    budget: float, spent: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Half of the units cost 32, all of them 64."""
    notes: list[str] = []
    monkeypatch.setattr(progress, "warn", notes.append)
    if budget < 32:
        with pytest.raises(OptionError, match="leaves nothing"):
            allocate([make_curve(0.2)], Weights(), budget, low_rank=False)
    else:
        allocate([make_curve(0.2)], Weights(), budget, low_rank=False)
    assert len(notes) == (spent is not None)
    assert not spent or spent in notes[0]


def test_ranks_that_only_seem_cheap_are_refused(calibration: Calibration, tiny_model: Factory) -> None:
    """With a clock that finds any two thin products faster than one: the factors still have fewer weights."""

    class Noisy(Weights):
        def ranks(self, outputs: int, inputs: int, ranks: Tensor) -> Tensor:
            return 0.01 * ranks

    cost = Noisy()
    shapes = Encoder(tiny_model("bert")).shapes
    for share in (0.5, 0.99):
        choices = allocate(calibration.curves, cost, share * full_cost(calibration.curves, cost))
        plan = make_allocated_plan("bert", shapes, calibration.curves, choices)
        low_ranks = [matrix for _, _, matrix in plan if isinstance(matrix.structure, LowRank)]
        assert low_ranks
        for matrix in low_ranks:
            outputs, inputs = matrix.stored_shape
            assert matrix.structure.rank * (outputs + inputs) < outputs * inputs  # type: ignore[union-attr]
        assert plan.kept < plan.size


def test_ranks_that_cost_more_than_the_matrix_are_refused(calibration: Calibration) -> None:
    """Where every product has a price of its own, two small ones cost more than one."""
    cost = FittedMilliseconds(1.0, 0.0, 0.0, 0.0, dict.fromkeys(ONES, 0.0), dict.fromkeys(ONES, 0.0))
    choices = allocate(calibration.curves, cost, 0.99 * full_cost(calibration.curves, cost))
    assert all(rank is None for choice in choices for rank in choice.ranks.values())


@pytest.mark.parametrize("structures", ["removal", "low_rank"])
def test_structures_that_are_not_allowed_are_not_used(calibration: Calibration, structures: str) -> None:
    allowed = {"removal": structures == "removal", "low_rank": structures == "low_rank"}
    choices = allocate(calibration.curves, Weights(), 0.5 * full_cost(calibration.curves, Weights()), **allowed)
    for curve, choice in zip(calibration.curves, choices, strict=True):
        if choice.candidate is not None and not allowed["removal"]:
            assert choice.candidate.count == curve.total
        if not allowed["low_rank"]:
            assert all(rank is None for rank in choice.ranks.values())


def test_low_ranks_are_multiples_of_the_step() -> None:
    """Matrices of 32 channels and more, which vector units work on; smaller ones have all ranks."""
    for size, step in ((32, RANK_STEP), (31, 1)):
        shapes: dict[Role, tuple[int, int]] = {"intermediate": (size, size), "output": (size, size)}
        errors = torch.linspace(1, 0, size + 1, dtype=torch.float64)
        candidate = Candidate((tuple(range(size)),), 0.0, shapes, dict.fromkeys(shapes, errors))
        curve = SubLayerCurve(0, "feed_forward", size, 1, 9.0, (candidate,))
        ranks = set()
        for budget in range(2 * size * step, 2 * size * size, size):
            try:
                [choice] = allocate([curve], Weights(), float(budget))
            except OptionError:
                continue
            ranks |= {rank for rank in choice.ranks.values() if rank is not None}
        assert ranks
        assert all(rank % step == 0 and 2 * rank < size for rank in ranks)
        assert min(ranks) == step


def test_a_whole_budget_gives_the_dense_plan(calibration: Calibration, tiny_model: Factory) -> None:
    """Nothing is removed, reordered or refitted."""
    shapes = Encoder(tiny_model("bert")).shapes
    dense = dense_plan("bert", shapes)
    assert full_cost(calibration.curves, Weights()) == dense.size
    choices = allocate(calibration.curves, Weights(), dense.size)
    assert make_allocated_plan("bert", shapes, calibration.curves, choices) == dense
