"""Unlabeled variations of training texts, for a teacher to answer: more data for distillation where texts are few.

A dense model has memorized the texts that it was trained on, so its outputs there are hardly more than the labels. The
idea is that of data augmentation in TinyBERT (Jiao et al., 2020, arXiv 1909.10351), without its language model: some
tokens are replaced by others of the same texts, in proportion to their frequency.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from datasets import Dataset, concatenate_datasets
from transformers import PreTrainedTokenizerBase


def with_variations(data: Dataset, tokenizer: PreTrainedTokenizerBase, copies: int, share: float, seed: int) -> Dataset:
    """Returns the texts without their labels, followed by variations.

    Args:
        data: Tokenized texts.
        tokenizer: Its special tokens are kept.
        copies: Variations of each text.
        share: Probability that a token is replaced.
        seed: Fixes the replacements.
    """
    texts = data.select_columns([name for name in data.column_names if name in tokenizer.model_input_names])
    special = set(tokenizer.all_special_ids)
    pool = np.array([token for tokens in texts["input_ids"] for token in tokens if token not in special])
    generator = np.random.default_rng(seed)

    def vary(row: dict[str, Any]) -> dict[str, Sequence[int]]:
        tokens = np.array(row["input_ids"])
        replaced = (generator.random(len(tokens)) < share) & ~np.isin(tokens, list(special))
        tokens[replaced] = generator.choice(pool, int(replaced.sum()))
        return {"input_ids": tokens.tolist()}

    return concatenate_datasets([texts, *(texts.map(vary, load_from_cache_file=False) for _ in range(copies))])
