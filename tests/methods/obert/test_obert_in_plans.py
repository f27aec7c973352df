"""oBERT inside what other methods left: groups, low ranks and kept units are thinned out further."""

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import AutoModelForSequenceClassification, AutoTokenizer, PreTrainedModel

from bertsurgeon import (
    AutoConfig,
    Groups,
    ObertConfig,
    PgbConfig,
    Sparsity,
    get_plan,
    is_sparse,
    load_model,
    prune,
    save_model,
    to_dense,
)
from bertsurgeon.architectures import Encoder, get_architecture
from bertsurgeon.benchmark import measure_sizes
from bertsurgeon.calibration import make_batches, split_rows
from bertsurgeon.checkpoint import FORMAT_VERSION, attach_plan, count_kept
from bertsurgeon.compensation import apply_plan, refit_masked
from bertsurgeon.errors import CheckpointError, ModelError, OptionError
from bertsurgeon.gradual import Distillation, LearningRate, Pruning, Recipe
from bertsurgeon.gradual.gradual_pruning import train_gradually
from bertsurgeon.layers import GroupedLinear, dense_parts
from bertsurgeon.layers.masks import encoder_weights, enforce_masks, masks_of, sparsity_of
from bertsurgeon.methods.obert.collect import collect_inverses, plan_passes
from bertsurgeon.methods.registry import METHODS
from bertsurgeon.plan import ROLES, Dense, Dropped, Grouped, LayerPlan, LowRank, ModelPlan, Role, Units
from bertsurgeon.recovery import MaskCallback
from bertsurgeon.tasks import tokenize
from bertsurgeon.testing import toy_classifier
from cli_helpers import files, succeed, tokenized_texts, write_data, write_model

NAMES = ["bert", "distilbert", "roberta"]
Batches = list[dict[str, Tensor]]
Factory = Callable[..., PreTrainedModel]
LogitsOf = Callable[[PreTrainedModel, dict[str, Tensor]], Tensor]


def planned(model: PreTrainedModel) -> PreTrainedModel:
    """Every structure there is: uneven groups, low ranks, kept units, a dropped matrix and dropped sub-layers."""
    architecture = get_architecture(model.config.model_type)
    shapes = Encoder(model).shapes
    uneven = (tuple(range(0, 40, 2)), tuple(range(1, 40, 2))), (tuple(range(12)), tuple(range(12, 44)))
    first: dict[Any, Any] = {role: LowRank(8) for role in ROLES} | {"value": Dense(), "query": Grouped(*uneven)}
    units = {"feed_forward": Units((tuple(range(0, 96, 2)),), 96, 1)}
    only: dict[Any, Any] = {role: Dense() if role in ("intermediate", "output") else Dropped() for role in ROLES}
    constant: dict[Any, Any] = {role: Dense() for role in ROLES} | {"query": Dropped(), "key": Dropped()}
    layers = (
        LayerPlan.build(shapes[0], first, units),  # type: ignore[arg-type]
        LayerPlan.build(shapes[1], constant),
        LayerPlan.build(shapes[2], only),
    )
    plan = ModelPlan(architecture.name, layers)
    pruned = apply_plan(model, plan, "none")
    attach_plan(pruned, plan)
    return pruned.eval()


def config(sparsity: float = 0.5, **options: Any) -> ObertConfig:
    """The paper's own weights, without compensation."""
    return ObertConfig(Sparsity(sparsity), **{"fisher_damping": 1e-4, "compensation": "none", **options})


def masks(model: PreTrainedModel) -> dict[Any, Tensor]:
    return masks_of(model)


def parameters_of(module: nn.Module) -> list[nn.Parameter]:
    return [parameter for name, parameter in module.named_parameters() if name in ("weight", "up")]


@pytest.mark.parametrize("name", NAMES)
def test_collected_inverses(name: str, tiny_model: Factory, tiny_batches: Batches) -> None:
    """The Fisher blocks of parts are those of the gradients of the parameters they lie in."""
    model = planned(tiny_model(name))
    modules = {(layer, role): Encoder(model).find_matrix(layer, role) for layer in range(3) for role in ROLES}
    gradients: dict[Any, list[Tensor]] = {}
    count = 0
    for batch in tiny_batches:
        for first in range(len(batch["input_ids"])):
            sample = {key: value[first : first + 1] for key, value in batch.items()}
            loss = model(**sample).loss
            count += 1
            for place, module in modules.items():
                if module is None or not (parameters := parameters_of(module)):
                    continue
                g = torch.autograd.grad(loss, parameters, retain_graph=True)
                twin = copy.deepcopy(module)
                for parameter, value in zip(parameters_of(twin), g, strict=True):
                    parameter.data = value
                for number, part in enumerate(dense_parts(twin)):
                    gradients.setdefault((*place, number), []).append(part.weight.detach())
    found_masks = masks(model)
    shapes = {key: (len(mask), mask.shape[1]) for key, mask in found_masks.items()}
    (ranges,) = plan_passes(shapes, 12, torch.float64, 10**9)
    found = collect_inverses(
        model, tiny_batches, found_masks, ranges, lambda m, b, _: m(**b).loss * len(b["input_ids"]),
        block_size=12, damping=1e-2, dtype=torch.float64,
    )  # fmt: skip
    assert {row_range.key for row_range in found} == set(gradients)
    for row_range, fisher in found.items():
        g = split_rows(torch.stack(gradients[row_range.key]).double(), 12).transpose(0, 1)
        expected = torch.linalg.inv(g.transpose(1, 2) @ g / count + 1e-2 * torch.eye(12, dtype=torch.float64))
        torch.testing.assert_close(fisher.inverse, expected, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("pattern", ["unstructured", "1x4"])
@pytest.mark.parametrize("name", NAMES)
def test_round_trip(
    name: str, pattern: str, tiny_model: Factory, tiny_batches: Batches, logits_of: LogitsOf, tmp_path: Path
) -> None:
    model = planned(tiny_model(name))
    plan = get_plan(model)
    assert plan is not None
    save_model(model, tmp_path / "before")
    pruned, report = prune(model, config(pattern=pattern, sparsity=0.75, recomputations=2), tiny_batches)
    assert sparsity_of(masks(pruned)) == pytest.approx(0.75, abs=1e-3)
    assert report.plan == get_plan(pruned) == plan
    assert (
        report.kept == measure_sizes(pruned).encoder_weights == sum(int(mask.sum()) for mask in masks(pruned).values())
    )
    assert report.sparsity == pytest.approx(1 - 0.25 * plan.kept / plan.size, abs=1e-3)
    assert not is_sparse(model)
    encoder = {weight.data_ptr() for weight in encoder_weights(pruned).values()}
    for key, value in pruned.named_parameters():
        assert torch.equal(value, dict(model.named_parameters())[key]) == (value.data_ptr() not in encoder)
    if pattern == "1x4":
        assert all((mask.reshape(-1, 4).sum(1) % 4 == 0).all() for mask in masks(pruned).values())
    save_model(pruned, tmp_path / "first")
    assert json.loads((tmp_path / "first" / "config.json").read_text())["quantization_config"]["format_version"] == 2
    for load in (load_model, AutoModelForSequenceClassification.from_pretrained):
        again = load(tmp_path / "first")
        assert is_sparse(again)
        assert get_plan(again) == plan
        assert [type(module) for module in again.modules()] == [type(module) for module in pruned.modules()]
        for key, value in pruned.state_dict().items():
            assert torch.equal(again.state_dict()[key], value), key
        assert torch.equal(logits_of(again, tiny_batches[0]), logits_of(pruned, tiny_batches[0]))
        again.save_pretrained(tmp_path / load.__name__)
        for file in ("model.safetensors", "config.json"):
            assert (tmp_path / load.__name__ / file).read_bytes() == (tmp_path / "first" / file).read_bytes()
        assert count_kept(again) == count_kept(pruned)
    sizes = [(tmp_path / folder / "model.safetensors").stat().st_size for folder in ("before", "first")]
    assert sizes[0] - sizes[1] > 0.7 * 0.75 * 4 * plan.kept  # bits, and the names of more tensors, take some of it
    torch.testing.assert_close(logits_of(to_dense(pruned), tiny_batches[0]), logits_of(pruned, tiny_batches[0]))


@pytest.mark.parametrize("name", NAMES)
def test_compensation_inside_structures(
    name: str, tiny_model: Factory, tiny_batches: Batches, logits_of: LogitsOf
) -> None:
    model = planned(tiny_model(name))
    before = copy.deepcopy(model.state_dict())
    plain, _ = prune(model, config(sparsity=0.6), tiny_batches)
    refitted, report = prune(model, config(sparsity=0.6, compensation="sequential"), tiny_batches)
    assert list(report.seconds) == ["round 1", "compensation"]
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert all(torch.equal(mask, masks(plain)[key]) for key, mask in masks(refitted).items())

    def error(pruned: PreTrainedModel) -> float:
        return float(sum((logits_of(pruned, b) - logits_of(model, b)).square().sum() for b in tiny_batches))

    assert error(refitted) < 0.8 * error(plain)


def test_fits_inside_structures_are_least_squares(tiny_model: Factory, tiny_batches: Batches) -> None:
    """The query of the first layer is grouped and its key a low rank: both against lstsq on the support of each row."""
    model = planned(tiny_model("bert"))
    generator = torch.Generator().manual_seed(0)
    kept = {key: torch.ones_like(mask) for key, mask in masks(model).items()}
    for place in kept:
        if place[:2] in ((0, "query"), (0, "key")):
            kept[place] = torch.rand(kept[place].shape, generator=generator) < 0.5
    pruned = copy.deepcopy(model)
    refit_masked(model, pruned, kept, tiny_batches, damping=1e-6)
    old, new = (one.bert.encoder.layer[0].attention.self for one in (model, pruned))  # type: ignore[union-attr]
    embedded = [model.bert.embeddings(batch["input_ids"])[batch["attention_mask"].bool()] for batch in tiny_batches]  # type: ignore[operator, union-attr]
    x = torch.cat(embedded).detach().double()

    def fits(inputs: Tensor, weight: Tensor, bias: Tensor | None, wanted: Tensor, support: Tensor) -> None:
        assert torch.equal(weight != 0, support)
        for row, columns in enumerate(support):
            design = torch.cat([inputs[:, columns], torch.ones(len(x), 1, dtype=torch.float64)], 1)
            left = wanted[:, row] - design @ torch.linalg.lstsq(design, wanted[:, row, None]).solution[:, 0]
            offset = 0 if bias is None else bias[row]
            found = wanted[:, row] - inputs @ weight[row].double() - offset
            found = found - found.mean() if bias is None else found
            assert float(found.norm()) < float(left.norm()) * 1.001 + 1e-3

    support = torch.zeros_like(old.query.dense_weight(), dtype=torch.bool)
    for number, (_, rows, columns) in enumerate(old.query.blocks()):
        support[rows.unsqueeze(1), columns] = kept[0, "query", number]
    wanted = x @ old.query.dense_weight().double().T + old.query.bias.detach().double()
    fits(x, new.query.dense_weight(), new.query.bias.detach(), wanted, support)
    narrow = x @ old.key.weight.detach().double().T
    fits(x, new.key.weight.detach(), None, narrow, kept[0, "key", 0])
    wanted = narrow @ old.key.up.detach().double().T + old.key.bias.detach().double()
    inner = x @ new.key.weight.detach().double().T
    fits(inner, new.key.up.detach(), new.key.bias.detach(), wanted, kept[0, "key", 1])


def test_groups_that_runs_do_not_fit(tiny_model: Factory, tiny_batches: Batches) -> None:
    model = tiny_model("bert")
    pruned, _ = prune(model, PgbConfig(Groups(5), samples=24), tiny_batches)
    assert prune(pruned, config(), tiny_batches)[1].sparsity == pytest.approx(0.9, abs=0.01)
    with pytest.raises(OptionError, match="runs of 4"):
        prune(pruned, config(pattern="1x4"), tiny_batches)
    for method in ("pgb", "auto"):
        with pytest.raises(ModelError, match="use the method obert"):
            prune(pruned, METHODS[method].config(Sparsity(0.5)), tiny_batches)


def test_damaged_entries(tiny_model: Factory, tiny_batches: Batches, tmp_path: Path) -> None:
    pruned, _ = prune(planned(tiny_model("bert")), config(), tiny_batches)
    pruned.save_pretrained(tmp_path)
    content = json.loads((tmp_path / "config.json").read_text())
    sparse = content["quantization_config"]["sparse"]
    layer = sparse["values"][0]
    assert {"key", "key.up", "value", "query"} <= set(layer)
    for damage in (
        {"sparse": {**sparse, "block": 5}},
        {"sparse": {**sparse, "values": sparse["values"][:2]}},
        {"sparse": {**sparse, "values": [{**layer, "value": 10**6}, *sparse["values"][1:]]}},
        {"sparse": {**sparse, "values": [{"value": layer["value"]}, *sparse["values"][1:]]}},
        {"sparse": {**sparse, "embeddings": ["nowhere"]}},
        {"format_version": FORMAT_VERSION + 1},
    ):
        damaged = {**content, "quantization_config": {**content["quantization_config"], **damage}}
        (tmp_path / "config.json").write_text(json.dumps(damaged))
        for load in (load_model, AutoModelForSequenceClassification.from_pretrained):
            with pytest.raises(CheckpointError) as error:
                load(tmp_path)
            assert "\n" not in str(error.value)
    (tmp_path / "config.json").write_text(json.dumps(content))
    state = load_file(tmp_path / "model.safetensors")
    state["bert.encoder.layer.0.attention.self.key.up_bitmap"][0] ^= 1
    save_file(state, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match=r"attention\.self\.key"):
        load_model(tmp_path)


def test_the_command_line(tmp_path: Path) -> None:
    write_model(tmp_path / "dense")
    write_data(tmp_path / "train.csv", 64, seed=1)
    write_data(tmp_path / "validation.csv", 32, seed=2)
    folder, out = tmp_path / "grouped", tmp_path / "sparse"
    succeed("prune", tmp_path / "dense", "--method", "pgb", "--groups", "2", *files(tmp_path), "-o", folder)
    shown = succeed("prune", folder, "--method", "obert", "--sparsity", "0.5", *files(tmp_path), "-o", out)
    assert "75.0 % of 16,384 encoder weights removed, 25.0 % kept" in shown.stdout
    assert "G=2" in succeed("inspect", out).stdout
    before = masks(load_model(out))
    for command in ("recover", "gradual"):
        options = ["--epochs", "1", "--teacher", tmp_path / "dense", *files(tmp_path)]
        options += ["--recipe", "sparse-transfer"] if command == "gradual" else []
        succeed(command, out, "-o", tmp_path / command, *options)
        after = load_model(tmp_path / command)
        assert all(torch.equal(mask, before[key]) for key, mask in masks(after).items())
        assert not torch.equal(after.classifier.weight, load_model(out).classifier.weight)  # type: ignore[union-attr]
        assert any(isinstance(module, GroupedLinear) for module in after.modules())


def test_gradually(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed after a pruning and resumed, with groups: the same weights as without."""
    tokenizer = AutoTokenizer.from_pretrained(write_model(tmp_path / "dense"))
    dataset = tokenized_texts(tokenizer, 64)
    grouped, _ = prune(load_model(tmp_path / "dense"), PgbConfig(Groups(2), samples=16), dataset, tokenizer)
    pruning = Pruning(0.6, 0.3, 0.5, 1.5, 0.5, block_size=16, damping=1e-4, gradients=8, gradient_batch_size=4)
    recipe = Recipe(2, 8, LearningRate(1e-3, 1e-4), Distillation(), pruning)
    models = [copy.deepcopy(grouped) for _ in range(3)]
    train_gradually(models[0], recipe, dataset, tokenizer, work_dir=tmp_path / "whole")
    original = MaskCallback.on_optimizer_step

    def kill(callback: MaskCallback, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        original(callback, args, state, control, **kwargs)
        if state.global_step == 11:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(MaskCallback, "on_optimizer_step", kill)
        with pytest.raises(KeyboardInterrupt):
            train_gradually(models[1], recipe, dataset, tokenizer, work_dir=tmp_path / "killed")
    train_gradually(models[2], recipe, dataset, tokenizer, work_dir=tmp_path / "killed", resume=True)
    assert sparsity_of(masks(models[0])) == pytest.approx(0.6, abs=1e-3)
    for key, value in models[0].state_dict().items():
        assert torch.equal(models[2].state_dict()[key], value), key


@pytest.mark.parametrize("role", ["value", "intermediate"])
@pytest.mark.parametrize("layer", [0, 1])
def test_what_reads_nothing_but_rounding_stays(role: Role, layer: int) -> None:
    """Behind a matrix without weights all inputs are constants: no weight is worth a ratio of rounding errors."""
    model, tokenizer, texts = toy_classifier()
    batches = make_batches(tokenize(texts, tokenizer), tokenizer, None, 32, 0)
    pruned = copy.deepcopy(model)
    kept = masks_of(pruned)
    kept[layer, role, 0][:] = False
    enforce_masks(pruned, kept)
    refit_masked(model, pruned, kept, batches)
    assert max(float(weight.detach().abs().max()) for weight in encoder_weights(pruned).values()) < 10
    assert all(torch.isfinite(parameter).all() for parameter in pruned.parameters())


def test_almost_nothing_left() -> None:
    model, tokenizer, texts = toy_classifier()
    pruned, _ = prune(model, ObertConfig(Sparsity(0.98)), tokenize(texts, tokenizer), tokenizer)
    assert all(torch.isfinite(parameter).all() for parameter in pruned.parameters())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision(dtype: torch.dtype) -> None:
    """Sums of squares and gradients of low ranks are computed in single precision."""
    model, tokenizer, texts = toy_classifier()
    data = tokenize(texts, tokenizer)
    low, _ = prune(model, AutoConfig(Sparsity(0.7), structures=("low_rank",)), data, tokenizer)
    pruned, report = prune(low.to(dtype), ObertConfig(Sparsity(0.5)), data, tokenizer)  # type: ignore[arg-type]
    assert report.sparse is not None
    assert report.sparse.sparsity == pytest.approx(0.5, abs=0.01)
    assert {parameter.dtype for parameter in pruned.parameters()} == {dtype}
    with torch.no_grad():  # variances of the neurons of some thousands, which half precision cannot add up
        for layer in model.bert.encoder.layer:
            layer.intermediate.dense.weight.mul_(30)
            layer.output.dense.weight.div_(30)
    for method in ("auto", "pgb"):
        pruned, _ = prune(model.to(dtype), METHODS[method].config(Sparsity(0.5)), data, tokenizer)  # type: ignore[arg-type]
        assert all(torch.isfinite(parameter).all() for parameter in pruned.parameters())
