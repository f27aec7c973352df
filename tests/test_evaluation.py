"""Evaluation accepts data in all its forms, and its arguments in one order."""

from pathlib import Path

import pytest
from datasets import Dataset
from torch.utils.data import DataLoader
from transformers import BertConfig, BertForMaskedLM, PreTrainedTokenizerBase

from bertsurgeon import evaluate, load_model
from bertsurgeon.errors import DataError
from bertsurgeon.evaluation import compare, evaluate_masked_lm
from bertsurgeon.prediction import predict
from bertsurgeon.tasks import Collator, Task, tokenize
from cli_helpers import write_model

TEXTS = ["the film was lovely", "a dull day", "warm and fine", "it was grim"]
RAW = Dataset.from_dict({"text": TEXTS, "label": [1, 0, 1, 1]})
TASK = Task("custom", ("accuracy", "f1"), ("bad", "good"))


def test_metrics_do_not_depend_on_the_form_of_the_data(folder: Path, tokenizer: PreTrainedTokenizerBase) -> None:
    model, rows = load_model(folder / "dense"), tokenize(RAW, tokenizer)
    loader = DataLoader(rows.to_list(), batch_size=3, collate_fn=Collator(tokenizer))  # type: ignore[arg-type]
    scores = [evaluate(model, TASK, data, tokenizer, batch_size=2) for data in (rows, RAW, loader)]
    assert scores[0] == scores[1] == scores[2]
    right = int((predict(model, TEXTS, tokenizer).argmax(-1).numpy() == RAW["label"][:]).sum())
    assert scores[0]["accuracy"] == pytest.approx(100 * right / 4)
    with pytest.raises(DataError, match="labeled"):
        evaluate(model, TASK, TEXTS, tokenizer)


def test_comparisons_do_not_depend_on_the_form_of_the_data(
    folder: Path, tokenizer: PreTrainedTokenizerBase, tmp_path: Path
) -> None:
    write_model(tmp_path / "other")
    model, other = load_model(folder / "dense"), load_model(tmp_path / "other")
    other.classifier.weight.data.neg_()
    rows = tokenize(RAW, tokenizer)
    loader = DataLoader(rows.to_list(), batch_size=3, collate_fn=Collator(tokenizer))  # type: ignore[arg-type]
    agreement = [compare(model, other, data, tokenizer) for data in (rows, RAW, TEXTS, loader)]
    assert agreement[0] == agreement[1] == agreement[2] == agreement[3] == {"agreement": 0.0}
    assert compare(model, model, TEXTS, tokenizer) == {"agreement": 100.0}


def test_masked_language_models_are_evaluated_on_texts(tokenizer: PreTrainedTokenizerBase) -> None:
    sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1, "intermediate_size": 8}
    model = BertForMaskedLM(BertConfig(vocab_size=len(tokenizer), **sizes))
    expected = evaluate_masked_lm(model, tokenize(RAW.select_columns(["text"]), tokenizer), tokenizer, seed=1)
    assert evaluate_masked_lm(model, TEXTS, tokenizer, seed=1) == expected
    assert expected["perplexity"] > 1


def test_long_texts_are_cut_where_they_are_told(
    folder: Path, tokenizer: PreTrainedTokenizerBase, monkeypatch: pytest.MonkeyPatch
) -> None:
    notes: list[str] = []
    monkeypatch.setattr("bertsurgeon.progress.warn", notes.append)
    model = load_model(folder / "dense")
    compare(model, model, ["film " * 40, "film"], tokenizer, max_length=16)
    assert notes == [
        "1 of 2 texts were longer than 16 tokens and were cut there; --max-length (max_length in Python) raises the "
        "limit."
    ]
