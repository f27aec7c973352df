"""Curves: errors of removal and of low ranks."""

from dataclasses import replace

import pytest
import torch

from auto_cases import Batches, Factory, calibrate_tiny
from bertsurgeon import Calibration
from bertsurgeon.architectures import Encoder
from bertsurgeon.calibration import collect_statistics
from bertsurgeon.compensation import reduced_errors, sqrt_metric
from bertsurgeon.compensation.solve import METRIC_DAMPING
from bertsurgeon.methods.auto import curves as curves_module
from bertsurgeon.methods.auto.curves import _unit_counts, measure_curves


@pytest.mark.parametrize(("outputs", "inputs"), [(5, 9), (9, 5)])
def test_reduced_errors_are_those_of_the_best_low_rank(outputs: int, inputs: int) -> None:
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(outputs, inputs, generator=generator, dtype=torch.float64)
    factor = torch.randn(inputs, inputs, generator=generator, dtype=torch.float64)
    squares = torch.linalg.svdvals(weight @ factor).square()
    product = weight @ factor
    second = product @ product.T if outputs < inputs else product.T @ product
    (errors,) = reduced_errors([(second, 5)])
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


def test_candidates_of_heads_and_neurons(calibration: Calibration) -> None:
    """Every number of heads; neurons in steps of a sixteenth, rounded to multiples of eight, and all of them."""
    for curve in calibration.curves:
        counts = [candidate.count for candidate in curve.candidates]
        if curve.sub_layer == "attention":
            assert (counts, curve.width) == ([1, 2, 3, 4], 12)
        else:
            assert (counts, curve.width) == ([1, *range(8, 97, 8)], 1)
    assert _unit_counts(3072, "feed_forward")[:5] == [24, 48, 96, 192, 384]


def test_the_curvature_weighs_all_errors(tiny_model: Factory, tiny_batches: Batches) -> None:
    """A curvature of c times the identity multiplies every error by c, and by the damping of the metric."""
    model = tiny_model("bert")
    statistics = collect_statistics(model, tiny_batches, gradients=False, moments=True)
    plain = measure_curves(model, statistics, 1e-2, chunk=4)
    factor = 3.0
    shapes = enumerate(Encoder(model).shapes)
    sizes = {(layer, role): shape[0] for layer, matrices in shapes for role, shape in matrices.items()}
    full = {key: factor * torch.eye(size, dtype=torch.float64) for key, size in sizes.items()}
    diagonal = {key: metric.diagonal() for key, metric in full.items()}
    for curvature in (full, diagonal):
        weighed = measure_curves(model, replace(statistics, curvature=curvature), 1e-2, chunk=4)
        for first, second in zip(plain, weighed, strict=True):
            scale = factor * (1 + METRIC_DAMPING)
            assert second.dropped == pytest.approx(scale * first.dropped)
            pairs = zip((*first.candidates, *first.grouped), (*second.candidates, *second.grouped), strict=True)
            for candidate, other in pairs:
                assert other.groups == candidate.groups
                assert other.error == pytest.approx(scale * candidate.error, abs=1e-12)
                for role, errors in candidate.rank_errors.items():
                    largest = float(scale * errors.max())
                    torch.testing.assert_close(other.rank_errors[role], scale * errors, rtol=1e-6, atol=1e-9 * largest)


def test_errors_are_those_of_the_refitted_outputs(tiny_model: Factory, tiny_batches: Batches) -> None:
    """The curve of the first feed-forward part, against least squares on its activations."""
    model = tiny_model("bert")
    statistics = collect_statistics(model, tiny_batches, gradients=False, moments=True)
    damping = 1e-3
    curve = measure_curves(model, statistics, damping)[1]
    weight = Encoder(model).weight(0, "output").double()
    covariance = statistics.moments[0, "output"].covariance
    damped = covariance + damping * covariance.diagonal().mean() * torch.eye(96, dtype=torch.float64)
    total = float((weight @ damped @ weight.T).trace())
    assert curve.dropped == pytest.approx(total)
    for candidate in curve.candidates:
        kept = list(candidate.groups[0])
        cross = (weight @ damped)[:, kept]
        explained = float((torch.linalg.solve(damped[kept][:, kept], cross.T).T @ cross.T).trace())
        assert candidate.error == pytest.approx(total - explained, rel=1e-6, abs=1e-9 * total)


def test_curves_do_not_depend_on_how_many_are_measured_at_a_time(
    tiny_model: Factory, tiny_batches: Batches, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = tiny_model("bert")
    statistics = collect_statistics(model, tiny_batches, gradients=False, moments=True)
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        together = measure_curves(model, statistics, 1e-2, 4)
        assert torch.get_num_threads() == 2
        monkeypatch.setattr(curves_module, "WORKERS", 1)
        apart = measure_curves(model, statistics, 1e-2, 4)
    finally:
        torch.set_num_threads(threads)
    assert [(one.layer, one.sub_layer) for one in together] == [(one.layer, one.sub_layer) for one in apart]
    for one, other in zip(together, apart, strict=True):
        assert [c.groups for c in one.candidates] == [c.groups for c in other.candidates]
        torch.testing.assert_close([c.error for c in one.candidates], [c.error for c in other.candidates])
