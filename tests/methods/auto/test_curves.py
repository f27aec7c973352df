"""Curves: errors of removal and of low ranks."""

import pytest
import torch

from auto_cases import Factory, calibrate_tiny
from bertsurgeon import Calibration
from bertsurgeon.compensation import reduced_errors, sqrt_metric


@pytest.mark.parametrize(("outputs", "inputs"), [(5, 9), (9, 5)])
def test_reduced_errors_are_those_of_the_best_low_rank(outputs: int, inputs: int) -> None:
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(outputs, inputs, generator=generator, dtype=torch.float64)
    factor = torch.randn(inputs, inputs, generator=generator, dtype=torch.float64)
    squares = torch.linalg.svdvals(weight @ factor).square()
    product = weight @ factor
    second = product @ product.T if outputs < inputs else product.T @ product
    errors = reduced_errors(second, 5)
    expected = torch.stack([squares[rank:].sum() for rank in range(6)])
    torch.testing.assert_close(errors, expected, rtol=1e-7, atol=1e-7)


def test_matrix_roots() -> None:
    factor = torch.randn(4, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    root, inverse = sqrt_metric(factor @ factor.T, 0.1)
    floor = 0.1 * (factor @ factor.T).diagonal().mean() * torch.eye(4, dtype=torch.float64)
    torch.testing.assert_close(root @ root, factor @ factor.T + floor)
    torch.testing.assert_close(root @ inverse, torch.eye(4, dtype=torch.float64))


@pytest.fixture(scope="module")
def calibration(tiny_model: Factory) -> Calibration:
    return calibrate_tiny(tiny_model("bert"))


def test_curves_fall_with_what_is_kept(calibration: Calibration) -> None:
    assert len(calibration.curves) == 6
    for curve in calibration.curves:
        errors = [option.error for option in curve.candidates]
        assert curve.dropped >= errors[0]
        assert errors == sorted(errors, reverse=True)
        assert errors[-1] == 0
        for option in curve.candidates:
            assert all((tail.diff() <= 1e-9).all() and tail[-1] == 0 for tail in option.rank_errors.values())
