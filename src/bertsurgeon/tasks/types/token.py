"""One class for every word: named entities, parts of speech."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from datasets import Dataset
from torch import Tensor
from transformers import AutoModelForTokenClassification, PreTrainedTokenizerBase

from bertsurgeon.errors import DataError, OptionError
from bertsurgeon.tasks.collate import IGNORED, WORD_STARTS
from bertsurgeon.tasks.distributions import CATEGORICAL
from bertsurgeon.tasks.files import read_conll, read_frame
from bertsurgeon.tasks.metrics import tag_metrics
from bertsurgeon.tasks.types.base import Outputs, Prediction, Prepared, TaskType, encode_texts, recode

PREFIXES = ("B-", "I-", "E-", "S-")
"""What tags of entities begin with, in the schemes IOB and IOBES."""

TAGS = ("accuracy", "macro_f1")
"""Metrics of tags that are no entities."""

_LISTS = (".jsonl", ".json", ".parquet")
_SPACE = re.compile(r"\s")


@dataclass(frozen=True)
class TokenClassification(TaskType):
    """The first piece of a word stands for the word: it is what is trained, predicted, compared and weighed."""

    name: ClassVar[str] = "token-classification"
    auto_class: ClassVar[type[Any]] = AutoModelForTokenClassification
    class_endings: ClassVar[tuple[str, ...]] = ("ForTokenClassification",)
    outputs: ClassVar[dict[str, bool]] = {"logits": True}
    columns: ClassVar[dict[str, str]] = {"text": "tokens", "label": "tags"}

    def describe(self, outputs: int) -> str:
        """The task in words."""
        return f"a token classification with {outputs} tags"

    def read(self, path: Path, columns: Mapping[str, str | None]) -> Dataset:
        """Lists of words and tags from JSONL or Parquet; from all other files CoNLL's columns, named by position."""
        if path.suffix not in _LISTS:
            return read_conll(path, _position(columns["text"] or "0"), _position(columns["label"] or "-1"))
        frame = read_frame(path, {role: columns[role] or own for role, own in self.columns.items()})
        rows = {own: [_list(value, path, own) for value in frame[role]] for role, own in self.columns.items()}
        for number, (tokens, tags) in enumerate(zip(rows["tokens"], rows["tags"], strict=True), 1):
            if len(tokens) != len(tags):
                raise DataError(f"Row {number} of {path} has {len(tokens)} tokens and {len(tags)} tags.")
        return Dataset.from_dict(rows)

    def prepare(self, parts: Sequence[Dataset]) -> Prepared:
        """``O`` comes first, then the tags sorted by type; tags without types (parts of speech) by name."""
        names = {tag for part in parts for tags in part["tags"] for tag in tags}
        labels = tuple(sorted(names, key=lambda tag: (tag != "O", tag[2:] if tag[:2] in PREFIXES else tag, tag)))
        if len(labels) < 2:
            raise DataError("The tags are all the same; a token classification needs two.")
        if len(labels) > 1000:
            raise DataError(f"There are {len(labels)} different tags; they do not look like tags.")
        codes = {tag: code for code, tag in enumerate(labels)}
        coded = [recode(part, "tags", [[codes[tag] for tag in tags] for tags in part["tags"]]) for part in parts]
        entities = all(tag == "O" or tag[:2] in PREFIXES for tag in labels)
        return Prepared(self, ("f1", "precision", "recall", "accuracy") if entities else TAGS, labels, coded)

    def renumber(self, part: Dataset, codes: Sequence[int], count: int) -> Dataset:
        """See :meth:`TaskType.renumber`."""
        return recode(part, "tags", [[codes[code] for code in tags] for tags in part["tags"]])

    def encode(
        self, rows: dict[str, list[Any]], indices: list[int], tokenizer: PreTrainedTokenizerBase, limit: int
    ) -> dict[str, list[Any]]:
        """The model's inputs, ``word_starts``, and ``labels`` that are -100 where no word begins.

        Words are joined by spaces and found again by the characters of each piece: if they are told that a text is
        split into words, byte-level tokenizers (RoBERTa's) take each for the continuation of the one before, unless
        they were made with ``add_prefix_space``.
        """
        if "tokens" in rows:
            texts = {"text": [" ".join(words) for words in rows["tokens"]]}
        else:
            texts = {name: rows[name] for name in ("text", "text_pair") if name in rows}
        encoded = encode_texts(texts, tokenizer, limit, return_offsets_mapping=True)
        offsets = encoded.pop("offset_mapping")
        starts, labels = [], []
        for number, places in enumerate(offsets):
            if "tokens" in rows:
                owners = [_owners(rows["tokens"][number])]
            else:
                owners = [_owners(_SPACE.split(column[number])) for column in texts.values()]
            found = list(_first_pieces(owners, places, encoded.sequence_ids(number)))
            starts.append([int(word is not None) for word in found])
            if "tags" in rows:
                tags = rows["tags"][number]
                labels.append([IGNORED if word is None else tags[word] for word in found])
        encoded[WORD_STARTS] = starts
        return {**encoded, "labels": labels} if "tags" in rows else dict(encoded)

    def predictions(self, outputs: Outputs, batch: Mapping[str, Tensor]) -> list[Prediction]:
        """One for every word; for every token where nobody says what words are."""
        return [Prediction(outputs["logits"][_counted(batch)], CATEGORICAL)]

    def losses(self, batch: Mapping[str, Tensor]) -> int:
        """Words."""
        counted = batch["labels"] != IGNORED if "labels" in batch else _counted(batch)
        return int(counted.sum())

    def score(
        self, metrics: Sequence[str], labels: Sequence[str], outputs: Sequence[Outputs], dataset: Dataset
    ) -> dict[str, float]:
        """See :func:`bertsurgeon.tasks.metrics.tag_metrics`; words that were cut off do not count."""
        if "labels" not in dataset.column_names:
            raise DataError("Evaluation needs tags, and the dataset has none.")
        wanted, found = [], []
        for codes, row in zip(dataset["labels"], outputs, strict=True):
            said = row["logits"].argmax(-1).tolist()
            pairs = [(code, answer) for code, answer in zip(codes, said, strict=True) if code != IGNORED]
            wanted.append([labels[code] for code, _ in pairs])
            found.append([labels[answer] for _, answer in pairs])
        return tag_metrics(metrics, wanted, found)


def _counted(batch: Mapping[str, Tensor]) -> Tensor:
    """Where predictions count, shape (texts, tokens)."""
    if WORD_STARTS in batch:
        return batch[WORD_STARTS].bool()
    return batch["labels"] != IGNORED if "labels" in batch else batch["attention_mask"].bool()


def _owners(words: Sequence[str]) -> list[int | None]:
    """For each character of the words, joined by spaces, the number of its word; None for the spaces."""
    owners: list[int | None] = []
    for number, word in enumerate(words):
        owners += [*[number] * len(word), None]
    return owners


def _first_pieces(
    owners: Sequence[Sequence[int | None]], offsets: Sequence[tuple[int, int]], sequences: Sequence[int | None]
) -> Iterator[int | None]:
    """For each piece the number of the word it begins; None for all others.

    Args:
        owners: Of each text of a pair, by character.
        offsets: First character of each piece, and the one behind its last.
        sequences: Which text of the pair it is of.
    """
    last: tuple[int, int] | None = None
    for (start, end), sequence in zip(offsets, sequences, strict=True):
        # the last character: a piece may begin with the space before its word
        word = owners[sequence][end - 1] if sequence is not None and end > start else None
        begins = word is not None and (sequence, word) != last
        if word is not None and sequence is not None:
            last = sequence, word
        yield word if begins else None


def _position(column: str) -> int:
    try:
        return int(column)
    except ValueError:
        raise OptionError(
            f"Columns of a CoNLL file are named by position (0 is the first, -1 the last), not {column!r}."
        ) from None


def _list(value: Any, path: Path, column: str) -> list[str]:
    if isinstance(value, (list, tuple, np.ndarray)):
        return [str(item) for item in value]
    raise DataError(f"The {column} of {path} must be lists, not {value!r}.")
