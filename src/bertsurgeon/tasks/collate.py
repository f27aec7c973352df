"""Collators: padded batches from tokenized rows, for training, evaluation and masked language modeling."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import DataCollatorForLanguageModeling, DataCollatorWithPadding, PreTrainedTokenizerBase

from bertsurgeon.errors import OptionError

IGNORED = -100
"""Label of tokens that the loss skips (PyTorch's ``ignore_index``)."""

LABELS = ("labels", "start_positions", "end_positions")
"""Columns that a model computes its loss from."""

WORD_STARTS = "word_starts"
"""Column that is 1 for the first token of each word; token classifiers are scored at these tokens only."""

PADDING = {"labels": IGNORED}
"""Padding value of each per-token column; 0 for columns that are not listed."""


def has_labels(columns: Sequence[str] | Mapping[str, Any]) -> bool:
    """Returns whether a batch, or a list of column names, contains labels.

    Args:
        columns: A batch, or the names of its columns.
    """
    return any(name in columns for name in LABELS)


def model_inputs(batch: Mapping[str, Tensor], labels: bool = False) -> dict[str, Tensor]:
    """Selects the columns of a batch that a model's ``forward`` accepts.

    Args:
        batch: Padded batch; each value has shape (rows, …).
        labels: Include the labels, so that the model computes its loss.
    """
    excluded = (WORD_STARTS,) if labels else (WORD_STARTS, *LABELS)
    return {name: value for name, value in batch.items() if name not in excluded}


class Collator:
    """Pads tokenized rows to a batch.

    The tokenizer pads its own columns; all other per-token columns are padded on the same side.

    Args:
        tokenizer: Tokenizer of the model.

    Raises:
        OptionError: If the tokenizer has no padding token.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        if tokenizer.pad_token is None:
            raise OptionError(
                "The tokenizer has no padding token; set one (tokenizer.pad_token = tokenizer.eos_token), and for a "
                "decoder also model.config.pad_token_id = tokenizer.pad_token_id."
            )
        self.tokenizer = tokenizer
        self._pad_inputs = DataCollatorWithPadding(tokenizer)

    def __call__(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, Tensor]:
        """Returns a batch of tensors, each of shape (rows, …).

        Args:
            rows: Tokenized rows, all with the same columns.
        """
        inputs = set(self.tokenizer.model_input_names)
        batch: dict[str, Tensor] = dict(
            self._pad_inputs([{n: v for n, v in row.items() if n in inputs} for row in rows])
        )
        for name in rows[0]:
            if name not in inputs:
                values = [torch.as_tensor(row[name]) for row in rows]
                batch[name] = self._stack(values, PADDING.get(name, 0))
        return batch

    def _stack(self, values: list[Tensor], padding: int) -> Tensor:
        if values[0].dim() == 0:
            return torch.stack(values)
        side = self.tokenizer.padding_side
        return pad_sequence(values, batch_first=True, padding_value=padding, padding_side=side)


@dataclass
class TokenMasking(DataCollatorForLanguageModeling):
    """Masked-language-model collator whose masks depend on seed, epoch and the texts of a batch alone.

    A training run that is interrupted and resumed therefore draws the same masks. Every batch has at least one masked
    token, if any of its tokens can be masked.

    Attributes:
        epoch: Epoch of the training, set by its callback; each epoch draws other masks.
    """

    epoch: int = 0

    def torch_call(self, examples: list[Any]) -> dict[str, Any]:
        """Pads and masks tokenized texts; ``labels`` holds the ids of masked tokens, −100 elsewhere."""
        digest = hashlib.blake2b(repr((self.seed, self.epoch)).encode(), digest_size=8)
        for example in examples:
            digest.update(repr(list(example["input_ids"])).encode())
        self.generator = torch.Generator().manual_seed(int.from_bytes(digest.digest()) >> 1)
        batch: dict[str, Any] = super().torch_call(examples)
        return batch

    def torch_mask_tokens(
        self, inputs: Any, special_tokens_mask: Any | None = None, offset_mapping: Any | None = None
    ) -> tuple[Any, Any]:
        """Masks tokens; if none was drawn, masks the first token that is not special."""
        original = inputs.clone()
        masked, labels = super().torch_mask_tokens(inputs, special_tokens_mask, offset_mapping)
        if (labels == IGNORED).all():
            special = [
                self.tokenizer.get_special_tokens_mask(ids, already_has_special_tokens=True)
                for ids in original.tolist()
            ]
            for row, column in (torch.tensor(special) == 0).nonzero()[:1].tolist():
                labels[row, column], masked[row, column] = original[row, column], self.tokenizer.mask_token_id
        return masked, labels


def mask_tokens(tokenizer: PreTrainedTokenizerBase, probability: float, seed: int) -> TokenMasking:
    """Returns a collator for masked language modeling.

    Args:
        tokenizer: Tokenizer with a mask token.
        probability: Probability that a token is masked, between 0 and 1.
        seed: Seed of the masks.

    Raises:
        OptionError: If the tokenizer has no mask token.
    """
    if tokenizer.mask_token is None:
        raise OptionError(
            "The tokenizer has no mask token, which masked language modeling needs; use the tokenizer of a model "
            "that was pretrained with one."
        )
    return TokenMasking(tokenizer, mlm_probability=probability, seed=seed)
