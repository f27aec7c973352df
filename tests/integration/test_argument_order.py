"""Calls with the arguments in another order, and what a call leaves as it was: random generators and the mode."""

import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoConfig, AutoModelForMaskedLM, TrainerCallback, TrainingArguments

import bertsurgeon
from bertsurgeon import (
    ObertConfig,
    Sparsity,
    TrainingConfig,
    bench,
    calibrate,
    drop_layers,
    evaluate,
    export,
    prune,
    recover,
    train,
    trim_vocabulary,
)
from bertsurgeon.errors import OptionError
from bertsurgeon.evaluation import compare, evaluate_masked_lm
from bertsurgeon.gradual import load_recipe, train_gradually
from bertsurgeon.tasks import Task
from bertsurgeon.testing import toy_classifier

MODEL, TOKENIZER, DATA = toy_classifier()
TASK = Task("toy", metrics=("accuracy",), labels=("bad", "good"))
SPARSE = prune(MODEL, ObertConfig(Sparsity(0.5), score="magnitude"), DATA, TOKENIZER).model


@pytest.mark.parametrize(
    ("verb", "arguments", "words"),
    [
        (calibrate, (MODEL, DATA, None, TOKENIZER), "model, a CalibrationConfig, the data .* a Dataset is not a Cal"),
        (recover, (SPARSE, DATA, TOKENIZER, None), "recover takes the model, a TrainingConfig"),
        (train, (MODEL, DATA, TOKENIZER, None), "train takes the model, a TrainingConfig"),
        (train, (TrainingConfig(), MODEL, DATA, TOKENIZER), "a BertForSequenceClassification is not a TrainingConfig"),
        (train_gradually, (MODEL, DATA, None, TOKENIZER), "train_gradually takes the model, a Recipe"),
        (drop_layers, (MODEL, 1, "first"), "LayerDropConfig, .* an int is not a LayerDropConfig"),
        (bench, ({"toy": MODEL}, (1, 8), 128), "bench takes the models, a BenchmarkConfig, .* a tuple is"),
        (
            evaluate,
            (MODEL, DATA, TOKENIZER, TASK),
            "evaluate takes the model, a Task, the data .* a Dataset is not a Task",
        ),
        (
            evaluate,
            (MODEL, "sst2", DATA, TOKENIZER),
            r"a Task, not its name; pass bertsurgeon.tasks.get_task\('sst2'\)",
        ),
        (compare, (MODEL, DATA, MODEL, TOKENIZER), "compare takes .* a Dataset is not a model"),
        (trim_vocabulary, (MODEL, TOKENIZER, ["a film"]), "the texts and the tokenizer, in this order; a "),
    ],
)
def test_another_order_of_the_arguments(verb: Callable[..., Any], arguments: Sequence[Any], words: str) -> None:
    with pytest.raises(OptionError, match=words):
        verb(*arguments)


def test_export_in_the_old_order(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match=r"an ExportConfig, .* is not an ExportConfig"):
        export(MODEL, DATA, None, TOKENIZER, output=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_renamed_names_are_named() -> None:
    with pytest.raises(AttributeError, match=r"use bertsurgeon\.TrainingConfig"):
        _ = bertsurgeon.TrainingOptions


def train_by_recipe(model: Any) -> None:
    recipe = load_recipe("sparse-transfer").scaled(0.2)
    train_gradually(model, recipe, DATA, TOKENIZER)


@pytest.mark.parametrize(
    "verb",
    [
        lambda model: train(model, TrainingConfig(max_steps=3, seed=3), DATA, TOKENIZER),
        lambda model: recover(model, TrainingConfig(max_steps=3, seed=3), DATA, TOKENIZER, teacher=MODEL),
        train_by_recipe,
    ],
    ids=["train", "recover", "train_gradually"],
)
def test_random_generators_stay_as_they_are(verb: Callable[[Any], Any]) -> None:
    model: Any = prune(MODEL, ObertConfig(Sparsity(0.5), score="magnitude"), DATA, TOKENIZER).model
    weight = model.classifier.weight.detach().clone()

    def draw() -> tuple[float, float, float]:
        return random.random(), np.random.rand(), float(torch.rand(()))  # noqa: NPY002

    def seed() -> None:
        random.seed(11)
        np.random.seed(11)  # noqa: NPY002
        torch.manual_seed(11)

    seed()
    expected = draw()
    seed()
    verb(model)
    assert draw() == expected
    assert not torch.equal(model.classifier.weight, weight)


class Recorder(TrainerCallback):
    """Keeps the arguments of the Trainer."""

    def on_train_begin(self, args: TrainingArguments, state: Any, control: Any, **kwargs: Any) -> None:
        self.arguments = args


def test_training_arguments_may_be_an_object(tmp_path: Path) -> None:
    model, config, recorder = toy_classifier()[0], TrainingConfig(max_steps=1), Recorder()
    arguments = TrainingArguments(max_grad_norm=0.5, optim="sgd")
    train(model, config, DATA, TOKENIZER, arguments=arguments, callbacks=[recorder])
    assert (recorder.arguments.max_grad_norm, recorder.arguments.optim) == (0.5, "sgd")
    assert recorder.arguments.learning_rate == 5e-5
    for refused, words in (
        (TrainingArguments(learning_rate=1.0), r"TrainingConfig\(learning_rate=…\)"),
        (TrainingArguments(str(tmp_path)), "it is the argument work_dir"),
        (["sgd"], "a mapping or a transformers.TrainingArguments, not a list"),
    ):
        with pytest.raises(OptionError, match=words):
            train(model, config, DATA, TOKENIZER, arguments=refused)  # type: ignore[arg-type]


@pytest.mark.parametrize("training", [True, False])
def test_evaluation_restores_the_mode(training: bool) -> None:
    sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1, "intermediate_size": 8}
    masked_lm = AutoModelForMaskedLM.from_config(AutoConfig.for_model("bert", vocab_size=25, **sizes))
    model, other = toy_classifier()[0], toy_classifier()[0]
    for one in (model, masked_lm):
        one.train(training)
    scores = evaluate(model, TASK, DATA, TOKENIZER)
    assert scores == evaluate(other, TASK, DATA, TOKENIZER)
    assert compare(other, model, DATA, TOKENIZER)["agreement"] == 100
    evaluate_masked_lm(masked_lm, DATA["text"][:4], TOKENIZER)
    assert model.training == masked_lm.training == training
    assert not other.training
