"""Where the answers of the chosen model differ from those of the dense one: by class, and text by text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from bertsurgeon.tasks import Classification, Head, Regression, TaskType, label_names

if TYPE_CHECKING:
    from datasets import Dataset

CHANGED = 20
"""Texts that are shown."""

MAX_CHARACTERS = 300

MAX_POINTS = 2000
"""Points of a scatter plot at most."""

Outputs = Sequence[dict[str, Tensor]]


def compare_answers(
    head: Head, config: Any, dense: Outputs, chosen: Outputs, rows: Dataset, tokenizer: PreTrainedTokenizerBase
) -> dict[str, Any]:
    """Returns where answers differ, as plain data for a report (``answers`` in docs/report.md).

    Args:
        head: The models' head.
        config: Configuration of the dense model, for the names of the classes.
        dense: Outputs of the dense model for each row.
        chosen: Outputs of the chosen model for each row.
        rows: Tokenized rows, with labels if there are any.
        tokenizer: Tokenizer of the models.
    """
    result: dict[str, Any] = {"per_class": None, "confusion": None, "scatter": None, "changed": []}
    if isinstance(head, Classification):
        logits, other = (torch.stack([row["logits"] for row in outputs]) for outputs in (dense, chosen))
        names = list(label_names(config) or [str(code) for code in range(logits.shape[1])])
        answers, other_answers = logits.argmax(-1).numpy(), other.argmax(-1).numpy()
        counts = np.zeros((len(names), len(names)), dtype=int)
        np.add.at(counts, (answers, other_answers), 1)
        result["confusion"] = {"labels": names, "counts": counts.tolist()}
        if "labels" in rows.column_names:
            result["per_class"] = _per_class(np.asarray(rows["labels"]), answers, other_answers, names)
        difference = (logits.softmax(-1) - other.softmax(-1)).abs().max(-1).values.numpy()
        texts = [(_class_answer(logits[row], names), _class_answer(other[row], names)) for row in range(len(answers))]
        # changed answers first, each group by how far the probabilities moved
        order = np.lexsort((-difference, answers == other_answers))
        result["changed"] = _changed(order, difference, texts, rows, tokenizer, names)
    elif isinstance(head, Regression):
        values, other_values = (
            torch.stack([row["logits"] for row in outputs]).flatten().numpy() for outputs in (dense, chosen)
        )
        keep = np.unique(np.linspace(0, len(values) - 1, min(MAX_POINTS, len(values))).astype(int))
        result["scatter"] = {"dense": values[keep].tolist(), "chosen": other_values[keep].tolist()}
        difference = np.abs(values - other_values)
        texts = [(f"{one:.2f}", f"{two:.2f}") for one, two in zip(values, other_values, strict=True)]
        result["changed"] = _changed(np.argsort(-difference), difference, texts, rows, tokenizer, None)
    elif isinstance(head, TaskType):
        difference = np.asarray([largest_difference(one, two) for one, two in zip(dense, chosen, strict=True)])
        texts = [("", "")] * len(difference)
        result["changed"] = _changed(np.argsort(-difference), difference, texts, rows, tokenizer, None)
    return result


def _per_class(labels: Any, dense: Any, chosen: Any, names: list[str]) -> list[dict[str, Any]]:
    from sklearn.metrics import precision_recall_fscore_support

    codes = list(range(len(names)))
    scores = [
        precision_recall_fscore_support(labels, answers, labels=codes, zero_division=0) for answers in (dense, chosen)
    ]
    return [
        {
            "label": name,
            "texts": int(scores[0][3][code]),
            "dense_f1": 100 * float(scores[0][2][code]),
            "chosen_f1": 100 * float(scores[1][2][code]),
            "dense_recall": 100 * float(scores[0][1][code]),
            "chosen_recall": 100 * float(scores[1][1][code]),
        }
        for code, name in enumerate(names)
    ]


def _class_answer(logits: Tensor, names: list[str]) -> str:
    probabilities = logits.softmax(-1)
    best = int(probabilities.argmax())
    return f"{names[best]} ({float(probabilities[best]):.2f})"


def largest_difference(first: dict[str, Tensor], second: dict[str, Tensor]) -> float:
    """Returns the largest difference of any output to one text."""
    return max(float((first[name] - second[name]).abs().max()) for name in first)


def _changed(
    order: Any,
    difference: Any,
    answers: list[tuple[str, str]],
    rows: Dataset,
    tokenizer: PreTrainedTokenizerBase,
    names: list[str] | None,
) -> list[dict[str, Any]]:
    """The rows whose answers changed most, with their texts as the tokenizer decodes them."""
    changed = []
    for index in order[:CHANGED]:
        row = rows[int(index)]
        if difference[index] == 0:
            break
        text, pair = decode_texts(row, tokenizer)
        label = row.get("labels")
        if isinstance(label, list):
            label = None
        changed.append(
            {
                "text": text,
                "text_pair": pair,
                "label": None if label is None else names[label] if names else f"{label:g}",
                "dense": answers[index][0] or None,
                "chosen": answers[index][1] or None,
                "difference": float(difference[index]),
            }
        )
    return changed


def decode_texts(row: dict[str, Any], tokenizer: PreTrainedTokenizerBase) -> tuple[str, str | None]:
    """Returns the text, and the second one of a pair, that a row of token ids came from.

    Args:
        row: A tokenized row.
        tokenizer: The tokenizer; a separator between two texts is what follows the first one.
    """
    special = set(tokenizer.all_special_ids)
    parts: list[list[int]] = [[]]
    for token in row["input_ids"]:
        if token in special and token != tokenizer.unk_token_id:
            if parts[-1]:
                parts.append([])
        else:
            parts[-1].append(token)
    texts = [_shorten(str(tokenizer.decode(part))) for part in parts if part]
    if len(texts) == 1 or not texts:
        return (texts or [""])[0], None
    return texts[0], " ".join(texts[1:])


def _shorten(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= MAX_CHARACTERS else text[: MAX_CHARACTERS - 1] + "…"
