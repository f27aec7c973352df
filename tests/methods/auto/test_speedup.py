"""Budgets in time: with clocks that these tests make up, and once with that of this machine."""

import itertools
import random
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import PreTrainedModel

from auto_cases import ONES, Batches, Factory, calibrate_tiny
from bertsurgeon import AutoConfig, Calibration, Speedup, progress, prune
from bertsurgeon.architectures import Encoder
from bertsurgeon.benchmark import count_flops, random_inputs
from bertsurgeon.errors import OptionError
from bertsurgeon.methods.auto import latency_model, speedup
from bertsurgeon.methods.auto.costs import FittedMilliseconds, Weights, plan_cost
from bertsurgeon.methods.auto.latency_model import DeploymentTarget
from bertsurgeon.methods.auto.search import allocate, full_cost, make_allocated_plan
from bertsurgeon.plan import ModelPlan


@pytest.fixture(scope="module")
def calibration(tiny_model: Factory) -> Calibration:
    return calibrate_tiny(tiny_model("bert"))


def plans_of(calibration: Calibration, model: PreTrainedModel) -> Callable[[float], ModelPlan]:
    """Plans by share of the encoder's weights."""
    shapes, cost = Encoder(model).shapes, Weights()

    def plan_for(share: float) -> ModelPlan:
        choices = allocate(calibration.curves, cost, share * full_cost(calibration.curves, cost))
        return make_allocated_plan("bert", shapes, calibration.curves, choices)

    return plan_for


def use_clock(monkeypatch: pytest.MonkeyPatch, rest: float, noise: Callable[[], float] = lambda: 1.0) -> list[str]:
    """Makes every weight of the encoder take a millisecond and the rest of the model ``rest``; returns the notes."""

    def count(model: PreTrainedModel) -> int:
        return sum(p.numel() for p in model.base_model.encoder.parameters() if p.dim() == 2)

    def time(models: dict[str, PreTrainedModel], *_: Any, **__: Any) -> dict[str, Any]:
        return {name: SimpleNamespace(p50_ms=noise() * (count(model) + rest)) for name, model in models.items()}

    notes: list[str] = []
    monkeypatch.setattr(speedup, "time_batches", time)
    monkeypatch.setattr(progress, "warn", notes.append)
    return notes


def pytorch_target(model: PreTrainedModel) -> DeploymentTarget:
    return DeploymentTarget("pytorch", "fp32", random_inputs([model], 1, 32))


def test_a_speedup_is_reached_by_correcting_the_share(
    calibration: Calibration, tiny_model: Factory, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = tiny_model("bert")
    notes = use_clock(monkeypatch, rest=1e4)
    plan = speedup.meet_speedup(model, 2.0, plans_of(calibration, model), pytorch_target(model))
    assert (plan.size + 1e4) / (plan.kept + 1e4) == pytest.approx(2.0, rel=0.03)
    assert not [note for note in notes if "speedup" in note]


@pytest.mark.parametrize("asked", [3.0, 50.0, 1e4])
def test_a_speedup_out_of_reach_gives_the_fastest_plan(
    asked: float, calibration: Calibration, tiny_model: Factory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The rest of the model takes as long as the dense encoder, so that no plan is twice as fast."""
    model = tiny_model("bert")
    full = full_cost(calibration.curves, Weights())
    notes = use_clock(monkeypatch, rest=full)
    plan_for = plans_of(calibration, model)
    tried: list[ModelPlan] = []

    def recording(share: float) -> ModelPlan:
        tried.append(plan_for(share))
        return tried[-1]

    plan = speedup.meet_speedup(model, asked, recording, pytorch_target(model))
    assert plan.kept == min(other.kept for other in tried)
    reached = 2 * full / (full + plan.kept)
    assert 1.5 < reached < 2
    [note] = [note for note in notes if "speedup" in note]
    assert f"a speedup of {reached:.2f} where {asked:g} was asked for" in note
    assert "rest of the model" in note
    assert "sparsity" not in note


def test_a_clock_that_cannot_be_trusted_is_named(
    calibration: Calibration, tiny_model: Factory, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, factors = tiny_model("bert"), itertools.cycle([1.0, 1.3, 1.3, 1.0])
    notes = use_clock(monkeypatch, rest=1e4, noise=lambda: next(factors))
    plan = speedup.meet_speedup(model, 2.0, plans_of(calibration, model), pytorch_target(model))
    assert 0 < plan.kept < plan.size
    assert any("may be busy" in note for note in notes)


def test_a_speedup_that_leaves_nothing_is_refused(tiny_model: Factory) -> None:
    shares = []

    def plan_for(share: float) -> ModelPlan:
        shares.append(share)
        raise OptionError("nothing")

    model = tiny_model("bert")
    with pytest.raises(OptionError, match="A speedup of 3 leaves nothing of the encoder; ask for a lower speedup"):
        speedup.meet_speedup(model, 3.0, plan_for, pytorch_target(model))
    assert shares == sorted(shares)
    assert len(set(shares)) == speedup.ROUNDS


def test_products_attention_and_activations_are_timed(tiny_model: Factory) -> None:
    """With a clock that counts operations of products, and outputs of everything else."""

    def measure(step: Callable[[], Any]) -> float:
        with FlopCounterMode(display=False) as counter:
            outputs = step()
        return float(counter.get_total_flops() or outputs.numel())

    cost = speedup.measure_costs(tiny_model("bert"), 2, 16, measure)
    for outputs, inputs in itertools.product((8, 48, 96), repeat=2):
        assert cost.product(outputs, inputs) == pytest.approx(2 * 2 * 16 * outputs * inputs)
    assert cost.sub_layer("attention", 48) == pytest.approx(2 * 16 * 48)
    assert cost.sub_layer("feed_forward", 96) == pytest.approx(2 * 16 * 96)


@pytest.mark.parametrize("seed", range(3))
def test_a_noisy_clock_makes_no_larger_model(seed: int, calibration: Calibration, tiny_model: Factory) -> None:
    model, generator = tiny_model("bert"), random.Random(seed)
    cost = speedup.measure_costs(model, 1, 8, lambda _: generator.lognormvariate(0, 3))
    for share in (0.5, 0.9, 0.99):
        choices = allocate(calibration.curves, cost, share * full_cost(calibration.curves, cost))
        plan = make_allocated_plan("bert", Encoder(model).shapes, calibration.curves, choices)
        assert plan.kept <= plan.size
        for _, _, matrix in plan:
            assert matrix.kept <= matrix.stored_shape[0] * matrix.stored_shape[1]


def test_costs_of_a_runtime_are_fitted(
    calibration: Calibration, tiny_model: Factory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a machine where everything takes the time that costs say, and the rest of the model ten milliseconds."""
    model = tiny_model("bert")
    true = FittedMilliseconds(
        0.5, 1e-4, 2e-3, 0.0, {"attention": 1.0, "feed_forward": 1.0}, {"attention": 0.05, "feed_forward": 0.02}
    )
    monkeypatch.setattr(DeploymentTarget, "open", lambda target, model, plan: plan)

    def time(plans: dict[str, ModelPlan], *_: Any, **__: Any) -> dict[str, Any]:
        assert len({plan.kept for plan in plans.values()}) > len(plans) / 2
        return {name: SimpleNamespace(p50_ms=10 + plan_cost(plan, true)) for name, plan in plans.items()}

    monkeypatch.setattr(latency_model, "time_batches", time)
    target = DeploymentTarget("onnx", "int8", random_inputs([model], 1, 32))
    fitted = latency_model.fit_costs(model, calibration.curves, target)
    for share in (0.3, 0.6):
        choices = allocate(calibration.curves, Weights(), share * full_cost(calibration.curves, Weights()))
        plan = make_allocated_plan("bert", Encoder(model).shapes, calibration.curves, choices)
        assert plan_cost(plan, fitted) == pytest.approx(plan_cost(plan, true), rel=0.05)


def test_encoders_are_timed_without_their_words(
    calibration: Calibration, tiny_model: Factory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(latency_model, "PROBE_VOCAB_SIZE", 7)
    monkeypatch.setattr(latency_model, "PROBES", 2)
    model = tiny_model("bert")
    words = model.get_input_embeddings().num_embeddings
    opened = []

    def time(models: dict[str, PreTrainedModel], batches: Batches, *_: Any) -> dict[str, Any]:
        opened.extend(model(**batches[0]).logits.shape for model in models.values())
        assert all(model.get_input_embeddings().num_embeddings == 7 for model in models.values())
        return {name: SimpleNamespace(p50_ms=1.0) for name in models}

    monkeypatch.setattr(latency_model, "time_batches", time)
    target = DeploymentTarget("pytorch", "fp32", random_inputs([model], 3, 32))
    latency_model.fit_costs(model, calibration.curves, target)
    assert opened == [(3, model.config.num_labels)] * 2
    assert model.get_input_embeddings().num_embeddings == words > 7


@pytest.mark.slow
def test_speedup_from_end_to_end(tiny_model: Factory, tiny_batches: Batches) -> None:
    """Timed on this machine; whatever the clock says, the result is a model that is not larger and runs."""
    model = tiny_model("bert")
    pruned, report = prune(model, AutoConfig(Speedup(1.3, length=32), damping=1e-2), tiny_batches)
    assert 0 <= report.sparsity < 1
    assert count_flops(pruned, 1, 32) <= count_flops(model, 1, 32)
    assert torch.isfinite(pruned(**tiny_batches[0]).logits).all()


@pytest.mark.slow
def test_speedup_in_a_runtime_from_end_to_end(
    tiny_model: Factory, tiny_batches: Batches, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Models are exported and run; how long that takes is left to no machine."""
    timed: list[float] = []

    def fit(plans: list[ModelPlan], milliseconds: list[float]) -> FittedMilliseconds:
        assert len(plans) == len(milliseconds) == 3
        timed.extend(milliseconds)
        return FittedMilliseconds(0, 1, 0, 0, dict.fromkeys(ONES, 0.0), dict.fromkeys(ONES, 0.0))

    def time(models: dict[str, Any], batches: Batches, **_: Any) -> dict[str, Any]:
        answers = {name: model(**batches[0]).logits for name, model in models.items()}
        assert all(answer.shape == (1, 2) for answer in answers.values())
        return {"dense": SimpleNamespace(p50_ms=2.0), "pruned": SimpleNamespace(p50_ms=1.0)}

    monkeypatch.setattr(latency_model, "PROBES", 3)
    monkeypatch.setattr(latency_model, "fit", fit)
    monkeypatch.setattr(speedup, "time_batches", time)
    model = tiny_model("bert")
    config = AutoConfig(Speedup(2.0, runtime="onnx", precision="int8", length=32), damping=1e-2)
    pruned, report = prune(model, config, tiny_batches)
    assert min(timed) > 0
    assert report.sparsity == pytest.approx(0.5, abs=0.03)
    assert count_flops(pruned, 1, 32) < count_flops(model, 1, 32)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"runtime": "onnx", "precision": "bf16"}, "no bfloat16"),
        ({"precision": "int8"}, "another runtime"),
        ({"runtime": "tensorrt"}, "runtime must be one of"),
        ({"precision": "fp8"}, "precision must be one of"),
        ({"batch_size": 0}, "at least 1 text"),
        ({"length": 0}, "at least 1 token"),
    ],
)
def test_impossible_places(options: dict[str, Any], message: str) -> None:
    with pytest.raises(OptionError, match=message):
        Speedup(2.0, **options)


@pytest.mark.parametrize("factor", [1.0, 0.5, -2.0, float("inf"), float("nan")])
def test_impossible_speedups(factor: float) -> None:
    with pytest.raises(OptionError, match="speedup"):
        Speedup(factor)
