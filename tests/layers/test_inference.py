"""Models prepared for inference can still be copied, pickled, saved, made dense and restored."""

import pickle
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from transformers import AutoModelForSequenceClassification, PreTrainedModel

from bertsurgeon import GroupedLinear, load_model, prepare_for_inference, to_dense, undo_prepare_for_inference
from bertsurgeon.architectures import Encoder
from bertsurgeon.checkpoint import attach_plan
from bertsurgeon.compensation import apply_plan
from bertsurgeon.plan import Grouped, LayerPlan, ModelPlan

Factory = Callable[..., PreTrainedModel]
LogitsOf = Callable[[PreTrainedModel, dict[str, Tensor]], Tensor]

EVEN, ODD = tuple(range(0, 48, 2)), tuple(range(1, 48, 2))
HALVES = tuple(range(24)), tuple(range(24, 48))
WIDE = tuple(range(48)), tuple(range(48, 96))


@pytest.fixture(params=["bert", "roberta", "distilbert"])
def pruned(request: pytest.FixtureRequest, tiny_model: Factory) -> PreTrainedModel:
    """A model with aligned groups: query, key and value read the same permuted input."""
    name: str = request.param
    model = tiny_model(name)
    reads = dict.fromkeys(("query", "key", "value"), Grouped(HALVES, (EVEN, ODD)))
    structures = {
        **reads,
        "attention_output": Grouped((EVEN, ODD), HALVES),
        "intermediate": Grouped(WIDE, (EVEN, ODD)),
        "output": Grouped((EVEN, ODD), WIDE),
    }
    plan = ModelPlan(name, tuple(LayerPlan.build(shape, structures) for shape in Encoder(model).shapes))  # type: ignore[arg-type]
    model = apply_plan(model, plan, "none")
    attach_plan(model, plan)
    return model


@pytest.fixture
def expected(pruned: PreTrainedModel, tiny_batches: list[dict[str, Tensor]], logits_of: LogitsOf) -> Tensor:
    """The logits before the model is prepared."""
    return logits_of(pruned, tiny_batches[0])


def hooks(model: nn.Module) -> int:
    return sum(len(module._forward_pre_hooks) for module in model.modules())


def test_saved_models_load_unprepared(
    pruned: PreTrainedModel,
    expected: Tensor,
    tiny_batches: list[dict[str, Tensor]],
    logits_of: LogitsOf,
    tmp_path: Path,
) -> None:
    prepare_for_inference(pruned).save_pretrained(tmp_path / "saved")
    loaded = AutoModelForSequenceClassification.from_pretrained(tmp_path / "saved").eval()
    assert hooks(loaded) == 0
    assert torch.allclose(logits_of(loaded, tiny_batches[0]), expected, atol=1e-5)
    assert torch.equal(
        logits_of(load_model(tmp_path / "saved").eval(), tiny_batches[0]), logits_of(loaded, tiny_batches[0])
    )


def test_dense_twins_have_stock_activations(
    pruned: PreTrainedModel, expected: Tensor, tiny_batches: list[dict[str, Tensor]], logits_of: LogitsOf
) -> None:
    twin = to_dense(prepare_for_inference(pruned))
    assert hooks(twin) == 0
    assert not any(type(module).__module__.startswith("bertsurgeon") for module in twin.modules())
    assert torch.allclose(logits_of(twin, tiny_batches[0]), expected, atol=1e-5)


@pytest.mark.parametrize("copy", [deepcopy, lambda model: pickle.loads(pickle.dumps(model))])
def test_copies_stay_prepared(
    copy: Callable[[PreTrainedModel], PreTrainedModel],
    pruned: PreTrainedModel,
    expected: Tensor,
    tiny_batches: list[dict[str, Tensor]],
    logits_of: LogitsOf,
) -> None:
    prepared = prepare_for_inference(pruned)
    copied = copy(prepared)
    assert hooks(copied) == hooks(prepared) == len(Encoder(prepared).layers)
    assert torch.allclose(logits_of(copied, tiny_batches[0]), expected, atol=1e-5)
    undo_prepare_for_inference(copied)
    assert hooks(prepared) == len(Encoder(prepared).layers)
    assert torch.allclose(logits_of(prepared, tiny_batches[0]), expected, atol=1e-5)


def test_preparation_can_be_undone(
    pruned: PreTrainedModel, expected: Tensor, tiny_batches: list[dict[str, Tensor]], logits_of: LogitsOf
) -> None:
    before = {name: type(module) for name, module in pruned.named_modules()}
    gathers = [module.gathers for module in pruned.modules() if isinstance(module, GroupedLinear)]
    restored = undo_prepare_for_inference(prepare_for_inference(prepare_for_inference(pruned)))
    assert {name: type(module) for name, module in restored.named_modules()} == before
    grouped = [module for module in restored.modules() if isinstance(module, GroupedLinear)]
    assert [module.gathers for module in grouped] == gathers
    assert {module.activation for module in grouped} == {"none"}
    assert hooks(restored) == 0
    assert torch.equal(logits_of(restored, tiny_batches[0]), expected)


def test_dense_models_are_restored(tiny_model: Factory) -> None:
    model = tiny_model("bert")
    before = {name: type(module) for name, module in model.named_modules()}
    prepared = prepare_for_inference(model)
    assert {name: type(module) for name, module in prepared.named_modules()} != before
    assert {name: type(module) for name, module in undo_prepare_for_inference(prepared).named_modules()} == before


def test_preparation_changes_neither_outputs_nor_parameters(
    pruned: PreTrainedModel, tiny_batches: list[dict[str, Tensor]], logits_of: LogitsOf
) -> None:
    state = {key: value.clone() for key, value in pruned.state_dict().items()}
    before = logits_of(pruned, tiny_batches[0])
    prepared = prepare_for_inference(deepcopy(pruned))
    assert torch.allclose(logits_of(prepared, tiny_batches[0]), before, atol=1e-5)
    assert all(torch.equal(value, state[key]) for key, value in prepared.state_dict().items())
    grouped = [module for module in prepared.modules() if isinstance(module, GroupedLinear)]
    layers = len(Encoder(pruned).layers)
    assert sum(module.activation == "gelu" for module in grouped) == layers
    assert sum(module.gathers for module in grouped) == layers  # the intermediate matrices


@pytest.mark.parametrize("name", ["bert", "roberta", "distilbert"])
def test_a_prepared_model_can_still_be_trained(
    name: str, tiny_model: Factory, tiny_batches: list[dict[str, Tensor]], logits_of: LogitsOf
) -> None:
    model = tiny_model(name)
    prepared = prepare_for_inference(deepcopy(model))
    with torch.inference_mode():  # some activations overwrite their inputs now
        assert torch.equal(logits_of(prepared, tiny_batches[0]), logits_of(model, tiny_batches[0]))
    for trained in (model, prepared):
        trained(**tiny_batches[0]).logits.sum().backward()
    for (key, expected), actual in zip(model.named_parameters(), prepared.parameters(), strict=True):
        assert expected.grad is None or torch.equal(actual.grad, expected.grad), key  # type: ignore[arg-type]
