"""Prediction: a model's outputs for a whole dataset."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from copy import deepcopy
from itertools import chain
from typing import Any, Protocol, TypeVar

import numpy as np
import torch
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from bertsurgeon import distributed, progress
from bertsurgeon.tasks import Collator, Data, as_dataset, head_of

M = TypeVar("M")


class Predictor(Protocol):
    """A PyTorch model, or an exported one with the same interface."""

    config: Any

    @property
    def device(self) -> torch.device:
        """Device of the model's inputs."""

    def __call__(self, **inputs: Tensor) -> Any:
        """Returns outputs by name, for padded inputs of shape (batch, tokens)."""

    def eval(self) -> Any:
        """Switches to evaluation mode and returns the model."""


@torch.inference_mode()
def predict_outputs(
    model: Predictor,
    data: Data,
    tokenizer: PreTrainedTokenizerBase,
    batch_size: int = 64,
    description: str = "Predicting",
) -> list[dict[str, Tensor]]:
    """Computes the outputs of a model's head for every row (:attr:`bertsurgeon.tasks.Head.outputs`).

    Rows of similar length share a batch, which keeps padding small. With several processes, each computes a part of the
    batches, and all must call this function. (A plain loop: transformers' ``Trainer`` requires an output folder and
    prints tables of its own.)

    Args:
        model: Model in evaluation mode.
        data: Texts, raw or tokenized, or padded batches.
        tokenizer: Tokenizer of the model.
        batch_size: Rows per batch.
        description: Label of the progress bar.

    Returns:
        For each row, outputs by name on the CPU, in fp32: shape (tokens of the row, …) for outputs with one entry per
        token, else (…,).

    Raises:
        ModelError: If the model has no supported head.
    """
    head = head_of(model)
    dataset = as_dataset(data, tokenizer, model)
    names = [name for name in tokenizer.model_input_names if name in dataset.column_names]
    order = np.argsort([len(ids) for ids in dataset["input_ids"]], kind="stable")
    ordered = dataset.select_columns(names).select(order)
    collate = Collator(tokenizer)
    batches: list[list[dict[str, Tensor]]] = []
    for start in progress.track(distributed.shard(range(0, len(dataset), batch_size)), description):
        batch = collate(list(ordered.select(range(start, min(start + batch_size, len(dataset))))))
        model_outputs = model(**{name: value.to(model.device) for name, value in batch.items()})
        outputs = {name: model_outputs[name].float().cpu() for name in head.outputs}
        batches.append(
            [
                {
                    name: outputs[name][row][mask] if per_token else outputs[name][row]
                    for name, per_token in head.outputs.items()
                }
                for row, mask in enumerate(batch["attention_mask"].bool())
            ]
        )
    rows = list(chain.from_iterable(distributed.all_gather(batches)))
    return [rows[position] for position in np.argsort(order)]


def predict(
    model: Predictor,
    data: Data,
    tokenizer: PreTrainedTokenizerBase,
    batch_size: int = 64,
    description: str = "Predicting",
) -> Tensor:
    """Computes the logits of a model with one prediction per row, shape (rows, labels).

    Args:
        model: Model in evaluation mode.
        data: Texts, raw or tokenized, or padded batches.
        tokenizer: Tokenizer of the model.
        batch_size: Rows per batch.
        description: Label of the progress bar.

    Raises:
        ModelError: If the model has no supported head.
    """
    return torch.stack([row["logits"] for row in predict_outputs(model, data, tokenizer, batch_size, description)])


@contextmanager
def evaluating(model: nn.Module | Predictor) -> Iterator[None]:
    """Switches a model to evaluation mode for the duration of a ``with`` block.

    Args:
        model: Model whose mode is restored afterwards; exported ones have no other mode.
    """
    training = isinstance(model, nn.Module) and model.training
    model.eval()
    try:
        yield
    finally:
        if isinstance(model, nn.Module):
            model.train(training)


@contextmanager
def gradients_enabled() -> Iterator[None]:
    """Enables gradients in a ``with`` block or a decorated function, also under ``no_grad`` or ``inference_mode``."""
    with torch.inference_mode(False), torch.enable_grad():
        yield


def without_inference_tensors(model: M) -> M:
    """Returns a model that gradients can be computed of: a copy if it was made under ``torch.inference_mode``.

    Args:
        model: A PyTorch model; anything else, such as None, is returned as it is.
    """
    return deepcopy(model) if has_inference_tensors(model) else model


def has_inference_tensors(model: object) -> bool:
    """Returns whether a model was made under ``torch.inference_mode``, so that it cannot be trained."""
    return isinstance(model, nn.Module) and any(
        tensor.is_inference() for tensor in chain(model.parameters(), model.buffers())
    )


@contextmanager
def forked_rng() -> Iterator[None]:
    """Restores the random generators of Python, NumPy and PyTorch after a ``with`` block or a decorated function.

    The block begins with the states of the caller's generators.
    """
    python_state, numpy_state = random.getstate(), np.random.get_state()  # noqa: NPY002  # the global one
    try:
        with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
            yield
    finally:
        random.setstate(python_state)
        np.random.set_state(numpy_state)  # noqa: NPY002
