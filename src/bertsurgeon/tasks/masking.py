"""Masked language modelling: some tokens of a text are hidden, and the model guesses them."""

import hashlib
from dataclasses import dataclass
from typing import Any

import torch
from transformers import DataCollatorForLanguageModeling, PreTrainedTokenizerBase

from bertsurgeon.errors import OptionError
from bertsurgeon.tasks.collate import IGNORED


@dataclass
class TokenMasking(DataCollatorForLanguageModeling):
    """transformers' collator, whose masks depend on nothing but the seed, the epoch and the texts of a batch.

    A run that is killed and resumed therefore sees the masks it would have seen. Every batch has a token to guess, if
    any of its tokens may be hidden at all.

    Attributes:
        epoch: Set by whoever trains: each epoch hides other tokens.
    """

    epoch: int = 0

    def torch_call(self, examples: list[Any]) -> dict[str, Any]:
        """Pads and masks a batch of tokenized texts; ``labels`` are the hidden tokens, −100 elsewhere."""
        digest = hashlib.blake2b(repr((self.seed, self.epoch)).encode(), digest_size=8)
        for example in examples:
            digest.update(repr(list(example["input_ids"])).encode())
        self.generator = torch.Generator().manual_seed(int.from_bytes(digest.digest()) >> 1)
        batch: dict[str, Any] = super().torch_call(examples)
        return batch

    def torch_mask_tokens(
        self, inputs: Any, special_tokens_mask: Any | None = None, offset_mapping: Any | None = None
    ) -> tuple[Any, Any]:
        """Hides tokens; where chance hid none, the first one that may be."""
        whole = inputs.clone()
        masked, labels = super().torch_mask_tokens(inputs, special_tokens_mask, offset_mapping)
        if (labels == IGNORED).all():
            special = [
                self.tokenizer.get_special_tokens_mask(ids, already_has_special_tokens=True) for ids in whole.tolist()
            ]
            for row, column in (torch.tensor(special) == 0).nonzero()[:1].tolist():
                labels[row, column], masked[row, column] = whole[row, column], self.tokenizer.mask_token_id
        return masked, labels


def mask_tokens(tokenizer: PreTrainedTokenizerBase, probability: float, seed: int) -> TokenMasking:
    """A collator that hides tokens.

    Args:
        tokenizer: Knows the token that stands for hidden ones.
        probability: Of a token to be hidden, between 0 and 1.
        seed: Fixes which ones.

    Raises:
        OptionError: If the tokenizer has no such token.
    """
    if tokenizer.mask_token is None:
        raise OptionError("The tokenizer has no mask token; masked language modelling needs one.")
    return TokenMasking(tokenizer, mlm_probability=probability, seed=seed)
