"""Calibration batches from every form of data, and the errors for what is none."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from datasets import Dataset
from transformers import (
    AutoModelForSequenceClassification,
    BertConfig,
    BertForSequenceClassification,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from bertsurgeon import ObertConfig, PgbConfig, Sparsity, prune
from bertsurgeon.calibration import make_batches, summed_loss
from bertsurgeon.errors import DataError, OptionError
from bertsurgeon.methods.obert.method import make_obert_batches
from bertsurgeon.tasks import tokenize

TEXTS = ["the film was lovely", "a dull plot", "it was cold and grim and old", "a fine day"]


@pytest.fixture(scope="module")
def model(folder: Path) -> PreTrainedModel:
    model: PreTrainedModel = AutoModelForSequenceClassification.from_pretrained(folder / "dense").eval()
    return model


def assert_same(first: list[dict[str, Any]], second: list[dict[str, Any]]) -> None:
    assert len(first) == len(second)
    for a, b in zip(first, second, strict=True):
        assert a.keys() == b.keys()
        assert all(torch.equal(a[name], b[name]) for name in a)


def test_texts_datasets_and_batches_are_the_same(tokenizer: PreTrainedTokenizerBase) -> None:
    raw = Dataset.from_dict({"text": TEXTS})
    batches = make_batches(tokenize(raw, tokenizer), tokenizer, 3, 2, 0)
    assert [len(batch["input_ids"]) for batch in batches] == [2, 1]
    for data in (TEXTS, tuple(TEXTS), raw, iter(TEXTS), np.array(TEXTS), pd.Series(TEXTS), raw.to_list()):
        assert_same(make_batches(data, tokenizer, 3, 2, 0), batches)
    assert_same(make_batches(batches, None, 3, 2, 0), batches)
    assert_same(make_batches(iter(batches), None, None, 2, 0), batches)


def test_batches_are_cut_at_the_number_of_samples(tokenizer: PreTrainedTokenizerBase) -> None:
    batches = make_batches(TEXTS, tokenizer, 4, 2, 0)
    assert [len(batch["input_ids"]) for batch in make_batches(batches, None, 3, 8, 0)] == [2, 1]
    without_mask = [{"input_ids": batch["input_ids"]} for batch in batches]
    assert all(batch["attention_mask"].all() for batch in make_batches(without_mask, None, 3, 8, 0))


def test_pruning_with_texts(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
    config = PgbConfig(Sparsity(0.5))
    results = [
        prune(model, config, data, tokenizer)[0]
        for data in (TEXTS, tokenize(Dataset.from_dict({"text": TEXTS}), tokenizer))
    ]
    states = [result.state_dict() for result in results]
    assert all(torch.equal(value, states[1][name]) for name, value in states[0].items())


def test_texts_are_tokenized_once(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[Any] = []

    def counted(*arguments: Any, **options: Any) -> Any:
        calls.append(arguments)
        return tokenize(*arguments, **options)

    monkeypatch.setattr("bertsurgeon.tasks.tokenization.tokenize", counted)
    config = ObertConfig(Sparsity(0.5))
    gradients, regressions = make_obert_batches(model, config, iter(TEXTS), tokenizer)
    assert len(calls) == 1
    assert [sum(map(len, (b["input_ids"] for b in each))) for each in (gradients, regressions)] == [4, 4]
    batches = make_obert_batches(model, config, iter(gradients), None)
    assert batches[0] is batches[1]
    assert_same(batches[0], gradients)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        ([], "at least one"),
        (iter(()), "at least one"),
        ("a text", "list of texts"),
        ({"train": TEXTS}, "list of texts"),
        (None, "must be texts .* or batches of tensors, not None"),
        (5, "must be texts .* or batches of tensors, not 5"),
        (["a", None], "item 2 is None and no string"),
        (Dataset.from_dict({"text": TEXTS}).to_iterable_dataset(), "pass a Dataset or a list"),
        ([3, 4], "it contains int"),
        ([{"labels": torch.zeros(2)}], r"batches with 'input_ids' or 'pixel_values'; its batches have labels"),
        ([{"text": TEXTS}], "have no tensors"),
        (Dataset.from_dict({"words": TEXTS}), "'text'; it has words"),
        (Dataset.from_dict({"pixel_values": [[1.0], [2.0]]}), "Pass images as batches"),
    ],
    ids=[
        "nothing",
        "an empty iterator",
        "one text",
        "a mapping",
        "None",
        "a number",
        "a missing text",
        "an iterable dataset",
        "numbers",
        "no inputs",
        "no tensors",
        "other columns",
        "images",
    ],
)
def test_data_of_other_types(data: Any, words: str, tokenizer: PreTrainedTokenizerBase) -> None:
    with pytest.raises(DataError, match=words):
        make_batches(data, tokenizer, 4, 2, 0)


@pytest.mark.parametrize(
    ("problem", "labels", "words"),
    [
        ("multi_label_classification", torch.tensor([0, 1]), r"floating-point numbers of shape \(2, 3\)"),
        ("multi_label_classification", torch.zeros(2, 2), r"floating-point numbers of shape \(2, 3\)"),
        ("single_label_classification", torch.tensor([0, 3]), "whole numbers from 0 to 2, one per text"),
        ("single_label_classification", torch.zeros(2, 3), "whole numbers from 0 to 2, one per text"),
        ("multi_label_classification", torch.ones(2, 3), None),
        ("single_label_classification", torch.tensor([-100, 2]), None),
    ],
    ids=str,
)
def test_labels_must_fit_the_head(problem: str, labels: torch.Tensor, words: str | None) -> None:
    model = BertForSequenceClassification(
        BertConfig(
            hidden_size=8,
            num_hidden_layers=1,
            num_attention_heads=1,
            intermediate_size=8,
            vocab_size=30,
            id2label={0: "a", 1: "b", 2: "c"},
        )
    ).eval()
    model.config.problem_type = problem
    ids = torch.ones(2, 4, dtype=torch.long)
    batch = {"input_ids": ids, "attention_mask": ids, "labels": labels}
    generator = torch.Generator()
    if words is None:
        assert summed_loss(model, batch, generator).isfinite()
        return
    with pytest.raises(DataError, match=words):
        summed_loss(model, batch, generator)


def test_missing_tokenizers_and_bad_numbers(tokenizer: PreTrainedTokenizerBase) -> None:
    for data in (TEXTS, tokenize(Dataset.from_dict({"text": TEXTS}), tokenizer)):
        with pytest.raises(OptionError, match="pass the tokenizer"):
            make_batches(data, None, 4, 2, 0)
    for samples, batch_size in ((0, 2), (4, 0)):
        with pytest.raises(OptionError, match="at least one sample and a batch size of at least 1"):
            make_batches(TEXTS, tokenizer, samples, batch_size, 0)


def test_datasets_are_imported_when_they_are_used() -> None:
    code = """
import sys
from transformers import AutoModelForSequenceClassification, PreTrainedModel
before = set(sys.modules)
import bertsurgeon.compensation, bertsurgeon.layer_drop
print(sorted({"datasets", "pandas", "pyarrow", "sklearn"} & (set(sys.modules) - before)))
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"
