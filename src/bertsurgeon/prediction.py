"""A model's outputs for a whole dataset."""

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import chain
from typing import Any, Protocol

import numpy as np
import torch
from datasets import Dataset
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from bertsurgeon import distributed, progress
from bertsurgeon.tasks import Collator, head_of


class Predictor(Protocol):
    """A model in PyTorch, or an exported one that is called alike."""

    config: Any

    @property
    def device(self) -> torch.device:
        """Where its inputs go."""

    def __call__(self, **inputs: Tensor) -> Any:
        """Outputs by name, for padded inputs of shape (batch, tokens)."""

    def eval(self) -> Any:
        """Puts it in evaluation mode."""


@torch.inference_mode()
def predict_outputs(
    model: Predictor, dataset: Dataset, tokenizer: PreTrainedTokenizerBase, batch_size: int, description: str
) -> list[dict[str, Tensor]]:
    """What the model's head says (:attr:`bertsurgeon.tasks.Head.outputs`), for every row of the dataset.

    Outputs of every token have no padding: shape (tokens of the row, …); all others (…,).

    A plain loop instead of a Trainer: the Trainer wants an output folder and prints its own tables for what is, batch
    by batch, one forward pass. Texts of like length share a batch, so that little is padded.
    Several processes take a part of the batches each; all of them have to call this.

    Args:
        model: In evaluation mode.
        dataset: Tokenized.
        tokenizer: Pads the batches.
        batch_size: Texts per batch.
        description: Shown beside the progress bar.

    Raises:
        ModelError: If the model has no head that is known.
    """
    head = head_of(model)
    names = [name for name in tokenizer.model_input_names if name in dataset.column_names]
    order = np.argsort([len(ids) for ids in dataset["input_ids"]], kind="stable")
    ordered = dataset.select_columns(names).select(order)
    collate = Collator(tokenizer)
    parts: list[list[dict[str, Tensor]]] = []
    for start in progress.track(distributed.shard(range(0, len(dataset), batch_size)), description):
        batch = collate(list(ordered.select(range(start, min(start + batch_size, len(dataset))))))
        inputs = {name: value.to(model.device) for name, value in batch.items()}
        outputs = model(**inputs)
        found = {name: outputs[name].float().cpu() for name in head.outputs}
        parts.append(
            [
                {
                    name: found[name][row][mask] if of_tokens else found[name][row]
                    for name, of_tokens in head.outputs.items()
                }
                for row, mask in enumerate(batch["attention_mask"].bool())
            ]
        )
    rows = list(chain.from_iterable(distributed.all_gather(parts)))
    return [rows[place] for place in np.argsort(order)]


def predict(
    model: Predictor, dataset: Dataset, tokenizer: PreTrainedTokenizerBase, batch_size: int, description: str
) -> Tensor:
    """Logits for every row of a model that says one thing about each, shape (rows, labels); else as above."""
    return torch.stack([row["logits"] for row in predict_outputs(model, dataset, tokenizer, batch_size, description)])


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Puts ``model`` in evaluation mode for the duration of a ``with`` block."""
    training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(training)
