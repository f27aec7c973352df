"""Token classification: one class per word, for named entities or parts of speech."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from torch import Tensor
from transformers import AutoModelForTokenClassification, PreTrainedTokenizerBase

from bertsurgeon.errors import DataError, OptionError
from bertsurgeon.tasks.collate import IGNORED, WORD_STARTS
from bertsurgeon.tasks.distributions import CATEGORICAL
from bertsurgeon.tasks.files import read_columns, read_conll
from bertsurgeon.tasks.metrics import tag_metrics
from bertsurgeon.tasks.raw_files import data_suffix, expand
from bertsurgeon.tasks.types.base import (
    TRUNCATED,
    PreparedData,
    TaskType,
    encode_texts,
    find_truncated,
    name_order,
    replace_column,
)
from bertsurgeon.tasks.types.heads import Outputs, Prediction

if TYPE_CHECKING:
    from datasets import Dataset

PREFIXES = ("B-", "I-", "E-", "S-")
"""Prefixes of entity tags in the schemes IOB and IOBES."""

TAG_METRICS = ("accuracy", "macro_f1")
"""Metrics of tags that are not entities."""

_LIST_FILES = (".jsonl", ".json", ".parquet")
_SPACE = re.compile(r"\s")


@dataclass(frozen=True)
class TokenClassification(TaskType):
    """One class per word; training, prediction, comparison and calibration use the first subword of each word."""

    name: ClassVar[str] = "token-classification"
    auto_class: ClassVar[type[Any]] = AutoModelForTokenClassification
    class_endings: ClassVar[tuple[str, ...]] = ("ForTokenClassification",)
    outputs: ClassVar[dict[str, bool]] = {"logits": True}
    columns: ClassVar[dict[str, str]] = {"text": "tokens", "label": "tags"}
    rows_are: ClassVar[str] = "sentences"

    def describe(self, outputs: int) -> str:
        """Returns a description for error messages."""
        return f"a token classification with {outputs} tags"

    def read(self, path: Path, columns: Mapping[str, str | None]) -> Dataset:
        """Reads lists of words and tags from JSON, JSONL or Parquet; from other files CoNLL columns, by position."""
        from datasets import Dataset

        first = expand(path)[0]
        if not first.is_dir() and data_suffix(first) not in _LIST_FILES:
            return read_conll(path, _parse_position(columns["text"] or "0"), _parse_position(columns["label"] or "-1"))
        names = {role: columns[role] or default for role, default in self.columns.items()}
        values = read_columns(path, names, texts=())
        rows = {name: [_parse_list(value, path, name) for value in values[role]] for role, name in self.columns.items()}
        for number, (tokens, tags) in enumerate(zip(rows["tokens"], rows["tags"], strict=True), 1):
            if len(tokens) != len(tags):
                raise DataError(f"Row {number} of {path} has {len(tokens)} tokens and {len(tags)} tags.")
        return Dataset.from_dict(rows)

    def class_names(self, parts: Sequence[Dataset]) -> set[str]:
        """Returns all tags."""
        return {tag for part in parts for tags in part["tags"] for tag in tags}

    def prepare(self, parts: Sequence[Dataset], labels: Sequence[str] = ()) -> PreparedData:
        """Codes tags: ``O`` first, then entity tags sorted by type; tags without types (parts of speech) by name."""
        labels = tuple(labels) or tuple(
            sorted(
                self.class_names(parts),
                key=lambda tag: (tag != "O", name_order(tag[2:] if tag[:2] in PREFIXES else tag), tag),
            )
        )
        if len(labels) < 2:
            raise DataError("The tags are all the same; a token classification needs two.")
        if len(labels) > 1000:
            raise DataError(
                f"There are {len(labels)} different tags; they do not look like tags. Name the right column with "
                "--label-column."
            )
        codes = {tag: code for code, tag in enumerate(labels)}
        coded = [
            replace_column(part, "tags", [[codes[tag] for tag in tags] for tags in part["tags"]]) for part in parts
        ]
        entities = all(tag == "O" or tag[:2] in PREFIXES for tag in labels)
        metrics = ("f1", "precision", "recall", "accuracy") if entities else TAG_METRICS
        return PreparedData(self, metrics, labels, coded)

    def summarize(self, part: Dataset, labels: Sequence[str]) -> str:
        """Returns the number of words and of tags."""
        words = sum(len(tags) for tags in part["tags"])
        return f"{words:,} words, {len({tag for tags in part['tags'] for tag in tags})} different tags"

    def recode_labels(self, part: Dataset, codes: Sequence[int], count: int) -> Dataset:
        """Replaces tag codes, see :meth:`TaskType.recode_labels`."""
        return replace_column(part, "tags", [[codes[code] for code in tags] for tags in part["tags"]])

    def encode(
        self, rows: dict[str, list[Any]], indices: list[int], tokenizer: PreTrainedTokenizerBase, limit: int
    ) -> dict[str, list[Any]]:
        """Returns the model's inputs, ``word_starts``, and ``labels`` that are −100 except where a word begins.

        Words are joined by spaces and assigned to tokens by their characters. With ``is_split_into_words``, byte-level
        tokenizers (RoBERTa's) would treat each word as the continuation of the one before, unless they were created
        with ``add_prefix_space``.
        """
        if "tokens" in rows:
            texts = {"text": [" ".join(words) for words in rows["tokens"]]}
        else:
            texts = {name: rows[name] for name in ("text", "text_pair") if name in rows}
        encoded = encode_texts(texts, tokenizer, limit, return_offsets_mapping=True)
        truncated = find_truncated(encoded, texts, tokenizer, limit)
        starts, labels = [], []
        for number, offsets in enumerate(encoded.pop("offset_mapping")):
            if "tokens" in rows:
                word_indices = [_word_indices(rows["tokens"][number])]
            else:
                word_indices = [_word_indices(_SPACE.split(column[number])) for column in texts.values()]
            words = list(_first_subwords(word_indices, offsets, encoded.sequence_ids(number)))
            starts.append([int(word is not None) for word in words])
            if "tags" in rows:
                tags = rows["tags"][number]
                labels.append([IGNORED if word is None else tags[word] for word in words])
        columns = {**encoded, WORD_STARTS: starts, TRUNCATED: truncated}
        return {**columns, "labels": labels} if "tags" in rows else columns

    def predictions(self, outputs: Outputs, batch: Mapping[str, Tensor]) -> list[Prediction]:
        """Returns one prediction per word, or per token if the batch does not mark the words."""
        return [Prediction(outputs["logits"][_scored_tokens(batch)], CATEGORICAL)]

    def num_losses(self, batch: Mapping[str, Tensor]) -> int:
        """Returns the number of words."""
        scored = batch["labels"] != IGNORED if "labels" in batch else _scored_tokens(batch)
        return int(scored.sum())

    def score(
        self, metrics: Sequence[str], labels: Sequence[str], outputs: Sequence[Outputs], dataset: Dataset
    ) -> dict[str, float]:
        """Computes :func:`bertsurgeon.tasks.metrics.tag_metrics` of all words that were not cut off."""
        if "labels" not in dataset.column_names:
            raise DataError("Evaluation needs tags, and the dataset has none; pass labeled data.")
        references, predictions = [], []
        for codes, row in zip(dataset["labels"], outputs, strict=True):
            predicted = row["logits"].argmax(-1).tolist()
            pairs = [(code, prediction) for code, prediction in zip(codes, predicted, strict=True) if code != IGNORED]
            references.append([labels[code] for code, _ in pairs])
            predictions.append([labels[prediction] for _, prediction in pairs])
        return tag_metrics(metrics, references, predictions)


def _scored_tokens(batch: Mapping[str, Tensor]) -> Tensor:
    """Returns True for tokens whose predictions count, shape (texts, tokens)."""
    if WORD_STARTS in batch:
        return batch[WORD_STARTS].bool()
    return batch["labels"] != IGNORED if "labels" in batch else batch["attention_mask"].bool()


def _word_indices(words: Sequence[str]) -> list[int | None]:
    """Returns for each character of the words, joined by spaces, the index of its word; None for the spaces."""
    indices: list[int | None] = []
    for number, word in enumerate(words):
        indices += [*[number] * len(word), None]
    return indices


def _first_subwords(
    word_indices: Sequence[Sequence[int | None]],
    offsets: Sequence[tuple[int, int]],
    sequences: Sequence[int | None],
) -> Iterator[int | None]:
    """Yields for each token the index of the word that it begins, or None.

    Args:
        word_indices: Word of each character, for each text of a pair.
        offsets: First character of each token, and the one after its last.
        sequences: Text of the pair that each token belongs to; None for special tokens.
    """
    last: tuple[int, int] | None = None
    for (start, end), sequence in zip(offsets, sequences, strict=True):
        # the last character, as a token may begin with the space before its word
        word = word_indices[sequence][end - 1] if sequence is not None and end > start else None
        begins = word is not None and (sequence, word) != last
        if word is not None and sequence is not None:
            last = sequence, word
        yield word if begins else None


def _parse_position(column: str) -> int:
    try:
        return int(column)
    except ValueError:
        raise OptionError(
            f"Columns of a CoNLL file are named by position (0 is the first, -1 the last), not {column!r}."
        ) from None


def _parse_list(value: Any, path: Path, column: str) -> list[str]:
    if isinstance(value, (list, tuple, np.ndarray)):
        return [str(item) for item in value]
    raise DataError(f"The {column} of {path} must be lists, not {value!r}.")
