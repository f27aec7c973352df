"""Precision of the calibration: the model may run in bfloat16, sums never do."""

import pytest
import torch

from auto_cases import Batches, Factory
from bertsurgeon import CalibrationConfig, PgbConfig, Sparsity, calibrate, devices, prune
from bertsurgeon.calibration import Moments
from bertsurgeon.calibration.moments import symmetric_product
from bertsurgeon.methods.base import runs_in_bf16


def test_products_of_moments_are_never_rounded_to_bfloat16() -> None:
    x = torch.randn(50, 12, generator=torch.Generator().manual_seed(0)) + 3
    inside, outside = Moments(12, paired=False), Moments(12, paired=False)
    with torch.autocast("cpu", torch.bfloat16):
        inside.update(x)
    outside.update(x)
    assert torch.equal(inside.covariance, outside.covariance)


@pytest.mark.parametrize("width", [7, 96 * 4, 96 * 4 + 3])
def test_a_symmetric_product_is_the_product(width: int) -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(20, width, generator=generator, dtype=torch.float64)
    weights = torch.rand(20, 1, generator=generator, dtype=torch.float64)
    product = symmetric_product(x, x * weights)
    torch.testing.assert_close(product, x.T @ (x * weights), rtol=1e-12, atol=1e-12)
    assert product[-1, 0] == product[0, -1]


def test_bfloat16_changes_curves_a_little(tiny_model: Factory, tiny_batches: Batches) -> None:
    model = tiny_model("bert")
    errors = {}
    for precision in ("fp32", "bf16"):
        config = CalibrationConfig(calibration_precision=precision, token_weighting=0.0)  # type: ignore[arg-type]
        calibration = calibrate(model, config, tiny_batches, device="cpu")
        errors[precision] = torch.tensor([curve.dropped for curve in calibration.curves])
        assert calibration.settings["calibration_precision"] == precision
    assert not torch.equal(errors["fp32"], errors["bf16"])
    torch.testing.assert_close(errors["fp32"], errors["bf16"], rtol=0.1, atol=0)


def test_pgb_in_bfloat16(tiny_model: Factory, tiny_batches: Batches) -> None:
    model = tiny_model("bert")
    pruned = {
        precision: prune(
            model,
            PgbConfig(Sparsity(0.5), calibration_precision=precision),
            tiny_batches,
            device="cpu",  # type: ignore[arg-type]
        ).model
        for precision in ("fp32", "bf16")
    }
    ids = tiny_batches[0]["input_ids"]
    first, second = (model(input_ids=ids).logits for model in pruned.values())
    assert not torch.equal(first, second)
    assert all(parameter.dtype == torch.float32 for parameter in pruned["bf16"].parameters())


def test_auto_is_bfloat16_where_the_cpu_has_instructions_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    cpu, gpu = torch.device("cpu"), torch.device("cuda")
    for flags, fast in (("avx2 avx512f avx512_bf16", True), ("avx2 amx_bf16", True), ("avx2 avx512f", False)):
        monkeypatch.setattr(devices, "read_cpuinfo", lambda *_, flags=flags: flags)
        assert runs_in_bf16("auto", cpu) is fast
        assert not runs_in_bf16("auto", gpu)
        assert not runs_in_bf16("fp32", cpu)
        assert runs_in_bf16("bf16", cpu)
