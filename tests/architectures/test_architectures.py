"""Every architecture: nothing changes where everything is kept, and what is pruned says the same everywhere."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx_ir
import pytest
import torch
from torch import Tensor
from transformers import (
    AutoModelForCausalLM,
    AutoModelForImageClassification,
    AutoModelForSequenceClassification,
    PreTrainedModel,
    ViTImageProcessorPil,
)

from architecture_cases import CONFIGS, make_batches, make_model
from bertsurgeon import (
    AutoConfig,
    ExportConfig,
    LayerDropConfig,
    ObertConfig,
    Sparsity,
    drop_layers,
    export,
    get_plan,
    load_model,
    open_exported,
    prune,
    save_model,
    to_dense,
)
from bertsurgeon.architectures import ARCHITECTURES, Encoder, unfuse
from bertsurgeon.calibration import summed_loss
from bertsurgeon.checkpoint import attach_plan
from bertsurgeon.compensation import apply_plan
from bertsurgeon.errors import ModelError
from bertsurgeon.exporting.lowering import Graph, lower
from bertsurgeon.exporting.onnx_graph import trace
from bertsurgeon.exporting.verify import to_arrays
from bertsurgeon.layers.masks import encoder_weights
from bertsurgeon.methods.registry import METHODS
from bertsurgeon.plan import Dense, Dropped, LayerPlan, LowRank, ModelPlan, Structure, Units, dense_plan
from bertsurgeon.runtime import open_session

CASES = [(name, version) for name, versions in CONFIGS.items() for version in range(len(versions))]
DECODERS = [case for case in CASES if ARCHITECTURES[case[0]].decoder]
EXPORTED = [("modernbert", 0)]
"""Tracing takes seconds; experiments/architecture_table.py does it for all."""

Batch = dict[str, Tensor]


def auto_class(name: str) -> Any:
    if name == "vit":
        return AutoModelForImageClassification
    return AutoModelForCausalLM if ARCHITECTURES[name].decoder else AutoModelForSequenceClassification


def make(name: str, version: int) -> PreTrainedModel:
    return make_model(auto_class(name), name, version)


@torch.no_grad()
def answers(model: PreTrainedModel, batch: Batch) -> Tensor:
    """Logits of real tokens, or of texts and images."""
    logits: Tensor = model(**batch).logits
    return logits[batch["attention_mask"].bool()] if logits.dim() == 3 else logits


def assert_same(first: PreTrainedModel, second: PreTrainedModel, batches: list[Batch], tolerance: float = 1e-4) -> None:
    for batch in batches:
        torch.testing.assert_close(answers(first, batch), answers(second, batch), rtol=1e-4, atol=tolerance)


def mixed_plan(model: PreTrainedModel, name: str, dropped: str = "attention") -> ModelPlan:
    """Removed units and low rank in the first layer; a dropped sub-layer and removed units in the second."""
    architecture = ARCHITECTURES[name]
    shapes = Encoder(model).shapes
    width = architecture.unit_width(model.config)
    heads, neurons = shapes[0]["query"][0] // width, shapes[0]["intermediate"][0]
    kept = {
        "attention": Units((tuple(range(1, heads, 2)),), heads, width),
        "feed_forward": Units((tuple(range(0, neurons, 3)),), neurons, 1),
    }
    first: dict[Any, Structure] = {role: LowRank(4) for role in architecture.roles}
    first["value"] = Dense()
    second: dict[Any, Structure] = dict.fromkeys(architecture.roles, Dense())
    for role in architecture.sub_layers[dropped]:  # type: ignore[index]
        second[role] = Dropped()
    remaining: Any = {sub_layer: units for sub_layer, units in kept.items() if sub_layer != dropped}
    layers = LayerPlan.build(shapes[0], first, kept), LayerPlan.build(shapes[1], second, remaining)  # type: ignore[arg-type]
    return ModelPlan(name, layers)


def apply_mixed(model: PreTrainedModel, name: str, batches: list[Batch], **options: Any) -> PreTrainedModel:
    plan = mixed_plan(model, name, options.pop("dropped", "attention"))
    mode = options.pop("compensation", "sequential")
    pruned = apply_plan(unfuse(model), plan, mode, batches=batches, **options)
    attach_plan(pruned, plan)
    return pruned


def test_every_architecture_has_a_line() -> None:
    assert set(CONFIGS) == set(ARCHITECTURES)


@pytest.mark.parametrize(("name", "version"), CASES)
def test_nothing_changes_where_everything_is_kept(name: str, version: int, tmp_path: Path) -> None:
    model, batches = make(name, version), make_batches(name)
    plan = dense_plan(name, Encoder(model).shapes)
    assert len(plan.layers) == 2
    pruned = apply_plan(unfuse(model), plan, "sequential", batches=batches)
    for batch in batches:
        assert torch.equal(answers(pruned, batch), answers(model, batch))
    attach_plan(pruned, plan)
    pruned.save_pretrained(tmp_path)
    assert_same(load_model(tmp_path), model, batches, 1e-6)


@pytest.mark.parametrize("dropped", ["attention", "feed_forward"])
@pytest.mark.parametrize(("name", "version"), CASES)
def test_pruned_models_are_saved_loaded_and_made_dense(name: str, version: int, dropped: str, tmp_path: Path) -> None:
    model, batches = make(name, version), make_batches(name)
    target = "residual" if dropped == "attention" else "dense"
    pruned = apply_mixed(model, name, batches, dropped=dropped, target=target)
    assert not torch.allclose(answers(pruned, batches[0]), answers(model, batches[0]), atol=1e-3)
    pruned.save_pretrained(tmp_path)
    loaded = auto_class(name).from_pretrained(tmp_path).eval()
    assert get_plan(loaded) == get_plan(pruned)
    assert_same(loaded, pruned, batches, 1e-6)
    assert_same(load_model(tmp_path), pruned, batches, 1e-6)
    try:
        twin = to_dense(pruned)
    except ModelError:  # where the stock model has no biases
        assert not ARCHITECTURES[name].bias_options
        return
    assert {type(module) for module in twin.modules()} == {type(module) for module in model.modules()}
    assert_same(twin, pruned, batches)


@pytest.mark.parametrize(("name", "version"), CASES)
def test_every_method(name: str, version: int, tmp_path: Path) -> None:
    model, batches = make(name, version), make_batches(name)
    before = answers(model, batches[0])
    for method in ("auto", "pgb", "obert"):
        config = METHODS[method].config(Sparsity(0.5), batch_size=8)  # type: ignore[arg-type]
        pruned, report = prune(model, config, batches)
        assert report.sparsity == pytest.approx(0.5, abs=0.02)
        pruned.save_pretrained(tmp_path / method)
        assert_same(load_model(tmp_path / method), pruned, batches, 1e-6)
    assert torch.equal(answers(model, batches[0]), before)
    assert_same(to_dense(pruned), pruned, batches)


@pytest.mark.parametrize(("name", "version"), EXPORTED)
def test_exported_models_say_the_same(name: str, version: int, tmp_path: Path) -> None:
    model, batches = make(name, version), make_batches(name)
    pruned = apply_mixed(model, name, batches, compensation="none")
    inputs = ("pixel_values",) if name == "vit" else ("input_ids", "attention_mask")
    onnx_ir.save(trace(Graph(lower(pruned), inputs, ("logits",))), tmp_path / "model.onnx")
    session = open_session("onnx", tmp_path / "model.onnx", "fp32")
    for batch in batches:
        found = torch.from_numpy(np.array(session.run(to_arrays(batch, inputs))["logits"]))
        found = found[batch["attention_mask"].bool()] if found.dim() == 3 else found
        torch.testing.assert_close(found, answers(pruned, batch), rtol=1e-4, atol=2e-5)


def test_images_are_exported_too(tmp_path: Path) -> None:
    pytest.importorskip("PIL")
    batches = make_batches("vit", 1)
    pruned = apply_mixed(make("vit", 0), "vit", batches, compensation="none")
    manifest = export(pruned, ExportConfig(), batches, ViTImageProcessorPil(), output=tmp_path / "out")
    assert manifest.inputs == ("pixel_values",)
    found = open_exported(tmp_path / "out")(**batches[0]).logits
    torch.testing.assert_close(found, answers(pruned, batches[0]), rtol=1e-4, atol=2e-5)


@pytest.mark.parametrize(("name", "version"), DECODERS)
def test_pruned_decoders_generate_with_a_cache(name: str, version: int) -> None:
    model, batches = make(name, version), make_batches(name)
    plan = mixed_plan(model, name)
    layers = ModelPlan(
        name, plan.layers[::-1]
    )  # the first layer, which counts the tokens in the cache, loses attention
    pruned = apply_plan(unfuse(model), layers, "sequential", batches=batches)
    attach_plan(pruned, layers)
    prompt = {key: value.flip(1) for key, value in batches[0].items()}  # padded on the left
    with torch.no_grad():
        cached, uncached = (
            pruned.generate(**prompt, max_new_tokens=8, do_sample=False, use_cache=use_cache)  # type: ignore[operator]
            for use_cache in (True, False)
        )
    assert torch.equal(cached, uncached)
    assert cached.shape[1] > prompt["input_ids"].shape[1] + 1


def test_the_fisher_information_of_next_tokens() -> None:
    """The surrogate's gradients have the second moment of the predictions at real tokens, and none at padding."""
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 3, 5, generator=generator, requires_grad=True)
    mask = torch.tensor([[1, 1, 1], [1, 0, 0]])

    class StubForCausalLM:
        config = SimpleNamespace(model_type="llama")

        def __call__(self, **_: Tensor) -> dict[str, Tensor]:
            return {"logits": logits}

    batch = {"input_ids": torch.zeros(2, 3, dtype=torch.long), "attention_mask": mask}
    draws = [
        torch.autograd.grad(summed_loss(StubForCausalLM(), batch, generator), logits)[0].square()  # type: ignore[arg-type]
        for _ in range(3000)
    ]
    p = logits.detach().softmax(-1)
    torch.testing.assert_close(torch.stack(draws).mean(0), p * (1 - p) * mask[..., None], rtol=0.15, atol=0.01)


def test_labels_of_next_tokens_are_summed() -> None:
    model, batch = make("gpt2", 0), make_batches("gpt2", 1)[0]
    labels = batch["input_ids"].masked_fill(batch["attention_mask"] == 0, -100)
    with torch.no_grad():
        loss = summed_loss(model, {**batch, "labels": labels}, torch.Generator())
        log_p = model(**batch).logits[:, :-1].log_softmax(-1)
    real = labels[:, 1:] != -100
    expected = -log_p.gather(-1, labels[:, 1:].clamp_min(0).unsqueeze(-1)).squeeze(-1)[real].sum()
    torch.testing.assert_close(loss, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("name", "entries", "message"),
    [
        ("deberta-v2", {"conv_kernel_size": 3}, "convolution"),
        ("deberta-v2", {"share_att_key": False}, "share_att_key"),
        ("gpt2", {"add_cross_attention": True}, "cross-attention"),
        ("bert", {"is_decoder": True}, "causal"),
    ],
)
def test_parts_that_are_not_supported_are_refused(name: str, entries: dict[str, Any], message: str) -> None:
    model = make_model(auto_class(name), name, 0, **entries)
    with pytest.raises(ModelError, match=message):
        prune(model, AutoConfig(Sparsity(0.5)), make_batches(name))


@pytest.mark.parametrize(("name", "version"), CASES)
def test_layers_are_dropped(name: str, version: int, tmp_path: Path) -> None:
    model, batches = make_model(auto_class(name), name, version, num_hidden_layers=3), make_batches(name)
    smaller, kept = drop_layers(model, LayerDropConfig(2))
    assert kept == [0, 2]
    assert len(Encoder(smaller).layers) == 2
    smaller.save_pretrained(tmp_path)
    again = auto_class(name).from_pretrained(tmp_path).eval()
    assert_same(smaller, again, batches, 1e-6)
    assert len(drop_layers(model, LayerDropConfig(1, "importance"), batches).layers) == 1


@pytest.mark.parametrize(("name", "version"), CASES)
def test_what_a_plan_left_becomes_sparse(name: str, version: int, tmp_path: Path) -> None:
    batches = make_batches(name)
    planned = apply_mixed(make(name, version), name, batches, compensation="none")
    config = ObertConfig(Sparsity(0.5), samples=16, batch_size=8, fisher_damping=1e-4)
    pruned, report = prune(planned, config, batches)
    weights = encoder_weights(pruned)
    assert report.kept == sum(int(weight.count_nonzero()) for weight in weights.values())
    assert report.kept == pytest.approx(0.5 * sum(weight.numel() for weight in weights.values()), abs=1)
    save_model(pruned, tmp_path / "saved")
    for again in (load_model(tmp_path / "saved"), auto_class(name).from_pretrained(tmp_path / "saved")):
        assert_same(pruned, again, batches, 1e-6)


def test_biases_that_a_stock_model_has_no_place_for() -> None:
    pruned = apply_mixed(make("qwen2", 0), "qwen2", make_batches("qwen2"))
    with pytest.raises(ModelError, match="no parameter for the bias"):
        to_dense(pruned)
