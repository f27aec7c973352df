"""Padded calibration batches, from texts, a tokenized dataset, or a loader of batches."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from bertsurgeon.errors import DataError, OptionError
from bertsurgeon.tasks import (
    IGNORED,
    LABELS,
    WORD_STARTS,
    Classification,
    Collator,
    Data,
    MultiLabel,
    as_dataset,
    collect_data,
    fit_batch,
    head_of,
    is_batches,
)

if TYPE_CHECKING:
    from datasets import Dataset

Batch = dict[str, Tensor]

PIXELS = "pixel_values"
"""Name of the images in a batch, which has no token ids."""

ENOUGH_TOKENS = 24_576
"""Tokens of a calibration set whose number of samples is not specified …"""

MIN_SAMPLES, MAX_SAMPLES = 512, 4096
"""… which has at least and at most this many samples."""


def make_batches(
    data: Data,
    tokenizer: PreTrainedTokenizerBase | None,
    samples: int | None,
    batch_size: int,
    seed: int,
    collate: Callable[[list[Any]], Mapping[str, Tensor]] | None = None,
    *,
    model: PreTrainedModel | None = None,
) -> list[Batch]:
    """Makes the calibration set, sorted by length so that little is padded.

    Args:
        data: A list of texts, a dataset, tokenized (``input_ids``, ``attention_mask``, optionally labels and
            ``token_type_ids``) or with a column ``text``, or an iterable of padded batches of tensors such as a
            ``DataLoader``, of texts or of images (``pixel_values``).
        tokenizer: Tokenizes texts and pads the sequences of a dataset; not needed for batches.
        samples: Number of sequences; all if there are fewer. None for as many as contain ``ENOUGH_TOKENS``, within
            ``MIN_SAMPLES`` and ``MAX_SAMPLES``: the number of tokens matters for regressions, and short texts have few.
        batch_size: Sequences per batch (ready batches keep their size).
        seed: Fixes which sequences of a dataset are drawn.
        collate: Makes a batch from the rows of a dataset; None to pad them.
        model: Model that reads the batches, and whose head decides how texts are tokenized; None for classification.

    Raises:
        DataError: If there is no data, it is not of a supported type, or the model has no embedding for a token.
        OptionError: If a number is not positive, or the tokenizer is missing.
        ModelError: If the model's configuration makes its outputs unusable.
    """
    if (samples is not None and samples < 1) or batch_size < 1:
        raise OptionError(
            f"Calibration needs at least one sample and a batch size of at least 1, not {samples} and {batch_size}."
        )
    data = collect_data(data)
    are_ready = is_batches(data)
    batches = (
        _limit_batches(data, samples)
        if are_ready
        else _pad_dataset(as_dataset(data, tokenizer, model), tokenizer, samples, batch_size, seed, collate)
    )
    if not batches:
        raise DataError("The calibration data is empty; at least one sequence is needed.")
    for batch in batches:
        if PIXELS in batch:
            continue
        if "input_ids" not in batch:
            raise DataError(
                "The calibration data must be a list of texts, a dataset, or batches with 'input_ids' or "
                f"'pixel_values'; its batches have {', '.join(batch) or 'no tensors'}."
            )
        batch.setdefault("attention_mask", torch.ones_like(batch["input_ids"]))
    batches = [
        {name: value.clone() if value.is_inference() else value for name, value in batch.items()} for batch in batches
    ]
    # as_dataset has fitted all other data
    return [fit_batch(batch, model) for batch in batches] if are_ready and model is not None else batches


def count_samples(batch: Batch) -> int:
    """Returns the number of texts or images of a batch."""
    return len(batch[PIXELS] if PIXELS in batch else batch["input_ids"])


def token_mask(model: PreTrainedModel, batch: Batch) -> Tensor:
    """Returns True for real tokens, shape (samples, tokens); an image has its patches and the class token."""
    if PIXELS not in batch:
        return batch["attention_mask"].bool()
    pixels = batch[PIXELS]
    size = model.config.patch_size
    height, width = size if isinstance(size, list | tuple) else (size, size)
    patches = (pixels.shape[-2] // height) * (pixels.shape[-1] // width)
    return torch.ones(len(pixels), patches + 1, dtype=torch.bool, device=pixels.device)


def check_labels(model: PreTrainedModel, batch: Batch) -> None:
    """Checks that the labels of a batch fit the head of a text classification model.

    Other heads, and labels whose problem type transformers infers from labels, are not checked.

    Raises:
        DataError: If they do not fit.
    """
    labels = batch.get("labels")
    if labels is None:
        return
    head, count = head_of(model), int(model.config.num_labels or 0)
    shape = (count_samples(batch), count)
    if isinstance(head, MultiLabel):
        fits = labels.is_floating_point() and tuple(labels.shape) == shape
        needed = f"floating-point numbers of shape {shape}"
    elif isinstance(head, Classification) and (model.config.problem_type or not labels.is_floating_point()):
        whole = not labels.is_floating_point() and labels.numel() == shape[0]
        fits = whole and bool((((labels >= 0) & (labels < count)) | (labels == IGNORED)).all())
        needed = f"whole numbers from 0 to {count - 1}, one per text"
    else:
        return
    if not fits:
        kind = str(labels.dtype).removeprefix("torch.")
        values = f" from {labels.min().item()} to {labels.max().item()}" if labels.numel() else ""
        raise DataError(
            f"The labels do not fit the model's head: {head.describe(count)} needs {needed}, and a batch has {kind} "
            f"values{values} of shape {tuple(labels.shape)}."
        )


def _pad_dataset(
    dataset: Dataset,
    tokenizer: PreTrainedTokenizerBase | None,
    samples: int | None,
    batch_size: int,
    seed: int,
    collate: Callable[[list[Any]], Mapping[str, Tensor]] | None,
) -> list[Batch]:
    """Draws rows of a tokenized dataset and pads them."""
    if tokenizer is None:
        raise OptionError(
            "The sequences of a dataset must be padded; pass the tokenizer of the model together with it."
        )
    if len(dataset) and "input_ids" not in dataset.column_names:
        raise DataError(
            f"A calibration dataset needs the column 'input_ids' or 'text'; it has {', '.join(dataset.column_names)}. "
            "Pass images as batches, for example from a DataLoader."
        )
    names = {*tokenizer.model_input_names, *LABELS, WORD_STARTS} & set(dataset.column_names)
    shuffled = dataset.shuffle(seed=seed).select_columns(sorted(names))
    drawn = shuffled.select(range(min(MAX_SAMPLES if samples is None else samples, len(dataset))))
    if samples is None:
        drawn = drawn.select(range(_enough_samples([len(ids) for ids in drawn["input_ids"]])))
    rows = sorted(drawn, key=lambda row: len(row["input_ids"]))
    collate = collate or Collator(tokenizer)
    return [dict(collate(rows[i : i + batch_size])) for i in range(0, len(rows), batch_size)]


def _enough_samples(lengths: list[int]) -> int:
    """Returns how many texts of these lengths contain enough tokens."""
    total = 0
    for count, length in enumerate(lengths, 1):
        total += length
        if total >= ENOUGH_TOKENS and count >= MIN_SAMPLES:
            return count
    return len(lengths)


def _limit_batches(data: Iterable[Mapping[str, Any]], samples: int | None) -> list[Batch]:
    """Reads batches until there are enough samples, and cuts the last one."""
    limit = MAX_SAMPLES if samples is None else samples
    batches: list[Batch] = []
    count = tokens = 0
    for batch in data:
        if not isinstance(batch, Mapping):
            raise DataError(
                "The calibration data must be a list of texts, a dataset, or batches of tensors; it contains "
                f"{type(batch).__name__}."
            )
        tensors = {name: value for name, value in batch.items() if isinstance(value, Tensor)}
        rows = len(next(iter(tensors.values()), ()))
        batches.append({name: value[: limit - count] for name, value in tensors.items()})
        count += min(rows, limit - count)
        tokens += int(tensors["attention_mask"].sum()) if "attention_mask" in tensors else _count_tokens(tensors, rows)
        if count >= limit or (samples is None and count >= MIN_SAMPLES and tokens >= ENOUGH_TOKENS):
            break
    return batches


def _count_tokens(batch: Batch, rows: int) -> int:
    """Counts the tokens of a batch without a mask; images have hundreds, so ``MIN_SAMPLES`` of them are enough."""
    return batch["input_ids"].numel() if "input_ids" in batch else rows * (ENOUGH_TOKENS // MIN_SAMPLES)
