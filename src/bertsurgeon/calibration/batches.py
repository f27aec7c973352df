"""From a dataset to padded calibration batches."""

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from datasets import Dataset
from torch import Tensor
from transformers import DataCollatorWithPadding, PreTrainedTokenizerBase

from bertsurgeon.errors import DataError, OptionError

Batch = dict[str, Tensor]


def make_batches(
    data: Dataset | Iterable[Mapping[str, Any]],
    tokenizer: PreTrainedTokenizerBase | None,
    samples: int,
    batch_size: int,
    seed: int,
) -> list[Batch]:
    """The calibration set: ``samples`` sequences, sorted by length so that little is padded.

    Args:
        data: A tokenized dataset (``input_ids``, ``attention_mask``, optionally ``labels`` and ``token_type_ids``), or
            an iterable of ready batches of tensors such as a ``DataLoader``.
        tokenizer: Pads a dataset's sequences; not needed for ready batches.
        samples: Sequences wanted; a smaller set is used whole.
        batch_size: Sequences per batch (ready batches keep theirs).
        seed: Fixes which sequences of a dataset are drawn.

    Raises:
        DataError: If there is no data, or it is not tokenized.
        OptionError: If a number is not positive, or a dataset comes without a tokenizer.
    """
    if samples < 1 or batch_size < 1:
        raise OptionError(f"Calibration needs at least one sample and one per batch, not {samples} and {batch_size}.")
    batches = (
        _from_dataset(data, tokenizer, samples, batch_size, seed)
        if isinstance(data, Dataset)
        else _from_batches(data, samples)
    )
    if not batches:
        raise DataError("The calibration data is empty; at least one sequence is needed.")
    for batch in batches:
        if "input_ids" not in batch:
            raise DataError(f"Calibration data needs 'input_ids'; it has {', '.join(batch)}. Tokenize it first.")
        batch.setdefault("attention_mask", torch.ones_like(batch["input_ids"]))
    return batches


def _from_dataset(
    data: Dataset, tokenizer: PreTrainedTokenizerBase | None, samples: int, batch_size: int, seed: int
) -> list[Batch]:
    if tokenizer is None:
        raise OptionError("Pass the tokenizer together with a dataset; it pads the batches.")
    if len(data) and "input_ids" not in data.column_names:
        raise DataError(
            f"Calibration data needs 'input_ids'; it has {', '.join(data.column_names)}. Tokenize it first."
        )
    names = {*tokenizer.model_input_names, "labels"} & set(data.column_names)
    chosen = data.shuffle(seed=seed).select(range(min(samples, len(data)))).select_columns(sorted(names))
    rows = sorted(chosen, key=lambda row: len(row["input_ids"]))
    collate = DataCollatorWithPadding(tokenizer)
    return [dict(collate(rows[i : i + batch_size])) for i in range(0, len(rows), batch_size)]


def _from_batches(data: Iterable[Mapping[str, Any]], samples: int) -> list[Batch]:
    batches: list[Batch] = []
    seen = 0
    for batch in data:
        tensors = {name: value for name, value in batch.items() if isinstance(value, Tensor)}
        rows = len(next(iter(tensors.values()), ()))
        batches.append({name: value[: samples - seen] for name, value in tensors.items()})
        seen += min(rows, samples - seen)
        if seen >= samples:
            break
    return batches
