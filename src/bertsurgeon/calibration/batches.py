"""From a dataset to padded calibration batches."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from datasets import Dataset
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from bertsurgeon.errors import DataError, OptionError
from bertsurgeon.tasks.collate import LABELS, WORD_STARTS, Collator

Batch = dict[str, Tensor]

PIXELS = "pixel_values"
"""What stands in the place of token ids in a batch of images."""

ENOUGH_TOKENS = 24_576
"""Tokens that a calibration without a number of samples asks for …"""

FEWEST, MOST = 512, 4096
"""… in at least and at most this many texts."""


def make_batches(
    data: Dataset | Iterable[Mapping[str, Any]],
    tokenizer: PreTrainedTokenizerBase | None,
    samples: int | None,
    batch_size: int,
    seed: int,
    collate: Callable[[list[Any]], Mapping[str, Tensor]] | None = None,
) -> list[Batch]:
    """The calibration set: ``samples`` sequences, sorted by length so that little is padded.

    Args:
        data: A tokenized dataset (``input_ids``, ``attention_mask``, optionally labels and ``token_type_ids``), or
            an iterable of ready batches of tensors such as a ``DataLoader``, of texts or of images (``pixel_values``).
        tokenizer: Pads a dataset's sequences; not needed for ready batches.
        samples: Sequences wanted; a smaller set is used whole. None for as many as make ``ENOUGH_TOKENS``, within
            ``FEWEST`` and ``MOST``: what regressions need is tokens, and short texts have few.
        batch_size: Sequences per batch (ready batches keep theirs).
        seed: Fixes which sequences of a dataset are drawn.
        collate: Makes a batch of a dataset's rows; None to pad them.

    Raises:
        DataError: If there is no data, or it is not tokenized.
        OptionError: If a number is not positive, or a dataset comes without a tokenizer.
    """
    if (samples is not None and samples < 1) or batch_size < 1:
        raise OptionError(f"Calibration needs at least one sample and one per batch, not {samples} and {batch_size}.")
    batches = (
        _from_dataset(data, tokenizer, samples, batch_size, seed, collate)
        if isinstance(data, Dataset)
        else _from_batches(data, samples)
    )
    if not batches:
        raise DataError("The calibration data is empty; at least one sequence is needed.")
    for batch in batches:
        if PIXELS in batch:
            continue
        if "input_ids" not in batch:
            raise DataError(f"Calibration data needs 'input_ids'; it has {', '.join(batch)}. Tokenize it first.")
        batch.setdefault("attention_mask", torch.ones_like(batch["input_ids"]))
    return batches


def count_samples(batch: Batch) -> int:
    """Texts or images of a batch."""
    return len(batch[PIXELS] if PIXELS in batch else batch["input_ids"])


def token_mask(model: PreTrainedModel, batch: Batch) -> Tensor:
    """True for real tokens, shape (samples, tokens); the tokens of an image are its patches and the class token."""
    if PIXELS not in batch:
        return batch["attention_mask"].bool()
    pixels = batch[PIXELS]
    size = model.config.patch_size
    height, width = size if isinstance(size, list | tuple) else (size, size)
    patches = (pixels.shape[-2] // height) * (pixels.shape[-1] // width)
    return torch.ones(len(pixels), patches + 1, dtype=torch.bool, device=pixels.device)


def _from_dataset(
    data: Dataset,
    tokenizer: PreTrainedTokenizerBase | None,
    samples: int | None,
    batch_size: int,
    seed: int,
    collate: Callable[[list[Any]], Mapping[str, Tensor]] | None,
) -> list[Batch]:
    if tokenizer is None:
        raise OptionError("Pass the tokenizer together with a dataset; it pads the batches.")
    if len(data) and "input_ids" not in data.column_names:
        raise DataError(
            f"Calibration data needs 'input_ids'; it has {', '.join(data.column_names)}. Tokenize it first."
        )
    names = {*tokenizer.model_input_names, *LABELS, WORD_STARTS} & set(data.column_names)
    shuffled = data.shuffle(seed=seed).select_columns(sorted(names))
    chosen = shuffled.select(range(min(MOST if samples is None else samples, len(data))))
    if samples is None:
        chosen = chosen.select(range(_enough([len(ids) for ids in chosen["input_ids"]])))
    rows = sorted(chosen, key=lambda row: len(row["input_ids"]))
    collate = collate or Collator(tokenizer)
    return [dict(collate(rows[i : i + batch_size])) for i in range(0, len(rows), batch_size)]


def _enough(lengths: list[int]) -> int:
    """How many texts of these lengths make enough tokens."""
    total = 0
    for count, length in enumerate(lengths, 1):
        total += length
        if total >= ENOUGH_TOKENS and count >= FEWEST:
            return count
    return len(lengths)


def _from_batches(data: Iterable[Mapping[str, Any]], samples: int | None) -> list[Batch]:
    limit = MOST if samples is None else samples
    batches: list[Batch] = []
    seen = tokens = 0
    for batch in data:
        tensors = {name: value for name, value in batch.items() if isinstance(value, Tensor)}
        rows = len(next(iter(tensors.values()), ()))
        batches.append({name: value[: limit - seen] for name, value in tensors.items()})
        seen += min(rows, limit - seen)
        tokens += int(tensors["attention_mask"].sum()) if "attention_mask" in tensors else _size(tensors, rows)
        if seen >= limit or (samples is None and seen >= FEWEST and tokens >= ENOUGH_TOKENS):
            break
    return batches


def _size(batch: dict[str, Tensor], rows: int) -> int:
    """Tokens of a batch; an image has some hundred of them, so that ``FEWEST`` images are enough."""
    return batch["input_ids"].numel() if "input_ids" in batch else rows * (ENOUGH_TOKENS // FEWEST)
