"""What data files hold before a task interprets it: decoded text, and the columns of tables.

CSV, TSV, JSON, JSONL and text may be compressed (``.gz``). A path may be a pattern (``train-*.parquet``). pyarrow and
datasets are imported on first use, so that loading a model does not need them.
"""

from __future__ import annotations

import codecs
import csv
import glob
import gzip
import io
import zlib
from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from bertsurgeon import progress
from bertsurgeon.errors import DataError, first_line
from bertsurgeon.files import parse_rows

MAX_CELL = 2**31 - 1
"""Characters in a cell of CSV or TSV."""

MIN_UNCLEAR = 3
"""Lines of a quoted cell of CSV that may be rows by themselves; in two lines of text commas are common."""

_OTHER_ENCODINGS = {
    codecs.BOM_UTF32_LE: "UTF-32",
    codecs.BOM_UTF32_BE: "UTF-32",
    codecs.BOM_UTF16_LE: "UTF-16",
    codecs.BOM_UTF16_BE: "UTF-16",
}


class Table(NamedTuple):
    """Some columns of a file.

    Attributes:
        names: Names of all columns, in the file's order.
        rows: Number of rows.
        columns: Cells of the columns that were asked for and exist, by their names; None where there is no cell.
    """

    names: list[str]
    rows: int
    columns: dict[str, list[Any]]


def data_suffix(path: Path) -> str:
    """Returns the suffix that tells a file's format: in lower case, and that before ``.gz``.

    Args:
        path: File, or pattern of files.
    """
    suffix = path.suffix.lower()
    return Path(path.stem).suffix.lower() if suffix == ".gz" else suffix


def find_files(path: Path) -> list[Path]:
    """Returns the files that a path names, sorted: itself or, for a pattern (``*``, ``?``, ``[…]``), those that match.

    Args:
        path: File, folder of a saved dataset, or pattern.
    """
    if path.exists():
        return [path]
    return sorted(Path(name) for name in glob.glob(str(path), recursive=True))


def expand(path: Path) -> list[Path]:
    """Returns :func:`find_files`, at least one.

    Raises:
        DataError: If there is none.
    """
    files = find_files(path)
    if not files and glob.has_magic(str(path)):
        raise DataError(f"No file matches the pattern {path}; check its folder and its suffix.")
    if not files:
        raise DataError(f"The data file {path} does not exist.")
    if files != [path]:
        progress.note_once(f"Number of files that match {path}: {len(files):,}, {files[0].name} to {files[-1].name}.")
    return files


def read_start(path: Path, size: int) -> str:
    """Returns the first characters of a file that should be UTF-8, without a byte-order mark.

    Args:
        path: The file; compressed if its name ends in ``.gz``.
        size: Number of bytes to read.

    Raises:
        DataError: If it cannot be read.
    """
    try:
        with gzip.open(path) if path.suffix.lower() == ".gz" else path.open("rb") as file:
            return file.read(size).decode("utf-8-sig", errors="replace")
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path} cannot be read: {first_line(error)}.") from error


def read_text(path: Path) -> str:
    """Returns the text of a UTF-8 file, without its byte-order mark if it has one; line ends remain.

    Args:
        path: The file; compressed if its name ends in ``.gz``.

    Raises:
        DataError: If it is missing, a folder, in another encoding, or cannot be read.
    """
    if path.is_dir():
        raise DataError(f"{path} is a folder; name a file in it, or several by a pattern such as {path / '*.jsonl'}.")
    if not path.is_file():
        raise DataError(f"The data file {path} does not exist.")
    try:
        content = path.read_bytes()
        if path.suffix.lower() == ".gz":
            content = gzip.decompress(content)
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path} cannot be read: {first_line(error)}.") from error
    for mark, encoding in _OTHER_ENCODINGS.items():
        if content.startswith(mark):
            raise DataError(f"{path} cannot be read as UTF-8 text: it is {encoding}; save it as UTF-8.")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise DataError(
            f"{path} cannot be read as UTF-8 text: line {line} holds the byte 0x{content[error.start]:02x}, which is "
            "of another encoding; save it as UTF-8."
        ) from error


def stream_lines(path: Path) -> Iterator[tuple[int, str]]:
    """Yields the lines of a UTF-8 file with their numbers from 1, without their ends, one at a time.

    Args:
        path: The file; compressed if its name ends in ``.gz``.

    Raises:
        DataError: If it is missing, a folder, in another encoding, or cannot be read.
    """
    if not path.is_file():
        read_text(path)  # which reports the cause
    try:
        with gzip.open(path) if path.suffix.lower() == ".gz" else path.open("rb") as file:
            for number, line in enumerate(file, 1):
                if number == 1 and (mark := next((mark for mark in _OTHER_ENCODINGS if line.startswith(mark)), None)):
                    raise DataError(
                        f"{path} cannot be read as UTF-8 text: it is {_OTHER_ENCODINGS[mark]}; save it as UTF-8."
                    )
                yield number, line.decode("utf-8-sig" if number == 1 else "utf-8").rstrip("\r\n")
    except UnicodeDecodeError as error:
        raise DataError(
            f"{path} cannot be read as UTF-8 text: line {number} holds the byte 0x{error.object[error.start]:02x}, "
            "which is of another encoding; save it as UTF-8."
        ) from error
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path} cannot be read: {first_line(error)}.") from error


def read_lines(path: Path) -> list[str]:
    """Returns the lines of a UTF-8 file without their ends, see :func:`read_text`."""
    return read_text(path).replace("\r\n", "\n").replace("\r", "\n").split("\n")


def read_table(path: Path, columns: Collection[str]) -> Table:
    """Reads CSV, TSV, JSON, JSONL, Parquet, or the folder of a dataset that ``save_to_disk`` wrote.

    Args:
        path: The file or folder.
        columns: Names of the columns to read.

    Raises:
        DataError: If it is missing, empty, unreadable or of unknown type.
    """
    if path.is_dir() and any((path / name).is_file() for name in ("state.json", "dataset_dict.json")):
        return _read_saved_dataset(path, columns)
    suffix = data_suffix(path)
    if suffix not in _READERS:
        if path.is_dir():
            raise DataError(f"{path} is a folder; name a file in it, or several by a pattern such as {path}/*.parquet.")
        raise DataError(f"{path} is of unknown type; use one of {', '.join(_READERS)}.")
    if path.is_file() and path.stat().st_size == 0:
        raise DataError(f"{path} is empty.")
    try:
        table = _READERS[suffix](path, columns)
    except (ValueError, TypeError, OSError) as error:  # pyarrow's errors derive from these
        raise DataError(f"{path} cannot be read as {suffix[1:]}: {first_line(error)}.") from error
    if not table.rows:
        raise DataError(f"{path} holds no rows.")
    return table


# CSV and TSV


class _Lines:
    """Iterator over lines that can be moved back."""

    def __init__(self, lines: Sequence[str]) -> None:
        self.lines = lines
        self.position = 0

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        if self.position >= len(self.lines):
            raise StopIteration
        self.position += 1
        return self.lines[self.position - 1]


class _Record(NamedTuple):
    line: int
    """Number of its first line, from 1."""
    cells: list[str]


def _read_delimited(path: Path, delimiter: str, columns: Collection[str]) -> Table:
    """Reads a table whose cells may be quoted; a quote that does not enclose a cell is text.

    Raises:
        DataError: If it is missing or in another encoding.
        ValueError: If a line has too many cells, or a quote that is neither text nor encloses a cell.
    """
    lines = io.StringIO(read_text(path), newline="").readlines()
    limit = csv.field_size_limit(MAX_CELL)
    try:
        header, *records = _split_records(path, lines, delimiter) or [_Record(1, [])]
    finally:
        csv.field_size_limit(limit)
    width = len(header.cells)
    has_row_names = records and all(len(record.cells) == width + 1 for record in records)
    if has_row_names and any(record.cells[-1] for record in records):
        progress.note_once(
            f"Every row of {path} has one cell more than the header; its first cells are ignored. If texts hold "
            "commas, put quotes around them."
        )
        records = [_Record(record.line, record.cells[1:]) for record in records]
    for line, cells in records:
        if len(cells) > width and any(cells[width:]):
            raise ValueError(f"Expected {width} fields in line {line}, saw {len(cells)}")
    selected = {
        name: [record.cells[position] if position < len(record.cells) else None for record in records]
        for position, name in enumerate(header.cells)
        if name in columns
    }
    return Table(header.cells, len(records), selected)


def _split_records(path: Path, lines: Sequence[str], delimiter: str) -> list[_Record]:
    """Splits lines into cells, as RFC 4180 does where its rules hold.

    A quote that opens a cell but is not closed before a delimiter or a line end is part of the text if the line by
    itself has the cells of a row. In TSV this also holds for quotes that are closed in a later line if all lines
    between them are rows by themselves, as texts hold no tabs.

    Raises:
        ValueError: If quotes are neither text nor enclose a cell, or may be both.
    """
    source = _Lines(lines)
    reader = csv.reader(source, delimiter=delimiter, strict=True)
    records: list[_Record] = []
    stray: list[int] = []
    spans: list[tuple[int, int]] = []
    while source.position < len(lines):
        start = source.position
        cells: list[str] | None
        try:
            cells = next(reader)
        except csv.Error:
            cells = None
        except StopIteration:
            break
        end = source.position
        expected = len(records[min(1, len(records) - 1)].cells) if records else 0
        if cells is None and expected and len(lines[start].split(delimiter)) != expected:
            raise ValueError(
                f"a double quote in line {start + 1} opens a cell and does not close it; write quotes inside of a "
                'quoted cell twice ("")'
            )
        spans_rows = end - start > 1 and all(len(line.split(delimiter)) == expected for line in lines[start:end])
        if cells is not None and spans_rows and delimiter != "\t" and end - start >= MIN_UNCLEAR:
            raise ValueError(
                f"lines {start + 1} to {end} are one cell between double quotes, and each of them is a row by itself; "
                "if quotes are part of a text, write them twice and put quotes around the text, otherwise save as JSONL"
            )
        if cells is None or (spans_rows and delimiter == "\t"):
            source.position = start + 1
            cells = lines[start].rstrip("\r\n").split(delimiter)
            stray.append(start + 1)
        elif end - start > 1:
            spans.append((start + 1, end))
        if len(cells) > 1 or "".join(cells).strip():
            records.append(_Record(start + 1, cells))
    if stray:
        progress.note_once(
            f"Double quotes that enclose no cell are read as text; lines of {path}: {len(stray):,}, the first is line "
            f"{stray[0]}."
        )
    if spans:
        first, last = max(spans, key=lambda span: span[1] - span[0])
        progress.note_once(
            f"Rows of {path} with quoted cells that span lines: {len(spans):,}, the longest from line {first} to "
            f"{last}."
        )
    return records


# JSON


def _read_json(path: Path, columns: Collection[str]) -> Table:
    """Reads an array of objects, or one object per line.

    Raises:
        DataError: If it is missing or in another encoding.
        ValueError: If it holds anything else.
    """
    text = read_text(path)
    if text.lstrip().startswith("["):
        rows = [(f"element {number}", row) for number, row in enumerate(parse_rows(text), 1)]
    else:
        rows = list(_json_lines(text))
    names: dict[str, None] = {}
    for source, row in rows:
        if not isinstance(row, dict):
            raise ValueError(f"{source} is {row!r:.40}, and no object with the columns of a row")
        names.update(dict.fromkeys(row))
    return Table(
        list(names), len(rows), {name: [row.get(name) for _, row in rows] for name in names if name in columns}
    )


def _json_lines(text: str) -> Iterator[tuple[str, Any]]:
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            yield f"line {number}", parse_rows(line)
        except ValueError as error:
            raise ValueError(
                f"line {number} is no JSON object ({first_line(error)}); write one object per line, or an array of them"
            ) from error


# other formats


def _read_parquet(path: Path, columns: Collection[str]) -> Table:
    import pyarrow.parquet as pq

    if not path.is_file():
        raise DataError(f"The data file {path} does not exist.")
    file = pq.ParquetFile(path)
    names = file.schema_arrow.names
    table = file.read([name for name in names if name in columns])
    return Table(names, len(table), {name: table[name].to_pylist() for name in table.column_names})


def _read_saved_dataset(path: Path, columns: Collection[str]) -> Table:
    from datasets import DatasetDict, load_from_disk

    try:
        data = load_from_disk(str(path))
    except Exception as error:  # broken folders end in a dozen unrelated types
        raise DataError(
            f"The dataset in the folder {path} cannot be read ({first_line(error)}); export it with to_parquet."
        ) from error
    if isinstance(data, DatasetDict):
        raise DataError(
            f"The folder {path} holds the parts {', '.join(map(str, data))} of a dataset; name one of them, such as "
            f"{path / str(next(iter(data)))}."
        )
    if len(data) == 0:
        raise DataError(f"{path} holds no rows.")
    names = list(data.column_names)
    return Table(names, len(data), {name: data[name][:] for name in names if name in columns})


_READERS: dict[str, Callable[[Path, Collection[str]], Table]] = {
    ".csv": lambda path, columns: _read_delimited(path, ",", columns),
    ".tsv": lambda path, columns: _read_delimited(path, "\t", columns),
    ".jsonl": _read_json,
    ".json": _read_json,
    ".parquet": _read_parquet,
}
