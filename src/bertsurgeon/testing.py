"""A classifier, its tokenizer and some labelled sentences, small enough for examples: nothing is fetched."""

import random

import torch
from datasets import Dataset
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

SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
FILLER = ("the", "film", "was", "a", "very", "and", "it", "with", "day", "old", "new", "plot")
JUDGED = (("poor", "dull", "cold", "grim"), ("fine", "lovely", "warm", "bright"))


def toy_classifier(texts: int = 64, seed: int = 0) -> tuple[PreTrainedModel, PreTrainedTokenizerBase, Dataset]:
    """A random BERT of two layers that sorts sentences into two classes.

    Args:
        texts: Sentences; each holds words that give its label away.
        seed: Fixes weights and sentences.

    Returns:
        The model, its tokenizer, and the sentences in the columns ``text`` and ``label``.
    """
    vocabulary = {word: number for number, word in enumerate((*SPECIAL, *FILLER, *JUDGED[0], *JUDGED[1]))}
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
        words = [*choose.choices(FILLER, k=choose.randint(2, 9)), *choose.choices(JUDGED[number % 2], k=3)]
        choose.shuffle(words)
        rows["text"].append(" ".join(words))
        rows["label"].append(number % 2)
    return model.eval(), tokenizer, Dataset.from_dict(rows)
