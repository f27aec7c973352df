"""A model's outputs for a whole dataset."""

from typing import Any, Protocol

import numpy as np
import torch
from datasets import Dataset
from torch import Tensor
from transformers import DataCollatorWithPadding, PreTrainedTokenizerBase

from bertsurgeon import progress


class Predictor(Protocol):
    """A model in PyTorch, or an exported one that is called alike."""

    config: Any

    @property
    def device(self) -> torch.device:
        """Where its inputs go."""

    def __call__(self, **inputs: Tensor) -> Any:
        """Outputs with ``logits``, for padded inputs of shape (batch, tokens)."""

    def eval(self) -> Any:
        """Puts it in evaluation mode."""


@torch.inference_mode()
def predict(
    model: Predictor, dataset: Dataset, tokenizer: PreTrainedTokenizerBase, batch_size: int, description: str
) -> Tensor:
    """Logits for every row, shape (rows, labels), in the order of the dataset.

    A plain loop instead of a Trainer: the Trainer wants an output folder and prints its own tables for what is, batch
    by batch, one forward pass. Texts of like length share a batch, so that little is padded.

    Args:
        model: In evaluation mode.
        dataset: Tokenized.
        tokenizer: Pads the batches.
        batch_size: Texts per batch.
        description: Shown beside the progress bar.
    """
    names = [name for name in tokenizer.model_input_names if name in dataset.column_names]
    order = np.argsort([len(ids) for ids in dataset["input_ids"]], kind="stable")
    ordered = dataset.select_columns(names).select(order)
    collate = DataCollatorWithPadding(tokenizer)
    outputs: list[Tensor] = []
    for start in progress.track(range(0, len(dataset), batch_size), description):
        batch = collate(list(ordered.select(range(start, min(start + batch_size, len(dataset))))))
        inputs = {name: value.to(model.device) for name, value in batch.items()}
        outputs.append(model(**inputs).logits.float().cpu())
    logits = torch.cat(outputs)
    return logits[torch.from_numpy(np.argsort(order))]
