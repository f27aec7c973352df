from collections import Counter
from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from transformers import PreTrainedModel

from bertsurgeon import GroupedLinear, Groups, PgbConfig, Sparsity, prune
from bertsurgeon.architectures import Encoder, unfuse
from bertsurgeon.calibration import Moments, collect_statistics
from bertsurgeon.compensation import Compensation, apply_plan, compensate
from bertsurgeon.errors import ModelError
from bertsurgeon.plan import Dense, Dropped, Grouped, LowRank, Structure

NAMES = ["bert", "distilbert", "roberta"]
MODES: list[Compensation] = ["sequential", "independent", "none"]
Batches = list[dict[str, Tensor]]
Factory = Callable[..., PreTrainedModel]

TOKENS, INPUTS, OUTPUTS = 400, 10, 9
UNEVEN = Grouped(((0, 3, 4, 8), (1, 2), (7,)), ((2, 9), (0, 1, 5, 6), (4, 7)))  # rows 5 and 6, columns 3 and 8: none
EVEN = Grouped(((0, 2, 4), (1, 3, 5), (6, 7, 8)), ((0, 1, 2), (3, 4, 5), (6, 7, 8)))


def layer_and_inputs(seed: int = 0) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Weight, bias, x and an x̂ that is neither x nor independent of it, neither of mean zero."""
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    x = draw(TOKENS, INPUTS) @ draw(INPUTS, INPUTS) + 2
    pruned = torch.tanh(x / 3) + 0.3 * draw(TOKENS, INPUTS) - 1
    return draw(OUTPUTS, INPUTS), draw(OUTPUTS), x, pruned


def moments_of(x: Tensor, pruned: Tensor | None = None) -> Moments:
    moments = Moments(x.shape[-1], paired=pruned is not None)
    for part in torch.arange(len(x)).split(150):
        moments.update(x[part], None if pruned is None else pruned[part])
    return moments


@pytest.mark.parametrize("structure", [UNEVEN, EVEN, Dense()], ids=["uneven", "even", "dense"])
def test_the_fit_is_least_squares(structure: Grouped | Dense) -> None:
    weight, bias, x, pruned = layer_and_inputs()
    new_weight, new_bias = compensate(weight, bias, structure, moments_of(x, pruned), damping=1e-13)
    targets = x @ weight.T + bias
    expected_weight, expected_bias = torch.zeros_like(weight), targets.mean(0)
    everything = ((tuple(range(OUTPUTS)),), (tuple(range(INPUTS)),))
    groups = everything if isinstance(structure, Dense) else (structure.row_groups, structure.column_groups)
    for rows, columns in zip(*groups, strict=True):
        design = torch.cat([pruned[:, list(columns)], torch.ones(TOKENS, 1, dtype=torch.float64)], 1)
        solution = torch.linalg.lstsq(design, targets[:, list(rows)]).solution
        expected_weight[torch.tensor(rows).unsqueeze(1), torch.tensor(columns)] = solution[:-1].T
        expected_bias[list(rows)] = solution[-1]
    torch.testing.assert_close(new_weight, expected_weight, rtol=1e-6, atol=1e-8)
    torch.testing.assert_close(new_bias, expected_bias, rtol=1e-6, atol=1e-8)
    assert not new_weight[expected_weight == 0].any()


@pytest.mark.parametrize("offset", [True, False])
def test_the_fit_of_single_weights_is_least_squares(offset: bool) -> None:
    weight, bias, x, pruned = layer_and_inputs()
    mask = torch.rand(weight.shape, generator=torch.Generator().manual_seed(0)) < 0.4
    mask[0] = False
    bias = bias if offset else torch.zeros_like(bias)
    new_weight, new_bias = compensate(weight, bias, mask, moments_of(x, pruned), damping=1e-13, offset=offset)
    targets = x @ weight.T + bias
    for row, kept in enumerate(mask):
        columns = [pruned[:, kept]] + [torch.ones(TOKENS, 1, dtype=torch.float64)] * offset
        solution = torch.linalg.lstsq(torch.cat(columns, 1), targets[:, row : row + 1]).solution.squeeze(1)
        torch.testing.assert_close(new_weight[row, kept], solution[: int(kept.sum())], rtol=1e-6, atol=1e-8)
        torch.testing.assert_close(new_bias[row], solution[-1] if offset else bias[row], rtol=1e-6, atol=1e-8)
    assert torch.equal(new_weight != 0, mask)


def test_weights_that_read_a_constant_stay() -> None:
    weight, bias, x, pruned = layer_and_inputs()
    pruned[:, 0] = 3.0
    mask = torch.ones_like(weight, dtype=torch.bool)
    new_weight, new_bias = compensate(weight, bias, mask, moments_of(x, pruned), damping=1e-6)
    assert torch.equal(new_weight[:, 0], weight[:, 0])
    torch.testing.assert_close((pruned @ new_weight.T + new_bias).mean(0), (x @ weight.T + bias).mean(0))


def test_damping_is_ridge_regression() -> None:
    weight, bias, x, pruned = layer_and_inputs()
    damping = 0.3
    new_weight, new_bias = compensate(weight, bias, Dense(), moments_of(x, pruned), damping)
    covariance = torch.cov(pruned.T, correction=0)
    shift = damping * covariance.diagonal().mean() * torch.eye(INPUTS, dtype=torch.float64)
    cross = (x - x.mean(0)).T @ (pruned - pruned.mean(0)) / TOKENS
    expected = weight @ cross @ torch.linalg.inv(covariance + shift)
    torch.testing.assert_close(new_weight, expected)
    outputs = pruned @ new_weight.T + new_bias
    torch.testing.assert_close(outputs.mean(0), (x @ weight.T + bias).mean(0))


@pytest.mark.parametrize("paired", [True, False])
def test_a_dropped_matrix_keeps_its_mean_output(paired: bool) -> None:
    weight, bias, x, pruned = layer_and_inputs()
    new_weight, new_bias = compensate(weight, bias, Dropped(), moments_of(x, pruned if paired else None), damping=1e-3)
    assert not new_weight.any()
    torch.testing.assert_close(new_bias, (x @ weight.T + bias).mean(0))


@pytest.mark.parametrize("paired", [True, False])
def test_nothing_changes_where_nothing_was_pruned(paired: bool) -> None:
    weight, bias, x, _ = layer_and_inputs()
    new_weight, new_bias = compensate(weight, bias, Dense(), moments_of(x, x if paired else None), damping=1e-13)
    torch.testing.assert_close(new_weight, weight, rtol=1e-7, atol=1e-9)
    torch.testing.assert_close(new_bias, bias, rtol=1e-7, atol=1e-9)


def test_the_dtype_is_the_weight_s() -> None:
    weight, bias, x, pruned = layer_and_inputs()
    new_weight, new_bias = compensate(weight.float(), bias.float(), EVEN, moments_of(x, pruned), 1e-3)
    reference, _ = compensate(weight, bias, EVEN, moments_of(x, pruned), 1e-3)
    assert (new_weight.dtype, new_bias.dtype) == (torch.float32, torch.float32)
    torch.testing.assert_close(new_weight.double(), reference, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("damping", [1e-3, 1e-6])
@pytest.mark.parametrize("case", ["duplicates", "all duplicates", "constant", "few tokens"])
@pytest.mark.parametrize("structure", [Dense(), EVEN, UNEVEN, Dropped()], ids=["dense", "even", "uneven", "dropped"])
def test_degenerate_inputs(case: str, damping: float, structure: Structure) -> None:
    weight, bias, x, pruned = layer_and_inputs()
    if case == "duplicates":
        pruned[:, 1:4] = pruned[:, :1]
    elif case == "all duplicates":
        pruned[:] = pruned[:, :1]
    elif case == "constant":
        pruned[:, [0, 4]] = torch.tensor([3.0, 0.0], dtype=torch.float64)
    else:
        x, pruned = x[:3], pruned[:3]
    new_weight, new_bias = compensate(weight, bias, structure, moments_of(x, pruned), damping)
    assert torch.isfinite(new_weight).all()
    targets = x @ weight.T + bias
    error = (pruned @ new_weight.T + new_bias - targets).square().sum()
    assert error <= (targets - targets.mean(0)).square().sum() * (1 + 1e-6)


@pytest.mark.parametrize("value", [float("inf"), float("nan")])
@pytest.mark.parametrize("structure", [Dense(), EVEN, Dropped()], ids=["dense", "grouped", "dropped"])
def test_inputs_that_are_not_finite(structure: Structure, value: float) -> None:
    weight, bias, x, pruned = layer_and_inputs()
    x[5, 2] = value
    with pytest.raises(ModelError):
        compensate(weight, bias, structure, moments_of(x, pruned), damping=1e-3)


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("rank", [1, 3, 9])
def test_a_low_rank_is_the_best_of_its_rank(rank: int, weighted: bool) -> None:
    """No nearby matrix of the same rank does better."""
    weight, bias, x, pruned = layer_and_inputs()
    generator = torch.Generator().manual_seed(1)
    factor = torch.randn(OUTPUTS, OUTPUTS, generator=generator, dtype=torch.float64)
    metric = factor @ factor.T if weighted else None
    new_weight, new_bias = compensate(weight, bias, LowRank(rank), moments_of(x, pruned), 1e-13, metric)
    assert torch.linalg.matrix_rank(new_weight, rtol=1e-9) == rank
    targets = x @ weight.T + bias

    def error(candidate: Tensor) -> float:
        residual = targets - pruned @ candidate.T
        residual = residual - residual.mean(0)
        return float(
            (residual @ (torch.eye(OUTPUTS, dtype=torch.float64) if metric is None else metric) * residual).sum()
        )

    best = error(new_weight)
    torch.testing.assert_close(new_bias, (targets - pruned @ new_weight.T).mean(0), rtol=1e-6, atol=1e-8)
    U, S, V = torch.linalg.svd(new_weight, full_matrices=False)
    left, right = U[:, :rank] * S[:rank], V[:rank]
    for size in torch.logspace(-4, 0, 200, dtype=torch.float64):
        noise = [size * torch.randn(side.shape, generator=generator, dtype=torch.float64) for side in (left, right)]
        assert error((left + noise[0]) @ (right + noise[1])) >= best * (1 - 1e-3)
    full, _ = compensate(weight, bias, Dense(), moments_of(x, pruned), 1e-13)
    if rank == OUTPUTS:
        torch.testing.assert_close(new_weight, full, rtol=1e-6, atol=1e-8)


def test_moments_leave_padding_out(tiny_model: Factory, tiny_batches: Batches) -> None:
    model = tiny_model("bert")
    inputs_of_batches: list[Tensor] = []
    handle = (
        Encoder(model)
        .matrix(1, "output")
        .register_forward_pre_hook(lambda _, inputs: inputs_of_batches.append(inputs[0].detach()))
    )
    statistics = collect_statistics(model, tiny_batches, gradients=False, moments=True)
    handle.remove()
    masks = [batch["attention_mask"].bool() for batch in tiny_batches]
    x = torch.cat([value[mask] for value, mask in zip(inputs_of_batches, masks, strict=True)]).double()
    moments = statistics.moments[1, "output"]
    assert moments.count == len(x) == statistics.tokens
    torch.testing.assert_close(moments.mean, x.mean(0), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(moments.covariance, torch.cov(x.T, correction=0), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(moments.cross_covariance, moments.covariance)
    assert statistics.moments[1, "value"] is statistics.moments[1, "query"]


@pytest.mark.parametrize("mode", MODES[:2])
@pytest.mark.parametrize("name", NAMES)
def test_padding_has_no_effect(name: str, mode: Compensation, tiny_model: Factory, tiny_batches: Batches) -> None:
    model = tiny_model(name).double()  # far from rounding
    config = PgbConfig(Sparsity(0.6), importance="magnitude", compensation=mode)
    padded = []
    for batch in tiny_batches:
        mask = torch.nn.functional.pad(batch["attention_mask"], (0, 4))
        ids = torch.nn.functional.pad(batch["input_ids"], (0, 4))
        padded.append({**batch, "attention_mask": mask, "input_ids": torch.where(mask.bool(), ids, 77)})
    state = prune(model, config, tiny_batches)[0].state_dict()
    for key, value in prune(model, config, padded)[0].state_dict().items():
        torch.testing.assert_close(value, state[key], rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("name", NAMES)
def test_compensation_brings_the_hidden_states_back(name: str, tiny_model: Factory, tiny_batches: Batches) -> None:
    model = tiny_model(name)

    def hidden(encoder: PreTrainedModel) -> Tensor:
        states = []
        for batch in tiny_batches:
            inputs = {key: batch[key] for key in ("input_ids", "attention_mask")}
            with torch.no_grad():
                state = encoder.base_model(**inputs).last_hidden_state
            states.append(state[batch["attention_mask"].bool()])
        return torch.cat(states)

    dense_states = hidden(model)
    errors = {}
    for mode in MODES:
        pruned, _ = prune(model, PgbConfig(Groups(2), compensation=mode, damping=1e-4), tiny_batches)
        errors[mode] = float((hidden(pruned) - dense_states).square().mean())
    assert errors["sequential"] <= errors["independent"] <= errors["none"]
    assert 0 < errors["sequential"] < 0.7 * errors["none"]


@pytest.mark.parametrize("mode", MODES)
def test_the_dense_model_does_not_change(mode: Compensation, tiny_model: Factory, tiny_batches: Batches) -> None:
    model = tiny_model("bert")
    model.classifier.weight.grad = torch.ones_like(model.classifier.weight)
    model.bert.pooler.requires_grad_(False)
    before = {name: (value.clone(), value.requires_grad) for name, value in model.named_parameters()}
    pruned, _ = prune(model, PgbConfig(Sparsity(0.7), compensation=mode), tiny_batches)
    assert not hasattr(model.config, "quantization_config")
    for name, parameter in model.named_parameters():
        value, requires_grad = before[name]
        assert torch.equal(parameter, value)
        assert parameter.requires_grad == requires_grad
    assert torch.equal(model.classifier.weight.grad, torch.ones_like(model.classifier.weight))
    shared = {parameter.data_ptr() for parameter in model.parameters()}
    assert not shared & {parameter.data_ptr() for parameter in pruned.parameters() if parameter.numel()}


def test_the_dense_model_stays_in_its_mode(tiny_model: Factory, tiny_batches: Batches) -> None:
    model = tiny_model("bert").train()
    pruned, _ = prune(model, PgbConfig(Sparsity(0.5)), tiny_batches)
    assert not pruned.training
    assert model.training


def test_broken_weights(tiny_model: Factory, tiny_batches: Batches) -> None:
    model = tiny_model("bert")
    with torch.no_grad():
        model.bert.encoder.layer[1].output.dense.weight[3, 3] = float("nan")
    with pytest.raises(ModelError, match=r"layer\.1\.output\.dense\.weight.*not finite"):
        prune(model, PgbConfig(Sparsity(0.5)), tiny_batches)


@pytest.mark.parametrize("mode", MODES[:2])
def test_activations_that_overflow(mode: Compensation, tiny_model: Factory, tiny_batches: Batches) -> None:
    model = tiny_model("bert")
    with torch.no_grad():
        model.bert.encoder.layer[1].intermediate.dense.weight.fill_(1e38)
    with pytest.raises(ModelError, match="not finite"):
        prune(model, PgbConfig(Groups(2), compensation=mode, importance="magnitude"), tiny_batches)


@pytest.mark.parametrize("name", NAMES)
def test_every_matrix_runs_once(
    tiny_model: Factory, tiny_batches: Batches, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For each batch, in both models; what is needed twice is kept."""
    model = unfuse(tiny_model(name))
    plan = prune(model, PgbConfig(Groups(2), compensation="none"), tiny_batches).report.plan
    encoder = Encoder(model)
    matrices = [encoder.matrix(layer, role) for layer in range(len(encoder.layers)) for role in encoder.roles]
    calls: Counter[int] = Counter()
    for kind in (torch.nn.Linear, GroupedLinear):
        forward = kind.forward
        monkeypatch.setattr(kind, "forward", lambda m, x, f=forward: calls.update([id(m)]) or f(m, x))  # type: ignore[misc]
    pruned = apply_plan(model, plan, "sequential", batches=tiny_batches)
    assert {calls[id(matrix)] for matrix in matrices} == {len(tiny_batches)}
    grouped = [calls[id(module)] for module in pruned.modules() if isinstance(module, GroupedLinear)]
    assert len(grouped) == len(matrices)
    # nothing reads the output of the last layer
    assert sorted(grouped) == [0] + [len(tiny_batches)] * (len(grouped) - 1)
