"""Tokenization: texts that are cut are reported, and all forms of data become tokenized datasets."""

import copy
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pandas as pd
import pytest
from datasets import Dataset
from torch.utils.data import DataLoader
from transformers import BertConfig, BertForTokenClassification, PreTrainedTokenizerBase
from transformers.models.bert.tokenization_bert_legacy import BertTokenizerLegacy

from bertsurgeon import load_model, progress
from bertsurgeon.errors import DataError, OptionError
from bertsurgeon.tasks import (
    Collator,
    Embedding,
    QuestionAnswering,
    TokenClassification,
    as_dataset,
    is_batches,
    tokenize,
)
from cli_helpers import write_model

LONG = "the film was fine " * 50


@pytest.fixture
def notes(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    messages: list[str] = []
    monkeypatch.setattr("bertsurgeon.progress.warn", messages.append)
    return messages


@pytest.fixture
def long_tokenizer(tokenizer: PreTrainedTokenizerBase) -> PreTrainedTokenizerBase:
    """A tokenizer with no limit, and no model beside it."""
    copied = copy.deepcopy(tokenizer)
    copied.model_max_length, copied.name_or_path = 10**30, "none"
    return copied


# truncation


def texts(*values: str) -> Dataset:
    return Dataset.from_dict({"text": list(values)})


def test_cut_texts_are_reported(long_tokenizer: PreTrainedTokenizerBase, notes: list[str]) -> None:
    tokenize(texts(LONG, "a film", LONG), long_tokenizer)
    assert notes == [
        "2 of 3 texts were longer than 128 tokens and were cut there; --max-length (max_length in Python) raises the "
        "limit."
    ]
    notes.clear()
    rows = tokenize(texts(LONG, "a film", LONG), long_tokenizer, 202)
    assert len(rows["input_ids"][0]) == 202  # 200 words and two special tokens: nothing is cut
    assert notes == []
    assert "truncated" not in rows.column_names


def test_the_limit_of_the_model_is_named(tokenizer: PreTrainedTokenizerBase, notes: list[str]) -> None:
    tokenize(texts(LONG), tokenizer, 512)
    assert notes == ["1 of 1 texts were longer than 128 tokens and were cut there, the most that the model accepts."]


def test_cut_pairs_and_words(long_tokenizer: PreTrainedTokenizerBase, notes: list[str]) -> None:
    pairs = Dataset.from_dict({"text": ["a film", LONG, "a"], "text_pair": [LONG, LONG, "b"]})
    tokenize(pairs, long_tokenizer, 64)
    tokenize(pairs, long_tokenizer, 64, Embedding())
    words = Dataset.from_dict({"tokens": [["film"] * 100, ["film"]], "tags": [[0] * 100, [1]]})

    tokenize(words, long_tokenizer, 64, TokenClassification())
    assert [note.split(" were")[0] for note in notes] == [
        "2 of 3 pairs of texts",
        "2 of 3 pairs of texts",
        "1 of 2 texts",
    ]


def test_passages_are_windows_and_questions_are_cut(long_tokenizer: PreTrainedTokenizerBase, notes: list[str]) -> None:
    data = Dataset.from_dict({"question": ["the film", LONG], "context": [LONG, LONG]})
    rows = tokenize(data, long_tokenizer, 64, QuestionAnswering(max_query_length=8))
    assert len(rows) > 2
    assert notes == [
        "1 of 2 questions were longer than 8 tokens and were cut there; QuestionAnswering.max_query_length raises the "
        "limit."
    ]
    notes.clear()
    tokenize(data.select([0]), long_tokenizer, 64, QuestionAnswering())
    assert notes == []
    tokenize(data, long_tokenizer, 64, QuestionAnswering())
    assert "32 tokens" in notes[0]
    assert "--max-length" in notes[0]


def test_slow_tokenizers_report_as_well(tmp_path: Path, notes: list[str]) -> None:
    tokenizer = BertTokenizerLegacy(str(write_model(tmp_path / "model") / "vocab.txt"))
    assert not tokenizer.is_fast
    tokenize(texts(LONG, "a film", "film " * 126, "film " * 127), tokenizer, 128)
    assert notes[0].startswith("2 of 4 texts")


def test_a_cached_tokenization_reports_again(
    long_tokenizer: PreTrainedTokenizerBase, notes: list[str], tmp_path: Path
) -> None:
    """Datasets on disk are not tokenized twice; the number of cut texts comes from the cache as well."""
    texts(LONG, "a film").save_to_disk(str(tmp_path / "data"))
    for _ in range(2):
        tokenize(Dataset.load_from_disk(str(tmp_path / "data")), long_tokenizer)
    assert len(notes) == 2
    assert notes[0] == notes[1]


# forms of data


def test_texts_datasets_and_batches_become_the_same(tokenizer: PreTrainedTokenizerBase) -> None:
    values = ["the film was lovely", "a dull day", "warm"]
    rows = tokenize(Dataset.from_dict({"text": values, "label": [1, 0, 1]}), tokenizer)
    assert as_dataset(rows, None) is rows
    raw = Dataset.from_dict({"text": values, "label": [1, 0, 1]})
    assert as_dataset(raw, tokenizer).to_list() == rows.to_list()
    rows_of_text = [{"text": value} for value in values]
    series = pd.Series(values, index=[7, 8, 9])
    for plain in (values, tuple(values), raw["text"], iter(values), np.array(values), series, rows_of_text):
        assert as_dataset(plain, tokenizer).to_list() == rows.remove_columns("labels").to_list()
    for side in ("right", "left"):
        padder = copy.deepcopy(tokenizer)
        padder.padding_side = side
        loader = DataLoader(rows.to_list(), batch_size=2, collate_fn=Collator(padder))  # type: ignore[arg-type]
        assert is_batches(loader)
        assert as_dataset(loader, None).to_list() == rows.to_list()
    [batch] = DataLoader(rows.to_list(), batch_size=3, collate_fn=Collator(tokenizer))  # type: ignore[arg-type]
    unmasked = as_dataset([{"input_ids": batch["input_ids"]}], None)
    assert unmasked["attention_mask"][2] == [1] * batch["input_ids"].shape[1]
    assert not is_batches(rows)
    for plain in (values, np.array(values), series, rows_of_text, None, 5):
        assert not is_batches(plain)
    assert as_dataset((each for each in [batch]), None).to_list() == rows.to_list()
    assert as_dataset(iter(raw.to_list()), tokenizer).to_list() == rows.to_list()


def test_the_head_decides_how_texts_are_tokenized(folder: Path, tokenizer: PreTrainedTokenizerBase) -> None:
    model = load_model(folder / "dense")
    assert "word_starts" not in as_dataset(["a film"], tokenizer, model).column_names

    tagger = BertForTokenClassification(
        BertConfig(hidden_size=8, num_hidden_layers=1, num_attention_heads=1, intermediate_size=8, vocab_size=30)
    )
    assert as_dataset(["a film"], tokenizer, tagger)["word_starts"][0] == [0, 1, 1, 0]
    assert len(as_dataset([LONG], tokenizer, model, 16)["input_ids"][0]) == 16


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ("a film", "single string"),
        ([], "is empty"),
        (Dataset.from_dict({"text": []}), "is empty"),
        ({"train": ["a film"]}, "is a mapping"),
        ([1, 2], "it holds int"),
        ([{"text": "a film"}, {"text": None}], "same columns with strings .*; row 2 is"),
        ([{"text": ["a film"]}], "it holds text"),
        (None, "must be texts .* not None"),
        (5, "must be texts .* not 5"),
        (iter([None, "a film"]), "it holds NoneType"),
        (iter(["a film", 5]), "item 2 is 5 and no string"),
        (["a film", None], "item 2 is None and no string"),
        (np.array([1, 2]), "it holds int"),
        (np.array("a film"), "not 'a film'"),
        (pd.DataFrame({"text": ["a film"]}), "is a table"),
        (texts("a film").to_iterable_dataset(), "pass a Dataset or a list"),
        (Dataset.from_dict({"sentence": ["a film"]}), "no column 'text'"),
    ],
)
def test_other_data_is_refused(data: Any, message: str, tokenizer: PreTrainedTokenizerBase) -> None:
    with pytest.raises(DataError, match=message):
        as_dataset(data, tokenizer)


@pytest.mark.parametrize("shown", [False, True])
def test_bars_of_datasets_follow_those_of_the_library(
    shown: bool, tokenizer: PreTrainedTokenizerBase, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(progress, "_enabled", shown)
    disabled = datasets.are_progress_bars_disabled()
    datasets.enable_progress_bars()
    try:
        tokenize(texts("a film"), tokenizer)
        assert not datasets.are_progress_bars_disabled()
    finally:
        if disabled:
            datasets.disable_progress_bars()
    assert ("Map" in capfd.readouterr().err) == shown


def test_texts_need_a_tokenizer() -> None:
    with pytest.raises(OptionError, match="pass the tokenizer"):
        as_dataset(["a film"], None)
