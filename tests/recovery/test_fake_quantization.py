"""Training for INT8: what is rounded, that zeros stay, what is stored, and that exports compute what was trained."""

import copy
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir
import pytest
import torch
from datasets import Dataset
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import (
    AutoModelForMaskedLM,
    AutoModelForSequenceClassification,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    TrainerControl,
    TrainerState,
    set_seed,
)

from bertsurgeon import (
    Groups,
    LayerDropConfig,
    ObertConfig,
    PgbConfig,
    Sparsity,
    drop_layers,
    is_sparse,
    load_model,
    prune,
    save_model,
)
from bertsurgeon.architectures import Encoder
from bertsurgeon.checkpoint import attach_sparse, get_ranges
from bertsurgeon.errors import CheckpointError, ModelError, OptionError
from bertsurgeon.exporting.lowering import Graph, lower
from bertsurgeon.exporting.onnx_graph import trace
from bertsurgeon.exporting.onnx_tuning import merge_products
from bertsurgeon.exporting.quantization import quantize_as_trained
from bertsurgeon.exporting.verify import to_arrays
from bertsurgeon.gradual import (
    Distillation,
    LearningRate,
    Pruning,
    Quantization,
    Recipe,
)
from bertsurgeon.gradual.gradual_pruning import quantization_steps, train_gradually
from bertsurgeon.layers import dequantize_rows, is_on_grid, quantize_rows, round_rows, row_scales
from bertsurgeon.layers.masks import encoder_weights, masks_of, sparsity_of
from bertsurgeon.recovery import MaskCallback, QuantizationAwareTraining
from bertsurgeon.runtime import open_session
from cli_helpers import tokenized_texts
from conftest import make_config

Batches = list[dict[str, Tensor]]
Factory = Callable[..., PreTrainedModel]
NAMES = ["bert", "distilbert", "roberta"]

RECIPE = Recipe(
    epochs=3,
    batch_size=8,
    learning_rate=LearningRate(1e-3, 1e-4),
    distillation=Distillation(1.0, 2.0),
    pruning=Pruning(0.75, 0.5, 0.25, 1, 0.5, "1x4", block_size=16, damping=1e-4, gradients=8, gradient_batch_size=4),
    quantization=Quantization(1.5, 2.5),
)


def matrices(model: PreTrainedModel) -> list[Tensor]:
    return list(encoder_weights(model).values())


def begin(model: PreTrainedModel, step: int = 0, start: int = 0, freeze: int = 10) -> QuantizationAwareTraining:
    arguments: Any = None
    callback = QuantizationAwareTraining(model, start, freeze)
    callback.on_step_begin(arguments, TrainerState(global_step=step), TrainerControl())
    return callback


@pytest.fixture(scope="module")
def dataset(tokenizer: PreTrainedTokenizerBase) -> Dataset:
    return tokenized_texts(tokenizer, 64)


@pytest.fixture(scope="module")
def sparse(folder: Path, dataset: Dataset, tokenizer: PreTrainedTokenizerBase) -> PreTrainedModel:
    config = ObertConfig(Sparsity(0.5), score="magnitude")
    return prune(load_model(folder / "dense"), config, dataset, tokenizer).model


# the grid


def test_the_grid() -> None:
    weight = torch.randn(7, 40, generator=torch.Generator().manual_seed(0))
    weight[2] = 0
    weight[3, ::2] = 0
    integers, scales = quantize_rows(weight)
    assert integers.dtype == torch.int8
    assert integers.abs().amax(1).tolist() == [127, 127, 0, 127, 127, 127, 127]
    assert (weight - dequantize_rows(integers, scales)).abs().max() <= 0.5 * scales.max()
    assert torch.allclose(scales, weight.abs().amax(1) / 127, rtol=2**-15)
    rounded = round_rows(weight)
    assert (rounded[weight == 0] == 0).all()
    assert is_on_grid(rounded)
    assert not is_on_grid(weight)
    assert not is_on_grid(rounded.bfloat16())
    assert torch.equal(row_scales(rounded), scales)  # to the last bit, however often
    assert torch.equal(quantize_rows(rounded)[0], integers)


def test_gradients_pass_as_if_nothing_were_rounded() -> None:
    weight = torch.randn(3, 8, requires_grad=True)
    round_rows(weight).mul(torch.arange(8.0)).sum().backward()
    assert weight.grad is not None
    assert torch.equal(weight.grad, torch.arange(8.0).expand(3, -1))


# rounding while training


@pytest.mark.parametrize("name", NAMES)
def test_what_is_rounded(name: str, tiny_model: Factory, tiny_batches: Batches) -> None:
    """From the start on: weights by row, inputs in 256 steps, rows of embeddings; and nothing before."""
    model, batch = tiny_model(name), {k: v for k, v in tiny_batches[0].items() if k != "labels"}
    before, kinds = copy.deepcopy(model), [type(module) for module in model.modules()]
    callback = begin(model, step=4, start=5)
    assert torch.equal(model(**batch).logits, before(**batch).logits)
    arguments: Any = None
    callback.on_step_begin(arguments, TrainerState(global_step=5), TrainerControl())
    quantized_inputs: list[Tensor] = []
    query = Encoder(model).matrix(0, "query")
    assert isinstance(query.inputs, nn.Module)
    query.inputs.register_forward_hook(lambda module, inputs, output: quantized_inputs.append(output))
    logits = model(**batch).logits
    assert not torch.equal(logits, before(**batch).logits)
    assert len(quantized_inputs[0].unique()) <= 256
    callback.finish()
    assert [type(module) for module in model.modules()] == kinds
    assert model.state_dict().keys() == before.state_dict().keys()
    assert all(is_on_grid(weight) for weight in matrices(model))
    embeddings = [module for module in model.modules() if isinstance(module, nn.Embedding)]
    assert all(is_on_grid(module.weight) for module in embeddings)
    rest = {id(weight) for weight in (*matrices(model), *(module.weight for module in embeddings))}
    for key, value in model.named_parameters():
        assert torch.equal(value, before.get_parameter(key)) == (id(value) not in rest)
    ranges = get_ranges(model)
    assert ranges is not None
    assert len(ranges) == 3 * 6
    assert ranges[0, "query"] == ranges[0, "key"] == ranges[0, "value"]  # they read the same


def test_ranges_follow_until_they_are_frozen(tiny_model: Factory, tiny_batches: Batches) -> None:
    model = tiny_model("bert")
    callback = begin(model, start=0, freeze=2)
    arguments: Any = None
    scales = []
    for step, batch in enumerate(tiny_batches):
        callback.on_step_begin(arguments, TrainerState(global_step=step), TrainerControl())
        model(**batch)
        scales.append(float(callback.matrices[1, "output"].inputs.scale))
    assert scales[0] != scales[1]
    assert scales[1] == scales[2] == scales[3]


def test_when_it_begins() -> None:
    assert quantization_steps(RECIPE, 8) == (12, 20)
    assert quantization_steps(replace(RECIPE, quantization=Quantization(1.5)), 8) == (12, 24)
    assert quantization_steps(RECIPE.scaled(1.5), 8) == (6, 10)
    short = RECIPE.scaled(0.125)  # one step: it is rounded, and finds ranges
    assert quantization_steps(short, 8) == (0, 1)


@pytest.mark.parametrize("killed_at", [14, 22])
def test_a_killed_run_goes_on_the_same(
    killed_at: int,
    folder: Path,
    tokenizer: PreTrainedTokenizerBase,
    dataset: Dataset,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """While ranges follow the data, and when they are fixed."""
    teacher = load_model(folder / "dense")
    models = [load_model(folder / "dense") for _ in range(3)]

    def go(model: PreTrainedModel, name: str, resume: bool = False) -> None:
        set_seed(0)
        train_gradually(model, RECIPE, dataset, tokenizer, work_dir=tmp_path / name, teacher=teacher, resume=resume)

    go(models[0], "whole")
    step = MaskCallback.on_optimizer_step

    def stop(callback: MaskCallback, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        step(callback, args, state, control, **kwargs)
        if state.global_step == killed_at:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(MaskCallback, "on_optimizer_step", stop)
        with pytest.raises(KeyboardInterrupt):
            go(models[1], "killed")
    assert [type(module) for module in models[1].modules()] == [type(module) for module in models[2].modules()]
    go(models[2], "killed", resume=True)
    assert get_ranges(models[2]) == get_ranges(models[0])
    for key, value in models[0].state_dict().items():
        assert torch.equal(models[2].state_dict()[key], value), key


def test_zeros_stay_and_files_hold_bytes(
    folder: Path, tokenizer: PreTrainedTokenizerBase, dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = load_model(folder / "dense")
    kept: list[dict[Any, Tensor]] = []
    step = MaskCallback.on_optimizer_step

    def record(callback: MaskCallback, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        step(callback, args, state, control, **kwargs)
        kept.append(callback.masks)

    monkeypatch.setattr(MaskCallback, "on_optimizer_step", record)
    train_gradually(model, RECIPE, dataset, tokenizer, work_dir=tmp_path / "work", teacher=load_model(folder / "dense"))
    assert sparsity_of(kept[-1]) == 0.75
    for key, mask in masks_of(model).items():
        assert not (mask & ~kept[-1][key]).any()
    assert sparsity_of(masks_of(model)) == pytest.approx(0.75, abs=0.01)  # rounding made a few more
    save_model(model, tmp_path / "saved")
    state = load_file(tmp_path / "saved" / "model.safetensors")
    entry = json.loads((tmp_path / "saved" / "config.json").read_text())["quantization_config"]
    assert (entry["format_version"], entry["int8"], len(entry["embeddings"])) == (2, True, 3)
    for name in ("bert.encoder.layer.0.output.dense", "bert.embeddings.word_embeddings"):
        assert state[f"{name}.weight"].dtype == torch.int8
        assert state[f"{name}.scale"].dtype == torch.float32
    for load in (load_model, AutoModelForSequenceClassification.from_pretrained):
        again = load(tmp_path / "saved")
        assert is_sparse(again)
        assert get_ranges(again) == get_ranges(model)
        for key, value in model.state_dict().items():
            assert torch.equal(again.state_dict()[key], value), key
            assert again.state_dict()[key].dtype == value.dtype
        assert all(parameter.requires_grad for parameter in again.parameters())
        again.save_pretrained(tmp_path / load.__name__)
        for file in ("model.safetensors", "config.json"):
            assert (tmp_path / load.__name__ / file).read_bytes() == (tmp_path / "saved" / file).read_bytes()
    half = AutoModelForSequenceClassification.from_pretrained(tmp_path / "saved", dtype=torch.bfloat16)
    for key, parameter in half.named_parameters():
        assert parameter.dtype == torch.bfloat16, key
        torch.testing.assert_close(parameter.float(), model.get_parameter(key), rtol=2e-2, atol=1e-3, msg=key)
    twin = copy.deepcopy(model)
    with torch.no_grad():
        for parameter in twin.parameters():
            parameter.zero_()
    twin.load_state_dict(state)  # what a Trainer does that resumes
    for key, value in model.state_dict().items():
        assert torch.equal(twin.state_dict()[key], value), key


@pytest.mark.parametrize("kind", ["matrix", "embedding", "neither"])
def test_bytes_only_where_nothing_is_lost(kind: str, tiny_model: Factory, tmp_path: Path) -> None:
    model = tiny_model("bert")
    begin(model).finish()
    if kind == "matrix":  # one weight off its grid: all matrices are stored as they are
        with torch.no_grad():
            matrices(model)[4][0, 0] += 1e-4
    elif kind == "embedding":
        with torch.no_grad():
            model.get_input_embeddings().weight[3, 3] += 1e-4  # type: ignore[index,operator]
    attach_sparse(model, 1)
    model.save_pretrained(tmp_path)
    entry = json.loads((tmp_path / "config.json").read_text())["quantization_config"]
    names = ["embeddings.position_embeddings", "embeddings.token_type_embeddings"]
    assert entry["int8"] == (kind != "matrix")
    assert entry["embeddings"] == (names if kind == "embedding" else ["embeddings.word_embeddings", *names])
    again = load_model(tmp_path)
    for key, value in model.state_dict().items():
        assert torch.equal(again.state_dict()[key], value), key


def test_embeddings_that_are_a_head_too_are_left_alone(tiny_batches: Batches, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = AutoModelForMaskedLM.from_config(make_config("bert"))
    before = model.get_input_embeddings().weight.detach().clone()
    callback = begin(model)
    assert len(callback.embeddings) == 2
    model(**{k: v for k, v in tiny_batches[0].items() if k != "labels"})
    callback.finish()
    assert torch.equal(model.get_input_embeddings().weight, before)
    attach_sparse(model, 1)
    model.save_pretrained(tmp_path)
    again = load_model(tmp_path)
    assert again.get_output_embeddings().weight is again.get_input_embeddings().weight  # type: ignore[union-attr]
    for key, value in model.state_dict().items():
        assert torch.equal(again.state_dict()[key], value), key


def test_ranges_are_forgotten_where_weights_change(
    folder: Path, tokenizer: PreTrainedTokenizerBase, dataset: Dataset, tmp_path: Path
) -> None:
    model = load_model(folder / "dense")
    begin(model).finish()
    assert get_ranges(model) is not None
    assert get_ranges(drop_layers(model, LayerDropConfig(1)).model) is None
    config = ObertConfig(Sparsity(0.5), score="magnitude")
    sparse, _ = prune(model, config, dataset, tokenizer)
    assert get_ranges(sparse) is None
    recipe = replace(RECIPE, epochs=1, pruning=None, quantization=None, distillation=Distillation(0.0))
    attach_sparse(model, 1)
    train_gradually(model, recipe, dataset, tokenizer, work_dir=tmp_path)
    assert get_ranges(model) is None


def test_damaged_ranges(tiny_model: Factory) -> None:
    model = tiny_model("bert")
    begin(model).finish()
    good = model.config.int8_input_ranges
    for bad in (good[:2], [*good[:2], {}], [*good[:2], {**good[2], "query": [0.0, 3]}], [1, 2, 3]):
        model.config.int8_input_ranges = bad
        with pytest.raises(CheckpointError, match="int8_input_ranges"):
            get_ranges(model)


def test_what_cannot_be_trained_for_int8(
    folder: Path, tokenizer: PreTrainedTokenizerBase, dataset: Dataset, tmp_path: Path
) -> None:
    grouped, _ = prune(load_model(folder / "dense"), PgbConfig(Groups(2), samples=16), dataset, tokenizer)
    recipe = replace(RECIPE, pruning=None)
    with pytest.raises(ModelError, match="is not a whole matrix"):
        train_gradually(grouped, recipe, dataset, tokenizer, work_dir=tmp_path)
    assert list(tmp_path.iterdir()) == []
    for bad, words in (
        (lambda: replace(RECIPE, quantization=Quantization(3)), "quantization.start must come before the end"),
        (lambda: replace(RECIPE, quantization=Quantization(0.75)), "must not come before pruning.end"),
        (lambda: Quantization(-1), "quantization.start must be at least 0"),
        (lambda: Quantization(2, 1), "quantization.freeze must not come before"),
    ):
        with pytest.raises(OptionError, match=words):
            bad()


# exports


@pytest.mark.parametrize("merged", [False, True])
@pytest.mark.parametrize("name", ["bert", "distilbert"])
def test_exports_compute_what_was_trained(
    name: str, merged: bool, tiny_model: Factory, tiny_batches: Batches, tmp_path: Path
) -> None:
    """The graph's outputs are those of the rounded model in training, in both runtimes, at any shape."""
    model = tiny_model(name)
    callback = begin(model, start=0, freeze=10)
    with torch.no_grad():
        for batch in tiny_batches:
            model(**batch)
        callback.on_step_begin(None, TrainerState(global_step=10), TrainerControl())  # type: ignore[arg-type]
        inputs_only = [{k: v for k, v in batch.items() if k != "labels"} for batch in tiny_batches]
        expected = [model(**batch).logits.numpy() for batch in inputs_only]
    callback.finish()
    inputs = ("input_ids", "attention_mask")
    graph = trace(Graph(lower(model), inputs, ("logits",)))
    if merged:
        merge_products(graph)
    count = 3 * 4 if merged else 3 * 6  # merged: query, key and value are one product
    assert quantize_as_trained(graph, model) == count
    onnx_ir.save(graph, tmp_path / "model.onnx")
    tables = [value.const_value for value in graph.graph.initializers.values() if "layer" in str(value.name)]
    integers = [table for table in tables if table is not None and table.dtype == onnx_ir.DataType.INT8]
    assert sum(table.size > 2000 for table in integers) == count
    assert not any(table is not None and table.dtype == onnx_ir.DataType.FLOAT and table.size > 200 for table in tables)
    spread = np.concatenate(expected).std(0).mean()
    for runtime in ("onnx", "openvino"):
        session = open_session(runtime, tmp_path / "model.onnx", "int8")  # type: ignore[arg-type]
        outputs = [session.run(to_arrays(batch, inputs))["logits"] for batch in inputs_only]
        errors = np.abs(np.concatenate(outputs) - np.concatenate(expected)) / spread
        # sums that round otherwise put an input on the other side of a half now and then
        assert np.median(errors) < 1e-4
        assert errors.max() < 0.1
