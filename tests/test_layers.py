import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from copy import deepcopy
from typing import get_args

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import BertForSequenceClassification, PreTrainedModel

from bertsurgeon import (
    GroupedLinear,
    Groups,
    PgbConfig,
    Sparsity,
    Threshold,
    get_plan,
    prepare_for_inference,
    prune,
    to_dense,
)
from bertsurgeon.architectures import Encoder
from bertsurgeon.calibration import collect_statistics
from bertsurgeon.checkpoint import attach_plan
from bertsurgeon.compensation import Compensation, apply_plan
from bertsurgeon.errors import ModelError, PlanError
from bertsurgeon.layers import DroppedLinear, check_plan, install_plan, make_linear
from bertsurgeon.plan import (
    ROLES,
    SUB_LAYERS,
    Dense,
    Dropped,
    Grouped,
    LayerPlan,
    LowRank,
    MatrixPlan,
    ModelPlan,
    Role,
    Structure,
    SubLayerName,
    dense_plan,
)

NAMES = ["bert", "distilbert", "roberta"]
MODES: tuple[Compensation, ...] = get_args(Compensation)
Batches = list[dict[str, Tensor]]
Factory = Callable[..., PreTrainedModel]
LogitsOf = Callable[[PreTrainedModel, dict[str, Tensor]], Tensor]

OUTPUTS, INPUTS = 8, 6
STRUCTURES = {
    "even": Grouped(((0, 1, 2, 3), (4, 5, 6, 7)), ((0, 1, 2), (3, 4, 5))),
    "permuted": Grouped(((0, 2, 5, 7), (1, 3, 4, 6)), ((1, 2, 5), (0, 3, 4))),
    "rows permuted": Grouped(((0, 2, 5, 7), (1, 3, 4, 6)), ((0, 1, 2), (3, 4, 5))),
    "uneven": Grouped(((0, 3, 7), (1, 4, 6), (2, 5)), ((5,), (0, 2, 4), (1, 3))),
    "removed": Grouped(((1, 4), (0, 7)), ((2, 3, 5), (0,))),
    "rows removed": Grouped(((6,), (2, 3)), ((0, 1, 2), (3, 4, 5))),
    "units removed": Grouped(((0, 3, 4, 5, 7),), ((1, 2),)),
    "one group": Grouped((tuple(range(OUTPUTS)),), (tuple(range(INPUTS)),)),
}


def mask_of(structure: Grouped, shape: tuple[int, int]) -> Tensor:
    mask = torch.zeros(shape, dtype=torch.bool)
    for rows, columns in zip(structure.row_groups, structure.column_groups, strict=True):
        mask[torch.tensor(rows).unsqueeze(1), torch.tensor(columns)] = True
    return mask


@pytest.mark.parametrize("name", STRUCTURES)
@pytest.mark.parametrize("shape", [(5, INPUTS), (2, 3, INPUTS), (1, 1, INPUTS)])
def test_inference_agrees_with_training(name: str, shape: tuple[int, ...]) -> None:
    generator = torch.Generator().manual_seed(5)
    weight, bias = torch.randn(OUTPUTS, INPUTS, generator=generator), torch.randn(OUTPUTS, generator=generator)
    layer = GroupedLinear.from_dense(STRUCTURES[name], weight, bias)
    x = torch.randn(shape, generator=generator)
    training = layer(x)
    with torch.no_grad():
        inference = layer(x)
        with torch.autocast("cpu", torch.bfloat16):
            halved = layer(x)
    assert torch.allclose(inference, training, atol=1e-6)
    assert torch.allclose(halved.float(), training, atol=0.2)
    with torch.inference_mode():
        assert torch.allclose(layer.bfloat16()(x.bfloat16()).float(), training, atol=0.2)


def test_the_kernel_agrees_with_pytorch() -> None:
    """In Triton's interpreter, in a process of its own: it is chosen when Triton is first imported."""
    pytest.importorskip("triton")
    groups = [(structure.row_groups, structure.column_groups) for structure in STRUCTURES.values()]
    code = f"""
from itertools import product
import torch
from bertsurgeon import GroupedLinear
from bertsurgeon.plan import Grouped
torch.manual_seed(0)
for groups, bias, activation in product({groups}, (torch.randn({OUTPUTS}), None), ("none", "gelu")):
    layer = GroupedLinear.from_dense(Grouped(*groups), torch.randn({OUTPUTS}, {INPUTS}), bias)
    layer.activation = activation
    x = torch.randn(3, 30, {INPUTS})
    expected = layer(x)
    calls, run = [], layer._run_kernel
    layer._run_kernel = lambda x: calls.append(1) or run(x)
    with torch.no_grad():
        assert torch.allclose(layer(x), expected, atol=1e-5)
        assert torch.allclose(layer.half()(x.half()).float(), expected, atol=0.02)
    assert len(calls) == 2
"""
    environment = {**os.environ, "TRITON_INTERPRET": "1"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("name", NAMES)
def test_preparing_for_inference_changes_nothing_but_time(
    name: str, tiny_model: Factory, tiny_batches: Batches, logits_of: LogitsOf
) -> None:
    model = tiny_model(name)
    shapes = Encoder(model).shapes
    mixed = tuple(range(0, 48, 2)), tuple(range(1, 48, 2))
    halves, wide = (tuple(range(24)), tuple(range(24, 48))), (tuple(range(48)), tuple(range(48, 96)))
    reads = dict.fromkeys(("query", "key", "value"), Grouped(halves, mixed))
    structures = {
        **reads,
        "attention_output": Grouped(mixed, halves),
        "intermediate": Grouped(wide, mixed),
        "output": Grouped(mixed, wide),
    }
    plan = ModelPlan(name, tuple(LayerPlan.build(shape, structures) for shape in shapes))  # type: ignore[arg-type]
    pruned = apply_plan(model, plan, "none")
    state = {key: value.clone() for key, value in pruned.state_dict().items()}
    before = logits_of(pruned, tiny_batches[0])
    prepared = prepare_for_inference(deepcopy(pruned))
    assert torch.allclose(logits_of(prepared, tiny_batches[0]), before, atol=1e-5)
    assert all(torch.equal(value, state[key]) for key, value in prepared.state_dict().items())
    grouped = [module for module in prepared.modules() if isinstance(module, GroupedLinear)]
    assert sum(module.activation == "gelu" for module in grouped) == len(plan.layers)
    assert sum(module.gathers for module in grouped) == len(plan.layers)  # of the intermediate matrices


@pytest.mark.parametrize("name", NAMES)
def test_a_prepared_model_can_still_be_trained(
    name: str, tiny_model: Factory, tiny_batches: Batches, logits_of: LogitsOf
) -> None:
    model = tiny_model(name)
    prepared = prepare_for_inference(deepcopy(model))
    with torch.inference_mode():  # some activations write over their inputs now
        assert torch.equal(logits_of(prepared, tiny_batches[0]), logits_of(model, tiny_batches[0]))
    for trained in (model, prepared):
        trained(**tiny_batches[0]).logits.sum().backward()
    for (key, expected), found in zip(model.named_parameters(), prepared.parameters(), strict=True):
        assert expected.grad is None or torch.equal(found.grad, expected.grad), key  # type: ignore[arg-type]


def executed_weight(layer: nn.Module, inputs: int) -> Tensor:
    """The matrix that a layer applies, found by feeding it one channel at a time."""
    with torch.no_grad():
        result: Tensor = layer(torch.eye(inputs)) - layer(torch.zeros(1, inputs))
    return result.T


def plan_with(model: PreTrainedModel, name: str, changes: dict[tuple[int, Role], Structure]) -> ModelPlan:
    """The dense plan but for some matrices."""
    shapes = Encoder(model).shapes
    layers = [dict(layer.matrices) for layer in dense_plan(name, shapes).layers]
    for (layer, role), structure in changes.items():
        layers[layer][role] = MatrixPlan(shapes[layer][role], structure)
    return ModelPlan(name, tuple(LayerPlan(matrices) for matrices in layers))


def apply(
    model: PreTrainedModel, name: str, plan: ModelPlan, mode: Compensation, batches: Sequence[dict[str, Tensor]]
) -> PreTrainedModel:
    moments = None
    if mode == "independent":
        moments = collect_statistics(model, batches, gradients=False, moments=True).moments
    pruned = apply_plan(model, plan, mode, batches=batches, moments=moments)
    attach_plan(pruned, plan)
    return pruned


def dropped(layer: int, *sub_layers: SubLayerName) -> dict[tuple[int, Role], Structure]:
    return {(layer, role): Dropped() for sub_layer in sub_layers for role in SUB_LAYERS[sub_layer]}


def assert_stock(model: PreTrainedModel) -> None:
    assert not [m for m in model.modules() if type(m).__module__.startswith("bertsurgeon")]
    assert not hasattr(model.config, "quantization_config")
    assert get_plan(model) is None


# one matrix


@pytest.mark.parametrize("leading", [(5,), (3, 4), (2, 3, 2), ()], ids=str)
@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no bias"])
@pytest.mark.parametrize("name", STRUCTURES)
def test_grouped_linear_is_its_dense_twin(name: str, bias: bool, leading: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    structure = STRUCTURES[name]
    dense, offset = torch.randn(OUTPUTS, INPUTS), torch.randn(OUTPUTS) if bias else None
    layer = GroupedLinear.from_dense(structure, dense, offset)
    twin = layer.dense_weight()
    assert torch.equal(twin, dense * mask_of(structure, (OUTPUTS, INPUTS)))
    assert sum(len(r) * len(c) for r, c in zip(structure.row_groups, structure.column_groups, strict=True)) == int(
        (twin != 0).sum()
    )

    x, x_twin = (
        value.requires_grad_() for value in [torch.randn(*leading, INPUTS)] for value in (value, value.clone())
    )
    twin.requires_grad_()
    output, expected = layer(x), F.linear(x_twin, twin, offset)
    torch.testing.assert_close(output, expected, rtol=1e-5, atol=1e-5)

    weighting = torch.randn_like(expected)
    (output * weighting).sum().backward()
    (expected * weighting).sum().backward()
    assert x.grad is not None
    assert x_twin.grad is not None
    assert twin.grad is not None
    torch.testing.assert_close(x.grad, x_twin.grad, rtol=1e-5, atol=1e-5)
    blocks = GroupedLinear.from_dense(structure, twin.grad, None).weight
    torch.testing.assert_close(layer.weight.grad, blocks.data, rtol=1e-5, atol=1e-5)
    if bias:
        assert layer.bias is not None
        expected_bias = weighting.reshape(-1, OUTPUTS).sum(0)
        torch.testing.assert_close(layer.bias.grad, expected_bias, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", STRUCTURES)
def test_parameters_of_grouped_linear(name: str) -> None:
    structure = STRUCTURES[name]
    layer = GroupedLinear(INPUTS, OUTPUTS, structure)
    widest = max(len(columns) for columns in structure.column_groups)
    assert layer.weight.shape == (sum(len(rows) for rows in structure.row_groups), widest)
    assert set(layer.state_dict()) == {"weight", "bias"}


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_grouped_linear_in_other_precisions(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    layer = GroupedLinear.from_dense(
        STRUCTURES["uneven"], torch.randn(OUTPUTS, INPUTS, dtype=dtype), torch.randn(OUTPUTS, dtype=dtype)
    )
    x = torch.randn(3, INPUTS, dtype=dtype)
    output = layer(x)
    assert output.dtype == dtype
    tolerance = 1e-12 if dtype == torch.float64 else 0.1
    torch.testing.assert_close(output, F.linear(x, layer.dense_weight(), layer.bias), rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("leading", [(5,), (2, 3)], ids=str)
@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no bias"])
def test_dropped_linear_is_its_bias(bias: bool, leading: tuple[int, ...]) -> None:
    offset = torch.arange(4.0) if bias else None
    layer = DroppedLinear.from_dense(torch.ones(4, 3), offset)
    expected = torch.zeros(*leading, 4) + (0 if offset is None else offset)
    assert torch.equal(layer(torch.randn(*leading, 3)), expected)
    assert torch.equal(layer.dense_weight(), torch.zeros(4, 3))


@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no bias"])
def test_low_rank_linear_is_the_truncated_decomposition(bias: bool) -> None:
    torch.manual_seed(0)
    weight, offset = torch.randn(7, 5), torch.randn(7) if bias else None
    layer = make_linear(LowRank(2), weight, offset)
    U, S, V = torch.linalg.svd(weight)
    torch.testing.assert_close(executed_weight(layer, 5), (U[:, :2] * S[:2]) @ V[:2], rtol=0, atol=1e-5)
    x = torch.randn(3, 4, 5)
    expected = F.linear(x, layer.dense_weight(), offset)  # type: ignore[operator]
    torch.testing.assert_close(layer(x), expected, rtol=0, atol=1e-5)
    full = make_linear(LowRank(5), weight, offset)
    torch.testing.assert_close(executed_weight(full, 5), weight, rtol=0, atol=1e-5)


def test_structures_that_do_not_fit() -> None:
    with pytest.raises(PlanError):
        GroupedLinear(INPUTS - 1, OUTPUTS, STRUCTURES["even"])


# a whole model


@pytest.mark.parametrize("sparsity", [0.3, 0.6, 0.9, 0.97])
@pytest.mark.parametrize("name", NAMES)
def test_the_dense_twin(
    name: str, sparsity: float, tiny_model: Factory, tiny_batches: Batches, logits_of: LogitsOf
) -> None:
    model = tiny_model(name)
    pruned, report = prune(model, PgbConfig(Sparsity(sparsity)), tiny_batches)
    assert any(isinstance(module, GroupedLinear | DroppedLinear) for module in pruned.modules())
    twin = to_dense(pruned)
    assert type(twin) is type(model)
    assert_stock(twin)
    for batch in tiny_batches:
        logits = logits_of(pruned, batch)
        torch.testing.assert_close(logits, logits_of(twin, batch), rtol=1e-5, atol=1e-5)
        assert not torch.allclose(logits, logits_of(model, batch), rtol=1e-3, atol=1e-3)
    for index, role, matrix in report.plan:
        weight = Encoder(twin).matrix(index, role).get_parameter("weight")
        assert weight.shape == matrix.shape
        assert int((weight != 0).sum()) <= matrix.kept


def test_a_dense_model_has_no_twin(tiny_model: Factory) -> None:
    with pytest.raises(ModelError, match="dense already"):
        to_dense(tiny_model("bert"))


def test_a_pruned_model_is_not_pruned_again(tiny_model: Factory, tiny_batches: Batches) -> None:
    pruned, _ = prune(
        tiny_model("bert"),
        PgbConfig(Groups(2), importance="magnitude", compensation="none"),
        tiny_batches,
    )
    with pytest.raises(ModelError, match="pruned already"):
        prune(pruned, PgbConfig(Groups(2)), tiny_batches)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", NAMES)
def test_one_group_is_the_dense_model(
    name: str, mode: Compensation, tiny_model: Factory, tiny_batches: Batches, logits_of: LogitsOf
) -> None:
    model = tiny_model(name)
    pruned, report = prune(model, PgbConfig(Groups(1), compensation=mode), tiny_batches)
    assert report.sparsity == 0
    for batch in tiny_batches:
        assert torch.equal(logits_of(pruned, batch), logits_of(model, batch))
    state = model.state_dict()
    assert all(torch.equal(value, state[key]) for key, value in pruned.state_dict().items())


@pytest.mark.parametrize("name", NAMES)
def test_without_compensation_it_is_the_masked_model(
    name: str, tiny_model: Factory, tiny_batches: Batches, logits_of: LogitsOf
) -> None:
    model = tiny_model(name)
    config = PgbConfig(Groups(5), importance="magnitude", grouping="assign", compensation="none")
    pruned, report = prune(model, config, tiny_batches)
    masked = deepcopy(model)
    for index, role, matrix in report.plan:
        assert isinstance(matrix.structure, Grouped)
        weight = Encoder(masked).matrix(index, role).get_parameter("weight")
        weight.data.mul_(mask_of(matrix.structure, matrix.shape))
    for batch in tiny_batches:
        torch.testing.assert_close(logits_of(pruned, batch), logits_of(masked, batch), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("sub_layers", [("attention",), ("feed_forward",), ("attention", "feed_forward")], ids="+".join)
@pytest.mark.parametrize("layer", [0, 1, 2])
@pytest.mark.parametrize("name", NAMES)
def test_dropped_sub_layers_leave_their_bias(
    name: str,
    layer: int,
    sub_layers: tuple[SubLayerName, ...],
    tiny_model: Factory,
    tiny_batches: Batches,
    logits_of: LogitsOf,
) -> None:
    model = tiny_model(name)
    plan = plan_with(model, name, dropped(layer, *sub_layers))
    pruned = apply(model, name, plan, "none", tiny_batches)
    silenced = deepcopy(model)
    for sub_layer in sub_layers:
        last = Encoder(silenced).matrix(layer, SUB_LAYERS[sub_layer][-1])
        last.get_parameter("weight").data.zero_()
    twin = to_dense(pruned)
    assert_stock(twin)
    for batch in tiny_batches:
        logits = logits_of(pruned, batch)
        torch.testing.assert_close(logits, logits_of(silenced, batch), rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(logits, logits_of(twin, batch), rtol=1e-5, atol=1e-5)
    shapes = {key: value.shape for key, value in pruned.state_dict().items()}
    for sub_layer in sub_layers:
        mark = Encoder(pruned).matrix_name(layer, SUB_LAYERS[sub_layer][-1])
        assert shapes[f"{mark}.weight"][0] == 0
        first = Encoder(pruned).matrix_name(layer, SUB_LAYERS[sub_layer][0])
        assert f"{first}.bias" not in shapes


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", NAMES)
def test_mixed_structures(
    name: str, mode: Compensation, tiny_model: Factory, tiny_batches: Batches, logits_of: LogitsOf
) -> None:
    model = tiny_model(name)
    half = tuple(range(0, 48, 2)), tuple(range(1, 48, 2))
    changes: dict[tuple[int, Role], Structure] = {
        **dropped(0, "feed_forward"),
        (1, "query"): Dropped(),
        (1, "key"): Dropped(),
        (1, "attention_output"): Grouped(half, half),
        (1, "intermediate"): Grouped((tuple(range(10, 90)),), (tuple(range(48)),)),
        (1, "output"): Grouped((tuple(range(48)),), (tuple(range(10, 90)),)),
        **dropped(2, "attention"),
        (2, "output"): Grouped(half[::-1], (tuple(range(60)), tuple(range(60, 80)))),
    }
    plan = plan_with(model, name, changes)
    pruned = apply(model, name, plan, mode, tiny_batches)
    twin = to_dense(pruned)
    assert_stock(twin)
    for batch in tiny_batches:
        logits = logits_of(pruned, batch)
        assert torch.isfinite(logits).all()
        torch.testing.assert_close(logits, logits_of(twin, batch), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", NAMES)
def test_a_threshold_that_drops_a_layer(
    name: str, mode: Compensation, tiny_model: Factory, tiny_batches: Batches, logits_of: LogitsOf
) -> None:
    model = tiny_model(name)
    for role in ROLES:
        Encoder(model).matrix(1, role).get_parameter("weight").data.mul_(1e-3)
    pruned, report = prune(model, PgbConfig(Threshold(1e-5), importance="magnitude", compensation=mode), tiny_batches)
    gone = [[layer.is_dropped(sub_layer) for sub_layer in SUB_LAYERS] for layer in report.plan.layers]
    assert gone == [[False, False], [True, True], [False, False]]
    assert report.sparsity == pytest.approx(1 / 3)
    twin = to_dense(pruned)
    for batch in tiny_batches:
        logits = logits_of(pruned, batch)
        torch.testing.assert_close(logits, logits_of(twin, batch), rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(logits, logits_of(model, batch), rtol=0.1, atol=0.1)  # they did next to nothing


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", NAMES)
def test_everything_dropped(
    name: str, mode: Compensation, tiny_model: Factory, tiny_batches: Batches, logits_of: LogitsOf
) -> None:
    pruned, report = prune(
        tiny_model(name),
        PgbConfig(Threshold(1e9), importance="magnitude", compensation=mode),
        tiny_batches,
    )
    assert (report.plan.kept, report.sparsity) == (0, 1)
    twin = to_dense(pruned)
    logits = logits_of(pruned, tiny_batches[0])
    torch.testing.assert_close(logits, logits_of(twin, tiny_batches[0]), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_training_moves_the_weights_and_keeps_the_structure(
    name: str, tiny_model: Factory, tiny_batches: Batches
) -> None:
    torch.manual_seed(0)
    pruned, report = prune(tiny_model(name), PgbConfig(Groups(5), importance="magnitude"), tiny_batches)
    pruned.train()
    before = {key: value.clone() for key, value in pruned.named_parameters()}
    optimizer = torch.optim.AdamW(pruned.parameters(), lr=1e-2, weight_decay=0.1)
    for batch in tiny_batches[:2]:
        optimizer.zero_grad()
        pruned(**batch).loss.backward()
        optimizer.step()
    for index, role, matrix in report.plan:
        assert isinstance(matrix.structure, Grouped)
        layer = Encoder(pruned).matrix(index, role)
        assert isinstance(layer, GroupedLinear)
        old = before[f"{Encoder(pruned).matrix_name(index, role)}.weight"]
        assert not torch.equal(layer.weight, old)
        applied = executed_weight(layer, matrix.shape[1])
        mask = mask_of(matrix.structure, matrix.shape)
        assert applied[~mask].abs().max() < 1e-5
        torch.testing.assert_close(applied, layer.dense_weight(), rtol=1e-4, atol=1e-5)
        padding = layer.weight.detach().clone()
        for rows, width in zip(padding.split(layer.row_sizes), layer.column_sizes, strict=True):
            assert not rows[:, width:].any()
    unmoved = {key for key, value in pruned.named_parameters() if torch.equal(value, before[key])}
    assert not [key for key in unmoved if "embeddings" not in key]
    assert get_plan(pruned) == report.plan


# plans for other models


def test_plans_for_other_models(tiny_model: Factory) -> None:
    model = tiny_model("bert")
    for other in (
        plan_with(tiny_model("roberta"), "roberta", {}),
        plan_with(tiny_model("bert", num_hidden_layers=2), "bert", {}),
        plan_with(tiny_model("bert", intermediate_size=64), "bert", {}),
    ):
        with pytest.raises(PlanError):
            check_plan(model, other)
        with pytest.raises(PlanError):
            install_plan(model, other)
    assert_stock(model)
    assert isinstance(model, BertForSequenceClassification)


def test_dense_matrices_can_be_made() -> None:
    weight, bias = torch.randn(4, 3), torch.randn(4)
    layer = make_linear(Dense(), weight, bias)
    assert type(layer) is nn.Linear
    assert torch.equal(layer.weight, weight)
    assert torch.equal(layer.bias, bias)
