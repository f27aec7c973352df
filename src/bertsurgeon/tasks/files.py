"""Readers of a user's files: columns of tables, plain text, CoNLL columns and SQuAD's JSON.

datasets is imported on first use, so that loading a model does not need it.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bertsurgeon import progress
from bertsurgeon.errors import DataError, first_line
from bertsurgeon.files import parse_rows
from bertsurgeon.tasks.raw_files import Table, data_suffix, expand, read_lines, read_start, read_table, read_text

if TYPE_CHECKING:
    from datasets import Dataset

_SQUAD = re.compile(r'\s*\{\s*("version"\s*:\s*"[^"]*"\s*,\s*)?"data"\s*:\s*\[')
_MISSING = ("NA", "N/A", "n/a", "<NA>", "#N/A", "NaN", "nan", "NULL", "null", "None")
"""Words that mark a missing number."""

_NUMBER = re.compile(r"[+-]?((0|[1-9]\d*)(\.\d*)?|\.\d+)(e[+-]\d+)?", re.ASCII | re.IGNORECASE)
"""Numbers as programs write them; leading zeros, or an exponent without a sign, are those of codes."""

_PASSAGE = ("question", "context")
_INTEGER = re.compile(r"[+-]?\d{1,18}", re.ASCII)
_BLANK = re.compile(r"[\s\u200b\u2060\ufeff]*")
"""What is no text: spaces, also those without a width."""


def read_columns(
    path: Path, columns: Mapping[str, str | None], texts: Sequence[str] = ("text", "text_pair")
) -> dict[str, list[Any]]:
    """Reads the complete rows of some columns of a CSV, TSV, JSON, JSONL or Parquet file, or of a saved dataset.

    Args:
        path: The file, or a pattern of files.
        columns: Name of each column in the file, by its name in the result; None for columns to leave out.
        texts: Names in the result of the columns that hold texts; others hold labels or lists.

    Returns:
        Texts as strings, labels as they are in the file: strings of JSON and Parquet remain strings, and cells of CSV
        and TSV are numbers if all cells of their column are written like numbers. Names of classes are stripped.

    Raises:
        DataError: If the file is missing, empty, unreadable, of unknown type, or lacks a column, or if a column of
            texts holds something else.
    """
    selected = {role: column for role, column in columns.items() if column is not None}
    values: dict[str, list[Any]] = {role: [] for role in selected}
    files = expand(path)
    for file in files:
        table = read_table(file, set(selected.values()))
        for role, column in selected.items():
            _check_column(table, column, role, file)
            values[role] += table.columns[column]
    for role, column in selected.items():
        if role in texts:
            values[role] = [_text(value, column, path) for value in values[role]]
        elif data_suffix(files[0]) in (".csv", ".tsv"):
            values[role] = list(_parse_cells(values[role]))
        values[role] = [
            value.strip() if isinstance(value, str) and role not in texts else value for value in values[role]
        ]
    rows = list(zip(*values.values(), strict=True))
    complete = [row for row in rows if not _is_incomplete(row, selected, texts)]
    if not complete:
        raise DataError(f"{path} holds no complete rows; every row lacks a text or a label.")
    note_skipped_rows(path, len(rows) - len(complete))
    return dict(zip(selected, map(list, zip(*complete, strict=True)), strict=True))


def _check_column(table: Table, column: str, role: str, path: Path) -> None:
    """Checks that a table has a column once."""
    if table.names.count(column) == 1:
        return
    option = "label" if role not in ("text", "text_pair") else role.replace("_", "-")
    if column in table.names:
        raise DataError(f"{path} has several columns {column!r}; name the right one with --{option}-column.")
    existing = ", ".join(map(str, table.names))
    raise DataError(f"{path} has no column {column!r}; it has {existing}. Name the right one with --{option}-column.")


def _text(value: Any, column: str, path: Path) -> str | None:
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, float) and math.isnan(value):
        return None
    if isinstance(value, (list, tuple, Mapping, bytes)):
        kind = "bytes" if isinstance(value, bytes) else "objects" if isinstance(value, Mapping) else "lists"
        raise DataError(
            f"The column {column!r} of {path} holds {kind}, not texts, such as {value!r:.40}; name a column of texts "
            "with --text-column or --text-pair-column."
        )
    return str(value)


def _is_incomplete(row: Sequence[Any], roles: Iterable[str], texts: Sequence[str]) -> bool:
    """Returns whether a text or a label of a row is missing or blank."""
    for role, value in zip(roles, row, strict=True):
        is_blank = isinstance(value, str) and _BLANK.fullmatch(value) is not None
        is_empty = role in ("text", "text_pair") and role not in texts and value == []
        if value is None or is_blank or is_empty or (isinstance(value, float) and math.isnan(value)):
            return True
    return False


def note_skipped_rows(path: Path, rows: int) -> None:
    """Reports how many incomplete rows of a file were skipped, if any.

    Args:
        path: The file.
        rows: Number of rows.
    """
    if rows:
        progress.note(f"Skipped {rows:,} incomplete rows of {path}.")


def _parse_cells(cells: Sequence[str | None]) -> Sequence[Any]:
    """Converts the cells of a column to numbers if all are written like numbers; words like NA are missing then.

    Codes such as 01 or 1e3 are no numbers.
    """
    stripped = [None if cell is None else cell.strip() for cell in cells]
    present = {cell for cell in stripped if cell} - set(_MISSING)
    if not present or not all(map(_NUMBER.fullmatch, present)):
        return stripped
    convert: Callable[[str], Any] = int if all(map(_INTEGER.fullmatch, present)) else float
    return [convert(cell) if cell in present else None for cell in stripped]


def read_user_file(path: Path, text_column: str, text_pair_column: str | None, label_column: str | None) -> Dataset:
    """Reads texts into columns ``text`` and ``text_pair``, and labels as they are in the file into ``label``.

    Args:
        path: CSV, TSV, JSON, JSONL or Parquet file.
        text_column: Column of the texts.
        text_pair_column: Column of the second texts; None for no pairs.
        label_column: Column of the labels; None for no labels.

    Raises:
        DataError: If the file is missing, empty, unreadable, of unknown type, or lacks a column.
    """
    from datasets import Dataset

    columns = read_columns(path, {"text": text_column, "text_pair": text_pair_column, "label": label_column})
    if len({type(label) for label in columns.get("label", ())} - {float}) > 1:  # integers and floats are numbers
        columns["label"] = [
            str(label) if not isinstance(label, (list, Mapping)) else label for label in columns["label"]
        ]
    try:
        return Dataset.from_dict(columns)
    except (ValueError, TypeError, OverflowError) as error:  # pyarrow's errors derive from these
        raise DataError(f"The rows of {path} do not make a dataset: {first_line(error)}.") from error


def read_texts(path: str | Path, text_column: str = "text", text_pair_column: str | None = None) -> Dataset:
    """Reads unlabeled texts into columns ``text`` and ``text_pair``.

    Args:
        path: ``.txt`` file with one text per line, or CSV, TSV, JSON, JSONL or Parquet file.
        text_column: Column of the texts; no effect on ``.txt`` files.
        text_pair_column: Column of the second texts, or None; no effect on ``.txt`` files.

    Raises:
        DataError: If the file is missing, empty, unreadable, of unknown type, or lacks a column.
    """
    from datasets import Dataset

    path = Path(path)
    files = expand(path)
    if data_suffix(files[0]) != ".txt":
        return read_user_file(path, text_column, text_pair_column, None)
    lines = [line.strip() for file in files for line in read_lines(file)]
    texts = [line for line in lines if not _BLANK.fullmatch(line)]
    if not texts:
        raise DataError(f"{path} holds no text.")
    return Dataset.from_dict({"text": texts})


def read_conll(path: Path, token_column: int = 0, tag_column: int = -1) -> Dataset:
    """Reads the columns of the CoNLL shared tasks: one word per line, an empty line after each sentence.

    Columns are separated by tabs, or by spaces in files without a tab. Lines that begin with ``-DOCSTART-`` are
    skipped, as are comments (``#``, no tab) in files with tabs.

    Args:
        path: The file.
        token_column: Position of the words, from 0; negative positions count from the right.
        tag_column: Position of the tags.

    Returns:
        Columns ``tokens`` and ``tags``, both lists of strings.

    Raises:
        DataError: If the file is missing, unreadable or empty, or a line has too few columns.
    """
    from datasets import Dataset

    files = expand(path)
    lines = [line for file in files for line in (*read_lines(file), "")]
    separator = "\t" if any("\t" in line for line in lines) else None
    sentences: list[tuple[list[str], list[str]]] = [([], [])]
    for number, line in enumerate(lines, 1):
        if not line.strip() or line.startswith("-DOCSTART-"):
            sentences.append(([], []))
            continue
        cells = line.split(separator)
        if separator and len(cells) == 1 and line.startswith("#"):
            continue
        try:
            token, tag = cells[token_column], cells[tag_column]
        except IndexError:
            token = tag = ""
        if len(cells) < 2 or not token or not tag:
            raise DataError(
                f"Line {number} of {path} has {len(cells)} columns, and none at {token_column} or {tag_column}; name "
                "the positions of words and tags with --text-column and --label-column."
            )
        sentences[-1][0].append(token)
        sentences[-1][1].append(tag)
    complete = [sentence for sentence in sentences if sentence[0]]
    if not complete:
        raise DataError(f"{path} holds no sentences.")
    return Dataset.from_dict({"tokens": [tokens for tokens, _ in complete], "tags": [tags for _, tags in complete]})


def is_squad(path: Path) -> bool:
    """Returns whether a file is JSON in SQuAD's nested format."""
    first = expand(path)[0]
    return data_suffix(first) == ".json" and first.is_file() and _SQUAD.match(read_start(first, 4096)) is not None


def read_squad(path: Path) -> Dataset:
    """Reads SQuAD's JSON, version 1.1 or 2.0.

    Args:
        path: The file.

    Returns:
        Columns ``question``, ``context`` and ``answers``, a struct of lists ``text`` and ``answer_start``.

    Raises:
        DataError: If the file is missing or not of this format.
    """
    from datasets import Dataset

    rows = []
    for file in expand(path):
        try:
            rows += list(_questions(parse_rows(read_text(file))["data"]))
        except (ValueError, KeyError, TypeError, AttributeError, ArithmeticError) as error:
            raise DataError(f"{file} is not in SQuAD's format ({type(error).__name__}: {error}).") from error
    complete = [row for row in rows if not _is_incomplete((row["question"], row["context"]), _PASSAGE, _PASSAGE)]
    if not complete:
        raise DataError(f"{path} holds no questions.")
    note_skipped_rows(path, len(rows) - len(complete))
    return Dataset.from_list(place_answers(complete, path))


def place_answers(rows: Sequence[dict[str, Any]], path: Path) -> list[dict[str, Any]]:
    """Corrects answers that are not where they are said to be.

    Such an answer is moved to its occurrence in the passage that is nearest to its start. An answer that is not in the
    passage is left out, and with its last answer the question is. Notes state how many.

    Args:
        rows: Questions with ``context`` and ``answers``, a struct of lists ``text`` and ``answer_start``.
        path: The file that they were read from.

    Raises:
        DataError: If no question remains.
    """
    placed, moved, lost_answers, lost = [], 0, 0, 0
    for row in rows:
        answers = row["answers"]
        starts = [
            _find_nearest(row["context"], text, start)
            for text, start in zip(answers["text"], answers["answer_start"], strict=True)
        ]
        remaining = [(text, start) for text, start in zip(answers["text"], starts, strict=True) if start is not None]
        moved += sum(start not in (None, old) for start, old in zip(starts, answers["answer_start"], strict=True))
        lost_answers += len(starts) - len(remaining)
        if starts and not remaining:
            lost += 1
            continue
        placed.append(
            {
                **row,
                "answers": {"text": [text for text, _ in remaining], "answer_start": [start for _, start in remaining]},
            }
        )
    if not placed:
        raise DataError(f"No answer in {path} is in its passage; check the columns of passages and answers.")
    if moved:
        progress.note_once(
            f"{moved:,} answers of {path} are not at their answer_start; they were found elsewhere in the passage."
        )
    if lost_answers:
        progress.note_once(
            f"Left out {lost_answers:,} answers of {path} that are not in their passages, and {lost:,} questions that "
            "have no other."
        )
    return placed


def _find_nearest(context: str, text: str, start: int) -> int | None:
    """Returns where a text begins in a passage, as near to ``start`` as possible; None if it is not there or empty."""
    if start >= 0 and text and context.startswith(text, start):
        return start
    before = context.rfind(text, 0, max(0, start) + len(text)) if text else -1
    after = context.find(text, max(0, start)) if text else -1
    positions = [position for position in (before, after) if position >= 0]
    return min(positions, key=lambda position: abs(position - start)) if positions else None


def _questions(articles: Any) -> Iterator[dict[str, Any]]:
    for article in articles:
        for paragraph in article["paragraphs"]:
            for question in paragraph["qas"]:
                for text in (question["question"], paragraph["context"]):
                    if text is not None and not isinstance(text, str):
                        raise TypeError(f"a question or passage is of type {type(text).__name__}")
                answers = [] if question.get("is_impossible") else question["answers"]
                yield {
                    "question": question["question"],
                    "context": paragraph["context"],
                    "answers": {
                        "text": [str(answer["text"]) for answer in answers],
                        "answer_start": [int(answer["answer_start"]) for answer in answers],
                    },
                }
