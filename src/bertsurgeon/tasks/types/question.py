"""Extractive question answering: the answer is a span of a passage, or the question has none."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from torch import Tensor
from transformers import AutoModelForQuestionAnswering, PreTrainedTokenizerBase

from bertsurgeon.errors import DataError, OptionError
from bertsurgeon.tasks.distributions import CATEGORICAL
from bertsurgeon.tasks.files import is_squad, place_answers, read_columns, read_squad
from bertsurgeon.tasks.metrics import V2_METRICS, Array, answer_metrics, answer_metrics_v2
from bertsurgeon.tasks.types.base import (
    TRUNCATED,
    PreparedData,
    TaskType,
    TruncationLimit,
    encode_texts,
    find_truncated,
)
from bertsurgeon.tasks.types.heads import Outputs, Prediction, mask_logits

if TYPE_CHECKING:
    from datasets import Dataset

_NO_OFFSETS = (-1, -1)
"""Offsets of tokens outside the passage."""

_REFERENCES = ("example", "context", "offsets", "answers")
"""Columns that answers are extracted from and scored with."""


@dataclass(frozen=True)
class QuestionAnswering(TaskType):
    """Two predictions per window of a passage: the first and the last token of the answer.

    Both are the first token (``[CLS]``) if the answer is not in the window.

    Attributes:
        unanswerable: Whether questions may have no answer (SQuAD 2.0).
        doc_stride: Tokens shared by adjacent windows of a passage (at most half of a window's).
        max_query_length: Maximum number of tokens of a question; longer ones are cut.
        n_best: Number of the most likely first and last tokens that are combined in a window.
        max_answer_length: Maximum number of tokens of an answer.
        null_threshold: Questions are left unanswered if "no answer" beats the best span by more than this, in logits.
    """

    name: ClassVar[str] = "question-answering"
    auto_class: ClassVar[type[Any]] = AutoModelForQuestionAnswering
    class_endings: ClassVar[tuple[str, ...]] = ("ForQuestionAnswering",)
    outputs: ClassVar[dict[str, bool]] = {"start_logits": True, "end_logits": True}
    columns: ClassVar[dict[str, str]] = {"text": "question", "text_pair": "context", "label": "answers"}
    max_length: ClassVar[int] = 384
    rows_are: ClassVar[str] = "questions"

    unanswerable: bool = False
    doc_stride: int = 128
    max_query_length: int = 64
    n_best: int = 20
    max_answer_length: int = 30
    null_threshold: float = 0.0

    def __post_init__(self) -> None:
        """Checks the ranges of all numbers.

        Raises:
            OptionError: If one is out of range.
        """
        if self.doc_stride < 0:
            raise OptionError(f"The doc stride must not be negative, not {self.doc_stride}.")
        if min(self.max_query_length, self.n_best, self.max_answer_length) < 1:
            raise OptionError("The lengths of questions and answers and the number of candidates must be at least 1.")

    @property
    def metrics(self) -> tuple[str, ...]:
        """Names of all metrics, those of SQuAD 2.0 if questions may have no answer."""
        return V2_METRICS if self.unanswerable else V2_METRICS[:2]

    def describe(self, outputs: int) -> str:
        """Returns a description for error messages."""
        return "question answering"

    def num_outputs_for(self, labels: Sequence[str]) -> int:
        """Returns 2: the first and the last token."""
        return 2

    def read(self, path: Path, columns: Mapping[str, str | None]) -> Dataset:
        """Reads SQuAD's JSON, or rows with question, context and answers from CSV, TSV, JSON, JSONL or Parquet.

        ``answers`` are ``{"text": […], "answer_start": […]}`` as on the hub, or a list of objects with one text and
        start each; empty lists mean that there is no answer.
        """
        from datasets import Dataset

        if is_squad(path):
            return read_squad(path)
        names = {role: columns[role] or default for role, default in self.columns.items()}
        values = read_columns(path, names)
        rows = [
            {"question": question, "context": context, "answers": _parse_answers(answers, f"row {number} of {path}")}
            for number, (question, context, answers) in enumerate(zip(*values.values(), strict=True), 1)
        ]
        return Dataset.from_list(place_answers(rows, path))

    def prepare(self, parts: Sequence[Dataset], labels: Sequence[str] = ()) -> PreparedData:
        """Sets :attr:`unanswerable` if some questions have no answer.

        Raises:
            DataError: If no question has an answer.
        """
        if not any(answers["text"] for part in parts for answers in part["answers"]):
            raise DataError("No question has an answer; at least one is needed.")
        unanswerable = any(not answers["text"] for part in parts for answers in part["answers"])
        task_type = replace(self, unanswerable=unanswerable)
        return PreparedData(task_type, task_type.metrics, (), list(parts))

    def summarize(self, part: Dataset, labels: Sequence[str]) -> str:
        """Returns how many questions have an answer."""
        answered = sum(bool(answers["text"]) for answers in part["answers"])
        if answered == len(part):
            return "all with an answer"
        return f"{answered:,} with an answer, {len(part) - answered:,} without"

    def encode(
        self, rows: dict[str, list[Any]], indices: list[int], tokenizer: PreTrainedTokenizerBase, limit: int
    ) -> dict[str, list[Any]]:
        """Returns windows: the model's inputs, ``start_positions``, ``end_positions``, and what answers are made from.

        Raises:
            OptionError: If the limit leaves no room for a passage.
            ModelError: If the tokenizer cannot return offsets.
        """
        if "context" not in rows:
            texts = encode_texts(rows, tokenizer, limit)
            return {**texts, TRUNCATED: find_truncated(texts, rows, tokenizer, limit)}
        question_limit = self._question_limit(limit)
        # question and passage are separated by special tokens, of which a pair has at most four
        room = limit - question_limit - 4
        if room < 2:
            raise OptionError(f"A maximum length of {limit} tokens leaves no room for question and passage; use 384.")
        questions, cut = _truncate_questions(rows["question"], tokenizer, question_limit)
        encoded = encode_texts(
            {"text": questions, "text_pair": rows["context"]},
            tokenizer,
            limit,
            truncation="only_second",
            stride=min(self.doc_stride, room // 2),
            return_overflowing_tokens=True,
            return_offsets_mapping=True,
        )
        offset_mapping, sources = encoded.pop("offset_mapping"), encoded.pop("overflow_to_sample_mapping")
        answers = rows.get("answers")
        columns: dict[str, list[Any]] = {name: [] for name in (*_REFERENCES, TRUNCATED)}
        positions: list[tuple[int, int]] = []
        for window, (offsets, source) in enumerate(zip(offset_mapping, sources, strict=True)):
            sequences = encoded.sequence_ids(window)
            inside = [span if of == 1 else _NO_OFFSETS for span, of in zip(offsets, sequences, strict=True)]
            is_first = window == 0 or sources[window - 1] != source
            columns["example"].append(indices[source])
            columns["context"].append(rows["context"][source])
            columns["offsets"].append([list(span) for span in inside])
            columns[TRUNCATED].append(is_first and cut[source])
            if answers is not None:
                columns["answers"].append(list(answers[source]["text"]))
                positions.append(_answer_tokens(answers[source], inside))
        if answers is None:
            del columns["answers"]
            return {**encoded, **columns}
        starts, ends = ([pair[side] for pair in positions] for side in (0, 1))
        return {**encoded, "start_positions": starts, "end_positions": ends, **columns}

    def truncation_limit(self, columns: Sequence[str], limit: int) -> TruncationLimit:
        """Returns the limit of questions; passages are split into windows instead."""
        if "context" not in columns:
            return super().truncation_limit(columns, limit)
        tokens = self._question_limit(limit)
        option = "max_length" if tokens < self.max_query_length else "QuestionAnswering.max_query_length"
        return TruncationLimit("questions", tokens, option)

    def _question_limit(self, limit: int) -> int:
        return min(self.max_query_length, limit // 2)

    def predictions(self, outputs: Outputs, batch: Mapping[str, Tensor]) -> list[Prediction]:
        """Returns the first and the last token of every window, with padding masked."""
        mask = batch["attention_mask"].bool()
        return [Prediction(mask_logits(outputs[name], mask), CATEGORICAL) for name in self.outputs]

    def score(
        self, metrics: Sequence[str], labels: Sequence[str], outputs: Sequence[Outputs], dataset: Dataset
    ) -> dict[str, float]:
        """Computes :func:`~bertsurgeon.tasks.metrics.answer_metrics` or ``answer_metrics_v2`` of all questions."""
        if missing := [name for name in _REFERENCES if name not in dataset.column_names]:
            raise DataError(
                f"Evaluation needs questions, passages and answers, and the dataset has no column {missing[0]!r}; "
                "tokenize labeled data with the task's type."
            )
        spans = self.answer(outputs, dataset)
        by_example: dict[int, list[str]] = dict(zip(dataset["example"], dataset["answers"], strict=True))
        texts, references = [span for span, _ in spans.values()], [by_example[example] for example in spans]
        if self.unanswerable:
            scores = answer_metrics_v2(texts, references, [null for _, null in spans.values()], self.null_threshold)
        else:
            scores = answer_metrics(texts, references)
        return {name: scores[name] for name in metrics if name in scores}

    def answer(self, outputs: Sequence[Outputs], dataset: Dataset) -> dict[int, tuple[str, float]]:
        """Finds the best span for each question over all windows of its passage.

        Args:
            outputs: Outputs of the model for each window, without padding.
            dataset: Windows, tokenized by :meth:`encode`.

        Returns:
            By the question's index, the text of the span and the score of "no answer" minus its score, in logits. The
            lowest "no answer" score of a passage's windows counts.
        """
        best: dict[int, tuple[float, str]] = {}
        null: dict[int, float] = {}
        references = dataset.select_columns(["example", "context", "offsets"])
        for row, window in zip(references, outputs, strict=True):
            start, end = (window[name].double().numpy() for name in self.outputs)
            example, offsets = row["example"], row["offsets"]
            # the first token means "no answer"; it is never part of the passage
            null[example] = min(null.get(example, np.inf), float(start[0] + end[0]))
            for score, first, last in self.best_spans(start, end, offsets):
                text = row["context"][offsets[first][0] : offsets[last][1]].strip()
                if score > best.get(example, (-np.inf, ""))[0]:
                    best[example] = score, text
        nothing = (-np.inf, "")
        return {
            example: (best.get(example, nothing)[1], score - best.get(example, nothing)[0])
            for example, score in null.items()
        }

    def best_spans(
        self, start: Array, end: Array, offsets: Sequence[Sequence[int]]
    ) -> Iterator[tuple[float, int, int]]:
        """Yields the most likely spans of a window, the best first: sum of both logits, first token, last token.

        Args:
            start: Logits of the first token, shape (tokens,).
            end: Logits of the last token, shape (tokens,).
            offsets: Characters of each token in the passage; −1 outside it.
        """
        inside = np.array([span[0] >= 0 for span in offsets])
        firsts, lasts = (np.argsort(-np.where(inside, z, -np.inf), kind="stable")[: self.n_best] for z in (start, end))
        spans = [
            (float(start[first] + end[last]), int(first), int(last))
            for first in firsts
            for last in lasts
            if inside[first] and inside[last] and first <= last < first + self.max_answer_length
        ]
        yield from sorted(spans, key=lambda span: -span[0])[: self.n_best]


def _parse_answers(value: Any, row: str) -> dict[str, list[Any]]:
    """Returns texts and starts of answers, from a struct of lists or a list of structs."""
    try:
        if isinstance(value, Mapping):
            raw_texts, raw_starts = list(value["text"]), list(value["answer_start"])
        else:
            raw_texts, raw_starts = [one["text"] for one in value], [one["answer_start"] for one in value]
        texts, starts = [str(text) for text in raw_texts], [int(start) for start in raw_starts]
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(
            f"The answers in {row} are not of the form {{'text': […], 'answer_start': […]}} "
            f"({type(error).__name__}: {error})."
        ) from error
    if len(texts) != len(starts):
        raise DataError(f"There are {len(texts)} answers and {len(starts)} starts in {row}.")
    return {"text": texts, "answer_start": starts}


def _truncate_questions(
    questions: Sequence[str], tokenizer: PreTrainedTokenizerBase, limit: int
) -> tuple[list[str], list[bool]]:
    """Returns questions without leading spaces, cut after ``limit`` tokens, and whether each was cut."""
    rows = {"text": [question.lstrip() for question in questions]}
    encoded = encode_texts(rows, tokenizer, limit, add_special_tokens=False, return_offsets_mapping=True)
    truncated = [
        text[: offsets[-1][1]] if len(offsets) == limit else text
        for text, offsets in zip(rows["text"], encoded["offset_mapping"], strict=True)
    ]
    return truncated, find_truncated(encoded, rows, tokenizer, limit)


def _answer_tokens(answers: Mapping[str, Sequence[Any]], offsets: Sequence[tuple[int, int]]) -> tuple[int, int]:
    """Returns the first and last token of the first answer; (0, 0) if the window does not contain all of it."""
    if not answers["text"]:
        return 0, 0
    text = answers["text"][0]
    begin = answers["answer_start"][0] + len(text) - len(text.lstrip())
    finish = begin + len(text.strip())
    tokens = [token for token, (start, end) in enumerate(offsets) if start >= 0 and start < finish and end > begin]
    if not tokens or offsets[tokens[0]][0] > begin or offsets[tokens[-1]][1] < finish:
        return 0, 0
    return tokens[0], tokens[-1]
