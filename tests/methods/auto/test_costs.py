"""Units of a budget: weights, operations, measured and fitted times."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from auto_cases import ONES, Factory, calibrate_tiny
from bertsurgeon import Calibration
from bertsurgeon.architectures import Encoder
from bertsurgeon.benchmark import count_flops
from bertsurgeon.methods.auto.costs import (
    Cost,
    FittedMilliseconds,
    Flops,
    Milliseconds,
    Weights,
    make_monotone,
    plan_cost,
)
from bertsurgeon.methods.auto.search import allocate, full_cost, make_allocated_plan
from bertsurgeon.plan import dense_plan


@pytest.fixture(scope="module")
def calibration(tiny_model: Factory) -> Calibration:
    return calibrate_tiny(tiny_model("bert"))


def measured_costs() -> Milliseconds:
    """As if each product took a microsecond and a nanosecond per weight."""
    sizes = (8, 48, 96)
    products = tuple(tuple(1e-3 + 1e-6 * rows * columns for columns in sizes) for rows in sizes)
    return Milliseconds(sizes, products, {"attention": 1e-6, "feed_forward": 1e-6})


def test_milliseconds_are_interpolated(calibration: Calibration) -> None:
    cost = measured_costs()
    assert cost.product(48, 96) == pytest.approx(1e-3 + 1e-6 * 48 * 96)
    assert cost.product(48, 48) < cost.product(48, 70) < cost.product(48, 96)
    ranks = cost.ranks(48, 96, torch.tensor([8, 48]))
    expected = [cost.product(8, 96) + cost.product(48, 8), cost.product(48, 96) + cost.product(48, 48)]
    torch.testing.assert_close(ranks, torch.tensor(expected, dtype=torch.float64))
    assert cost.sub_layer("attention", 24) == pytest.approx(24e-6)
    full = full_cost(calibration.curves, cost)
    choices = allocate(calibration.curves, cost, 0.5 * full)
    assert 0.4 * full < sum(choice.cost for choice in choices) <= 0.5 * full


@pytest.mark.parametrize("cost", [Weights(), Flops(), FittedMilliseconds(1, 2, 3, 4, ONES, ONES)])
def test_a_plan_costs_what_its_choices_do(cost: Cost, calibration: Calibration, tiny_model: Factory) -> None:
    full = full_cost(calibration.curves, cost)
    shapes = Encoder(tiny_model("bert")).shapes
    for share in (0.2, 0.5, 0.99):
        choices = allocate(calibration.curves, cost, share * full)
        plan = make_allocated_plan("bert", shapes, calibration.curves, choices)
        assert plan_cost(plan, cost) == pytest.approx(sum(choice.cost for choice in choices))
        assert plan_cost(plan, cost) <= share * full
    assert plan_cost(dense_plan("bert", shapes), cost) == pytest.approx(full)


def test_weights_by_hand() -> None:
    assert Weights().product(3, 5) == 15
    assert Weights().ranks(3, 5, torch.tensor([1, 2])).tolist() == [8, 16]
    assert Weights().sub_layer("attention", 12) == 0


def test_operations_by_hand() -> None:
    """Ten tokens; a multiply-add counts as two operations."""
    cost = Flops(length=10)
    assert cost.product(3, 5) == 2 * 10 * 15
    assert cost.ranks(3, 5, torch.tensor([1, 2])).tolist() == [160, 320]
    # scores: 10 × 10 sums of 12 products; weighted sums: 10 × 12 sums of 10 products
    assert cost.sub_layer("attention", 12) == 2 * 10 * 10 * 12 + 2 * 10 * 12 * 10
    assert cost.sub_layer("attention", 0) == 0
    assert cost.sub_layer("feed_forward", 96) == 0
    assert Flops().length == 128


def test_operations_of_an_encoder_are_those_that_pytorch_counts(tiny_model: Factory) -> None:
    model = tiny_model("bert")
    shapes = Encoder(model).shapes
    head = 2 * 48 * 48 + 2 * 48 * model.config.num_labels  # pooler and classifier, on one token
    assert plan_cost(dense_plan("bert", shapes), Flops(length=32)) == count_flops(model, 1, 32) - head


def test_fitted_costs_by_hand() -> None:
    cost = FittedMilliseconds(
        0.5, 1e-3, 1e-2, 2e-2, {"attention": 1.0, "feed_forward": 2.0}, {"attention": 0.1, "feed_forward": 0.2}
    )
    assert cost.product(3, 5) == pytest.approx(0.5 + 15e-3 + 5e-2 + 6e-2)
    expected = [cost.product(rank, 5) + cost.product(3, rank) for rank in (1, 2)]
    assert cost.ranks(3, 5, torch.tensor([1, 2])).tolist() == pytest.approx(expected)
    assert cost.sub_layer("attention", 4) == pytest.approx(1.4)
    assert cost.sub_layer("feed_forward", 4) == pytest.approx(2.8)
    assert cost.sub_layer("feed_forward", 0) == 0


def test_monotone_tables_by_hand() -> None:
    noisy = [[1.0, 5.0, 6.0], [2.0, 3.0, 7.0]]
    expected = [[1.0, 15**0.5, 6.0], [2.0, 15**0.5, 7.0]]
    np.testing.assert_allclose(make_monotone(noisy), expected)


@given(st.lists(st.lists(st.floats(1e-3, 1e3), min_size=4, max_size=4), min_size=3, max_size=5))
def test_monotone_tables_rise_along_both_axes(rows: list[list[float]]) -> None:
    table = make_monotone(rows)
    for axis in (0, 1):
        assert (np.diff(table, axis=axis) >= -1e-12 * table.max()).all()
    np.testing.assert_array_equal(make_monotone(np.sort(np.sort(rows, 0), 1)), np.sort(np.sort(rows, 0), 1))
    assert (table >= np.min(rows)).all()
    assert (table <= np.max(rows)).all()


@pytest.mark.parametrize("factor", [1e-3, 1e3])
@pytest.mark.parametrize("place", [(0, 0), (1, 1), (0, 2), (2, 0), (2, 2)], ids=str)
def test_one_noisy_timing_makes_no_larger_product_faster(place: tuple[int, int], factor: float) -> None:
    products = [list(row) for row in measured_costs().products]
    products[place[0]][place[1]] *= factor
    cost = Milliseconds((8, 48, 96), tuple(map(tuple, products)), {"attention": 0.0, "feed_forward": 0.0})
    sizes = [8, 20, 48, 70, 96]
    for fixed in sizes:
        for times in ([cost.product(size, fixed) for size in sizes], [cost.product(fixed, size) for size in sizes]):
            assert all(later >= earlier * (1 - 1e-9) for earlier, later in pairwise(times))
    ranks = cost.ranks(96, 48, torch.arange(1, 48))
    assert (ranks.diff() >= -1e-9 * ranks.max()).all()
