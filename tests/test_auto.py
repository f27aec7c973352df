"""The method ``auto``: curves, allocation, plans, and what comes out."""

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from transformers import AutoModelForSequenceClassification, PreTrainedModel

from bertsurgeon import (
    AutoConfig,
    Calibration,
    PgbConfig,
    PruneConfig,
    Sparsity,
    Speedup,
    calibrate,
    prune,
    to_dense,
)
from bertsurgeon.architectures import Encoder
from bertsurgeon.benchmark import count_flops, random_inputs
from bertsurgeon.calibration import Moments, make_batches
from bertsurgeon.calibration.statistics import weigh_tokens
from bertsurgeon.compensation import apply_plan, compensate, reduced_errors, sqrt_metric
from bertsurgeon.errors import CheckpointError, ModelError, OptionError, PlanError
from bertsurgeon.methods.auto import latency_model as trials
from bertsurgeon.methods.auto import speedup as speed
from bertsurgeon.methods.auto.candidates import Candidate, SubLayerCurve
from bertsurgeon.methods.auto.costs import Cost, FittedMilliseconds, Flops, Milliseconds, Weights, plan_cost
from bertsurgeon.methods.auto.groups import align_groups, group_error, kept_energy
from bertsurgeon.methods.auto.latency_model import DeploymentTarget
from bertsurgeon.methods.auto.search import allocate, full_cost, make_allocated_plan
from bertsurgeon.plan import (
    ROLES,
    Dense,
    Dropped,
    Grouped,
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
ONES: dict[SubLayerName, float] = {"attention": 1.0, "feed_forward": 1.0}
Batches = list[dict[str, Tensor]]
Factory = Callable[..., PreTrainedModel]
LogitsOf = Callable[[PreTrainedModel, dict[str, Tensor]], Tensor]


def plan_of(model: PreTrainedModel, units: dict[SubLayerName, Units], ranks: dict[Role, int]) -> ModelPlan:
    """Every layer with these units and ranks."""
    shapes = Encoder(model).shapes
    structures: dict[Role, Structure] = {role: LowRank(ranks[role]) if role in ranks else Dense() for role in ROLES}
    return ModelPlan(model.config.model_type, tuple(LayerPlan.build(shape, structures, units) for shape in shapes))


def run(model: PreTrainedModel, batches: Batches, plan: ModelPlan, **options: Any) -> PreTrainedModel:
    return apply_plan(model, plan, options.pop("compensation", "sequential"), batches=batches, **options)


# plans


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


# applying a plan


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


# curves and allocation


@pytest.mark.parametrize(("outputs", "inputs"), [(5, 9), (9, 5)])
def test_reduced_errors_are_those_of_the_best_low_rank(outputs: int, inputs: int) -> None:
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(outputs, inputs, generator=generator, dtype=torch.float64)
    factor = torch.randn(inputs, inputs, generator=generator, dtype=torch.float64)
    squares = torch.linalg.svdvals(weight @ factor).square()
    product = weight @ factor
    second = product @ product.T if outputs < inputs else product.T @ product
    errors = reduced_errors(second, 5)
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
    generator = torch.Generator().manual_seed(3)
    ids = torch.randint(2, 100, (4, 8, 12), generator=generator)
    batches = [{"input_ids": part, "attention_mask": torch.ones_like(part)} for part in ids]
    return calibrate(tiny_model("bert"), AutoConfig(Sparsity(0.5), damping=1e-2), batches)


def test_curves_fall_with_what_is_kept(calibration: Calibration) -> None:
    assert len(calibration.curves) == 6
    for curve in calibration.curves:
        errors = [option.error for option in curve.options]
        assert curve.dropped >= errors[0]
        assert errors == sorted(errors, reverse=True)
        assert errors[-1] == 0
        for option in curve.options:
            assert all((tail.diff() <= 1e-9).all() and tail[-1] == 0 for tail in option.rank_errors.values())


@pytest.mark.parametrize("cost", [Weights(), Flops(length=12)])
@pytest.mark.parametrize("share", [0.9, 0.5, 0.25, 0.1])
def test_budgets_are_met(calibration: Calibration, cost: Weights, share: float) -> None:
    full = full_cost(calibration.curves, cost)
    choices = allocate(calibration.curves, cost, share * full)
    assert 0.97 * share * full <= sum(choice.cost for choice in choices) <= share * full


def test_more_budget_never_loses(calibration: Calibration) -> None:
    full = full_cost(calibration.curves, Weights())
    errors = [
        sum(choice.error for choice in allocate(calibration.curves, Weights(), share * full))
        for share in (0.1, 0.2, 0.4, 0.6, 0.8, 0.95)
    ]
    assert errors == sorted(errors, reverse=True)


def test_both_structures_together_beat_each_alone(calibration: Calibration) -> None:
    budget = 0.3 * full_cost(calibration.curves, Weights())
    both, removal, low_rank = (
        sum(choice.error for choice in allocate(calibration.curves, Weights(), budget, **options))
        for options in ({}, {"low_rank": False}, {"removal": False})
    )
    assert both <= min(removal, low_rank)


def test_allocation_against_every_combination(calibration: Calibration) -> None:
    """Removal in the first two sub-layers, all 5 · |levels| combinations tried."""
    curves = calibration.curves[:2]
    full = full_cost(curves, Weights())

    def candidates(curve: Any) -> list[tuple[float, float]]:
        options = [(float(sum(r * c for r, c in o.shapes.values())), o.error) for o in curve.options]
        return [(0.0, curve.dropped), *options]

    for share in (0.3, 0.5, 0.7):
        best = min(
            first[1] + second[1]
            for first in candidates(curves[0])
            for second in candidates(curves[1])
            if first[0] + second[0] <= share * full
        )
        choices = allocate(curves, Weights(), share * full, low_rank=False)
        assert sum(choice.error for choice in choices) <= 1.25 * best


@given(st.integers(0, 10**6), st.sampled_from([1, 2, 4]), st.integers(0, 3))
def test_aligned_groups(seed: int, groups: int, steps: int) -> None:
    generator = np.random.default_rng(seed)
    reads, writes = generator.gamma(0.5, size=(12, 9)), generator.gamma(0.5, size=(7, 12))
    found = align_groups(reads, writes, groups, steps)
    for parts, size in ((found.units, 12), (found.inputs, 9), (found.outputs, 7)):
        assert len(parts) == groups
        assert sorted(np.concatenate(parts).tolist()) == list(range(size))
        assert max(map(len, parts)) - min(map(len, parts)) <= 1
    if groups == 2:
        more = align_groups(reads, writes, groups, steps + 1)
        assert kept_energy(reads, writes, more) >= kept_energy(reads, writes, found) - 1e-9


def test_groups_of_neighbouring_channels(tiny_model: Callable[..., PreTrainedModel], tiny_batches: Batches) -> None:
    options = {"structures": ("groups",), "samples": 24}
    _, report = prune(tiny_model("bert"), AutoConfig(Sparsity(0.5), group_chunk=4, **options), tiny_batches)
    found = 0
    for layer in report.plan.layers:
        for role, own in (("query", "column_groups"), ("intermediate", "column_groups"), ("output", "row_groups")):
            structure = layer.matrices[role].structure
            if isinstance(structure, Grouped):
                found += 1
                for group in getattr(structure, own):
                    assert all(channel // 4 * 4 + i in group for channel in group for i in range(4))
    assert found
    with pytest.raises(OptionError, match="do not divide"):
        prune(tiny_model("bert"), AutoConfig(Sparsity(0.5), group_chunk=5, **options), tiny_batches)


def test_hidden_groups_are_found() -> None:
    """A sub-layer that is grouped already, its channels shuffled."""
    generator = np.random.default_rng(0)
    units, inputs, outputs = (generator.permutation(np.repeat(np.arange(2), size)) for size in (6, 7, 3))
    reads = (units[:, None] == inputs[None, :]) * generator.uniform(1, 2, size=(12, 14))
    writes = (outputs[:, None] == units[None, :]) * generator.uniform(1, 2, size=(6, 12))
    found = align_groups(reads, writes, 2)
    assert kept_energy(reads, writes, found) == pytest.approx(reads.sum() + writes.sum())
    with pytest.raises(ValueError, match="power of two"):
        align_groups(reads, writes, 3)


@pytest.mark.parametrize("name", NAMES)
def test_groups_alone(
    name: str, tiny_model: Factory, tiny_batches: Batches, logits_of: LogitsOf, tmp_path: Path
) -> None:
    model = tiny_model(name)
    config = AutoConfig(Sparsity(0.6), damping=1e-2, structures=("groups",))
    pruned, report = prune(model, config, tiny_batches)
    assert 0.6 <= report.sparsity < 0.85
    grouped = [matrix.structure for _, _, matrix in report.plan if isinstance(matrix.structure, Grouped)]
    assert grouped
    twin = to_dense(pruned)
    pruned.save_pretrained(tmp_path / "pruned")
    loaded = AutoModelForSequenceClassification.from_pretrained(tmp_path / "pruned").eval()
    for batch in tiny_batches:
        logits = logits_of(pruned, batch)
        torch.testing.assert_close(logits, logits_of(twin, batch), rtol=1e-4, atol=1e-4)
        assert torch.equal(logits, logits_of(loaded, batch))


def test_errors_of_groups_are_those_of_lstsq() -> None:
    """The error of the last matrix in groups, by least squares of every group on samples."""
    generator = torch.Generator().manual_seed(0)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    x = draw(200, 8) @ draw(8, 8)
    x = x - x.mean(0)
    weight = draw(6, 8)
    structure = Grouped(((0, 2, 4), (1, 3, 5)), ((0, 1, 2, 3), (4, 5, 6, 7)))
    expected = 0.0
    for rows, columns in zip(structure.row_groups, structure.column_groups, strict=True):
        wanted = x @ weight[list(rows)].T
        solution = torch.linalg.lstsq(x[:, list(columns)], wanted).solution
        expected += float((wanted - x[:, list(columns)] @ solution).square().sum()) / len(x)
    found = group_error(weight, torch.ones(6, dtype=torch.float64), x.T @ x / len(x), structure, 1e-12)
    assert found == pytest.approx(expected, rel=1e-6)


def test_groups_need_a_calibration_that_knows_them(tiny_model: Factory, tiny_batches: Batches, tmp_path: Path) -> None:
    model = tiny_model("bert")
    with_groups = AutoConfig(Sparsity(0.5), structures=("removal", "low_rank", "groups"))
    with pytest.raises(OptionError, match="groups"):
        prune(model, calibrate(model, AutoConfig(Sparsity(0.5)), tiny_batches), with_groups)
    made = calibrate(model, with_groups, tiny_batches)
    made.save(tmp_path / "calibration")
    loaded = Calibration.load(tmp_path / "calibration")
    assert prune(model, with_groups, loaded)[1].plan == prune(model, with_groups, made)[1].plan


def test_an_option_that_no_price_chooses_is_still_bought() -> None:
    """Half of the units lose less than dropping all, but more than the mean of dropping all and nothing."""
    shapes = {"intermediate": (8, 4), "output": (4, 8)}
    half = {"intermediate": (4, 4), "output": (4, 4)}
    rank_errors = {role: torch.zeros(5, dtype=torch.float64) for role in shapes}
    options = (
        Candidate((tuple(range(4)),), 0.9, half, rank_errors),  # type: ignore[arg-type]
        Candidate((tuple(range(8)),), 0.0, shapes, rank_errors),  # type: ignore[arg-type]
    )
    curve = SubLayerCurve(0, "feed_forward", 8, 1, 1.0, options)
    [choice] = allocate([curve], Weights(), 40.0, low_rank=False)
    assert choice.option is options[0]


def test_nothing_left_is_refused(calibration: Calibration) -> None:
    with pytest.raises(OptionError, match="leaves nothing"):
        allocate(calibration.curves, Weights(), 1.0)


def measured_costs() -> Milliseconds:
    """As if each product took a microsecond and a nanosecond per weight."""
    sizes = (8, 48, 96)
    products = tuple(tuple(1e-3 + 1e-6 * rows * columns for columns in sizes) for rows in sizes)
    return Milliseconds(sizes, products, {"attention": 1e-6, "feed_forward": 1e-6})


def test_milliseconds_are_interpolated(calibration: Calibration) -> None:
    cost = measured_costs()
    assert cost.product(48, 96) == pytest.approx(1e-3 + 1e-6 * 48 * 96)
    assert cost.product(48, 48) < cost.product(48, 70) < cost.product(48, 96)
    ranks = cost.ranks(48, 96, torch.tensor([8, 48]))
    expected = [cost.product(8, 96) + cost.product(48, 8), cost.product(48, 96) + cost.product(48, 48)]
    torch.testing.assert_close(ranks, torch.tensor(expected, dtype=torch.float64))
    assert cost.sub_layer("attention", 24) == pytest.approx(24e-6)
    full = full_cost(calibration.curves, cost)
    choices = allocate(calibration.curves, cost, 0.5 * full)
    assert 0.4 * full < sum(choice.cost for choice in choices) <= 0.5 * full


# from end to end


def test_a_speedup_is_reached_by_correcting_the_share(
    calibration: Calibration, tiny_model: Factory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a machine where every weight takes its time and the rest of the model ten thousand weights' worth."""
    model = tiny_model("bert")
    shapes = Encoder(model).shapes

    def plan_for(share: float) -> ModelPlan:
        budget = share * full_cost(calibration.curves, Weights())
        return make_allocated_plan("bert", shapes, calibration.curves, allocate(calibration.curves, Weights(), budget))

    def time(models: dict[str, PreTrainedModel], *_: Any, **__: Any) -> dict[str, Any]:
        pruned = sum(p.numel() for p in models["pruned"].base_model.encoder.parameters() if p.dim() == 2)
        dense = sum(p.numel() for p in models["dense"].base_model.encoder.parameters() if p.dim() == 2)
        return {"dense": SimpleNamespace(p50_ms=dense + 1e4), "pruned": SimpleNamespace(p50_ms=pruned + 1e4)}

    monkeypatch.setattr(speed, "time_batches", time)
    plan = speed.meet_speedup(model, 2.0, plan_for, DeploymentTarget("pytorch", "fp32", random_inputs([model], 1, 32)))
    assert (plan.size + 1e4) / (plan.kept + 1e4) == pytest.approx(2.0, rel=0.03)


def test_costs_of_a_runtime_are_fitted(
    calibration: Calibration, tiny_model: Factory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a machine where everything takes the time that costs say, and the rest of the model ten milliseconds."""
    model = tiny_model("bert")
    true = FittedMilliseconds(
        0.5, 1e-4, 2e-3, 0.0, {"attention": 1.0, "feed_forward": 1.0}, {"attention": 0.05, "feed_forward": 0.02}
    )
    monkeypatch.setattr(DeploymentTarget, "open", lambda place, model, plan: plan)

    def time(plans: dict[str, ModelPlan], *_: Any, **__: Any) -> dict[str, Any]:
        assert len({plan.kept for plan in plans.values()}) > len(plans) / 2
        return {name: SimpleNamespace(p50_ms=10 + plan_cost(plan, true)) for name, plan in plans.items()}

    monkeypatch.setattr(trials, "time_batches", time)
    place = DeploymentTarget("onnx", "int8", random_inputs([model], 1, 32))
    found = trials.fit_costs(model, calibration.curves, place)
    for share in (0.3, 0.6):
        choices = allocate(calibration.curves, Weights(), share * full_cost(calibration.curves, Weights()))
        plan = make_allocated_plan("bert", Encoder(model).shapes, calibration.curves, choices)
        assert plan_cost(plan, found) == pytest.approx(plan_cost(plan, true), rel=0.05)


def test_encoders_are_timed_without_their_words(
    calibration: Calibration, tiny_model: Factory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trials, "WORDS", 7)
    monkeypatch.setattr(trials, "TRIALS", 2)
    model = tiny_model("bert")
    words = model.get_input_embeddings().num_embeddings
    opened = []

    def time(models: dict[str, PreTrainedModel], batches: Batches, *_: Any) -> dict[str, Any]:
        opened.extend(model(**batches[0]).logits.shape for model in models.values())
        assert all(model.get_input_embeddings().num_embeddings == 7 for model in models.values())
        return {name: SimpleNamespace(p50_ms=1.0) for name in models}

    monkeypatch.setattr(trials, "time_batches", time)
    place = DeploymentTarget("pytorch", "fp32", random_inputs([model], 3, 32))
    trials.fit_costs(model, calibration.curves, place)
    assert opened == [(3, model.config.num_labels)] * 2
    assert model.get_input_embeddings().num_embeddings == words > 7


@pytest.mark.parametrize("cost", [Weights(), Flops(), FittedMilliseconds(1, 2, 3, 4, ONES, ONES)])
def test_a_plan_costs_what_its_choices_do(cost: Cost, calibration: Calibration, tiny_model: Factory) -> None:
    full = full_cost(calibration.curves, cost)
    shapes = Encoder(tiny_model("bert")).shapes
    for share in (0.2, 0.5, 0.99):
        choices = allocate(calibration.curves, cost, share * full)
        plan = make_allocated_plan("bert", shapes, calibration.curves, choices)
        assert plan_cost(plan, cost) == pytest.approx(sum(choice.cost for choice in choices))
        assert plan_cost(plan, cost) <= share * full
    assert plan_cost(dense_plan("bert", shapes), cost) == pytest.approx(full)


def test_speedup_from_end_to_end(tiny_model: Factory, tiny_batches: Batches) -> None:
    config = AutoConfig(Speedup(1.3, length=32), damping=1e-2)
    pruned, report = prune(tiny_model("bert"), config, tiny_batches)
    assert 0 < report.sparsity < 1
    assert count_flops(pruned, 1, 32) < count_flops(tiny_model("bert"), 1, 32)


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

    monkeypatch.setattr(trials, "TRIALS", 3)
    monkeypatch.setattr(trials, "fit", fit)
    monkeypatch.setattr(speed, "time_batches", time)
    model = tiny_model("bert")
    config = AutoConfig(Speedup(2.0, runtime="onnx", precision="int8", length=32), damping=1e-2)
    pruned, report = prune(model, config, tiny_batches)
    assert min(timed) > 0
    assert report.sparsity == pytest.approx(0.5, abs=0.03)
    assert count_flops(pruned, 1, 32) < count_flops(model, 1, 32)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"speedup_runtime": "onnx", "speedup_precision": "bf16"}, "no bfloat16"),
        ({"speedup_precision": "int8"}, "another speedup_runtime"),
        ({"speedup_runtime": "tensorrt"}, "speedup_runtime must be one of"),
    ],
)
def test_impossible_places(options: dict[str, Any], message: str) -> None:
    with pytest.raises(OptionError, match=message):
        AutoConfig(Speedup(2.0), **options)


def test_where_no_speedup_is_measured() -> None:
    with pytest.raises(OptionError, match="name the speedup itself"):
        AutoConfig(Sparsity(0.5))


@pytest.mark.parametrize("speedup", [1.0, 0.5, -2.0, float("inf"), float("nan")])
def test_impossible_speedups(speedup: float) -> None:
    with pytest.raises(OptionError, match="speed-up"):
        AutoConfig(Speedup(speedup))


@pytest.mark.parametrize("options", [{"sparsity": 0.5}, {"sparsity": 0.9}, {"flops": 0.6}])
def test_auto_meets_its_budget(options: dict[str, float], tiny_model: Factory, tiny_batches: Batches) -> None:
    model = tiny_model("bert")
    _, report = prune(model, PruneConfig(**options, damping=1e-2), tiny_batches)  # type: ignore[arg-type]
    if "sparsity" in options:
        assert options["sparsity"] <= report.sparsity <= options["sparsity"] + 0.03
    assert set(report.seconds) == {"statistics", "curves", "allocation", "compensation"}


def test_auto_needs_no_labels_and_ignores_them(tiny_model: Factory, tiny_batches: Batches) -> None:
    model = tiny_model("bert")
    unlabelled = [{name: value for name, value in batch.items() if name != "labels"} for batch in tiny_batches]
    plans = [prune(model, AutoConfig(Sparsity(0.5)), data)[1].plan for data in (tiny_batches, unlabelled)]
    assert plans[0] == plans[1]
    labelled = prune(model, AutoConfig(Sparsity(0.5), use_labels=True), tiny_batches)[1].plan
    assert labelled != plans[0]


def test_a_calibration_serves_many_budgets(tiny_model: Factory, tiny_batches: Batches, tmp_path: Path) -> None:
    model = tiny_model("bert")
    config = AutoConfig(Sparsity(0.5))
    made = calibrate(model, config, tiny_batches)
    made.save(tmp_path / "calibration")
    loaded = Calibration.load(tmp_path / "calibration")
    for sparsity in (0.3, 0.8):
        direct, again = (prune(model, AutoConfig(Sparsity(sparsity)), data)[1].plan for data in (tiny_batches, loaded))
        assert direct == again
    other = tiny_model("bert", vocab_size=101)
    with pytest.raises(ModelError, match="another model"):
        prune(other, config, loaded)
    with pytest.raises(OptionError, match="samples"):
        prune(model, AutoConfig(Sparsity(0.5), samples=3), loaded)
    with pytest.raises(OptionError, match="auto only"):
        prune(model, PgbConfig(Sparsity(0.5)), loaded)


def test_damaged_calibrations(tmp_path: Path, calibration: Calibration) -> None:
    with pytest.raises(CheckpointError, match="calibrate again"):
        Calibration.load(tmp_path)
    calibration.save(tmp_path / "c")
    path = tmp_path / "c" / "calibration.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(CheckpointError, match="calibrate again"):
        Calibration.load(tmp_path / "c")


@pytest.mark.parametrize(
    "options",
    [
        {"method": "auto", "threshold": 1e-5},
        {"method": "auto", "sparsity": 0.5, "grouping": "assign"},
        {"method": "auto", "sparsity": 0.5, "compensation": "none"},
        {"method": "pgb", "flops": 0.5},
        {"method": "pgb", "sparsity": 0.5, "metric": "plain"},
        {"method": "pgb", "sparsity": 0.5, "token_weighting": 0.0},
        {"method": "pgb", "sparsity": 0.5, "structures": ("removal",)},
    ],
    ids=str,
)
def test_options_of_the_other_method(options: dict[str, Any]) -> None:
    with pytest.raises(OptionError, match="option of the method"):
        PruneConfig(**options)


@pytest.mark.parametrize(
    "options",
    [
        {"metric": "plain", "use_labels": True},
        {"metric": "plain", "token_weighting": 0.9},
        {"group_chunk": 32},
        {"method": "pgb", "grouping": "none", "permutation_steps": 3},
        {"method": "pgb", "obs_block_size": 16},
        {"method": "obert", "score": "magnitude", "fisher_batch_size": 4},
    ],
    ids=str,
)
def test_options_that_would_do_nothing(options: dict[str, Any]) -> None:
    with pytest.raises(OptionError, match="does nothing with"):
        AutoConfig(Sparsity(0.5), **options)


def test_gradients_from_labels_need_labels(tiny_model: Factory, tiny_batches: Batches) -> None:
    unlabelled = [{name: value for name, value in batch.items() if name != "labels"} for batch in tiny_batches]
    with pytest.raises(OptionError, match="need labelled data"):
        calibrate(tiny_model("bert"), AutoConfig(Sparsity(0.5), use_labels=True), unlabelled)


def test_images_have_many_tokens() -> None:
    images = ({"pixel_values": torch.zeros(64, 3, 2, 2)} for _ in range(100))
    assert sum(len(batch["pixel_values"]) for batch in make_batches(images, None, None, 32, 0)) == 512


@pytest.mark.parametrize(("length", "texts"), [(2, 4096), (16, 1536), (100, 512)])
def test_enough_tokens_are_calibrated_on(length: int, texts: int) -> None:
    ids = torch.ones(32, length, dtype=torch.long)
    endless = ({"input_ids": ids, "attention_mask": ids} for _ in range(1000))
    assert sum(len(batch["input_ids"]) for batch in make_batches(endless, None, None, 32, 0)) == texts


def test_tokens_are_weighed_by_their_gradients() -> None:
    delta = torch.tensor([[[1.0, 0.0], [0.0, 2.0], [9.0, 9.0]], [[1.0, 1.0], [1.0, 1.0], [0.0, 0.0]]])
    mask = torch.tensor([[True, True, False], [True, True, True]])
    torch.testing.assert_close(weigh_tokens(delta, mask, 1.0), torch.tensor([0.4, 1.6, 1.5, 1.5, 0.0]))
    torch.testing.assert_close(weigh_tokens(delta, mask, 0.5), torch.tensor([0.7, 1.3, 1.25, 1.25, 0.5]))


def test_weighed_moments_are_those_of_repeated_tokens() -> None:
    generator = torch.Generator().manual_seed(0)
    x, seen, drift = (torch.randn(6, width, generator=generator, dtype=torch.float64) for width in (4, 3, 2))
    weights = torch.tensor([1, 2, 3, 1, 1, 2])
    weighed, repeated = (Moments(4, paired=True, pruned_width=3, drift_width=2) for _ in range(2))
    for part in (slice(0, 4), slice(4, 6)):
        weighed.update(x[part], seen[part], drift[part], weights[part].double())
        repeated.update(*(t[part].repeat_interleave(weights[part], 0) for t in (x, seen, drift)))
    for name in ("mean", "pruned_mean", "covariance", "cross_covariance", "drift_mean", "drift_covariance"):
        torch.testing.assert_close(getattr(weighed, name), getattr(repeated, name), msg=name)


def test_targets_may_be_followed_instead_of_inputs() -> None:
    generator = torch.Generator().manual_seed(0)
    x, seen = (torch.randn(40, width, generator=generator, dtype=torch.float64) + 1 for width in (6, 4))
    weight, bias = (torch.randn(*shape, generator=generator, dtype=torch.float64) for shape in ((3, 6), (3,)))
    inputs, targets = Moments(6, True, pruned_width=4), Moments(3, True, pruned_width=4, of_targets=True)
    inputs.update(x, seen)
    targets.update(x @ weight.T, seen)
    for found, expected in zip(
        compensate(weight, bias, Dense(), targets, 1e-3), compensate(weight, bias, Dense(), inputs, 1e-3), strict=True
    ):
        torch.testing.assert_close(found, expected)


def test_moments_of_kept_channels() -> None:
    x = torch.randn(50, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64) + 3
    alone, paired = Moments(5, paired=False), Moments(5, paired=True, pruned_width=2)
    alone.update(x)
    paired.update(x, x[:, [3, 1]])
    kept = alone.keep((3, 1))
    for name in ("mean", "pruned_mean", "covariance", "cross_covariance"):
        torch.testing.assert_close(getattr(kept, name), getattr(paired, name), msg=name)


@pytest.mark.parametrize("structures", [(), ("magic",)])
def test_unknown_structures(structures: Any) -> None:
    with pytest.raises(OptionError, match="structures"):
        AutoConfig(Sparsity(0.5), structures=structures)


def test_whole_sub_layers_may_go(tiny_model: Factory, tiny_batches: Batches) -> None:
    _, report = prune(tiny_model("bert"), AutoConfig(Sparsity(0.985), damping=1e-2), tiny_batches)
    dropped = [isinstance(matrix.structure, Dropped) for _, _, matrix in report.plan]
    assert any(dropped)
    assert not all(dropped)
