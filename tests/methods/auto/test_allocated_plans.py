"""Plans with fewer units and low ranks: what is valid, and what applying one computes."""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import AutoModelForSequenceClassification, PreTrainedModel

from auto_cases import Batches, Factory, LogitsOf, calibrate_tiny, plan_of
from bertsurgeon import AutoConfig, Sparsity, prune, to_dense
from bertsurgeon.architectures import Encoder
from bertsurgeon.benchmark import count_flops
from bertsurgeon.calibration import Moments, collect_statistics
from bertsurgeon.compensation import apply_plan, compensate
from bertsurgeon.errors import PlanError
from bertsurgeon.plan import (
    ROLES,
    Dense,
    Dropped,
    LayerPlan,
    LowRank,
    ModelPlan,
    Role,
    Structure,
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
    config = AutoConfig(Sparsity(0.6), damping=1e-2, target=target)  # type: ignore[arg-type]
    pruned, report = prune(model, config, tiny_batches)
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
    _, report = prune(tiny_model("bert"), AutoConfig(Sparsity(0.985), damping=1e-2), tiny_batches)
    dropped = [isinstance(matrix.structure, Dropped) for _, _, matrix in report.plan]
    assert any(dropped)
    assert not all(dropped)


def embedded(model: PreTrainedModel, batches: Batches) -> Tensor:
    """What the first layer reads, without padding."""
    with torch.no_grad():
        return torch.cat(
            [model.bert.embeddings(batch["input_ids"])[batch["attention_mask"].bool()] for batch in batches]
        )


def first_layer_plan(
    model: PreTrainedModel, structures: dict[Role, Structure], units: dict[SubLayerName, Units] | None = None
) -> ModelPlan:
    """Changes some matrices of the first layer, and nothing else."""
    shapes = Encoder(model).shapes
    dense: dict[Role, Structure] = dict.fromkeys(ROLES, Dense())
    first = LayerPlan.build(shapes[0], {**dense, **structures}, units)
    return ModelPlan("bert", (first, *(LayerPlan.build(shape, dense) for shape in shapes[1:])))


def low_rank_product(model: PreTrainedModel, role: Role) -> Tensor:
    matrix = Encoder(model).matrix(0, role)
    return (matrix.get_parameter("up") @ matrix.get_parameter("weight")).detach()


@pytest.mark.parametrize("diagonal", [False, True])
def test_the_curvature_weighs_errors_of_low_ranks(diagonal: bool, tiny_model: Factory, tiny_batches: Batches) -> None:
    """Value of the first layer, two of its four heads kept: the rows of the metric are those of the kept heads."""
    model, rank = tiny_model("bert"), 3
    generator = torch.Generator().manual_seed(0)
    factor = torch.randn(48, 48, generator=generator, dtype=torch.float64)
    metric = factor.square().sum(0) if diagonal else factor @ factor.T
    units = Units(((0, 2),), 4, 12)
    plan = first_layer_plan(model, {"value": LowRank(rank)}, {"attention": units})
    rows = torch.tensor([*range(12), *range(24, 36)])
    moments = Moments(48, paired=False)
    moments.update(embedded(model, tiny_batches))
    matrix = Encoder(model).matrix(0, "value")
    weight, bias = (matrix.get_parameter(name).detach()[rows] for name in ("weight", "bias"))
    part = metric[rows] if diagonal else metric[rows][:, rows]
    weighed, plain = (compensate(weight, bias, LowRank(rank), moments, 1e-3, m)[0] for m in (part, None))
    assert not torch.allclose(weighed, plain, atol=1e-2)
    for curvature, expected in (({(0, "value"): metric}, weighed), (None, plain)):
        pruned = run(model, tiny_batches, plan, curvature=curvature)
        torch.testing.assert_close(low_rank_product(pruned, "value"), expected, rtol=1e-3, atol=1e-4)


def test_token_weights_weigh_the_regression(tiny_model: Factory, tiny_batches: Batches) -> None:
    """The last matrix of the first layer on half of its neurons, against weighted least squares."""
    model = tiny_model("bert")
    kept = tuple(range(0, 96, 2))
    plan = first_layer_plan(model, {}, {"feed_forward": Units((kept,), 96, 1)})
    inputs: list[Tensor] = []
    outputs: list[Tensor] = []
    module = model.bert.encoder.layer[0].output.dense

    def keep(_: Any, arguments: tuple[Tensor, ...], output: Tensor) -> None:
        inputs.append(arguments[0])
        outputs.append(output)

    handle = module.register_forward_hook(keep)
    masks = [batch["attention_mask"].bool() for batch in tiny_batches]
    with torch.no_grad():
        for batch in tiny_batches:
            model(**batch)
    handle.remove()
    x = torch.cat([value[mask] for value, mask in zip(inputs, masks, strict=True)]).double()[:, list(kept)]
    y = torch.cat([value[mask] for value, mask in zip(outputs, masks, strict=True)]).double()
    generator = torch.Generator().manual_seed(0)
    weights = [torch.rand(int(mask.sum()), generator=generator) ** 4 + 1e-3 for mask in masks]
    root = torch.cat(weights).double().sqrt().unsqueeze(1)
    design = root * torch.cat([x, torch.ones(len(x), 1, dtype=torch.float64)], 1)
    best = (root * y - design @ torch.linalg.lstsq(design, root * y).solution).square().sum()
    errors = []
    for token_weights in ({(0, "output"): weights}, {}):
        pruned = run(model, tiny_batches, plan, damping=1e-9, token_weights=token_weights)
        fitted = pruned.bert.encoder.layer[0].output.dense
        residual = y - x @ fitted.weight.detach().double().T - fitted.bias.detach().double()
        errors.append(float((root * residual).square().sum()))
    assert errors[0] <= float(best) * (1 + 1e-3) + 1e-6
    assert errors[1] > 1.05 * float(best)


def test_token_weights_weigh_the_mean_of_a_dropped_sub_layer(tiny_model: Factory, tiny_batches: Batches) -> None:
    model = tiny_model("bert")
    plan = first_layer_plan(model, dict.fromkeys(("intermediate", "output"), Dropped()))
    generator = torch.Generator().manual_seed(0)
    lengths = [int(batch["attention_mask"].sum()) for batch in tiny_batches]
    weights = [torch.rand(length, generator=generator) ** 4 for length in lengths]
    plain, weighed = (
        run(model, tiny_batches, plan, token_weights=token_weights).state_dict()
        for token_weights in ({}, {(0, "output"): weights})
    )
    assert any(not torch.allclose(value, weighed[key], atol=1e-4) for key, value in plain.items())


@pytest.mark.parametrize("part", ["token_weights", "curvature"])
def test_auto_hands_its_calibration_to_the_compensation(part: str, tiny_model: Factory) -> None:
    """Other token weights or another curvature, with the same curves: the same plan, and other weights."""
    model = tiny_model("bert")
    config = AutoConfig(Sparsity(0.6), damping=1e-2)
    calibration = calibrate_tiny(model)
    pruned, report = prune(model, config, calibration)
    assert any(isinstance(matrix.structure, LowRank) for _, _, matrix in report.plan)
    generator = torch.Generator().manual_seed(0)
    if part == "token_weights":
        assert calibration.token_weights
        for weights in calibration.token_weights.values():
            weights[:] = [torch.rand(weight.shape, generator=generator) ** 4 + 1e-3 for weight in weights]
    else:
        for key, metric in calibration.curvature.items():
            values = torch.rand(len(metric), generator=generator, dtype=torch.float64) ** 4
            calibration.curvature[key] = values if metric.dim() == 1 else values.diag()
    other, other_report = prune(model, config, calibration)
    assert other_report.plan == report.plan
    states = pruned.state_dict(), other.state_dict()
    assert any(not torch.allclose(value, states[1][key], atol=1e-3) for key, value in states[0].items())


def test_a_dropped_sub_layer_leaves_its_mean(tiny_model: Factory, tiny_batches: Batches) -> None:
    """Of the first layer, whose inputs are those of the dense model: both ways of compensation agree."""
    model = tiny_model("bert")
    plan = first_layer_plan(model, dict.fromkeys(("intermediate", "output"), Dropped()))
    moments = collect_statistics(model, tiny_batches, gradients=False, moments=True).moments
    weight, bias = (Encoder(model).matrix(0, "output").get_parameter(name).detach() for name in ("weight", "bias"))
    constant = weight.double() @ moments[0, "output"].mean + bias
    without = copy.deepcopy(model)
    with torch.no_grad():
        without.bert.encoder.layer[0].output.dense.weight.zero_()
        without.bert.encoder.layer[0].output.dense.bias.copy_(constant)
    pruned = run(model, [], plan, compensation="independent", moments=moments)
    plain = run(model, [], plan, compensation="none")
    for batch in tiny_batches:
        with torch.no_grad():
            expected, logits, others = (one(**batch).logits for one in (without, pruned, plain))
        torch.testing.assert_close(logits, expected, rtol=1e-4, atol=1e-5)
        assert not torch.allclose(others, expected, atol=1e-3)
