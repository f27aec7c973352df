"""Readers of files: CSV, TSV, JSON, JSONL, Parquet, plain text, CoNLL columns and SQuAD's JSON.

pandas and datasets are imported on first use, so that loading a model does not need them.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bertsurgeon import progress
from bertsurgeon.errors import DataError, first_line

if TYPE_CHECKING:
    import pandas as pd
    from datasets import Dataset

_SQUAD = re.compile(r'\s*\{\s*("version"\s*:\s*"[^"]*"\s*,\s*)?"data"\s*:\s*\[')
_MISSING = ("NA", "N/A", "n/a", "<NA>", "#N/A", "NaN", "nan", "NULL", "null", "None")
"""Words that mark a missing number."""


def _read_table(path: Path, separator: str) -> pd.DataFrame:
    """Reads a table where only empty cells are missing: None and NA may be texts or classes."""
    import pandas as pd

    return pd.read_csv(path, sep=separator, keep_default_na=False, na_values=[""], low_memory=False)


def _read_json(path: Path) -> pd.DataFrame:
    """Reads an array of objects, or one object per line."""
    import pandas as pd

    with path.open(encoding="utf-8-sig", errors="replace") as file:
        is_array = file.read(4096).lstrip().startswith("[")
    return pd.read_json(path, lines=not is_array, encoding="utf-8-sig")


def _read_json_lines(path: Path) -> pd.DataFrame:
    import pandas as pd

    return pd.read_json(path, lines=True)


def _read_parquet(path: Path) -> pd.DataFrame:
    import pandas as pd

    return pd.read_parquet(path)


_READERS: dict[str, Callable[[Path], pd.DataFrame]] = {
    ".csv": lambda path: _read_table(path, ","),
    ".tsv": lambda path: _read_table(path, "\t"),
    ".jsonl": _read_json_lines,
    ".json": _read_json,
    ".parquet": _read_parquet,
}


def read_frame(path: str | Path, columns: Mapping[str, str | None]) -> pd.DataFrame:
    """Reads the complete rows of some columns of a CSV, TSV, JSON, JSONL or Parquet file.

    Args:
        path: The file.
        columns: Name of each column in the file, by its name in the result; None for columns to leave out.

    Raises:
        DataError: If the file is missing, empty, unreadable, of unknown type, or lacks a column.
    """
    path = Path(path)
    import pandas as pd

    if not path.is_file():
        raise DataError(f"The data file {path} does not exist.")
    if path.suffix not in _READERS:
        raise DataError(f"{path} is of unknown type; use one of {', '.join(_READERS)}.")
    try:
        frame = _READERS[path.suffix](path)
    except (ValueError, TypeError, OSError) as error:  # pandas' ParserError and pyarrow's ArrowInvalid are ValueErrors
        if path.stat().st_size == 0:
            raise DataError(f"{path} is empty.") from error
        raise DataError(f"{path} cannot be read as {path.suffix[1:]}: {first_line(error)}.") from error
    if frame.empty:
        raise DataError(f"{path} holds no rows.")
    selected = {role: column for role, column in columns.items() if column is not None}
    for role, column in selected.items():
        if column not in frame.columns:
            existing = ", ".join(map(str, frame.columns))
            option = "label" if role not in ("text", "text_pair") else role.replace("_", "-")
            raise DataError(
                f"{path} has no column {column!r}; it has {existing}. Name the right one with --{option}-column."
            )
    frame = frame[list(selected.values())]
    frame.columns = pd.Index(list(selected))
    if path.suffix in (".csv", ".tsv"):
        frame = frame.assign(**{role: _parse_numbers(frame[role]) for role in selected if role.startswith("label")})
    complete = frame.dropna()
    if complete.empty:
        raise DataError(f"{path} holds no complete rows; every row lacks a text or a label.")
    note_skipped_rows(path, len(frame) - len(complete))
    return complete


def note_skipped_rows(path: str | Path, rows: int) -> None:
    """Reports how many incomplete rows of a file were skipped, if any.

    Args:
        path: The file.
        rows: Number of rows.
    """
    if rows:
        progress.note(f"Skipped {rows:,} incomplete rows of {path}.")


def _parse_numbers(labels: pd.Series[Any]) -> pd.Series[Any]:
    """Converts labels to numbers if all are, except for words like NA where one is missing."""
    import pandas as pd

    missing = labels.isin(_MISSING)
    if not missing.any():
        return labels
    present = labels.mask(missing)
    numbers = pd.to_numeric(present, errors="coerce")
    return numbers if present.count() == numbers.count() > 0 else labels


def read_user_file(
    path: str | Path, text_column: str, text_pair_column: str | None, label_column: str | None
) -> Dataset:
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

    frame = read_frame(path, {"text": text_column, "text_pair": text_pair_column, "label": label_column})
    for role in ("text", "text_pair"):
        if role in frame.columns:
            frame[role] = frame[role].astype(str)
    return Dataset.from_pandas(frame, preserve_index=False)


def read_texts(path: str | Path, text_column: str = "text", text_pair_column: str | None = None) -> Dataset:
    """Reads unlabeled texts into columns ``text`` and ``text_pair``.

    Args:
        path: ``.txt`` file with one text per line, or CSV, TSV, JSON, JSONL or Parquet file.
        text_column: Column of the texts; no effect on ``.txt`` files.
        text_pair_column: Column of the second texts, or None; no effect on ``.txt`` files.

    Raises:
        DataError: If the file is missing, empty, unreadable, of unknown type, or lacks a column.
    """
    path = Path(path)
    from datasets import Dataset

    if path.suffix != ".txt":
        return read_user_file(path, text_column, text_pair_column, None)
    if not path.is_file():
        raise DataError(f"The text file {path} does not exist.")
    try:
        lines = [line.strip() for line in path.read_text(encoding="utf-8").splitlines()]
    except (UnicodeDecodeError, OSError) as error:
        raise DataError(f"{path} cannot be read as UTF-8 text: {error}.") from error
    texts = [line for line in lines if line]
    if not texts:
        raise DataError(f"{path} holds no text.")
    return Dataset.from_dict({"text": texts})


def read_conll(path: str | Path, token_column: int = 0, tag_column: int = -1) -> Dataset:
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
    path = Path(path)
    from datasets import Dataset

    lines = read_lines(path)
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


def is_squad(path: str | Path) -> bool:
    """Returns whether a file is JSON in SQuAD's nested format."""
    path = Path(path)
    if path.suffix != ".json" or not path.is_file():
        return False
    with path.open(encoding="utf-8", errors="replace") as file:
        return _SQUAD.match(file.read(4096)) is not None


def read_squad(path: str | Path) -> Dataset:
    """Reads SQuAD's JSON, version 1.1 or 2.0.

    Args:
        path: The file.

    Returns:
        Columns ``question``, ``context`` and ``answers``, a struct of lists ``text`` and ``answer_start``.

    Raises:
        DataError: If the file is missing or not of this format.
    """
    path = Path(path)
    from datasets import Dataset

    try:
        articles = json.loads("\n".join(read_lines(path)))["data"]
        rows = list(_questions(articles))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(f"{path} is not in SQuAD's format ({type(error).__name__}: {error}).") from error
    if not rows:
        raise DataError(f"{path} holds no questions.")
    return Dataset.from_list(rows)


def _questions(articles: Any) -> Iterator[dict[str, Any]]:
    for article in articles:
        for paragraph in article["paragraphs"]:
            for question in paragraph["qas"]:
                answers = [] if question.get("is_impossible") else question["answers"]
                yield {
                    "question": question["question"],
                    "context": paragraph["context"],
                    "answers": {
                        "text": [str(answer["text"]) for answer in answers],
                        "answer_start": [int(answer["answer_start"]) for answer in answers],
                    },
                }


def read_lines(path: str | Path) -> list[str]:
    """Returns the lines of a UTF-8 file, without its byte-order mark if it has one.

    Args:
        path: The file.

    Raises:
        DataError: If the file is missing or cannot be read.
    """
    path = Path(path)
    if not path.is_file():
        raise DataError(f"The data file {path} does not exist.")
    try:
        return path.read_text(encoding="utf-8-sig").split("\n")
    except (UnicodeDecodeError, OSError) as error:
        raise DataError(f"{path} cannot be read as UTF-8 text: {error}.") from error
