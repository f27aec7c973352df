"""Moments and token weights of matrices that read the same input."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, PreTrainedModel

from architecture_cases import make_batches, make_model
from bertsurgeon.architectures import Encoder
from bertsurgeon.calibration import collect_statistics, input_role
from bertsurgeon.compensation import apply_plan, compensate
from bertsurgeon.plan import ALL_ROLES, Dense, LayerPlan, LowRank, ModelPlan, Role, Structure

Batches = list[dict[str, Tensor]]
Factory = Callable[..., PreTrainedModel]


def test_matrices_with_the_same_input_share_moments_and_token_weights(
    tiny_model: Factory, tiny_batches: Batches
) -> None:
    model = tiny_model("bert")
    statistics = collect_statistics(
        model, tiny_batches, gradients=False, curvature=True, moments=True, token_weighting=0.5
    )
    owners = {(layer, role) for layer in range(3) for role in Encoder(model).roles if role == input_role(role)}
    assert {role for _, role in owners} == {"query", "attention_output", "intermediate", "output"}
    assert set(statistics.token_weights) == owners
    for (layer, role), moments in statistics.moments.items():
        assert moments is statistics.moments[layer, input_role(role)]
        weights = torch.cat(statistics.token_weights[layer, input_role(role)])
        assert moments.count == pytest.approx(float(weights.sum()))
        assert float(weights.std()) > 0.1


@pytest.mark.parametrize(("name", "role"), [("bert", "query"), ("bert", "key"), ("bert", "value"), ("llama", "gate")])
def test_matrices_are_compensated_with_the_weights_they_are_measured_with(name: str, role: Role) -> None:
    """The first pruned matrix reads the same in both models: its fit is that on the moments of the statistics."""
    family = AutoModelForCausalLM if name == "llama" else AutoModelForSequenceClassification
    model, batches = make_model(family, name), make_batches(name)
    statistics = collect_statistics(model, batches, gradients=False, curvature=True, moments=True, token_weighting=0.9)
    shapes = Encoder(model).shapes
    structures: dict[Role, Structure] = dict.fromkeys(shapes[0], Dense())
    layers = LayerPlan.build(shapes[0], structures | {role: LowRank(3)}), LayerPlan.build(shapes[1], structures)
    plan = ModelPlan(name, layers)
    pruned = apply_plan(model, plan, "sequential", batches=batches, token_weights=statistics.token_weights)
    matrix = Encoder(model).linear(0, role)
    bias = torch.zeros(len(matrix.weight)) if matrix.bias is None else matrix.bias
    weight, bias = compensate(matrix.weight, bias, LowRank(3), statistics.moments[0, role], 1e-3)
    compensated = Encoder(pruned).matrix(0, role)
    torch.testing.assert_close(compensated.dense_weight(), weight.detach(), rtol=1e-3, atol=1e-4)  # type: ignore[operator]
    torch.testing.assert_close(compensated.get_parameter("bias"), bias, rtol=1e-3, atol=1e-4)  # type: ignore[arg-type]


def test_a_temperature_lets_more_texts_count(tiny_model: Factory, tiny_batches: Batches) -> None:
    """A text whose class the model is sure of has hardly any sensitivity at 1, and much of that of others at 8."""
    model = tiny_model("bert", num_labels=2)
    with torch.no_grad():
        model.classifier.weight.mul_(30)
    unlabeled = [{name: value for name, value in batch.items() if name != "labels"} for batch in tiny_batches]
    shares = {}
    for temperature in (1.0, 8.0):
        traces = [
            float(
                collect_statistics(model, [batch], gradients=False, curvature=True, temperature=temperature)
                .curvature[2, "output"]
                .trace()
            )
            for batch in unlabeled
        ]
        shares[temperature] = max(traces) / sum(traces)
    assert shares[8.0] < shares[1.0]


def test_every_role_has_an_input_of_its_own_or_shares_one_of_these() -> None:
    assert {input_role(input_role(role)) for role in ALL_ROLES} == {input_role(role) for role in ALL_ROLES}
