from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import PreTrainedModel

from bertsurgeon.architectures import Encoder
from bertsurgeon.calibration import MatrixKey, Statistics, collect_statistics
from bertsurgeon.calibration.gradients import fisher_surrogate
from bertsurgeon.errors import ModelError
from bertsurgeon.methods.pgb.importance import fisher_scores, obs_scores, score_matrices
from bertsurgeon.plan import ROLES

NAMES = ["bert", "distilbert", "roberta"]
Batches = list[dict[str, Tensor]]
Factory = Callable[..., PreTrainedModel]


def weights(model: PreTrainedModel) -> dict[MatrixKey, Tensor]:
    return {
        (layer, role): Encoder(model).matrix(layer, role).get_parameter("weight")
        for layer in range(len(Encoder(model).layers))
        for role in ROLES
    }


def sample_gradients(model: PreTrainedModel, batches: Batches) -> dict[MatrixKey, Tensor]:
    """The gradient of each sample's loss, one sample at a time, shape (samples, out, in)."""
    parameters = weights(model)
    gradients = []
    for batch in batches:
        for index in range(len(batch["input_ids"])):
            loss = model(**{name: value[index : index + 1] for name, value in batch.items()}).loss
            gradients.append(torch.autograd.grad(loss, list(parameters.values())))
    return {
        key: torch.stack(values).double() for key, values in zip(parameters, zip(*gradients, strict=True), strict=True)
    }


def assert_near(value: Tensor, reference: Tensor, tolerance: float) -> None:
    assert value.shape == reference.shape
    assert float((value.double() - reference).abs().max() / reference.abs().max()) < tolerance


@pytest.mark.parametrize("name", NAMES)
def test_squared_gradients_are_per_sample(name: str, tiny_model: Factory, tiny_batches: Batches) -> None:
    model = tiny_model(name)
    statistics = collect_statistics(model, tiny_batches)
    reference = sample_gradients(model, tiny_batches)
    assert set(statistics.squared_gradients) == set(reference)
    for key, gradients in reference.items():
        assert_near(statistics.squared_gradients[key], gradients.square().mean(0), 1e-5)
    assert statistics.samples == sum(len(batch["input_ids"]) for batch in tiny_batches)
    assert statistics.tokens == sum(int(batch["attention_mask"].sum()) for batch in tiny_batches)


def test_squared_gradients_of_a_regression(tiny_model: Factory, tiny_batches: Batches) -> None:
    model = tiny_model("bert", num_labels=1)
    batches = [{**batch, "labels": batch["labels"].float()} for batch in tiny_batches]
    statistics = collect_statistics(model, batches)
    for key, gradients in sample_gradients(model, batches).items():
        assert_near(statistics.squared_gradients[key], gradients.square().mean(0), 1e-5)


def test_squared_gradients_do_not_depend_on_the_batches(tiny_model: Factory, tiny_batches: Batches) -> None:
    model = tiny_model("distilbert")
    halves = [
        {name: value[half] for name, value in batch.items()}
        for batch in tiny_batches
        for half in (slice(2), slice(2, None))
    ]
    whole = collect_statistics(model, tiny_batches).squared_gradients
    split = collect_statistics(model, halves).squared_gradients
    for key, value in whole.items():
        assert_near(split[key], value.double(), 1e-5)


@pytest.mark.parametrize("block", [16, 20, 48, 64], ids=lambda block: f"block{block}")
def test_fisher_blocks_and_obs_scores(block: int, tiny_model: Factory, tiny_batches: Batches) -> None:
    model = tiny_model("bert", num_hidden_layers=1)
    damping = 1e-2
    statistics = collect_statistics(model, tiny_batches, block_size=block)
    scores = score_matrices(model, statistics, "obs", damping)
    assert not statistics.squared_gradients
    for key, gradients in sample_gradients(model, tiny_batches).items():
        weight = weights(model)[key].detach().double()
        rows, columns = weight.shape
        shift = damping * gradients.square().mean()
        expected = torch.empty_like(weight)
        found = statistics.block_fisher[key].reshape(rows, -1, block, block)
        for start in range(0, columns, block):
            g = gradients[:, :, start : start + block]
            fisher = torch.einsum("sri,srj->rij", g, g) / len(g)
            width = g.shape[-1]
            assert_near(found[:, start // block, :width, :width], fisher, 1e-5)
            assert not found[:, start // block, width:].any()
            inverse = torch.linalg.inv(fisher + shift * torch.eye(width, dtype=torch.float64))
            w = weight[:, start : start + block]
            expected[:, start : start + block] = w.square() / (2 * inverse.diagonal(dim1=1, dim2=2))
        torch.testing.assert_close(scores[key].double(), expected, rtol=1e-3, atol=1e-5 * float(expected.max()))


def test_obs_on_a_diagonal_fisher_is_fisher() -> None:
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(3, 8, generator=generator)
    diagonal = torch.rand(3, 8, generator=generator) + 0.5
    obs = obs_scores(weight, torch.diag_embed(diagonal.reshape(6, 4)), damping=1e-9)
    torch.testing.assert_close(obs, fisher_scores(weight, diagonal))


def test_obs_survives_gradients_of_zero() -> None:
    scores = obs_scores(torch.ones(2, 6), torch.zeros(4, 4, 4), damping=1e-2)
    assert scores.shape == (2, 6)
    assert torch.isfinite(scores).all()


def test_fisher_and_magnitude(tiny_model: Factory, tiny_batches: Batches) -> None:
    model = tiny_model("roberta")
    statistics = collect_statistics(model, tiny_batches)
    fisher = score_matrices(model, statistics, "fisher", 1e-2)
    magnitude = score_matrices(model, Statistics(), "magnitude", 1e-2)
    for key, weight in weights(model).items():
        assert torch.equal(magnitude[key], weight.detach() ** 2)
        torch.testing.assert_close(fisher[key], weight.detach() ** 2 * statistics.squared_gradients[key] / 2)
        assert not fisher[key].requires_grad


@pytest.mark.parametrize("labels", [1, 2, 3])
def test_without_labels(labels: int, tiny_model: Factory, tiny_batches: Batches) -> None:
    model = tiny_model("bert", num_labels=labels)
    batches = [{name: value for name, value in batch.items() if name != "labels"} for batch in tiny_batches]
    results = []
    for seed, noise in ((5, 0), (5, 1), (6, 0)):
        torch.manual_seed(noise)  # must not matter
        results.append(collect_statistics(model, batches, seed=seed).squared_gradients)
    first, same, other = results
    for key, value in first.items():
        assert torch.isfinite(value).all()
        assert value.max() > 0
        assert torch.equal(value, same[key])
    if labels == 1:  # only a sign is drawn
        assert all(torch.allclose(value, other[key]) for key, value in first.items())
    else:
        assert any(not torch.equal(value, other[key]) for key, value in first.items())


def test_the_surrogate_has_the_fisher_information_of_the_predictions() -> None:
    row = torch.tensor([2.0, 0.0, -1.0])
    logits = row.repeat(40_000, 1).requires_grad_()
    fisher_surrogate(logits, torch.Generator().manual_seed(0)).backward()
    assert logits.grad is not None
    p = row.softmax(0)
    torch.testing.assert_close(logits.grad.T @ logits.grad / len(logits), p.diag() - p.outer(p), rtol=0, atol=5e-3)


@pytest.mark.parametrize("arguments", [{}, {"block_size": 16}, {"gradients": False, "moments": True}], ids=str)
def test_the_model_stays_as_it_is(arguments: dict[str, Any], tiny_model: Factory, tiny_batches: Batches) -> None:
    model = tiny_model("bert")
    for index, parameter in enumerate(model.parameters()):
        parameter.requires_grad_(index % 3 != 0)
    model.bert.embeddings.LayerNorm.requires_grad_(False)
    kept = torch.full_like(model.classifier.weight, 0.5)
    model.classifier.weight.grad = kept.clone()
    before = {name: (value.clone(), value.requires_grad) for name, value in model.named_parameters()}
    collect_statistics(model, tiny_batches, **arguments)
    for name, parameter in model.named_parameters():
        value, wanted = before[name]
        assert torch.equal(parameter, value)
        assert parameter.requires_grad == wanted
        assert parameter.grad is None or torch.equal(parameter.grad, kept)
    assert model.classifier.weight.grad is not None
    hooks = [h for m in model.modules() for h in (*m._forward_hooks, *m._forward_pre_hooks)]
    assert not hooks


def test_a_loss_that_is_not_finite(tiny_model: Factory, tiny_batches: Batches) -> None:
    model = tiny_model("bert")
    with torch.no_grad():
        model.classifier.weight.fill_(3e38)
    wanted = [parameter.requires_grad for parameter in model.parameters()]
    with pytest.raises(ModelError, match="not finite"):
        collect_statistics(model, tiny_batches)
    assert [parameter.requires_grad for parameter in model.parameters()] == wanted


def test_scores_by_hand() -> None:
    weight, squares = torch.tensor([[2.0, -3.0]]), torch.tensor([[0.5, 4.0]])
    assert fisher_scores(weight, squares).tolist() == [[1.0, 18.0]]
