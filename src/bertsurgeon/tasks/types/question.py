"""Extractive question answering: the answer is a span of a passage, or there is none."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from datasets import Dataset
from torch import Tensor
from transformers import AutoModelForQuestionAnswering, PreTrainedTokenizerBase

from bertsurgeon.errors import DataError, OptionError
from bertsurgeon.tasks.distributions import CATEGORICAL
from bertsurgeon.tasks.files import is_squad, read_frame, read_squad
from bertsurgeon.tasks.metrics import Array
from bertsurgeon.tasks.squad import V2_METRICS, answer_metrics, answer_metrics_v2
from bertsurgeon.tasks.types.base import Outputs, Prediction, Prepared, TaskType, encode_texts, hide

_NOWHERE = (-1, -1)
"""The place of a token that is not of the passage."""

_REFERENCES = ("example", "context", "offsets", "answers")
"""Columns that answers are made and judged from."""


@dataclass(frozen=True)
class QuestionAnswering(TaskType):
    """Two predictions for every window of a passage: where the answer begins, and where it ends.

    Both are at the first token (``[CLS]``) where the answer is not in the window.

    Attributes:
        unanswerable: Whether questions may have no answer (SQuAD v2.0).
        doc_stride: Tokens that neighbouring windows of a passage share (at most half of a window's).
        max_query_length: Tokens of the question, which is cut off there.
        n_best: How many of the likeliest first and last tokens are combined in a window.
        max_answer_length: Tokens of an answer.
        null_threshold: How much likelier than the best span, in logits, it must be that there is no answer.
    """

    name: ClassVar[str] = "question-answering"
    auto_class: ClassVar[type[Any]] = AutoModelForQuestionAnswering
    class_endings: ClassVar[tuple[str, ...]] = ("ForQuestionAnswering",)
    outputs: ClassVar[dict[str, bool]] = {"start_logits": True, "end_logits": True}
    columns: ClassVar[dict[str, str]] = {"text": "question", "text_pair": "context", "label": "answers"}
    max_length: ClassVar[int] = 384

    unanswerable: bool = False
    doc_stride: int = 128
    max_query_length: int = 64
    n_best: int = 20
    max_answer_length: int = 30
    null_threshold: float = 0.0

    def __post_init__(self) -> None:
        """Checks the ranges.

        Raises:
            OptionError: If a number makes no sense.
        """
        if self.doc_stride < 0:
            raise OptionError(f"The doc stride must not be negative, not {self.doc_stride}.")
        if min(self.max_query_length, self.n_best, self.max_answer_length) < 1:
            raise OptionError("The lengths of questions and answers and the number of candidates must be at least 1.")

    @property
    def metrics(self) -> tuple[str, ...]:
        """Those that can be computed."""
        return V2_METRICS if self.unanswerable else V2_METRICS[:2]

    def describe(self, outputs: int) -> str:
        """The task in words."""
        return "question answering"

    def outputs_for(self, labels: Sequence[str]) -> int:
        """Two: first and last token."""
        return 2

    def read(self, path: Path, columns: Mapping[str, str | None]) -> Dataset:
        """SQuAD's own JSON, or rows with a question, its context and its answers in CSV, JSONL or Parquet.

        ``answers`` are as on the hub, ``{"text": […], "answer_start": […]}``, or a list of such objects with one text
        and start each; empty lists where there is no answer.
        """
        if is_squad(path):
            return read_squad(path)
        frame = read_frame(path, {role: columns[role] or own for role, own in self.columns.items()})
        rows = [
            {
                "question": str(question),
                "context": str(context),
                "answers": _answers(answers, str(context), f"row {number} of {path}"),
            }
            for number, (question, context, answers) in enumerate(frame.itertuples(index=False), 1)
        ]
        return Dataset.from_list(rows)

    def prepare(self, parts: Sequence[Dataset]) -> Prepared:
        """Questions may have no answer if some have none."""
        if not any(answers["text"] for part in parts for answers in part["answers"]):
            raise DataError("No question has an answer; at least one is needed.")
        unanswerable = any(not answers["text"] for part in parts for answers in part["answers"])
        kind = replace(self, unanswerable=unanswerable)
        return Prepared(kind, kind.metrics, (), list(parts))

    def encode(
        self, rows: dict[str, list[Any]], indices: list[int], tokenizer: PreTrainedTokenizerBase, limit: int
    ) -> dict[str, list[Any]]:
        """Windows: the model's inputs, ``start_positions``, ``end_positions``, and what answers are judged from.

        Raises:
            OptionError: If the limit leaves no room for a passage.
            ModelError: If the tokenizer does not know where tokens stand.
        """
        if "context" not in rows:
            return dict(encode_texts(rows, tokenizer, limit))
        longest = min(self.max_query_length, limit // 2)
        # question and passage stand between special tokens, of which a pair has at most four
        room = limit - longest - 4
        if room < 2:
            raise OptionError(f"A maximum length of {limit} tokens leaves no room for question and passage; use 384.")
        encoded = encode_texts(
            {"text": _shorten(rows["question"], tokenizer, longest), "text_pair": rows["context"]},
            tokenizer,
            limit,
            truncation="only_second",
            stride=min(self.doc_stride, room // 2),
            return_overflowing_tokens=True,
            return_offsets_mapping=True,
        )
        places, sources = encoded.pop("offset_mapping"), encoded.pop("overflow_to_sample_mapping")
        answers = rows.get("answers")
        columns: dict[str, list[Any]] = {name: [] for name in _REFERENCES}
        positions: list[tuple[int, int]] = []
        for window, (offsets, source) in enumerate(zip(places, sources, strict=True)):
            sequences = encoded.sequence_ids(window)
            inside = [place if of == 1 else _NOWHERE for place, of in zip(offsets, sequences, strict=True)]
            columns["example"].append(indices[source])
            columns["context"].append(rows["context"][source])
            columns["offsets"].append([list(place) for place in inside])
            if answers is not None:
                columns["answers"].append(list(answers[source]["text"]))
                positions.append(_positions(answers[source], inside))
        if answers is None:
            del columns["answers"]
            return {**encoded, **columns}
        starts, ends = ([pair[side] for pair in positions] for side in (0, 1))
        return {**encoded, "start_positions": starts, "end_positions": ends, **columns}

    def predictions(self, outputs: Outputs, batch: Mapping[str, Tensor]) -> list[Prediction]:
        """First and last token of every window, among its real ones."""
        mask = batch["attention_mask"].bool()
        return [Prediction(hide(outputs[name], mask), CATEGORICAL) for name in self.outputs]

    def score(
        self, metrics: Sequence[str], labels: Sequence[str], outputs: Sequence[Outputs], dataset: Dataset
    ) -> dict[str, float]:
        """See :func:`bertsurgeon.tasks.squad.answer_metrics` and its likeness for version 2.0."""
        if missing := [name for name in _REFERENCES if name not in dataset.column_names]:
            raise DataError(f"Evaluation needs questions, passages and answers: the dataset has no {missing[0]!r}.")
        spans = self.answer(outputs, dataset)
        golds: dict[int, list[str]] = dict(zip(dataset["example"], dataset["answers"], strict=True))
        texts, right = [span for span, _ in spans.values()], [golds[example] for example in spans]
        if self.unanswerable:
            found = answer_metrics_v2(texts, right, [score for _, score in spans.values()], self.null_threshold)
        else:
            found = answer_metrics(texts, right)
        return {name: found[name] for name in metrics if name in found}

    def answer(self, outputs: Sequence[Outputs], dataset: Dataset) -> dict[int, tuple[str, float]]:
        """The best span for each question, by its number, over all windows of its passage.

        Args:
            outputs: Of each window.
            dataset: Tokenized by :meth:`encode`.

        Returns:
            The span's text, and how much likelier it is, in logits, that there is no answer. Of several windows, the
            one that is surest of an answer speaks for the passage.
        """
        best: dict[int, tuple[float, str]] = {}
        null: dict[int, float] = {}
        references = dataset.select_columns(["example", "context", "offsets"])
        for row, found in zip(references, outputs, strict=True):
            start, end = (found[name].double().numpy() for name in self.outputs)
            example, offsets = row["example"], row["offsets"]
            # the first token is the one that stands for no answer; it is never of the passage
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
        """The likeliest spans of a window, the best first: the sum of both logits, first and last token.

        Args:
            start: Logits of the first token, shape (tokens,).
            end: Likewise of the last one.
            offsets: Characters of each token in the passage; -1 where it is not of it.
        """
        inside = np.array([place[0] >= 0 for place in offsets])
        firsts, lasts = (np.argsort(-np.where(inside, z, -np.inf), kind="stable")[: self.n_best] for z in (start, end))
        spans = [
            (float(start[first] + end[last]), int(first), int(last))
            for first in firsts
            for last in lasts
            if inside[first] and inside[last] and first <= last < first + self.max_answer_length
        ]
        yield from sorted(spans, key=lambda span: -span[0])[: self.n_best]


def _answers(value: Any, context: str, where: str) -> dict[str, list[Any]]:
    """Texts and starts of answers, from a struct of lists or a list of structs."""
    try:
        if isinstance(value, Mapping):
            found, starts = list(value["text"]), list(value["answer_start"])
        else:
            found, starts = [one["text"] for one in value], [one["answer_start"] for one in value]
        texts, starts = [str(text) for text in found], [int(start) for start in starts]
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(
            f"The answers in {where} are not of the form {{'text': […], 'answer_start': […]}} "
            f"({type(error).__name__}: {error})."
        ) from error
    for text, start in zip(texts, starts, strict=False):
        if context[start : start + len(text)] != text:
            raise DataError(f"The answer {text!r} in {where} does not stand at character {start} of its context.")
    if len(texts) != len(starts):
        raise DataError(f"There are {len(texts)} answers and {len(starts)} starts in {where}.")
    return {"text": texts, "answer_start": starts}


def _shorten(questions: Sequence[str], tokenizer: PreTrainedTokenizerBase, limit: int) -> list[str]:
    """Questions without the spaces before them, cut off after so many tokens."""
    texts = [question.lstrip() for question in questions]
    encoded = encode_texts({"text": texts}, tokenizer, limit, add_special_tokens=False, return_offsets_mapping=True)
    return [
        text[: places[-1][1]] if len(places) == limit else text
        for text, places in zip(texts, encoded["offset_mapping"], strict=True)
    ]


def _positions(answers: Mapping[str, Sequence[Any]], offsets: Sequence[tuple[int, int]]) -> tuple[int, int]:
    """First and last token of the first answer; (0, 0) where it is not wholly in the window."""
    if not answers["text"]:
        return 0, 0
    text = answers["text"][0]
    begin = answers["answer_start"][0] + len(text) - len(text.lstrip())
    finish = begin + len(text.strip())
    touched = [token for token, (start, end) in enumerate(offsets) if start >= 0 and start < finish and end > begin]
    if not touched or offsets[touched[0]][0] > begin or offsets[touched[-1]][1] < finish:
        return 0, 0
    return touched[0], touched[-1]
