"""INT8 recipes: what training for INT8 is worth, and the way from a recipe to an exported model."""

import copy
import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from datasets import Dataset
from torch import Tensor
from transformers import (
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from bertsurgeon import ObertConfig, Sparsity, TrainingConfig, is_sparse, load_model, prune, train
from bertsurgeon.architectures import Encoder
from bertsurgeon.checkpoint import get_ranges
from bertsurgeon.gradual import (
    LearningRate,
    Quantization,
    Recipe,
    load_recipe,
)
from bertsurgeon.gradual.gradual_pruning import train_gradually
from bertsurgeon.layers.masks import masks_of, sparsity_of
from bertsurgeon.prediction import predict
from bertsurgeon.recovery import QuantizationAwareTraining, distillation_loss
from bertsurgeon.tasks import load_user_task, tokenize
from cli_helpers import files, run, succeed, tokenized_texts, write_data, write_model


@pytest.fixture(scope="module")
def dataset(tokenizer: PreTrainedTokenizerBase) -> Dataset:
    return tokenized_texts(tokenizer, 64)


@pytest.fixture(scope="module")
def sparse(folder: Path, dataset: Dataset, tokenizer: PreTrainedTokenizerBase) -> PreTrainedModel:
    config = ObertConfig(Sparsity(0.5), score="magnitude")
    return prune(load_model(folder / "dense"), config, dataset, tokenizer).model


# what it is worth


def test_training_for_int8_loses_less(tmp_path: Path) -> None:
    """Compares INT8 with and without training for a model in which one channel is much larger than the others."""
    write_model(tmp_path / "dense", hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "dense")
    data = load_user_task(write_data(tmp_path / "train.csv", 96, 1), write_data(tmp_path / "validation.csv", 64, 2))
    dataset, held_out = (tokenize(part, tokenizer) for part in (data.train, data.validation))
    teacher = load_model(tmp_path / "dense")
    train(
        teacher,
        TrainingConfig(epochs=4, batch_size=8, learning_rate=2e-3),
        dataset,
        tokenizer,
        work_dir=tmp_path / "teacher",
    )
    before = predict(teacher, held_out, tokenizer, 64, "")
    with torch.no_grad():
        for layer in range(2):  # the same function in other units, to which INT8 is sensitive
            value, output = (Encoder(teacher).matrix(layer, role) for role in ("value", "attention_output"))
            for parameter in (value.get_parameter("weight"), value.get_parameter("bias")):
                parameter[0] *= 300
            output.get_parameter("weight")[:, 0] /= 300
    expected = predict(teacher, held_out, tokenizer, 64, "")
    torch.testing.assert_close(expected, before, rtol=1e-3, atol=1e-4)
    lost = {}
    finish = QuantizationAwareTraining.finish
    for name, rate in (("trained", 2e-3), ("only ranges", 1e-12)):
        model = copy.deepcopy(teacher)
        recipe = Recipe(6, 8, LearningRate(rate, rate / 10), quantization=Quantization(0, 4.5))
        logits: list[Tensor] = []

        def record(callback: QuantizationAwareTraining, logits: list[Tensor] = logits) -> None:
            logits.append(predict(callback.model.eval(), held_out, tokenizer, 64, ""))
            finish(callback)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(QuantizationAwareTraining, "finish", record)
            train_gradually(model, recipe, dataset, tokenizer, work_dir=tmp_path / name, teacher=teacher)
        lost[name] = float(distillation_loss(logits[0], expected, 1.0))
    assert lost["only ranges"] > 0.1
    assert lost["trained"] < 0.2 * lost["only ranges"]


# from a recipe to an export


def test_the_command_line(folder: Path, tmp_path: Path) -> None:
    """Layers dropped, pruned in blocks, trained for INT8 and exported, each step from the files of the one before."""
    small, out = tmp_path / "small", tmp_path / "pruned"
    succeed("drop-layers", folder / "dense", "--keep", "1", "-o", small)
    options = ["--teacher", folder / "dense", *files(folder)]
    succeed("gradual", small, "--recipe", "downstream-30-int8", "--epochs", "3", *options, "-o", out)
    assert sparsity_of(masks_of(load_model(out))) == pytest.approx(0.8, abs=0.01)
    command = ["export", out, "--to", "onnx", "--precision", "int8", *files(folder), "--json"]
    for more, quantization in (([], "trained"), (["--quantization", "dynamic"], "dynamic")):
        shown = json.loads(succeed(*command, *more, "-o", tmp_path / quantization).stdout)
        assert shown["quantization"] == quantization
        assert shown["kept_float"] == []
    assert "accuracy" in succeed("evaluate", tmp_path / "trained", *files(folder)).stdout
    options = ["--to", "onnx", "--precision", "int8", "--quantization", "trained", "-o", tmp_path / "no"]
    refused = run("export", folder / "dense", *options)
    assert refused.exit_code == 2
    assert "was not trained for int8" in refused.stderr
    assert not (tmp_path / "no").exists()


def test_int8_alone(
    folder: Path, tokenizer: PreTrainedTokenizerBase, dataset: Dataset, sparse: PreTrainedModel, tmp_path: Path
) -> None:
    """Of a dense model, and of a sparse one, whose zeros stay."""
    recipe = replace(load_recipe("int8").scaled(1), batch_size=16)
    for number, model in enumerate((load_model(folder / "dense"), copy.deepcopy(sparse))):
        before = masks_of(model)
        train_gradually(
            model, recipe, dataset, tokenizer, work_dir=tmp_path / str(number), teacher=load_model(folder / "dense")
        )
        assert get_ranges(model) is not None
        assert is_sparse(model) == bool(number)
        assert all(not (mask & ~before[key]).any() for key, mask in masks_of(model).items())
