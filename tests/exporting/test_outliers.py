"""Channels with outliers are multiplied apart: exactly in floating point, and with a smaller error in INT8."""

from copy import deepcopy
from pathlib import Path

import pytest
import torch
from torch import nn
from transformers import PreTrainedModel

from bertsurgeon import AutoConfig, ExportConfig, Sparsity, export, open_exported, prune
from bertsurgeon.architectures import Encoder
from bertsurgeon.calibration import Batch, make_batches
from bertsurgeon.exporting.lowering import lower
from bertsurgeon.exporting.outliers import find_outliers, outlier_channels, split_outliers
from bertsurgeon.exporting.quantization import rank_sub_layers
from bertsurgeon.exporting.verify import reference
from bertsurgeon.prediction import predict
from bertsurgeon.tasks import model_inputs, tokenize
from bertsurgeon.testing import toy_classifier


@pytest.fixture
def toy() -> tuple[PreTrainedModel, list[Batch]]:
    """A classifier with a neuron whose activation is far larger than those of the others, in its first layer."""
    model, tokenizer, texts = toy_classifier()
    with torch.no_grad():
        bias = Encoder(model).linear(0, "intermediate").bias
        assert bias is not None
        bias[5] += 300
        Encoder(model).linear(0, "output").weight[:, 5] *= 1e-2
    return model, make_batches(tokenize(texts, tokenizer), tokenizer, 32, 8, 0, model=model)


def test_channels_far_above_all_others_are_outliers() -> None:
    largest = torch.tensor([1.0, 9.0, 2.0, 1.5, 2.0, 1.9, 30.0, 2.0])
    assert outlier_channels(largest) == (1, 6)
    assert outlier_channels(torch.ones(8)) == ()
    assert outlier_channels(torch.tensor([9.0, 1.0, 1.0])) == ()
    many = torch.ones(20)
    many[:6] = 50  # more than four share a range with others
    assert outlier_channels(many) == ()


@pytest.mark.parametrize("share", [1.0, 0.5])
def test_the_function_is_the_same(toy: tuple[PreTrainedModel, list[Batch]], share: float) -> None:
    model, batches = toy
    if share < 1:
        model = prune(model, AutoConfig(Sparsity(1 - share), structures=("low_rank",)), batches).model
    channels = find_outliers(model, batches)
    assert (0, "output") in channels
    split = lower(model, outliers=channels)
    assert not isinstance(Encoder(split).matrix(0, "output"), nn.Linear)
    with torch.no_grad():
        for batch in batches:
            expected, actual = (one(**model_inputs(batch)).logits for one in (lower(model), split))
            torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-4)


def test_padding_has_no_outliers(toy: tuple[PreTrainedModel, list[Batch]]) -> None:
    model, batches = toy
    padded = [{**batch, "attention_mask": torch.zeros_like(batch["attention_mask"])} for batch in batches[:1]]
    padded[0]["attention_mask"][:, 0] = 1
    seen: list[int] = []
    Encoder(model).linear(0, "output").register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].shape[1]))
    assert 5 in find_outliers(model, padded)[0, "output"]
    assert seen


def test_outliers_stay_in_floating_point(toy: tuple[PreTrainedModel, list[Batch]], tmp_path: Path) -> None:
    """The source is multiplied in integers without the neuron's range, and the neuron's column in floating point."""
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("nncf")
    model, _ = toy
    _, tokenizer, texts = toy_classifier()
    rows = tokenize(texts, tokenizer)
    config = ExportConfig("onnx", "int8", tolerance=float("inf"), invariance=False)
    manifest = export(model, config, rows, tokenizer, output=tmp_path / "int8")
    assert manifest.outlier_channels >= 1
    graph = onnx.load(tmp_path / "int8" / "model.onnx").graph
    makers = {output: node.op_type for node in graph.node for output in node.output}
    inputs = {node.name: makers[node.input[0]] for node in graph.node if "layer.0.output.dense" in node.name}
    apart = [name for name in inputs if name.endswith(".outliers")]
    assert apart
    assert all(inputs[name] != "DequantizeLinear" for name in apart)
    difference = predict(open_exported(tmp_path / "int8"), rows, tokenizer) - predict(model, rows, tokenizer)
    assert float(difference.abs().max()) < 0.5
    floating = export(model, ExportConfig("onnx", "fp32"), rows, tokenizer, output=tmp_path / "fp32")
    assert floating.outlier_channels == 0


def test_the_sensitivity_is_that_of_the_split_matrix(toy: tuple[PreTrainedModel, list[Batch]]) -> None:
    """A range without the outlier rounds the others far less than one with it."""
    model, batches = toy
    split = deepcopy(model)
    split_outliers(Encoder(split), find_outliers(model, batches))
    expected = reference(model, batches, ("logits",))[1]
    whole, apart = (
        {names: error for error, names in rank_sub_layers(one, batches, expected)} for one in (model, split)
    )
    feed_forward = next(names for names in whole if Encoder(model).matrix_name(0, "output") in names)
    assert apart[feed_forward] < whole[feed_forward] / 3
