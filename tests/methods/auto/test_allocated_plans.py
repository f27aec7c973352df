"""Plans with fewer units and low ranks: what is valid, and what applying one computes."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import AutoModelForSequenceClassification, PreTrainedModel

from auto_cases import Batches, Factory, LogitsOf, plan_of
from bertsurgeon import PruneConfig, prune, to_dense
from bertsurgeon.architectures import Encoder
from bertsurgeon.benchmark import count_flops
from bertsurgeon.compensation import apply_plan
from bertsurgeon.errors import PlanError
from bertsurgeon.plan import (
    ROLES,
    Dense,
    Dropped,
    LayerPlan,
    LowRank,
    ModelPlan,
    SubLayerName,
    Units,
    dense_plan,
)

NAMES = ["bert", "distilbert", "roberta"]


def run(model: PreTrainedModel, batches: Batches, plan: ModelPlan, **options: Any) -> PreTrainedModel:
    return apply_plan(model, plan, options.pop("compensation", "sequential"), batches=batches, **options)


@pytest.mark.parametrize(
    "arguments",
    [((), 4, 8), (((),), 4, 8), (((0, 1), (1,)), 4, 8), (((0, 4),), 4, 8), (((-1,),), 4, 8), (((0,),), 4, 0)],
    ids=str,
)
def test_units_that_make_no_sense(arguments: tuple[Any, ...]) -> None:
    with pytest.raises(PlanError):
        Units(*arguments)


def test_units_and_matrices_must_agree(tiny_model: Factory) -> None:
    layer = plan_of(tiny_model("bert"), {"attention": Units(((0, 2),), 4, 12)}, {"value": 3}).layers[0]
    assert layer.matrices["value"].stored_shape == (24, 48)
    assert layer.matrices["attention_output"].stored_shape == (48, 24)
    assert layer.matrices["value"].kept == 3 * (24 + 48)
    assert layer.channels("attention_output") == (None, (*range(12), *range(24, 36)))
    with pytest.raises(PlanError):
        LayerPlan(layer.matrices, {"attention": Units(((0, 1, 2),), 4, 12)})
    with pytest.raises(PlanError):
        LayerPlan(layer.matrices, {"attention": Units(((0, 2),), 5, 12)})


def test_plans_with_units_round_trip(tiny_model: Factory, tmp_path: Path) -> None:
    units: dict[SubLayerName, Units] = {
        "attention": Units(((0, 2),), 4, 12),
        "feed_forward": Units(((5, 7), (0, 1, 2)), 96, 1),
    }
    plan = plan_of(tiny_model("bert"), units, {"query": 2})
    plan.save(tmp_path / "plan.json")
    assert ModelPlan.load(tmp_path / "plan.json") == plan


def test_heads_of_another_width_are_refused(tiny_model: Factory, tiny_batches: Batches) -> None:
    model = tiny_model("bert")
    plan = plan_of(model, {"attention": Units(((0, 2),), 8, 6)}, {})
    with pytest.raises(PlanError, match="channels wide"):
        prune_with(model, plan, tiny_batches)


def prune_with(model: PreTrainedModel, plan: ModelPlan, batches: Batches) -> PreTrainedModel:
    from bertsurgeon.layers import install_plan

    install_plan(model, plan)
    return model


@pytest.mark.parametrize("mode", ["sequential", "none"])
@pytest.mark.parametrize("name", NAMES)
def test_everything_kept_is_the_dense_model(
    name: str, mode: str, tiny_model: Factory, tiny_batches: Batches, logits_of: LogitsOf
) -> None:
    model = tiny_model(name)
    pruned = run(model, tiny_batches, dense_plan(name, Encoder(model).shapes), compensation=mode)
    for batch in tiny_batches:
        assert torch.equal(logits_of(pruned, batch), logits_of(model, batch))


@pytest.mark.parametrize("name", NAMES)
def test_reordered_units_compute_the_same(
    name: str, tiny_model: Factory, tiny_batches: Batches, logits_of: LogitsOf
) -> None:
    model = tiny_model(name)
    everything: dict[SubLayerName, Units] = {
        "attention": Units(((1, 3), (0, 2)), 4, 12),
        "feed_forward": Units((tuple(range(50, 96)), tuple(range(50))), 96, 1),
    }
    pruned = run(model, tiny_batches, plan_of(model, everything, {}), compensation="none")
    for batch in tiny_batches:
        torch.testing.assert_close(logits_of(pruned, batch), logits_of(model, batch), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("target", ["dense", "residual"])
@pytest.mark.parametrize("name", NAMES)
def test_the_dense_twin_and_a_round_trip(
    name: str, target: str, tiny_model: Factory, tiny_batches: Batches, logits_of: LogitsOf, tmp_path: Path
) -> None:
    model = tiny_model(name)
    config = PruneConfig(sparsity=0.6, damping=1e-2, target=target)  # type: ignore[arg-type]
    pruned, report = prune(model, tiny_batches, config)
    assert any(layer.units for layer in report.plan.layers)
    assert any(isinstance(matrix.structure, LowRank) for _, _, matrix in report.plan)
    twin = to_dense(pruned)
    pruned.save_pretrained(tmp_path / "pruned")
    loaded = AutoModelForSequenceClassification.from_pretrained(tmp_path / "pruned").eval()
    assert (tmp_path / "pruned" / "model.safetensors").stat().st_size < 4 * model.num_parameters()
    for batch in tiny_batches:
        logits = logits_of(pruned, batch)
        torch.testing.assert_close(logits, logits_of(twin, batch), rtol=1e-4, atol=1e-4)
        assert torch.equal(logits, logits_of(loaded, batch))


def test_removed_channels_cost_nothing(tiny_model: Factory, tiny_batches: Batches) -> None:
    model = tiny_model("bert")
    half: dict[SubLayerName, Units] = {
        "attention": Units(((0, 2),), 4, 12),
        "feed_forward": Units((tuple(range(48)),), 96, 1),
    }
    plan = plan_of(model, half, {})
    pruned = run(model, tiny_batches, plan, damping=1e-2)
    assert plan.kept * 2 == plan.size
    head = 2 * 1 * 48 * 48 + 2 * 48 * model.config.num_labels  # pooler and classifier
    assert 2 * (count_flops(pruned, 1, 32) - head) == count_flops(model, 1, 32) - head


def test_removal_is_least_squares_on_its_own_support(tiny_model: Factory, tiny_batches: Batches) -> None:
    """The last matrix of the first layer, fitted on the remaining neurons' activations, against lstsq."""
    model = tiny_model("bert")
    shapes = Encoder(model).shapes
    kept = tuple(range(0, 96, 2))
    layers = [LayerPlan.build(shape, dict.fromkeys(ROLES, Dense())) for shape in shapes]
    layers[0] = LayerPlan.build(shapes[0], dict.fromkeys(ROLES, Dense()), {"feed_forward": Units((kept,), 96, 1)})
    pruned = run(model, tiny_batches, ModelPlan("bert", tuple(layers)), damping=1e-9)
    inputs, outputs = [], []

    def keep(_: Any, arguments: tuple[Tensor, ...], output: Tensor) -> None:
        inputs.append(arguments[0].detach()[mask].double())
        outputs.append(output.detach()[mask].double())

    handle = model.base_model.encoder.layer[0].output.dense.register_forward_hook(keep)
    for batch in tiny_batches:
        mask = batch["attention_mask"].bool()
        with torch.no_grad():
            model(**batch)
    handle.remove()
    x, y = torch.cat(inputs)[:, list(kept)], torch.cat(outputs)
    design = torch.cat([x, torch.ones(len(x), 1, dtype=torch.float64)], 1)
    solution = torch.linalg.lstsq(design, y).solution
    layer = pruned.base_model.encoder.layer[0].output.dense
    fitted = x @ layer.weight.detach().double().T + layer.bias.detach().double()
    best = (y - design @ solution).square().sum()
    assert float((y - fitted).square().sum()) <= float(best) * (1 + 1e-3) + 1e-8


def test_whole_sub_layers_may_go(tiny_model: Factory, tiny_batches: Batches) -> None:
    _, report = prune(tiny_model("bert"), tiny_batches, PruneConfig(sparsity=0.985, damping=1e-2))
    dropped = [isinstance(matrix.structure, Dropped) for _, _, matrix in report.plan]
    assert any(dropped)
    assert not all(dropped)
