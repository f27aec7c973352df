"""A tiny classifier with its tokenizer and labeled sentences, for examples and tests; downloads nothing."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

import torch
from tokenizers import Tokenizer
from tokenizers.models import WordPiece
from tokenizers.normalizers import BertNormalizer
from tokenizers.pre_tokenizers import BertPreTokenizer
from tokenizers.processors import TemplateProcessing
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
)

if TYPE_CHECKING:
    from datasets import Dataset

SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
FILLER = ("the", "film", "was", "a", "very", "and", "it", "with", "day", "old", "new", "plot")
SENTIMENT = (("poor", "dull", "cold", "grim"), ("fine", "lovely", "warm", "bright"))


def toy_classifier(texts: int = 64, seed: int = 0) -> tuple[PreTrainedModel, PreTrainedTokenizerBase, Dataset]:
    """Returns an untrained BERT with two layers and two classes, its tokenizer, and labeled sentences.

    Args:
        texts: Number of sentences; each contains three words that decide its label.
        seed: Seed of weights and sentences.

    Returns:
        The model in evaluation mode, its tokenizer, and the sentences in columns ``text`` and ``label``.
    """
    from datasets import Dataset

    vocabulary = {word: number for number, word in enumerate((*SPECIAL, *FILLER, *SENTIMENT[0], *SENTIMENT[1]))}
    backend = Tokenizer(WordPiece(vocabulary, unk_token="[UNK]"))
    backend.normalizer = BertNormalizer()
    backend.pre_tokenizer = BertPreTokenizer()
    backend.post_processor = TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[(token, vocabulary[token]) for token in ("[CLS]", "[SEP]")],
    )
    names = {f"{token[1:-1].lower()}_token": token for token in SPECIAL}
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, model_max_length=64, **names)
    torch.manual_seed(seed)
    model = BertForSequenceClassification(
        BertConfig(
            vocab_size=len(vocabulary),
            hidden_size=32,
            num_hidden_layers=2,
            num_attention_heads=2,
            intermediate_size=64,
            max_position_embeddings=64,
            initializer_range=0.2,
        )
    )
    choose = random.Random(seed)
    rows: dict[str, list[str | int]] = {"text": [], "label": []}
    for number in range(texts):
        words = [*choose.choices(FILLER, k=choose.randint(2, 9)), *choose.choices(SENTIMENT[number % 2], k=3)]
        choose.shuffle(words)
        rows["text"].append(" ".join(words))
        rows["label"].append(number % 2)
    return model.eval(), tokenizer, Dataset.from_dict(rows)
