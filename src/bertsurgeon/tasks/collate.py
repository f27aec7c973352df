"""From tokenized rows to padded batches, for every kind of task: the columns say what is in them."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import DataCollatorWithPadding, PreTrainedTokenizerBase

IGNORED = -100
"""The label of a token that no loss reads, as in PyTorch."""

LABELS = ("labels", "start_positions", "end_positions")
"""Columns that a model computes its loss from."""

WORD_STARTS = "word_starts"
"""1 for tokens that begin a word; where words are classified, predictions count there."""

PADDING = {"labels": IGNORED}
"""What pads columns of the length of a text (0 where not named)."""


def has_labels(columns: Sequence[str] | Mapping[str, Any]) -> bool:
    """Whether columns or a batch hold what a loss needs."""
    return any(name in columns for name in LABELS)


def model_inputs(batch: Mapping[str, Tensor], labels: bool = False) -> dict[str, Tensor]:
    """What a model is called with: without what only we read and, unless asked for, without labels."""
    hidden = (WORD_STARTS,) if labels else (WORD_STARTS, *LABELS)
    return {name: value for name, value in batch.items() if name not in hidden}


class Collator:
    """Pads the tokenizer's own columns by the tokenizer, and all others of several lengths on the same side.

    Args:
        tokenizer: Pads.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self.tokenizer = tokenizer
        self._inputs = DataCollatorWithPadding(tokenizer)

    def __call__(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, Tensor]:
        """A batch of tensors, shapes (rows, …)."""
        own = set(self.tokenizer.model_input_names)
        batch: dict[str, Tensor] = dict(self._inputs([{n: v for n, v in row.items() if n in own} for row in rows]))
        for name in rows[0]:
            if name not in own:
                values = [torch.as_tensor(row[name]) for row in rows]
                batch[name] = self._join(values, PADDING.get(name, 0))
        return batch

    def _join(self, values: list[Tensor], padding: int) -> Tensor:
        if values[0].dim() == 0:
            return torch.stack(values)
        side = self.tokenizer.padding_side
        return pad_sequence(values, batch_first=True, padding_value=padding, padding_side=side)
